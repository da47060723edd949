//! Everything that is attached below a container's root.
//!
//! A mount is made detached, gets its attributes, and is moved onto a descriptor that was resolved inside the root;
//! afterwards the path must lead to it (D2). No step hands a path of the container to `mount(2)`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_string,
    fsmount, fsopen, move_mount, open_tree,
};

use super::failure::{At, Result, failed, refuse};
use super::launch::{FdSlot, Mount, MountOptions, MountSource, Propagation, Step};
use super::tree::{self, DIRECTORY_MODE, Leaf, Links, Tree};
use super::user_namespace::give;
use crate::sys::mount::{MountAttributes, Reach, mount_setattr};
use crate::user_namespace::{IdRange, host_id};

/// Group `tty` of every distribution.
const TTY_GROUP: u32 = 5;
/// `PROC_SUPER_MAGIC`.
const PROC_MAGIC: u64 = 0x9fa0;
/// `CGROUP2_SUPER_MAGIC`.
const CGROUP2_MAGIC: u64 = 0x6367_7270;
/// Inode of the first cgroup namespace (`PROC_CGROUP_INIT_INO`).
const INITIAL_CGROUP_NAMESPACE: u64 = 0xEFFF_FFFB;
/// Where a host keeps its cgroup2: alone, or beside version 1 (hybrid).
const HOST_CGROUP2: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// What mounts are made from.
pub(crate) struct Mounter<'a> {
    pub tree: Tree<'a>,
    /// Directory in which every kept volume is mounted under its name.
    pub volumes: BorrowedFd<'a>,
    /// Descriptors that came with the launch.
    pub fds: &'a [OwnedFd],
    /// The host's `/dev/null`, opened before anything of the container was touched (D5).
    pub null: BorrowedFd<'a>,
    /// The pod's own, if it has any; what is made here belongs to their root (`make_files_as_root_of`).
    pub ids: Option<IdRange>,
}

impl Mounter<'_> {
    pub(crate) fn mount(&self, wanted: &Mount) -> Result<OwnedFd> {
        let made = self.source(wanted)?;
        apply(&made, &wanted.options).at(Step::Mount, &wanted.target, "mount_setattr")?;
        let links = if is_kernel_place(wanted) { Links::Refuse } else { Links::Follow };
        self.attach(Step::Mount, &wanted.target, &made, links)?;
        Ok(made)
    }

    fn source(&self, wanted: &Mount) -> Result<OwnedFd> {
        let target = &wanted.target;
        match &wanted.source {
            MountSource::Detached(slot) => self.detached(*slot, target),
            MountSource::Kept { name, sub_path } => self.kept(name, sub_path.as_deref(), target),
            MountSource::Proc => new_filesystem("proc", &[], target),
            MountSource::Sysfs => new_filesystem("sysfs", &[], target),
            MountSource::Cgroup => cgroup(target),
            MountSource::Devpts => self.devpts(target),
            MountSource::Mqueue => {
                let made = new_filesystem("mqueue", &[], target)?;
                self.ids.map_or(Ok(()), |ids| give(&made, "", ids, target)).map(|()| made)
            }
            MountSource::Tmpfs { size_bytes, mode } => {
                let (size, mode) = (size_bytes.to_string(), format!("{mode:o}"));
                new_filesystem("tmpfs", &[("size", &size), ("mode", &mode)], target)
            }
        }
    }

    /// Terminals of its own, for group `tty`.
    fn devpts(&self, target: &str) -> Result<OwnedFd> {
        let tty = host_id(self.ids, TTY_GROUP).map_err(|error| refuse(Step::Mount, target, error.to_string()))?;
        let options = [("ptmxmode", "0666"), ("mode", "0620"), ("gid", &tty.to_string())];
        let made = new_filesystem("devpts", &options, target)?;
        if let Some(ids) = self.ids {
            give(&made, "", ids, target)?;
            give(&made, "ptmx", ids, target)?;
        }
        Ok(made)
    }

    fn detached(&self, slot: FdSlot, target: &str) -> Result<OwnedFd> {
        let fd = self.fds.get(usize::from(slot.0));
        let fd = fd.ok_or_else(|| refuse(Step::Mount, target, format!("no descriptor {} was sent", slot.0)))?;
        fd.try_clone().at(Step::Mount, target, "dup")
    }

    /// A clone of a kept volume, or of something inside it (D6).
    fn kept(&self, name: &str, sub_path: Option<&str>, target: &str) -> Result<OwnedFd> {
        if name.is_empty() || name.contains('/') || name == "." || name == ".." {
            return Err(refuse(Step::Mount, target, format!("{name:?} is not the name of a volume")));
        }
        let flags = OFlags::PATH;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let root =
            tree::open(self.volumes, name, flags, resolve).at(Step::Mount, target, &format!("open volume {name}"))?;
        let Some(sub_path) = sub_path else {
            return clone_tree(&root, target);
        };
        let inside = open_or_make(&root, sub_path).map_err(|errno| {
            let call = format!("failed to prepare subPath {sub_path:?} of volume {name}");
            failed(Step::Mount, target, &call, errno)
        })?;
        clone_tree(&inside, target)
    }

    /// Moves a detached mount to its place, which is made when it is missing.
    pub(crate) fn attach(&self, step: Step, target: &str, made: impl AsFd, links: Links) -> Result<()> {
        let made = made.as_fd();
        let leaf = leaf_like(made).at(step, target, "fstat")?;
        let place = self.tree.make(target, leaf, links).map_err(|errno| match errno {
            Errno::LOOP => refuse(step, target, "is or goes through a symbolic link"),
            errno => failed(step, target, "openat2", errno),
        })?;
        self.refuse_place(step, target, &place)?;
        move_onto(made, &place).at(step, target, "move_mount")?;
        self.check_attached(step, target, made, links)
    }

    /// D4: nothing of a Pod goes over the root itself or into a `/proc` (`/proc` is attached before it is one).
    fn refuse_place(&self, step: Step, target: &str, place: &OwnedFd) -> Result<()> {
        let root = tree::whereabouts(self.tree.0).at(step, target, "statx")?;
        if tree::whereabouts(place).at(step, target, "statx")? == root {
            return Err(refuse(step, target, "leads to the root directory"));
        }
        if step == Step::Mount && filesystem_of(place).at(step, target, "fstatfs")? == PROC_MAGIC {
            return Err(refuse(step, target, "leads into /proc"));
        }
        Ok(())
    }

    /// D2: what the path leads to now is what was attached.
    fn check_attached(&self, step: Step, target: &str, made: BorrowedFd<'_>, links: Links) -> Result<()> {
        let path = tree::clean(target).join("/");
        let seen = self.tree.open(&path, OFlags::PATH, links).at(step, target, "openat2 after attaching")?;
        let found = tree::whereabouts(&seen).at(step, target, "statx")?;
        if found != tree::whereabouts(made).at(step, target, "statx")? {
            return Err(refuse(step, target, "leads elsewhere after attaching"));
        }
        Ok(())
    }

    /// D5: `paths` cannot be read from now on. A path that does not exist is left out.
    pub(crate) fn mask(&self, paths: &[String]) -> Result<()> {
        let mut empty_directory: Option<OwnedFd> = None;
        for path in paths {
            let Some(place) = self.existing(Step::Mask, path)? else {
                continue;
            };
            let cover = match leaf_like(place.as_fd()).at(Step::Mask, path, "fstat")? {
                Leaf::File => clone_for(Step::Mask, self.null, path)?,
                Leaf::Directory(_) => match &empty_directory {
                    // A second mount of the same file system: cheaper than a new one.
                    Some(first) => clone_for(Step::Mask, first, path)?,
                    None => new_empty_directory(path)?,
                },
            };
            let read_only = MountAttributes { read_only: true, ..MountAttributes::default() };
            mount_setattr(&cover, Reach::Top, read_only).at(Step::Mask, path, "mount_setattr")?;
            move_onto(cover.as_fd(), &place).at(Step::Mask, path, "move_mount")?;
            self.check_attached(Step::Mask, path, cover.as_fd(), Links::Follow)?;
            if matches!(leaf_like(cover.as_fd()).at(Step::Mask, path, "fstat")?, Leaf::Directory(_)) {
                empty_directory.get_or_insert(cover);
            }
        }
        Ok(())
    }

    /// Covers each path with itself, read-only.
    pub(crate) fn make_read_only(&self, paths: &[String]) -> Result<()> {
        for path in paths {
            let Some(place) = self.existing(Step::Mount, path)? else {
                continue;
            };
            let cover = clone_for(Step::Mount, &place, path)?;
            let read_only = MountAttributes { read_only: true, ..MountAttributes::default() };
            mount_setattr(&cover, Reach::Recursive, read_only).at(Step::Mount, path, "mount_setattr")?;
            move_onto(cover.as_fd(), &place).at(Step::Mount, path, "move_mount")?;
            self.check_attached(Step::Mount, path, cover.as_fd(), Links::Follow)?;
        }
        Ok(())
    }

    fn existing(&self, step: Step, path: &str) -> Result<Option<OwnedFd>> {
        match self.tree.open(&tree::clean(path).join("/"), OFlags::PATH, Links::Follow) {
            Ok(place) => Ok(Some(place)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(failed(step, path, "openat2", errno)),
        }
    }
}

/// The kernel's own file systems, and the directories that they belong into, must not be reached through links (D4).
fn is_kernel_place(wanted: &Mount) -> bool {
    match wanted.source {
        MountSource::Proc | MountSource::Sysfs | MountSource::Cgroup | MountSource::Devpts | MountSource::Mqueue => {
            true
        }
        MountSource::Detached(_) | MountSource::Kept { .. } | MountSource::Tmpfs { .. } => {
            matches!(tree::clean(&wanted.target).as_slice(), ["proc" | "sys" | "dev"])
        }
    }
}

fn apply(made: &OwnedFd, options: &MountOptions) -> std::io::Result<()> {
    use crate::sys::mount::Propagation as Raw;
    let everywhere = MountAttributes {
        read_only: options.read_only && options.recursive_read_only,
        nosuid: options.nosuid,
        nodev: options.nodev,
        noexec: options.noexec,
        propagation: Some(match options.propagation {
            Propagation::Private => Raw::Private,
            Propagation::Slave => Raw::Slave,
            Propagation::Shared => Raw::Shared,
        }),
    };
    mount_setattr(made, Reach::Recursive, everywhere)?;
    if options.read_only && !options.recursive_read_only {
        mount_setattr(made, Reach::Top, MountAttributes { read_only: true, ..MountAttributes::default() })?;
    }
    Ok(())
}

/// A detached mount of a new file system.
pub(crate) fn new_filesystem(name: &str, options: &[(&str, &str)], target: &str) -> Result<OwnedFd> {
    let step = Step::Mount;
    let context = fsopen(name, FsOpenFlags::FSOPEN_CLOEXEC).at(step, target, &format!("fsopen({name})"))?;
    fsconfig_set_string(&context, "source", name).at(step, target, "fsconfig(source)")?;
    for (key, value) in options {
        fsconfig_set_string(&context, *key, *value).at(step, target, &format!("fsconfig({key}={value})"))?;
    }
    fsconfig_create(&context).at(step, target, &format!("fsconfig({name}, create)"))?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).at(step, target, "fsmount")
}

/// The cgroup hierarchy from the own cgroup namespace. In the first namespace the host's mount is cloned: a new one
/// there would reset the options (`nsdelegate`) of the whole machine.
fn cgroup(target: &str) -> Result<OwnedFd> {
    let namespace = rustix::fs::stat("/proc/self/ns/cgroup").at(Step::Mount, target, "stat(/proc/self/ns/cgroup)")?;
    if namespace.st_ino != INITIAL_CGROUP_NAMESPACE {
        return new_filesystem("cgroup2", &[], target);
    }
    for path in HOST_CGROUP2 {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        if let Ok(host) = rustix::fs::openat(CWD, path, flags, Mode::empty())
            && filesystem_of(&host) == Ok(CGROUP2_MAGIC)
        {
            return clone_tree(&host, target);
        }
    }
    Err(refuse(Step::Mount, target, "the host has no cgroup2 mounted at /sys/fs/cgroup or /sys/fs/cgroup/unified"))
}

fn new_empty_directory(path: &str) -> Result<OwnedFd> {
    let made = new_filesystem("tmpfs", &[("size", "0"), ("nr_inodes", "1"), ("mode", "0555")], path);
    made.map_err(|error| super::launch::LaunchError { step: Step::Mask, ..error })
}

pub(crate) fn clone_tree(of: impl AsFd, target: &str) -> Result<OwnedFd> {
    clone_for(Step::Mount, of, target)
}

fn clone_for(step: Step, of: impl AsFd, target: &str) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    open_tree(of, "", flags).at(step, target, "open_tree")
}

pub(crate) fn move_onto(made: BorrowedFd<'_>, place: impl AsFd) -> std::result::Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(made, "", place, "", flags)
}

fn leaf_like(fd: BorrowedFd<'_>) -> std::result::Result<Leaf, Errno> {
    let mode = rustix::fs::fstat(fd)?.st_mode;
    Ok(if FileType::from_raw_mode(mode) == FileType::Directory { Leaf::Directory(DIRECTORY_MODE) } else { Leaf::File })
}

pub(crate) fn filesystem_of(fd: impl AsFd) -> std::result::Result<u64, Errno> {
    Ok(u64::from_ne_bytes(rustix::fs::fstatfs(fd)?.f_type.to_ne_bytes()))
}

/// Something below a volume's root (VO40-VO44): links may not leave the volume; what is missing becomes a directory
/// with the root's mode (VO41).
fn open_or_make(root: &OwnedFd, sub_path: &str) -> std::result::Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    match tree::open(root, sub_path, OFlags::PATH, resolve) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    let mode = Mode::from_raw_mode(rustix::fs::fstat(root)?.st_mode & 0o7777);
    let names = tree::clean(sub_path);
    let mut here = root.try_clone().map_err(|_| Errno::MFILE)?;
    for name in names {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let found = match tree::open(&here, name, flags, resolve) {
            Err(Errno::NOENT) => {
                match rustix::fs::mkdirat(&here, name, mode) {
                    // Independent of our umask.
                    Ok(()) => rustix::fs::fchmod(tree::open(&here, name, OFlags::DIRECTORY, resolve)?, mode)?,
                    Err(errno) => ignore(errno, Errno::EXIST)?,
                }
                tree::open(&here, name, flags, resolve)
            }
            other => other,
        };
        here = found?;
    }
    Ok(here)
}

/// Success when it is the error that may be.
fn ignore(errno: Errno, ignored: Errno) -> std::result::Result<(), Errno> {
    if errno == ignored { Ok(()) } else { Err(errno) }
}
