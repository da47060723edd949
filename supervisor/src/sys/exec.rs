//! How a process changes its inherited attributes and becomes a program.
#![allow(unsafe_code, reason = "calls that neither rustix nor nix wrap")]

use std::ffi::CString;
use std::io;

/// `execve(2)`; returns only when it failed.
pub fn execve(path: &CString, args: &[CString], env: &[CString]) -> io::Error {
    let pointers = |strings: &[CString]| {
        let ends = std::iter::once(std::ptr::null());
        strings.iter().map(|string| string.as_ptr()).chain(ends).collect::<Vec<_>>()
    };
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: both arrays end with a null pointer and point to strings that end with NUL and outlive the call.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// `_NSIG`: signals 1 to 64.
const SIGNALS: i32 = 64;
/// Bytes of the kernel's `sigset_t`.
const SIGSET_BYTES: usize = 8;

/// Default disposition for every signal, none blocked (D46). Includes those that the C library keeps for itself.
pub fn reset_signals() -> io::Result<()> {
    // `struct kernel_sigaction` of zeros: SIG_DFL, no flags, no restorer, empty mask; 32 bytes on every architecture.
    let default = [0_u64; 4];
    for signal in 1..=SIGNALS {
        if signal != libc::SIGKILL && signal != libc::SIGSTOP {
            // SAFETY: the kernel reads one `kernel_sigaction`, which `default` is large enough for, and writes nothing.
            let result = unsafe {
                libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), std::ptr::null::<u64>(), SIGSET_BYTES)
            };
            check(result)?;
        }
    }
    let empty = 0_u64;
    // SAFETY: the kernel reads `SIGSET_BYTES` bytes of `empty` and writes nothing.
    let result = unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const empty,
            std::ptr::null::<u64>(),
            SIGSET_BYTES,
        )
    };
    check(result)
}

/// `SCHED_OTHER` for the calling thread.
pub fn reset_scheduler() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the kernel reads one `sched_param` and writes nothing.
    let result = unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, libc::SCHED_OTHER, &raw const parameters) };
    check(result)
}

/// I/O priority as the nice value says (`IOPRIO_CLASS_NONE`).
pub fn reset_io_priority() -> io::Result<()> {
    const IOPRIO_WHO_PROCESS: i32 = 1;
    // SAFETY: takes integers and touches no memory.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, 0) })
}

/// The execution domain `PER_LINUX` without flags.
pub fn reset_personality() -> io::Result<()> {
    // SAFETY: takes an integer and touches no memory.
    check(unsafe { libc::syscall(libc::SYS_personality, 0) })
}

/// Memory policy `MPOL_DEFAULT`.
pub fn reset_memory_policy() -> io::Result<()> {
    const MPOL_DEFAULT: i32 = 0;
    // SAFETY: with no mask the kernel reads no memory.
    check(unsafe { libc::syscall(libc::SYS_set_mempolicy, MPOL_DEFAULT, std::ptr::null::<u64>(), 0) })
}

/// A new, empty session keyring (D13).
pub fn new_session_keyring() -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: i32 = 1;
    // SAFETY: a null name means an anonymous keyring; the kernel reads no memory.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<u8>()) })
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
