//! What a process does to itself.
#![allow(unsafe_code, reason = "calls that neither rustix nor nix wrap safely")]

use rustix::io;
use rustix::thread::UnshareFlags;

/// `_exit(2)`: ends a forked child without running what its parent registered for exit.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: takes an integer, touches no memory and does not return.
    unsafe { libc::_exit(code) }
}

/// `unshare(CLONE_NEWNS)`
pub fn unshare_mounts() -> io::Result<()> {
    unshare(UnshareFlags::NEWNS)
}

/// `unshare(CLONE_NEWCGROUP)`: the cgroup of the caller becomes the root that it sees.
pub fn unshare_cgroup() -> io::Result<()> {
    unshare(UnshareFlags::NEWCGROUP)
}

fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: only `CLONE_FILES` endangers descriptors that other code holds, and no caller passes it.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}
