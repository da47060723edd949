//! What is committed, what is queued, and which of it is written next. Does no I/O.
//!
//! Changes are checked when their batch is formed: everything before them is then either committed, failed, or in the same
//! batch. A batch holds each object once, in its last state, whatever number of changes led there; they share its fate.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::io::ErrorKind;
use std::mem;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::oneshot;

use super::disk::Disk;
use super::file::Place;
use super::limits::{BATCH_CHANGES, MAX_OBJECTS, MAX_OBJECTS_PER_RESOURCE, MAX_TOTAL_BYTES, VERSION_BLOCK};
use super::load::{Loaded, load};
use super::watch::Feed;
use super::writer::Writer;
use super::{Change, Damaged, Durability, Key, Object, StoreError, Version, WatchEvent, WatchEventKind};

pub(super) type Answer = oneshot::Sender<Result<Object, StoreError>>;

#[derive(Debug)]
pub(super) struct State {
    pub(super) objects: BTreeMap<Key, Stored>,
    totals: Totals,
    /// The newest committed version.
    pub(super) version: Version,
    /// The newest version given to a change, committed or not.
    assigned: u64,
    /// No version above this one may be given before the disk says so.
    reserved: u64,
    /// Half of the reserved versions are gone, and nobody has reserved more yet.
    top_up: bool,
    queue: VecDeque<Queued>,
    /// Objects whose files may be newer than what is committed, since a failed change could not be taken back.
    suspects: BTreeMap<Key, Files>,
    pub(super) feed: Feed,
    /// Nobody has it while a batch is on its way.
    writer: Option<Writer>,
    pub(super) thread: Option<JoinHandle<()>>,
    pub(super) thread_runs: bool,
    pub(super) closed: bool,
}

/// A committed object and its files.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) object: Object,
    pub(super) files: Files,
}

/// Which files of an object may be there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Files {
    main: bool,
    late0: bool,
    late1: bool,
}

impl Files {
    pub(super) fn has(self, place: Place) -> bool {
        match place {
            Place::Main => self.main,
            Place::Late0 => self.late0,
            Place::Late1 => self.late1,
        }
    }

    pub(super) fn set(&mut self, place: Place, present: bool) {
        match place {
            Place::Main => self.main = present,
            Place::Late0 => self.late0 = present,
            Place::Late1 => self.late1 = present,
        }
    }

    pub(super) fn present(self) -> impl Iterator<Item = Place> {
        let files = self;
        Place::ALL.into_iter().filter(move |place| files.has(*place))
    }

    /// Where the next late state goes: to a name that is not in use. Replacing a file by rename makes ext4 and btrfs write the new
    /// one at once (`auto_da_alloc`), and then a status costs ten times as much and reaches the disk each time.
    pub(super) fn free_late(self) -> Place {
        if self.late0 { Place::Late1 } else { Place::Late0 }
    }
}

#[derive(Debug)]
pub(super) struct Queued {
    pub(super) change: Change,
    /// Of the value as JSON.
    pub(super) bytes: usize,
    pub(super) durability: Durability,
    pub(super) answer: Answer,
}

#[derive(Debug, Clone, Default)]
struct Totals {
    objects: usize,
    bytes: usize,
    by_resource: HashMap<Arc<str>, usize>,
}

impl Totals {
    fn add(&mut self, object: &Object) {
        self.objects += 1;
        self.bytes += object.text.len();
        *self.by_resource.entry(object.key.resource.clone()).or_default() += 1;
    }

    fn remove(&mut self, object: &Object) {
        self.objects -= 1;
        self.bytes -= object.text.len();
        if let Some(count) = self.by_resource.get_mut(&object.key.resource) {
            *count -= 1;
        }
    }

    fn follow(&mut self, event: &WatchEvent) {
        if let Some(previous) = &event.previous {
            self.remove(previous);
        }
        match event.kind {
            WatchEventKind::Added | WatchEventKind::Modified => self.add(&event.object),
            WatchEventKind::Deleted => {}
        }
    }

    fn check_create(&self, key: &Key) -> Result<(), StoreError> {
        if self.by_resource.get(&key.resource).is_some_and(|count| *count >= MAX_OBJECTS_PER_RESOURCE) {
            return Err(StoreError::TooMany { resource: key.resource.to_string(), limit: MAX_OBJECTS_PER_RESOURCE });
        }
        if self.objects >= MAX_OBJECTS {
            return Err(StoreError::TooMany { resource: "all resources".to_owned(), limit: MAX_OBJECTS });
        }
        Ok(())
    }

    /// Whatever makes the store smaller is welcome, also above the limit.
    fn check_bytes(&self, key: &Key, before: usize, after: usize) -> Result<(), StoreError> {
        if after > before && self.bytes - before + after > MAX_TOTAL_BYTES {
            let cause = format!("all objects together may have {MAX_TOTAL_BYTES} bytes");
            let cause = std::io::Error::new(std::io::ErrorKind::QuotaExceeded, cause);
            return Err(StoreError::Io { operation: "store", path: super::file::path(key, Place::Main), cause });
        }
        Ok(())
    }
}

/// What is written together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// The disk has to know this version first.
    pub(super) reserve: Option<Reserve>,
    pub(super) writes: Vec<Write>,
    index: HashMap<Key, usize>,
    accepted: Vec<Accepted>,
    /// Refused because of what is before them in this batch, if that comes true.
    refused: Vec<(Queued, StoreError)>,
    totals: Totals,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Reserve {
    pub(super) version: Version,
    /// The batch has versions above what was reserved before.
    pub(super) needed: bool,
}

/// One object of a batch.
#[derive(Debug, Clone)]
pub(super) struct Write {
    pub(super) key: Key,
    /// None to remove it.
    pub(super) target: Option<Object>,
    pub(super) durability: Durability,
    pub(super) files: Files,
    /// What counts if this fails.
    pub(super) committed: Option<Object>,
}

#[derive(Debug)]
struct Accepted {
    write: usize,
    event: WatchEvent,
    answer: Answer,
}

/// What came of a [`Write`].
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) error: Option<StoreError>,
    pub(super) files: Files,
    pub(super) trust: Trust,
}

/// Whether an object's files say what counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trust {
    /// They do: all went well, or what had begun was taken back.
    Good,
    /// As much as before: nothing was done to them.
    AsBefore,
    /// Perhaps not: something failed on the way, and then again on the way back.
    None,
}

/// What came of a [`Batch`].
#[derive(Debug)]
pub(super) struct Written {
    pub(super) reserved: Option<Version>,
    pub(super) outcomes: Vec<Outcome>,
}

impl State {
    /// Loads what is there.
    pub(super) fn open(disk: Box<dyn Disk>, root: &Path) -> Result<(Self, Vec<Damaged>), StoreError> {
        let mut loaded = load(&*disk, root)?;
        let damaged = mem::take(&mut loaded.damaged);
        let mut writer = Writer::new(disk, mem::take(&mut loaded.directories));
        let first = Version(loaded.version.0 + VERSION_BLOCK);
        let reserved = match writer.reserve(first) {
            Ok(()) => first,
            Err(error) if is_full(&error) => loaded.version,
            Err(error) => return Err(error),
        };
        let mut state = Self::new(loaded);
        state.reserved = reserved.0;
        state.strengthen(writer);
        Ok((state, damaged))
    }

    /// Brings to the disk what should be there and is not. What can't be is tried again with each batch.
    fn strengthen(&mut self, mut writer: Writer) {
        let mut batch = Batch::default();
        self.add_suspects(&mut batch);
        let written = writer.write(&batch);
        self.finish(batch, writer, written);
    }

    fn new(loaded: Loaded) -> Self {
        let Loaded { stored, version, fresh, weak, .. } = loaded;
        let mut totals = Totals::default();
        stored.iter().for_each(|stored| totals.add(&stored.object));
        let objects: BTreeMap<_, _> = stored.into_iter().map(|stored| (stored.object.key.clone(), stored)).collect();
        let files = |key: Key| objects.get(&key).map(|stored| (key, stored.files));
        let suspects = weak.into_iter().filter_map(files).collect();
        Self {
            objects,
            totals,
            version,
            assigned: version.0,
            reserved: version.0,
            top_up: false,
            queue: VecDeque::new(),
            suspects,
            feed: Feed::new(if fresh { Version(0) } else { version }),
            writer: None,
            thread: None,
            thread_runs: false,
            closed: false,
        }
    }

    pub(super) fn queue(&mut self, queued: Queued) {
        self.queue.push_back(queued);
    }

    /// Whether anything is left to write.
    pub(super) fn has_work(&self) -> bool {
        !self.queue.is_empty() || self.top_up
    }

    /// Whether the queue can be written at once by whoever asks: it is one change that needs no disk, and nothing is before it.
    pub(super) fn is_light(&self) -> bool {
        let light = |queued: &Queued| queued.durability == Durability::Kernel;
        self.writer.is_some()
            && self.queue.len() == 1
            && self.queue.iter().all(light)
            && self.suspects.is_empty()
            && self.assigned < self.reserved
    }

    /// The next batch, and who can write it; none while another is on its way.
    pub(super) fn take(&mut self) -> Option<(Batch, Writer)> {
        let writer = self.writer.take()?;
        match self.form() {
            Some(batch) => Some((batch, writer)),
            None => {
                self.writer = Some(writer);
                None
            }
        }
    }

    /// Takes the next changes off the queue. Those that are refused for what is committed get their answer.
    fn form(&mut self) -> Option<Batch> {
        let mut batch = Batch { totals: self.totals.clone(), ..Batch::default() };
        while batch.accepted.len() + batch.refused.len() < BATCH_CHANGES
            && let Some(queued) = self.queue.pop_front()
        {
            self.admit(&mut batch, queued);
        }
        // Not for themselves alone: a disk that refuses would be asked without end.
        if !batch.accepted.is_empty() {
            self.add_suspects(&mut batch);
        }
        batch.reserve = self.reservation(batch.accepted.is_empty());
        (!batch.writes.is_empty() || batch.reserve.is_some()).then_some(batch)
    }

    fn admit(&mut self, batch: &mut Batch, queued: Queued) {
        let key = queued.change.key();
        let stored = match batch.index.get(key).and_then(|index| batch.writes.get(*index)) {
            Some(write) => write.target.clone(),
            None => self.objects.get(key).map(|stored| stored.object.clone()),
        };
        match check(&queued, stored.as_ref(), &batch.totals) {
            Ok(()) => self.accept(batch, queued, stored),
            Err(error) if batch.accepted.is_empty() => answer(queued.answer, Err(error)),
            Err(error) => batch.refused.push((queued, error)),
        }
    }

    fn accept(&mut self, batch: &mut Batch, queued: Queued, previous: Option<Object>) {
        let Queued { change, durability, answer, .. } = queued;
        self.assigned += 1;
        let version = Version(self.assigned);
        let (kind, object) = match change {
            Change::Create { key, value } => (WatchEventKind::Added, Object::new(key, version, value)),
            Change::Update { key, value, .. } => (WatchEventKind::Modified, Object::new(key, version, value)),
            Change::Delete { key, .. } => {
                let value = previous.as_ref().map(Object::value).unwrap_or_default();
                (WatchEventKind::Deleted, Object::new(key, version, value))
            }
        };
        let event = WatchEvent { kind, object, previous };
        batch.totals.follow(&event);
        let write = self.write_of(batch, &event.object.key);
        if let Some(write) = batch.writes.get_mut(write) {
            write.target = (kind != WatchEventKind::Deleted).then(|| event.object.clone());
            if durability == Durability::Disk {
                write.durability = durability;
            }
        }
        batch.accepted.push(Accepted { write, event, answer });
    }

    /// The batch's entry for an object, made if it is not there.
    fn write_of(&self, batch: &mut Batch, key: &Key) -> usize {
        if let Some(index) = batch.index.get(key) {
            return *index;
        }
        let stored = self.objects.get(key);
        let files = stored.map(|stored| stored.files).unwrap_or_default();
        let committed = stored.map(|stored| stored.object.clone());
        batch.writes.push(Write {
            key: key.clone(),
            target: committed.clone(),
            // What has to be taken back may be on the disk already.
            durability: if self.suspects.contains_key(key) { Durability::Disk } else { Durability::Kernel },
            files: self.suspects.get(key).copied().unwrap_or(files),
            committed,
        });
        batch.index.insert(key.clone(), batch.writes.len() - 1);
        batch.writes.len() - 1
    }

    fn add_suspects(&self, batch: &mut Batch) {
        for key in self.suspects.keys() {
            self.write_of(batch, key);
        }
    }

    fn reservation(&mut self, idle: bool) -> Option<Reserve> {
        // What failed may have taken versions above what is reserved: that alone is no reason to try again.
        let needed = !idle && self.assigned > self.reserved;
        let wanted = mem::take(&mut self.top_up) || needed;
        wanted.then_some(Reserve { version: Version(self.assigned + VERSION_BLOCK), needed })
    }

    /// Makes what was written visible, and answers.
    pub(super) fn finish(&mut self, batch: Batch, writer: Writer, written: Written) {
        self.writer = Some(writer);
        if let Some(reserved) = written.reserved {
            self.reserved = self.reserved.max(reserved.0);
        }
        let failed = written.outcomes.iter().any(|outcome| outcome.error.is_some());
        let wrote = !batch.accepted.is_empty();
        for accepted in batch.accepted {
            let error = written.outcomes.get(accepted.write).and_then(|outcome| outcome.error.as_ref());
            match error {
                Some(error) => answer(accepted.answer, Err(again(error))),
                None => {
                    let object = accepted.event.object.clone();
                    self.commit(accepted.event);
                    answer(accepted.answer, Ok(object));
                }
            }
        }
        for (write, outcome) in batch.writes.into_iter().zip(written.outcomes) {
            self.settle(write.key, &outcome);
        }
        for (queued, error) in batch.refused.into_iter().rev() {
            if failed { self.queue.push_front(queued) } else { answer(queued.answer, Err(error)) }
        }
        // Only after changes: a disk that refuses would be asked without end.
        self.top_up = wrote && self.reserved.saturating_sub(self.assigned) < VERSION_BLOCK / 2;
    }

    fn commit(&mut self, event: WatchEvent) {
        self.version = event.object.version;
        self.totals.follow(&event);
        let object = event.object.clone();
        match event.kind {
            WatchEventKind::Added | WatchEventKind::Modified => {
                self.objects.insert(object.key.clone(), Stored { object, files: Files::default() });
            }
            WatchEventKind::Deleted => {
                self.objects.remove(&object.key);
            }
        }
        self.feed.publish(event);
    }

    fn settle(&mut self, key: Key, outcome: &Outcome) {
        if let Some(stored) = self.objects.get_mut(&key) {
            stored.files = outcome.files;
        }
        match outcome.trust {
            Trust::Good => drop(self.suspects.remove(&key)),
            Trust::AsBefore => {}
            Trust::None => drop(self.suspects.insert(key, outcome.files)),
        }
    }

    pub(super) fn list(&self, resource: &str, namespace: Option<&str>) -> Vec<Object> {
        let first = Key::new(resource, namespace.unwrap_or_default(), "");
        let wanted = |key: &Key| *key.resource == *resource && namespace.is_none_or(|own| *own == *key.namespace);
        let found = self.objects.range(first..).take_while(|(key, _)| wanted(key));
        found.map(|(_, stored)| stored.object.clone()).collect()
    }

    pub(super) fn resources(&self) -> BTreeSet<Arc<str>> {
        let used = self.totals.by_resource.iter().filter(|(_, count)| **count > 0);
        used.map(|(resource, _)| resource.clone()).collect()
    }

    pub(super) fn count(&self, resource: &str) -> usize {
        self.totals.by_resource.get(resource).copied().unwrap_or_default()
    }
}

/// Nobody may wait for it: the change counts all the same.
fn answer(answer: Answer, result: Result<Object, StoreError>) {
    answer.send(result).map_or_else(drop, drop);
}

fn check(queued: &Queued, stored: Option<&Object>, totals: &Totals) -> Result<(), StoreError> {
    let key = queued.change.key();
    let expected = match &queued.change {
        Change::Create { .. } if stored.is_some() => return Err(StoreError::Exists(key.clone())),
        Change::Create { .. } => {
            totals.check_create(key)?;
            return totals.check_bytes(key, 0, queued.bytes);
        }
        Change::Update { expected, .. } | Change::Delete { expected, .. } => *expected,
    };
    let Some(stored) = stored else { return Err(StoreError::NotFound(key.clone())) };
    if let Some(expected) = expected.filter(|expected| *expected != stored.version) {
        return Err(StoreError::Conflict { key: key.clone(), expected, found: stored.version });
    }
    match &queued.change {
        Change::Update { .. } => totals.check_bytes(key, stored.text.len(), queued.bytes),
        Change::Create { .. } | Change::Delete { .. } => Ok(()),
    }
}

fn is_full(error: &StoreError) -> bool {
    matches!(error, StoreError::Io { cause, .. } if matches!(cause.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded))
}

/// The same error for another change of the batch.
pub(super) fn again(error: &StoreError) -> StoreError {
    match error {
        StoreError::Io { operation, path, cause } => {
            let cause = cause.raw_os_error().map_or_else(
                || std::io::Error::new(cause.kind(), cause.to_string()),
                std::io::Error::from_raw_os_error,
            );
            StoreError::Io { operation, path: path.clone(), cause }
        }
        StoreError::Exists(key) => StoreError::Exists(key.clone()),
        StoreError::NotFound(key) => StoreError::NotFound(key.clone()),
        StoreError::Conflict { key, expected, found } => {
            StoreError::Conflict { key: key.clone(), expected: *expected, found: *found }
        }
        StoreError::OtherUid { key, expected, found } => {
            StoreError::OtherUid { key: key.clone(), expected: expected.clone(), found: found.clone() }
        }
        StoreError::Gone { asked, oldest } => StoreError::Gone { asked: *asked, oldest: *oldest },
        StoreError::TooLarge { key, bytes, limit } => {
            StoreError::TooLarge { key: key.clone(), bytes: *bytes, limit: *limit }
        }
        StoreError::TooMany { resource, limit } => StoreError::TooMany { resource: resource.clone(), limit: *limit },
    }
}
