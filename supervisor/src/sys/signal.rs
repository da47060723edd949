//! Signals by number, real-time ones included (an image's `STOPSIGNAL` may be `RTMIN+3`).
#![allow(unsafe_code, reason = "rustix sends named signals only")]

use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use rustix::io;

use super::fd::last_errno;

/// `pidfd_send_signal(pidfd, signal, NULL, 0)`
pub fn send(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let none: *const libc::siginfo_t = ptr::null();
    // SAFETY: integers and a null pointer, which the call allows.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, none, 0) };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}
