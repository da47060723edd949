//! Limits by project quota, where the file system has it (VO13): whoever fills a volume gets `EDQUOT`, and nothing has to
//! be counted. Elsewhere volumes are counted from time to time ([`super::usage`]).
//!
//! ext4 has it with `mkfs.ext4 -O quota,project` and the mount option `prjquota`, xfs with the mount option alone.

use std::os::fd::{AsFd as _, BorrowedFd};

use rustix::io::Errno;

use super::VolumeError;
use crate::sys::quota::{self, Project};

/// Projects of ours: far from what people write into `/etc/projid`.
const FIRST: u32 = 0x4d4f_0000;
const COUNT: u32 = 0x1_0000;
/// Projects that are looked at for a free one.
const ATTEMPTS: u32 = 64;

/// Limits what lies below `root`; false where no quota does it. A directory that had content before it was in a project
/// is left alone: that content would not be counted.
///
/// # Errors
/// The quota is there and refuses.
pub(super) fn limit(root: BorrowedFd<'_>, bytes: u64, is_new: bool) -> Result<bool, VolumeError> {
    let Ok(current) = quota::project_of(root) else { return Ok(false) };
    let call = |call| move |error: std::io::Error| VolumeError::io(call, "volume", &error);
    let project = match current {
        0 if is_new => {
            let Some(free) = free(root) else { return Ok(false) };
            quota::join_project(root, free).map_err(call("ioctl(FS_IOC_FSSETXATTR)"))?;
            free
        }
        own if is_ours(own) && quota::get(root, own).is_ok() => own,
        _ => return Ok(false),
    };
    quota::set(root, project, bytes).map_err(call("quotactl_fd(Q_SETQUOTA)"))?;
    Ok(true)
}

/// Takes the limit away, so that the project can be another volume's.
pub fn release(root: BorrowedFd<'_>) {
    if let Ok(project) = quota::project_of(root)
        && is_ours(project)
        && let Err(error) = quota::set(root.as_fd(), project, 0)
    {
        tracing::debug!("quotactl_fd(Q_SETQUOTA, {project}): {error}, ignoring");
    }
}

fn is_ours(project: u32) -> bool {
    (FIRST..FIRST + COUNT).contains(&project)
}

/// A project that nothing belongs to; none where there is no quota. A directory counts as an inode of its project, so one
/// that is in use never looks free.
fn free(root: BorrowedFd<'_>) -> Option<u32> {
    let (random, _) = uuid::Uuid::new_v4().as_u64_pair();
    let start = u32::try_from(random % u64::from(COUNT)).unwrap_or(0);
    (0..ATTEMPTS).map(|step| FIRST + (start + step) % COUNT).find_map(|project| match quota::get(root, project) {
        Ok(Project { bytes: 0, inodes: 0, .. }) => Some(Some(project)),
        Ok(_) => None,
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => Some(Some(project)),
        Err(_) => Some(None),
    })?
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{Mode, OFlags};

    /// tmpfs and `/proc` have none: the volume is made all the same, and counted.
    #[test]
    fn a_file_system_without_quota_is_not_an_error() {
        let dir = tempfile::tempdir().unwrap();
        for path in [dir.path(), std::path::Path::new("/dev/shm"), std::path::Path::new("/proc")] {
            let root = rustix::fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
            if quota::get(root.as_fd(), FIRST).is_err() {
                assert!(!limit(root.as_fd(), 1 << 20, true).unwrap(), "{}", path.display());
            }
            release(root.as_fd());
        }
    }
}
