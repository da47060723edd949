//! The virtual machine in which the second ring of the tests runs: Debian's kernel, our own init, nothing installed.

pub mod cpio;
pub mod kernel;
pub mod qemu;
