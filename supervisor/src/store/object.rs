//! Keys, versions and objects.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

/// Which object: `pods` in `default` called `web`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The plural name, with the group for all but the core group: `pods`, `leases.coordination.k8s.io`.
    pub resource: Arc<str>,
    /// Empty for what has no namespace.
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl Key {
    pub fn new(resource: &str, namespace: &str, name: &str) -> Self {
        Self { resource: resource.into(), namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.namespace {
            "" => write!(f, "{} {:?}", self.resource, &*self.name),
            namespace => write!(f, "{} {:?} in namespace {namespace:?}", self.resource, &*self.name),
        }
    }
}

/// A `resourceVersion`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u64);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A committed object: its JSON as text, with `metadata.resourceVersion` in it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Object {
    pub key: Key,
    pub version: Version,
    pub text: Arc<str>,
}

impl Object {
    pub(super) fn new(key: Key, version: Version, mut value: Value) -> Self {
        value["metadata"]["resourceVersion"] = Value::String(version.to_string());
        Self { key, version, text: value.to_string().into() }
    }

    pub fn value(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_default()
    }

    /// The object as its type.
    ///
    /// # Errors
    /// What is stored is not of this type.
    pub fn read<T: serde::de::DeserializeOwned>(&self) -> serde_json::Result<T> {
        serde_json::from_str(&self.text)
    }
}
