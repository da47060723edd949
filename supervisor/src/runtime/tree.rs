//! Paths below a container's root.
//!
//! Everything below the root was written by strangers: any component may be a symbolic link to anywhere, and a sibling
//! that shares a volume may exchange it while we look. So no path is ever joined and checked; the kernel resolves it with
//! `openat2(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)` (D1), which treats the root's descriptor as `/` for absolute links
//! and `..` alike, and all work goes on by the descriptor that comes out. What is missing is made component by
//! component with `mkdirat` on a descriptor, never through a name that was resolved earlier.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;

/// How often `openat2` is repeated when somebody renames below us (`EAGAIN`).
const MAX_RETRIES: usize = 64;
/// Dangling links that are followed while something is made; the kernel's own limit for links is the same.
const MAX_LINKS: usize = 40;

/// A directory that plays `/`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tree<'a>(pub BorrowedFd<'a>);

/// Whether links may lead from one place of the root to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Links {
    Follow,
    Refuse,
}

/// What is made when it is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leaf {
    Directory(Mode),
    File,
}

pub(crate) const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o755);
const FILE_MODE: Mode = Mode::from_raw_mode(0o644);

impl Tree<'_> {
    pub(crate) fn open(&self, path: &str, flags: OFlags, links: Links) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let resolve = match links {
            Links::Follow => resolve,
            Links::Refuse => resolve | ResolveFlags::NO_SYMLINKS,
        };
        open(self.0, path, flags, resolve)
    }

    /// A handle for `path`, which is made when it is missing.
    pub(crate) fn make(&self, path: &str, leaf: Leaf, links: Links) -> Result<OwnedFd, Errno> {
        self.make_within(path, leaf, links, MAX_LINKS)
    }

    fn make_within(&self, path: &str, leaf: Leaf, links: Links, hops: usize) -> Result<OwnedFd, Errno> {
        let names = clean(path);
        let mut here = ".".to_owned();
        match self.open(&relative(&names), handle_flags(leaf), links) {
            Err(Errno::NOENT) => {}
            other => return other,
        }
        let mut parent = self.open(&here, handle_flags(Leaf::Directory(DIRECTORY_MODE)), links)?;
        for (index, name) in names.iter().enumerate() {
            let kind = if index + 1 == names.len() { leaf } else { directory_like(leaf) };
            let next = format!("{here}/{name}");
            let above = std::mem::replace(&mut here, next);
            parent = match self.step(&parent, name, &here, kind, links) {
                Err(Errno::NOENT) if hops > 0 && links == Links::Follow => {
                    let rest = names.get(index + 1..).unwrap_or_default().join("/");
                    let target = dangling_target(&parent, name, &above, &rest)?;
                    return self.make_within(&target, leaf, links, hops - 1);
                }
                other => other?,
            };
        }
        Ok(parent)
    }

    /// From `parent` to its entry `name`, whose whole path is `here`.
    fn step(&self, parent: &OwnedFd, name: &str, here: &str, kind: Leaf, links: Links) -> Result<OwnedFd, Errno> {
        match self.open(here, handle_flags(kind), links) {
            Err(Errno::NOENT) => {}
            other => return other,
        }
        match create(parent, name, kind) {
            Ok(()) | Err(Errno::EXIST) => self.open(here, handle_flags(kind), links),
            Err(errno) => Err(errno),
        }
    }
}

/// `openat2` for a handle or a file, repeated when a rename disturbed it.
pub(crate) fn open(dir: impl AsFd, path: &str, flags: OFlags, resolve: ResolveFlags) -> Result<OwnedFd, Errno> {
    let mut result = Err(Errno::AGAIN);
    for _ in 0..MAX_RETRIES {
        result = rustix::fs::openat2(dir.as_fd(), path, flags | OFlags::CLOEXEC, Mode::empty(), resolve);
        if !matches!(result, Err(Errno::AGAIN | Errno::INTR)) {
            break;
        }
    }
    result
}

fn handle_flags(leaf: Leaf) -> OFlags {
    match leaf {
        Leaf::Directory(_) => OFlags::PATH | OFlags::DIRECTORY,
        Leaf::File => OFlags::PATH,
    }
}

fn directory_like(leaf: Leaf) -> Leaf {
    match leaf {
        Leaf::Directory(mode) => Leaf::Directory(mode),
        Leaf::File => Leaf::Directory(DIRECTORY_MODE),
    }
}

fn create(parent: &OwnedFd, name: &str, kind: Leaf) -> Result<(), Errno> {
    match kind {
        Leaf::Directory(mode) => rustix::fs::mkdirat(parent, name, mode),
        Leaf::File => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
            rustix::fs::openat(parent, name, flags, FILE_MODE).map(drop)
        }
    }
}

/// `name` exists but leads nowhere: the path that it stands for, as seen from the root. `RESOLVE_IN_ROOT` keeps
/// whatever comes out of this inside the root, so a wrong guess makes a directory at an odd place, no more.
fn dangling_target(parent: &OwnedFd, name: &str, above: &str, rest: &str) -> Result<String, Errno> {
    let target = rustix::fs::readlinkat(parent, name, Vec::new())?;
    let target = target.to_str().map_err(|_| Errno::ILSEQ)?;
    Ok(if target.starts_with('/') { format!("{target}/{rest}") } else { format!("{above}/{target}/{rest}") })
}

/// The names of a path, cleaned as Go's `filepath.Clean` does it: `..` removes the name before it and stops at the root.
pub(crate) fn clean(path: &str) -> Vec<&str> {
    let mut names = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => {
                names.pop();
            }
            name => names.push(name),
        }
    }
    names
}

fn relative(names: &[&str]) -> String {
    if names.is_empty() { ".".to_owned() } else { names.join("/") }
}

/// Which object a handle stands for, including the mount through which it is seen (D2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Whereabouts {
    pub mount: u64,
    pub device: (u32, u32),
    pub inode: u64,
}

pub(crate) fn whereabouts(fd: impl AsFd) -> Result<Whereabouts, Errno> {
    let mask = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
    let found = rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, mask)?;
    Ok(Whereabouts {
        mount: found.stx_mnt_id,
        device: (found.stx_dev_major, found.stx_dev_minor),
        inode: found.stx_ino,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_cleaned_without_leaving_the_root() {
        for (path, names) in [
            ("/", vec![]),
            ("", vec![]),
            ("/a/b", vec!["a", "b"]),
            ("//a/./b/", vec!["a", "b"]),
            ("/a/../b", vec!["b"]),
            ("/../../etc", vec!["etc"]),
            ("a/b/../../..", vec![]),
        ] {
            assert_eq!(clean(path), names, "{path:?}");
        }
    }

    #[test]
    fn what_is_missing_is_made_inside_the_root() {
        let outside = tempfile::tempdir().unwrap();
        let root = outside.path().join("root");
        std::fs::create_dir(&root).unwrap();
        for (link, target) in [("abs", "/made/by"), ("up", "../../../up-target"), ("loop", "loop"), ("a", "b/c")] {
            std::os::unix::fs::symlink(target, root.join(link)).unwrap();
        }
        let fd = rustix::fs::open(&root, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let tree = Tree(fd.as_fd());
        for (path, made) in [
            ("/x/y/z", "x/y/z"),
            ("/abs/link", "made/by/link"),
            ("/up/d", "up-target/d"),
            ("/../e", "e"),
            ("/a/d", "b/c/d"),
        ] {
            tree.make(path, Leaf::Directory(DIRECTORY_MODE), Links::Follow).unwrap();
            assert!(root.join(made).is_dir(), "{path}");
        }
        tree.make("/f/file", Leaf::File, Links::Follow).unwrap();
        assert!(root.join("f/file").is_file());
        let refused = tree.make("/loop/x", Leaf::Directory(DIRECTORY_MODE), Links::Follow);
        assert_eq!(refused.unwrap_err(), Errno::LOOP);
        let refused = tree.make("/up/x", Leaf::Directory(DIRECTORY_MODE), Links::Refuse);
        assert_eq!(refused.unwrap_err(), Errno::LOOP);
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1, "something was made outside");
    }
}
