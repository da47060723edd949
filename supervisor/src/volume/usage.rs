//! How much of the disk a pod takes (rules VO13, EV1): the node's own accounting, where no quota does it.

use std::collections::{BTreeMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use cgroupd::Quantity;
use k8s_openapi::api::core::v1::{Container, EmptyDirVolumeSource, PodSpec, Volume};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};

use super::VolumeError;
use crate::admission::effective_limit;

/// Deeper trees are counted as far as this.
const DEPTH_MAX: u32 = 256;
/// Unit of `st_blocks`.
const BLOCK_BYTES: u64 = 512;
/// So many files with several names are counted once; of more, each name counts.
const LINKED_MAX: usize = 1 << 16;
const RESOURCE: &str = "ephemeral-storage";

/// A limit of a pod's that it has grown beyond.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exceeded {
    /// `sizeLimit` of a disk volume (EV2).
    Volume { name: String, limit: String },
    /// What all containers together may take (EV3).
    Pod { limit: String },
    /// What one container may take (EV4).
    Container { name: String, limit: String },
}

impl std::fmt::Display for Exceeded {
    /// The message of the eviction.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Volume { name, limit } => {
                write!(f, "Usage of EmptyDir volume {name:?} exceeds the limit {limit:?}. ")
            }
            Self::Pod { limit } => {
                write!(f, "Pod ephemeral local storage usage exceeds the total limit of containers {limit}. ")
            }
            Self::Container { name, limit } => {
                write!(f, "Container {name} exceeded its local ephemeral storage limit {limit:?}. ")
            }
        }
    }
}

/// What a pod may take of the disk.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Disk volumes with a `sizeLimit`, in the order of the manifest.
    volumes: Vec<(String, Quantity)>,
    pod: Option<Quantity>,
    /// Of app containers alone: the kubelet asks no others.
    containers: Vec<(String, Quantity)>,
}

/// What a pod takes of it.
#[derive(Debug, Default)]
pub struct Taken {
    /// Bytes of disk volumes.
    pub volumes: BTreeMap<String, u64>,
    /// Bytes of running containers: writable layer and logs.
    pub containers: BTreeMap<String, u64>,
}

impl Limits {
    pub fn of(spec: &PodSpec) -> Self {
        let volumes = spec.volumes.iter().flatten().filter(|volume| is_on_disk(volume));
        let volumes = volumes.filter_map(|volume| Some((volume.name.clone(), size_limit(volume.empty_dir.as_ref()?)?)));
        let own = |container: &Container| {
            let limit: Quantity = container.resources.as_ref()?.limits.as_ref()?.get(RESOURCE)?.0.parse().ok()?;
            limit.is_positive().then(|| (container.name.clone(), limit))
        };
        let containers = spec.containers.iter().filter_map(own);
        let overhead = spec.overhead.as_ref().and_then(|all| all.get(RESOURCE)?.0.parse::<Quantity>().ok());
        let overhead = overhead.unwrap_or(Quantity::ZERO);
        let pod = effective_limit(spec, RESOURCE);
        let pod = pod.map(|limit| if limit.is_zero() { limit } else { limit.plus(overhead) });
        Self { volumes: volumes.collect(), pod, containers: containers.collect() }
    }

    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Whether containers, and volumes without a limit of their own, have to be counted: none of an app container's is
    /// without one of the pod's.
    pub fn is_of_all(&self) -> bool {
        self.pod.is_some()
    }

    pub fn is_of_volume(&self, name: &str) -> bool {
        self.volumes.iter().any(|(limited, _)| limited == name)
    }

    /// The first one that the pod has grown beyond (EV1).
    pub fn exceeded(&self, taken: &Taken) -> Option<Exceeded> {
        let beyond = |all: &[(String, Quantity)], taken: &BTreeMap<String, u64>| {
            let found = all.iter().find(|(name, limit)| taken.get(name).is_some_and(|used| *used > limit.units()));
            found.map(|(name, limit)| (name.clone(), limit.to_string()))
        };
        if let Some((name, limit)) = beyond(&self.volumes, &taken.volumes) {
            return Some(Exceeded::Volume { name, limit });
        }
        let all =
            taken.volumes.values().chain(taken.containers.values()).fold(0, |sum: u64, one| sum.saturating_add(*one));
        if let Some(limit) = self.pod.filter(|limit| all > limit.units()) {
            return Some(Exceeded::Pod { limit: limit.to_string() });
        }
        let (name, limit) = beyond(&self.containers, &taken.containers)?;
        Some(Exceeded::Container { name, limit })
    }
}

/// An `emptyDir` that is not in memory, where its file system limits it.
pub fn is_on_disk(volume: &Volume) -> bool {
    volume.empty_dir.as_ref().is_some_and(|own| own.medium.as_deref().unwrap_or_default().is_empty())
}

fn size_limit(source: &EmptyDirVolumeSource) -> Option<Quantity> {
    source.size_limit.as_ref()?.0.parse::<Quantity>().ok().filter(|limit| limit.is_positive())
}

/// What a tree takes of its file system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    pub bytes: u64,
    pub inodes: u64,
}

impl std::iter::Sum for Amount {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Self::plus)
    }
}

impl Amount {
    fn plus(self, other: Self) -> Self {
        let inodes = self.inodes.saturating_add(other.inodes);
        Self { bytes: self.bytes.saturating_add(other.bytes), inodes }
    }

    fn of(stat: &rustix::fs::Stat) -> Self {
        Self { bytes: u64::try_from(stat.st_blocks).unwrap_or(0) * BLOCK_BYTES, inodes: 1 }
    }
}

/// What is on disk below `root`, directories included. Files that vanish meanwhile do not count, those with several names
/// count once; links are not followed and other file systems not entered.
///
/// # Errors
/// The root can't be read.
pub fn amount(root: BorrowedFd<'_>) -> Result<Amount, VolumeError> {
    let stat = rustix::fs::fstat(root).map_err(VolumeError::system("stat", "volume"))?;
    Ok(Amount::of(&stat).plus(below(root, 0, &mut HashSet::new())?))
}

/// `linked`: the inodes with several names so far.
fn below(directory: BorrowedFd<'_>, depth: u32, linked: &mut HashSet<u64>) -> Result<Amount, VolumeError> {
    let entries = Dir::read_from(directory).map_err(VolumeError::system("read directory", "volume"))?;
    let mut sum = Amount::default();
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let Ok(stat) = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if !is_directory && stat.st_nlink > 1 && is_counted(stat.st_ino, linked) {
            continue;
        }
        sum = sum.plus(Amount::of(&stat));
        if is_directory
            && depth < DEPTH_MAX
            && let Some(opened) = open(directory, name)
        {
            sum = sum.plus(below(opened.as_fd(), depth + 1, linked).unwrap_or_default());
        }
    }
    Ok(sum)
}

fn is_counted(inode: u64, linked: &mut HashSet<u64>) -> bool {
    if linked.len() < LINKED_MAX { !linked.insert(inode) } else { linked.contains(&inode) }
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
        let empty = amount(root.as_fd()).unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("sub/file"), vec![1; 1 << 20]).unwrap();
        symlink("/", dir.path().join("link")).unwrap();
        let used = amount(root.as_fd()).unwrap();
        let bytes = used.bytes - empty.bytes;
        assert!((1 << 20..(1 << 20) + (64 << 10)).contains(&bytes), "{bytes}");
        assert_eq!((empty.inodes, used.inodes), (1, 4));
    }

    #[test]
    fn a_file_with_several_names_is_counted_once() {
        let dir = tempfile::tempdir().unwrap();
        let root = rustix::fs::open(dir.path(), OFlags::DIRECTORY, Mode::empty()).unwrap();
        std::fs::write(dir.path().join("file"), vec![1; 1 << 20]).unwrap();
        std::fs::hard_link(dir.path().join("file"), dir.path().join("again")).unwrap();
        let used = amount(root.as_fd()).unwrap();
        assert!((1 << 20..(1 << 20) + (64 << 10)).contains(&used.bytes), "{used:?}");
        assert_eq!(used.inodes, 2);
    }

    fn limits(text: &str) -> Limits {
        Limits::of(&serde_json::from_str(text).unwrap())
    }

    fn taken(volumes: &[(&str, u64)], containers: &[(&str, u64)]) -> Taken {
        let all = |all: &[(&str, u64)]| all.iter().map(|(name, bytes)| ((*name).to_owned(), *bytes)).collect();
        Taken { volumes: all(volumes), containers: all(containers) }
    }

    /// EV2: memory volumes are limited by their file system.
    #[test]
    fn only_disk_volumes_with_a_limit_are_counted() {
        let limits = limits(
            r#"{"containers":[],"volumes":[{"name":"a","emptyDir":{"sizeLimit":"1024Ki"}},{"name":"b","emptyDir":{}},
            {"name":"c","emptyDir":{"medium":"Memory","sizeLimit":"1Mi"}},{"name":"d","emptyDir":{"sizeLimit":"0"}}]}"#,
        );
        let of: Vec<bool> = ["a", "b", "c", "d"].into_iter().map(|name| limits.is_of_volume(name)).collect();
        assert_eq!((of, limits.is_of_all()), (vec![true, false, false, false], false));
        assert_eq!(limits.exceeded(&taken(&[("a", 1 << 20)], &[])), None);
        let exceeded = limits.exceeded(&taken(&[("a", 2 << 20)], &[])).unwrap();
        assert_eq!(exceeded.to_string(), "Usage of EmptyDir volume \"a\" exceeds the limit \"1Mi\". ");
        assert!(Limits::of(&PodSpec::default()).is_none());
    }

    const POD: &str = r#"{
        "initContainers":[{"name":"i","resources":{"limits":{"ephemeral-storage":"1Mi"}}},
            {"name":"s","restartPolicy":"Always","resources":{"limits":{"ephemeral-storage":"1Mi"}}}],
        "containers":[{"name":"a","resources":{"limits":{"ephemeral-storage":"2Mi"}}},{"name":"b"}],
        "volumes":[{"name":"v","emptyDir":{"sizeLimit":"1Mi"}}]}"#;

    /// EV1, EV3, EV4: what init containers and sidecars take counts for the pod alone.
    #[test]
    fn volumes_come_first_then_the_pod_then_its_containers() {
        const MI: u64 = 1 << 20;
        let limits = limits(POD);
        let said = |volumes: &[(&str, u64)], containers: &[(&str, u64)]| {
            limits.exceeded(&taken(volumes, containers)).map(|exceeded| exceeded.to_string())
        };
        assert_eq!(said(&[("v", MI)], &[("a", 2 * MI)]), None);
        assert_eq!(said(&[], &[("s", 3 * MI)]), None);
        let pod = "Pod ephemeral local storage usage exceeds the total limit of containers 3Mi. ";
        assert_eq!(said(&[("v", MI)], &[("s", MI + 1), ("b", MI)]).as_deref(), Some(pod));
        let container = "Container a exceeded its local ephemeral storage limit \"2Mi\". ";
        assert_eq!(said(&[("v", 0)], &[("a", 2 * MI + 1)]).as_deref(), Some(container));
        let volume = said(&[("v", 2 * MI)], &[("a", 9 * MI)]).unwrap();
        assert!(volume.starts_with("Usage of EmptyDir volume"), "{volume}");
    }
}
