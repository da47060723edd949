//! LimitRanges: their amounts must agree with each other.

use std::collections::{BTreeMap, BTreeSet};

use cgroupd::Quantity as Amount;
use k8s_openapi::api::core::v1::{LimitRange, LimitRangeItem};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::error::{Errors, Path};
use super::{metadata, names, resources};

/// What ranges are about.
const TYPES: &[&str] = &["Container", "PersistentVolumeClaim", "Pod"];

type Amounts = BTreeMap<String, Quantity>;

pub(super) fn limit_range(object: &LimitRange, errors: &mut Errors) {
    metadata::metadata(&object.metadata, true, names::subdomain, errors);
    let path = Path::new("spec").field("limits");
    let mut seen = BTreeSet::new();
    for (index, item) in object.spec.iter().flat_map(|spec| &spec.limits).enumerate() {
        let path = path.index(index);
        let kind = path.field("type");
        let problems = names::qualified(&item.type_);
        if problems.is_empty() && !item.type_.contains('/') && !TYPES.contains(&item.type_.as_str()) {
            errors.invalid(&kind, item.type_.as_str(), "must be a standard limit type or fully qualified");
        }
        errors.invalid_all(&kind, &item.type_, problems);
        if !seen.insert(&item.type_) {
            errors.duplicate(&kind, item.type_.as_str());
        }
        if item.type_ == "Pod" {
            let detail = "may not be specified when `type` is 'Pod'";
            for (field, list) in [("default", &item.default), ("defaultRequest", &item.default_request)] {
                if list.as_ref().is_some_and(|list| !list.is_empty()) {
                    errors.forbidden(&path.field(field), detail);
                }
            }
        }
        limits(item, &path, errors);
    }
}

fn limits(item: &LimitRangeItem, path: &Path, errors: &mut Errors) {
    let lists = [
        ("min", &item.min),
        ("max", &item.max),
        ("default", &item.default),
        ("defaultRequest", &item.default_request),
        ("maxLimitRequestRatio", &item.max_limit_request_ratio),
    ];
    for (field, list) in lists {
        for (name, quantity) in list.iter().flatten() {
            resources::amount(quantity, &path.field(field).key(name), errors);
        }
    }
    let rules = [
        ("min", "min", &item.min, "max", &item.max),
        ("min", "min", &item.min, "default request", &item.default_request),
        ("min", "min", &item.min, "default", &item.default),
        ("defaultRequest", "default request", &item.default_request, "max", &item.max),
        ("defaultRequest", "default request", &item.default_request, "default limit", &item.default),
        ("default", "default", &item.default, "max", &item.max),
    ];
    for (field, less, small, more, large) in rules {
        for (name, (one, other)) in both(small, large) {
            if one > other {
                let (one, other) = (one.to_string(), other.to_string());
                let detail = format!("{less} value {one} is greater than {more} value {other}");
                errors.invalid(&path.field(field).key(name), one, detail);
            }
        }
    }
    for (name, ratio) in item.max_limit_request_ratio.iter().flatten() {
        if ratio.0.parse::<Amount>().is_ok_and(|ratio| ratio < Amount::ONE) {
            let detail = format!("ratio {} is less than 1", ratio.0);
            errors.invalid(&path.field("maxLimitRequestRatio").key(name), ratio.0.as_str(), detail);
        }
    }
}

/// The amounts that stand in both lists.
fn both<'a>(one: &'a Option<Amounts>, other: &'a Option<Amounts>) -> impl Iterator<Item = (&'a str, (Amount, Amount))> {
    one.iter().flatten().filter_map(move |(name, amount)| {
        let other = other.as_ref()?.get(name)?;
        Some((name.as_str(), (amount.0.parse::<Amount>().ok()?, other.0.parse::<Amount>().ok()?)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn amounts_must_agree() {
        for (item, expected) in [
            (json!({"type": "Container", "min": {"cpu": "1"}, "max": {"cpu": "2"}}), ""),
            (
                json!({"type": "Container", "min": {"cpu": "2"}, "max": {"cpu": "1"}}),
                "LimitRange \"l\" is invalid: spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1",
            ),
            (
                json!({"type": "Pod", "default": {"cpu": "2"}}),
                "LimitRange \"l\" is invalid: spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'",
            ),
            (
                json!({"type": "Pod", "maxLimitRequestRatio": {"cpu": "500m"}}),
                "LimitRange \"l\" is invalid: spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"500m\": ratio 500m is less than 1",
            ),
        ] {
            let range = json!({"metadata": {"name": "l", "namespace": "d"}, "spec": {"limits": [item]}});
            let mut errors = Errors::default();
            limit_range(&serde_json::from_value(range).unwrap(), &mut errors);
            let message = errors.done().err().map(|invalid| invalid.message("LimitRange", "l")).unwrap_or_default();
            assert_eq!(message, expected);
        }
    }
}
