//! How much of the disk a volume takes (rules VO13, EV2): the node's own accounting, where no quota does it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, PodSpec};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};

use super::{VolumeError, memory};

/// Deeper trees are counted as far as this.
const DEPTH_MAX: u32 = 256;
/// Unit of `st_blocks`.
const BLOCK_BYTES: u64 = 512;

/// A disk volume that has grown beyond its `sizeLimit`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exceeded {
    pub volume: String,
    pub used_bytes: u64,
    /// As in the manifest.
    pub limit: String,
}

impl std::fmt::Display for Exceeded {
    /// The message of the eviction (rule EV2).
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Usage of EmptyDir volume {:?} exceeds the limit {:?}. ", self.volume, self.limit)
    }
}

/// The disk volumes of a pod with their limits in bytes and as written.
pub fn limited(spec: &PodSpec) -> Vec<(String, u64, String)> {
    let of = |source: &EmptyDirVolumeSource| -> Option<(u64, String)> {
        let on_disk = source.medium.as_deref().unwrap_or_default().is_empty();
        let limit = memory::size_limit(source).ok().flatten().filter(|_| on_disk)?;
        Some((limit, source.size_limit.as_ref()?.0.clone()))
    };
    let volumes = spec.volumes.iter().flatten();
    volumes
        .filter_map(|volume| {
            let (bytes, text) = of(volume.empty_dir.as_ref()?)?;
            Some((volume.name.clone(), bytes, text))
        })
        .collect()
}

/// Bytes on disk below `root`, directories included. Files that vanish meanwhile do not count; links are not followed and
/// other file systems not entered.
///
/// # Errors
/// The root can't be read.
pub fn bytes(root: BorrowedFd<'_>) -> Result<u64, VolumeError> {
    let stat = rustix::fs::fstat(root).map_err(VolumeError::system("stat", "volume"))?;
    Ok(blocks(&stat) + below(root, 0)?)
}

fn blocks(stat: &rustix::fs::Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0) * BLOCK_BYTES
}

fn below(directory: BorrowedFd<'_>, depth: u32) -> Result<u64, VolumeError> {
    let entries = Dir::read_from(directory).map_err(VolumeError::system("read directory", "volume"))?;
    let mut sum = 0;
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let Ok(stat) = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        sum += blocks(&stat);
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if is_directory
            && depth < DEPTH_MAX
            && let Some(opened) = open(directory, name)
        {
            sum += below(opened.as_fd(), depth + 1).unwrap_or(0);
        }
    }
    Ok(sum)
}

fn open(directory: BorrowedFd<'_>, name: &std::ffi::CStr) -> Option<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
    rustix::fs::openat2(directory, name, flags, Mode::empty(), resolve).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn blocks_are_counted_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let root = rustix::fs::open(dir.path(), OFlags::DIRECTORY, Mode::empty()).unwrap();
        let empty = bytes(root.as_fd()).unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("sub/file"), vec![1; 1 << 20]).unwrap();
        symlink("/", dir.path().join("link")).unwrap();
        let used = bytes(root.as_fd()).unwrap() - empty;
        assert!((1 << 20..(1 << 20) + (64 << 10)).contains(&used), "{used}");
    }

    /// EV2: memory volumes are limited by their file system.
    #[test]
    fn only_disk_volumes_with_a_limit_are_counted() {
        let text = r#"{"containers":[],"volumes":[{"name":"a","emptyDir":{"sizeLimit":"1Mi"}},{"name":"b","emptyDir":{}},
            {"name":"c","emptyDir":{"medium":"Memory","sizeLimit":"1Mi"}},{"name":"d","emptyDir":{"sizeLimit":"0"}}]}"#;
        let spec: PodSpec = serde_json::from_str(text).unwrap();
        assert_eq!(limited(&spec), [("a".to_owned(), 1 << 20, "1Mi".to_owned())]);
        let exceeded = Exceeded { volume: "a".into(), used_bytes: 2 << 20, limit: "1Mi".into() };
        assert_eq!(exceeded.to_string(), "Usage of EmptyDir volume \"a\" exceeds the limit \"1Mi\". ");
    }
}
