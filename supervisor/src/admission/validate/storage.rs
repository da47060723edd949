//! Volumes and claims: what a volume is made of, and what of both stays as it was.

use cgroupd::Quantity as Amount;
use k8s_openapi::api::core::v1::{
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec, PersistentVolumeSpec,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::{Map, Value, json};

use super::error::{Errors, IMMUTABLE, Path};
use super::objects::{ACCESS_MODES, VOLUME_MODES};
use super::{metadata, names, resources};

/// Fields of a persistent volume that are not what it is made of.
pub const NOT_A_SOURCE: &[&str] = &[
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];
const CLAIM_IMMUTABLE: &str =
    "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";

pub(super) fn volume(object: &PersistentVolume, errors: &mut Errors) {
    metadata::metadata(&object.metadata, false, names::subdomain, errors);
    let path = Path::new("spec");
    let spec = object.spec.clone().unwrap_or_default();
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    if modes.is_empty() {
        errors.required(&path.field("accessModes"), "");
    }
    for mode in modes {
        errors.one_of(&path.field("accessModes"), Some(mode), ACCESS_MODES);
    }
    capacity(&spec, &path.field("capacity"), errors);
    let policy = path.field("persistentVolumeReclaimPolicy");
    errors.one_of(&policy, spec.persistent_volume_reclaim_policy.as_ref(), &["Delete", "Recycle", "Retain"]);
    errors.one_of(&path.field("volumeMode"), spec.volume_mode.as_ref(), VOLUME_MODES);
    if let Some(class) = spec.storage_class_name.as_deref().filter(|name| !name.is_empty()) {
        errors.invalid_all(&path.field("storageClassName"), class, names::subdomain(class));
    }
    let source = source(&spec);
    if source.is_empty() {
        errors.required(&path, "must specify a volume type");
    }
    for name in source.keys().skip(1) {
        errors.forbidden(&path.field(name), "may not specify more than 1 volume type");
    }
    let needed = [
        ("hostPath", spec.host_path.as_ref().map(|source| &source.path)),
        ("local", spec.local.as_ref().map(|source| &source.path)),
    ];
    for (kind, place) in needed {
        if place.is_some_and(String::is_empty) {
            errors.required(&path.field(kind).field("path"), "");
        }
    }
    if spec.local.is_some() && spec.node_affinity.as_ref().is_none_or(|affinity| affinity.required.is_none()) {
        errors.required(&path.field("nodeAffinity"), "Local volume requires node affinity");
    }
}

fn capacity(spec: &PersistentVolumeSpec, path: &Path, errors: &mut Errors) {
    let Some(amounts) = spec.capacity.as_ref().filter(|amounts| !amounts.is_empty()) else {
        return errors.required(path, "");
    };
    if !amounts.contains_key("storage") || amounts.len() > 1 {
        errors.not_supported(path, &json!(amounts).to_string(), &["storage"]);
    }
    for (name, quantity) in amounts {
        let at = path.key(name);
        if resources::amount(quantity, &at, errors).is_some_and(|amount| amount.is_zero()) {
            errors.invalid(&at, quantity.0.as_str(), "must be greater than zero");
        }
    }
}

/// What a volume is made of: one entry, when it is right.
fn source(spec: &PersistentVolumeSpec) -> Map<String, Value> {
    let Value::Object(mut fields) = json!(spec) else { return Map::new() };
    NOT_A_SOURCE.iter().for_each(|name| drop(fields.remove(*name)));
    fields
}

pub(super) fn volume_change(old: &PersistentVolume, new: &PersistentVolume, errors: &mut Errors) {
    volume(new, errors);
    let (before, after) = (old.spec.clone().unwrap_or_default(), new.spec.clone().unwrap_or_default());
    let path = Path::new("spec");
    let (was, is) = (source(&before), source(&after));
    if was != is {
        let (was, is) = (Value::from(was), Value::from(is));
        let detail = format!("spec.persistentvolumesource is immutable after creation\n- {was}\n+ {is}\n");
        errors.forbidden(&path.field("persistentvolumesource"), detail);
    }
    if before.volume_mode != after.volume_mode {
        errors.invalid(&path.field("volumeMode"), after.volume_mode.as_deref(), IMMUTABLE);
    }
}

/// A claim that is given something later: a volume and a class once each, and more room while it is bound.
pub(super) fn claim_change(old: &PersistentVolumeClaim, new: &PersistentVolumeClaim, errors: &mut Errors) {
    let (before, after) = (old.spec.clone().unwrap_or_default(), new.spec.clone().unwrap_or_default());
    let status = old.status.clone().unwrap_or_default();
    let mut allowed = after.clone();
    if before.volume_name.as_deref().unwrap_or_default().is_empty() {
        allowed.volume_name.clone_from(&before.volume_name);
    }
    if before.storage_class_name.is_none() {
        allowed.storage_class_name = None;
    }
    let asked = |spec: &PersistentVolumeClaimSpec| -> Option<Quantity> {
        spec.resources.as_ref()?.requests.as_ref()?.get("storage").cloned()
    };
    if status.phase.as_deref() == Some("Bound") {
        allowed.volume_attributes_class_name.clone_from(&before.volume_attributes_class_name);
        if let Some(requests) = allowed.resources.as_mut().and_then(|resources| resources.requests.as_mut()) {
            requests.extend(asked(&before).map(|amount| ("storage".to_owned(), amount)));
        }
    }
    let path = Path::new("spec");
    if allowed != before {
        errors.forbidden(&path, format!("{CLAIM_IMMUTABLE}\n- {}\n+ {}\n", json!(before), json!(allowed)));
    }
    let amount = |quantity: Option<&Quantity>| quantity.and_then(|quantity| quantity.0.parse::<Amount>().ok());
    let (was, is) = (amount(asked(&before).as_ref()), amount(asked(&after).as_ref()));
    let has = amount(status.capacity.as_ref().and_then(|amounts| amounts.get("storage")));
    if is < was && is <= has.or(was) {
        let at = path.field("resources").field("requests").field("storage");
        errors.forbidden(&at, "field can not be less than status.capacity");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of<T: serde::de::DeserializeOwned>(value: &Value) -> T {
        serde_json::from_value(value.clone()).unwrap()
    }

    fn shown(check: impl FnOnce(&mut Errors)) -> String {
        let mut errors = Errors::default();
        check(&mut errors);
        errors.done().err().map(|invalid| invalid.to_string()).unwrap_or_default()
    }

    fn with(full: &Value, field: &str, value: Value) -> Value {
        let mut changed = full.clone();
        changed["spec"][field] = value;
        changed
    }

    #[test]
    fn a_volume_has_a_size_modes_and_one_source_that_stays() {
        let full = json!({"metadata": {"name": "v"}, "spec": {"accessModes": ["ReadWriteOnce"],
            "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/data"}}});
        assert_eq!(shown(|errors| volume(&of(&full), errors)), "");
        for (field, value, expected) in [
            ("accessModes", Value::Null, "spec.accessModes: Required value"),
            ("capacity", Value::Null, "spec.capacity: Required value"),
            ("hostPath", Value::Null, "spec: Required value: must specify a volume type"),
            (
                "nfs",
                json!({"path": "/", "server": "s"}),
                "spec.nfs: Forbidden: may not specify more than 1 volume type",
            ),
        ] {
            assert_eq!(shown(|errors| volume(&of(&with(&full, field, value)), errors)), expected);
        }
        let moved = with(&full, "hostPath", json!({"path": "/other"}));
        let message = shown(|errors| volume_change(&of(&full), &of(&moved), errors));
        let start = "spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation\n";
        assert!(message.starts_with(start), "{message}");
        let kept = with(&full, "persistentVolumeReclaimPolicy", json!("Retain"));
        assert_eq!(shown(|errors| volume_change(&of(&full), &of(&kept), errors)), "");
    }

    #[test]
    fn a_claim_may_only_grow_once_it_is_bound() {
        let full = json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}},
            "status": {"phase": "Bound", "capacity": {"storage": "2Gi"}}});
        let size = |amount: &str| json!({"requests": {"storage": amount}});
        let message = |changed: &Value| shown(|errors| claim_change(&of(&full), &of(changed), errors));
        let refused = message(&with(&full, "accessModes", json!(["ReadWriteMany"])));
        assert!(refused.starts_with(&format!("spec: Forbidden: {CLAIM_IMMUTABLE}\n")), "{refused}");
        let expected = "spec.resources.requests.storage: Forbidden: field can not be less than status.capacity";
        assert_eq!(message(&with(&full, "resources", size("1Gi"))), expected);
        assert_eq!(message(&with(&full, "resources", size("3Gi"))), "");
        assert_eq!(message(&with(&full, "volumeName", json!("v"))), "");
        let mut pending = full.clone();
        pending["status"] = json!({"phase": "Pending"});
        let grown = with(&pending, "resources", size("3Gi"));
        assert!(!shown(|errors| claim_change(&of(&pending), &of(&grown), errors)).is_empty());
    }
}
