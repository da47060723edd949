//! What `/dev` holds: a fresh tmpfs with the nodes of rule PV9 or all of the host's.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::failure::{At, Result, failed, refuse};
use super::launch::{Devices, Mount, MountOptions, MountSource, Step};
use super::mounts::{Mounter, clone_tree, move_onto};
use crate::user_namespace::IdRange;

/// Size of the tmpfs at `/dev`; nodes need none, it limits what a container writes beside them.
const DEV_BYTES: u64 = 64 * 1024 * 1024;
/// Mode of the tmpfs at `/dev`.
const DEV_MODE: u32 = 0o755;
/// How deep a host's `/dev` is read.
const MAX_DEPTH: usize = 8;

/// The nodes that every container has, with their numbers in the kernel's `devices.txt`.
const NODES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

const LINKS: [(&str, &str); 6] = [
    ("ptmx", "pts/ptmx"),
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
];

/// Directories of the host's `/dev` that are file systems of their own.
const NOT_FROM_HOST: [&str; 4] = ["pts", "shm", "mqueue", "hugepages"];

/// The mount that `/dev` is unless the launch names another.
pub(crate) fn dev_mount() -> Mount {
    Mount {
        target: "/dev".to_owned(),
        source: MountSource::Tmpfs { size_bytes: DEV_BYTES, mode: DEV_MODE },
        options: MountOptions { nosuid: true, noexec: true, ..MountOptions::default() },
    }
}

/// Fills an attached, empty `/dev`.
pub(crate) fn populate(mounter: &Mounter<'_>, dev: &OwnedFd, devices: Devices) -> Result<()> {
    let root = mounter.ids.map_or(0, IdRange::first);
    let own = Owner { uid: root, gid: root };
    for (name, major, minor) in NODES {
        make_node(dev, name, Node::character(major, minor, own), own)?;
    }
    for (name, target) in LINKS {
        rustix::fs::symlinkat(target, dev, name).at(Step::MakeDevice, name, "symlinkat")?;
    }
    match devices {
        Devices::Default => Ok(()),
        Devices::Host => copy_host(dev, own),
    }?;
    check_null(mounter)
}

/// The masks rely on it (D5).
fn check_null(mounter: &Mounter<'_>) -> Result<()> {
    let found = rustix::fs::fstat(mounter.null).at(Step::MakeDevice, "null", "fstat")?;
    let (major, minor) = (rustix::fs::major(found.st_rdev), rustix::fs::minor(found.st_rdev));
    if Node::of(&found).is_none() || (major, minor) != (1, 3) {
        return Err(refuse(Step::MakeDevice, "null", "the host's /dev/null is not the device 1:3"));
    }
    Ok(())
}

#[derive(Clone, Copy)]
struct Node {
    kind: FileType,
    device: u64,
    mode: Mode,
    owner: Owner,
}

/// As the host counts. A device of the host keeps its owner: to a pod with users of its own it belongs to nobody.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Owner {
    uid: u32,
    gid: u32,
}

impl Node {
    fn character(major: u32, minor: u32, owner: Owner) -> Self {
        Self {
            kind: FileType::CharacterDevice,
            device: rustix::fs::makedev(major, minor),
            mode: Mode::from_raw_mode(0o666),
            owner,
        }
    }

    fn of(found: &Stat) -> Option<Self> {
        let kind = FileType::from_raw_mode(found.st_mode);
        matches!(kind, FileType::CharacterDevice | FileType::BlockDevice).then(|| Self {
            kind,
            device: found.st_rdev,
            mode: Mode::from_raw_mode(found.st_mode & 0o7777),
            owner: Owner { uid: found.st_uid, gid: found.st_gid },
        })
    }
}

/// What is made belongs to `maker` at first.
fn make_node(dir: &OwnedFd, name: &str, node: Node, maker: Owner) -> Result<()> {
    match rustix::fs::mknodat(dir, name, node.kind, node.mode, node.device) {
        Ok(()) if node.owner == maker => Ok(()),
        Ok(()) => {
            let (uid, gid) = (rustix::fs::Uid::from_raw(node.owner.uid), rustix::fs::Gid::from_raw(node.owner.gid));
            let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::chownat(dir, name, Some(uid), Some(gid), flags).at(Step::MakeDevice, name, "fchownat")
        }
        // Made already as one of the nodes that every container has.
        Err(Errno::EXIST) => Ok(()),
        Err(Errno::PERM) => bind_node(dir, name),
        Err(errno) => Err(failed(Step::MakeDevice, name, "mknodat", errno)),
    }
}

/// Where nodes cannot be made (a user namespace), the host's own is mounted.
fn bind_node(dir: &OwnedFd, name: &str) -> Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let host = rustix::fs::openat(CWD, format!("/dev/{name}"), flags, Mode::empty());
    let host = host.at(Step::MakeDevice, name, "open on the host")?;
    let create = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    let place = rustix::fs::openat(dir, name, create, Mode::from_raw_mode(0o666));
    let place = place.at(Step::MakeDevice, name, "openat")?;
    let made = clone_tree(&host, name)?;
    move_onto(made.as_fd(), &place).at(Step::MakeDevice, name, "move_mount")
}

fn copy_host(dev: &OwnedFd, maker: Owner) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let host = rustix::fs::openat(CWD, "/dev", flags, Mode::empty()).at(Step::MakeDevice, "/dev", "open")?;
    copy_directory(&host, dev, maker, MAX_DEPTH)
}

fn copy_directory(from: &OwnedFd, to: &OwnedFd, maker: Owner, depth: usize) -> Result<()> {
    let step = Step::MakeDevice;
    for entry in Dir::read_from(from).at(step, "/dev", "getdents64")? {
        let entry = entry.at(step, "/dev", "getdents64")?;
        let Ok(name) = entry.file_name().to_str() else {
            continue;
        };
        let kind = entry.file_type();
        if kind == FileType::Directory && depth > 0 && !is_skipped(name) {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let from = rustix::fs::openat(from, name, flags, Mode::empty()).at(step, name, "openat")?;
            rustix::fs::mkdirat(to, name, Mode::from_raw_mode(DEV_MODE)).at(step, name, "mkdirat")?;
            let to = rustix::fs::openat(to, name, flags, Mode::empty()).at(step, name, "openat")?;
            copy_directory(&from, &to, maker, depth - 1)?;
        } else if matches!(kind, FileType::CharacterDevice | FileType::BlockDevice) && name != "ptmx" {
            copy_node(from, to, name, maker)?;
        }
    }
    Ok(())
}

fn is_skipped(name: &str) -> bool {
    matches!(name, "." | "..") || NOT_FROM_HOST.contains(&name)
}

/// A device that was unplugged since it was listed is left out.
fn copy_node(from: &OwnedFd, to: &OwnedFd, name: &str, maker: Owner) -> Result<()> {
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    match rustix::fs::statat(from, name, flags).map(|found| Node::of(&found)) {
        Ok(Some(node)) => make_node(to, name, node, maker),
        Ok(None) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(failed(Step::MakeDevice, name, "fstatat", errno)),
    }
}
