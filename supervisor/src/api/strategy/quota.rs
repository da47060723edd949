//! LimitRange and ResourceQuota, as far as pods need them.

use std::collections::BTreeMap;

use cgroupd::Quantity as Amount;
use k8s_openapi::api::core::v1::{Container, LimitRange, LimitRangeItem, Pod, PodSpec, ResourceQuota};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::super::call::Call;
use super::super::status::Status;
use super::forbidden;
use crate::admission::effective_request;

fn ranges(call: &Call) -> Vec<LimitRangeItem> {
    let (objects, _) = call.state.store.list("limitranges", Some(call.target.space()));
    let ranges = objects.iter().filter_map(|object| object.read::<LimitRange>().ok());
    ranges.filter_map(|range| range.spec).flat_map(|spec| spec.limits).collect()
}

/// What containers get that say nothing themselves.
pub(super) fn set_defaults(call: &Call, spec: &mut PodSpec) {
    let ranges = ranges(call);
    let items: Vec<&LimitRangeItem> = ranges.iter().filter(|item| item.type_ == "Container").collect();
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        let resources = container.resources.get_or_insert_default();
        for item in &items {
            fill(&mut resources.limits, item.default.as_ref());
            fill(&mut resources.requests, item.default_request.as_ref());
        }
    }
}

fn fill(own: &mut Option<BTreeMap<String, Quantity>>, defaults: Option<&BTreeMap<String, Quantity>>) {
    for (name, amount) in defaults.into_iter().flatten() {
        own.get_or_insert_default().entry(name.clone()).or_insert_with(|| amount.clone());
    }
}

/// Whether a pod stays within the ranges and the quotas of its namespace.
pub(super) fn check(call: &Call, name: &str, pod: &Pod) -> Result<(), Status> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    for item in ranges(call).iter().filter(|item| item.type_ == "Container") {
        for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
            within(item, container).map_err(|why| forbidden(call, name, why))?;
        }
    }
    let (objects, _) = call.state.store.list("resourcequotas", Some(call.target.space()));
    for object in &objects {
        let Ok(quota) = object.read::<ResourceQuota>() else { continue };
        quota_left(call, &object.key.name, &quota, spec).map_err(|why| forbidden(call, name, why))?;
    }
    Ok(())
}

fn within(item: &LimitRangeItem, container: &Container) -> Result<(), String> {
    let resources = container.resources.clone().unwrap_or_default();
    let of =
        |list: &Option<BTreeMap<String, Quantity>>, name: &str| list.as_ref().and_then(|list| list.get(name).cloned());
    for (name, bound) in item.max.iter().flatten() {
        match of(&resources.limits, name) {
            None => return Err(format!("maximum {name} usage per Container is {}.  No limit is specified", bound.0)),
            Some(own) if is_more(&own, bound) => {
                return Err(format!("maximum {name} usage per Container is {}, but limit is {}", bound.0, own.0));
            }
            Some(_) => {}
        }
    }
    for (name, bound) in item.min.iter().flatten() {
        match of(&resources.requests, name) {
            None => return Err(format!("minimum {name} usage per Container is {}.  No request is specified", bound.0)),
            Some(own) if is_more(bound, &own) => {
                return Err(format!("minimum {name} usage per Container is {}, but request is {}", bound.0, own.0));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

fn is_more(one: &Quantity, other: &Quantity) -> bool {
    match (one.0.parse::<Amount>(), other.0.parse::<Amount>()) {
        (Ok(one), Ok(other)) => one > other,
        (Ok(_) | Err(_), _) => false,
    }
}

/// Counts pods and requests; other resources of a quota are not looked at.
fn quota_left(call: &Call, quota_name: &str, quota: &ResourceQuota, spec: &PodSpec) -> Result<(), String> {
    let Some(hard) = quota.spec.as_ref().and_then(|spec| spec.hard.as_ref()) else { return Ok(()) };
    let (objects, _) = call.state.store.list("pods", Some(call.target.space()));
    let pods: Vec<Pod> = objects.iter().filter_map(|object| object.read().ok()).filter(is_alive).collect();
    for (name, bound) in hard {
        let (asked, used) = match name.as_str() {
            "pods" => ("1".parse::<Amount>().ok(), pods.len().to_string().parse::<Amount>().unwrap_or(Amount::ZERO)),
            "cpu" | "requests.cpu" => (effective_request(spec, "cpu"), sum(&pods, "cpu")),
            "memory" | "requests.memory" => (effective_request(spec, "memory"), sum(&pods, "memory")),
            _ => continue,
        };
        let Ok(limit) = bound.0.parse::<Amount>() else { continue };
        let Some(asked) = asked else {
            return Err(format!("failed quota: {quota_name}: must specify {name}"));
        };
        if asked.plus(used) > limit {
            let (asked, used) = (asked.to_string(), used.to_string());
            return Err(format!(
                "exceeded quota: {quota_name}, requested: {name}={asked}, used: {name}={used}, limited: {name}={}",
                bound.0
            ));
        }
    }
    Ok(())
}

fn is_alive(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    !matches!(phase, Some("Succeeded" | "Failed"))
}

fn sum(pods: &[Pod], resource: &str) -> Amount {
    let requests = pods.iter().filter_map(|pod| effective_request(pod.spec.as_ref()?, resource));
    requests.fold(Amount::ZERO, |sum, request| sum.plus(request))
}
