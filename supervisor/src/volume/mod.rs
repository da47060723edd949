//! A pod's volumes: what they are on the node, and detached copies of their mounts for the containers (section 7).
//!
//! [`source`] decides what a volume becomes, [`make`] makes it. Volumes on disk live below the pod's directory and vanish
//! with it; those in memory, and all files that are written by us, are detached tmpfs mounts that the pod's monitor keeps.
//! Nothing here trusts a path that a container could have changed: everything below a volume's root is reached by
//! descriptor (D1, D6).

pub mod atomic;
pub mod claims;
mod empty_dir;
mod host_path;
mod memory;
pub mod ownership;
pub mod payload;
pub mod quota;
pub mod remove;
pub mod source;
pub mod sub_path;
pub mod usage;

use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::AtomicU64;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::OpenTreeFlags;

use crate::convert::mounts::VolumePlace;
use crate::sys::mount::{Reach, map_ids};
use crate::user_namespace::{IdRange, NotInPod, support};
use source::{GroupPolicy, Persistent, PersistentPlace, Source};

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
    #[error(
        "{path} can't be mounted with an id map, which a pod with hostUsers: false needs: its file system is {file_system} ({source})"
    )]
    NoIdMap { path: String, file_system: String, source: std::io::Error },
    #[error(transparent)]
    NotInPod(#[from] NotInPod),
    /// Something that the volume is made from is missing or wrong, in kubelet's words.
    #[error("{0}")]
    Content(String),
}

impl VolumeError {
    pub(crate) fn system(call: &'static str, path: impl AsRef<Path>) -> impl FnOnce(Errno) -> Self {
        let path = path.as_ref().display().to_string();
        move |source| Self::System { call, path, source }
    }

    pub(crate) fn io(call: &'static str, path: impl AsRef<Path>, error: &std::io::Error) -> Self {
        Self::system(call, path)(Errno::from_io_error(error).unwrap_or(Errno::IO))
    }
}

/// A volume that is ready for containers.
#[derive(Debug)]
pub struct ReadyVolume {
    pub name: String,
    pub place: VolumePlace,
    /// The root of a host volume, or a mount of a kept one that belongs to no namespace.
    pub root: OwnedFd,
    /// Its files are written by us, and change with the objects that they come from.
    pub is_content: bool,
    /// Its files are an image's.
    pub is_image: bool,
    /// The file system keeps it below its limit.
    pub has_quota: bool,
}

/// What making depends on, besides the source.
#[derive(Debug)]
pub struct Site<'a> {
    /// The pod's own directory on disk.
    pub pod_dir: &'a Path,
    /// `fsGroup`
    pub group: Option<u32>,
    /// Files that have been given to it so far.
    pub given: &'a AtomicU64,
    /// The pod's own ids, if it has any.
    pub ids: Option<IdRange>,
    /// Its user namespace, once there is a sandbox.
    pub user_namespace: Option<BorrowedFd<'a>>,
}

/// Makes one volume, used or not (rule VO3). `kept` is the mount of an earlier time, when the pod had a monitor already:
/// what is in it stays.
///
/// # Errors
/// A call failed. Repeating it finds what is there.
pub fn make(name: &str, source: &Source, site: &Site<'_>, kept: Option<OwnedFd>) -> Result<ReadyVolume, VolumeError> {
    let ready = |place: VolumePlace, root| ReadyVolume {
        name: name.to_owned(),
        place,
        root,
        is_content: false,
        is_image: matches!(source, Source::Image(_)),
        has_quota: false,
    };
    let or = |made: &dyn Fn() -> Result<OwnedFd, VolumeError>| match kept {
        Some(kept) => Ok(kept),
        None => made(),
    };
    match source {
        Source::Disk { limit_bytes } => {
            let (root, is_new) = empty_dir::on_disk(site.pod_dir, name)?;
            if let Some(group) = site.group.filter(|_| is_new) {
                ownership::give_to_group(root.as_fd(), group, false)?;
            }
            let limit = |bytes| quota::limit(root.as_fd(), bytes, is_new);
            let has_quota = limit_bytes.map(limit).transpose()?.unwrap_or(false);
            Ok(ReadyVolume { has_quota, ..ready(VolumePlace::on_host(), root) })
        }
        Source::Memory { size_bytes } => {
            Ok(ready(VolumePlace::kept(), or(&|| memory::empty_dir(*size_bytes, site.group, site.ids))?))
        }
        Source::HugePages { page_bytes } => {
            Ok(ready(VolumePlace::kept(), or(&|| memory::huge_pages(*page_bytes, site.group, site.ids))?))
        }
        Source::HostPath(source) => Ok(ready(VolumePlace::on_host(), host_path::open(source)?)),
        Source::Content(payload) => {
            let root = or(&|| memory::content(site.group, site.ids))?;
            atomic::sweep(root.as_fd())?;
            write_at_once(root.as_fd(), payload, site.group, site.ids)?;
            let place = VolumePlace { read_only: true, ..VolumePlace::kept() };
            Ok(ReadyVolume { is_content: true, ..ready(place, root) })
        }
        Source::Persistent(volume) => {
            let place = VolumePlace { read_only: volume.read_only, ..VolumePlace::on_host() };
            Ok(ready(place, persistent(volume, site)?))
        }
        Source::Image(layers) => {
            let immutable = |place| VolumePlace { read_only: true, no_exec: true, ..place };
            match layers.as_slice() {
                [only] => Ok(ready(immutable(VolumePlace::on_host()), open_directory(only)?)),
                several => {
                    Ok(ready(immutable(VolumePlace::kept()), or(&|| memory::overlay(several, site.user_namespace))?))
                }
            }
        }
    }
}

/// For a volume that no container has yet.
fn write_at_once(
    root: BorrowedFd<'_>,
    payload: &payload::Payload,
    group: Option<u32>,
    ids: Option<IdRange>,
) -> Result<(), VolumeError> {
    match atomic::write(root, payload, group, ids)? {
        atomic::Written::Changed { old: Some(old) } => atomic::remove_old(root, &old),
        atomic::Written::Changed { old: None } | atomic::Written::Unchanged => Ok(()),
    }
}

/// Every user may write to the directory of a claim, as in an `emptyDir`.
const CLAIM_MODE: Mode = Mode::from_raw_mode(0o777);

fn persistent(volume: &Persistent, site: &Site<'_>) -> Result<OwnedFd, VolumeError> {
    let root = match &volume.place {
        PersistentPlace::HostPath(source) => return host_path::open(source),
        PersistentPlace::Local(path) if rustix::fs::stat(path).is_err() => {
            return Err(VolumeError::Content(format!("path {path:?} does not exist")));
        }
        PersistentPlace::Local(path) => open_directory(path)?,
        PersistentPlace::Claim(path) => {
            let (root, is_new) = claim_directory(path)?;
            if let Some(bytes) = volume.size_bytes {
                // Where there is none, a claim's size is what it asked for and no more.
                let _counted_by_nobody = quota::limit(root.as_fd(), bytes, is_new)?;
            }
            root
        }
    };
    match site.group {
        // What is mounted read-only has its owner from elsewhere (VO50).
        Some(group) if !volume.read_only && needs_group(root.as_fd(), group, volume.group_policy)? => {
            ownership::give_many_to_group(root.as_fd(), group, site.given)?;
        }
        _ => {}
    }
    Ok(root)
}

fn claim_directory(path: &Path) -> Result<(OwnedFd, bool), VolumeError> {
    if let Some(parent) = path.parent() {
        crate::engine::dirs::create_private(parent).map_err(|error| VolumeError::io("mkdir", parent, &error))?;
    }
    match rustix::fs::mkdir(path, CLAIM_MODE) {
        Ok(()) => {
            let root = open_directory(path)?;
            // Independent of our umask.
            rustix::fs::fchmod(&root, CLAIM_MODE).map_err(VolumeError::system("chmod", path))?;
            Ok((root, true))
        }
        Err(Errno::EXIST) => Ok((open_directory(path)?, false)),
        Err(error) => Err(VolumeError::system("mkdir", path)(error)),
    }
}

/// Rule VO52.
fn needs_group(root: BorrowedFd<'_>, group: u32, policy: GroupPolicy) -> Result<bool, VolumeError> {
    match policy {
        GroupPolicy::Always => Ok(true),
        GroupPolicy::OnRootMismatch => Ok(!ownership::root_matches(root, group)?),
    }
}

fn open_directory(path: &Path) -> Result<OwnedFd, VolumeError> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(VolumeError::system("open", path))
}

/// What becomes of a `subPath` that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// A directory (VO41).
    Made,
    /// The volume is an image, whose files all its users share.
    Refused,
}

/// A detached copy of the mount at `root`, or of `sub_path` below it, for one container. With a user namespace its files
/// appear with the ids that they have there.
pub fn detached_copy(
    root: BorrowedFd<'_>,
    sub_path: Option<&str>,
    recursive: bool,
    missing: Missing,
    user_namespace: Option<BorrowedFd<'_>>,
) -> Result<OwnedFd, VolumeError> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let open = |path: &str| match missing {
        Missing::Made => sub_path::open(root, path),
        Missing::Refused => sub_path::beneath(root, path, OFlags::PATH),
    };
    let below = sub_path.map(open).transpose()?;
    let from = below.as_ref().map_or(root, |fd| fd.as_fd());
    let copy =
        rustix::mount::open_tree(from, "", flags).map_err(VolumeError::system("open_tree", sub_path.unwrap_or("/")))?;
    if let Some(namespace) = user_namespace {
        give_ids(&copy, namespace).map_err(|source| no_id_map(from, source))?;
    }
    Ok(copy)
}

/// File systems that are mounted below and can't have an id map are left without: to the pod all in them is nobody's, and it
/// is nobody to them.
fn give_ids(copy: &OwnedFd, namespace: BorrowedFd<'_>) -> std::io::Result<()> {
    map_ids(copy, Reach::Recursive, namespace).or_else(|_| map_ids(copy, Reach::Top, namespace))
}

fn no_id_map(what: BorrowedFd<'_>, source: std::io::Error) -> VolumeError {
    let link = rustix::fs::readlink(format!("/proc/self/fd/{}", what.as_raw_fd()), Vec::new());
    VolumeError::NoIdMap {
        path: link.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default(),
        file_system: support::type_of(what).unwrap_or_else(|| "unknown".to_owned()),
        source,
    }
}

/// Most of a file in a volume that is read for a container.
const READ_MAX: u64 = 1 << 20;

/// A file of a volume, reached without leaving it; none when there is none.
///
/// # Errors
/// The path leaves the volume, or what is there is no file.
pub fn read_file(root: BorrowedFd<'_>, path: &str) -> Result<Option<Vec<u8>>, VolumeError> {
    use std::io::Read as _;
    let file = match sub_path::beneath(root, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY) {
        Err(VolumeError::System { source: Errno::NOENT, .. }) => return Ok(None),
        file => std::fs::File::from(file?),
    };
    let mut content = Vec::new();
    file.take(READ_MAX).read_to_end(&mut content).map_err(|error| VolumeError::io("read", path, &error))?;
    Ok(Some(content))
}

#[cfg(test)]
mod tests;
