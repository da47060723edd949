//! Requests and limits (RL1-RL4, PL1, PL3, QT2, QT6).

use std::collections::BTreeMap;

use cgroupd::Quantity as Amount;
use k8s_openapi::api::core::v1::{PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::error::{Errors, NOT_NEGATIVE, Path};
use super::names;
use crate::admission::effective_request;

type List = BTreeMap<String, Quantity>;

const HUGE_PAGES: &str = "hugepages-";

fn list(list: Option<&List>) -> impl Iterator<Item = (&String, &Quantity)> {
    list.into_iter().flatten()
}

pub(super) fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.")
}

/// Whether requests may be promised to several: not for devices and huge pages.
fn is_overcommittable(name: &str) -> bool {
    !name.contains('/') && !name.starts_with(HUGE_PAGES)
}

/// A quantity that is allowed nowhere is an error at its place; `None` then.
pub(super) fn amount(quantity: &Quantity, path: &Path, errors: &mut Errors) -> Option<Amount> {
    match quantity.0.parse::<Amount>() {
        Ok(amount) if amount.is_negative() => {
            errors.invalid(path, quantity.0.as_str(), NOT_NEGATIVE);
            None
        }
        Ok(amount) => Some(amount),
        Err(cause) => {
            errors.invalid(path, quantity.0.as_str(), cause.to_string());
            None
        }
    }
}

/// The resources of one container.
pub(super) fn container(resources: &ResourceRequirements, path: &Path, errors: &mut Errors) {
    let limits = path.field("limits");
    let requests = path.field("requests");
    for (name, quantity) in list(resources.limits.as_ref()) {
        container_name(name, &limits.key(name), errors);
        value(name, quantity, &limits.key(name), errors);
    }
    for (name, quantity) in list(resources.requests.as_ref()) {
        container_name(name, &requests.key(name), errors);
        value(name, quantity, &requests.key(name), errors);
        request_and_limit(name, quantity, resources.limits.as_ref(), &requests, &limits, errors);
    }
    huge_pages(resources, path, errors);
}

/// RL3
fn container_name(name: &str, path: &Path, errors: &mut Errors) {
    errors.invalid_all(path, name, names::qualified(name));
    let is_standard = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with(HUGE_PAGES);
    if name.contains('/') {
        if !is_extended(name) {
            errors.invalid(path, name, "doesn't follow extended resource name standard");
        }
    } else if !is_standard {
        errors.invalid(path, name, "must be a standard resource for containers");
    }
}

/// RL4: what comes in pieces comes in whole ones.
fn value(name: &str, quantity: &Quantity, path: &Path, errors: &mut Errors) {
    let Some(amount) = amount(quantity, path, errors) else {
        return;
    };
    if is_extended(name) && !amount.is_integer() {
        errors.invalid(path, quantity.0.as_str(), "must be an integer");
    }
    if let Some(size) = name.strip_prefix(HUGE_PAGES) {
        let is_multiple = size.parse::<Amount>().is_ok_and(|size| amount.is_positive_multiple_of(size));
        if !is_multiple && !amount.is_zero() {
            let detail = format!("{} is not positive integer multiple of {name}", quantity.0);
            errors.invalid(path, quantity.0.as_str(), detail);
        }
    }
}

/// RL2, RL4
fn request_and_limit(
    name: &str,
    request: &Quantity,
    limits: Option<&List>,
    path: &Path,
    limits_path: &Path,
    errors: &mut Errors,
) {
    let Some(limit) = limits.and_then(|limits| limits.get(name)) else {
        if !is_overcommittable(name) {
            errors.required(limits_path, "Limit must be set for non overcommitable resources");
        }
        return;
    };
    let (Ok(wanted), Ok(most)) = (request.0.parse::<Amount>(), limit.0.parse::<Amount>()) else {
        return;
    };
    if is_overcommittable(name) && wanted > most {
        let detail = format!("must be less than or equal to {name} limit of {}", limit.0);
        errors.invalid(path, request.0.as_str(), detail);
    } else if !is_overcommittable(name) && wanted != most {
        errors.invalid(path, request.0.as_str(), format!("must be equal to {name} limit of {}", limit.0));
    }
}

/// RL4: huge pages alone leave a container without memory accounting.
fn huge_pages(resources: &ResourceRequirements, path: &Path, errors: &mut Errors) {
    let names: Vec<&String> =
        [&resources.limits, &resources.requests].into_iter().flatten().flat_map(BTreeMap::keys).collect();
    let has_huge = names.iter().any(|name| name.starts_with(HUGE_PAGES));
    if has_huge && !names.iter().any(|name| matches!(name.as_str(), "cpu" | "memory")) {
        errors.forbidden(path, "HugePages require cpu or memory");
    }
}

/// PL1, PL3: the resources of the pod as a whole.
pub(super) fn pod(spec: &PodSpec, path: &Path, errors: &mut Errors) {
    let Some(resources) = &spec.resources else {
        return;
    };
    let path = path.field("resources");
    if resources.claims.is_some() {
        errors.forbidden(&path.field("claims"), "claims may not be set for Resources at pod-level");
    }
    for (field, quantities) in [("limits", &resources.limits), ("requests", &resources.requests)] {
        for (name, quantity) in list(quantities.as_ref()) {
            let path = path.field(field).key(name);
            if !matches!(name.as_str(), "cpu" | "memory") && !name.starts_with(HUGE_PAGES) {
                let supported = ["cpu", "hugepages-", "memory"];
                errors.not_supported(&path, name, &supported);
            }
            value(name, quantity, &path, errors);
        }
    }
    let (limits, requests) = (path.field("limits"), path.field("requests"));
    for (name, request) in list(resources.requests.as_ref()) {
        request_and_limit(name, request, resources.limits.as_ref(), &requests, &limits, errors);
        enough_for_all(name, request, spec, &requests.key(name), errors);
    }
    container_limits(spec, resources, errors);
}

fn enough_for_all(name: &str, request: &Quantity, spec: &PodSpec, path: &Path, errors: &mut Errors) {
    let (Ok(given), Some(needed)) = (request.0.parse::<Amount>(), effective_request(spec, name)) else {
        return;
    };
    if given < needed {
        let detail = format!("must be greater than or equal to aggregate container requests of {}", needed);
        errors.invalid(path, request.0.as_str(), detail);
    }
}

/// PL3: no container may have more than the pod.
fn container_limits(spec: &PodSpec, pod: &ResourceRequirements, errors: &mut Errors) {
    let spec_path = Path::new("spec");
    let inits =
        spec.init_containers.iter().flatten().enumerate().map(|(i, c)| (spec_path.field("initContainers").index(i), c));
    let apps = spec.containers.iter().enumerate().map(|(i, c)| (spec_path.field("containers").index(i), c));
    for (path, container) in inits.chain(apps) {
        let limits = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
        for (name, limit) in list(limits) {
            let Some(most) = pod.limits.as_ref().and_then(|limits| limits.get(name)) else {
                continue;
            };
            if let (Ok(own), Ok(all)) = (limit.0.parse::<Amount>(), most.0.parse::<Amount>())
                && own > all
            {
                let path = path.field("resources").field("limits");
                let detail = format!("must be less than or equal to pod limits of {}", most.0);
                errors.invalid(&path.key(name), limit.0.as_str(), detail);
            }
        }
    }
}
