//! What an API server refuses (semantics 10.1, 10.3), with its paths and texts. Objects come defaulted.

mod classes;
mod container;
mod endpoints;
mod env;
mod error;
mod events;
mod metadata;
pub(crate) mod names;
mod network;
mod objects;
mod placement;
mod pod;
mod probes;
mod quotas;
mod ranges;
mod resize;
mod resources;
mod security;
mod storage;
mod update;
mod volumes;
mod warnings;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Endpoints, Event, Node, Pod, PodTemplate, ResourceQuota};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub use error::{Cause, ErrorKind, FieldError, Invalid};
pub use metadata::ANNOTATIONS_MAX;
pub use objects::DATA_MAX;
pub use resize::{static_pods_stay, validate_resize};
pub use storage::NOT_A_SOURCE;
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
        Object::PersistentVolume(object) => storage::volume(object, &mut errors),
        Object::ServiceAccount(_) => {
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
        (Object::PersistentVolume(old), Object::PersistentVolume(new)) => storage::volume_change(old, new, &mut errors),
        (Object::PersistentVolumeClaim(old), Object::PersistentVolumeClaim(new)) => {
            objects::persistent_volume_claim(new, &mut errors);
            storage::claim_change(old, new, &mut errors);
        }
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

/// Checks a quota, beside its metadata.
pub fn validate_quota(old: Option<&ResourceQuota>, new: &ResourceQuota) -> Result<(), Invalid> {
    checked(|errors| quotas::quota(old, new, errors))
}

/// Checks a class of runtimes, beside its metadata.
pub fn validate_runtime_class(old: Option<&RuntimeClass>, new: &RuntimeClass) -> Result<(), Invalid> {
    checked(|errors| classes::runtime(old, new, errors))
}

/// Checks a class of storage, beside its metadata; it comes defaulted.
pub fn validate_storage_class(old: Option<&StorageClass>, new: &StorageClass) -> Result<(), Invalid> {
    checked(|errors| classes::storage(old, new, errors))
}

/// Checks endpoints, beside their metadata; they come defaulted.
pub fn validate_endpoints(_: Option<&Endpoints>, new: &Endpoints) -> Result<(), Invalid> {
    checked(|errors| endpoints::endpoints(new, errors))
}

/// Checks a slice of endpoints, beside its metadata; it comes defaulted.
pub fn validate_endpoint_slice(old: Option<&EndpointSlice>, new: &EndpointSlice) -> Result<(), Invalid> {
    checked(|errors| endpoints::slice(old, new, errors))
}

/// Checks a core event.
pub fn validate_event(_: Option<&Event>, new: &Event) -> Result<(), Invalid> {
    checked(|errors| events::event(new, events::CORE_REPORTER, errors))
}

/// Checks an event of `events.k8s.io`, as it is stored.
pub fn validate_viewed_event(old: Option<&Event>, new: &Event) -> Result<(), Invalid> {
    checked(|errors| events::viewed(old, new, errors))
}

/// Checks a template of pods, beside its metadata; it comes defaulted.
pub fn validate_pod_template(_: Option<&PodTemplate>, new: &PodTemplate) -> Result<(), Invalid> {
    checked(|errors| {
        let path = Path::new("template");
        let template = new.template.clone().unwrap_or_default();
        let own = template.metadata.unwrap_or_default();
        metadata::notes(&own, &path.field("metadata"), errors);
        let spec = template.spec.unwrap_or_default();
        pod::spec(&spec, &path.field("spec"), errors);
        if spec.ephemeral_containers.is_some_and(|containers| !containers.is_empty()) {
            let at = path.field("spec").field("ephemeralContainers");
            errors.forbidden(&at, "ephemeral containers not allowed in pod template");
        }
    })
}

/// Checks a lease, beside its metadata.
pub fn validate_lease(_: Option<&Lease>, new: &Lease) -> Result<(), Invalid> {
    checked(|errors| {
        let path = Path::new("spec");
        let Some(spec) = &new.spec else { return };
        if let Some(seconds) = spec.lease_duration_seconds.filter(|seconds| *seconds <= 0) {
            errors.invalid(&path.field("leaseDurationSeconds"), seconds, "must be greater than 0");
        }
        errors.not_negative(&path.field("leaseTransitions"), spec.lease_transitions.map(i64::from));
    })
}

/// Checks what may be written of a node, beside its metadata.
pub fn validate_node(_: Option<&Node>, new: &Node) -> Result<(), Invalid> {
    let taints = new.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    checked(|errors| placement::taints(taints, &Path::new("spec").field("taints"), errors))
}

fn checked(check: impl FnOnce(&mut Errors)) -> Result<(), Invalid> {
    let mut errors = Errors::default();
    check(&mut errors);
    errors.done()
}

#[cfg(test)]
mod tests;
