//! Every system call that no library wraps, and all `unsafe` of this crate.

pub mod unpack;
