//! Following a log file while it grows, over rotations (rule LF4).

use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

/// Bytes that one call reads at the most, so that a flood can't hold its reader up.
const CHUNK_BYTES: usize = 64 * 1024;

/// A place in a log file. The caller waits for changes and calls [`Follower::read`].
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    file: Option<std::fs::File>,
    /// The start of a line whose end has not been written yet.
    unfinished: Vec<u8>,
    buffer: Vec<u8>,
}

impl Follower {
    /// From the file's start; it need not exist yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path, file: None, unfinished: Vec::new(), buffer: vec![0; CHUNK_BYTES] }
    }

    /// Gives every complete new line to `line`, without its line break; true when there may be more right now.
    pub fn read(&mut self, mut line: impl FnMut(&[u8])) -> io::Result<bool> {
        if self.file.is_none() {
            self.file = match std::fs::File::open(&self.path) {
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

    /// At the end of a file that has been renamed away, the next one begins.
    fn follow_rotation(&mut self) -> io::Result<bool> {
        let Some(file) = &self.file else { return Ok(false) };
        let now = match std::fs::metadata(&self.path) {
            Ok(metadata) => metadata.ino(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        if now == file.metadata()?.ino() {
            return Ok(false);
        }
        self.file = None;
        Ok(true)
    }
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
}
