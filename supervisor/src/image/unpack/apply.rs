//! Applies a layer's entries to a directory, in overlayfs's form.
//!
//! The directory is the root of this process, so nothing else can be reached; still every path goes through `openat2` with
//! `RESOLVE_IN_ROOT` (D1), because a path through a symbolic link is legal: `/var/run -> /run`, then `/var/run/x`.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::later::{DirectoryTimes, Time};
use super::report::Report;
use crate::image::limits::{Limits, MAX_PATH_BYTES, MAX_PATH_COMPONENTS, MAX_SYMLINKS};
use crate::image::tar::{Entry, Extent, Kind, Reader, TarError};
use crate::image::tree;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Names of other union file systems' own files: docker leaves them out, too.
const META: &[u8] = b".wh..wh.";
const COPY_BYTES: usize = 128 << 10;
/// How often free space is looked at: after so many bytes written ...
const CHECK_SPACE_BYTES: u64 = 16 << 20;
/// ... and so many entries.
const CHECK_SPACE_ENTRIES: u64 = 4096;
const DIRECTORY_MODE: u32 = 0o755;

/// Why a layer is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApplyError {
    #[error(transparent)]
    Tar(#[from] TarError),
    #[error("{call}({path:?}): {errno}")]
    Call { call: &'static str, path: String, errno: Errno },
    #[error("{0:?}: reading its content: {1}")]
    Content(String, std::io::Error),
    #[error("{0:?} is not a whiteout's name")]
    BadWhiteout(String),
    #[error("{0:?} would replace the root directory")]
    ReplacesRoot(String),
    #[error("{path:?}: hard link to {target:?}, which is not a regular file of the layer")]
    HardLink { path: String, target: String },
    #[error("{0:?}: too many symbolic links on the way")]
    Loop(String),
    #[error("more than {0} entries")]
    TooManyEntries(u64),
    #[error("{0:?}: {1} bytes, the limit for a layer is {2}")]
    TooLarge(String, u64, u64),
    #[error("only {free} bytes are left on the file system, {floor} must stay free")]
    NoSpace { free: u64, floor: u64 },
}

/// Seconds since 1970 and nanoseconds.
type Result<T> = std::result::Result<T, ApplyError>;

fn shown(path: &[u8]) -> String {
    path.escape_ascii().to_string().chars().take(300).collect()
}

trait At<T> {
    fn at(self, call: &'static str, path: &[u8]) -> Result<T>;
}

impl<T> At<T> for rustix::io::Result<T> {
    fn at(self, call: &'static str, path: &[u8]) -> Result<T> {
        self.map_err(|errno| ApplyError::Call { call, path: shown(path), errno })
    }
}

/// A place for an entry: the directory is open, the name is one component.
struct Place<'a> {
    parent: OwnedFd,
    name: &'a [u8],
    path: &'a [u8],
}

impl Place<'_> {
    fn stat(&self) -> Result<Option<Stat>> {
        match rustix::fs::statat(&self.parent, self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno).at("fstatat", self.path),
        }
    }

    /// Makes room. Says whether a whiteout of this layer stood there.
    fn clear(&self) -> Result<bool> {
        let whiteout = self.stat()?.is_some_and(|stat| is_whiteout(&stat));
        tree::remove(&self.parent, self.name).at("unlinkat", self.path)?;
        Ok(whiteout)
    }

    fn open(&self, flags: OFlags) -> Result<OwnedFd> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = if flags.contains(OFlags::CREATE) { 0o600 } else { 0 };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        rustix::fs::openat2(&self.parent, self.name, flags, Mode::from_raw_mode(mode), resolve).at("openat2", self.path)
    }
}

fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// The state of one layer being applied.
pub(super) struct Applier<'a> {
    root: OwnedFd,
    limits: &'a Limits,
    tell: &'a mut dyn FnMut(Report),
    directory_times: DirectoryTimes,
    buffer: Vec<u8>,
    written: u64,
    /// Sum of the files' sizes, holes included.
    logical: u64,
    checked_at: u64,
    pub(super) entries: u64,
    pub(super) skipped: u64,
}

impl std::fmt::Debug for Applier<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Applier").field("entries", &self.entries).finish_non_exhaustive()
    }
}

impl<'a> Applier<'a> {
    pub(super) fn new(root: OwnedFd, limits: &'a Limits, tell: &'a mut dyn FnMut(Report)) -> Self {
        Self {
            root,
            limits,
            tell,
            directory_times: DirectoryTimes::default(),
            buffer: vec![0; COPY_BYTES],
            written: 0,
            logical: 0,
            checked_at: 0,
            entries: 0,
            skipped: 0,
        }
    }

    /// Applies all entries of an archive.
    pub(super) fn apply_all<R: Read>(&mut self, archive: &mut Reader<R>) -> Result<()> {
        // Whatever an archive does not say is the same in every unpacked copy.
        self.directory_times.push(b".", (0, 0));
        while let Some(entry) = archive.next_entry()? {
            self.entries += 1;
            if archive.headers() > self.limits.entries {
                return Err(ApplyError::TooManyEntries(self.limits.entries));
            }
            if self.entries.is_multiple_of(CHECK_SPACE_ENTRIES) {
                self.check_space()?;
            }
            self.apply(&entry, archive)?;
        }
        self.set_directory_times()
    }

    fn apply(&mut self, entry: &Entry, content: &mut impl Read) -> Result<()> {
        let path = clean(&entry.path);
        let Some(name) = path.rsplit(|b| *b == b'/').next().filter(|name| !name.is_empty()) else {
            return self.apply_root(entry);
        };
        if path.split(|b| *b == b'/').any(|part| part.starts_with(WHITEOUT)) {
            return self.apply_whiteout(&path, name);
        }
        let parent = parent_of(&path);
        let place = Place { parent: self.directory(parent, MAX_SYMLINKS)?, name, path: &path };
        match &entry.kind {
            Kind::Directory => self.make_directory(&place, entry),
            Kind::File { size } => {
                let whole = Extent { offset: 0, length: *size };
                self.make_file(&place, entry, *size, &[whole], content)
            }
            Kind::Sparse { size, extents } => self.make_file(&place, entry, *size, extents, content),
            Kind::Symlink { target } => make_symlink(&place, entry, target),
            Kind::HardLink { target } => self.make_hard_link(&place, target),
            Kind::Device => self.skip(&path, "device nodes are not taken from images"),
            Kind::Fifo => self.skip(&path, "FIFOs are not taken from images"),
        }
    }

    fn skip(&mut self, path: &[u8], why: &str) -> Result<()> {
        self.skipped += 1;
        (self.tell)(Report::Skipped(format!("{}: {why}", shown(path))));
        Ok(())
    }

    fn apply_root(&mut self, entry: &Entry) -> Result<()> {
        if entry.kind != Kind::Directory {
            return Err(ApplyError::ReplacesRoot(shown(&entry.path)));
        }
        let root = self.open_directory(b".").at("openat2", b"/")?;
        self.set_attributes(&root, b"/", entry)?;
        self.directory_times.push(b".", entry.mtime);
        Ok(())
    }

    /// `.wh.NAME` hides NAME of the layers below; `.wh..wh..opq` hides all that its directory has there.
    fn apply_whiteout(&mut self, path: &[u8], name: &[u8]) -> Result<()> {
        let parent = parent_of(path);
        let in_meta = path.split(|b| *b == b'/').any(|part| part.starts_with(META));
        if name == OPAQUE && !parent.split(|b| *b == b'/').any(|part| part.starts_with(WHITEOUT)) {
            self.directory(parent, MAX_SYMLINKS)?;
            (self.tell)(Report::Opaque(parent.to_vec()));
            return Ok(());
        }
        if in_meta {
            return self.skip(path, "private to another union file system");
        }
        let hidden = name.strip_prefix(WHITEOUT).unwrap_or_default();
        if matches!(hidden, b"" | b"." | b"..") || parent.split(|b| *b == b'/').any(|part| part.starts_with(WHITEOUT)) {
            return Err(ApplyError::BadWhiteout(shown(path)));
        }
        let place = Place { parent: self.directory(parent, MAX_SYMLINKS)?, name: hidden, path };
        match place.stat()? {
            // What this layer has itself stays; only what lies below is hidden, which a file does anyway.
            Some(stat) if is_directory(&stat) => {
                let inner = join(parent, hidden);
                (self.tell)(Report::Opaque(inner));
                Ok(())
            }
            Some(_) => Ok(()),
            None => rustix::fs::mknodat(&place.parent, hidden, FileType::CharacterDevice, Mode::empty(), 0)
                .at("mknodat", path),
        }
    }

    fn make_directory(&mut self, place: &Place<'_>, entry: &Entry) -> Result<()> {
        let exists = place.stat()?.is_some_and(|stat| is_directory(&stat));
        if !exists {
            let hides = place.clear()?;
            let mode = Mode::from_raw_mode(0o700);
            rustix::fs::mkdirat(&place.parent, place.name, mode).at("mkdirat", place.path)?;
            if hides {
                (self.tell)(Report::Opaque(place.path.to_vec()));
            }
        }
        let dir = place.open(OFlags::RDONLY | OFlags::DIRECTORY)?;
        self.set_attributes(&dir, place.path, entry)?;
        self.directory_times.push(place.path, entry.mtime);
        Ok(())
    }

    fn make_file(
        &mut self,
        place: &Place<'_>,
        entry: &Entry,
        size: u64,
        extents: &[Extent],
        content: &mut impl Read,
    ) -> Result<()> {
        self.logical = self.logical.saturating_add(size);
        if self.logical > self.limits.layer_bytes {
            return Err(ApplyError::TooLarge(shown(place.path), self.logical, self.limits.layer_bytes));
        }
        place.clear()?;
        let file = place.open(OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)?;
        for extent in extents {
            self.copy(&file, place.path, *extent, content)?;
        }
        if extents.last().is_none_or(|last| last.offset + last.length < size) {
            rustix::fs::ftruncate(&file, size).at("ftruncate", place.path)?;
        }
        self.set_attributes(&file, place.path, entry)?;
        rustix::fs::futimens(&file, &times(entry.mtime)).at("utimensat", place.path)
    }

    fn copy(&mut self, file: &OwnedFd, path: &[u8], extent: Extent, content: &mut impl Read) -> Result<()> {
        let mut at = extent.offset;
        let end = extent.offset + extent.length;
        while at < end {
            let most = usize::try_from(end - at).unwrap_or(usize::MAX).min(COPY_BYTES);
            let buffer = self.buffer.get_mut(..most).unwrap_or_default();
            let got = content.read(buffer).map_err(|err| ApplyError::Content(shown(path), err))?;
            let mut rest = self.buffer.get(..got).unwrap_or_default();
            if rest.is_empty() {
                return Err(ApplyError::Content(shown(path), std::io::ErrorKind::UnexpectedEof.into()));
            }
            while !rest.is_empty() {
                let put = rustix::io::pwrite(file, rest, at).at("pwrite", path)?;
                rest = rest.get(put..).unwrap_or_default();
                at += put as u64;
            }
            self.written += got as u64;
            if self.written - self.checked_at >= CHECK_SPACE_BYTES {
                self.check_space()?;
            }
        }
        Ok(())
    }

    fn make_hard_link(&mut self, place: &Place<'_>, target: &[u8]) -> Result<()> {
        let to = clean(target);
        let bad = || ApplyError::HardLink { path: shown(place.path), target: shown(target) };
        let name = to.rsplit(|b| *b == b'/').next().filter(|name| !name.is_empty()).ok_or_else(bad)?;
        let parent = self.open_directory(parent_of(&to)).map_err(|_| bad())?;
        let stat = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|_| bad())?;
        if to.as_slice() == place.path {
            return Err(bad());
        }
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                place.clear()?;
                rustix::fs::linkat(&parent, name, &place.parent, place.name, AtFlags::empty()).at("linkat", place.path)
            }
            // Two names of one symbolic link are legal; a copy is the same and needs no link to anything but a file (D27).
            FileType::Symlink => copy_symlink(&parent, name, &stat, place),
            FileType::Directory
            | FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => Err(bad()),
        }
    }

    /// Owner before mode and capabilities, since a new owner clears both.
    fn set_attributes(&mut self, file: impl AsFd, path: &[u8], entry: &Entry) -> Result<()> {
        let file = file.as_fd();
        rustix::fs::fchown(file, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid))).at("fchown", path)?;
        rustix::fs::fchmod(file, Mode::from_raw_mode(entry.mode)).at("fchmod", path)?;
        for (name, value) in &entry.xattrs {
            if !is_kept_xattr(name, value) {
                self.skip(path, &format!("extended attribute {} is not taken from images", shown(name)))?;
                continue;
            }
            match rustix::fs::fsetxattr(file, name.as_slice(), value, XattrFlags::empty()) {
                Ok(()) => {}
                Err(Errno::NOTSUP) => self.skip(path, "the file system has no such extended attributes")?,
                Err(errno) => return Err(errno).at("fsetxattr", path),
            }
        }
        Ok(())
    }

    fn set_directory_times(&self) -> Result<()> {
        for (path, time) in self.directory_times.iter() {
            // A later entry may have replaced it.
            if let Ok(dir) = self.open_in_root(path, OFlags::NOFOLLOW) {
                rustix::fs::futimens(&dir, &times(time)).at("utimensat", path)?;
            }
        }
        Ok(())
    }

    fn check_space(&mut self) -> Result<()> {
        self.checked_at = self.written;
        let stat = rustix::fs::fstatfs(&self.root).at("fstatfs", b"/")?;
        let block = u64::try_from(stat.f_bsize).unwrap_or_default();
        let free = stat.f_bavail.saturating_mul(block);
        let floor = self.limits.min_free_bytes;
        if free < floor {
            return Err(ApplyError::NoSpace { free, floor });
        }
        Ok(())
    }

    fn open_in_root(&self, path: &[u8], more: OFlags) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | more;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let path = if path.is_empty() { b"." } else { path };
        rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve)
    }

    fn open_directory(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        self.open_in_root(path, OFlags::empty())
    }

    /// Opens a directory that entries lie below; an archive need not name it before.
    fn directory(&mut self, path: &[u8], links: usize) -> Result<OwnedFd> {
        match self.open_directory(path) {
            Err(Errno::NOENT) => {}
            result => return result.at("openat2", path),
        }
        let mut here = self.open_directory(b"").at("openat2", b"/")?;
        for end in ends_of_components(path) {
            let prefix = path.get(..end).unwrap_or_default();
            here = match self.open_directory(prefix) {
                Ok(dir) => dir,
                Err(Errno::NOENT) => self.make_missing(&here, prefix, links)?,
                Err(errno) => return Err(errno).at("openat2", prefix),
            };
        }
        Ok(here)
    }

    /// Makes the last component of `path`, or what it links to.
    fn make_missing(&mut self, parent: &OwnedFd, path: &[u8], links: usize) -> Result<OwnedFd> {
        let name = path.rsplit(|b| *b == b'/').next().unwrap_or_default();
        match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(DIRECTORY_MODE)) {
            Ok(()) => {
                self.directory_times.push(path, (0, 0));
                return self.open_directory(path).at("openat2", path);
            }
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno).at("mkdirat", path),
        }
        let target = rustix::fs::readlinkat(parent, name, Vec::new()).at("readlinkat", path)?;
        let target = target.as_bytes();
        let target = match target.strip_prefix(b"/") {
            Some(absolute) => absolute.to_vec(),
            None => join(parent_of(path), target),
        };
        let components = target.split(|b| *b == b'/').count();
        let Some(links) =
            links.checked_sub(1).filter(|_| components <= MAX_PATH_COMPONENTS && target.len() <= MAX_PATH_BYTES)
        else {
            return Err(ApplyError::Loop(shown(path)));
        };
        self.directory(&target, links)
    }
}

fn make_symlink(place: &Place<'_>, entry: &Entry, target: &[u8]) -> Result<()> {
    place.clear()?;
    rustix::fs::symlinkat(target, &place.parent, place.name).at("symlinkat", place.path)?;
    own_symlink(place, entry.uid, entry.gid, times(entry.mtime))
}

fn own_symlink(place: &Place<'_>, uid: u32, gid: u32, times: Timestamps) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    let no_follow = AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::chownat(&place.parent, place.name, Some(uid), Some(gid), no_follow).at("fchownat", place.path)?;
    rustix::fs::utimensat(&place.parent, place.name, &times, no_follow).at("utimensat", place.path)
}

fn copy_symlink(parent: &OwnedFd, name: &[u8], stat: &Stat, place: &Place<'_>) -> Result<()> {
    let target = rustix::fs::readlinkat(parent, name, Vec::new()).at("readlinkat", place.path)?;
    place.clear()?;
    rustix::fs::symlinkat(&target, &place.parent, place.name).at("symlinkat", place.path)?;
    let nanoseconds = u32::try_from(stat.st_mtime_nsec).unwrap_or_default();
    own_symlink(place, stat.st_uid, stat.st_gid, times((stat.st_mtime, nanoseconds)))
}

fn times((seconds, nanoseconds): Time) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}

/// D27: attributes that steer overlayfs or the kernel's security modules are not an image's business.
fn is_kept_xattr(name: &[u8], value: &[u8]) -> bool {
    if name == b"security.capability" {
        return is_capability(value);
    }
    let user = name.starts_with(b"user.") && !name.starts_with(b"user.overlay.");
    (user || name.starts_with(b"system.posix_acl_")) && name.len() <= 255 && !name.contains(&0)
}

/// `struct vfs_cap_data` of version 2 or 3 (`linux/capability.h`).
fn is_capability(value: &[u8]) -> bool {
    let version = value.get(3).copied();
    matches!((value.len(), version), (20, Some(2)) | (24, Some(3)))
}

/// Without empty, `.` and `..` components and without a leading slash: `..` never climbs above the root.
fn clean(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    parts.join(&b'/')
}

fn parent_of(path: &[u8]) -> &[u8] {
    let slash = path.iter().rposition(|b| *b == b'/').unwrap_or(0);
    path.get(..slash).unwrap_or_default()
}

fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() {
        return name.to_vec();
    }
    [parent, b"/", name].concat()
}

/// Where each component of a path ends; `..` stays, the kernel resolves it.
fn ends_of_components(path: &[u8]) -> Vec<usize> {
    let slashes = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(i, _)| i);
    slashes
        .chain([path.len()])
        .filter(|end| end.checked_sub(1).and_then(|last| path.get(last)).is_some_and(|b| *b != b'/'))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_within_the_root() {
        for (path, want) in [
            ("./", ""),
            ("/", ""),
            ("a/b/", "a/b"),
            ("/etc/passwd", "etc/passwd"),
            ("../../etc/passwd", "etc/passwd"),
            ("a/../../b", "b"),
            ("a//./b", "a/b"),
        ] {
            assert_eq!(clean(path.as_bytes()), want.as_bytes(), "{path}");
        }
    }

    #[test]
    fn components_end_where_names_do() {
        assert_eq!(ends_of_components(b"a/bc//../d"), [1, 4, 8, 10]);
        assert_eq!(ends_of_components(b""), Vec::<usize>::new());
        assert_eq!((parent_of(b"a/b/c"), parent_of(b"a")), (&b"a/b"[..], &b""[..]));
    }

    // D27
    #[test]
    fn only_harmless_attributes_are_kept() {
        let v2 = [1, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        for (name, value, kept) in [
            ("user.comment", &b"x"[..], true),
            ("system.posix_acl_access", b"x", true),
            ("security.capability", &v2, true),
            ("security.capability", &v2[..19], false),
            ("security.capability", &[0; 20], false),
            ("security.selinux", b"x", false),
            ("trusted.overlay.opaque", b"y", false),
            ("trusted.x", b"y", false),
            ("user.overlay.opaque", b"y", false),
            ("user.a\0b", b"y", false),
        ] {
            assert_eq!(is_kept_xattr(name.as_bytes(), value), kept, "{name}");
        }
    }
}
