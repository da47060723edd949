//! What an idle daemon need not hold.
#![allow(unsafe_code, reason = "mallopt, malloc_trim and madvise")]

use std::ffi::c_void;
use std::ptr;

use rustix::mm::Advice;

/// mallopt(3): one heap for all threads. Ours run one after the other mostly, and each heap keeps what it once needed.
/// To be called before there are threads.
pub fn use_one_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt has no preconditions; it changes how later calls allocate.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// malloc_trim(3), and the pages of the program's text: those that are needed come back from the page cache.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim has no preconditions and takes the allocator's locks itself.
    unsafe {
        libc::malloc_trim(0);
    }
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    if let Some((start, length)) = text(&maps) {
        let start: *mut c_void = ptr::with_exposed_provenance_mut(start);
        // SAFETY: the range is a private mapping of a file that is executable and not writable, so no page of it differs
        // from the file, and a page that is dropped reads the same when it is touched again (madvise(2)).
        let dropped = unsafe { rustix::mm::madvise(start, length, Advice::LinuxDontNeed) };
        debug_assert!(dropped.is_ok(), "madvise of an own mapping cannot fail");
    }
}

/// Where the program's text lies in what proc_pid_maps(5) shows.
fn text(maps: &str) -> Option<(usize, usize)> {
    let line = maps.lines().find(|line| line.contains(" r-xp ") && line.contains('/'))?;
    let (start, end) = line.split_once(' ')?.0.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    Some((start, end.checked_sub(start)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_found_and_nothing_else() {
        let maps = "5000-6000 r--p 00000000 fe:00 1 /bin/x\n6000-9000 r-xp 00001000 fe:00 1 /bin/x\n\
                    9000-a000 rw-p 00000000 00:00 0 [heap]\nb000-c000 r-xp 00000000 00:00 0 [vdso]\n";
        assert_eq!(text(maps), Some((0x6000, 0x3000)));
        assert_eq!(text("b000-c000 r-xp 00000000 00:00 0 [vdso]\n"), None);
    }

    #[test]
    fn the_program_goes_on_without_its_text_in_memory() {
        let words: Vec<String> = (0..1000).map(|number| number.to_string()).collect();
        give_back();
        assert_eq!(words.concat().len(), 2890);
    }
}
