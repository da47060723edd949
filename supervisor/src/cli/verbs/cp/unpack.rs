//! Files of a container on this machine. The archive is a stranger's: nothing outside the target is touched.

use std::fs::{self, File};
use std::io::{self, Read, Seek as _, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::path::clean;
use crate::image::tar::{Entry, Kind, Reader};

const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o755);

/// Unpacks what lies below a prefix into a target: `prefix/a` becomes `target/a`, and `prefix` the target itself.
pub(super) fn unpack(archive: impl Read, prefix: &str, target: &Path) -> io::Result<()> {
    let mut reader = Reader::new(archive);
    let mut tree = Tree { target: target.to_path_buf(), prefix: prefix.to_owned(), has_warned: false };
    while let Some(entry) = reader.next_entry().map_err(io::Error::other)? {
        let name = String::from_utf8_lossy(&entry.path).into_owned();
        let Some(rest) = tree.inside(&name)? else {
            eprintln!("warning: file {:?} is outside target destination, skipping", shown(&tree.target.join(&name)));
            continue;
        };
        tree.put(&entry, &rest, &mut reader)?;
    }
    Ok(())
}

struct Tree {
    target: PathBuf,
    prefix: String,
    has_warned: bool,
}

impl Tree {
    /// The part of a name below the prefix; nothing when it leads out.
    fn inside(&self, name: &str) -> io::Result<Option<String>> {
        let name = clean(name.trim_start_matches('/'));
        if name.split('/').any(|part| part == "..") {
            return Ok(None);
        }
        let name = if name == "." { "" } else { &name };
        if self.prefix.is_empty() {
            return Ok(Some(name.to_owned()));
        }
        match name.strip_prefix(self.prefix.as_str()) {
            Some("") => Ok(Some(String::new())),
            Some(rest) if rest.starts_with('/') => Ok(Some(rest.trim_start_matches('/').to_owned())),
            // Nobody asked for it, so nobody but a liar sends it.
            Some(_) | None => Err(io::Error::other("tar contents corrupted")),
        }
    }

    fn put(&mut self, entry: &Entry, rest: &str, content: &mut impl Read) -> io::Result<()> {
        match &entry.kind {
            Kind::Directory => self.directory(rest).map(drop),
            Kind::File { .. } => io::copy(content, &mut self.file(entry, rest)?).map(drop),
            Kind::Sparse { size, extents } => {
                let mut file = self.file(entry, rest)?;
                file.set_len(*size)?;
                for extent in extents {
                    file.seek(SeekFrom::Start(extent.offset))?;
                    io::copy(&mut io::Read::take(&mut *content, extent.length), &mut file)?;
                }
                Ok(())
            }
            Kind::HardLink { target } => self.second_name(entry, rest, target),
            Kind::Symlink { target } => {
                self.warn("symlink", rest, target);
                Ok(())
            }
            Kind::Device => {
                self.warn("device", rest, b"");
                Ok(())
            }
            Kind::Fifo => {
                self.warn("pipe", rest, b"");
                Ok(())
            }
        }
    }

    /// The same file by another name becomes another file.
    fn second_name(&mut self, entry: &Entry, rest: &str, target: &[u8]) -> io::Result<()> {
        let known = self.inside(&String::from_utf8_lossy(target)).ok().flatten();
        let Some(known) = known.filter(|known| !known.is_empty() && !rest.is_empty()) else {
            self.warn("link", rest, target);
            return Ok(());
        };
        let mut from = File::from(self.open(self.directory("")?.as_fd(), &known, OFlags::RDONLY, Mode::empty())?);
        io::copy(&mut from, &mut self.file(entry, rest)?).map(drop)
    }

    fn warn(&mut self, what: &str, rest: &str, link: &[u8]) {
        let path = shown(&self.at(rest));
        let arrow = if link.is_empty() { String::new() } else { format!(" -> {:?}", String::from_utf8_lossy(link)) };
        let hint =
            if self.has_warned { "" } else { " (consider using \"monopod exec POD -- tar cf - PATH | tar xf -\")" };
        self.has_warned = true;
        eprintln!("warning: skipping {what}: {path:?}{arrow}{hint}");
    }

    fn at(&self, rest: &str) -> PathBuf {
        if rest.is_empty() { self.target.clone() } else { self.target.join(rest) }
    }

    /// A new or emptied file; permissions as in the archive, as far as the user's mask lets them.
    fn file(&self, entry: &Entry, rest: &str) -> io::Result<File> {
        let mode = Mode::from_raw_mode(entry.mode & 0o777 | 0o600);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
        if rest.is_empty() {
            return self.only_file(entry, flags, mode);
        }
        let (dir, name) = rest.rsplit_once('/').unwrap_or(("", rest));
        let dir = self.directory(dir)?;
        self.open(dir.as_fd(), name, flags, mode).map(File::from)
    }

    /// The one file that was asked for: the target is its name, or a directory for it.
    fn only_file(&self, entry: &Entry, flags: OFlags, mode: Mode) -> io::Result<File> {
        let mut path = self.target.clone();
        let mut flags = flags | OFlags::CLOEXEC;
        if path.is_dir() {
            // The name is the archive's choice, so a link of that name is not followed.
            flags |= OFlags::NOFOLLOW;
            let name = String::from_utf8_lossy(&entry.path).into_owned();
            path.push(name.rsplit('/').next().filter(|name| *name != "..").unwrap_or_default());
        } else if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            fs::create_dir_all(parent)?;
        }
        let file = rustix::fs::open(&path, flags, mode).map_err(named(&shown(&path)))?;
        Ok(File::from(file))
    }

    /// A directory below the target, made where it is missing.
    fn directory(&self, rest: &str) -> io::Result<OwnedFd> {
        fs::create_dir_all(&self.target)
            .map_err(|error| io::Error::other(format!("mkdir {}: {error}", shown(&self.target))))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut here = rustix::fs::open(&self.target, flags, Mode::empty()).map_err(named(&shown(&self.target)))?;
        for part in rest.split('/').filter(|part| !part.is_empty()) {
            match rustix::fs::mkdirat(&here, part, DIRECTORY_MODE) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(named(&shown(&self.at(rest)))(errno)),
            }
            here = self.open(here.as_fd(), part, flags, Mode::empty())?;
        }
        Ok(here)
    }

    /// Opens what is in a directory: no link leads out of it.
    fn open(&self, dir: impl AsFd, name: &str, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let path = shown(&self.at(name));
        rustix::fs::openat2(dir, name, flags | OFlags::CLOEXEC, mode, resolve).map_err(named(&path))
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn named(path: &str) -> impl Fn(Errno) -> io::Error {
    move |errno| {
        let error = io::Error::from(errno);
        io::Error::new(error.kind(), format!("open {path}: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use tar::{Builder, EntryType, Header};

    use super::super::pack;
    use super::*;

    /// An archive with names that honest programs refuse to write.
    fn archive(entries: &[(EntryType, &str, &str)]) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        for (kind, name, content) in entries {
            let mut header = Header::new_gnu();
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(*kind);
            header.set_mode(0o4755);
            for set in [Header::set_uid, Header::set_gid] {
                set(&mut header, 0);
            }
            header.set_mtime(0);
            let is_file = *kind == EntryType::Regular;
            if !is_file {
                header.set_link_name_literal(content).unwrap();
            }
            let content = if is_file { content.as_bytes() } else { &[] };
            header.set_size(content.len() as u64);
            header.set_cksum();
            builder.append(&header, content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn taken(entries: &[(EntryType, &str, &str)], prefix: &str, target: &Path) -> Result<(), String> {
        unpack(archive(entries).as_slice(), prefix, target).map_err(|error| error.to_string())
    }

    #[test]
    fn a_tree_goes_in_and_comes_out_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        fs::create_dir_all(from.join("empty")).unwrap();
        let long = "n".repeat(150);
        for (name, text) in [("a", "one"), (long.as_str(), "two")] {
            fs::write(from.join(name), text).unwrap();
        }
        std::os::unix::fs::symlink("a", from.join("link")).unwrap();
        let mut bytes = Vec::new();
        pack::pack(&from, "w/x", &mut bytes).unwrap();
        let to = dir.path().join("to/here");
        unpack(bytes.as_slice(), "w/x", &to).unwrap();
        assert_eq!(fs::read_to_string(to.join("a")).unwrap(), "one");
        assert_eq!(fs::read_to_string(to.join(long)).unwrap(), "two");
        assert!(to.join("empty").is_dir() && !to.join("link").exists());
    }

    #[test]
    fn one_file_gets_the_name_or_the_directory_that_was_given() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let one = [(EntryType::Regular, "tmp/f", "text")];
        taken(&one, "tmp/f", &dir.path().join("new/name")).unwrap();
        taken(&one, "tmp/f", dir.path()).unwrap();
        for name in ["new/name", "f"] {
            let path = dir.path().join(name);
            assert_eq!(fs::read_to_string(&path).unwrap(), "text");
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o6000, 0, "nothing is set-uid");
        }
    }

    #[test]
    fn nothing_outside_the_target_is_touched() {
        let dir = tempfile::tempdir().unwrap();
        let (target, outside) = (dir.path().join("t"), dir.path().join("outside"));
        fs::create_dir_all(&target).unwrap();
        fs::create_dir_all(&outside).unwrap();
        let file = EntryType::Regular;
        // Skipped, and what comes after is taken.
        taken(&[(file, "d/../../x", "no"), (file, "d/ok", "yes")], "d", &target).unwrap();
        assert!(target.join("ok").exists() && !dir.path().join("x").exists());
        let other = taken(&[(file, "dd/x", "no")], "d", &target).unwrap_err();
        assert_eq!(other, "tar contents corrupted");
        // No link is made, so none can be walked through.
        let link = outside.display().to_string();
        taken(&[(EntryType::Symlink, "d/l", &link), (file, "d/l/x", "no")], "d", &target).unwrap();
        assert!(!outside.join("x").exists() && target.join("l/x").exists());
        // One that was there leads nowhere.
        std::os::unix::fs::symlink(&outside, target.join("old")).unwrap();
        std::os::unix::fs::symlink(outside.join("y"), target.join("name")).unwrap();
        for name in ["d/old/x", "d/name"] {
            taken(&[(file, name, "no")], "d", &target).unwrap_err();
        }
        taken(&[(file, "tmp/name", "no")], "tmp/name", &target).unwrap_err();
        taken(&[(EntryType::Link, "d/h", "etc/passwd")], "d", &target).unwrap();
        assert!(!target.join("h").exists());
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    }

    #[test]
    fn a_second_name_of_a_file_is_a_copy() {
        let dir = tempfile::tempdir().unwrap();
        taken(&[(EntryType::Regular, "d/a", "text"), (EntryType::Link, "d/b", "d/a")], "d", dir.path()).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("b")).unwrap(), "text");
    }
}
