//! The feed of changes.
//!
//! Each resource has one log of its last changes; a watch is a position in it. So a watch that lags costs no memory of its own,
//! and one that starts in the past reads on as the others do. Whoever has not read what the log forgets is cut off.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::limits::{HISTORY_BYTES, HISTORY_EVENTS};
use super::pipeline::Shared;
use super::{Key, Object, StoreError, Version};

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

impl WatchEvent {
    fn bytes(&self) -> usize {
        self.object.text.len() + self.previous.as_ref().map_or(0, |previous| previous.text.len())
    }
}

/// Receives changes until it is dropped.
#[derive(Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    resource: Arc<str>,
    id: u64,
}

impl Watch {
    pub(super) fn start(
        shared: &Arc<Shared>,
        resource: &str,
        namespace: Option<&str>,
        from: Version,
    ) -> Result<Self, StoreError> {
        let resource: Arc<str> = resource.into();
        let mut state = shared.state();
        let newest = state.version;
        let id = state.feed.add(&resource, namespace, from, newest)?;
        drop(state);
        Ok(Self { shared: Arc::clone(shared), resource, id })
    }

    /// The next change; none when the watch was cut off because it fell too far behind, or the store was closed.
    /// Cancelling it loses no change.
    pub async fn next(&mut self) -> Option<WatchEvent> {
        // A flood of changes must not keep the other tasks of the thread from running.
        tokio::task::coop::consume_budget().await;
        let event = poll_fn(|context| self.shared.state().feed.poll(&self.resource, self.id, context)).await;
        event.map(|event| WatchEvent::clone(&event))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.state().feed.remove(&self.resource, self.id);
    }
}

/// All logs and watches.
#[derive(Debug)]
pub(super) struct Feed {
    logs: BTreeMap<Arc<str>, Log>,
    /// Nothing up to this version is remembered.
    start: Version,
    next_id: u64,
    closed: bool,
}

impl Feed {
    pub(super) fn new(start: Version) -> Self {
        Self { logs: BTreeMap::new(), start, next_id: 0, closed: false }
    }

    /// The id of a new watch for changes after a version.
    pub(super) fn add(
        &mut self,
        resource: &Arc<str>,
        namespace: Option<&str>,
        from: Version,
        newest: Version,
    ) -> Result<u64, StoreError> {
        let oldest = self.logs.get(resource).map_or(self.start, |log| log.forgotten);
        if from < oldest {
            return Err(StoreError::Gone { asked: from, oldest });
        }
        if from > newest {
            return Err(StoreError::Gone { asked: from, oldest: newest });
        }
        let start = self.start;
        let log = self.logs.entry(resource.clone()).or_insert_with(|| Log::new(start));
        let known = log.events.partition_point(|event| event.object.version <= from);
        let position = log.first + known as u64;
        let watcher = Watcher { namespace: namespace.map(Into::into), position, cut: false, waker: None };
        self.next_id += 1;
        log.watchers.insert(self.next_id, watcher);
        Ok(self.next_id)
    }

    fn remove(&mut self, resource: &str, id: u64) {
        if let Some(log) = self.logs.get_mut(resource) {
            log.watchers.remove(&id);
            // A log that says nothing would say the same when it is made anew.
            if log.watchers.is_empty() && log.events.is_empty() {
                self.logs.remove(resource);
            }
        }
    }

    fn poll(&mut self, resource: &str, id: u64, context: &mut Context<'_>) -> Poll<Option<Arc<WatchEvent>>> {
        let closed = self.closed;
        match self.logs.get_mut(resource) {
            Some(log) => log.poll(id, closed, context),
            None => Poll::Ready(None),
        }
    }

    /// Undoes the changes of a resource after a version, the newest first; `objects` are those of now.
    ///
    /// # Errors
    /// [`StoreError::Gone`] when one of these changes is no longer remembered.
    pub(super) fn rewind(
        &self,
        resource: &str,
        to: Version,
        objects: &mut BTreeMap<Key, Object>,
    ) -> Result<(), StoreError> {
        let log = self.logs.get(resource);
        let oldest = log.map_or(self.start, |log| log.forgotten);
        if to < oldest {
            return Err(StoreError::Gone { asked: to, oldest });
        }
        let newer = log.into_iter().flat_map(|log| log.events.iter().rev());
        for event in newer.take_while(|event| event.object.version > to) {
            match &event.previous {
                Some(previous) => drop(objects.insert(previous.key.clone(), previous.clone())),
                None => drop(objects.remove(&event.object.key)),
            }
        }
        Ok(())
    }

    pub(super) fn publish(&mut self, event: WatchEvent) {
        let start = self.start;
        let log = self.logs.entry(event.object.key.resource.clone()).or_insert_with(|| Log::new(start));
        log.push(event);
    }

    #[cfg(test)]
    pub(super) fn is_unwatched(&self) -> bool {
        self.logs.values().all(|log| log.watchers.is_empty())
    }

    /// Ends every watch once it has read what there is.
    pub(super) fn close(&mut self) {
        self.closed = true;
        let watchers = self.logs.values_mut().flat_map(|log| log.watchers.values_mut());
        watchers.filter_map(|watcher| watcher.waker.take()).for_each(Waker::wake);
    }
}

/// The last changes of one resource, and who reads them.
#[derive(Debug)]
struct Log {
    events: VecDeque<Arc<WatchEvent>>,
    /// Position of the first of them, counted from the start.
    first: u64,
    bytes: usize,
    forgotten: Version,
    watchers: BTreeMap<u64, Watcher>,
}

#[derive(Debug)]
struct Watcher {
    namespace: Option<Arc<str>>,
    /// Of the first change that it has not looked at.
    position: u64,
    /// The log has forgotten something that it should have read.
    cut: bool,
    waker: Option<Waker>,
}

impl Watcher {
    fn wants(&self, event: &WatchEvent) -> bool {
        self.namespace.as_ref().is_none_or(|own| *own == event.object.key.namespace)
    }
}

impl Log {
    fn new(forgotten: Version) -> Self {
        Self { events: VecDeque::new(), first: 0, bytes: 0, forgotten, watchers: BTreeMap::new() }
    }

    fn push(&mut self, event: WatchEvent) {
        let event = Arc::new(event);
        for watcher in self.watchers.values_mut().filter(|watcher| watcher.wants(&event)) {
            watcher.waker.take().into_iter().for_each(Waker::wake);
        }
        self.bytes += event.bytes();
        self.events.push_back(event);
        while self.events.len() > HISTORY_EVENTS || (self.bytes > HISTORY_BYTES && self.events.len() > 1) {
            self.forget();
        }
    }

    fn forget(&mut self) {
        let Some(event) = self.events.pop_front() else { return };
        for watcher in self.watchers.values_mut().filter(|watcher| watcher.position == self.first) {
            watcher.cut |= watcher.wants(&event);
            watcher.position += 1;
        }
        self.first += 1;
        self.bytes -= event.bytes();
        self.forgotten = event.object.version;
    }

    fn poll(&mut self, id: u64, closed: bool, context: &mut Context<'_>) -> Poll<Option<Arc<WatchEvent>>> {
        let Some(watcher) = self.watchers.get_mut(&id).filter(|watcher| !watcher.cut) else {
            return Poll::Ready(None);
        };
        let seen = usize::try_from(watcher.position - self.first).unwrap_or(usize::MAX);
        let next = self.events.range(seen..).position(|event| watcher.wants(event));
        match next {
            Some(skipped) => {
                watcher.position += skipped as u64 + 1;
                Poll::Ready(self.events.get(seen + skipped).cloned())
            }
            None if closed => Poll::Ready(None),
            None => {
                watcher.position = self.first + self.events.len() as u64;
                watcher.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}
