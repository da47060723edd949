//! `emptyDir` on disk (section 7.1).

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::VolumeError;

/// Every user may write (rule VO10).
const MODE: Mode = Mode::from_raw_mode(0o777);

/// The directory of a volume on disk, below the pod's (rule VO2), and whether it was made now.
pub(super) fn on_disk(pod_dir: &Path, name: &str) -> Result<(OwnedFd, bool), VolumeError> {
    let parent = pod_dir.join("volumes/kubernetes.io~empty-dir");
    std::fs::create_dir_all(&parent).map_err(|error| VolumeError::System {
        call: "mkdir",
        path: parent.display().to_string(),
        source: Errno::from_io_error(&error).unwrap_or(Errno::IO),
    })?;
    let path = parent.join(name);
    let is_new = match rustix::fs::mkdir(&path, MODE) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(error) => return Err(VolumeError::system("mkdir", &path)(error)),
    };
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = rustix::fs::open(&path, flags, Mode::empty()).map_err(VolumeError::system("open", &path))?;
    if is_new {
        // Independent of our umask.
        rustix::fs::fchmod(&root, MODE).map_err(VolumeError::system("chmod", &path))?;
    }
    Ok((root, is_new))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// VO10
    #[test]
    fn a_volume_on_disk_is_writable_by_everyone_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let (first, is_new) = on_disk(dir.path(), "data").unwrap();
        let (again, is_new_again) = on_disk(dir.path(), "data").unwrap();
        assert_eq!((is_new, is_new_again), (true, false));
        let (first, again) = (rustix::fs::fstat(first).unwrap(), rustix::fs::fstat(again).unwrap());
        assert_eq!(first.st_mode & 0o7777, 0o777);
        assert_eq!(first.st_ino, again.st_ino);
    }
}
