//! Defaults that the API server fills in (semantics 10.2). Applying them twice changes nothing.

mod inject;
mod objects;
mod pod;

pub use inject::{
    BUILT_IN, CRITICAL, NODE_CRITICAL, PriorityError, ServiceAccountError, TokenVolume, add_tolerations, inject_token,
    set_priority, set_service_account,
};
pub use objects::{
    config_map, endpoint_slice, endpoints, limit_range, namespace, persistent_volume, persistent_volume_claim,
    pod_template, priority_class, secret, service, storage_class,
};
pub use pod::{image_pull_policy, pod, pod_spec};

use cgroupd::Quantity as Amount;

use crate::manifest::Object;

/// Rounds a quantity of a resource list up to milli and writes it canonically, as the API server stores it (QT3, QT4).
/// What is no quantity is left as it is: validation reports it.
fn normalised(text: &str) -> String {
    text.parse::<Amount>().map_or_else(|_| text.to_owned(), |amount| amount.rounded_to_milli().to_string())
}

/// The defaults of whatever object it is, the namespace (`default` unless given) among them.
pub fn object(object: &mut Object) {
    let is_namespaced = object.is_namespaced();
    let metadata = match object {
        Object::Pod(value) => {
            pod(value);
            &mut value.metadata
        }
        Object::ConfigMap(value) => {
            config_map(value);
            &mut value.metadata
        }
        Object::Secret(value) => {
            secret(value);
            &mut value.metadata
        }
        Object::Namespace(value) => {
            namespace(value);
            &mut value.metadata
        }
        Object::PersistentVolumeClaim(value) => {
            persistent_volume_claim(value);
            &mut value.metadata
        }
        Object::PriorityClass(value) => {
            priority_class(value);
            &mut value.metadata
        }
        Object::Service(value) => {
            service(value);
            &mut value.metadata
        }
        Object::ServiceAccount(value) => &mut value.metadata,
        Object::PersistentVolume(value) => {
            persistent_volume(value);
            &mut value.metadata
        }
        Object::LimitRange(value) => {
            limit_range(value);
            &mut value.metadata
        }
    };
    if is_namespaced {
        set_text(&mut metadata.namespace, "default");
    }
}

/// Sets what is absent or empty: in the API an empty string is an absent one.
fn set_text(field: &mut Option<String>, default: &str) {
    if field.as_deref().unwrap_or_default().is_empty() {
        *field = Some(default.to_owned());
    }
}

/// Sets a number that is absent or zero.
fn set_number(field: &mut Option<i32>, default: i32) {
    if field.unwrap_or_default() == 0 {
        *field = Some(default);
    }
}

#[cfg(test)]
mod tests;
