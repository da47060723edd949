//! The log file of one container: opened by descriptor, rotated by the writer at the exact byte limit (rules LF1, LF3).

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::clock::Wall;

const LOG_MODE: Mode = Mode::from_raw_mode(0o640);
/// How many names a rotation tries before it gives up: each taken one is a second later.
const MAX_NAME_TRIES: i64 = 1000;

#[derive(Debug)]
pub struct LogFile {
    directory: OwnedFd,
    name: String,
    file: OwnedFd,
    size: u64,
    max_bytes: u64,
    max_files: u32,
    /// Time in the name that was given last, so that the names of a flood sort by age.
    last_rotation: i64,
}

impl LogFile {
    /// Opens `name` for appending and creates it when it is absent.
    pub fn open(directory: OwnedFd, name: String, max_bytes: u64, max_files: u32) -> io::Result<Self> {
        let (file, size) = open(&directory, &name)?;
        Ok(Self { directory, name, file, size, max_bytes, max_files, last_rotation: 0 })
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn max_bytes(&self) -> u64 {
        self.max_bytes
    }

    /// Writes until an error; the count of what was written comes with it.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), (usize, Errno)> {
        let mut written = 0;
        while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
            match rustix::io::write(&self.file, rest) {
                Ok(0) => return Err((written, Errno::NOSPC)),
                Ok(count) => {
                    written += count;
                    self.size += count as u64;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err((written, errno)),
            }
        }
        Ok(())
    }

    /// Moves the full file aside to `<name>.<YYYYMMDD-HHMMSS>`, begins a new one, and removes the oldest ones above
    /// `max_files`. Nothing is compressed here: that is work for the brain, which may be slow.
    pub fn rotate(&mut self) -> io::Result<()> {
        self.move_aside(Wall::now().seconds)?;
        let (file, size) = open(&self.directory, &self.name)?;
        self.file = file;
        self.size = size;
        self.remove_oldest()
    }

    fn move_aside(&mut self, now: i64) -> io::Result<()> {
        let first = now.max(self.last_rotation + 1);
        for seconds in first..first + MAX_NAME_TRIES {
            let target = format!("{}.{}", self.name, Wall { seconds, nanoseconds: 0 }.compact());
            let (from, to) = (self.name.as_str(), target.as_str());
            match rustix::fs::renameat_with(&self.directory, from, &self.directory, to, RenameFlags::NOREPLACE) {
                Ok(()) => {
                    self.last_rotation = seconds;
                    return Ok(());
                }
                // A rotation that failed after this step: only the new file is missing.
                Err(Errno::NOENT) => return Ok(()),
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Err(Errno::EXIST.into())
    }

    fn remove_oldest(&self) -> io::Result<()> {
        let mut rotated = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.directory)? {
            let entry = entry?;
            if is_rotated(entry.file_name(), &self.name) {
                rotated.push(entry.file_name().to_owned());
            }
        }
        rotated.sort();
        // Packed and not yet removed: one file still.
        rotated.dedup_by(|packed, plain| packed.to_bytes().strip_suffix(b".gz") == Some(plain.to_bytes()));
        let kept = usize::try_from(self.max_files.saturating_sub(1)).unwrap_or(usize::MAX);
        let excess = rotated.len().saturating_sub(kept);
        for name in rotated.iter().take(excess) {
            match rustix::fs::unlinkat(&self.directory, name.as_c_str(), AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}

/// `<name>.<8 digits>-<6 digits>`, possibly compressed by somebody else.
fn is_rotated(candidate: &CStr, name: &str) -> bool {
    let Some(suffix) = candidate.to_bytes().strip_prefix(name.as_bytes()) else {
        return false;
    };
    let suffix = suffix.strip_suffix(b".gz").unwrap_or(suffix);
    let pattern = b".dddddddd-dddddd";
    suffix.len() == pattern.len()
        && suffix.iter().zip(pattern).all(|(byte, wanted)| match wanted {
            b'd' => byte.is_ascii_digit(),
            other => byte == other,
        })
}

/// D37: no link is followed, nothing but a regular file with one name is written.
fn open(directory: &OwnedFd, name: &str) -> io::Result<(OwnedFd, u64)> {
    let flags =
        OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory.as_fd(), name, flags, LOG_MODE)?;
    let stat = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_nlink != 1 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file with one link"));
    }
    Ok((file, u64::try_from(stat.st_size).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(directory: &std::path::Path, max_bytes: u64, max_files: u32) -> io::Result<LogFile> {
        let fd = std::fs::File::open(directory).unwrap().into();
        LogFile::open(fd, "0.log".to_owned(), max_bytes, max_files)
    }

    fn names(directory: &std::path::Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn the_oldest_files_go_and_the_names_sort_by_age() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = log(directory.path(), 10, 3).unwrap();
        std::fs::write(directory.path().join("0.log.other"), "").unwrap();
        for generation in 0..5 {
            log.write(format!("{generation}").as_bytes()).unwrap();
            log.rotate().unwrap();
        }
        let names = names(directory.path());
        assert_eq!(names.len(), 4, "{names:?}");
        assert_eq!(names[3], "0.log.other");
        let content = |name: &String| std::fs::read_to_string(directory.path().join(name)).unwrap();
        assert_eq!([content(&names[0]), content(&names[1]), content(&names[2])], ["", "3", "4"]);
    }

    #[test]
    fn a_reopened_log_is_appended_to() {
        let directory = tempfile::tempdir().unwrap();
        log(directory.path(), 10, 3).unwrap().write(b"ab").unwrap();
        assert_eq!(log(directory.path(), 10, 3).unwrap().size(), 2);
    }

    #[test]
    fn links_and_devices_are_refused() {
        // D37
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        std::os::unix::fs::symlink("elsewhere", &path).unwrap();
        assert!(log(directory.path(), 10, 3).is_err());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "").unwrap();
        std::fs::hard_link(&path, directory.path().join("second")).unwrap();
        assert!(log(directory.path(), 10, 3).is_err());
    }

    #[test]
    fn only_names_of_rotated_files_match() {
        for (name, expected) in [
            (c"0.log.20261121-044718", true),
            (c"0.log.20261121-044718.gz", true),
            (c"0.log", false),
            (c"10.log.20261121-044718", false),
            (c"0.log.20261121-04471x", false),
        ] {
            assert_eq!(is_rotated(name, "0.log"), expected, "{name:?}");
        }
    }
}
