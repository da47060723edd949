//! Making user namespaces and mapping their ids.
#![allow(unsafe_code, reason = "the child of a process with several threads may only make raw system calls")]

use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use super::clone::{CLONE_CLEAR_SIGHAND, Cloned, fork};

/// Tells what the ids of a process in a new user namespace are outside, those of users and of groups alike; lines as in
/// user_namespaces(7).
pub fn map_ids(pid: Pid, map: &str) -> io::Result<()> {
    ["uid_map", "gid_map"]
        .iter()
        .try_for_each(|file| std::fs::write(format!("/proc/{}/{file}", pid.as_raw_nonzero()), map))
}

/// A user namespace without a process.
pub fn new(map: &str) -> io::Result<OwnedFd> {
    let flags = u64::from(libc::CLONE_NEWUSER.cast_unsigned()) | CLONE_CLEAR_SIGHAND;
    let parent = rustix::process::getpid();
    // SAFETY: the child calls nothing but `wait`, which makes only system calls and never returns.
    let (pid, pidfd) = match unsafe { fork(flags, libc::SIGCHLD, None) }? {
        Cloned::Child => wait(parent),
        Cloned::Parent { pid, pidfd } => (pid, pidfd),
    };
    let namespace =
        map_ids(pid, map).and_then(|()| std::fs::File::open(format!("/proc/{}/ns/user", pid.as_raw_nonzero())));
    // Gone already is as good.
    rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL).unwrap_or_default();
    let id = || WaitId::PidFd(rustix::fd::AsFd::as_fd(&pidfd));
    while let Err(rustix::io::Errno::INTR) = waitid(id(), WaitIdOptions::EXITED) {}
    Ok(namespace?.into())
}

/// Holds nothing that its parent has open, and does not outlive it: that one may be killed at any moment, and the next daemon
/// waits for its lock.
fn wait(parent: Pid) -> ! {
    if super::fd::close_from(0).is_err() {
        super::exit_now(1);
    }
    // SAFETY: takes numbers only.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    // It may have died before it was asked to be told of.
    if rustix::process::getppid() != Some(parent) {
        super::exit_now(0);
    }
    loop {
        // SAFETY: takes nothing.
        unsafe { libc::pause() };
    }
}
