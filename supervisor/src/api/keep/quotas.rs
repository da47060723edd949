//! `status.used` of ResourceQuotas follows what there is.

use std::rc::Rc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ResourceQuota;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::super::fields;
use super::super::registry::{Class, RESOURCES};
use super::super::server::State;
use super::super::strategy;
use super::RESUME;
use crate::store::{Change, Durability, Object, StoreError, WatchEvent, WatchEventKind};

/// Changes that come together are counted together.
const TOGETHER: Duration = Duration::from_millis(20);
const QUOTAS: &str = "resourcequotas";

/// Counts anew after every change that a quota may speak of. Without quotas there is nothing to do.
pub(crate) async fn quotas(state: Rc<State>) {
    let changed = Rc::new(Notify::new());
    let mut feeds = tokio::task::JoinSet::new();
    for resource in RESOURCES.iter().filter(|resource| resource.class == Class::Stored && resource.is_namespaced) {
        feeds.spawn_local(follow(Rc::clone(&state), Rc::clone(&changed), resource.storage()));
    }
    loop {
        for quota in state.store.list(QUOTAS, None).0 {
            match count(&state, &quota).await {
                Ok(()) | Err(StoreError::Conflict { .. } | StoreError::NotFound(_)) => {}
                Err(error) => tracing::warn!("{}: {error}", quota.key),
            }
        }
        changed.notified().await;
        tokio::time::sleep(TOGETHER).await;
    }
}

async fn follow(state: Rc<State>, changed: Rc<Notify>, storage: String) {
    loop {
        if let Ok(mut feed) = state.store.watch(&storage, None, state.store.version()) {
            while let Some(event) = feed.next().await {
                if state.store.count(QUOTAS) > 0 && matters(&event) {
                    changed.notify_one();
                }
            }
        }
        changed.notify_one();
        tokio::time::sleep(RESUME).await;
    }
}

/// Of most kinds, being there is all that counts.
fn matters(event: &WatchEvent) -> bool {
    let is_measured = matches!(&*event.object.key.resource, "pods" | "services" | "persistentvolumeclaims" | QUOTAS);
    is_measured || event.kind != WatchEventKind::Modified
}

async fn count(state: &State, object: &Object) -> Result<(), StoreError> {
    let Ok(quota) = object.read::<ResourceQuota>() else { return Ok(()) };
    let mut value = object.value();
    let hard = fields::at(&value, &["spec", "hard"]).cloned().unwrap_or_else(|| json!({}));
    let status = json!({"hard": hard, "used": strategy::usage(&state.store, &object.key.namespace, &quota)});
    let is_known = |key: &str| fields::at(&value, &["status", key]).unwrap_or(&Value::Null) == &status[key];
    if is_known("hard") && is_known("used") {
        return Ok(());
    }
    fields::entries(&mut value).insert("status".to_owned(), status);
    let change = Change::Update { key: object.key.clone(), expected: Some(object.version), value };
    state.store.commit(change, Durability::Kernel).await.map(drop)
}
