//! What an API server refuses (semantics 10.1, 10.3), with its paths and texts. Objects come defaulted.

mod container;
mod env;
mod error;
mod metadata;
pub(crate) mod names;
mod network;
mod objects;
mod pod;
mod probes;
mod ranges;
mod resize;
mod resources;
mod security;
mod update;
mod volumes;
mod warnings;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub use error::{Cause, ErrorKind, FieldError, Invalid};
pub use metadata::ANNOTATIONS_MAX;
pub use objects::DATA_MAX;
pub use resize::{static_pods_stay, validate_resize};
pub use update::{validate_ephemeral_containers, validate_update};
pub use warnings::warnings;

use crate::manifest::Object;
use error::{Errors, Path};

/// Checks a Pod that is to be created.
pub fn validate_pod(pod: &Pod) -> Result<(), Invalid> {
    let mut errors = Errors::default();
    metadata::metadata(&pod.metadata, true, names::subdomain, &mut errors);
    let path = Path::new("spec");
    match &pod.spec {
        None => errors.required(&path, ""),
        Some(spec) => {
            pod::spec(spec, &path, &mut errors);
            if spec.ephemeral_containers.as_ref().is_some_and(|containers| !containers.is_empty()) {
                errors.forbidden(&path.field("ephemeralContainers"), "cannot be set on create");
            }
        }
    }
    errors.done()
}

/// Checks whatever object it is, as it is to be created.
pub fn validate(object: &Object) -> Result<(), Invalid> {
    let mut errors = Errors::default();
    match object {
        Object::Pod(pod) => return validate_pod(pod),
        Object::ConfigMap(object) => objects::config_map(object, &mut errors),
        Object::Secret(object) => objects::secret(object, &mut errors),
        Object::Namespace(object) => objects::namespace(object, &mut errors),
        Object::PriorityClass(object) => objects::priority_class(object, &mut errors),
        Object::PersistentVolumeClaim(object) => objects::persistent_volume_claim(object, &mut errors),
        Object::Service(object) => objects::service(object, &mut errors),
        Object::LimitRange(object) => ranges::limit_range(object, &mut errors),
        Object::ServiceAccount(_) | Object::PersistentVolume(_) => {
            metadata::metadata(object.metadata(), object.is_namespaced(), names::subdomain, &mut errors);
        }
    }
    errors.done()
}

/// Checks a change of an object that is no Pod: some fields stay as they were.
pub fn validate_change(old: &Object, new: &Object) -> Result<(), Invalid> {
    let mut errors = Errors::default();
    match (old, new) {
        // What the system has stored itself is not refused to it.
        (Object::PriorityClass(old), Object::PriorityClass(new)) => objects::priority_change(old, new, &mut errors),
        (_, new) => return validate(new),
    }
    errors.done()
}

/// Checks the metadata of a kind that has no other rules here.
pub fn validate_metadata(metadata: &ObjectMeta, is_namespaced: bool) -> Result<(), Invalid> {
    let mut errors = Errors::default();
    metadata::metadata(metadata, is_namespaced, names::subdomain, &mut errors);
    errors.done()
}

#[cfg(test)]
mod tests;
