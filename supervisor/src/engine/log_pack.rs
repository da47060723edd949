//! Has rotated logs packed when a monitor has rotated one (rule LF3): the kernel tells, so that nothing wakes an idle node.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;

use crate::logs::pack;
use crate::sys::fd::registered;

/// Watches the containers' directories of logs; those that go are watched no longer.
#[derive(Debug, Clone)]
pub(super) struct LogPacker(Rc<Watched>);

#[derive(Debug)]
struct Watched {
    inotify: AsyncFd<OwnedFd>,
    /// By the kernel's number.
    dirs: RefCell<BTreeMap<i32, PathBuf>>,
}

impl LogPacker {
    /// Begins to listen, as long as the packer or a task that uses it lives; must run inside a `LocalSet`.
    pub(super) fn start() -> io::Result<Self> {
        let inotify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let inotify = registered(inotify)?;
        let packer = Self(Rc::new(Watched { inotify, dirs: RefCell::default() }));
        let listening = packer.clone();
        tokio::task::spawn_local(async move { listening.listen().await });
        Ok(packer)
    }

    /// Also packs what was rotated while nobody looked, at the next rotation.
    pub(super) fn watch(&self, dir: &Path) {
        let what = inotify::WatchFlags::MOVED_TO | inotify::WatchFlags::ONLYDIR;
        match inotify::add_watch(self.0.inotify.get_ref(), dir, what) {
            Ok(number) => drop(self.0.dirs.borrow_mut().insert(number, dir.to_owned())),
            Err(error) => tracing::warn!("watch {}: {error}; its logs are not packed", dir.display()),
        }
    }

    /// One directory after the other, off the loop: a flood of rotations keeps one thread busy and no more.
    async fn listen(&self) {
        while let Ok(mut ready) = self.0.inotify.readable().await {
            let rotated = self.rotated();
            ready.clear_ready();
            for dir in rotated {
                let shown = dir.display().to_string();
                let packed = tokio::task::spawn_blocking(move || pack::pack(&dir)).await;
                if let Err(error) = packed.unwrap_or_else(|panic| Err(panic.into())) {
                    tracing::warn!("pack rotated logs in {shown}: {error}");
                }
            }
        }
    }

    /// The directories in which a file got a new name.
    fn rotated(&self) -> BTreeSet<PathBuf> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(self.0.inotify.get_ref(), &mut buffer);
        let mut dirs = self.0.dirs.borrow_mut();
        let mut rotated = BTreeSet::new();
        while let Ok(event) = reader.next() {
            if event.events().contains(inotify::ReadFlags::IGNORED) {
                dirs.remove(&event.wd());
            } else {
                rotated.extend(dirs.get(&event.wd()).cloned());
            }
        }
        rotated
    }
}
