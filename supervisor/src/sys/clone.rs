//! clone3(2) in the manner of fork.
#![allow(unsafe_code, reason = "no library wraps clone3")]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io;
use rustix::process::Pid;

use super::fd::last_errno;

/// `<linux/sched.h>`; libc has them in a type that is too narrow.
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Which new namespaces the child gets: `CLONE_NEW*` bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NewNamespaces {
    pub mount: bool,
    pub pid: bool,
    pub network: bool,
    pub ipc: bool,
    pub uts: bool,
}

impl NewNamespaces {
    fn flags(self) -> libc::c_int {
        [
            (self.mount, libc::CLONE_NEWNS),
            (self.pid, libc::CLONE_NEWPID),
            (self.network, libc::CLONE_NEWNET),
            (self.ipc, libc::CLONE_NEWIPC),
            (self.uts, libc::CLONE_NEWUTS),
        ]
        .iter()
        .filter(|(wanted, _)| *wanted)
        .fold(0, |flags, (_, flag)| flags | flag)
    }
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
/// copy of the memory and default signal dispositions. Refused with `EPERM` in a process with several threads: there a
/// lock could stay taken for ever in the child.
pub fn clone_into(namespaces: NewNamespaces, cgroup: BorrowedFd<'_>) -> io::Result<Cloned> {
    if !is_single_threaded() {
        return Err(io::Errno::PERM);
    }
    let mut pidfd: libc::c_int = -1;
    let flags = libc::CLONE_PIDFD | namespaces.flags();
    let arguments = libc::clone_args {
        flags: widen(flags) | CLONE_CLEAR_SIGHAND | CLONE_INTO_CGROUP,
        pidfd: (&raw mut pidfd) as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: widen(libc::SIGCHLD),
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: widen(cgroup.as_raw_fd()),
    };
    // SAFETY: without CLONE_VM the child has its own copy of this memory and stack, so returning twice is sound in a
    // process of one thread; `pidfd` outlives the call, and the size is that of the structure passed.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>()) };
    match i32::try_from(pid) {
        Ok(0) => Ok(Cloned::Child),
        Ok(pid) if pid > 0 => {
            let pid = Pid::from_raw(pid).ok_or(io::Errno::SRCH)?;
            // SAFETY: the kernel stored a new descriptor that nobody else knows.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Cloned::Parent { pid, pidfd })
        }
        Ok(_) | Err(_) => Err(last_errno()),
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
