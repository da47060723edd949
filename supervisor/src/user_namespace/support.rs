//! Whether pods can have user namespaces here; asked once, and only when somebody wants to know.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;

use rustix::fs::{AtFlags, CWD, StatxFlags};
use rustix::mount::{OpenTreeFlags, open_tree};

use super::IdRange;
use crate::sys::mount::{Reach, map_ids};

/// Whether the kernel makes user namespaces, and mounts of what lies in `data` can have id maps.
///
/// # Errors
/// It can't, in words.
pub fn check(data: &Path) -> Result<(), String> {
    static ANSWER: OnceLock<Result<(), String>> = OnceLock::new();
    ANSWER.get_or_init(|| probe(data)).clone()
}

fn probe(data: &Path) -> Result<(), String> {
    let Some(ids) = IdRange::free(&std::collections::BTreeSet::new()) else { return Ok(()) };
    let namespace = crate::sys::user_namespace::new(&ids.map());
    let namespace = namespace.map_err(|error| format!("the kernel makes no user namespace: {error}"))?;
    map_a_mount(data, &namespace).map_err(|error| {
        let kind = file_system(data);
        format!("{} is on a file system ({kind}) that can't be mounted with an id map: {error}", data.display())
    })
}

fn map_a_mount(path: &Path, namespace: &OwnedFd) -> std::io::Result<()> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = open_tree(CWD, path, flags)?;
    map_ids(&mount, Reach::Top, namespace.as_fd())
}

/// The type of the file system that a path leads to, as mount(8) calls it.
pub fn file_system(path: &Path) -> String {
    let opened = rustix::fs::open(path, rustix::fs::OFlags::PATH, rustix::fs::Mode::empty());
    opened.ok().and_then(|fd| type_of(&fd)).unwrap_or_else(|| "unknown".to_owned())
}

/// By its mount, as this process sees it.
pub fn type_of(fd: impl AsFd) -> Option<String> {
    let found = rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).ok()?;
    let table = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    type_in(&table, found.stx_mnt_id)
}

/// proc_pid_mountinfo(5)
fn type_in(table: &str, mount: u64) -> Option<String> {
    let id = mount.to_string();
    let line = table.lines().find(|line| line.split(' ').next() == Some(&id))?;
    line.split_once(" - ")?.1.split(' ').next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_is_called_as_the_table_of_mounts_calls_it() {
        let table = "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw\n\
                     3 1 0:5 / /proc - x rw - proc proc rw\n";
        assert_eq!(type_in(table, 36).as_deref(), Some("ext3"));
        assert_eq!(type_in(table, 6), None);
        assert_eq!(type_of(std::fs::File::open("/proc/self").unwrap()).as_deref(), Some("proc"));
    }
}
