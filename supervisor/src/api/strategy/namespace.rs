//! Namespaces, and what their state means for what is in them.

use k8s_openapi::api::core::v1::Namespace;
use serde_json::{Value, json};

use super::super::call::Call;
use super::super::fields;
use super::super::registry::{self, Resource};
use super::super::status::Status;
use super::{json as as_json, typed, valid};
use crate::admission::{defaults, pss};
use crate::store::Key;

/// Namespaces that stay.
const IMMORTAL: [&str; 3] = ["default", "kube-public", "kube-system"];
/// The finalizer that keeps a namespace until it is empty.
const FINALIZER: &str = "kubernetes";

/// Something can be created in a namespace that is there and stays.
pub(super) fn must_take(call: &Call, value: &Value) -> Result<(), Status> {
    let resource = call.target.resource;
    let Some(name) = call.target.namespace.as_deref().filter(|_| resource.is_namespaced) else { return Ok(()) };
    let Some(namespace) = call.state.store.get(&Key::new("namespaces", "", name)) else {
        let namespaces = registry::find("", "v1", "namespaces").unwrap_or(resource);
        return Err(Status::not_found(namespaces, name));
    };
    // Events about the end of a namespace are still heard.
    if resource.plural == "events" || fields::text(&namespace.value(), &["metadata", "deletionTimestamp"]).is_empty() {
        return Ok(());
    }
    let why = format!("unable to create new content in namespace {name} because it is being terminated");
    let mut status = Status::forbidden(resource, fields::text(value, &["metadata", "name"]), why);
    if let Some(details) = &mut status.details {
        details["causes"] = json!([{
            "reason": "NamespaceTerminating",
            "message": format!("namespace {name} is being terminated"),
            "field": "metadata.namespace",
        }]);
    }
    Err(status)
}

pub(super) fn create(value: Value) -> Result<Value, Status> {
    let mut namespace: Namespace = typed(&value)?;
    defaults::namespace(&mut namespace);
    namespace.spec.get_or_insert_default().finalizers = Some(vec![FINALIZER.to_owned()]);
    let mut value = as_json(&namespace)?;
    fields::entries(&mut value).insert("status".to_owned(), json!({"phase": "Active"}));
    Ok(value)
}

pub(super) fn update(call: &Call, old: &Value, mut new: Value) -> Result<Value, Status> {
    // Only `finalize` lets go of a namespace.
    fields::copy(old, fields::entries(&mut new), "spec");
    let new = valid(call, Some(old), new)?;
    warn_of_pods(call, old, &new)?;
    Ok(new)
}

/// PS5: a stricter level does not touch pods that are there; the client hears of those that it would refuse.
fn warn_of_pods(call: &Call, old: &Value, new: &Value) -> Result<(), Status> {
    let policy = |value: &Value| -> Result<pss::Policy, Status> {
        let labels = fields::at(value, &["metadata", "labels"]).cloned().unwrap_or_else(|| json!({}));
        Ok(pss::Policy::of_labels(&typed(&labels)?))
    };
    let rule = policy(new)?.enforce;
    if rule == policy(old)?.enforce {
        return Ok(());
    }
    let name = fields::text(new, &["metadata", "name"]);
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    for object in call.state.store.list("pods", Some(name)).0 {
        let Ok(pod) = object.read() else { continue };
        let violations = pss::evaluate(rule.level, rule.version, &pod);
        if violations.is_empty() {
            continue;
        }
        let reasons: Vec<String> = violations.into_iter().map(|violation| violation.reason).collect();
        let reasons = reasons.join(", ");
        match found.iter_mut().find(|(known, _)| *known == reasons) {
            Some((_, pods)) => pods.push((*object.key.name).to_owned()),
            None => found.push((reasons, vec![(*object.key.name).to_owned()])),
        }
    }
    if !found.is_empty() {
        let level = format!("{}:{}", rule.level, rule.version);
        call.warn(format!("existing pods in namespace {name:?} violate the new PodSecurity enforce level {level:?}"));
    }
    for (reasons, pods) in found {
        let others = match pods.len() {
            1 => String::new(),
            2 => " (and 1 other pod)".to_owned(),
            count => format!(" (and {} other pods)", count - 1),
        };
        call.warn(format!("{}{others}: {reasons}", pods[0]));
    }
    Ok(())
}

pub(super) fn may_delete(resource: &Resource, name: &str) -> Result<(), Status> {
    if resource.plural == "namespaces" && IMMORTAL.contains(&name) {
        return Err(Status::forbidden(resource, name, "this namespace may not be deleted"));
    }
    Ok(())
}
