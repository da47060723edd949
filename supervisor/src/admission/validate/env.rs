//! Environment variables (EN4, EN10, RF1).

use cgroupd::Quantity as Amount;
use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, ObjectFieldSelector, PodSpec, ResourceFieldSelector};

use super::error::{Errors, Path};
use super::names;

/// Fields of a Pod that an environment variable may name.
const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// Fields of a Pod that a file of a volume may name.
pub(super) const VOLUME_FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
/// Fields that exist but are offered by neither.
const OTHER_FIELDS: &[&str] = &["spec.hostNetwork", "spec.restartPolicy", "spec.schedulerName", "status.phase"];

const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

pub(super) fn variables(env: &[EnvVar], spec: &PodSpec, path: &Path, errors: &mut Errors) {
    for (index, variable) in env.iter().enumerate() {
        let path = path.index(index);
        if variable.name.is_empty() {
            errors.required(&path.field("name"), "");
        } else {
            errors.invalid_all(&path.field("name"), &variable.name, names::env_name(&variable.name));
        }
        if variable.value.as_deref().is_some_and(|value| value.contains('\0')) {
            errors.invalid(&path.field("value"), "", "must not contain NUL");
        }
        value_from(variable, spec, &path.field("valueFrom"), errors);
    }
}

/// EN10
fn value_from(variable: &EnvVar, spec: &PodSpec, path: &Path, errors: &mut Errors) {
    let Some(source) = &variable.value_from else {
        return;
    };
    let mut count = 0;
    if let Some(field) = &source.field_ref {
        count += 1;
        field_ref(field, ENV_FIELDS, &path.field("fieldRef"), errors);
    }
    if let Some(resource) = &source.resource_field_ref {
        count += 1;
        resource_field_ref(resource, &path.field("resourceFieldRef"), errors);
    }
    if let Some(key) = &source.config_map_key_ref {
        count += 1;
        key_ref(&key.name, &key.key, &path.field("configMapKeyRef"), errors);
    }
    if let Some(key) = &source.secret_key_ref {
        count += 1;
        key_ref(&key.name, &key.key, &path.field("secretKeyRef"), errors);
    }
    if let Some(file) = &source.file_key_ref {
        count += 1;
        let path = path.field("fileKeyRef");
        errors.invalid_all(&path.field("key"), &file.key, names::env_name(&file.key));
        let volume = spec.volumes.iter().flatten().find(|volume| volume.name == file.volume_name);
        match volume {
            None => errors.not_found(&path.field("volumeName"), &file.volume_name),
            Some(volume) if volume.empty_dir.is_none() => {
                errors.invalid(
                    &path.field("volumeName"),
                    file.volume_name.as_str(),
                    "referenced volume must be of type emptyDir",
                );
            }
            Some(_) => {}
        }
        super::volumes::relative_path(&file.path, &path.field("path"), errors);
    }
    let is_empty = variable.value.as_deref().unwrap_or_default().is_empty();
    if count == 0 {
        let detail =
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
        errors.invalid(path, "", detail);
    } else if !is_empty {
        errors.invalid(path, "", "may not be specified when `value` is not empty");
    } else if count > 1 {
        errors.invalid(path, "", "may not have more than one field specified at a time");
    }
}

fn key_ref(name: &str, key: &str, path: &Path, errors: &mut Errors) {
    if name.is_empty() {
        errors.required(&path.field("name"), "");
    }
    if key.is_empty() {
        errors.required(&path.field("key"), "");
    } else {
        errors.invalid_all(&path.field("key"), key, names::data_key(key));
    }
}

pub(super) fn field_ref(field: &ObjectFieldSelector, supported: &[&str], path: &Path, errors: &mut Errors) {
    let version = field.api_version.as_deref().unwrap_or_default();
    if version.is_empty() {
        return errors.required(&path.field("apiVersion"), "");
    }
    let at = path.field("fieldPath");
    let text = field.field_path.as_str();
    if text.is_empty() {
        return errors.required(&at, "");
    }
    if version != "v1" {
        let detail = format!("unsupported pod version: {version}");
        return errors.invalid(&at, text, format!("error converting fieldPath: {detail}"));
    }
    let text = if text == "spec.host" { "spec.nodeName" } else { text };
    if let Some((base, key)) = subscript(text) {
        match base {
            "metadata.labels" => errors.invalid_all(&at, key, names::qualified(key)),
            "metadata.annotations" => errors.invalid_all(&at, key, names::qualified(&key.to_ascii_lowercase())),
            _ => errors.invalid(
                &at,
                text,
                format!("error converting fieldPath: field label does not support subscript: {text}"),
            ),
        }
    } else if supported.contains(&text) {
    } else if [ENV_FIELDS, VOLUME_FIELDS, OTHER_FIELDS].iter().any(|list| list.contains(&text)) {
        errors.not_supported(&at, text, supported);
    } else {
        errors.invalid(&at, text, format!("error converting fieldPath: field label not supported: {text}"));
    }
}

/// `metadata.labels['k']` -> (`metadata.labels`, `k`)
fn subscript(text: &str) -> Option<(&str, &str)> {
    let (base, rest) = text.split_once("['")?;
    Some((base, rest.strip_suffix("']")?))
}

pub(super) fn resource_field_ref(field: &ResourceFieldSelector, path: &Path, errors: &mut Errors) {
    let resource = field.resource.as_str();
    let is_huge = resource.starts_with("limits.hugepages-") || resource.starts_with("requests.hugepages-");
    if resource.is_empty() {
        errors.required(&path.field("resource"), "");
    } else if !is_huge && !RESOURCES.contains(&resource) {
        errors.not_supported(&path.field("resource"), resource, RESOURCES);
    }
    let Some(divisor) = &field.divisor else {
        return;
    };
    let allowed: &[&str] = if resource.ends_with(".cpu") {
        &["1m", "1"]
    } else {
        &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"]
    };
    let given = divisor.0.parse::<Amount>();
    let is_allowed = |text: &&str| text.parse::<Amount>() == given;
    if !given.is_ok_and(Amount::is_zero) && !allowed.iter().any(is_allowed) {
        let detail = if resource.ends_with(".cpu") {
            "only divisor's values 1m and 1 are supported with the cpu resource"
        } else {
            "only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with this resource"
        };
        errors.invalid(&path.field("divisor"), divisor.0.as_str(), detail);
    }
}

pub(super) fn env_from(sources: &[EnvFromSource], path: &Path, errors: &mut Errors) {
    for (index, source) in sources.iter().enumerate() {
        let path = path.index(index);
        if let Some(prefix) = source.prefix.as_deref().filter(|prefix| !prefix.is_empty()) {
            errors.invalid_all(&path.field("prefix"), prefix, names::env_name(prefix));
        }
        let sources = [
            ("configMapRef", source.config_map_ref.as_ref().map(|reference| &reference.name)),
            ("secretRef", source.secret_ref.as_ref().map(|reference| &reference.name)),
        ];
        let given: Vec<_> = sources.into_iter().filter_map(|(field, name)| Some((field, name?))).collect();
        for (field, name) in &given {
            if name.is_empty() {
                errors.required(&path.field(field).field("name"), "");
            } else {
                errors.invalid_all(&path.field(field).field("name"), name, names::subdomain(name));
            }
        }
        match given.len() {
            0 => errors.invalid(&path, "", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => errors.invalid(&path, "", "may not have more than one field specified at a time"),
        }
    }
}
