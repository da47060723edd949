//! What streams need of the node: commands in containers, their terminals, logs, networks and usage, by a pod's uid.
//!
//! [`Sessions`] is a handle beside the driver: it shares what the driver knows and never touches a machine. The HTTP side
//! of it is in [`http`].

mod attach;
mod dial;
mod exec;
pub mod http;
mod logs;
mod proxy;
mod query;
mod usage;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use tokio::sync::watch;

use super::context::{Context, Known};
use crate::engine::error::EngineError;
use crate::engine::id::SandboxId;
use crate::engine::{EngineEvent, What};
use crate::monitor::protocol::Event as MonitorEvent;
use crate::pod::action::Instance;

pub use exec::Running;
pub use usage::Usage;

/// Clients that one pod may have in exec, attach and port-forward at the same time (D33).
pub const MAX_STREAMS_PER_POD: usize = 64;

/// Why a stream does not begin.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error("pod is not running on this node")]
    NoPod,
    /// Rule XE3.
    #[error("container not found (\"{0}\")")]
    NoContainer(String),
    #[error("pod has {MAX_STREAMS_PER_POD} streams already")]
    TooMany,
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("{call}: {source}")]
    Io { call: &'static str, source: std::io::Error },
}

/// The node's pods, for streams. One thread's; clones share.
#[derive(Debug, Clone, Default)]
pub struct Sessions(Rc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    pods: RefCell<BTreeMap<String, Entry>>,
    /// Counts ends of containers and pods.
    ends: watch::Sender<u64>,
}

#[derive(Debug)]
struct Entry {
    context: Rc<Context>,
    /// Ids of containers that have ended.
    ended: BTreeSet<String>,
    /// Sandboxes that are gone, and with them everything in them.
    lost: BTreeSet<SandboxId>,
    /// Shared by every stream into the pod.
    streams: Slot,
}

/// The place of one stream; dropping it frees it.
#[derive(Debug, Clone, Default)]
struct Slot(Rc<()>);

impl Slot {
    /// One more of the same pod.
    fn another(&self) -> Option<Self> {
        // The pod's own is none.
        (Rc::strong_count(&self.0) <= MAX_STREAMS_PER_POD).then(|| self.clone())
    }
}

/// A container that runs, or did until just now.
#[derive(Debug, Clone)]
pub(super) struct Found {
    context: Rc<Context>,
    instance: Instance,
    known: Known,
}

impl Sessions {
    /// A pod is there, or its context is another one.
    pub(super) fn insert(&self, uid: &str, context: Rc<Context>) {
        let mut pods = self.0.pods.borrow_mut();
        match pods.get_mut(uid) {
            Some(entry) => entry.context = context,
            None => {
                let entry = Entry { context, ended: BTreeSet::new(), lost: BTreeSet::new(), streams: Slot::default() };
                pods.insert(uid.to_owned(), entry);
            }
        }
    }

    pub(super) fn remove(&self, uid: &str) {
        self.0.pods.borrow_mut().remove(uid);
        self.count();
    }

    /// Something of the pod's processes ended.
    pub(super) fn happened(&self, uid: &str, event: &EngineEvent) {
        if let Some(entry) = self.0.pods.borrow_mut().get_mut(uid) {
            match &event.what {
                What::Happened(MonitorEvent::ContainerExited(record)) => {
                    entry.ended.insert(record.container.clone());
                }
                What::MonitorLost | What::Happened(MonitorEvent::SandboxExited { .. }) => {
                    entry.lost.insert(event.sandbox.clone());
                }
                What::Happened(
                    MonitorEvent::ExecExited { .. } | MonitorEvent::LogBlocked { .. } | MonitorEvent::LogResumed { .. },
                ) => return,
            }
        }
        self.count();
    }

    fn count(&self) {
        self.0.ends.send_modify(|ends| *ends = ends.wrapping_add(1));
    }

    fn context(&self, uid: &str) -> Result<Rc<Context>, SessionError> {
        self.0.pods.borrow().get(uid).map(|entry| entry.context.clone()).ok_or(SessionError::NoPod)
    }

    pub(super) fn contexts(&self) -> Vec<Rc<Context>> {
        self.0.pods.borrow().values().map(|entry| entry.context.clone()).collect()
    }

    /// A place for a stream; 64 have one.
    fn slot(&self, uid: &str) -> Result<Slot, SessionError> {
        let pods = self.0.pods.borrow();
        let entry = pods.get(uid).ok_or(SessionError::NoPod)?;
        entry.streams.another().ok_or(SessionError::TooMany)
    }

    /// The newest instance of a container, while it has not ended.
    fn running(&self, uid: &str, container: &str) -> Result<Found, SessionError> {
        let context = self.context(uid)?;
        let missing = || SessionError::NoContainer(container.to_owned());
        let (instance, known) = context.newest(container).ok_or_else(missing)?;
        if self.has_ended(uid, &known) || known.process.is_none() {
            return Err(missing());
        }
        Ok(Found { context, instance, known })
    }

    fn has_ended(&self, uid: &str, known: &Known) -> bool {
        let pods = self.0.pods.borrow();
        let ended = |entry: &Entry| entry.ended.contains(known.id.as_str()) || entry.lost.contains(&known.sandbox);
        pods.get(uid).is_none_or(ended)
    }

    /// Returns when the instance has ended or was forgotten.
    async fn ended(&self, uid: &str, found: &Found) {
        let mut ends = self.0.ends.subscribe();
        while !self.has_ended(uid, &found.known) {
            // The sender lives as long as this handle.
            if ends.changed().await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// D33
    #[test]
    fn a_pod_has_room_for_so_many_streams_and_again_when_they_end() {
        let pod = Slot::default();
        let mut taken: Vec<Slot> = (0..MAX_STREAMS_PER_POD).map(|_| pod.another().unwrap()).collect();
        assert!(pod.another().is_none());
        taken.pop();
        assert!(pod.another().is_some());
    }
}
