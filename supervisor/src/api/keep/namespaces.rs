//! Namespaces: what each has from the start, and how one ends.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};

use super::super::fields;
use super::super::registry::{Class, RESOURCES, Resource};
use super::super::server::State;
use super::super::verbs::{self, DeleteOptions, Plan};
use super::{RESUME, ensure};
use crate::store::{Change, Durability, Key, Object, StoreError, WatchEventKind};

/// How often namespaces that end are looked at again, beside each change.
const AGAIN: Duration = Duration::from_millis(500);
/// The ConfigMap with the certificate that pods trust.
const CA_MAP: &str = "kube-root-ca.crt";

/// Sees to it that every namespace has its account and its CA, and that deleted ones are emptied and go.
pub(crate) async fn namespaces(state: Rc<State>) {
    loop {
        let (objects, version) = state.store.list("namespaces", None);
        for object in &objects {
            look(&state, object).await;
        }
        let Ok(mut feed) = state.store.watch("namespaces", None, version) else {
            tokio::time::sleep(RESUME).await;
            continue;
        };
        loop {
            let is_ending = state.store.list("namespaces", None).0.iter().any(is_deleted);
            let event = tokio::select! {
                event = feed.next() => event,
                // What is in a namespace ends in its own time.
                () = tokio::time::sleep(AGAIN), if is_ending => {
                    for object in state.store.list("namespaces", None).0.iter().filter(|object| is_deleted(object)) {
                        look(&state, object).await;
                    }
                    continue;
                }
            };
            match event {
                Some(event) if event.kind != WatchEventKind::Deleted => look(&state, &event.object).await,
                Some(_) => {}
                None => break,
            }
        }
    }
}

fn is_deleted(object: &Object) -> bool {
    !fields::text(&object.value(), &["metadata", "deletionTimestamp"]).is_empty()
}

async fn look(state: &State, namespace: &Object) {
    let name = &namespace.key.name;
    let result = if is_deleted(namespace) { end(state, name).await } else { furnish(state, name).await };
    match result {
        // Somebody else changed something: there is another event about it.
        Ok(()) | Err(StoreError::Conflict { .. } | StoreError::NotFound(_)) => {}
        Err(error) => tracing::warn!("namespace {name}: {error}"),
    }
}

/// The account `default`, and the CA's certificate.
pub(crate) async fn furnish(state: &State, name: &str) -> Result<(), StoreError> {
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": name},
    });
    ensure(state, &Key::new("serviceaccounts", name, "default"), account).await?;
    let note = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": CA_MAP, "namespace": name, "annotations": {"kubernetes.io/description": note}},
        "data": {"ca.crt": state.pki.ca},
    });
    let key = Key::new("configmaps", name, CA_MAP);
    ensure(state, &key, map).await?;
    let Some(stored) = state.store.get(&key) else { return Ok(()) };
    let mut value = stored.value();
    if fields::text(&value, &["data", "ca.crt"]) == state.pki.ca {
        return Ok(());
    }
    fields::object(&mut value, "data").insert("ca.crt".to_owned(), state.pki.ca.as_str().into());
    let change = Change::Update { key, expected: Some(stored.version), value };
    state.store.commit(change, Durability::Disk).await.map(drop)
}

/// Deletes what is in a namespace, and the namespace once nothing is left.
async fn end(state: &State, name: &str) -> Result<(), StoreError> {
    let mut left = Left::default();
    for resource in RESOURCES.iter().filter(|resource| resource.class == Class::Stored && resource.is_namespaced) {
        for object in state.store.list(&resource.storage(), Some(name)).0 {
            if !delete(state, resource, &object).await? {
                left.count(resource, &object.value());
            }
        }
    }
    let key = Key::new("namespaces", "", name);
    let Some(namespace) = state.store.get(&key) else { return Ok(()) };
    let old = namespace.value();
    let mut value = old.clone();
    left.tell(&mut value, jiff::Timestamp::now());
    if left.is_empty() {
        drop_finalizer(&mut value);
    }
    let is_free =
        !fields::is_filled(&value, &["spec", "finalizers"]) && !fields::is_filled(&value, &["metadata", "finalizers"]);
    let expected = Some(namespace.version);
    let change = if is_free {
        Change::Delete { key, expected }
    } else if value == old {
        return Ok(());
    } else {
        Change::Update { key, expected, value }
    };
    state.store.commit(change, Durability::Disk).await.map(drop)
}

/// Takes out what stands for the content of a namespace; other finalizers are others' to take out.
fn drop_finalizer(namespace: &mut Value) {
    let spec = fields::object(namespace, "spec");
    let Some(finalizers) = spec.get_mut("finalizers").and_then(Value::as_array_mut) else { return };
    finalizers.retain(|finalizer| finalizer != "kubernetes");
    if finalizers.is_empty() {
        spec.remove("finalizers");
    }
}

/// What is still in a namespace that ends.
#[derive(Debug, Default)]
struct Left {
    /// By resource, as `pods.`, `leases.coordination.k8s.io`.
    resources: BTreeMap<String, usize>,
    finalizers: BTreeMap<String, usize>,
}

impl Left {
    fn count(&mut self, resource: &Resource, object: &Value) {
        *self.resources.entry(format!("{}.{}", resource.plural, resource.group)).or_default() += 1;
        let finalizers = fields::at(object, &["metadata", "finalizers"]).and_then(Value::as_array);
        for finalizer in finalizers.into_iter().flatten().filter_map(Value::as_str) {
            *self.finalizers.entry(finalizer.to_owned()).or_default() += 1;
        }
    }

    fn is_empty(&self) -> bool {
        self.resources.is_empty()
    }

    /// Writes it into the conditions of the namespace, in the API server's words.
    fn tell(&self, namespace: &mut Value, now: jiff::Timestamp) {
        let list = |counts: &BTreeMap<String, usize>, verb: &str| {
            let parts: Vec<String> =
                counts.iter().map(|(name, count)| format!("{name} {verb} {count} resource instances")).collect();
            parts.join(", ")
        };
        let content = if self.resources.is_empty() {
            ("False", "ContentRemoved", "All content successfully removed".to_owned())
        } else {
            let text = list(&self.resources, "has");
            ("True", "SomeResourcesRemain", format!("Some resources are remaining: {text}"))
        };
        let finalizers = if self.finalizers.is_empty() {
            ("False", "ContentHasNoFinalizers", "All content-preserving finalizers finished".to_owned())
        } else {
            let text = list(&self.finalizers, "in");
            let message = format!("Some content in the namespace has finalizers remaining: {text}");
            ("True", "SomeFinalizersRemain", message)
        };
        let well = |reason, message: &str| ("False", reason, message.to_owned());
        for (kind, (status, reason, message)) in [
            ("NamespaceDeletionDiscoveryFailure", well("ResourcesDiscovered", "All resources successfully discovered")),
            (
                "NamespaceDeletionGroupVersionParsingFailure",
                well("ParsedGroupVersions", "All legacy kube types successfully parsed"),
            ),
            (
                "NamespaceDeletionContentFailure",
                well("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
            ),
            ("NamespaceContentRemaining", content),
            ("NamespaceFinalizersRemaining", finalizers),
        ] {
            let new = json!({"type": kind, "status": status, "reason": reason, "message": message});
            set_condition(namespace, new, now);
        }
    }
}

/// Sets a condition; the time of its last turn stays unless it turns.
fn set_condition(namespace: &mut Value, mut new: Value, now: jiff::Timestamp) {
    let status = fields::object(namespace, "status");
    let list = status.entry("conditions").or_insert_with(|| json!([]));
    let Some(list) = list.as_array_mut() else { return };
    let known = list.iter_mut().find(|known| known["type"] == new["type"]);
    let same = known.as_ref().filter(|known| known["status"] == new["status"]);
    let since = same.map_or_else(|| fields::time(now), |known| known["lastTransitionTime"].clone());
    new["lastTransitionTime"] = since;
    match known {
        Some(known) => *known = new,
        None => list.push(new),
    }
}

/// Deletes an object, or asks its keeper to; true when it is gone.
async fn delete(state: &State, resource: &Resource, object: &Object) -> Result<bool, StoreError> {
    let (key, expected) = (object.key.clone(), Some(object.version));
    let plan = verbs::plan(resource, &object.value(), &DeleteOptions::default(), jiff::Timestamp::now());
    let is_gone = plan == Plan::Remove;
    let change = match plan {
        Plan::Nothing => return Ok(false),
        Plan::Remove => Change::Delete { key, expected },
        Plan::Mark(value) => Change::Update { key, expected, value },
    };
    state.store.commit(change, Durability::Disk).await?;
    Ok(is_gone)
}

/// Brings back the account and the CA of a namespace when somebody deletes them.
pub(crate) async fn accounts(state: Rc<State>) {
    loop {
        let version = state.store.version();
        let feeds = ("serviceaccounts", "configmaps");
        let (Ok(mut accounts), Ok(mut maps)) =
            (state.store.watch(feeds.0, None, version), state.store.watch(feeds.1, None, version))
        else {
            tokio::time::sleep(RESUME).await;
            continue;
        };
        loop {
            let event = tokio::select! {
                event = accounts.next() => event,
                event = maps.next() => event,
            };
            let Some(event) = event else { break };
            let key = &event.object.key;
            let is_ours = matches!(&*key.name, "default" | CA_MAP);
            if !is_ours || event.kind == WatchEventKind::Added {
                continue;
            }
            if let Some(namespace) = state.store.get(&Key::new("namespaces", "", &key.namespace)) {
                look(&state, &namespace).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::registry;
    use super::*;

    #[test]
    fn a_namespace_says_what_keeps_it() {
        let at = |second| jiff::Timestamp::from_second(second).unwrap();
        let maps = registry::find("", "v1", "configmaps").unwrap();
        let mut left = Left::default();
        left.count(maps, &json!({"metadata": {"finalizers": ["a.b/c"]}}));
        let mut namespace = json!({"spec": {"finalizers": ["kubernetes", "d.e/f"]}});
        left.tell(&mut namespace, at(10));
        let condition = |namespace: &Value, kind: &str| {
            let all = namespace["status"]["conditions"].as_array().unwrap();
            all.iter().find(|own| own["type"] == kind).unwrap().clone()
        };
        let content = condition(&namespace, "NamespaceContentRemaining");
        assert_eq!(content["message"], "Some resources are remaining: configmaps. has 1 resource instances");
        let finalizers = condition(&namespace, "NamespaceFinalizersRemaining");
        let expected = "Some content in the namespace has finalizers remaining: a.b/c in 1 resource instances";
        assert_eq!((&finalizers["status"], &finalizers["message"]), (&json!("True"), &json!(expected)));
        let before = namespace.clone();
        left.tell(&mut namespace, at(20));
        assert_eq!(namespace, before);
        Left::default().tell(&mut namespace, at(30));
        let content = condition(&namespace, "NamespaceContentRemaining");
        assert_eq!((&content["status"], &content["lastTransitionTime"]), (&json!("False"), &fields::time(at(30))));
        drop_finalizer(&mut namespace);
        assert_eq!(namespace["spec"]["finalizers"], json!(["d.e/f"]));
    }
}
