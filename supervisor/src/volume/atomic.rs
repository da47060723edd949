//! The files of a volume that is written by us, changed so that readers see all of the old or all of the new (VO20).
//!
//! ```text
//! ..2026_11_21_07_30_00.123456/key   the content
//! ..data -> ..2026_11_21_07_30_00.123456
//! key -> ..data/key
//! ```
//!
//! An update writes a new directory and renames a link over `..data`. Containers have the volume read-only; still nothing
//! here follows a link or trusts a name that was looked at before (D7, P12): everything goes by descriptor, below the
//! volume's root, and a name that is taken by something else is replaced, not written through.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;

use super::payload::{File, Payload};
use super::{VolumeError, ownership, remove};
use crate::user_namespace::{IdRange, host_id};

const DATA: &str = "..data";
const DATA_TEMPORARY: &str = "..data_tmp";
const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o755);
/// `S_ISGID`
const SETGID: u32 = 0o2000;
const FLAGS: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC);

/// What an update did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// Everything was as it should be; nothing was touched (VO21).
    Unchanged,
    /// The directory that was in use before, for [`remove_old`]: somebody may be on the way through it right now.
    Changed { old: Option<String> },
}

/// Makes the files of `root` those of `payload`. `group` gets the right to read (VO50). Owners are those of the pod, which may
/// have `ids` of its own.
///
/// # Errors
/// A path leaves the volume, or a call failed: then what was there before is still there, whole.
pub fn write(
    root: BorrowedFd<'_>,
    payload: &Payload,
    group: Option<u32>,
    ids: Option<IdRange>,
) -> Result<Written, VolumeError> {
    payload.keys().try_for_each(|path| check_path(path))?;
    let current = current(root)?;
    if let Some(current) = &current
        && is_same(root, current, payload)?
    {
        link_names(root, payload, ids)?;
        return Ok(Written::Unchanged);
    }
    let name = new_name();
    rustix::fs::mkdirat(root, &name, DIRECTORY_MODE).map_err(VolumeError::system("mkdirat", &name))?;
    let filled = fill(root, &name, payload, group, ids).and_then(|()| swap(root, &name, ids));
    if let Err(error) = filled {
        // What is half made must not stay; the first error is the one to tell.
        let _left_for_the_next_sweep = remove::tree(root, &name);
        return Err(error);
    }
    link_names(root, payload, ids)?;
    unlink_stale(root, payload)?;
    Ok(Written::Changed { old: current })
}

/// Removes a directory that [`write`] replaced.
///
/// # Errors
/// A call failed.
pub fn remove_old(root: BorrowedFd<'_>, old: &str) -> Result<(), VolumeError> {
    remove::tree(root, old)
}

/// Removes everything that is not in use: what an interrupted update left behind.
///
/// # Errors
/// A call failed.
pub fn sweep(root: BorrowedFd<'_>) -> Result<(), VolumeError> {
    let current = current(root)?;
    for name in names(root)? {
        let ours = name.starts_with("..") && name != DATA && Some(&name) != current.as_ref();
        if ours {
            remove::tree(root, &name)?;
        }
    }
    Ok(())
}

/// Relative, without `..`, and not among our own names (VO23).
fn check_path(path: &str) -> Result<(), VolumeError> {
    let bad = path.is_empty()
        || path.starts_with('/')
        || path.starts_with("..")
        || path.contains('\0')
        || path.split('/').any(|part| part == ".." || part == "." || part.is_empty() || part.len() > 255);
    if bad { Err(VolumeError::Content(format!("invalid path {path:?}"))) } else { Ok(()) }
}

/// The directory that is in use.
fn current(root: BorrowedFd<'_>) -> Result<Option<String>, VolumeError> {
    match rustix::fs::readlinkat(root, DATA, Vec::new()) {
        Ok(target) => {
            let name = target.to_string_lossy().into_owned();
            Ok((name.starts_with("..") && !name.contains('/') && name != "..").then_some(name))
        }
        Err(Errno::NOENT) => Ok(None),
        Err(Errno::INVAL) => Ok(None),
        Err(error) => Err(VolumeError::system("readlinkat", DATA)(error)),
    }
}

fn is_same(root: BorrowedFd<'_>, current: &str, payload: &Payload) -> Result<bool, VolumeError> {
    let Some(directory) = open_below(root, current, OFlags::DIRECTORY)? else { return Ok(false) };
    let mut found = BTreeSet::new();
    list(directory.as_fd(), "", &mut found)?;
    if !found.iter().eq(payload.keys()) {
        return Ok(false);
    }
    for (path, file) in payload {
        if !holds(directory.as_fd(), path, file)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn holds(directory: BorrowedFd<'_>, path: &str, file: &File) -> Result<bool, VolumeError> {
    let Some(opened) = open_below(directory, path, OFlags::NONBLOCK)? else { return Ok(false) };
    let mut content = Vec::with_capacity(file.content.len() + 1);
    let limit = file.content.len() as u64 + 1;
    std::fs::File::from(opened)
        .take(limit)
        .read_to_end(&mut content)
        .map_err(|error| VolumeError::io("read", path, &error))?;
    Ok(content == file.content)
}

/// Paths of all files below `directory`.
fn list(directory: BorrowedFd<'_>, prefix: &str, into: &mut BTreeSet<String>) -> Result<(), VolumeError> {
    for name in names(directory)? {
        let path = format!("{prefix}{name}");
        match open_below(directory, &name, OFlags::DIRECTORY) {
            Ok(Some(below)) => list(below.as_fd(), &format!("{path}/"), into)?,
            _ => drop(into.insert(path)),
        }
    }
    Ok(())
}

fn names(directory: BorrowedFd<'_>) -> Result<Vec<String>, VolumeError> {
    // The root of a detached mount is a mere handle.
    let readable = rustix::fs::openat(directory, ".", FLAGS | OFlags::DIRECTORY, Mode::empty())
        .map_err(VolumeError::system("openat", "volume"))?;
    let entries = Dir::new(readable).map_err(VolumeError::system("read directory", "volume"))?;
    let mut all = Vec::new();
    for entry in entries {
        let entry = entry.map_err(VolumeError::system("read directory", "volume"))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name != "." && name != ".." {
            all.push(name);
        }
    }
    Ok(all)
}

fn open_below(root: BorrowedFd<'_>, path: &str, flags: OFlags) -> Result<Option<OwnedFd>, VolumeError> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    match rustix::fs::openat2(root, path, flags | FLAGS, Mode::empty(), resolve) {
        Ok(opened) => Ok(Some(opened)),
        Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(VolumeError::system("openat2", path)(error)),
    }
}

/// As kubelet names it: the time, and something that makes it unique.
fn new_name() -> String {
    let time = jiff::Timestamp::now().strftime("..%Y_%m_%d_%H_%M_%S");
    let (random, _) = uuid::Uuid::new_v4().as_u64_pair();
    format!("{time}.{}", random % 10_000_000_000)
}

fn fill(
    root: BorrowedFd<'_>,
    name: &str,
    payload: &Payload,
    group: Option<u32>,
    ids: Option<IdRange>,
) -> Result<(), VolumeError> {
    let directory = rustix::fs::openat(root, name, FLAGS | OFlags::DIRECTORY, Mode::empty())
        .map_err(VolumeError::system("openat", name))?;
    chmod(&directory, DIRECTORY_MODE, name)?;
    own(&directory, None, ids, name)?;
    for (path, file) in payload {
        put(directory.as_fd(), path, file, ids)?;
    }
    match group {
        Some(group) => ownership::give_to_group(directory.as_fd(), host_id(ids, group)?, true),
        None => Ok(()),
    }
}

fn put(directory: BorrowedFd<'_>, path: &str, file: &File, ids: Option<IdRange>) -> Result<(), VolumeError> {
    let mut at = directory.try_clone_to_owned().map_err(|error| VolumeError::io("dup", path, &error))?;
    let (parents, name) = path.rsplit_once('/').map_or((None, path), |(parents, name)| (Some(parents), name));
    for part in parents.into_iter().flat_map(|parents| parents.split('/')) {
        match rustix::fs::mkdirat(&at, part, DIRECTORY_MODE) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(VolumeError::system("mkdirat", path)(error)),
        }
        at = rustix::fs::openat(&at, part, FLAGS | OFlags::DIRECTORY, Mode::empty())
            .map_err(VolumeError::system("openat", path))?;
        chmod(&at, DIRECTORY_MODE, path)?;
        own(&at, None, ids, path)?;
    }
    let flags = FLAGS | OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
    let opened =
        rustix::fs::openat(&at, name, flags, Mode::RUSR | Mode::WUSR).map_err(VolumeError::system("openat", path))?;
    let mut opened = std::fs::File::from(opened);
    opened.write_all(&file.content).map_err(|error| VolumeError::io("write", path, &error))?;
    own(&opened, file.owner, ids, path)?;
    chmod(&opened, Mode::from_raw_mode(file.mode), path)
}

/// Independent of our umask.
fn chmod(fd: impl AsFd, mode: Mode, path: &str) -> Result<(), VolumeError> {
    rustix::fs::fchmod(fd, mode).map_err(VolumeError::system("fchmod", path))
}

/// Gives to the user, or to the pod's root, what was made by the host's.
fn own(fd: impl AsFd, user: Option<u32>, ids: Option<IdRange>, path: &str) -> Result<(), VolumeError> {
    if user.is_none() && ids.is_none() {
        return Ok(());
    }
    let uid = Uid::from_raw(host_id(ids, user.unwrap_or(0))?);
    let gid = ids.map(|ids| Gid::from_raw(ids.first()));
    rustix::fs::fchown(fd, Some(uid), gid).map_err(VolumeError::system("fchown", path))
}

fn link(target: &str, root: BorrowedFd<'_>, name: &str, ids: Option<IdRange>) -> Result<(), VolumeError> {
    rustix::fs::symlinkat(target, root, name).map_err(VolumeError::system("symlinkat", name))?;
    let Some(ids) = ids else { return Ok(()) };
    // A volume that was given to a group gives it to what is made in it.
    let mode = rustix::fs::fstat(root).map_err(VolumeError::system("fstat", name))?.st_mode;
    let inherits = mode & SETGID != 0;
    let (uid, gid) = (Some(Uid::from_raw(ids.first())), (!inherits).then(|| Gid::from_raw(ids.first())));
    rustix::fs::chownat(root, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW).map_err(VolumeError::system("fchownat", name))
}

/// From now on readers find the new files.
fn swap(root: BorrowedFd<'_>, name: &str, ids: Option<IdRange>) -> Result<(), VolumeError> {
    match rustix::fs::unlinkat(root, DATA_TEMPORARY, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(VolumeError::system("unlinkat", DATA_TEMPORARY)(error)),
    }
    link(name, root, DATA_TEMPORARY, ids)?;
    rustix::fs::renameat(root, DATA_TEMPORARY, root, DATA).map_err(VolumeError::system("renameat", DATA))
}

/// The first component of every path.
fn visible(payload: &Payload) -> BTreeSet<&str> {
    payload.keys().map(|path| path.split_once('/').map_or(path.as_str(), |(first, _)| first)).collect()
}

fn link_names(root: BorrowedFd<'_>, payload: &Payload, ids: Option<IdRange>) -> Result<(), VolumeError> {
    for name in visible(payload) {
        let target = format!("{DATA}/{name}");
        let found = rustix::fs::readlinkat(root, name, Vec::new());
        match found {
            Ok(found) if found.to_bytes() == target.as_bytes() => continue,
            Err(Errno::NOENT) => {}
            // Something else has the name.
            Ok(_) | Err(Errno::INVAL) => remove::tree(root, name)?,
            Err(error) => return Err(VolumeError::system("readlinkat", name)(error)),
        }
        link(&target, root, name, ids)?;
    }
    Ok(())
}

/// Names that nothing stands behind any more.
fn unlink_stale(root: BorrowedFd<'_>, payload: &Payload) -> Result<(), VolumeError> {
    let wanted = visible(payload);
    for name in names(root)? {
        if !name.starts_with("..") && !wanted.contains(name.as_str()) {
            remove::tree(root, &name)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
