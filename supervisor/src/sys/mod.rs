//! Every system call that no library wraps, and all `unsafe` of this crate.

pub mod exec;
pub mod mount;
pub mod process;
pub mod seccomp;
pub mod unpack;

pub use process::exit_now;
