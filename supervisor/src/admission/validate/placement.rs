//! Where pods want to be: affinity and spread. One node decides little by it; what is stored must be right elsewhere.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use k8s_openapi::api::core::v1::{PodAffinityTerm, PodSpec, Taint, TopologySpreadConstraint, WeightedPodAffinityTerm};

use super::error::{Errors, Path};
use super::names;

const WEIGHTS: RangeInclusive<i32> = 1..=100;
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const EMPTY: &str = "can not be empty";
pub(super) const EFFECTS: &[&str] = &["NoExecute", "NoSchedule", "PreferNoSchedule"];

pub(super) fn affinity(spec: &PodSpec, path: &Path, errors: &mut Errors) {
    let Some(affinity) = &spec.affinity else { return };
    let nodes = affinity
        .node_affinity
        .as_ref()
        .and_then(|nodes| nodes.required_during_scheduling_ignored_during_execution.as_ref());
    if nodes.is_some_and(|selector| selector.node_selector_terms.is_empty()) {
        let at = path.field("nodeAffinity").field(REQUIRED).field("nodeSelectorTerms");
        errors.required(&at, "must have at least one node selector term");
    }
    if let Some(pods) = &affinity.pod_affinity {
        let path = path.field("podAffinity");
        required(pods.required_during_scheduling_ignored_during_execution.as_deref(), &path, errors);
        preferred(pods.preferred_during_scheduling_ignored_during_execution.as_deref(), &path, errors);
    }
    if let Some(pods) = &affinity.pod_anti_affinity {
        let path = path.field("podAntiAffinity");
        required(pods.required_during_scheduling_ignored_during_execution.as_deref(), &path, errors);
        preferred(pods.preferred_during_scheduling_ignored_during_execution.as_deref(), &path, errors);
    }
}

fn required(terms: Option<&[PodAffinityTerm]>, path: &Path, errors: &mut Errors) {
    for (index, term) in terms.unwrap_or_default().iter().enumerate() {
        topology(&term.topology_key, &path.field(REQUIRED).index(index), errors);
    }
}

fn preferred(terms: Option<&[WeightedPodAffinityTerm]>, path: &Path, errors: &mut Errors) {
    for (index, term) in terms.unwrap_or_default().iter().enumerate() {
        let at = path.field(PREFERRED).index(index);
        if !WEIGHTS.contains(&term.weight) {
            errors.invalid(&at.field("weight"), term.weight, "must be in the range 1-100");
        }
        topology(&term.pod_affinity_term.topology_key, &at.field("podAffinityTerm"), errors);
    }
}

fn topology(key: &str, path: &Path, errors: &mut Errors) {
    let at = path.field("topologyKey");
    if key.is_empty() {
        errors.required(&at, EMPTY);
    } else {
        errors.invalid_all(&at, key, names::qualified(key));
    }
}

pub(super) fn spread(constraints: &[TopologySpreadConstraint], path: &Path, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (index, constraint) in constraints.iter().enumerate() {
        let at = path.index(index);
        let action = constraint.when_unsatisfiable.as_str();
        if constraint.max_skew <= 0 {
            errors.invalid(&at.field("maxSkew"), constraint.max_skew, "must be greater than zero");
        }
        topology(&constraint.topology_key, &at, errors);
        let actions = ["DoNotSchedule", "ScheduleAnyway"];
        errors.one_of(&at.field("whenUnsatisfiable"), Some(&constraint.when_unsatisfiable), &actions);
        if !seen.insert((&constraint.topology_key, action)) {
            errors.duplicate(
                &at.field("{topologyKey, whenUnsatisfiable}"),
                format!("{{{}, {action}}}", constraint.topology_key),
            );
        }
        if let Some(count) = constraint.min_domains {
            let at = at.field("minDomains");
            if count <= 0 {
                errors.invalid(&at, count, "must be greater than zero");
            }
            if action != "DoNotSchedule" {
                errors.invalid(
                    &at,
                    count,
                    format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}"),
                );
            }
        }
    }
}

/// The taints of a node.
pub(super) fn taints(taints: &[Taint], path: &Path, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (index, taint) in taints.iter().enumerate() {
        let at = path.index(index);
        errors.invalid_all(&at.field("key"), &taint.key, names::qualified(&taint.key));
        let value = taint.value.as_deref().unwrap_or_default();
        errors.invalid_all(&at.field("value"), value, names::label_value(value));
        if taint.effect.is_empty() {
            errors.required(&at.field("effect"), "");
        } else {
            errors.one_of(&at.field("effect"), Some(&taint.effect), EFFECTS);
        }
        if !seen.insert((&taint.key, &taint.effect)) {
            errors.duplicate(&at, serde_json::json!(taint));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn affinity_and_spread_name_a_topology() {
        let spread = |more: serde_json::Value| {
            let mut full = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"});
            full.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!({"topologySpreadConstraints": [full]})
        };
        for (spec, expected) in [
            (spread(json!({})), ""),
            (
                json!({"affinity": {"podAffinity": {REQUIRED: [{}]}}}),
                "affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Required value: \
                 can not be empty",
            ),
            (
                json!({"affinity": {"podAntiAffinity": {PREFERRED: [{"podAffinityTerm": {"topologyKey": "a"}}]}}}),
                "affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 0: \
                 must be in the range 1-100",
            ),
            (
                spread(json!({"maxSkew": 0})),
                "topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero",
            ),
            (
                spread(json!({"topologyKey": ""})),
                "topologySpreadConstraints[0].topologyKey: Required value: can not be empty",
            ),
            (
                spread(json!({"whenUnsatisfiable": ""})),
                "topologySpreadConstraints[0].whenUnsatisfiable: Unsupported value: \"\": supported values: \
                 \"DoNotSchedule\", \"ScheduleAnyway\"",
            ),
        ] {
            let spec: PodSpec = serde_json::from_value(spec).unwrap();
            let mut errors = Errors::default();
            affinity(&spec, &Path::new("affinity"), &mut errors);
            let constraints = spec.topology_spread_constraints.as_deref().unwrap_or_default();
            super::spread(constraints, &Path::new("topologySpreadConstraints"), &mut errors);
            assert_eq!(errors.done().err().map(|invalid| invalid.to_string()).unwrap_or_default(), expected);
        }
    }

    #[test]
    fn a_taint_has_an_effect_that_is_known() {
        for (effect, expected) in [
            ("NoSchedule", ""),
            ("", "taints[0].effect: Required value"),
            (
                "Odd",
                "taints[0].effect: Unsupported value: \"Odd\": supported values: \"NoExecute\", \"NoSchedule\", \
                 \"PreferNoSchedule\"",
            ),
        ] {
            let taint = Taint { key: "a".to_owned(), effect: effect.to_owned(), ..Taint::default() };
            let mut errors = Errors::default();
            taints(&[taint], &Path::new("taints"), &mut errors);
            assert_eq!(errors.done().err().map(|invalid| invalid.to_string()).unwrap_or_default(), expected);
        }
    }
}
