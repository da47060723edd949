//! Kinds that clients alone write: their defaults and what must hold for them.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::super::registry::Resource;
use super::super::status::Status;
use super::{json, typed};
use crate::admission::defaults;
use crate::admission::validate::{self, Invalid};

/// The object with the defaults of its kind.
pub(super) fn defaulted(resource: &Resource, value: Value) -> Result<Value, Status> {
    match (resource.group, resource.plural) {
        ("", "endpoints") => set(value, defaults::endpoints),
        ("", "podtemplates") => set(value, defaults::pod_template),
        ("discovery.k8s.io", "endpointslices") => set(value, defaults::endpoint_slice),
        ("storage.k8s.io", "storageclasses") => set(value, defaults::storage_class),
        _ => Ok(value),
    }
}

fn set<T: DeserializeOwned + Serialize>(value: Value, defaults: fn(&mut T)) -> Result<Value, Status> {
    let mut object: T = typed(&value)?;
    defaults(&mut object);
    json(&object)
}

/// What is wrong with an object, or with what it becomes; its metadata aside.
pub(super) fn check(resource: &Resource, old: Option<&Value>, new: &Value) -> Result<Result<(), Invalid>, Status> {
    match (resource.group, resource.plural) {
        ("", "endpoints") => of(old, new, validate::validate_endpoints),
        ("", "events") => of(old, new, validate::validate_event),
        ("", "nodes") => of(old, new, validate::validate_node),
        ("", "podtemplates") => of(old, new, validate::validate_pod_template),
        ("", "resourcequotas") => of(old, new, validate::validate_quota),
        ("coordination.k8s.io", "leases") => of(old, new, validate::validate_lease),
        ("discovery.k8s.io", "endpointslices") => of(old, new, validate::validate_endpoint_slice),
        ("events.k8s.io", "events") => of(old, new, validate::validate_viewed_event),
        ("node.k8s.io", "runtimeclasses") => of(old, new, validate::validate_runtime_class),
        ("storage.k8s.io", "storageclasses") => of(old, new, validate::validate_storage_class),
        _ => Ok(Ok(())),
    }
}

type Rule<T> = fn(Option<&T>, &T) -> Result<(), Invalid>;

fn of<T: DeserializeOwned>(old: Option<&Value>, new: &Value, rule: Rule<T>) -> Result<Result<(), Invalid>, Status> {
    let old: Option<T> = old.map(typed).transpose()?;
    Ok(rule(old.as_ref(), &typed(new)?))
}
