//! A controlling terminal from the container's own devpts (D14).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, OFlags};
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::pty::OpenptFlags;

use super::failure::{At, Result, refuse};
use super::launch::Step;
use super::mounts::{Mounter, filesystem_of};
use super::tree::{Links, Tree};

const STEP: Step = Step::Terminal;
/// `DEVPTS_SUPER_MAGIC`.
const DEVPTS_MAGIC: u64 = 0x1cd1;
/// `UNIX98_PTY_SLAVE_MAJOR`.
const PTY_MAJOR: u32 = 136;
const MULTIPLEXER: &str = "/dev/pts/ptmx";
const CONSOLE: &str = "/dev/console";

#[derive(Debug)]
pub(crate) struct Terminal {
    /// For the monitor.
    pub master: OwnedFd,
    /// For the process.
    slave: OwnedFd,
}

/// A new pty. The multiplexer is reached without links and must be devpts; the slave comes from the master by ioctl, so
/// no name in the container decides what it is.
pub(crate) fn open(tree: Tree<'_>) -> Result<Terminal> {
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    let master = tree.open("dev/pts/ptmx", flags, Links::Refuse).at(STEP, MULTIPLEXER, "openat2")?;
    if filesystem_of(&master).at(STEP, MULTIPLEXER, "fstatfs")? != DEVPTS_MAGIC {
        return Err(refuse(STEP, MULTIPLEXER, "is not on a devpts"));
    }
    rustix::pty::unlockpt(&master).at(STEP, MULTIPLEXER, "ioctl(TIOCSPTLCK)")?;
    let peer = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, peer).at(STEP, MULTIPLEXER, "ioctl(TIOCGPTPEER)")?;
    let found = rustix::fs::fstat(&slave).at(STEP, MULTIPLEXER, "fstat")?;
    if FileType::from_raw_mode(found.st_mode) != FileType::CharacterDevice
        || rustix::fs::major(found.st_rdev) != PTY_MAJOR
    {
        return Err(refuse(STEP, MULTIPLEXER, "did not give a pty"));
    }
    Ok(Terminal { master, slave })
}

impl Terminal {
    /// Shows the terminal as `/dev/console`, too (rule PV9).
    pub(crate) fn attach_console(&self, mounter: &Mounter<'_>) -> Result<()> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        let made = open_tree(&self.slave, "", flags).at(STEP, CONSOLE, "open_tree")?;
        mounter.attach(STEP, CONSOLE, &made, Links::Refuse)
    }

    /// For the user that the process will be, and the controlling terminal of the new session.
    pub(crate) fn take(&self, uid: u32) -> Result<()> {
        let owner = rustix::fs::Uid::from_raw(uid);
        rustix::fs::fchown(&self.slave, Some(owner), None).at(STEP, "pty", "fchown")?;
        rustix::process::ioctl_tiocsctty(&self.slave).at(STEP, "pty", "ioctl(TIOCSCTTY)")
    }

    pub(crate) fn slave(&self) -> BorrowedFd<'_> {
        self.slave.as_fd()
    }
}
