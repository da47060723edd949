//! clone(2) and clone3(2) in the manners of vfork and fork.
#![allow(unsafe_code, reason = "no library wraps clone3")]

use std::ffi::c_void;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io;
use rustix::process::Pid;

use super::fd::last_errno;

/// `<linux/sched.h>`; libc has them in a type that is too narrow.
pub(super) const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Which new namespaces the child gets: `CLONE_NEW*` bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NewNamespaces {
    pub mount: bool,
    pub pid: bool,
    pub network: bool,
    pub ipc: bool,
    pub uts: bool,
    /// Owns the others.
    pub user: bool,
}

impl NewNamespaces {
    fn flags(self) -> libc::c_int {
        [
            (self.mount, libc::CLONE_NEWNS),
            (self.pid, libc::CLONE_NEWPID),
            (self.network, libc::CLONE_NEWNET),
            (self.ipc, libc::CLONE_NEWIPC),
            (self.uts, libc::CLONE_NEWUTS),
            (self.user, libc::CLONE_NEWUSER),
        ]
        .iter()
        .filter(|(wanted, _)| *wanted)
        .fold(0, |flags, (_, flag)| flags | flag)
    }
}

/// Starts `child(argument)` on a stack of its own in this memory, and sleeps until it has executed a program or ended
/// (`CLONE_VM | CLONE_VFORK | CLONE_PIDFD`). Returns its pid and pidfd.
///
/// # Safety
/// `child` may only touch what the sleeping parent lets it: it shares all memory. `stack` is writable memory that nobody else
/// uses.
pub(super) unsafe fn vfork(
    stack: &mut [u128],
    child: extern "C" fn(*mut c_void) -> libc::c_int,
    argument: *mut c_void,
) -> io::Result<(Pid, OwnedFd)> {
    let mut pidfd: libc::c_int = -1;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    // It grows downwards; the end of a slice of u128 is aligned to 16 bytes, as both ABIs want.
    let end = stack.as_mut_ptr_range().end.cast();
    // SAFETY: the caller vouches for child, argument and stack; `pidfd` outlives the call.
    let pid = unsafe { libc::clone(child, end, flags, argument, &raw mut pidfd) };
    // SAFETY: the kernel stored the child's descriptor if there is a child.
    if pid < 0 { Err(last_errno()) } else { unsafe { parent(pid, pidfd) } }
}

/// The parent's side.
///
/// # Safety
/// The kernel stored `pidfd`, and nobody else knows it.
unsafe fn parent(pid: libc::c_int, pidfd: libc::c_int) -> io::Result<(Pid, OwnedFd)> {
    // SAFETY: the caller's promise.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok((Pid::from_raw(pid).ok_or(io::Errno::SRCH)?, pidfd))
}

/// On which side of the clone the caller is.
#[derive(Debug)]
pub enum Cloned {
    /// The new process.
    Child,
    Parent {
        pid: Pid,
        pidfd: OwnedFd,
    },
}

/// `clone3(CLONE_PIDFD | CLONE_CLEAR_SIGHAND | CLONE_INTO_CGROUP | namespaces)`: the child starts inside the cgroup with a
/// copy of the memory and default signal dispositions. Entering a cgroup by writing `cgroup.procs` instead waits for an RCU
/// grace period, 10 ms and more. Refused with `EPERM` in a process with several threads: there a lock could stay taken for
/// ever in the child.
pub fn clone_into(namespaces: NewNamespaces, cgroup: BorrowedFd<'_>) -> io::Result<Cloned> {
    fork_into(namespaces.flags(), libc::SIGCHLD, cgroup)
}

/// As [`clone_into`], but the child is one of the caller's parent, which reaps it and alone gets its `SIGCHLD` (`CLONE_PARENT`).
pub fn clone_sibling_into(cgroup: BorrowedFd<'_>) -> io::Result<Cloned> {
    // clone(2): the signal is the one that the caller itself ends with.
    fork_into(libc::CLONE_PARENT, 0, cgroup)
}

fn fork_into(flags: libc::c_int, exit_signal: libc::c_int, cgroup: BorrowedFd<'_>) -> io::Result<Cloned> {
    if !is_single_threaded() {
        return Err(io::Errno::PERM);
    }
    // SAFETY: this process has one thread.
    unsafe { fork(widen(flags) | CLONE_CLEAR_SIGHAND, exit_signal, Some(cgroup)) }
}

/// clone3(2) with these flags and `CLONE_PIDFD`, in the manner of fork.
///
/// # Safety
/// In a process of several threads the child makes only system calls.
pub(super) unsafe fn fork(flags: u64, exit_signal: libc::c_int, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    let mut pidfd: libc::c_int = -1;
    let arguments = libc::clone_args {
        flags: flags | widen(libc::CLONE_PIDFD) | cgroup.map_or(0, |_| CLONE_INTO_CGROUP),
        pidfd: (&raw mut pidfd) as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: widen(exit_signal),
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: cgroup.map_or(0, |cgroup| widen(cgroup.as_raw_fd())),
    };
    // SAFETY: without CLONE_VM the child has its own copy of this memory and stack, so returning twice is sound as far as
    // the caller keeps its promise; `pidfd` outlives the call, and the size is that of the structure passed.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>()) };
    match i32::try_from(pid).map_err(|_| io::Errno::IO)? {
        ..0 => Err(last_errno()),
        0 => Ok(Cloned::Child),
        pid => {
            // SAFETY: the kernel stored the child's descriptor.
            let (pid, pidfd) = unsafe { parent(pid, pidfd) }?;
            Ok(Cloned::Parent { pid, pidfd })
        }
    }
}

/// Non-negative by construction: flags, signals and descriptors.
fn widen(value: libc::c_int) -> u64 {
    u64::from(value.cast_unsigned())
}

/// Counts `/proc/self/task`; a link count of 3 is one thread (proc_pid_task).
fn is_single_threaded() -> bool {
    rustix::fs::stat("/proc/self/task").is_ok_and(|stat| stat.st_nlink == 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_become_flags() {
        assert_eq!(NewNamespaces::default().flags(), 0);
        let some = NewNamespaces { mount: true, uts: true, ..NewNamespaces::default() };
        assert_eq!(some.flags(), libc::CLONE_NEWNS | libc::CLONE_NEWUTS);
    }
}
