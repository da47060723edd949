//! Changes of `memory.events` and `cgroup.events` as one pollable descriptor (cgroup-v2.rst: both files raise a
//! modification event).

use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

/// Bytes read at once: some hundred events, since those of files carry no name.
const BUFFER_BYTES: usize = 4096;

/// A file whose changes the kernel reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventFile {
    CgroupEvents,
    MemoryEvents,
}

impl EventFile {
    /// The kernel's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::CgroupEvents => "cgroup.events",
            Self::MemoryEvents => "memory.events",
        }
    }
}

/// What happened. `key` is what the caller gave to [`Watch::add`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change<K> {
    /// Read the file again.
    Changed { key: K, file: EventFile },
    /// The cgroup is gone, and the watch with it. Few kernels say so (6.18 does not): call [`Watch::remove`].
    Gone { key: K, file: EventFile },
    /// Events were lost: read everything again.
    Overflow,
}

/// A failed call with its arguments.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    #[error("inotify_init1()")]
    Init { source: Errno },
    #[error("inotify_add_watch({file})")]
    Add { file: &'static str, source: Errno },
    #[error("read(inotify)")]
    Read { source: Errno },
}

/// Watches any number of cgroups. Readable (by poll, epoll or an async runtime) when [`Watch::read`] has something.
#[derive(Debug)]
pub struct Watch<K> {
    inotify: OwnedFd,
    watched: BTreeMap<i32, (K, EventFile)>,
}

impl<K: Copy> Watch<K> {
    /// # Errors
    /// When the user has too many inotify instances.
    pub fn new() -> Result<Self, WatchError> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK);
        Ok(Self { inotify: inotify.map_err(|source| WatchError::Init { source })?, watched: BTreeMap::new() })
    }

    /// Watches a file of the cgroup directory `dir`; adding it again changes its key. The path goes through our own
    /// descriptor: inotify has no call that takes one.
    ///
    /// # Errors
    /// `ENOENT` when the file does not exist here, `ENOSPC` at the user's limit of watches.
    pub fn add(&mut self, dir: BorrowedFd<'_>, file: EventFile, key: K) -> Result<(), WatchError> {
        let path = format!("/proc/self/fd/{}/{}", dir.as_raw_fd(), file.name());
        let watch = inotify::add_watch(&self.inotify, path, WatchFlags::MODIFY);
        let watch = watch.map_err(|source| WatchError::Add { file: file.name(), source })?;
        self.watched.insert(watch, (key, file));
        Ok(())
    }

    /// Forgets all watches of a key. Whoever removes a cgroup calls this, since kernfs keeps the watch, and with it the
    /// file's inode, for a file that is gone.
    pub fn remove(&mut self, key: K)
    where
        K: PartialEq,
    {
        let inotify = &self.inotify;
        self.watched.retain(|watch, (other, _)| {
            if *other == key {
                // EINVAL when the kernel dropped it by itself: the goal is reached.
                inotify::remove_watch(inotify, *watch).ok();
            }
            *other != key
        });
    }

    /// All that happened since the last call; empty when nothing did. Never waits.
    ///
    /// # Errors
    /// When the descriptor cannot be read.
    pub fn read(&mut self) -> Result<Vec<Change<K>>, WatchError> {
        let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        let mut changes = Vec::new();
        loop {
            let (watch, events) = match reader.next() {
                Ok(event) => (event.wd(), event.events()),
                Err(Errno::AGAIN) => return Ok(changes),
                Err(Errno::INTR) => continue,
                Err(source) => return Err(WatchError::Read { source }),
            };
            if events.contains(ReadFlags::QUEUE_OVERFLOW) {
                changes.push(Change::Overflow);
            } else if events.contains(ReadFlags::IGNORED) {
                let gone = self.watched.remove(&watch);
                changes.extend(gone.map(|(key, file)| Change::Gone { key, file }));
            } else if let Some((key, file)) = self.watched.get(&watch) {
                changes.push(Change::Changed { key: *key, file: *file });
            }
        }
    }
}

impl<K> AsFd for Watch<K> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}
