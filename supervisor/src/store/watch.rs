//! The feed of changes.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::{Object, StoreError, Version};

/// Changes that are remembered for watches that start in the past.
pub(super) const HISTORY: usize = 1024;

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchEventKind {
    Added,
    Modified,
    Deleted,
}

/// One change; with the object as it was before, for selectors that it may have left.
#[derive(Debug, Clone)]
pub struct WatchEvent {
    pub kind: WatchEventKind,
    pub object: Object,
    pub previous: Option<Object>,
}

/// Receives changes until it is dropped.
#[derive(Debug)]
pub struct Watch {
    receiver: mpsc::UnboundedReceiver<WatchEvent>,
}

impl Watch {
    /// The next change; none when the watch was cut off because it fell too far behind.
    pub async fn next(&mut self) -> Option<WatchEvent> {
        self.receiver.recv().await
    }
}

#[derive(Debug, Default)]
pub(super) struct Watchers {
    history: VecDeque<WatchEvent>,
    forgotten: Option<Version>,
    watchers: Vec<Watcher>,
}

#[derive(Debug)]
struct Watcher {
    resource: Arc<str>,
    namespace: Option<Arc<str>>,
    sender: mpsc::UnboundedSender<WatchEvent>,
}

impl Watcher {
    /// False when nobody listens any more.
    fn send(&self, event: &WatchEvent) -> bool {
        let key = &event.object.key;
        let wanted = key.resource == self.resource && self.namespace.as_ref().is_none_or(|own| *own == key.namespace);
        if wanted { self.sender.send(event.clone()).is_ok() } else { !self.sender.is_closed() }
    }
}

impl Watchers {
    pub(super) fn watch(
        &mut self,
        resource: &str,
        namespace: Option<&str>,
        from: Version,
    ) -> Result<Watch, StoreError> {
        if let Some(oldest) = self.forgotten.filter(|forgotten| from < *forgotten) {
            return Err(StoreError::Gone { asked: from, oldest });
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        let watcher = Watcher { resource: resource.into(), namespace: namespace.map(Into::into), sender };
        for event in self.history.iter().filter(|event| event.object.version > from) {
            watcher.send(event);
        }
        self.watchers.push(watcher);
        Ok(Watch { receiver })
    }

    pub(super) fn publish(&mut self, event: WatchEvent) {
        self.watchers.retain(|watcher| watcher.send(&event));
        if self.history.len() == HISTORY
            && let Some(oldest) = self.history.pop_front()
        {
            self.forgotten = Some(oldest.object.version);
        }
        self.history.push_back(event);
    }
}
