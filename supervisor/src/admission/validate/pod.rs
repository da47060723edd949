//! A Pod as a whole (VA5, VA9, VA10).

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{PodSpec, Toleration};

use super::error::{Errors, Path};
use super::metadata::labels;
use super::{container, names, network, placement, resources, security, volumes};

pub(super) fn spec(spec: &PodSpec, path: &Path, errors: &mut Errors) {
    volumes::volumes(spec, &path.field("volumes"), errors);
    container::containers(spec, path, errors);
    resources::pod(spec, path, errors);
    let policies = ["Always", "OnFailure", "Never"];
    errors.one_of(&path.field("restartPolicy"), spec.restart_policy.as_ref(), &policies);
    network::dns(spec, path, errors);
    labels(spec.node_selector.as_ref(), &path.field("nodeSelector"), errors);
    network::namespaces(spec, path, errors);
    if let Some(context) = &spec.security_context {
        security::pod(context, spec, &path.field("securityContext"), errors);
    }
    names_of_others(spec, path, errors);
    deadline(spec, path, errors);
    network::host_names(spec, path, errors);
    tolerations(spec, &path.field("tolerations"), errors);
    placement::affinity(spec, &path.field("affinity"), errors);
    let constraints = spec.topology_spread_constraints.as_deref().unwrap_or_default();
    placement::spread(constraints, &path.field("topologySpreadConstraints"), errors);
    network::host_aliases(spec, &path.field("hostAliases"), errors);
    errors.one_of(&path.field("preemptionPolicy"), spec.preemption_policy.as_ref(), &["PreemptLowerPriority", "Never"]);
    gates(spec, path, errors);
    if let Some(os) = &spec.os {
        errors.one_of(&path.field("os").field("name"), Some(&os.name), &["linux", "windows"]);
    }
}

/// Names of objects that the pod refers to.
fn names_of_others(spec: &PodSpec, path: &Path, errors: &mut Errors) {
    for (field, value) in [
        ("serviceAccountName", &spec.service_account_name),
        ("nodeName", &spec.node_name),
        ("priorityClassName", &spec.priority_class_name),
        ("runtimeClassName", &spec.runtime_class_name),
    ] {
        if let Some(name) = value.as_deref().filter(|name| !name.is_empty()) {
            errors.invalid_all(&path.field(field), name, names::subdomain(name));
        }
    }
}

/// DL2, VA9
fn deadline(spec: &PodSpec, path: &Path, errors: &mut Errors) {
    if let Some(seconds) = spec.active_deadline_seconds
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        errors.invalid(&path.field("activeDeadlineSeconds"), seconds, "must be between 1 and 2147483647, inclusive");
    }
}

pub(super) fn tolerations(spec: &PodSpec, path: &Path, errors: &mut Errors) {
    for (index, toleration) in spec.tolerations.iter().flatten().enumerate() {
        self::toleration(toleration, &path.index(index), errors);
    }
}

fn toleration(toleration: &Toleration, path: &Path, errors: &mut Errors) {
    let key = toleration.key.as_deref().unwrap_or_default();
    let value = toleration.value.as_deref().unwrap_or_default();
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let operator = toleration.operator.as_deref().unwrap_or_default();
    if !key.is_empty() {
        errors.invalid_all(&path.field("key"), key, names::qualified(key));
    }
    if key.is_empty() && operator != "Exists" {
        let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        errors.invalid(&path.field("operator"), operator, detail);
    }
    if toleration.toleration_seconds.is_some() && effect != "NoExecute" {
        let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        errors.invalid(&path.field("effect"), effect, detail);
    }
    match operator {
        "" | "Equal" => errors.invalid_all(&path.field("operator"), value, names::label_value(value)),
        "Exists" if !value.is_empty() => {
            errors.invalid(&path.field("operator"), value, "value must be empty when `operator` is 'Exists'");
        }
        "Exists" => {}
        other => errors.not_supported(&path.field("operator"), other, &["Equal", "Exists"]),
    }
    if !effect.is_empty() {
        errors.one_of(&path.field("effect"), toleration.effect.as_ref(), placement::EFFECTS);
    }
}

/// VA9
fn gates(spec: &PodSpec, path: &Path, errors: &mut Errors) {
    let gates = spec.scheduling_gates.as_deref().unwrap_or_default();
    let mut seen = BTreeSet::new();
    for (index, gate) in gates.iter().enumerate() {
        let at = path.field("schedulingGates").index(index);
        errors.invalid_all(&at, &gate.name, names::qualified(&gate.name));
        if !seen.insert(&gate.name) {
            errors.duplicate(&at, gate.name.as_str());
        }
    }
    let has_node = spec.node_name.as_deref().is_some_and(|name| !name.is_empty());
    if !gates.is_empty() && has_node {
        errors.forbidden(&path.field("nodeName"), "cannot be set until all schedulingGates have been cleared");
    }
    for (index, gate) in spec.readiness_gates.iter().flatten().enumerate() {
        let at = path.field("readinessGates").index(index).field("conditionType");
        errors.invalid_all(&at, &gate.condition_type, names::qualified(&gate.condition_type));
    }
}
