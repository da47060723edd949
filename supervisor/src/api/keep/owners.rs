//! Owner references: what goes with its owners, what keeps an owner until it is gone, and what stays behind.
//!
//! Two sets of keys follow the feeds of all resources: who names an owner, and who is being deleted in a way that
//! concerns dependents. A node on which nobody names an owner does nothing here.

mod fate;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::Notify;

use super::super::call::Call;
use super::super::fields;
use super::super::registry::{self, Class, RESOURCES, Resource};
use super::super::server::State;
use super::super::status::Status;
use super::super::verbs::{self, DeleteOptions, Policy};
use super::RESUME;
use crate::store::{Change, Durability, Key, Object, StoreError, WatchEventKind};
use fate::{Below, Fate, Owner, Reference, fate};

/// Changes that come together are looked at together.
const TOGETHER: Duration = Duration::from_millis(5);

/// What the feeds told so far.
#[derive(Debug, Default)]
struct Known {
    /// Objects that name an owner.
    dependents: RefCell<BTreeSet<Key>>,
    /// Objects that are being deleted, and wait for their dependents or for being left by them.
    leaving: RefCell<BTreeSet<Key>>,
    changed: Notify,
}

impl Known {
    fn take(&self, object: &Object) {
        let has = |text: &str| object.text.contains(text);
        let sets = [
            (&self.dependents, has("\"ownerReferences\"")),
            (&self.leaving, has("\"deletionTimestamp\"") && (has(Policy::FOREGROUND) || has(Policy::ORPHAN))),
        ];
        for (set, belongs) in sets {
            let mut set = set.borrow_mut();
            if belongs {
                set.insert(object.key.clone());
                self.changed.notify_one();
            } else {
                set.remove(&object.key);
            }
        }
    }

    fn forget(&self, key: &Key) {
        self.dependents.borrow_mut().remove(key);
        self.leaving.borrow_mut().remove(key);
        if !self.dependents.borrow().is_empty() || !self.leaving.borrow().is_empty() {
            self.changed.notify_one();
        }
    }
}

/// The resources whose objects can own others or be owned. Events are not: they end by themselves.
fn resources() -> impl Iterator<Item = &'static Resource> {
    RESOURCES.iter().filter(|resource| resource.class == Class::Stored && resource.plural != "events")
}

/// Sees to what becomes of objects whose owners go.
pub(crate) async fn owners(state: Rc<State>) {
    let known = Rc::new(Known::default());
    let mut feeds = tokio::task::JoinSet::new();
    for resource in resources() {
        feeds.spawn_local(follow(Rc::clone(&state), Rc::clone(&known), resource.storage()));
    }
    loop {
        known.changed.notified().await;
        tokio::time::sleep(TOGETHER).await;
        let dependents: Vec<Key> = known.dependents.borrow().iter().cloned().collect();
        let dependents: Vec<Dependent> =
            dependents.iter().filter_map(|key| Dependent::of(state.store.get(key)?)).collect();
        for dependent in &dependents {
            log(&dependent.object.key, look(&state, dependent, &dependents).await);
        }
        let leaving: Vec<Key> = known.leaving.borrow().iter().cloned().collect();
        for key in leaving {
            log(&key, leave(&state, &key, &dependents).await);
        }
    }
}

/// Whoever was faster caused another change, which is looked at in its turn.
fn log(key: &Key, result: Result<(), String>) {
    if let Err(error) = result {
        tracing::warn!("owners of {key}: {error}");
    }
}

async fn follow(state: Rc<State>, known: Rc<Known>, storage: String) {
    loop {
        let (objects, version) = state.store.list(&storage, None);
        objects.iter().for_each(|object| known.take(object));
        if let Ok(mut feed) = state.store.watch(&storage, None, version) {
            while let Some(event) = feed.next().await {
                match event.kind {
                    WatchEventKind::Added | WatchEventKind::Modified => known.take(&event.object),
                    WatchEventKind::Deleted => known.forget(&event.object.key),
                }
            }
        }
        tokio::time::sleep(RESUME).await;
    }
}

/// An object with its owners.
#[derive(Debug)]
struct Dependent {
    object: Object,
    uid: String,
    owners: Vec<Reference>,
}

impl Dependent {
    fn of(object: Object) -> Option<Self> {
        let value = object.value();
        let owners = Reference::all(&value);
        let uid = fields::text(&value, &["metadata", "uid"]).to_owned();
        (!owners.is_empty()).then_some(Self { object, uid, owners })
    }

    fn has_owner(&self, uid: &str) -> bool {
        self.owners.iter().any(|owner| owner.uid == uid)
    }
}

/// What is known of an owner. One of a kind that is not stored here is another cluster's: it is left alone.
fn owner(state: &State, dependent: &Key, reference: &Reference) -> Owner {
    let resource = registry::of_kind(&reference.api_version, &reference.kind);
    let Some(resource) = resource.filter(|resource| resource.class == Class::Stored) else { return Owner::Unknown };
    if resource.is_namespaced && dependent.namespace.is_empty() {
        return Owner::Unknown;
    }
    let namespace = if resource.is_namespaced { &*dependent.namespace } else { "" };
    let object = state.store.get(&Key::new(&resource.storage(), namespace, &reference.name));
    match object.map(|object| object.value()) {
        Some(value) if fields::text(&value, &["metadata", "uid"]) != reference.uid => Owner::Gone,
        Some(value) if is_leaving(&value, Policy::FOREGROUND) => Owner::Leaving,
        Some(_) => Owner::Present,
        None => Owner::Gone,
    }
}

/// Whether an object is being deleted and this finalizer keeps it.
fn is_leaving(value: &Value, finalizer: &str) -> bool {
    let finalizers = fields::at(value, &["metadata", "finalizers"]).and_then(Value::as_array);
    let is_deleted = !fields::text(value, &["metadata", "deletionTimestamp"]).is_empty();
    is_deleted && finalizers.is_some_and(|names| names.iter().any(|name| name == finalizer))
}

async fn look(state: &Rc<State>, dependent: &Dependent, all: &[Dependent]) -> Result<(), String> {
    let key = &dependent.object.key;
    let owners: Vec<Owner> = dependent.owners.iter().map(|reference| owner(state, key, reference)).collect();
    match fate(&owners, || below(dependent, all)) {
        Fate::Stays => Ok(()),
        Fate::Loses => {
            let is_lost = |reference: &Reference| matches!(owner(state, key, reference), Owner::Gone | Owner::Leaving);
            change(state, key, |value| Reference::drop_those(value, is_lost)).await
        }
        Fate::Goes(policy) => delete(state, dependent, policy).await,
        Fate::GoesUnblocking => {
            change(state, key, Reference::unblock).await?;
            delete(state, dependent, Policy::Foreground).await
        }
    }
}

fn below(dependent: &Dependent, all: &[Dependent]) -> Below {
    let own: Vec<&Dependent> = all.iter().filter(|other| other.has_owner(&dependent.uid)).collect();
    let is_waiting = |other: &&Dependent| is_leaving(&other.object.value(), Policy::FOREGROUND);
    if own.iter().any(is_waiting) {
        Below::Leaving
    } else if own.is_empty() {
        Below::Nobody
    } else {
        Below::Some
    }
}

/// Ends a deletion that concerns dependents: once they are released, or none of them holds it up any more.
async fn leave(state: &Rc<State>, key: &Key, dependents: &[Dependent]) -> Result<(), String> {
    let Some(object) = state.store.get(key) else { return Ok(()) };
    let value = object.value();
    let uid = fields::text(&value, &["metadata", "uid"]).to_owned();
    let own = || dependents.iter().filter(|dependent| dependent.has_owner(&uid));
    if is_leaving(&value, Policy::ORPHAN) {
        for dependent in own() {
            let is_owner = |reference: &Reference| reference.uid == uid;
            change(state, &dependent.object.key, |value| Reference::drop_those(value, is_owner)).await?;
        }
        return change(state, key, |value| drop_finalizer(value, Policy::ORPHAN)).await;
    }
    let blocks = |reference: &Reference| reference.uid == uid && reference.blocks;
    let is_there = |dependent: &&Dependent| state.store.get(&dependent.object.key).is_some();
    let is_held = own().filter(is_there).any(|dependent| dependent.owners.iter().any(blocks));
    if is_leaving(&value, Policy::FOREGROUND) && !is_held {
        return change(state, key, |value| drop_finalizer(value, Policy::FOREGROUND)).await;
    }
    Ok(())
}

fn drop_finalizer(value: &mut Value, finalizer: &str) {
    let metadata = fields::metadata(value);
    if let Some(names) = metadata.get_mut("finalizers").and_then(Value::as_array_mut) {
        names.retain(|name| name != finalizer);
        if names.is_empty() {
            metadata.remove("finalizers");
        }
    }
}

/// Changes a stored object, or deletes it when that was the last that kept it.
async fn change(state: &State, key: &Key, edit: impl Fn(&mut Value)) -> Result<(), String> {
    let Some(resource) = resources().find(|resource| resource.storage() == *key.resource) else { return Ok(()) };
    loop {
        let Some(object) = state.store.get(key) else { return Ok(()) };
        let old = object.value();
        let mut value = old.clone();
        edit(&mut value);
        if value == old {
            return Ok(());
        }
        let (key, expected) = (key.clone(), Some(object.version));
        let change = if verbs::is_over(resource, &value) {
            Change::Delete { key, expected }
        } else {
            Change::Update { key, expected, value }
        };
        match state.store.commit(change, Durability::Disk).await {
            Err(StoreError::Conflict { .. }) => {}
            Ok(_) | Err(StoreError::NotFound(_)) => return Ok(()),
            Err(error) => return Err(error.to_string()),
        }
    }
}

async fn delete(state: &Rc<State>, dependent: &Dependent, policy: Policy) -> Result<(), String> {
    let key = &dependent.object.key;
    let Some(resource) = resources().find(|resource| resource.storage() == *key.resource) else { return Ok(()) };
    let value = dependent.object.value();
    if !fields::text(&value, &["metadata", "deletionTimestamp"]).is_empty() {
        return Ok(());
    }
    let own = fields::at(&value, &["metadata", "finalizers"]).and_then(Value::as_array);
    let has = |finalizer: &str| own.is_some_and(|names| names.iter().any(|name| name == finalizer));
    let policy = if has(Policy::ORPHAN) {
        Policy::Orphan
    } else if has(Policy::FOREGROUND) {
        Policy::Foreground
    } else {
        policy
    };
    let options = DeleteOptions { uid: Some(dependent.uid.clone()), policy: Some(policy), ..DeleteOptions::default() };
    let call = Call::own(state, resource, &key.namespace);
    match verbs::remove(&call, &key.name, &options).await {
        Ok(_) => Ok(()),
        Err(status) if is_settled(&status) => Ok(()),
        Err(status) => Err(status.message),
    }
}

fn is_settled(status: &Status) -> bool {
    use super::super::status::Reason;
    matches!(status.reason, Reason::NotFound | Reason::Conflict)
}
