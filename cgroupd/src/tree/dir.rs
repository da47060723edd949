//! Calls on one directory, by descriptor. `label` is its path for messages.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::TreeError;
use crate::parse::{self, CgroupEvents};

/// The largest file that is read: `cgroup.procs` of a few thousand processes, `memory.stat` is 2 KiB.
pub(super) const FILE_BYTES_MAX: usize = 1 << 20;
/// How deep a privileged container may nest cgroups before removal gives up.
pub(super) const DEPTH_MAX: usize = 64;
pub(super) const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// True when the directory is new.
pub(super) fn mkdir(dir: BorrowedFd<'_>, name: &str, label: &str) -> Result<bool, TreeError> {
    match rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(0o755)) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(source) => Err(TreeError::Mkdir { path: label.to_owned(), source }),
    }
}

pub(super) fn rmdir(dir: BorrowedFd<'_>, name: &str, label: &str) -> Result<(), TreeError> {
    match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(source) => Err(TreeError::Rmdir { path: label.to_owned(), source }),
    }
}

/// From the leaves up.
pub(super) fn remove_children(dir: BorrowedFd<'_>, label: &str, depth_left: usize) -> Result<(), TreeError> {
    let names = subdirectories(dir, label)?;
    let Some(depth_left) = depth_left.checked_sub(1) else {
        return Err(TreeError::TooDeep { path: label.to_owned() });
    };
    for name in names {
        let path = format!("{label}/{name}");
        match rustix::fs::openat(dir, &name, DIRECTORY, Mode::empty()) {
            Ok(child) => remove_children(child.as_fd(), &path, depth_left)?,
            Err(Errno::NOENT) => continue,
            Err(source) => return Err(TreeError::Open { path, source }),
        }
        rmdir(dir, &name, &path)?;
    }
    Ok(())
}

/// Names that are not UTF-8 are shown, and then not found, with replacement characters: none of ours.
pub(super) fn subdirectories(dir: BorrowedFd<'_>, label: &str) -> Result<Vec<String>, TreeError> {
    let read = |source| TreeError::Read { path: label.to_owned(), source };
    let mut names = Vec::new();
    for entry in Dir::read_from(dir).map_err(read)? {
        let entry = match entry {
            Err(Errno::NOENT) => break,
            entry => entry.map_err(read)?,
        };
        let name = entry.file_name().to_string_lossy();
        if entry.file_type() == FileType::Directory && name != "." && name != ".." {
            names.push(name.into_owned());
        }
    }
    Ok(names)
}

pub(super) fn read_file(dir: BorrowedFd<'_>, label: &str, name: &str) -> Result<String, TreeError> {
    let path = || format!("{label}/{name}");
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::openat(dir, name, flags, Mode::empty());
    let file = file.map_err(|source| TreeError::Open { path: path(), source })?;
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match rustix::io::read(&file, &mut chunk) {
            Ok(0) => break,
            Ok(count) => bytes.extend(chunk.iter().take(count)),
            Err(Errno::INTR) => {}
            Err(source) => {
                return Err(TreeError::Read { path: path(), source });
            }
        }
        if bytes.len() > FILE_BYTES_MAX {
            return Err(TreeError::Content { path: path() });
        }
    }
    String::from_utf8(bytes).map_err(|_| TreeError::Content { path: path() })
}

/// Waits until `cgroup.events` is as wanted; false when the time is over.
pub(super) fn wait_for(
    dir: BorrowedFd<'_>,
    label: &str,
    within: Duration,
    wanted: impl Fn(CgroupEvents) -> bool,
) -> Result<bool, TreeError> {
    let deadline = Instant::now() + within;
    let path = || format!("{label}/cgroup.events");
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, "cgroup.events", flags, Mode::empty());
    let file = file.map_err(|source| TreeError::Open { path: path(), source })?;
    loop {
        let mut bytes = [0; 256];
        let count = match rustix::io::pread(&file, &mut bytes, 0) {
            // Removed meanwhile: nothing lives there.
            Err(Errno::NODEV) => return Ok(true),
            read => read.map_err(|source| TreeError::Read { path: path(), source })?,
        };
        let text = String::from_utf8_lossy(bytes.get(..count).unwrap_or_default()).into_owned();
        let events = CgroupEvents::parse(&text);
        if wanted(events.map_err(|source| TreeError::Parse { dir: label.to_owned(), source })?) {
            return Ok(true);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let timeout = Timespec::try_from(left).ok();
        match rustix::event::poll(&mut [PollFd::new(&file, PollFlags::PRI)], timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(source) => {
                return Err(TreeError::Poll { path: label.to_owned(), source });
            }
        }
    }
}

/// Signals every process at or below `dir`; returns how many there were.
///
/// A pid may be reused between reading it and opening its pidfd, so only one that is still listed afterwards is killed.
pub(super) fn signal_tree(dir: BorrowedFd<'_>, label: &str, depth_left: usize) -> Result<usize, TreeError> {
    let listed = || {
        let text = read_file(dir, label, "cgroup.procs")?;
        parse::procs(&text).map_err(|source| TreeError::Parse { dir: label.to_owned(), source })
    };
    let open = |pid: i32| {
        let pid_type = rustix::process::Pid::from_raw(pid)?;
        Some((pid, rustix::process::pidfd_open(pid_type, rustix::process::PidfdFlags::empty()).ok()?))
    };
    let opened: Vec<_> = listed()?.into_iter().filter_map(open).collect();
    let still = listed()?;
    for (_, pidfd) in opened.iter().filter(|(pid, _)| still.contains(pid)) {
        match rustix::process::pidfd_send_signal(pidfd, rustix::process::Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(source) => {
                return Err(TreeError::Write {
                    path: format!("{label}/cgroup.procs"),
                    value: "SIGKILL".into(),
                    source,
                });
            }
        }
    }
    let mut count = still.len();
    let Some(depth_left) = depth_left.checked_sub(1) else {
        return Err(TreeError::TooDeep { path: label.to_owned() });
    };
    for name in subdirectories(dir, label)? {
        if let Ok(child) = rustix::fs::openat(dir, &name, DIRECTORY, Mode::empty()) {
            count += signal_tree(child.as_fd(), &format!("{label}/{name}"), depth_left)?;
        }
    }
    Ok(count)
}
