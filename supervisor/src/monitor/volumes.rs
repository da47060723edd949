//! The pod's volumes, mounted in the monitor's own mount namespace: the host never sees them, and they end with the monitor.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, open_tree,
};

use super::failure::{Called, Result, exists, not_found};
use super::protocol::MonitorError;
use crate::user_namespace::IdRange;

/// Mode of the directories that volumes are mounted on; nobody sees them.
const DIRECTORY_MODE: Mode = Mode::RWXU;
/// Inodes of the file system that holds the mount points: one per volume.
const MAX_VOLUMES: &str = "1024";

/// The monitor's working directory: children find the volumes by relative path in their copy of the mount namespace, where
/// a descriptor opened here would name a mount of another namespace.
#[derive(Debug)]
pub(super) struct Volumes {
    root: OwnedFd,
    names: Vec<String>,
}

/// A new tmpfs, detached.
pub(super) fn tmpfs(options: &[(&str, &str)], attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        fsconfig_set_string(context.as_fd(), *key, *value)?;
    }
    fsconfig_create(context.as_fd())?;
    Ok(fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

impl Volumes {
    /// Leaves the host's mount namespace and covers the working directory with an empty file system.
    pub(super) fn new() -> io::Result<Self> {
        crate::sys::process::unshare_mounts()?;
        mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
        let attributes =
            MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let root = tmpfs(&[("mode", "0700"), ("size", "64k"), ("nr_inodes", MAX_VOLUMES)], attributes)?;
        attach(root.as_fd(), CWD, ".")?;
        rustix::process::fchdir(&root)?;
        Ok(Self { root, names: Vec::new() })
    }

    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// Attaches a detached mount. A name that is kept already stays as it is.
    pub(super) fn keep(&mut self, name: &str, mount: BorrowedFd<'_>) -> Result<()> {
        check_name(name)?;
        if self.names.iter().any(|kept| kept == name) {
            return Ok(());
        }
        match rustix::fs::mkdirat(&self.root, name, DIRECTORY_MODE) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno).called(|| format!("mkdirat(volumes, {name})")),
        }
        attach(mount, self.root.as_fd(), name).called(|| format!("move_mount(volume {name})"))?;
        self.names.push(name.to_owned());
        Ok(())
    }

    /// Makes and keeps the `/dev/shm` of the pod.
    pub(super) fn keep_shm(&mut self, name: &str, bytes: u64, ids: Option<IdRange>) -> Result<()> {
        let attributes =
            MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let root = ids.map_or(0, IdRange::first).to_string();
        let options = [("mode", "1777"), ("size", &bytes.to_string()), ("uid", &root), ("gid", &root)];
        let mount = tmpfs(&options, attributes).called(|| format!("fsmount(tmpfs, size={bytes})"))?;
        self.keep(name, mount.as_fd())
    }

    /// A detached copy of a kept volume's mount. Only this namespace may copy it, before Linux 6.15.
    pub(super) fn copy(&self, name: &str) -> Result<OwnedFd> {
        let root = self.open(name)?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        open_tree(&root, "", flags).called(|| format!("open_tree(volume {name})"))
    }

    /// The root directory of a kept volume.
    pub(super) fn open(&self, name: &str) -> Result<OwnedFd> {
        if !self.names.iter().any(|kept| kept == name) {
            return Err(not_found("volume", name));
        }
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.root, name, flags, Mode::empty()).called(|| format!("openat(volumes, {name})"))
    }
}

fn attach(mount: BorrowedFd<'_>, directory: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    Ok(move_mount(mount, "", directory, name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// A name is one path component.
fn check_name(name: &str) -> Result<()> {
    let legal = !name.is_empty() && name.len() <= 255 && name != "." && name != ".." && !name.contains(['/', '\0']);
    if legal { Ok(()) } else { Err(MonitorError::Protocol(format!("volume name {name:?}"))) }
}

/// Refuses a name that is taken.
pub(super) fn refuse_taken(taken: bool, what: &str, id: &str) -> Result<()> {
    if taken { Err(exists(what, id)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_name_is_one_component() {
        for (name, legal) in [("shm", true), ("a.b", true), ("", false), (".", false), ("..", false), ("a/b", false)] {
            assert_eq!(check_name(name).is_ok(), legal, "{name:?}");
        }
        assert!(check_name(&"x".repeat(255)).is_ok());
        assert!(check_name(&"x".repeat(256)).is_err());
    }
}
