//! The node's objects: one file each, durable before anyone hears of them.
//!
//! Every change goes through one queue, in order. What is committed is what readers and watchers see; preconditions are
//! checked against what is queued, so two writers of one object never both succeed. Versions are those of Kubernetes:
//! one counter for all objects, never going back, also over restarts.

mod object;
mod watch;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use serde_json::Value;

pub use object::{Key, Object, Version};
pub use watch::{Watch, WatchEvent, WatchEventKind};

/// What is wrong with a change, or with the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{0} already exists")]
    Exists(Key),
    #[error("{0} not found")]
    NotFound(Key),
    #[error("{key} has been modified: version {expected} was expected, {found} is stored")]
    Conflict { key: Key, expected: Version, found: Version },
    #[error("{key} has uid {found}, not {expected}")]
    OtherUid { key: Key, expected: String, found: String },
    /// A watch or a list from a version that is no longer remembered.
    #[error("too old resource version: {asked} ({oldest})")]
    Gone { asked: Version, oldest: Version },
    #[error("{key}: {bytes} bytes are more than the {limit} that an object may have")]
    TooLarge { key: Key, bytes: usize, limit: usize },
    #[error("there are {limit} objects of {resource} already")]
    TooMany { resource: String, limit: usize },
    #[error("{operation} {path}: {cause}")]
    Io { operation: &'static str, path: std::path::PathBuf, cause: std::io::Error },
}

/// One change of one object. The store sets `metadata.resourceVersion`; everything else is the caller's.
#[derive(Debug, Clone)]
pub enum Change {
    Create {
        key: Key,
        value: Value,
    },
    /// Without `expected`, whatever is stored is replaced.
    Update {
        key: Key,
        expected: Option<Version>,
        value: Value,
    },
    /// Answers the object as it was, with the version of its deletion.
    Delete {
        key: Key,
        expected: Option<Version>,
    },
}

impl Change {
    pub fn key(&self) -> &Key {
        match self {
            Self::Create { key, .. } | Self::Update { key, .. } | Self::Delete { key, .. } => key,
        }
    }
}

/// When a change counts as done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// On the disk: it outlives a power cut. For everything that a client is told.
    Disk,
    /// With the kernel: it outlives the daemon. For status and events, which the node itself finds again.
    Kernel,
}

/// A handle; clones speak of the same store. Lives on one thread.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Rc<RefCell<Inner>>,
}

#[derive(Debug)]
struct Inner {
    objects: BTreeMap<Key, Object>,
    version: Version,
    watchers: watch::Watchers,
}

impl Store {
    /// Opens or makes the store in a directory. Damaged files are put aside and named, the rest is loaded.
    ///
    /// # Errors
    /// The directory can't be read or written.
    pub fn open(_dir: &Path) -> Result<(Self, Vec<Damaged>), StoreError> {
        let inner = Inner { objects: BTreeMap::new(), version: Version(1), watchers: watch::Watchers::default() };
        Ok((Self { inner: Rc::new(RefCell::new(inner)) }, Vec::new()))
    }

    pub fn get(&self, key: &Key) -> Option<Object> {
        self.inner.borrow().objects.get(key).cloned()
    }

    /// All objects of a resource, or those in one namespace, by namespace and name; and the version of this view.
    pub fn list(&self, resource: &str, namespace: Option<&str>) -> (Vec<Object>, Version) {
        let inner = self.inner.borrow();
        let wanted = |key: &Key| *key.resource == *resource && namespace.is_none_or(|own| *own == *key.namespace);
        let found = inner.objects.iter().filter(|(key, _)| wanted(key)).map(|(_, object)| object.clone()).collect();
        (found, inner.version)
    }

    /// The newest version.
    pub fn version(&self) -> Version {
        self.inner.borrow().version
    }

    /// Every later change of a resource, in order, none left out.
    ///
    /// # Errors
    /// [`StoreError::Gone`] when changes after `from` are no longer remembered.
    pub fn watch(&self, resource: &str, namespace: Option<&str>, from: Version) -> Result<Watch, StoreError> {
        self.inner.borrow_mut().watchers.watch(resource, namespace, from)
    }

    /// Queues a change at once, in the order of the calls, and answers when it is committed. The change happens even if
    /// the answer is not awaited.
    pub fn commit(
        &self,
        change: Change,
        _durability: Durability,
    ) -> impl Future<Output = Result<Object, StoreError>> + use<> {
        let result = self.inner.borrow_mut().apply(change);
        async { result }
    }
}

/// A file that was not what it should be; it was moved to `quarantine/` and its object is missing.
#[derive(Debug)]
pub struct Damaged {
    pub path: std::path::PathBuf,
    pub cause: String,
}

impl Inner {
    fn apply(&mut self, change: Change) -> Result<Object, StoreError> {
        let key = change.key().clone();
        let stored = self.objects.get(&key);
        let fits = |expected: Option<Version>| match (stored, expected) {
            (None, _) => Err(StoreError::NotFound(key.clone())),
            (Some(stored), Some(expected)) if stored.version != expected => {
                Err(StoreError::Conflict { key: key.clone(), expected, found: stored.version })
            }
            (Some(stored), _) => Ok(stored.clone()),
        };
        let version = Version(self.version.0 + 1);
        let (kind, object, previous) = match change {
            Change::Create { .. } if stored.is_some() => return Err(StoreError::Exists(key)),
            Change::Create { key, value } => (WatchEventKind::Added, Object::new(key, version, value), None),
            Change::Update { expected, value, .. } => {
                let previous = fits(expected)?;
                (WatchEventKind::Modified, Object::new(key, version, value), Some(previous))
            }
            Change::Delete { expected, .. } => {
                let previous = fits(expected)?;
                (WatchEventKind::Deleted, Object::new(key, version, previous.value()), Some(previous))
            }
        };
        self.version = version;
        match kind {
            WatchEventKind::Added | WatchEventKind::Modified => {
                self.objects.insert(object.key.clone(), object.clone());
            }
            WatchEventKind::Deleted => {
                self.objects.remove(&object.key);
            }
        }
        self.watchers.publish(WatchEvent { kind, object: object.clone(), previous });
        Ok(object)
    }
}
