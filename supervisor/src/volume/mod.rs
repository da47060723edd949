//! A pod's volumes: what they are on the node, and detached copies of their mounts for the containers (section 7).
//!
//! Volumes on disk live below the pod's directory and vanish with it; memory volumes are detached tmpfs mounts that the
//! pod's monitor keeps. Nothing here trusts a path that a container could have changed: everything below a volume's root
//! is reached by descriptor (D1, D6).

mod empty_dir;
mod host_path;
pub mod ownership;
pub mod sub_path;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{PodSpec, Volume};
use rustix::io::Errno;
use rustix::mount::OpenTreeFlags;

use crate::convert::mounts::{VolumeHome, VolumePlace};

/// Why a volume could not be set up; shown as `FailedMount` (rule VO1).
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("hostPath type check failed: {path} is not {expected}")]
    HostPathType { path: String, expected: &'static str },
    #[error("{call}({path}): {source}")]
    System { call: &'static str, path: String, source: Errno },
    #[error("volume type {kind} is not supported")]
    Unsupported { kind: String },
    #[error("sub path {path:?} leaves its volume")]
    Escapes { path: String },
    #[error("sizeLimit {text:?}: {cause}")]
    SizeLimit { text: String, cause: String },
}

impl VolumeError {
    fn system(call: &'static str, path: impl AsRef<Path>) -> impl FnOnce(Errno) -> Self {
        let path = path.as_ref().display().to_string();
        move |source| Self::System { call, path, source }
    }
}

/// A volume that is ready for containers.
#[derive(Debug)]
pub struct ReadyVolume {
    pub name: String,
    pub place: VolumePlace,
    /// The root of a host volume, or the detached mount of a kept one until the monitor has it.
    pub root: OwnedFd,
}

/// What setting up depends on, besides the manifest.
#[derive(Debug, Clone)]
pub struct VolumeFacts {
    /// The pod's own directory on disk.
    pub pod_dir: PathBuf,
    /// Upper bound of a memory volume: the node's allocatable memory, or the pod's limit when it is smaller (rule VO11).
    pub memory_bytes: u64,
}

/// Sets up every volume of the pod, used or not (rule VO3). Repeating it finds what is there.
pub fn set_up(spec: &PodSpec, facts: &VolumeFacts) -> Result<Vec<ReadyVolume>, (String, VolumeError)> {
    let fs_group = spec.security_context.as_ref().and_then(|security| security.fs_group);
    let volumes = spec.volumes.iter().flatten();
    volumes.map(|volume| one(volume, facts, fs_group).map_err(|error| (volume.name.clone(), error))).collect()
}

fn one(volume: &Volume, facts: &VolumeFacts, fs_group: Option<i64>) -> Result<ReadyVolume, VolumeError> {
    let ready =
        |home, root| ReadyVolume { name: volume.name.clone(), place: VolumePlace { home, read_only: false }, root };
    if let Some(source) = &volume.host_path {
        return Ok(ready(VolumeHome::Host, host_path::open(source)?));
    }
    let plain = k8s_openapi::api::core::v1::EmptyDirVolumeSource::default();
    let source = match &volume.empty_dir {
        Some(source) => source,
        None if has_other_source(volume) => return Err(VolumeError::Unsupported { kind: kind_of(volume) }),
        None => &plain,
    };
    match source.medium.as_deref() {
        None | Some("") => {
            let root = empty_dir::on_disk(&facts.pod_dir, &volume.name)?;
            own(root.as_fd(), fs_group)?;
            Ok(ready(VolumeHome::Host, root))
        }
        Some("Memory") => Ok(ready(VolumeHome::Kept, empty_dir::in_memory(source, facts.memory_bytes, fs_group)?)),
        Some(medium) => Err(VolumeError::Unsupported { kind: format!("emptyDir medium {medium}") }),
    }
}

fn own(root: BorrowedFd<'_>, fs_group: Option<i64>) -> Result<(), VolumeError> {
    match fs_group.and_then(|group| u32::try_from(group).ok()) {
        Some(group) => ownership::give_to_group(root, group, false),
        None => Ok(()),
    }
}

fn has_other_source(volume: &Volume) -> bool {
    kind_of(volume) != "emptyDir"
}

/// The volume's source as the manifest spells it.
fn kind_of(volume: &Volume) -> String {
    let value = serde_json::to_value(volume).unwrap_or_default();
    let mut keys = value.as_object().into_iter().flat_map(|object| object.keys());
    keys.find(|key| *key != "name").cloned().unwrap_or_else(|| "emptyDir".to_owned())
}

/// A detached copy of the mount at `root`, or of `sub_path` below it, for one container.
pub fn detached_copy(root: BorrowedFd<'_>, sub_path: Option<&str>, recursive: bool) -> Result<OwnedFd, VolumeError> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let below = sub_path.map(|path| sub_path::open(root, path)).transpose()?;
    let from = below.as_ref().map_or(root, |fd| fd.as_fd());
    rustix::mount::open_tree(from, "", flags).map_err(VolumeError::system("open_tree", sub_path.unwrap_or("/")))
}
