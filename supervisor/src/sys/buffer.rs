//! Memory that can be given back to the kernel.
#![allow(unsafe_code, reason = "mmap and madvise")]

use std::ffi::c_void;
use std::ptr::{self, NonNull};

use rustix::io;
use rustix::mm::{Advice, MapFlags, ProtFlags};

/// An anonymous mapping of fixed length. Untouched pages cost nothing, and [`Buffer::release`] makes them untouched again.
#[derive(Debug)]
pub struct Buffer {
    start: NonNull<u8>,
    len: usize,
}

impl Buffer {
    /// A mapping of `len` zero bytes.
    pub fn new(len: usize) -> io::Result<Self> {
        // SAFETY: a new private anonymous mapping at an address of the kernel's choice aliases nothing.
        let start = unsafe {
            rustix::mm::mmap_anonymous(ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
        }?;
        let start = NonNull::new(start.cast()).ok_or(io::Errno::NOMEM)?;
        Ok(Self { start, len })
    }

    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is `len` initialised (zero) bytes, lives as long as self and is borrowed uniquely.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    /// `madvise(MADV_DONTNEED)`: the content becomes zero and the memory goes back.
    pub fn release(&mut self) {
        let start: *mut c_void = self.start.as_ptr().cast();
        // SAFETY: the range is exactly our mapping; nobody borrows it, since self is borrowed uniquely.
        let result = unsafe { rustix::mm::madvise(start, self.len, Advice::LinuxDontNeed) };
        debug_assert!(result.is_ok(), "madvise of an own mapping cannot fail");
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let start: *mut c_void = self.start.as_ptr().cast();
        // SAFETY: the mapping is ours and its last borrow has ended.
        let result = unsafe { rustix::mm::munmap(start, self.len) };
        debug_assert!(result.is_ok(), "munmap of an own mapping cannot fail");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_released_buffer_is_zero_again() {
        let mut buffer = Buffer::new(10_000).unwrap();
        buffer.as_mut_slice().fill(7);
        buffer.release();
        assert!(buffer.as_mut_slice().iter().all(|byte| *byte == 0));
        assert_eq!(buffer.as_mut_slice().len(), 10_000);
    }
}
