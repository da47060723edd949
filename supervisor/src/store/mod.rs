//! The node's objects: one file each, durable before anyone hears of them.
//!
//! Every change goes through one queue, in order. What is committed is what readers and watchers see; preconditions are
//! checked against what is queued, so two writers of one object never both succeed. Versions are those of Kubernetes:
//! one counter for all objects, never going back, also over restarts and power cuts.
//!
//! | file | part |
//! |---|---|
//! | `state`, `totals` | what is committed, queued and written next; do no I/O |
//! | `writer`, `load` | bring it to the disk, and back |
//! | `disk` | the operations on the file system, and no others |
//! | `file` | names and contents of files |
//! | `pipeline` | who writes, and when |
//! | `watch` | the feed |

mod disk;
mod file;
pub mod limits;
mod load;
mod object;
mod pipeline;
mod state;
#[cfg(test)]
mod tests;
mod totals;
mod watch;
mod writer;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::oneshot;

pub use object::{Key, Object, Version};
pub use watch::{Watch, WatchEvent, WatchEventKind};

use disk::{Disk, FileSystem, Lock};
use limits::MAX_OBJECT_BYTES;
use pipeline::Shared;
use state::{Queued, State};

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
    /// A watch from a version that is no longer remembered, or (`asked` above `oldest`) that this store never gave.
    #[error("{}", gone(*asked, *oldest))]
    Gone { asked: Version, oldest: Version },
    #[error("{key}: {bytes} bytes are more than the {limit} that an object may have")]
    TooLarge { key: Key, bytes: usize, limit: usize },
    #[error("there are {limit} objects of {resource} already")]
    TooMany { resource: String, limit: usize },
    /// Also for a store that is full ([`io::ErrorKind::QuotaExceeded`]) or used by another process
    /// ([`io::ErrorKind::WouldBlock`]).
    #[error("{operation} {path}: {cause}")]
    Io { operation: &'static str, path: PathBuf, cause: io::Error },
}

/// As the API server says it.
fn gone(asked: Version, oldest: Version) -> String {
    if asked > oldest {
        format!("Too large resource version: {asked}, current: {oldest}")
    } else {
        format!("too old resource version: {asked} ({oldest})")
    }
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

/// A handle; clones speak of the same store. When the last one is dropped, everything that is queued is written first.
#[derive(Debug, Clone)]
pub struct Store {
    handle: Arc<Handle>,
}

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    /// Goes last: the next process may not come before the writing has ended.
    _lock: Option<Lock>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl Store {
    /// Opens or makes the store in a directory. Damaged files are put aside and named, the rest is loaded. A full disk is no
    /// reason not to open: reading works, and changes say what is wrong.
    ///
    /// # Errors
    /// The directory can't be read or written, or another process uses it.
    pub fn open(dir: &Path) -> Result<(Self, Vec<Damaged>), StoreError> {
        let (disk, lock) = FileSystem::open(dir)?;
        Self::on(Box::new(disk), dir, Some(lock))
    }

    fn on(disk: Box<dyn Disk>, dir: &Path, lock: Option<Lock>) -> Result<(Self, Vec<Damaged>), StoreError> {
        let (state, damaged) = State::open(disk, dir)?;
        Ok((Self { handle: Arc::new(Handle { shared: Shared::new(state), _lock: lock }) }, damaged))
    }

    pub fn get(&self, key: &Key) -> Option<Object> {
        self.handle.shared.state().objects.get(key).map(|stored| stored.object.clone())
    }

    /// All objects of a resource, or those in one namespace, by namespace and name; and the version of this view.
    pub fn list(&self, resource: &str, namespace: Option<&str>) -> (Vec<Object>, Version) {
        let state = self.handle.shared.state();
        (state.list(resource, namespace), state.version)
    }

    /// What [`Self::list`] answered when `version` was the newest.
    ///
    /// # Errors
    /// [`StoreError::Gone`] when changes since then are no longer remembered, or the version was never given.
    pub fn list_at(
        &self,
        resource: &str,
        namespace: Option<&str>,
        version: Version,
    ) -> Result<Vec<Object>, StoreError> {
        let state = self.handle.shared.state();
        if version > state.version {
            return Err(StoreError::Gone { asked: version, oldest: state.version });
        }
        let now = state.list(resource, None).into_iter().map(|object| (object.key.clone(), object));
        let mut objects: BTreeMap<Key, Object> = now.collect();
        state.feed.rewind(resource, version, &mut objects)?;
        drop(state);
        let is_meant = |object: &Object| namespace.is_none_or(|namespace| *namespace == *object.key.namespace);
        Ok(objects.into_values().filter(is_meant).collect())
    }

    /// How many objects of a resource there are.
    pub fn count(&self, resource: &str) -> usize {
        self.handle.shared.state().count(resource)
    }

    /// The resources of which there are objects, in order.
    pub fn resources(&self) -> Vec<Arc<str>> {
        self.handle.shared.state().resources().into_iter().collect()
    }

    /// The newest version.
    pub fn version(&self) -> Version {
        self.handle.shared.state().version
    }

    /// Every later change of a resource, in order, none left out.
    ///
    /// A version above the newest was never given by this store: whoever has it speaks of another one, or of one that was
    /// deleted. The API server would let such a watch wait for that version to come, which here may be forever; `Gone` makes
    /// clients list anew.
    ///
    /// # Errors
    /// [`StoreError::Gone`] when changes after `from` are no longer remembered, as all from before a start, or when `from` is
    /// newer than the store.
    pub fn watch(&self, resource: &str, namespace: Option<&str>, from: Version) -> Result<Watch, StoreError> {
        Watch::start(&self.handle.shared, resource, namespace, from)
    }

    /// Queues a change at once, in the order of the calls, and answers when it is committed. The change happens even if
    /// the answer is not awaited. A change that needs no disk, with nothing before it, is committed when this returns.
    pub fn commit(
        &self,
        change: Change,
        durability: Durability,
    ) -> impl Future<Output = Result<Object, StoreError>> + use<> {
        let (answer, result) = oneshot::channel();
        let refused = match measure(&change) {
            Ok(bytes) => {
                self.handle.shared.submit(Queued { change, bytes, durability, answer });
                None
            }
            Err(error) => Some(error),
        };
        async move {
            match refused {
                Some(error) => Err(error),
                None => result.await.unwrap_or_else(|_| Err(lost())),
            }
        }
    }
}

/// Bytes of a change's value as JSON.
fn measure(change: &Change) -> Result<usize, StoreError> {
    let (Change::Create { key, value } | Change::Update { key, value, .. }) = change else { return Ok(0) };
    let mut counter = Counter(0);
    let written = serde_json::to_writer(&mut counter, value).map_err(io::Error::from);
    written.map_err(|cause| disk::io_error("serialize", &file::path(key, file::Place::Main), cause))?;
    match counter.0 {
        bytes if bytes > MAX_OBJECT_BYTES => {
            Err(StoreError::TooLarge { key: key.clone(), bytes, limit: MAX_OBJECT_BYTES })
        }
        bytes => Ok(bytes),
    }
}

struct Counter(usize);

impl io::Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Only a panic of the writing thread leads here.
fn lost() -> StoreError {
    disk::io_error("commit", Path::new(""), io::Error::other("the writing thread has ended"))
}

/// A file that was not what it should be. It was moved to `quarantine/`, and its object is missing or as it was before.
#[derive(Debug)]
pub struct Damaged {
    /// Where the file was.
    pub path: PathBuf,
    pub cause: String,
    /// The object, as far as the file's name tells.
    pub key: Option<Key>,
    /// Where the file is now.
    pub kept: PathBuf,
    /// The version of the object that counts instead.
    pub remains: Option<Version>,
}

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; moved to {}", self.path.display(), self.cause, self.kept.display())?;
        match (&self.key, self.remains) {
            (Some(key), Some(version)) => write!(f, "; {key} is as it was at version {version}"),
            (Some(key), None) => write!(f, "; {key} is missing"),
            (None, _) => Ok(()),
        }
    }
}
