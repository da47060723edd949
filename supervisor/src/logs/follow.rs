//! Following a log file while it grows, over rotations (rule LF4).

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Bytes that one call reads at the most, so that a flood can't hold its reader up.
const CHUNK_BYTES: usize = 64 * 1024;

/// A place in a log file. The caller waits for changes and calls [`Follower::read`].
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    file: Option<File>,
    /// The start of a line whose end has not been written yet.
    unfinished: Vec<u8>,
    buffer: Vec<u8>,
}

/// A regular file with one name: nothing that somebody put in its place (D37).
pub(super) fn open(path: &Path) -> io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let found = file.metadata()?;
    if !found.is_file() || found.nlink() > 1 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a log file"));
    }
    Ok(file)
}

impl Follower {
    /// From the file's start; it need not exist yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path, file: None, unfinished: Vec::new(), buffer: vec![0; CHUNK_BYTES] }
    }

    /// From a place in an open file that has this name now.
    pub fn starting_at(path: PathBuf, mut file: File, offset: u64) -> io::Result<Self> {
        file.seek(SeekFrom::Start(offset))?;
        Ok(Self { file: Some(file), ..Self::new(path) })
    }

    /// Gives every complete new line to `line`, without its line break; true when there may be more right now.
    pub fn read(&mut self, mut line: impl FnMut(&[u8])) -> io::Result<bool> {
        if self.file.is_none() {
            self.file = match open(&self.path) {
                Ok(file) => Some(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                Err(error) => return Err(error),
            };
        }
        let Some(file) = &mut self.file else { return Ok(false) };
        let read = file.read(&mut self.buffer)?;
        if read == 0 {
            return self.follow_rotation();
        }
        let mut rest = &self.buffer[..read];
        while let Some(end) = memchr::memchr(b'\n', rest) {
            if self.unfinished.is_empty() {
                line(&rest[..end]);
            } else {
                self.unfinished.extend_from_slice(&rest[..end]);
                line(&self.unfinished);
                self.unfinished.clear();
            }
            rest = &rest[end + 1..];
        }
        self.unfinished.extend_from_slice(rest);
        Ok(true)
    }

    /// At the end of a file that has been renamed away, the one that was begun next follows.
    fn follow_rotation(&mut self) -> io::Result<bool> {
        let Some(file) = &self.file else { return Ok(false) };
        let now = match std::fs::metadata(&self.path) {
            Ok(metadata) => metadata.ino(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let own = file.metadata()?.ino();
        if now == own {
            return Ok(false);
        }
        // A slow reader may be several rotations behind.
        self.file = match rotated_after(&self.path, own) {
            Some(next) => open(&next).ok(),
            None => None,
        };
        Ok(true)
    }
}

/// The rotated file that was begun after the one with this inode; the oldest when that one is gone. None: the current one.
fn rotated_after(path: &Path, inode: u64) -> Option<PathBuf> {
    let (dir, name) = (path.parent()?, path.file_name()?.to_str()?);
    let prefix = format!("{name}.");
    let is_rotated = |name: &OsString| {
        let stamp = name.to_str().and_then(|name| name.strip_prefix(&prefix));
        stamp.is_some_and(|stamp| !stamp.is_empty() && stamp.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-'))
    };
    let mut names: Vec<OsString> = std::fs::read_dir(dir).ok()?.flatten().map(|entry| entry.file_name()).collect();
    names.retain(is_rotated);
    // Their times make them sort by age.
    names.sort();
    let inode_of = |name: &OsString| std::fs::symlink_metadata(dir.join(name)).map(|found| found.ino());
    let own = names.iter().position(|name| inode_of(name).is_ok_and(|found| found == inode));
    names.get(own.map_or(0, |own| own + 1)).map(|name| dir.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn drain(follower: &mut Follower) -> Vec<String> {
        let mut lines = Vec::new();
        while follower.read(|line| lines.push(String::from_utf8_lossy(line).into_owned())).unwrap() {}
        lines
    }

    #[test]
    fn lines_come_once_and_whole_over_a_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut follower = Follower::new(path.clone());
        assert!(drain(&mut follower).is_empty());
        let mut file = std::fs::File::create(&path).unwrap();
        file.write_all(b"one\ntw").unwrap();
        assert_eq!(drain(&mut follower), ["one"]);
        file.write_all(b"o\nthree\n").unwrap();
        std::fs::rename(&path, dir.path().join("0.log.1")).unwrap();
        std::fs::File::create(&path).unwrap().write_all(b"four\n").unwrap();
        assert_eq!(drain(&mut follower), ["two", "three", "four"]);
        assert!(drain(&mut follower).is_empty());
    }

    #[test]
    fn a_reader_that_is_rotations_behind_misses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, "0\n").unwrap();
        let mut follower = Follower::new(path.clone());
        assert_eq!(drain(&mut follower), ["0"]);
        for generation in 1..4 {
            std::fs::rename(&path, dir.path().join(format!("0.log.20261121-04471{generation}"))).unwrap();
            std::fs::write(&path, format!("{generation}\n")).unwrap();
        }
        assert_eq!(drain(&mut follower), ["1", "2", "3"]);
    }

    /// D37
    #[test]
    fn links_are_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(Follower::new(path).read(|_| {}).is_err());
    }
}
