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
use crate::engine::What;
use crate::engine::error::EngineError;
use crate::monitor::protocol::Event as MonitorEvent;
use crate::pod::action::Instance;

pub use exec::Running;
pub use usage::Usage;

/// Why a stream does not begin.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error("pod is not running on this node")]
    NoPod,
    /// Rule XE3.
    #[error("container not found (\"{0}\")")]
    NoContainer(String),
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
    /// The sandbox is gone, and with it everything in it.
    lost: bool,
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
            None => drop(pods.insert(uid.to_owned(), Entry { context, ended: BTreeSet::new(), lost: false })),
        }
    }

    pub(super) fn remove(&self, uid: &str) {
        self.0.pods.borrow_mut().remove(uid);
        self.count();
    }

    /// Something of the pod's processes ended.
    pub(super) fn happened(&self, uid: &str, what: &What) {
        if let Some(entry) = self.0.pods.borrow_mut().get_mut(uid) {
            match what {
                What::Happened(MonitorEvent::ContainerExited(record)) => {
                    entry.ended.insert(record.container.clone());
                }
                What::MonitorLost | What::Happened(MonitorEvent::SandboxExited { .. }) => entry.lost = true,
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
        pods.get(uid).is_none_or(|entry| {
            entry.ended.contains(known.id.as_str())
                || (entry.lost && entry.context.newest_sandbox().as_ref() == Some(&known.sandbox))
        })
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
