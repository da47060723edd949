//! What a LimitRange gives to objects that say nothing themselves, and what it refuses (LimitRanger). Pure.

use std::collections::BTreeMap;

use cgroupd::Quantity as Amount;
use k8s_openapi::api::core::v1::{Container, LimitRangeItem, PersistentVolumeClaim, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::effective::{effective_limit, effective_request};

type Amounts = BTreeMap<String, Quantity>;

/// Fills in what containers leave open; in words, what was filled in, for the annotation [`NOTE`].
pub fn set_defaults(items: &[LimitRangeItem], spec: &mut PodSpec) -> Option<String> {
    let items: Vec<&LimitRangeItem> = items.iter().filter(|item| item.type_ == "Container").collect();
    let mut notes = Vec::new();
    for container in &mut spec.containers {
        defaulted(&items, container, "container", &mut notes);
    }
    for container in spec.init_containers.iter_mut().flatten() {
        defaulted(&items, container, "init container", &mut notes);
    }
    (!notes.is_empty()).then(|| format!("LimitRanger plugin set: {}", notes.join("; ")))
}

/// The annotation that says what a pod got.
pub const NOTE: &str = "kubernetes.io/limit-ranger";

fn defaulted(items: &[&LimitRangeItem], container: &mut Container, what: &str, notes: &mut Vec<String>) {
    let resources = container.resources.get_or_insert_default();
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for item in items {
        fill(&mut resources.limits, item.default.as_ref(), &mut limits);
        fill(&mut resources.requests, item.default_request.as_ref(), &mut requests);
    }
    for (mut names, part) in [(requests, "request"), (limits, "limit")] {
        if !names.is_empty() {
            names.sort();
            notes.push(format!("{} {part} for {what} {}", names.join(", "), container.name));
        }
    }
}

fn fill(own: &mut Option<Amounts>, defaults: Option<&Amounts>, filled: &mut Vec<String>) {
    for (name, amount) in defaults.into_iter().flatten() {
        let own = own.get_or_insert_default();
        if !own.contains_key(name) {
            own.insert(name.clone(), amount.clone());
            filled.push(name.clone());
        }
    }
}

/// What is wrong with a pod.
///
/// # Errors
/// In the API server's words.
pub fn check_pod(items: &[LimitRangeItem], spec: &PodSpec) -> Result<(), String> {
    let mut errors = Vec::new();
    for item in items {
        match item.type_.as_str() {
            "Container" => {
                for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
                    let resources = container.resources.clone().unwrap_or_default();
                    let of = |list: &Option<Amounts>, name: &str| amount(list.as_ref()?.get(name)?);
                    let subject = Subject {
                        what: "Container",
                        request: &|name| of(&resources.requests, name),
                        limit: &|name| of(&resources.limits, name),
                    };
                    subject.check(item, &mut errors);
                }
            }
            "Pod" => {
                let subject = Subject {
                    what: "Pod",
                    request: &|name| effective_request(spec, name),
                    limit: &|name| effective_limit(spec, name),
                };
                subject.check(item, &mut errors);
            }
            _ => {}
        }
    }
    joined(errors)
}

/// What is wrong with a claim.
///
/// # Errors
/// In the API server's words.
pub fn check_claim(items: &[LimitRangeItem], claim: &PersistentVolumeClaim) -> Result<(), String> {
    let requests = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.clone()).unwrap_or_default();
    let mut errors = Vec::new();
    let what = "PersistentVolumeClaim";
    for item in items.iter().filter(|item| item.type_ == what) {
        let request = |name: &str| amount(requests.get(name)?);
        bounds(&item.min, |name, bound| at_least(what, name, bound, request(name), None, &mut errors));
        // A claim has no limit: its request is what counts.
        bounds(&item.max, |name, bound| {
            if let Some(own) = request(name).filter(|own| *own > bound) {
                let (bound, own) = (bound.to_string(), own.to_string());
                errors.push(format!("maximum {name} usage per {what} is {bound}, but request is {own}"));
            }
        });
    }
    joined(errors)
}

fn joined(mut errors: Vec<String>) -> Result<(), String> {
    errors.dedup();
    match errors.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        several => Err(format!("[{}]", several.join(", "))),
    }
}

fn amount(quantity: &Quantity) -> Option<Amount> {
    quantity.0.parse::<Amount>().ok()
}

fn bounds(list: &Option<Amounts>, mut each: impl FnMut(&str, Amount)) {
    for (name, bound) in list.iter().flatten() {
        if let Some(bound) = amount(bound) {
            each(name, bound);
        }
    }
}

/// A container or a pod, as far as limits go.
struct Subject<'a> {
    what: &'a str,
    request: &'a dyn Fn(&str) -> Option<Amount>,
    limit: &'a dyn Fn(&str) -> Option<Amount>,
}

impl Subject<'_> {
    fn check(&self, item: &LimitRangeItem, errors: &mut Vec<String>) {
        bounds(&item.min, |name, bound| {
            at_least(self.what, name, bound, (self.request)(name), (self.limit)(name), errors);
        });
        bounds(&item.max, |name, bound| self.at_most(name, bound, errors));
        bounds(&item.max_limit_request_ratio, |name, bound| self.ratio(name, bound, errors));
    }

    fn at_most(&self, name: &str, bound: Amount, errors: &mut Vec<String>) {
        let head = format!("maximum {name} usage per {} is {}", self.what, bound);
        match ((self.limit)(name), (self.request)(name)) {
            (None, _) => errors.push(format!("{head}.  No limit is specified")),
            (Some(own), _) if own > bound => errors.push(format!("{head}, but limit is {}", own)),
            (_, Some(own)) if own > bound => errors.push(format!("{head}, but request is {}", own)),
            (Some(_), _) => {}
        }
    }

    fn ratio(&self, name: &str, bound: Amount, errors: &mut Vec<String>) {
        let head = format!("{name} max limit to request ratio per {} is {}", self.what, bound);
        let set = |own: Option<Amount>| own.filter(|own| !own.is_zero());
        match (set((self.request)(name)), set((self.limit)(name))) {
            (None, _) => errors.push(format!("{head}, but no request is specified or request is 0")),
            (_, None) => errors.push(format!("{head}, but no limit is specified or limit is 0")),
            (Some(request), Some(limit)) => {
                let ratio = limit.ratio_to(request);
                if ratio > bound.ratio_to(Amount::ONE) {
                    errors.push(format!("{head}, but provided ratio is {ratio:.6}"));
                }
            }
        }
    }
}

fn at_least(
    what: &str,
    name: &str,
    bound: Amount,
    request: Option<Amount>,
    limit: Option<Amount>,
    errors: &mut Vec<String>,
) {
    let head = format!("minimum {name} usage per {what} is {}", bound);
    match (request, limit) {
        (None, _) => errors.push(format!("{head}.  No request is specified")),
        (Some(own), _) if own < bound => errors.push(format!("{head}, but request is {}", own)),
        (_, Some(own)) if own < bound => errors.push(format!("{head}, but limit is {}", own)),
        (Some(_), _) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn items(value: Value) -> Vec<LimitRangeItem> {
        serde_json::from_value(value).unwrap()
    }

    fn spec(resources: Value) -> PodSpec {
        serde_json::from_value(json!({"containers": [{"name": "c", "resources": resources}]})).unwrap()
    }

    #[test]
    fn what_is_left_open_is_filled_in_and_noted() {
        let items = items(
            json!([{"type": "Container", "default": {"cpu": "1", "memory": "1Gi"}, "defaultRequest": {"cpu": "100m"}}]),
        );
        let mut pod = spec(json!({"limits": {"memory": "2Gi"}}));
        let note = set_defaults(&items, &mut pod).unwrap();
        assert_eq!(note, "LimitRanger plugin set: cpu request for container c; cpu limit for container c");
        let resources = serde_json::to_value(&pod.containers[0].resources).unwrap();
        assert_eq!(resources, json!({"limits": {"cpu": "1", "memory": "2Gi"}, "requests": {"cpu": "100m"}}));
        assert_eq!(set_defaults(&items, &mut pod), None);
    }

    #[test]
    fn refusals_are_in_the_words_of_the_api_server() {
        for (item, resources, expected) in [
            (
                json!({"min": {"cpu": "50m"}}),
                json!({}),
                "minimum cpu usage per Container is 50m.  No request is specified",
            ),
            (
                json!({"min": {"cpu": "50m"}}),
                json!({"requests": {"cpu": "10m"}}),
                "minimum cpu usage per Container is 50m, but request is 10m",
            ),
            (json!({"max": {"cpu": "1"}}), json!({}), "maximum cpu usage per Container is 1.  No limit is specified"),
            (
                json!({"max": {"cpu": "1"}}),
                json!({"limits": {"cpu": "2"}}),
                "maximum cpu usage per Container is 1, but limit is 2",
            ),
            (
                json!({"maxLimitRequestRatio": {"cpu": "2"}}),
                json!({"limits": {"cpu": "3"}, "requests": {"cpu": "1"}}),
                "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000",
            ),
            (
                json!({"max": {"cpu": "1", "memory": "1Gi"}}),
                json!({"limits": {"cpu": "2", "memory": "2Gi"}}),
                "[maximum cpu usage per Container is 1, but limit is 2, maximum memory usage per Container is 1Gi, but limit is 2Gi]",
            ),
        ] {
            let mut item = item;
            item["type"] = "Container".into();
            assert_eq!(check_pod(&items(json!([item])), &spec(resources)).unwrap_err(), expected);
        }
        let whole = items(json!([{"type": "Pod", "max": {"cpu": "1"}}]));
        assert!(check_pod(&whole, &spec(json!({"limits": {"cpu": "1"}}))).is_ok());
    }
}
