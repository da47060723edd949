//! Containers of the three kinds (VA3-VA8, RR2, RZ3).

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, PodSpec};

use super::error::{Errors, Path};
use super::probes::{ProbeKind, lifecycle, probe};
use super::{env, names, network, resources, security, volumes};

pub(super) const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];
/// RR2
const RULES_MAX: usize = 20;
/// RR2
const EXIT_CODES_MAX: usize = 255;

/// Checks init and app containers; names are unique over both.
pub(super) fn containers(spec: &PodSpec, path: &Path, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    if spec.containers.is_empty() {
        errors.required(&path.field("containers"), "");
    }
    for (index, value) in spec.containers.iter().enumerate() {
        let path = path.field("containers").index(index);
        unique_name(&value.name, &mut seen, &path, errors);
        container(value, spec, &path, errors);
        probes(value, &path, errors);
        hooks(value, spec, &path, errors);
        restart(value, spec, &path, errors);
    }
    network::host_ports(spec, &path.field("containers"), errors);
    for (index, value) in spec.init_containers.iter().flatten().enumerate() {
        let path = path.field("initContainers").index(index);
        unique_name(&value.name, &mut seen, &path, errors);
        container(value, spec, &path, errors);
        init(value, spec, &path, errors);
        restart(value, spec, &path, errors);
    }
}

fn unique_name<'a>(name: &'a str, seen: &mut BTreeSet<&'a str>, path: &Path, errors: &mut Errors) {
    let path = path.field("name");
    if name.is_empty() {
        return errors.required(&path, "");
    }
    errors.invalid_all(&path, name, names::label(name));
    if !seen.insert(name) {
        errors.duplicate(&path, name);
    }
}

/// What holds for every container, whatever its kind.
fn container(container: &Container, spec: &PodSpec, path: &Path, errors: &mut Errors) {
    image(container.image.as_deref().unwrap_or_default(), path, errors);
    network::ports(container, spec, &path.field("ports"), errors);
    env::variables(container.env.as_deref().unwrap_or_default(), spec, &path.field("env"), errors);
    env::env_from(container.env_from.as_deref().unwrap_or_default(), &path.field("envFrom"), errors);
    volumes::mounts(container, spec, &path.field("volumeMounts"), errors);
    errors.one_of(&path.field("imagePullPolicy"), container.image_pull_policy.as_ref(), PULL_POLICIES);
    if let Some(resources) = &container.resources {
        resources::container(resources, &path.field("resources"), errors);
    }
    let policy = path.field("terminationMessagePolicy");
    errors.one_of(&policy, container.termination_message_policy.as_ref(), &["File", "FallbackToLogsOnError"]);
    if let Some(context) = &container.security_context {
        security::container(context, spec, &path.field("securityContext"), errors);
    }
    let arguments = [("command", &container.command), ("args", &container.args)];
    for (field, values) in arguments {
        if values.iter().flatten().any(|text| text.contains('\0')) {
            errors.invalid(&path.field(field), "", "must not contain NUL");
        }
    }
}

/// VA4
fn image(image: &str, path: &Path, errors: &mut Errors) {
    let path = path.field("image");
    if image.is_empty() {
        errors.required(&path, "");
    } else if image.trim() != image {
        errors.invalid(&path, image, "must not have leading or trailing whitespace");
    }
}

fn probes(container: &Container, path: &Path, errors: &mut Errors) {
    for (field, kind, value) in [
        ("livenessProbe", ProbeKind::Liveness, &container.liveness_probe),
        ("readinessProbe", ProbeKind::Readiness, &container.readiness_probe),
        ("startupProbe", ProbeKind::Startup, &container.startup_probe),
    ] {
        if let Some(value) = value {
            probe(value, kind, &path.field(field), errors);
        }
    }
}

fn hooks(container: &Container, spec: &PodSpec, path: &Path, errors: &mut Errors) {
    let grace = spec.termination_grace_period_seconds.unwrap_or_default();
    if let Some(hooks) = &container.lifecycle {
        lifecycle(hooks, grace, &path.field("lifecycle"), errors);
    }
}

/// VA7, IN10, RZ3
fn init(container: &Container, spec: &PodSpec, path: &Path, errors: &mut Errors) {
    if container.restart_policy.as_deref() == Some("Always") {
        probes(container, path, errors);
        return hooks(container, spec, path, errors);
    }
    for (field, is_set) in [
        ("lifecycle", container.lifecycle.is_some()),
        ("livenessProbe", container.liveness_probe.is_some()),
        ("readinessProbe", container.readiness_probe.is_some()),
        ("startupProbe", container.startup_probe.is_some()),
    ] {
        if is_set {
            errors.forbidden(&path.field(field), "may not be set for init containers without restartPolicy=Always");
        }
    }
    // RZ3
    for (index, policy) in container.resize_policy.iter().flatten().enumerate() {
        if policy.restart_policy == "RestartContainer" {
            let detail = "must be 'NotRequired' for init containers without restartPolicy=Always";
            errors.invalid(&path.field("resizePolicy").index(index), policy.restart_policy.as_str(), detail);
        }
    }
}

/// RR2, RZ3, RC5
fn restart(container: &Container, spec: &PodSpec, path: &Path, errors: &mut Errors) {
    errors.one_of(&path.field("restartPolicy"), container.restart_policy.as_ref(), &["Always", "Never", "OnFailure"]);
    let rules = container.restart_policy_rules.as_deref().unwrap_or_default();
    let at = path.field("restartPolicyRules");
    if !rules.is_empty() && container.restart_policy.is_none() {
        errors.required(&path.field("restartPolicy"), "must specify restartPolicy when restart rules are used");
    }
    if rules.len() > RULES_MAX {
        errors.too_many(&at, rules.len(), RULES_MAX);
    }
    for (index, rule) in rules.iter().enumerate() {
        let at = at.index(index);
        errors.one_of(&at.field("action"), Some(&rule.action), &["Restart", "RestartAllContainers"]);
        let Some(codes) = &rule.exit_codes else {
            errors.required(&at.field("exitCodes"), "must be specified");
            continue;
        };
        let at = at.field("exitCodes");
        errors.one_of(&at.field("operator"), Some(&codes.operator), &["In", "NotIn"]);
        let count = codes.values.as_ref().map_or(0, Vec::len);
        if count > EXIT_CODES_MAX {
            errors.too_many(&at.field("values"), count, EXIT_CODES_MAX);
        }
    }
    let is_never = spec.restart_policy.as_deref() == Some("Never");
    let mut seen = BTreeSet::new();
    for (index, policy) in container.resize_policy.iter().flatten().enumerate() {
        let at = path.field("resizePolicy").index(index);
        errors.one_of(&at.field("resourceName"), Some(&policy.resource_name), &["cpu", "memory"]);
        errors.one_of(&at.field("restartPolicy"), Some(&policy.restart_policy), &["NotRequired", "RestartContainer"]);
        if !seen.insert(&policy.resource_name) {
            errors.duplicate(&at, policy.resource_name.as_str());
        }
        if is_never && policy.restart_policy == "RestartContainer" {
            let detail = "must be 'NotRequired' when pod `restartPolicy` is 'Never'";
            errors.invalid(&at, policy.restart_policy.as_str(), detail);
        }
    }
}

/// VA8: the ephemeral containers of a pod that exists.
pub(super) fn ephemeral(spec: &PodSpec, path: &Path, errors: &mut Errors) {
    let others = spec.init_containers.iter().flatten().chain(&spec.containers);
    let mut seen: BTreeSet<&str> = others.map(|container| container.name.as_str()).collect();
    let targets = seen.clone();
    for (index, container) in spec.ephemeral_containers.iter().flatten().enumerate() {
        let path = path.index(index);
        unique_name(&container.name, &mut seen, &path, errors);
        if let Some(target) = container.target_container_name.as_deref().filter(|name| !name.is_empty())
            && !targets.contains(target)
        {
            errors.not_found(&path.field("targetContainerName"), target);
        }
        not_for_ephemeral(container, &path, errors);
        self::container(&as_container(container), spec, &path, errors);
    }
}

fn not_for_ephemeral(container: &EphemeralContainer, path: &Path, errors: &mut Errors) {
    let resources = container.resources.as_ref();
    let has_resources = resources.is_some_and(|r| r.limits.is_some() || r.requests.is_some() || r.claims.is_some());
    for (field, is_set) in [
        ("ports", container.ports.as_ref().is_some_and(|ports| !ports.is_empty())),
        ("livenessProbe", container.liveness_probe.is_some()),
        ("readinessProbe", container.readiness_probe.is_some()),
        ("startupProbe", container.startup_probe.is_some()),
        ("lifecycle", container.lifecycle.is_some()),
        ("resources", has_resources),
        ("resizePolicy", container.resize_policy.is_some()),
        ("restartPolicy", container.restart_policy.is_some()),
    ] {
        if is_set {
            errors.forbidden(&path.field(field), "cannot be set for an Ephemeral Container");
        }
    }
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let path = path.field("volumeMounts").index(index);
        for (field, value) in [("subPath", &mount.sub_path), ("subPathExpr", &mount.sub_path_expr)] {
            if value.as_deref().is_some_and(|text| !text.is_empty()) {
                errors.forbidden(&path.field(field), "cannot be set for an Ephemeral Container");
            }
        }
    }
}

/// The fields that all kinds of container have.
pub(crate) fn as_container(container: &EphemeralContainer) -> Container {
    Container {
        name: container.name.clone(),
        image: container.image.clone(),
        image_pull_policy: container.image_pull_policy.clone(),
        command: container.command.clone(),
        args: container.args.clone(),
        env: container.env.clone(),
        env_from: container.env_from.clone(),
        volume_mounts: container.volume_mounts.clone(),
        security_context: container.security_context.clone(),
        termination_message_policy: container.termination_message_policy.clone(),
        ..Container::default()
    }
}
