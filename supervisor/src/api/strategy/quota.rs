//! LimitRanges and ResourceQuotas of a namespace, asked about what is to be stored.

use std::collections::BTreeMap;

use cgroupd::Quantity as Amount;
use k8s_openapi::api::core::v1::{LimitRange, LimitRangeItem, PersistentVolumeClaim, Pod, ResourceQuota, Service};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::super::call::Call;
use super::super::fields;
use super::super::registry::{Class, RESOURCES};
use super::super::status::Status;
use super::forbidden;
use crate::admission::limits;
use crate::admission::quota::{self, Counted};
use crate::manifest::typed;
use crate::store::Store;

fn ranges(call: &Call) -> Vec<LimitRangeItem> {
    let (objects, _) = call.state.store.list("limitranges", Some(call.target.space()));
    let ranges = objects.iter().filter_map(|object| object.read::<LimitRange>().ok());
    ranges.filter_map(|range| range.spec).flat_map(|spec| spec.limits).collect()
}

/// What containers get that say nothing themselves.
pub(super) fn set_defaults(call: &Call, pod: &mut Pod) {
    let Some(spec) = pod.spec.as_mut() else { return };
    if let Some(note) = limits::set_defaults(&ranges(call), spec) {
        pod.metadata.annotations.get_or_insert_default().insert(limits::NOTE.to_owned(), note);
    }
}

/// Whether a pod stays within the ranges of its namespace.
pub(super) fn check_pod(call: &Call, name: &str, pod: &Pod) -> Result<(), Status> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    limits::check_pod(&ranges(call), spec).map_err(|why| forbidden(call, name, why))
}

/// Whether an object stays within the ranges and the quotas of its namespace; `old` when it is a change.
pub(super) fn check(call: &Call, new: &Value, old: Option<&Value>) -> Result<(), Status> {
    let resource = call.target.resource;
    let name = fields::text(new, &["metadata", "name"]);
    if !resource.is_namespaced || resource.class != Class::Stored {
        return Ok(());
    }
    if resource.plural == "persistentvolumeclaims" {
        let claim: PersistentVolumeClaim = super::typed(new)?;
        limits::check_claim(&ranges(call), &claim).map_err(|why| forbidden(call, name, why))?;
    }
    let store = &call.state.store;
    for object in store.list("resourcequotas", Some(call.target.space())).0 {
        let Ok(quota) = object.read::<ResourceQuota>() else { continue };
        let plural = resource.storage();
        let (new, old) = (Thing::of(&plural, new), old.map(|old| Thing::of(&plural, old)));
        let old = old.as_ref().map(Thing::counted);
        let but = old.is_some().then_some(name);
        let used = |resource: &str| used(store, call.target.space(), &quota, resource, but);
        quota::check(&quota, &plural, &new.counted(), old.as_ref(), used).map_err(|why| forbidden(call, name, why))?;
    }
    Ok(())
}

/// An object of its own type, where that matters.
enum Thing {
    Pod(Box<Pod>),
    Service(Box<Service>),
    Claim(Box<PersistentVolumeClaim>),
    Other,
}

impl Thing {
    fn of(storage: &str, value: &Value) -> Self {
        fn boxed<T: DeserializeOwned>(value: &Value) -> Option<Box<T>> {
            typed::read(value).ok().map(Box::new)
        }
        let thing = match storage {
            "pods" => boxed(value).map(Self::Pod),
            "services" => boxed(value).map(Self::Service),
            "persistentvolumeclaims" => boxed(value).map(Self::Claim),
            _ => None,
        };
        thing.unwrap_or(Self::Other)
    }

    fn counted(&self) -> Counted<'_> {
        match self {
            Self::Pod(pod) => Counted::Pod(pod),
            Self::Service(service) => Counted::Service(service),
            Self::Claim(claim) => Counted::Claim(claim),
            Self::Other => Counted::Other,
        }
    }
}

/// What the objects of a namespace take of one resource of a quota, one object left out.
fn used(store: &Store, namespace: &str, quota: &ResourceQuota, name: &str, but: Option<&str>) -> Amount {
    let Some(spec) = &quota.spec else { return Amount::ZERO };
    let mut all = Vec::new();
    for storage in kinds(name) {
        for object in store.list(&storage, Some(namespace)).0 {
            if but == Some(&*object.key.name) {
                continue;
            }
            let thing = match storage.as_str() {
                "pods" | "services" | "persistentvolumeclaims" => Thing::of(&storage, &object.value()),
                _ => Thing::Other,
            };
            let counted = thing.counted();
            if quota::is_in_scope(spec, &counted) {
                all.extend(quota::takes(&storage, &counted, name));
            }
        }
    }
    quota::total(all)
}

/// The resources in the store that a name in a quota speaks of.
fn kinds(name: &str) -> Vec<String> {
    let stored = RESOURCES.iter().filter(|resource| resource.class == Class::Stored && resource.is_namespaced);
    let is_typed = |storage: &str| matches!(storage, "pods" | "services" | "persistentvolumeclaims");
    let named = name.strip_prefix("count/").unwrap_or(name);
    let found: Vec<String> = stored.map(|resource| resource.storage()).filter(|storage| storage == named).collect();
    if !found.is_empty() {
        return found;
    }
    let typed = RESOURCES.iter().filter(|resource| resource.class == Class::Stored).map(|resource| resource.storage());
    typed.filter(|storage| is_typed(storage)).collect()
}

/// `status.used` of a quota as it should be.
pub(crate) fn usage(store: &Store, namespace: &str, quota: &ResourceQuota) -> BTreeMap<String, String> {
    let hard = quota.spec.as_ref().and_then(|spec| spec.hard.clone()).unwrap_or_default();
    hard.into_keys().map(|name| (name.clone(), used(store, namespace, quota, &name, None).to_string())).collect()
}
