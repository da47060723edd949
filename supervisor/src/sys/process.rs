//! What a process does to itself.
#![allow(unsafe_code, reason = "calls that neither rustix nor nix wrap safely")]

use rustix::io;
use rustix::thread::UnshareFlags;

/// `_exit(2)`: ends a forked child without running what its parent registered for exit.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: takes an integer, touches no memory and does not return.
    unsafe { libc::_exit(code) }
}

/// A panic ends the process in profiles that unwind too: half a daemon is worse than one that starts again.
pub fn abort_on_panic() {
    if cfg!(panic = "unwind") {
        let tell = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            tell(panic);
            std::process::abort();
        }));
    }
}

/// `unshare(CLONE_NEWNS)`
pub fn unshare_mounts() -> io::Result<()> {
    unshare(UnshareFlags::NEWNS)
}

/// `unshare(CLONE_NEWCGROUP)`: the cgroup of the caller becomes the root that it sees.
pub fn unshare_cgroup() -> io::Result<()> {
    unshare(UnshareFlags::NEWCGROUP)
}

/// `unshare(CLONE_NEWNS)`, and `unshare(CLONE_NEWCGROUP)` where it is wanted: as the owner of a new user namespace.
pub fn unshare_mounts_and(cgroup: bool) -> io::Result<()> {
    unshare(if cgroup { UnshareFlags::NEWNS | UnshareFlags::NEWCGROUP } else { UnshareFlags::NEWNS })
}

/// `setfsuid(2)` and `setfsgid(2)`: what is made in file systems from now on belongs to them. The capabilities that go with
/// leaving uid 0 for it have to be raised again (capabilities(7)).
pub fn set_file_system_ids(uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: takes integers; the kernel keeps them per thread.
    unsafe { libc::setfsgid(gid) };
    // SAFETY: as above.
    unsafe { libc::setfsuid(uid) };
    // Neither tells an error. Both give the id that was in force before: asking for one that is none changes nothing.
    // SAFETY: as above.
    let user = unsafe { libc::setfsuid(u32::MAX) };
    // SAFETY: as above.
    let group = unsafe { libc::setfsgid(u32::MAX) };
    if (user, group) == (uid.cast_signed(), gid.cast_signed()) { Ok(()) } else { Err(io::Errno::PERM) }
}

/// `unshare(CLONE_NEWNET)`: the calling thread alone moves to a namespace that is held by it and by the descriptor.
pub fn enter_new_network_namespace() -> std::io::Result<std::os::fd::OwnedFd> {
    unshare(UnshareFlags::NEWNET)?;
    Ok(std::fs::File::open("/proc/thread-self/ns/net")?.into())
}

fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: only `CLONE_FILES` endangers descriptors that other code holds, and no caller passes it.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}
