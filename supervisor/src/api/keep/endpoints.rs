//! Endpoints and EndpointSlices: made for services that say which pods they mean, and mirrored into slices for those
//! whose Endpoints a user writes.

mod wanted;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Service};
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::super::fields;
use super::super::server::State;
use super::RESUME;
use crate::store::{Change, Durability, Key, Object, StoreError, Version, WatchEventKind};
use wanted::{Keeper, Slice};

/// Changes that come together are looked at together.
const TOGETHER: Duration = Duration::from_millis(20);
const SERVICES: &str = "services";
const PODS: &str = "pods";
const ENDPOINTS: &str = "endpoints";
const SLICES: &str = "endpointslices.discovery.k8s.io";

/// What the feeds told since the last look.
#[derive(Debug, Default)]
struct News {
    /// Namespaces in which something changed.
    namespaces: RefCell<BTreeSet<String>>,
    /// Services that were deleted: Endpoints of their name go with them, whoever wrote them.
    gone: RefCell<BTreeSet<Key>>,
    come: Notify,
}

impl News {
    fn take(&self, key: &Key, is_gone: bool) {
        self.namespaces.borrow_mut().insert((*key.namespace).to_owned());
        if is_gone && &*key.resource == SERVICES {
            self.gone.borrow_mut().insert(key.clone());
        }
        self.come.notify_one();
    }
}

/// Follows services and pods. A node without services does nothing here.
pub(crate) async fn endpoints(state: Rc<State>) {
    let news = Rc::new(News::default());
    let mut feeds = tokio::task::JoinSet::new();
    for resource in [SERVICES, PODS, ENDPOINTS, SLICES] {
        feeds.spawn_local(follow(Rc::clone(&state), Rc::clone(&news), resource));
    }
    loop {
        news.come.notified().await;
        tokio::time::sleep(TOGETHER).await;
        for service in news.gone.take() {
            if state.store.get(&service).is_none() {
                let key = Key::new(ENDPOINTS, &service.namespace, &service.name);
                log(&service.namespace, remove(&state, state.store.get(&key)).await);
            }
        }
        for namespace in news.namespaces.take() {
            let result = look(&state, &namespace).await;
            log(&namespace, result);
        }
    }
}

/// Whoever was faster caused another change, which is looked at in its turn.
fn log(namespace: &str, result: Result<(), StoreError>) {
    match result {
        Ok(()) | Err(StoreError::Conflict { .. } | StoreError::NotFound(_) | StoreError::Exists(_)) => {}
        Err(error) => tracing::warn!("endpoints in {namespace}: {error}"),
    }
}

async fn follow(state: Rc<State>, news: Rc<News>, resource: &'static str) {
    loop {
        let (objects, version) = state.store.list(resource, None);
        objects.iter().for_each(|object| news.take(&object.key, false));
        if let Ok(mut feed) = state.store.watch(resource, None, version) {
            while let Some(event) = feed.next().await {
                news.take(&event.object.key, event.kind == WatchEventKind::Deleted);
            }
        }
        tokio::time::sleep(RESUME).await;
    }
}

/// Makes a namespace as it should be.
async fn look(state: &State, namespace: &str) -> Result<(), StoreError> {
    let services: Vec<Service> = read(state, SERVICES, namespace);
    let stored = |resource| state.store.list(resource, Some(namespace)).0;
    let (old_endpoints, old_slices) = (stored(ENDPOINTS), stored(SLICES));
    if services.is_empty() && old_endpoints.is_empty() && old_slices.is_empty() {
        return Ok(());
    }
    let is_wanted = |name: &str| {
        services.iter().any(|service| service.metadata.name.as_deref() == Some(name) && wanted::has_selector(service))
    };
    for object in old_endpoints {
        let value = object.value();
        if wanted::is_made(&value) && !is_wanted(&object.key.name) {
            remove(state, Some(object)).await?;
        }
    }
    let mut slices = Vec::new();
    if is_open(state, namespace) {
        let has_selectors = services.iter().any(wanted::has_selector);
        let pods: Vec<Pod> = if has_selectors { read(state, PODS, namespace) } else { Vec::new() };
        for service in services.iter().filter(|service| !is_elsewhere(service) && !is_going(service)) {
            let name = service.metadata.name.as_deref().unwrap_or_default();
            let key = Key::new(ENDPOINTS, namespace, name);
            if wanted::has_selector(service) {
                write(state, &key, wanted::endpoints(service, &pods)).await?;
                slices.extend(wanted::slices(service, &pods));
            } else if let Some(own) = state.store.get(&key) {
                slices.extend(wanted::mirrored(&own.value()));
            }
        }
    }
    settle(state, namespace, old_slices, slices).await
}

fn read<T: serde::de::DeserializeOwned>(state: &State, resource: &str, namespace: &str) -> Vec<T> {
    let (objects, _) = state.store.list(resource, Some(namespace));
    objects.iter().filter_map(|object| object.read().ok()).collect()
}

/// Whether a namespace takes new objects.
fn is_open(state: &State, namespace: &str) -> bool {
    let object = state.store.get(&Key::new("namespaces", "", namespace));
    object.is_some_and(|object| fields::text(&object.value(), &["metadata", "deletionTimestamp"]).is_empty())
}

/// A service that is a name in the DNS has no endpoints.
fn is_elsewhere(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| spec.type_.as_deref() == Some("ExternalName"))
}

/// What waits until its slices are gone gets no new ones.
fn is_going(service: &Service) -> bool {
    service.metadata.deletion_timestamp.is_some()
}

async fn remove(state: &State, object: Option<Object>) -> Result<(), StoreError> {
    let Some(object) = object else { return Ok(()) };
    // What somebody else keeps is his to end.
    if fields::is_filled(&object.value(), &["metadata", "finalizers"]) {
        return Ok(());
    }
    let change = Change::Delete { key: object.key, expected: Some(object.version) };
    state.store.commit(change, Durability::Kernel).await.map(drop)
}

/// Stores the Endpoints of a service.
async fn write(state: &State, key: &Key, (labels, subsets): (Value, Value)) -> Result<(), StoreError> {
    let stored = state.store.get(key).map(|object| (object.version, object.value()));
    let fresh = || fresh("v1", "Endpoints", &key.namespace, &key.name);
    let mut value = stored.as_ref().map_or_else(fresh, |(_, old)| old.clone());
    fields::metadata(&mut value).insert("labels".to_owned(), labels);
    if fields::is_filled(&json!({"subsets": subsets}), &["subsets"]) {
        value["subsets"] = subsets;
    } else {
        fields::entries(&mut value).remove("subsets");
    }
    commit(state, key.clone(), stored, value).await
}

fn fresh(version: &str, kind: &str, namespace: &str, name: &str) -> Value {
    json!({"apiVersion": version, "kind": kind, "metadata": {
        "name": name, "namespace": namespace, "uid": uuid::Uuid::new_v4().to_string(),
        "creationTimestamp": fields::time(Timestamp::now()),
    }})
}

/// Stores an object, if it says something else than before.
async fn commit(state: &State, key: Key, old: Option<(Version, Value)>, value: Value) -> Result<(), StoreError> {
    let change = match old {
        Some((_, old)) if old == value => return Ok(()),
        Some((version, _)) => Change::Update { key, expected: Some(version), value },
        None => Change::Create { key, value },
    };
    state.store.commit(change, Durability::Kernel).await.map(drop)
}

/// Brings the slices of a namespace from what they are to what they should be, with as few changes as that takes.
async fn settle(state: &State, namespace: &str, old: Vec<Object>, wanted: Vec<Slice>) -> Result<(), StoreError> {
    let mut old: Vec<(Object, Value)> = old
        .into_iter()
        .map(|object| {
            let value = object.value();
            (object, value)
        })
        .filter(|(_, value)| Keeper::of(value).is_some())
        .collect();
    let is_own = |slice: &Slice, value: &Value| {
        Keeper::of(value) == Some(slice.keeper)
            && wanted::service_of(value) == slice.owner
            && value["addressType"] == slice.family
    };
    let mut far = Vec::new();
    for slice in wanted {
        match old.iter().position(|(_, value)| is_own(&slice, value) && slice.is_near(value)) {
            Some(at) => put(state, namespace, &slice, Some(old.swap_remove(at))).await?,
            None => far.push(slice),
        }
    }
    for slice in far {
        let at = old.iter().position(|(_, value)| is_own(&slice, value));
        put(state, namespace, &slice, at.map(|at| old.swap_remove(at))).await?;
    }
    for (object, _) in old {
        remove(state, Some(object)).await?;
    }
    Ok(())
}

async fn put(state: &State, namespace: &str, slice: &Slice, stored: Option<(Object, Value)>) -> Result<(), StoreError> {
    let Some((object, old)) = stored else {
        let prefix = format!("{}-", slice.owner);
        let name = format!("{prefix}{}", fields::suffix());
        let mut value = fresh("discovery.k8s.io/v1", "EndpointSlice", namespace, &name);
        fields::metadata(&mut value).insert("generateName".to_owned(), prefix.into());
        slice.write(&mut value);
        return commit(state, Key::new(SLICES, namespace, &name), None, value).await;
    };
    let mut value = old.clone();
    slice.write(&mut value);
    commit(state, object.key, Some((object.version, old)), value).await
}
