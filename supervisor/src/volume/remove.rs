//! Removing a tree that strangers wrote (D6, P11): by descriptor, links are removed and never followed, and nothing that is
//! mounted in it is entered.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::VolumeError;

/// Each level holds two descriptors. What lies deeper is moved up first, so no depth keeps a tree from going.
const DEPTH_MAX: u32 = 64;

/// Removes `name` in `parent` with everything below it. What is gone already is success; what can't be removed does not
/// keep the rest from going.
///
/// # Errors
/// The first thing that could not be removed: something is mounted there, the disk is read-only.
pub fn tree(parent: BorrowedFd<'_>, name: &str) -> Result<(), VolumeError> {
    let mut removal = Removal { top: parent, moved: Vec::new() };
    let mut first = removal.entry(parent, name.as_bytes(), 0);
    while let Some(name) = removal.moved.pop() {
        first = first.and(removal.entry(parent, name.as_bytes(), 0));
    }
    first
}

/// As [`tree`], by path.
///
/// # Errors
/// As [`tree`], or the path has no parent.
pub fn path(path: &Path) -> Result<(), VolumeError> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(OsStr::to_str)) else {
        return Err(VolumeError::system("remove", path)(Errno::INVAL));
    };
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::open(parent, flags, Mode::empty()) {
        Ok(parent) => tree(parent.as_fd(), name),
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(VolumeError::system("open", parent)(error)),
    }
}

struct Removal<'a> {
    top: BorrowedFd<'a>,
    /// Names in `top` of what lay too deep.
    moved: Vec<String>,
}

impl Removal<'_> {
    fn entry(&mut self, parent: BorrowedFd<'_>, name: &[u8], depth: u32) -> Result<(), VolumeError> {
        let shown = String::from_utf8_lossy(name).into_owned();
        let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(()),
            stat => stat.map_err(VolumeError::system("stat", &shown))?,
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return unlink(parent, name, AtFlags::empty(), &shown);
        }
        if depth >= DEPTH_MAX {
            return self.move_up(parent, name, &shown);
        }
        match open(parent, name) {
            Ok(directory) => self.children(directory.as_fd(), &shown, depth)?,
            // Exchanged meanwhile: what is there now is removed as what it is.
            Err(Errno::NOTDIR | Errno::LOOP) => return unlink(parent, name, AtFlags::empty(), &shown),
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(VolumeError::system("openat2", &shown)(error)),
        }
        unlink(parent, name, AtFlags::REMOVEDIR, &shown)
    }

    fn children(&mut self, directory: BorrowedFd<'_>, shown: &str, depth: u32) -> Result<(), VolumeError> {
        let entries = Dir::read_from(directory).map_err(VolumeError::system("read directory", shown))?;
        let mut first = Ok(());
        for found in entries {
            let found = found.map_err(VolumeError::system("read directory", shown))?;
            let name = found.file_name().to_bytes();
            if name != b"." && name != b".." {
                first = first.and(self.entry(directory, name, depth + 1));
            }
        }
        first
    }

    fn move_up(&mut self, parent: BorrowedFd<'_>, name: &[u8], shown: &str) -> Result<(), VolumeError> {
        let new = format!(".removed-{}", uuid::Uuid::new_v4().simple());
        match rustix::fs::renameat(parent, name, self.top, &new) {
            Ok(()) => {
                self.moved.push(new);
                Ok(())
            }
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(VolumeError::system("renameat", shown)(error)),
        }
    }
}

fn open(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
    for _ in 0..ATTEMPTS {
        match rustix::fs::openat2(parent, name, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => {}
            opened => return opened,
        }
    }
    Err(Errno::AGAIN)
}

/// `openat2` answers EAGAIN while somebody renames below.
const ATTEMPTS: u32 = 128;

fn unlink(parent: BorrowedFd<'_>, name: &[u8], flags: AtFlags, shown: &str) -> Result<(), VolumeError> {
    match rustix::fs::unlinkat(parent, name, flags) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(VolumeError::system("unlinkat", shown)(error)),
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

    #[test]
    fn no_depth_keeps_a_tree_from_going() {
        let dir = tempfile::tempdir().unwrap();
        let mut at = rustix::fs::open(dir.path(), OFlags::DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..1_000 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, "d", OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        path(&dir.path().join("d")).unwrap();
        assert_eq!(dir.path().read_dir().unwrap().count(), 0);
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
