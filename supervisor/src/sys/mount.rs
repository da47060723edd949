//! `mount_setattr(2)`, which neither rustix nor nix has.
#![allow(unsafe_code, reason = "a call that neither rustix nor nix wraps")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use linux_raw_sys::general::{
    AT_EMPTY_PATH, AT_RECURSIVE, MOUNT_ATTR_IDMAP, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY, MS_PRIVATE, MS_SHARED, MS_SLAVE, mount_attr,
};

/// What `mount_setattr` turns on; nothing is ever turned off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MountAttributes {
    pub read_only: bool,
    pub nosuid: bool,
    pub nodev: bool,
    pub noexec: bool,
    pub propagation: Option<Propagation>,
}

/// `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    Private,
    Slave,
    Shared,
}

/// Whether the mounts below are changed, too (`AT_RECURSIVE`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    Top,
    Recursive,
}

impl MountAttributes {
    fn raw(self) -> mount_attr {
        let flag = |on: bool, bit: u32| if on { u64::from(bit) } else { 0 };
        mount_attr {
            attr_set: flag(self.read_only, MOUNT_ATTR_RDONLY)
                | flag(self.nosuid, MOUNT_ATTR_NOSUID)
                | flag(self.nodev, MOUNT_ATTR_NODEV)
                | flag(self.noexec, MOUNT_ATTR_NOEXEC),
            attr_clr: 0,
            propagation: match self.propagation {
                None => 0,
                Some(Propagation::Private) => u64::from(MS_PRIVATE),
                Some(Propagation::Slave) => u64::from(MS_SLAVE),
                Some(Propagation::Shared) => u64::from(MS_SHARED),
            },
            userns_fd: 0,
        }
    }
}

/// Changes the mount whose root `mount` is; it may be detached.
pub fn mount_setattr(mount: impl AsFd, reach: Reach, attributes: MountAttributes) -> io::Result<()> {
    set(mount.as_fd(), reach, attributes.raw())
}

/// Lets files of a detached mount appear with the ids that they have in a user namespace (`MOUNT_ATTR_IDMAP`). `EINVAL`: the
/// file system can't do that, or that of a mount below.
pub fn map_ids(mount: impl AsFd, reach: Reach, user_namespace: BorrowedFd<'_>) -> io::Result<()> {
    let mapped = mount_attr {
        attr_set: u64::from(MOUNT_ATTR_IDMAP),
        userns_fd: u64::from(user_namespace.as_raw_fd().cast_unsigned()),
        ..MountAttributes::default().raw()
    };
    set(mount.as_fd(), reach, mapped)
}

fn set(mount: BorrowedFd<'_>, reach: Reach, raw: mount_attr) -> io::Result<()> {
    let flags = match reach {
        Reach::Top => AT_EMPTY_PATH,
        Reach::Recursive => AT_EMPTY_PATH | AT_RECURSIVE,
    };
    // SAFETY: the descriptors live through the call, the path is a constant with its NUL, and the kernel only reads
    // `size_of::<mount_attr>()` bytes of a struct that is exactly that large.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const raw,
            size_of::<mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
