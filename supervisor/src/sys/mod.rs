//! Every system call that no library wraps, and all `unsafe` of this crate.

pub mod buffer;
pub mod clone;
pub mod exec;
pub mod fd;
pub mod memory;
pub mod mount;
pub mod process;
pub mod quota;
pub mod seccomp;
pub mod signal;
pub mod spawn;
pub mod unpack;
pub mod user_namespace;

pub use process::{abort_on_panic, exit_now};
