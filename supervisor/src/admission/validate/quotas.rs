//! ResourceQuotas: what they count, and what of it they are about.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{ResourceQuota, ResourceQuotaSpec, ScopedResourceSelectorRequirement};
use serde_json::json;

use super::error::{Errors, IMMUTABLE, Path};
use super::{names, resources};
use crate::admission::quota::{COMPUTED, PLAIN};

/// Services that are counted by their type.
const SERVICES: &[&str] = &["services.loadbalancers", "services.nodeports"];
/// What is neither, nor a huge page.
const STORED: &[&str] =
    &["ephemeral-storage", "limits.ephemeral-storage", "requests.ephemeral-storage", "requests.storage"];
const SCOPES: &[&str] =
    &["BestEffort", "CrossNamespacePodAffinity", "NotBestEffort", "NotTerminating", "PriorityClass", "Terminating"];
/// Scopes of which no pod is in both.
const OPPOSITES: [(&str, &str); 2] = [("BestEffort", "NotBestEffort"), ("NotTerminating", "Terminating")];
const ONLY_EXISTS: &str = "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort and ResourceQuotaScopeNotBestEffort";

pub(super) fn quota(old: Option<&ResourceQuota>, new: &ResourceQuota, errors: &mut Errors) {
    let path = Path::new("spec");
    let Some(spec) = &new.spec else { return };
    for (name, quantity) in spec.hard.iter().flatten() {
        let at = path.field("hard").key(name);
        hard_name(name, &at, errors);
        let amount = resources::amount(quantity, &at, errors);
        if is_whole(name) && amount.is_some_and(|amount| !amount.is_integer()) {
            errors.invalid(&at, quantity.0.as_str(), "must be an integer");
        }
    }
    scopes(spec, &path.field("scopes"), errors);
    let at = path.field("scopeSelector").field("matchExpressions");
    for rule in spec.scope_selector.iter().flat_map(|selector| selector.match_expressions.iter().flatten()) {
        selector(rule, spec, &at, errors);
    }
    let before = old.and_then(|old| old.spec.as_ref());
    let set = |spec: &ResourceQuotaSpec| spec.scopes.iter().flatten().cloned().collect::<BTreeSet<String>>();
    if before.is_some_and(|before| set(before) != set(spec)) {
        errors.invalid(&path.field("scopes"), json!(spec.scopes), IMMUTABLE);
    }
}

fn is_standard(name: &str) -> bool {
    let is_huge = name.starts_with("hugepages-") || name.starts_with("requests.hugepages-");
    is_huge || is_counted(name) || COMPUTED.contains(&name) || STORED.contains(&name)
}

fn hard_name(name: &str, path: &Path, errors: &mut Errors) {
    let problems = names::qualified(name);
    if problems.is_empty() && !name.contains('/') && !is_standard(name) {
        errors.invalid(path, name, "must be a standard resource for quota");
    }
    errors.invalid_all(path, name, problems);
}

/// Objects that are counted by name alone.
fn is_counted(name: &str) -> bool {
    PLAIN.contains(&name) || SERVICES.contains(&name)
}

/// There is no half of it.
fn is_whole(name: &str) -> bool {
    is_counted(name) || resources::is_extended(name)
}

/// Whether a scope says anything about a resource.
fn fits(scope: &str, name: &str) -> bool {
    match scope {
        "BestEffort" => name == "pods",
        _ => name == "pods" || COMPUTED.contains(&name),
    }
}

/// What is wrong with a scope in this quota.
fn problem(scope: &str, spec: &ResourceQuotaSpec) -> Option<&'static str> {
    let mut hard = spec.hard.iter().flat_map(|hard| hard.keys());
    if !SCOPES.contains(&scope) {
        return Some("unsupported scope");
    }
    hard.any(|name| is_standard(name) && !fits(scope, name)).then_some("unsupported scope applied to resource")
}

fn scopes(spec: &ResourceQuotaSpec, path: &Path, errors: &mut Errors) {
    let scopes = spec.scopes.as_deref().unwrap_or_default();
    for scope in scopes {
        if let Some(problem) = problem(scope, spec) {
            errors.invalid(path, json!(scopes), problem);
        }
    }
    let has = |wanted: &str| scopes.iter().any(|scope| scope == wanted);
    if OPPOSITES.iter().any(|(one, other)| has(one) && has(other)) {
        errors.invalid(path, json!(scopes), "conflicting scopes");
    }
}

fn selector(rule: &ScopedResourceSelectorRequirement, spec: &ResourceQuotaSpec, path: &Path, errors: &mut Errors) {
    if let Some(problem) = problem(&rule.scope_name, spec) {
        errors.invalid(&path.field("scopeName"), rule.scope_name.as_str(), problem);
    }
    let is_plain = OPPOSITES.iter().any(|(one, other)| rule.scope_name == *one || rule.scope_name == *other);
    if is_plain && rule.operator != "Exists" {
        errors.invalid(&path.field("operator"), rule.operator.as_str(), ONLY_EXISTS);
    }
    let is_empty = rule.values.as_ref().is_none_or(Vec::is_empty);
    match rule.operator.as_str() {
        "In" | "NotIn" if is_empty => {
            let detail = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
            errors.required(&path.field("values"), detail);
        }
        "Exists" | "DoesNotExist" if !is_empty => {
            let detail = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
            errors.invalid(&path.field("values"), json!(rule.values), detail);
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => errors.invalid(&path.field("operator"), other, "not a valid selector operator"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(old: Option<serde_json::Value>, spec: serde_json::Value) -> String {
        let of = |spec: serde_json::Value| -> ResourceQuota { serde_json::from_value(json!({"spec": spec})).unwrap() };
        let mut errors = Errors::default();
        quota(old.map(of).as_ref(), &of(spec), &mut errors);
        errors.done().err().map(|invalid| invalid.to_string()).unwrap_or_default()
    }

    #[test]
    fn what_is_counted_is_known_whole_and_in_scope() {
        for (spec, expected) in [
            (json!({"hard": {"pods": "2", "requests.cpu": "500m", "count/pods": "1", "example.com/x": "1"}}), ""),
            (
                json!({"hard": {"pods": "-1"}}),
                "spec.hard[pods]: Invalid value: \"-1\": must be greater than or equal to 0",
            ),
            (json!({"hard": {"pods": "1500m"}}), "spec.hard[pods]: Invalid value: \"1500m\": must be an integer"),
            (json!({"hard": {"x": "1"}}), "spec.hard[x]: Invalid value: \"x\": must be a standard resource for quota"),
            (json!({"scopes": ["Own"]}), "spec.scopes: Invalid value: [\"Own\"]: unsupported scope"),
            (
                json!({"hard": {"cpu": "1"}, "scopes": ["BestEffort"]}),
                "spec.scopes: Invalid value: [\"BestEffort\"]: unsupported scope applied to resource",
            ),
            (
                json!({"scopes": ["Terminating", "NotTerminating"]}),
                "spec.scopes: Invalid value: [\"Terminating\",\"NotTerminating\"]: conflicting scopes",
            ),
            (
                json!({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In"}]}}),
                "spec.scopeSelector.matchExpressions.values: Required value: must be at least one value when \
                 `operator` is 'In' or 'NotIn' for scope selector",
            ),
        ] {
            assert_eq!(shown(None, spec), expected);
        }
    }

    #[test]
    fn scopes_stay() {
        let scoped = json!({"scopes": ["Terminating"]});
        assert_eq!(shown(Some(scoped.clone()), scoped.clone()), "");
        let expected = "spec.scopes: Invalid value: [\"Terminating\"]: field is immutable";
        assert_eq!(shown(Some(json!({})), scoped), expected);
    }
}
