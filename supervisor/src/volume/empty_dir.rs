//! `emptyDir` (section 7.1).

use std::os::fd::OwnedFd;
use std::path::Path;

use k8s_openapi::api::core::v1::EmptyDirVolumeSource;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use super::VolumeError;

/// Every user may write (rule VO10).
const MODE: Mode = Mode::from_raw_mode(0o777);

/// The directory of a volume on disk, below the pod's (rule VO2).
pub(super) fn on_disk(pod_dir: &Path, name: &str) -> Result<OwnedFd, VolumeError> {
    let parent = pod_dir.join("volumes/kubernetes.io~empty-dir");
    std::fs::create_dir_all(&parent).map_err(|error| VolumeError::System {
        call: "mkdir",
        path: parent.display().to_string(),
        source: Errno::from_io_error(&error).unwrap_or(Errno::IO),
    })?;
    let path = parent.join(name);
    match rustix::fs::mkdir(&path, MODE) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(VolumeError::system("mkdir", &path)(error)),
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = rustix::fs::open(&path, flags, Mode::empty()).map_err(VolumeError::system("open", &path))?;
    // Independent of our umask.
    rustix::fs::fchmod(&root, MODE).map_err(VolumeError::system("chmod", &path))?;
    Ok(root)
}

/// A detached tmpfs as large as the smaller of `sizeLimit` and what the node allows (rule VO11).
pub(super) fn in_memory(
    source: &EmptyDirVolumeSource,
    memory_bytes: u64,
    fs_group: Option<i64>,
) -> Result<OwnedFd, VolumeError> {
    let size = size_bytes(source, memory_bytes)?;
    let call = |call| VolumeError::system(call, "tmpfs");
    let fs = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(call("fsopen"))?;
    let set = |key: &str, value: &str| {
        rustix::mount::fsconfig_set_string(&fs, key, value).map_err(VolumeError::system("fsconfig", key))
    };
    set("source", "tmpfs")?;
    set("size", &size.to_string())?;
    set("mode", "0777")?;
    if let Some(group) = fs_group {
        set("gid", &group.to_string())?;
        set("mode", "2777")?;
    }
    // Secrets must not reach the disk; kernels before 6.4 do not know the option.
    match rustix::mount::fsconfig_set_flag(&fs, "noswap") {
        Ok(()) | Err(Errno::INVAL) => {}
        Err(error) => return Err(VolumeError::system("fsconfig", "noswap")(error)),
    }
    rustix::mount::fsconfig_create(&fs).map_err(call("fsconfig create"))?;
    rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).map_err(call("fsmount"))
}

fn size_bytes(source: &EmptyDirVolumeSource, memory_bytes: u64) -> Result<u64, VolumeError> {
    let Some(limit) = &source.size_limit else { return Ok(memory_bytes) };
    let quantity: cgroupd::quantity::Quantity =
        limit.0.parse().map_err(|cause| VolumeError::SizeLimit { text: limit.0.clone(), cause: format!("{cause}") })?;
    let limit = u64::try_from(quantity.value()).unwrap_or(0);
    Ok([limit, memory_bytes].into_iter().filter(|bytes| *bytes > 0).min().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

    /// VO11: the smaller one, zero values left out.
    #[test]
    fn a_memory_volume_is_as_large_as_limit_and_node_allow() {
        for (limit, memory, expected) in [
            (None, 1 << 30, 1 << 30),
            (Some("16Mi"), 1 << 30, 16 << 20),
            (Some("2Gi"), 1 << 30, 1 << 30),
            (Some("0"), 1 << 30, 1 << 30),
            (Some("16Mi"), 0, 16 << 20),
        ] {
            let size_limit = limit.map(|text: &str| Quantity(text.to_owned()));
            let source = EmptyDirVolumeSource { size_limit, ..EmptyDirVolumeSource::default() };
            assert_eq!(size_bytes(&source, memory).unwrap(), expected, "{limit:?}");
        }
    }

    /// VO10
    #[test]
    fn a_volume_on_disk_is_writable_by_everyone_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let first = on_disk(dir.path(), "data").unwrap();
        let again = on_disk(dir.path(), "data").unwrap();
        let (first, again) = (rustix::fs::fstat(first).unwrap(), rustix::fs::fstat(again).unwrap());
        assert_eq!(first.st_mode & 0o7777, 0o777);
        assert_eq!(first.st_ino, again.st_ino);
    }
}
