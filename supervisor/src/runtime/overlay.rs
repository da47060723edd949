//! The root file system: an overlay over the layers of an image, mounted where only the container sees it.
//!
//! overlayfs takes layers only from mounts of its caller's own mount namespace, but the descriptors were opened by the
//! brain in another one. So each directory is opened again by the name that the kernel gives for the descriptor and
//! must turn out to be the same inode; the store's directories belong to root alone, so the name cannot be bent.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_fd, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, move_mount, open_tree,
};

use super::failure::{At, Result, refuse};
use super::launch::Step;
use super::tree;
use crate::sys::mount::{Reach, map_ids};

/// How the layers are named to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Each by its descriptor (Linux 6.13).
    Descriptors,
    /// All in one option string of `mount(2)`; the strings of `fsconfig` end at 255 bytes, too few for many layers.
    OptionString,
}

/// Most layers of a root file system; the page of options that `mount(2)` takes has room for them.
pub const MAX_LAYERS: usize = 128;

const STEP: Step = Step::MountRoot;
const NAME: &str = "overlay";

/// Mounts `layers` (the uppermost first) below a writable one in `scratch`, on top of the directory `scratch` itself.
/// Returns the root of the new mount. With a user namespace all of it appears with the ids that it has there; the directories
/// themselves stay as they are, and others may use them with other ids.
pub fn mount_root(
    layers: &[BorrowedFd<'_>],
    scratch: BorrowedFd<'_>,
    user_namespace: Option<BorrowedFd<'_>>,
) -> Result<OwnedFd> {
    let parts = Parts::open(layers, scratch, user_namespace)?;
    match by_descriptors(&parts) {
        // Before 6.13 descriptors are refused, by old mount code with EOPNOTSUPP.
        Err(error) if [Errno::INVAL, Errno::OPNOTSUPP].iter().any(|no| error.errno == Some(no.raw_os_error())) => {
            by_option_string(&parts)
        }
        other => other,
    }
}

/// As [`mount_root`], by one method alone.
pub fn mount_root_by(
    method: Method,
    layers: &[BorrowedFd<'_>],
    scratch: BorrowedFd<'_>,
    user_namespace: Option<BorrowedFd<'_>>,
) -> Result<OwnedFd> {
    let parts = Parts::open(layers, scratch, user_namespace)?;
    match method {
        Method::Descriptors => by_descriptors(&parts),
        Method::OptionString => by_option_string(&parts),
    }
}

/// The directories as this mount namespace sees them.
struct Parts {
    layers: Vec<OwnedFd>,
    scratch: OwnedFd,
    scratch_path: CString,
    upper: OwnedFd,
    work: OwnedFd,
}

impl Parts {
    fn open(
        layers: &[BorrowedFd<'_>],
        scratch: BorrowedFd<'_>,
        user_namespace: Option<BorrowedFd<'_>>,
    ) -> Result<Self> {
        if layers.is_empty() || layers.len() > MAX_LAYERS {
            return Err(refuse(STEP, NAME, format!("{} layers, must be 1 to {MAX_LAYERS}", layers.len())));
        }
        let layers = layers.iter().map(|&layer| {
            let (own, path) = reopen(layer)?;
            with_ids_of(user_namespace, own, &path)
        });
        let layers = layers.collect::<Result<_>>()?;
        let (scratch, scratch_path) = reopen(scratch)?;
        let scratch = with_ids_of(user_namespace, scratch, &scratch_path)?;
        let below = |name: &str| {
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            tree::open(&scratch, name, OFlags::RDONLY | OFlags::DIRECTORY, resolve).at(STEP, name, "openat2")
        };
        Ok(Self { upper: below("upper")?, work: below("work")?, layers, scratch, scratch_path })
    }
}

/// The directory in this mount namespace, and its path there. A detached mount has none and is used as it is.
fn reopen(foreign: BorrowedFd<'_>) -> Result<(OwnedFd, CString)> {
    let link = proc_path(foreign);
    let path = rustix::fs::readlink(&link, Vec::new()).at(STEP, &link, "readlink")?;
    let name = path.to_string_lossy().into_owned();
    let wanted = tree::whereabouts(foreign).at(STEP, &name, "statx")?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    if let Ok(own) = rustix::fs::openat(CWD, &path, flags, Mode::empty()) {
        let found = tree::whereabouts(&own).at(STEP, &name, "statx")?;
        if (found.device, found.inode) == (wanted.device, wanted.inode) {
            return Ok((own, path));
        }
    }
    let duplicate = foreign.try_clone_to_owned().at(STEP, &name, "dup")?;
    Ok((duplicate, path))
}

/// Covers a directory with itself, in this mount namespace alone: what is reached through the new mount has the ids of the
/// user namespace.
fn with_ids_of(user_namespace: Option<BorrowedFd<'_>>, own: OwnedFd, path: &CStr) -> Result<OwnedFd> {
    let Some(user_namespace) = user_namespace else { return Ok(own) };
    let name = path.to_string_lossy();
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let made = open_tree(&own, "", flags).at(STEP, &name, "open_tree")?;
    map_ids(&made, Reach::Top, user_namespace).at(STEP, &name, "mount_setattr(MOUNT_ATTR_IDMAP)")?;
    super::mounts::move_onto(made.as_fd(), &own).at(STEP, &name, "move_mount")?;
    // The root of a new mount is a mere handle.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(&made, ".", flags, Mode::empty()).at(STEP, &name, "openat")
}

fn proc_path(fd: impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

fn by_descriptors(parts: &Parts) -> Result<OwnedFd> {
    let context = fsopen(NAME, FsOpenFlags::FSOPEN_CLOEXEC).at(STEP, NAME, "fsopen")?;
    fsconfig_set_string(&context, "source", NAME).at(STEP, NAME, "fsconfig(source)")?;
    for layer in &parts.layers {
        fsconfig_set_fd(&context, "lowerdir+", layer).at(STEP, NAME, "fsconfig(lowerdir+)")?;
    }
    fsconfig_set_fd(&context, "upperdir", &parts.upper).at(STEP, NAME, "fsconfig(upperdir)")?;
    fsconfig_set_fd(&context, "workdir", &parts.work).at(STEP, NAME, "fsconfig(workdir)")?;
    fsconfig_set_flag(&context, "volatile").at(STEP, NAME, "fsconfig(volatile)")?;
    fsconfig_create(&context).at(STEP, NAME, "fsconfig(create)")?;
    let root = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).at(STEP, NAME, "fsmount")?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&root, "", &parts.scratch, "", flags).at(STEP, NAME, "move_mount")?;
    Ok(root)
}

/// `mount(2)` with paths, which are all our own: `/proc/self/fd` and the scratch directory of the store.
fn by_option_string(parts: &Parts) -> Result<OwnedFd> {
    let layers = parts.layers.iter().map(proc_path).collect::<Vec<_>>().join(":");
    let (upper, work) = (proc_path(&parts.upper), proc_path(&parts.work));
    let options = format!("lowerdir={layers},upperdir={upper},workdir={work},volatile");
    let options = CString::new(options).map_err(|error| refuse(STEP, NAME, error.to_string()))?;
    mount(NAME, &parts.scratch_path, NAME, MountFlags::empty(), Some(options.as_c_str())).at(STEP, NAME, "mount")?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, &parts.scratch_path, flags, Mode::empty()).at(STEP, NAME, "openat")?;
    let covered = tree::whereabouts(&parts.scratch).at(STEP, NAME, "statx")?;
    let found = tree::whereabouts(&root).at(STEP, NAME, "statx")?;
    if found.mount == covered.mount {
        return Err(refuse(STEP, NAME, "something else was mounted over the scratch directory"));
    }
    Ok(root)
}
