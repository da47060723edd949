//! How a process that is not (yet) a program ends.
#![allow(unsafe_code, reason = "calls that neither rustix nor nix wrap")]

/// `_exit(2)`: ends a forked child without running what its parent registered for exit.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: takes an integer, touches no memory and does not return.
    unsafe { libc::_exit(code) }
}
