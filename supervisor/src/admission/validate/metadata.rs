//! Metadata of any object (VA1, VA2).

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::error::{Errors, Path};
use super::names;

/// Bytes of all annotations together (VA2).
pub const ANNOTATIONS_MAX: usize = 262_144;

/// How the names of a kind look.
pub(super) type NameCheck = fn(&str) -> Vec<String>;

/// Checks the metadata of an object whose namespace, if it has one, was defaulted.
pub(super) fn metadata(meta: &ObjectMeta, is_namespaced: bool, check: NameCheck, errors: &mut Errors) {
    let path = Path::new("metadata");
    let name = meta.name.as_deref().unwrap_or_default();
    let prefix = meta.generate_name.as_deref().unwrap_or_default();
    if !prefix.is_empty() {
        // The random end makes it a name; a prefix may end in '-' or '.'.
        errors.invalid_all(&path.field("generateName"), prefix, check(&format!("{prefix}x")));
    }
    if !name.is_empty() {
        errors.invalid_all(&path.field("name"), name, check(name));
    } else if prefix.is_empty() {
        errors.required(&path.field("name"), "name or generateName is required");
    }
    namespace(meta, is_namespaced, &path, errors);
    notes(meta, &path, errors);
    owners(meta.owner_references.as_deref().unwrap_or_default(), &path.field("ownerReferences"), errors);
    for (index, finalizer) in meta.finalizers.iter().flatten().enumerate() {
        errors.invalid_all(&path.field("finalizers").index(index), finalizer, names::qualified(finalizer));
    }
}

/// What somebody wrote on it.
pub(super) fn notes(meta: &ObjectMeta, path: &Path, errors: &mut Errors) {
    labels(meta.labels.as_ref(), &path.field("labels"), errors);
    annotations(meta.annotations.as_ref(), &path.field("annotations"), errors);
}

/// Each owner is named in full, and one of them at most is in charge.
fn owners(owners: &[OwnerReference], path: &Path, errors: &mut Errors) {
    let mut first = None;
    for owner in owners {
        let version = match owner.api_version.split('/').collect::<Vec<_>>().as_slice() {
            [version] | [_, version] => *version,
            [] | [_, _, _, ..] => "",
        };
        if version.is_empty() {
            errors.invalid(&path.field("apiVersion"), owner.api_version.as_str(), "version must not be empty");
        }
        for (field, value) in [("kind", &owner.kind), ("name", &owner.name), ("uid", &owner.uid)] {
            if value.is_empty() {
                errors.invalid(&path.field(field), value.as_str(), "must not be empty");
            }
        }
        if owner.controller != Some(true) {
            continue;
        }
        let own = format!("{}/{}", owner.kind, owner.name);
        match &first {
            None => first = Some(own),
            Some(first) => {
                let detail = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {own}"
                );
                errors.invalid(path, serde_json::json!(owners), detail);
            }
        }
    }
}

fn namespace(meta: &ObjectMeta, is_namespaced: bool, path: &Path, errors: &mut Errors) {
    let path = path.field("namespace");
    match (meta.namespace.as_deref().unwrap_or_default(), is_namespaced) {
        ("", true) => errors.required(&path, ""),
        (namespace, true) => errors.invalid_all(&path, namespace, names::label(namespace)),
        ("", false) => {}
        (_, false) => errors.forbidden(&path, "not allowed on this type"),
    }
}

/// Labels, and whatever else has their syntax (`nodeSelector`).
pub(super) fn labels(labels: Option<&BTreeMap<String, String>>, path: &Path, errors: &mut Errors) {
    for (key, value) in labels.into_iter().flatten() {
        errors.invalid_all(path, key, names::qualified(key));
        errors.invalid_all(path, value, names::label_value(value));
    }
}

fn annotations(annotations: Option<&BTreeMap<String, String>>, path: &Path, errors: &mut Errors) {
    let mut size = 0;
    for (key, value) in annotations.into_iter().flatten() {
        // Capitals were allowed in prefixes of annotations from the start.
        errors.invalid_all(path, key, names::qualified(&key.to_ascii_lowercase()));
        size += key.len() + value.len();
    }
    if size > ANNOTATIONS_MAX {
        errors.too_long(path, ANNOTATIONS_MAX);
    }
}
