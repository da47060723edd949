//! Removing a directory tree that a stranger made: by descriptor, following nothing, at any depth.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::{Errno, Result};
use rustix::path::Arg;

/// Directories held open at once; what lies deeper is first moved up.
const MAX_OPEN_DEPTH: usize = 32;

/// Removes `name` in `parent`, whatever it is. What is gone already is no error.
pub fn remove(parent: impl AsFd, name: impl Arg + Copy) -> Result<()> {
    let parent = parent.as_fd();
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => remove_directory(parent, name),
        Err(errno) => Err(errno),
    }
}

fn remove_directory(parent: BorrowedFd<'_>, name: impl Arg + Copy) -> Result<()> {
    let top = open(parent, name)?;
    let mut moved = 0;
    // Every pass brings what lies deepest nearer to the top, so the passes come to an end.
    while !empty(&top, &top, 0, &mut moved)? {}
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
}

fn open(parent: BorrowedFd<'_>, name: impl Arg) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    rustix::fs::openat2(parent, name, flags, Mode::empty(), resolve)
}

/// Whether `dir` is empty now.
fn empty(dir: &OwnedFd, top: &OwnedFd, depth: usize, moved: &mut u64) -> Result<bool> {
    let mut clean = true;
    for entry in Dir::new(rustix::io::fcntl_dupfd_cloexec(dir, 0)?)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            clean &= empty_entry(dir, name, top, depth, moved)?;
        }
    }
    rustix::fs::seek(dir, rustix::fs::SeekFrom::Start(0))?;
    Ok(clean)
}

fn empty_entry(dir: &OwnedFd, name: &CStr, top: &OwnedFd, depth: usize, moved: &mut u64) -> Result<bool> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) => return Ok(true),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(errno),
    }
    if depth == MAX_OPEN_DEPTH {
        *moved += 1;
        let to = format!(".wh.removed.{moved}");
        rustix::fs::renameat_with(dir, name, top, to.as_str(), RenameFlags::NOREPLACE)?;
        return Ok(false);
    }
    let child = open(dir.as_fd(), name)?;
    let clean = empty(&child, top, depth + 1, moved)?;
    rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?;
    Ok(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_of_any_depth_goes_and_what_its_links_show_stays() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        std::fs::write(&outside, "stays").unwrap();
        let root = rustix::fs::open(dir.path(), OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty()).unwrap();
        let mode = Mode::from_raw_mode(0o700);
        rustix::fs::mkdirat(&root, "tree", mode).unwrap();
        let mut here = open(root.as_fd(), "tree").unwrap();
        for _ in 0..1000 {
            rustix::fs::symlinkat(&outside, &here, "link").unwrap();
            rustix::fs::mkdirat(&here, "d", mode).unwrap();
            here = open(here.as_fd(), "d").unwrap();
        }
        remove(&root, "tree").unwrap();
        assert!(!dir.path().join("tree").exists());
        assert_eq!(std::fs::read_to_string(&outside).unwrap(), "stays");
        remove(&root, "tree").unwrap();
    }
}
