//! Keys, versions and objects.

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::manifest::typed;

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
        set_version(&mut value, version);
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
        // Only our own reader knows times that were never set; it takes longer.
        serde_json::from_str(&self.text).or_else(|error| typed::read(&self.value()).map_err(|_| error))
    }
}

/// Indexing would panic for what is no JSON object; such a value stays as it is.
fn set_version(value: &mut Value, version: Version) {
    let Some(object) = value.as_object_mut() else { return };
    let metadata = object.entry("metadata").or_insert(Value::Null);
    if metadata.is_null() {
        *metadata = Value::Object(Map::new());
    }
    if let Some(metadata) = metadata.as_object_mut() {
        metadata.insert("resourceVersion".to_owned(), Value::String(version.to_string()));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_version_goes_into_the_metadata_and_odd_values_do_no_harm() {
        for (value, expected) in [
            (json!({}), r#"{"metadata":{"resourceVersion":"7"}}"#),
            (json!({"metadata": null}), r#"{"metadata":{"resourceVersion":"7"}}"#),
            (json!({"metadata": {"resourceVersion": "1"}}), r#"{"metadata":{"resourceVersion":"7"}}"#),
            (json!({"metadata": "x"}), r#"{"metadata":"x"}"#),
            (json!("text"), r#""text""#),
        ] {
            assert_eq!(&*Object::new(Key::new("pods", "default", "a"), Version(7), value).text, expected);
        }
    }
}
