//! `fsGroup`: a volume's files are given to a group (rule VO50).

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags};
use rustix::io::Errno;

use super::VolumeError;

/// Deeper trees are refused rather than followed.
const DEPTH_MAX: u32 = 256;

/// Gives everything below `root` to `group`; `read_only` volumes get only the right to read.
pub fn give_to_group(root: BorrowedFd<'_>, group: u32, read_only: bool) -> Result<(), VolumeError> {
    Walk { group, read_only, done: &AtomicU64::new(0) }.give(root, 0)
}

/// The same for a volume that may hold very many files: `done` is how many have been given (VO53).
pub fn give_many_to_group(root: BorrowedFd<'_>, group: u32, done: &AtomicU64) -> Result<(), VolumeError> {
    Walk { group, read_only: false, done }.give(root, 0)
}

/// Group, rights and setgid of the root are as [`give_to_group`] leaves them (`OnRootMismatch`, rule VO52).
pub fn root_matches(root: BorrowedFd<'_>, group: u32) -> Result<bool, VolumeError> {
    let stat = rustix::fs::fstat(root).map_err(VolumeError::system("stat", "volume"))?;
    let mode = stat.st_mode & 0o7777;
    Ok(stat.st_gid == group && with_group_rights(mode, true, false) == mode)
}

struct Walk<'a> {
    group: u32,
    read_only: bool,
    done: &'a AtomicU64,
}

impl Walk<'_> {
    fn give(&self, directory: BorrowedFd<'_>, depth: u32) -> Result<(), VolumeError> {
        if depth > DEPTH_MAX {
            return Err(VolumeError::system("fsGroup", "directory tree")(Errno::LOOP));
        }
        self.set(directory)?;
        let entries = Dir::read_from(directory).map_err(VolumeError::system("read directory", "volume"))?;
        for entry in entries {
            let entry = entry.map_err(VolumeError::system("read directory", "volume"))?;
            if entry.file_name() != c"." && entry.file_name() != c".." {
                self.give_entry(directory, entry.file_name(), depth)?;
            }
        }
        Ok(())
    }

    /// Never follows a link: what a container swaps in meanwhile is either changed itself or not opened.
    fn give_entry(&self, directory: BorrowedFd<'_>, name: &CStr, depth: u32) -> Result<(), VolumeError> {
        let shown = name.to_string_lossy().into_owned();
        let call = |call| VolumeError::system(call, &shown);
        let stat = match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(()),
            stat => stat.map_err(call("stat"))?,
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let below = rustix::fs::openat(directory, name, flags, Mode::empty()).map_err(call("open"))?;
                self.give(below.as_fd(), depth + 1)
            }
            FileType::RegularFile => {
                let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
                let file = rustix::fs::openat(directory, name, flags, Mode::empty()).map_err(call("open"))?;
                self.set(file.as_fd())
            }
            FileType::Symlink
            | FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => {
                self.done.fetch_add(1, Ordering::Relaxed);
                let group = Some(Gid::from_raw(self.group));
                rustix::fs::chownat(directory, name, None, group, AtFlags::SYMLINK_NOFOLLOW).map_err(call("chown"))
            }
        }
    }

    fn set(&self, file: BorrowedFd<'_>) -> Result<(), VolumeError> {
        self.done.fetch_add(1, Ordering::Relaxed);
        let call = |call| VolumeError::system(call, "volume");
        let stat = rustix::fs::fstat(file).map_err(call("stat"))?;
        rustix::fs::fchown(file, None, Some(Gid::from_raw(self.group))).map_err(call("chown"))?;
        let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let mode = with_group_rights(stat.st_mode & 0o7777, directory, self.read_only);
        rustix::fs::fchmod(file, Mode::from_raw_mode(mode)).map_err(call("chmod"))
    }
}

fn with_group_rights(mode: u32, directory: bool, read_only: bool) -> u32 {
    let rights = if read_only { 0o440 } else { 0o660 };
    mode | rights | if directory { 0o2110 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt as _, symlink};

    /// VO50
    #[test]
    fn group_rights_are_added_to_the_mode() {
        for (mode, directory, read_only, expected) in [
            (0o777, true, false, 0o2777),
            (0o600, false, false, 0o660),
            (0o400, false, true, 0o440),
            (0o700, true, true, 0o2750),
        ] {
            assert_eq!(with_group_rights(mode, directory, read_only), expected);
        }
    }

    /// VO50, D6
    #[test]
    fn a_tree_is_given_away_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::NamedTempFile::new().unwrap();
        let before = outside.as_file().metadata().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("sub/file"), "x").unwrap();
        symlink(outside.path(), dir.path().join("link")).unwrap();
        let root = rustix::fs::open(dir.path(), OFlags::DIRECTORY, Mode::empty()).unwrap();
        let done = AtomicU64::new(0);
        give_many_to_group(root.as_fd(), 2000, &done).unwrap();
        assert_eq!(done.into_inner(), 4, "the root, a directory, a file and a link");
        assert_eq!(dir.path().join("sub/file").metadata().unwrap().gid(), 2000);
        assert_eq!(dir.path().join("sub").metadata().unwrap().mode() & 0o2070, 0o2070);
        assert_eq!(dir.path().join("link").symlink_metadata().unwrap().gid(), 2000);
        let after = outside.as_file().metadata().unwrap();
        assert_eq!((after.gid(), after.mode()), (before.gid(), before.mode()));
    }
}
