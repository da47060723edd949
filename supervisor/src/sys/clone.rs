//! clone3(2) in the manner of fork.
#![allow(unsafe_code, reason = "no library wraps clone3")]

use std::ffi::c_void;
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

/// Starts `child(argument)` on a stack of its own in this memory, and sleeps until it has executed a program or ended
/// (`CLONE_VM | CLONE_VFORK | CLONE_PIDFD | CLONE_INTO_CGROUP`). Returns its pid and pidfd. Entering a cgroup by writing
/// `cgroup.procs` instead waits for an RCU grace period, 10 ms and more.
///
/// # Safety
/// `child` must not return and may only touch what the sleeping parent lets it: it shares all memory. `stack` is writable
/// memory that nobody else uses; its end is aligned to 16 bytes.
pub(super) unsafe fn vfork_into(
    cgroup: Option<BorrowedFd<'_>>,
    stack: &mut [u128],
    child: extern "C" fn(*mut c_void) -> !,
    argument: *mut c_void,
) -> io::Result<(Pid, OwnedFd)> {
    let mut pidfd: libc::c_int = -1;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD;
    let arguments = libc::clone_args {
        flags: widen(flags) | cgroup.map_or(0, |_| CLONE_INTO_CGROUP),
        pidfd: (&raw mut pidfd) as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: widen(libc::SIGCHLD),
        stack: stack.as_mut_ptr() as u64,
        stack_size: size_of_val(stack) as u64,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: cgroup.map_or(0, |cgroup| widen(cgroup.as_raw_fd())),
    };
    // SAFETY: the caller vouches for child, argument and stack; the structure outlives the call.
    let result = unsafe { clone3_on_stack(&raw const arguments, child, argument) };
    if result < 0 {
        return Err(io::Errno::from_raw_os_error(i32::try_from(-result).unwrap_or(libc::EIO)));
    }
    let pid = i32::try_from(result).ok().and_then(Pid::from_raw).ok_or(io::Errno::SRCH)?;
    // SAFETY: the kernel stored a new descriptor that nobody else knows.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok((pid, pidfd))
}

/// The call itself. libc's `clone` cannot name a cgroup, and its `syscall` would return in the child on an empty stack; so the
/// child's first instructions stand here: it calls its function.
///
/// # Safety
/// As [`vfork_into`].
#[cfg(target_arch = "x86_64")]
unsafe fn clone3_on_stack(
    arguments: *const libc::clone_args,
    child: extern "C" fn(*mut c_void) -> !,
    argument: *mut c_void,
) -> i64 {
    let result: i64;
    // SAFETY: the parent leaves with its registers as the kernel keeps them (rcx and r11 are lost); the child, whose rax is
    // 0 and whose stack pointer is the end of the new stack, never leaves.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r9",
            "call r8",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") arguments,
            in("rsi") size_of::<libc::clone_args>(),
            in("r8") child,
            in("r9") argument,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

/// As on x86_64.
///
/// # Safety
/// As [`vfork_into`].
#[cfg(target_arch = "aarch64")]
unsafe fn clone3_on_stack(
    arguments: *const libc::clone_args,
    child: extern "C" fn(*mut c_void) -> !,
    argument: *mut c_void,
) -> i64 {
    let result: i64;
    // SAFETY: the kernel keeps all registers but x0 for the parent; the child, whose x0 is 0 and whose stack pointer is the
    // end of the new stack, never leaves.
    unsafe {
        std::arch::asm!(
            "svc 0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x0, x4",
            "blr x3",
            "brk 1",
            "2:",
            inlateout("x0") arguments => result,
            in("x1") size_of::<libc::clone_args>(),
            in("x3") child,
            in("x4") argument,
            in("x8") libc::SYS_clone3,
        );
    }
    result
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
    fork(namespaces.flags(), libc::SIGCHLD, cgroup)
}

/// As [`clone_into`], but the child is one of the caller's parent, which reaps it and alone gets its `SIGCHLD` (`CLONE_PARENT`).
pub fn clone_sibling_into(cgroup: BorrowedFd<'_>) -> io::Result<Cloned> {
    // clone(2): the signal is the one that the caller itself ends with.
    fork(libc::CLONE_PARENT, 0, cgroup)
}

fn fork(flags: libc::c_int, exit_signal: libc::c_int, cgroup: BorrowedFd<'_>) -> io::Result<Cloned> {
    if !is_single_threaded() {
        return Err(io::Errno::PERM);
    }
    let mut pidfd: libc::c_int = -1;
    let arguments = libc::clone_args {
        flags: widen(libc::CLONE_PIDFD | flags) | CLONE_CLEAR_SIGHAND | CLONE_INTO_CGROUP,
        pidfd: (&raw mut pidfd) as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: widen(exit_signal),
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
