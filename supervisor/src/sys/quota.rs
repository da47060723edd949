//! Project quotas (`quotactl_fd(2)`, `FS_IOC_FSSETXATTR`), which neither rustix nor nix has.
#![allow(unsafe_code, reason = "calls that neither rustix nor nix wraps")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use linux_raw_sys::general::fsxattr;
use linux_raw_sys::ioctl::{FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR};

/// `PRJQUOTA`
const PROJECT: u32 = 2;
/// `SUBCMDSHIFT`
const COMMAND_SHIFT: u32 = 8;
/// `Q_GETQUOTA`, `Q_SETQUOTA`
const GET: u32 = 0x80_0007;
const SET: u32 = 0x80_0008;
/// `QIF_BLIMITS`
const BLOCK_LIMITS: u32 = 1;
/// `FS_XFLAG_PROJINHERIT`: what is made in the directory belongs to its project.
const INHERIT: u32 = 0x200;
/// Unit of limits on blocks.
const BLOCK_BYTES: u64 = 1024;

/// `struct if_dqblk`
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Block {
    hard_limit: u64,
    soft_limit: u64,
    bytes: u64,
    inode_hard_limit: u64,
    inode_soft_limit: u64,
    inodes: u64,
    block_time: u64,
    inode_time: u64,
    valid: u32,
}

/// What a project takes, and may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Project {
    pub bytes: u64,
    pub inodes: u64,
    /// Zero is none.
    pub limit_bytes: u64,
}

/// What the quota of the file system says about a project.
///
/// # Errors
/// `ENOENT`: it is unknown; `ENOSYS`, `ESRCH`, `ENOTSUP`: there is no project quota.
pub fn get(fs: BorrowedFd<'_>, project: u32) -> io::Result<Project> {
    let mut block = Block::default();
    call(fs, GET, project, &mut block)?;
    Ok(Project { bytes: block.bytes, inodes: block.inodes, limit_bytes: block.hard_limit.saturating_mul(BLOCK_BYTES) })
}

/// Limits the bytes of a project; zero is no limit.
///
/// # Errors
/// As [`get`].
pub fn set(fs: BorrowedFd<'_>, project: u32, limit_bytes: u64) -> io::Result<()> {
    let hard_limit = limit_bytes.div_ceil(BLOCK_BYTES);
    call(fs, SET, project, &mut Block { hard_limit, valid: BLOCK_LIMITS, ..Block::default() })
}

fn call(fs: BorrowedFd<'_>, command: u32, project: u32, block: &mut Block) -> io::Result<()> {
    let command = command << COMMAND_SHIFT | PROJECT;
    // SAFETY: the descriptor lives through the call, and the kernel reads or writes one `if_dqblk`, which `Block` is, at a
    // pointer that is valid and not shared.
    let result =
        unsafe { libc::syscall(libc::SYS_quotactl_fd, fs.as_raw_fd(), command, project, std::ptr::from_mut(block)) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The project of a directory; zero is none.
///
/// # Errors
/// The file system has no such attributes.
pub fn project_of(directory: impl AsFd) -> io::Result<u32> {
    Ok(attributes(directory.as_fd())?.fsx_projid)
}

/// Makes a directory, and what will be made in it, part of a project.
///
/// # Errors
/// As [`project_of`].
pub fn join_project(directory: impl AsFd, project: u32) -> io::Result<()> {
    let directory = directory.as_fd();
    let mut own = attributes(directory)?;
    own.fsx_projid = project;
    own.fsx_xflags |= INHERIT;
    // SAFETY: the descriptor lives through the call, and the kernel reads one `fsxattr` that outlives it.
    let result = unsafe { libc::ioctl(directory.as_raw_fd(), FS_IOC_FSSETXATTR.into(), &raw const own) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn attributes(directory: BorrowedFd<'_>) -> io::Result<fsxattr> {
    let mut own =
        fsxattr { fsx_xflags: 0, fsx_extsize: 0, fsx_nextents: 0, fsx_projid: 0, fsx_cowextsize: 0, fsx_pad: [0; 8] };
    // SAFETY: the descriptor lives through the call, and the kernel writes one `fsxattr` to a variable of that type.
    let result = unsafe { libc::ioctl(directory.as_raw_fd(), FS_IOC_FSGETXATTR.into(), &raw mut own) };
    if result == 0 { Ok(own) } else { Err(io::Error::last_os_error()) }
}
