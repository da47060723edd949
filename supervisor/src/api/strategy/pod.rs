//! Pods: admission in the order of an API server (priority, runtime class, service account, limits), then validation, then
//! the Pod Security Standards.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Namespace, Pod, PodSpec, PodStatus, ServiceAccount};
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use serde_json::Value;

use super::super::call::Call;
use super::super::fields;
use super::super::status::Status;
use super::super::verbs::Part;
use super::{forbidden, json, quota, typed};
use crate::admission::validate;
use crate::admission::{defaults, pss};
use crate::convert;
use crate::convert::machine::{MIRROR, is_static, mirrored};
use crate::store::Key;

pub(super) fn create(call: &Call, value: Value) -> Result<Value, Status> {
    let mut pod: Pod = typed(&value)?;
    raise_grace(&mut pod);
    let name = pod.metadata.name.clone().unwrap_or_default();
    defaults::pod(&mut pod);
    admit(call, &name, &mut pod)?;
    defaults::pod(&mut pod);
    pod.status = Some(PodStatus {
        phase: Some("Pending".to_owned()),
        qos_class: pod.spec.as_ref().and_then(qos),
        ..PodStatus::default()
    });
    validate::validate_pod(&pod).map_err(|invalid| Status::invalid(call.target.resource, &name, &invalid))?;
    quota::check_pod(call, &name, &pod)?;
    secure(call, &name, &mut pod)?;
    validate::warnings(&pod).into_iter().for_each(|text| call.warn(text));
    json(&pod)
}

/// The class that requests and limits make.
fn qos(spec: &PodSpec) -> Option<String> {
    let resources = convert::resources::pod(spec).ok()?;
    Some(format!("{:?}", cgroupd::qos::qos_class(&resources)))
}

/// Fills in what depends on other objects.
fn admit(call: &Call, name: &str, pod: &mut Pod) -> Result<(), Status> {
    if is_static(pod) {
        return Err(forbidden(call, name, "mirror pods are made by their node alone"));
    }
    let Some(spec) = pod.spec.as_mut() else { return Ok(()) };
    let (classes, _) = call.state.store.list("priorityclasses.scheduling.k8s.io", None);
    let classes: Vec<PriorityClass> = classes.iter().filter_map(|object| object.read().ok()).collect();
    defaults::set_priority(spec, &classes).map_err(|error| forbidden(call, name, error))?;
    overhead(call, name, spec)?;
    service_account(call, name, spec)?;
    defaults::add_tolerations(spec);
    quota::set_defaults(call, pod);
    Ok(())
}

/// ST3: it says whose containers the pod's are: whoever may change a pod must not reach another's.
fn check_mirror(call: &Call, old: &Value, before: &Pod, pod: &Pod) -> Result<(), Status> {
    let detail = match (mirrored(before), mirrored(pod)) {
        (before, after) if before == after => return Ok(()),
        (None, _) => "may not add mirror pod annotation",
        (Some(_), _) => "may not remove or update mirror pod annotation",
    };
    let field = format!("metadata.annotations[{MIRROR}]");
    Err(super::forbidden_field(call.target.resource, old, &field, detail))
}

/// VA14, VO32
fn service_account(call: &Call, name: &str, spec: &mut PodSpec) -> Result<(), Status> {
    let namespace = call.target.space();
    let wanted =
        [&spec.service_account_name, &spec.service_account].into_iter().flatten().find(|name| !name.is_empty());
    let wanted = wanted.map_or("default", String::as_str);
    let stored = call.state.store.get(&Key::new("serviceaccounts", namespace, wanted));
    let account: Option<ServiceAccount> = stored.and_then(|object| object.read().ok());
    let account = defaults::set_service_account(spec, namespace, |_| account.as_ref());
    let account = account.map_err(|error| forbidden(call, name, error))?.clone();
    defaults::inject_token(spec, &account, &defaults::TokenVolume { suffix: fields::suffix() });
    Ok(())
}

/// What a runtime class costs, and where it runs.
fn overhead(call: &Call, name: &str, spec: &mut PodSpec) -> Result<(), Status> {
    let Some(wanted) = spec.runtime_class_name.clone().filter(|class| !class.is_empty()) else { return Ok(()) };
    let stored = call.state.store.get(&Key::new("runtimeclasses.node.k8s.io", "", &wanted));
    let class: Option<RuntimeClass> = stored.and_then(|object| object.read().ok());
    let Some(class) = class else {
        return Err(forbidden(call, name, format!("pod rejected: RuntimeClass {wanted:?} not found")));
    };
    let fixed = class.overhead.and_then(|overhead| overhead.pod_fixed);
    if spec.overhead.is_some() && spec.overhead != fixed {
        let why = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
        return Err(forbidden(call, name, why));
    }
    spec.overhead = fixed;
    let Some(scheduling) = class.scheduling else { return Ok(()) };
    for (key, value) in scheduling.node_selector.into_iter().flatten() {
        let selector = spec.node_selector.get_or_insert_default();
        if selector.get(&key).is_some_and(|own| *own != value) {
            let why = format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; pod.spec.nodeSelector[{key}] = {}",
                selector[&key]
            );
            return Err(forbidden(call, name, why));
        }
        selector.insert(key, value);
    }
    if let Some(tolerations) = scheduling.tolerations {
        let own = spec.tolerations.get_or_insert_default();
        let new: Vec<_> = tolerations.into_iter().filter(|toleration| !own.contains(toleration)).collect();
        own.extend(new);
    }
    Ok(())
}

/// PS1, PS2
fn secure(call: &Call, name: &str, pod: &mut Pod) -> Result<(), Status> {
    let namespace = call.state.store.get(&Key::new("namespaces", "", call.target.space()));
    let namespace: Namespace = namespace.and_then(|object| object.read().ok()).unwrap_or_default();
    let labels: BTreeMap<String, String> = namespace.metadata.labels.unwrap_or_default();
    let policy = pss::Policy::of_labels(&labels);
    let violations = |rule: pss::Rule| pss::evaluate(rule.level, rule.version, pod);
    let refused = violations(policy.enforce);
    if !refused.is_empty() {
        let message = pss::forbidden(name, policy.enforce.level, policy.enforce.version, &refused);
        let mut status = forbidden(call, name, "");
        status.message = message;
        return Err(status);
    }
    let warned = violations(policy.warn);
    if !warned.is_empty() {
        call.warn(pss::would_violate(policy.warn.level, policy.warn.version, &warned));
    }
    let audited = violations(policy.audit);
    if !audited.is_empty() {
        let text = pss::would_violate(policy.audit.level, policy.audit.version, &audited);
        tracing::info!("audit: pod {}/{name}: {text}", call.target.space());
    }
    Ok(())
}

pub(super) fn update(call: &Call, part: Part, old: &Value, new: Value) -> Result<Value, Status> {
    let (mut before, mut pod): (Pod, Pod) = (typed(old)?, typed(&new)?);
    [&mut before, &mut pod].into_iter().for_each(raise_grace);
    let name = before.metadata.name.clone().unwrap_or_default();
    let invalid = |error: &validate::Invalid| Status::invalid(call.target.resource, &name, error);
    check_mirror(call, old, &before, &pod)?;
    match part {
        Part::Status => {
            pod.spec.clone_from(&before.spec);
            return json(&pod);
        }
        Part::Binding => return json(&pod),
        Part::Main => {
            defaults::pod(&mut pod);
            keep_secondary(&before, &mut pod);
            if let Some(spec) = &mut pod.spec {
                defaults::add_tolerations(spec);
            }
            validate::validate_update(&before, &pod).map_err(|error| invalid(&error))?;
        }
        Part::EphemeralContainers => {
            only_ephemeral(&before, &mut pod);
            defaults::pod(&mut pod);
            validate::validate_ephemeral_containers(&before, &pod).map_err(|error| invalid(&error))?;
        }
        Part::Resize => {
            only_resources(&before, &mut pod);
            defaults::pod(&mut pod);
            resize(call, &name, &before, &pod)?;
        }
        Part::Finalize => return Err(Status::method_not_allowed()),
    }
    if images(&before) != images(&pod) {
        secure(call, &name, &mut pod)?;
    }
    json(&pod)
}

/// UP2: less than no grace is a second, wherever a pod is written; templates of pods stay as they are.
fn raise_grace(pod: &mut Pod) {
    if let Some(spec) = &mut pod.spec
        && spec.termination_grace_period_seconds.is_some_and(|seconds| seconds < 0)
    {
        spec.termination_grace_period_seconds = Some(1);
    }
}

/// Fields that clients leave out of what they send back.
fn keep_secondary(before: &Pod, pod: &mut Pod) {
    let (Some(old), Some(new)) = (&before.spec, &mut pod.spec) else { return };
    if new.service_account.is_none() && new.service_account_name == old.service_account_name {
        new.service_account.clone_from(&old.service_account);
    }
    if new.preemption_policy.is_none() {
        new.preemption_policy.clone_from(&old.preemption_policy);
    }
    if new.priority.is_none() {
        new.priority = old.priority;
    }
}

fn only_ephemeral(before: &Pod, pod: &mut Pod) {
    let wanted = pod.spec.take().and_then(|spec| spec.ephemeral_containers);
    pod.spec.clone_from(&before.spec);
    pod.status.clone_from(&before.status);
    if let Some(spec) = &mut pod.spec {
        spec.ephemeral_containers = wanted;
    }
}

/// Of a resize, only the amounts count. Containers that stand elsewhere or have other names stay for validation to refuse.
fn only_resources(before: &Pod, pod: &mut Pod) {
    let Some(mut spec) = before.spec.clone() else { return };
    let wanted = pod.spec.take().unwrap_or_default();
    spec.resources = wanted.resources;
    take_amounts(&mut spec.containers, wanted.containers);
    match (&mut spec.init_containers, wanted.init_containers) {
        (Some(kept), Some(sent)) => take_amounts(kept, sent),
        (kept, sent) => *kept = sent,
    }
    pod.spec = Some(spec);
    pod.status.clone_from(&before.status);
}

fn take_amounts(kept: &mut Vec<Container>, sent: Vec<Container>) {
    let same = kept.len() == sent.len() && kept.iter().zip(&sent).all(|(old, new)| old.name == new.name);
    if !same {
        *kept = sent;
        return;
    }
    for (old, new) in kept.iter_mut().zip(sent) {
        old.resources = new.resources;
        old.resize_policy = new.resize_policy;
    }
}

/// RZ1-RZ3; the class of a pod never changes (QS5).
fn resize(call: &Call, name: &str, before: &Pod, pod: &Pod) -> Result<(), Status> {
    let invalid = |error: &validate::Invalid| Status::invalid(call.target.resource, name, error);
    if is_static(before) {
        return Err(invalid(&validate::static_pods_stay()));
    }
    let class = |pod: &Pod| pod.spec.as_ref().and_then(qos);
    let other = class(pod).filter(|new| class(before).as_ref() != Some(new));
    validate::validate_resize(before, pod, other).map_err(|error| invalid(&error))?;
    quota::check_pod(call, name, pod)?;
    quota::check(call, &json(pod)?, Some(&json(before)?))
}

/// What a change must touch for the Pod Security Standards to look again.
fn images(pod: &Pod) -> Vec<(String, Option<String>)> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let plain =
        spec.init_containers.iter().flatten().chain(&spec.containers).map(|c| (c.name.clone(), c.image.clone()));
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|c| (c.name.clone(), c.image.clone()));
    plain.chain(ephemeral).collect()
}
