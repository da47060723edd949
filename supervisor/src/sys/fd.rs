//! Descriptors that come by number, and those that are waited for.
#![allow(unsafe_code, reason = "ownership of an inherited number can only be asserted")]

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Highest descriptor that can be taken once by [`take_inherited`].
const MAX_INHERITED: RawFd = 63;
static TAKEN: AtomicU64 = AtomicU64::new(0);

/// A descriptor that the parent left at this number, made close-on-exec; each number can be taken once. None when it is
/// not open.
pub fn take_inherited(number: RawFd) -> Option<OwnedFd> {
    if !(3..=MAX_INHERITED).contains(&number) {
        return None;
    }
    let bit = 1 << number;
    if TAKEN.fetch_or(bit, Ordering::SeqCst) & bit != 0 {
        return None;
    }
    // SAFETY: `F_SETFD` on a number touches no memory and fails cleanly when the number is not open.
    let open = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } == 0;
    // SAFETY: the number is open and handed out once; main calls this before anything else opens descriptors.
    open.then(|| unsafe { OwnedFd::from_raw_fd(number) })
}

/// A descriptor that tasks wait for, to read or write.
pub fn registered(descriptor: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    registered_for(descriptor, Interest::READABLE | Interest::WRITABLE)
}

/// A descriptor that tasks wait for.
#[expect(
    deprecated,
    reason = "its replacement is unsafe, for types that lie about their descriptor; an OwnedFd does not"
)]
pub fn registered_for(descriptor: OwnedFd, interest: Interest) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(descriptor, interest)
}

/// `close_range(first, ~0, 0)`: drops what a careless parent left open (D10). Only at start, before anything is owned.
pub fn close_from(first: u32) -> io::Result<()> {
    close_range(first, 0)
}

/// `close_range(first, ~0, CLOSE_RANGE_CLOEXEC)`: the last step before an exec (D10).
pub fn cloexec_from(first: u32) -> io::Result<()> {
    close_range(first, libc::CLOSE_RANGE_CLOEXEC)
}

fn close_range(first: u32, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: integers only. Callers of the closing form own no descriptor in the range.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, flags) };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

/// The error of the libc call before.
pub(super) fn last_errno() -> io::Errno {
    io::Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(io::Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbers_above_the_standard_streams_are_taken() {
        // Numbers in between may belong to other tests of this process.
        assert!(take_inherited(2).is_none());
        assert!(take_inherited(MAX_INHERITED + 1).is_none());
    }
}
