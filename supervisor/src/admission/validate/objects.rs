//! What Pods refer to, as far as the node needs it to be right.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, PersistentVolumeClaim, Secret, Service};
use k8s_openapi::api::scheduling::v1::PriorityClass;

use super::error::{Errors, IMMUTABLE, Path};
use super::probes::invalid_port;
use super::{metadata, names, resources};

/// Bytes of the values of one ConfigMap or Secret.
pub const DATA_MAX: usize = 1024 * 1024;
/// The largest priority that a user may give.
const PRIORITY_MAX: i32 = 1_000_000_000;
pub(super) const ACCESS_MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
pub(super) const VOLUME_MODES: &[&str] = &["Block", "Filesystem"];
/// The levels of the Pod Security Standards.
const LEVELS: &str = "must be one of privileged, baseline, restricted";

fn keys<'a>(keys: impl Iterator<Item = (&'a String, usize)>, path: &Path, errors: &mut Errors) -> usize {
    let mut size = 0;
    for (key, length) in keys {
        errors.invalid_all(&path.key(key), key, names::data_key(key));
        size += length;
    }
    size
}

pub(super) fn config_map(object: &ConfigMap, errors: &mut Errors) {
    metadata::metadata(&object.metadata, true, names::subdomain, errors);
    let texts = object.data.iter().flatten().map(|(key, text)| (key, text.len()));
    let bytes = object.binary_data.iter().flatten().map(|(key, bytes)| (key, bytes.0.len()));
    let size = keys(texts, &Path::new("data"), errors) + keys(bytes, &Path::new("binaryData"), errors);
    let both = object.binary_data.iter().flatten().map(|(key, _)| key);
    for key in both.filter(|key| object.data.as_ref().is_some_and(|data| data.contains_key(*key))) {
        errors.invalid(&Path::new("data").key(key), key.as_str(), "duplicate of key present in binaryData");
    }
    if size > DATA_MAX {
        errors.too_long(&Path::new(""), DATA_MAX);
    }
}

pub(super) fn secret(object: &Secret, errors: &mut Errors) {
    metadata::metadata(&object.metadata, true, names::subdomain, errors);
    let values = object.data.iter().flatten().map(|(key, bytes)| (key, bytes.0.len()));
    let path = Path::new("data");
    if keys(values, &path, errors) > DATA_MAX {
        errors.too_long(&path, DATA_MAX);
    }
    let needed: &[&str] = match object.type_.as_deref() {
        Some("kubernetes.io/dockerconfigjson") => &[".dockerconfigjson"],
        Some("kubernetes.io/dockercfg") => &[".dockercfg"],
        Some("kubernetes.io/tls") => &["tls.crt", "tls.key"],
        Some("kubernetes.io/ssh-auth") => &["ssh-privatekey"],
        Some(_) | None => &[],
    };
    for key in needed {
        let Some(value) = object.data.as_ref().and_then(|data| data.get(*key)) else {
            errors.required(&path.key(key), "");
            continue;
        };
        let is_json = !key.starts_with(".docker") || serde_json::from_slice::<serde::de::IgnoredAny>(&value.0).is_ok();
        if !is_json {
            errors.invalid(&path.key(key), "<secret contents redacted>", "must be a JSON object");
        }
    }
}

pub(super) fn namespace(object: &Namespace, errors: &mut Errors) {
    metadata::metadata(&object.metadata, false, names::label, errors);
    let path = Path::new("metadata").field("labels");
    for mode in ["enforce", "audit", "warn"] {
        let label = format!("pod-security.kubernetes.io/{mode}");
        let Some(labels) = &object.metadata.labels else {
            continue;
        };
        if let Some(level) = labels.get(&label)
            && !matches!(level.as_str(), "privileged" | "baseline" | "restricted")
        {
            errors.invalid(&path.key(&label), level.as_str(), LEVELS);
        }
        let label = format!("{label}-version");
        if let Some(version) = labels.get(&label)
            && crate::admission::pss::Version::parse(version).is_none()
        {
            errors.invalid(&path.key(&label), version.as_str(), "must be \"latest\" or \"v1.x\"");
        }
    }
}

pub(super) fn persistent_volume_claim(object: &PersistentVolumeClaim, errors: &mut Errors) {
    metadata::metadata(&object.metadata, true, names::subdomain, errors);
    let path = Path::new("spec");
    let Some(spec) = &object.spec else {
        return errors.required(&path, "");
    };
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    if modes.is_empty() {
        errors.required(&path.field("accessModes"), "at least 1 access mode is required");
    }
    for mode in modes {
        errors.one_of(&path.field("accessModes"), Some(mode), ACCESS_MODES);
    }
    let storage_path = path.field("resources").key("storage");
    match spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()?.get("storage")) {
        None => errors.required(&storage_path, ""),
        Some(quantity) => {
            if resources::amount(quantity, &storage_path, errors).is_some_and(|amount| amount.is_zero()) {
                errors.invalid(&storage_path, quantity.0.as_str(), "must be greater than zero");
            }
        }
    }
    errors.one_of(&path.field("volumeMode"), spec.volume_mode.as_ref(), VOLUME_MODES);
    if let Some(class) = spec.storage_class_name.as_deref().filter(|name| !name.is_empty()) {
        errors.invalid_all(&path.field("storageClassName"), class, names::subdomain(class));
    }
}

pub(super) fn priority_class(object: &PriorityClass, errors: &mut Errors) {
    metadata::metadata(&object.metadata, false, names::subdomain, errors);
    let name = object.metadata.name.as_deref().unwrap_or_default();
    if name.starts_with("system-") {
        let detail = "priority class names with 'system-' prefix are reserved for system use only";
        errors.forbidden(&Path::new("metadata").field("name"), detail);
    } else if object.value.unwrap_or_default() > PRIORITY_MAX {
        errors.forbidden(
            &Path::new("value"),
            format!("maximum allowed value of a user defined priority is {PRIORITY_MAX}"),
        );
    }
    let policy = object.preemption_policy.as_ref();
    errors.one_of(&Path::new("preemptionPolicy"), policy, &["PreemptLowerPriority", "Never"]);
}

pub(super) fn priority_change(old: &PriorityClass, new: &PriorityClass, errors: &mut Errors) {
    metadata::metadata(&new.metadata, false, names::subdomain, errors);
    if old.value.unwrap_or_default() != new.value.unwrap_or_default() {
        errors.forbidden(&Path::new("value"), "may not be changed in an update.");
    }
    if old.preemption_policy != new.preemption_policy {
        errors.invalid(&Path::new("preemptionPolicy"), new.preemption_policy.as_deref(), IMMUTABLE);
    }
}

pub(super) fn service(object: &Service, errors: &mut Errors) {
    metadata::metadata(&object.metadata, true, names::label_1035, errors);
    let path = Path::new("spec");
    let Some(spec) = &object.spec else {
        return errors.required(&path, "");
    };
    let kind = spec.type_.as_deref().unwrap_or_default();
    errors.one_of(&path.field("type"), spec.type_.as_ref(), &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]);
    errors.one_of(&path.field("sessionAffinity"), spec.session_affinity.as_ref(), &["ClientIP", "None"]);
    let ports = spec.ports.as_deref().unwrap_or_default();
    let is_headless = spec.cluster_ip.as_deref() == Some("None");
    if ports.is_empty() && !is_headless && kind != "ExternalName" {
        errors.required(&path.field("ports"), "");
    }
    metadata::labels(spec.selector.as_ref(), &path.field("selector"), errors);
    if kind == "ExternalName" {
        let name = spec.external_name.as_deref().unwrap_or_default().trim_end_matches('.');
        errors.invalid_all(&path.field("externalName"), name, names::subdomain(name));
    }
    let (mut seen_names, mut seen_ports) = (BTreeSet::new(), BTreeMap::new());
    for (index, port) in ports.iter().enumerate() {
        let at = path.field("ports").index(index);
        let name = port.name.as_deref().unwrap_or_default();
        if name.is_empty() && ports.len() > 1 {
            errors.required(&at.field("name"), "");
        } else if !name.is_empty() {
            errors.invalid_all(&at.field("name"), name, names::label(name));
            if !seen_names.insert(name) {
                errors.duplicate(&at.field("name"), name);
            }
        }
        invalid_port(port.port, &at.field("port"), errors);
        errors.one_of(&at.field("protocol"), port.protocol.as_ref(), &["SCTP", "TCP", "UDP"]);
        if seen_ports.insert((port.port, &port.protocol), index).is_some() {
            let protocol = port.protocol.as_deref().unwrap_or_default();
            errors.duplicate(&at, serde_json::json!({"port": port.port, "protocol": protocol}));
        }
    }
}
