//! Removing a tree that strangers wrote (D6, P11): by descriptor, links are removed and never followed, and nothing that is
//! mounted in it is entered.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::VolumeError;

/// Deeper trees are refused, rather than running out of descriptors: each level holds one.
const DEPTH_MAX: u32 = 512;

/// Removes `name` in `parent` with everything below it. What is gone already is success; what can't be removed does not
/// keep the rest from going.
///
/// # Errors
/// The first thing that could not be removed: something is mounted there, the disk is read-only.
pub fn tree(parent: BorrowedFd<'_>, name: &str) -> Result<(), VolumeError> {
    entry(parent, name.as_bytes(), 0)
}

fn entry(parent: BorrowedFd<'_>, name: &[u8], depth: u32) -> Result<(), VolumeError> {
    let shown = String::from_utf8_lossy(name).into_owned();
    let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        stat => stat.map_err(VolumeError::system("stat", &shown))?,
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return gone_is_done(rustix::fs::unlinkat(parent, name, AtFlags::empty()), "unlinkat", &shown);
    }
    match open(parent, name) {
        Ok(directory) => children(directory.as_fd(), &shown, depth)?,
        // Exchanged meanwhile: what is there now is removed as what it is.
        Err(Errno::NOTDIR | Errno::LOOP) => {
            return gone_is_done(rustix::fs::unlinkat(parent, name, AtFlags::empty()), "unlinkat", &shown);
        }
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(VolumeError::system("openat2", &shown)(error)),
    }
    gone_is_done(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR), "rmdir", &shown)
}

fn open(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
    rustix::fs::openat2(parent, name, flags, Mode::empty(), resolve)
}

fn children(directory: BorrowedFd<'_>, shown: &str, depth: u32) -> Result<(), VolumeError> {
    if depth >= DEPTH_MAX {
        return Err(VolumeError::system("remove", shown)(Errno::NAMETOOLONG));
    }
    let entries = Dir::read_from(directory).map_err(VolumeError::system("read directory", shown))?;
    let mut first = Ok(());
    for found in entries {
        let found = found.map_err(VolumeError::system("read directory", shown))?;
        let name = found.file_name().to_bytes();
        if name != b"." && name != b".." {
            first = first.and(entry(directory, name, depth + 1));
        }
    }
    first
}

fn gone_is_done(result: Result<(), Errno>, call: &'static str, shown: &str) -> Result<(), VolumeError> {
    match result {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(VolumeError::system(call, shown)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// P11, D6
    #[test]
    fn links_are_removed_and_never_followed() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("canary"), "same").unwrap();
        let pod = dir.path().join("pod");
        std::fs::create_dir_all(pod.join("a/b")).unwrap();
        std::fs::write(pod.join("a/b/file"), "x").unwrap();
        symlink(outside.path(), pod.join("a/link")).unwrap();
        symlink("/", pod.join("root")).unwrap();
        std::fs::hard_link(outside.path().join("canary"), pod.join("hard")).unwrap();
        let parent = rustix::fs::open(dir.path(), OFlags::DIRECTORY, Mode::empty()).unwrap();
        tree(parent.as_fd(), "pod").unwrap();
        tree(parent.as_fd(), "pod").unwrap();
        assert!(!pod.exists());
        assert_eq!(std::fs::read_to_string(outside.path().join("canary")).unwrap(), "same");
    }

    /// A container exchanges a directory with a link to the outside while we delete.
    #[test]
    fn an_exchange_meanwhile_deletes_nothing_outside() {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        use std::sync::atomic::{AtomicBool, Ordering};
        const ROUNDS: usize = 200;
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("canary"), "same").unwrap();
        let (real, link) = (dir.path().join("pod/real"), dir.path().join("pod/link"));
        let done = AtomicBool::new(false);
        let parent = rustix::fs::open(dir.path(), OFlags::DIRECTORY, Mode::empty()).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let _gone = renameat_with(CWD, &real, CWD, &link, RenameFlags::EXCHANGE);
                }
            });
            for _ in 0..ROUNDS {
                std::fs::create_dir_all(&real).unwrap();
                std::fs::write(real.join("canary"), "inside").unwrap();
                symlink(outside.path(), &link).unwrap();
                // The attacker may have made a directory non-empty again by its exchange.
                while tree(parent.as_fd(), "pod").is_err() {}
            }
            done.store(true, Ordering::Relaxed);
        });
        assert_eq!(std::fs::read_to_string(outside.path().join("canary")).unwrap(), "same");
    }
}
