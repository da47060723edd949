//! The store from outside, on a real directory; and from below, on a disk that fails and loses power.

mod api;
mod cuts;
mod faults;
mod sim;

use std::future::Future;
use std::path::Path;

use serde_json::{Value, json};

use super::{Change, Damaged, Durability, Key, Object, Store, StoreError, Version};

/// Runs to the end; the writing thread wakes it.
fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

fn open(path: &Path) -> (Store, Vec<Damaged>) {
    Store::open(path).unwrap()
}

fn pod(name: &str) -> Key {
    Key::new("pods", "default", name)
}

fn value(key: &Key, note: &str) -> Value {
    json!({"metadata": {"name": &*key.name}, "note": note})
}

fn create(key: &Key, note: &str) -> Change {
    Change::Create { key: key.clone(), value: value(key, note) }
}

fn update(key: &Key, note: &str) -> Change {
    Change::Update { key: key.clone(), expected: None, value: value(key, note) }
}

fn update_at(key: &Key, expected: Version, note: &str) -> Change {
    Change::Update { key: key.clone(), expected: Some(expected), value: value(key, note) }
}

fn delete(key: &Key) -> Change {
    Change::Delete { key: key.clone(), expected: None }
}

fn note(object: &Object) -> String {
    object.value()["note"].as_str().unwrap_or_default().to_owned()
}

fn commit(store: &Store, change: Change, durability: Durability) -> Result<Object, StoreError> {
    wait(store.commit(change, durability))
}
