//! The operations that the store does on a file system, and no others: what a power cut can come between.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, AtFlags, FileType, FlockOperation, Mode, OFlags, RenameFlags};

use super::StoreError;
use super::file::LOCK;

/// Paths are relative to the store's directory; the empty one is the directory itself. Errors name the call and the path.
pub(super) trait Disk: fmt::Debug + Send {
    fn list(&self, directory: &Path) -> Result<Vec<Entry>, StoreError>;
    /// The whole file; an error when it has more bytes, or is none.
    fn read(&self, path: &Path, limit: u64) -> Result<Vec<u8>, StoreError>;
    /// Makes a directory. False when it was there.
    fn make_directory(&self, path: &Path) -> Result<bool, StoreError>;
    /// Makes or replaces a file's content. Neither this nor the name is on the disk yet.
    fn write(&self, path: &Path, bytes: &[u8]) -> Result<Box<dyn WrittenFile>, StoreError>;
    /// Replaces what has the new name.
    fn rename(&self, from: &Path, to: &Path) -> Result<(), StoreError>;
    /// Nothing is there afterwards, and that may have been so before.
    fn remove(&self, path: &Path) -> Result<(), StoreError>;
    fn remove_directory(&self, path: &Path) -> Result<(), StoreError>;
    /// Every change of names in this directory is on the disk afterwards.
    fn sync_directory(&self, path: &Path) -> Result<(), StoreError>;
}

/// A file whose content the kernel has.
pub(super) trait WrittenFile: fmt::Debug {
    /// A hint that [`Self::sync`] follows, so that the files of a batch go to the disk together.
    fn start(&self);
    /// The content is on the disk afterwards.
    fn sync(&self) -> Result<(), StoreError>;
}

/// What a directory lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: PathBuf,
    pub(super) is_directory: bool,
}

/// The real one.
#[derive(Debug)]
pub(super) struct FileSystem {
    root: OwnedFd,
    path: PathBuf,
}

/// Held by the one process that uses a store.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "the lock ends with the descriptor")] File);

type Result0 = Result<(), StoreError>;

impl FileSystem {
    /// Makes the directory if it is not there, for root alone: objects may be secrets.
    pub(super) fn open(path: &Path) -> Result<(Self, Lock), StoreError> {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(|cause| io_error("mkdir", path, cause))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty()).map_err(|cause| io_error("open", path, cause))?;
        let system = Self { root, path: path.to_path_buf() };
        let lock = system.lock()?;
        Ok((system, lock))
    }

    /// Held by a descriptor that can't write: one that can would keep a shutdown from remounting the file system read-only.
    fn lock(&self) -> Result<Lock, StoreError> {
        let path = Path::new(LOCK);
        let mut file = File::from(self.open_at("open", path, OFlags::RDONLY | OFlags::CREATE)?);
        if let Err(cause) = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            return Err(self.error("flock", path, explain_lock(cause.into(), &mut file)));
        }
        // For the message above alone: a full disk must not stop the start.
        let note = format!("{:<10}\n", std::process::id());
        if let Ok(file) = self.open_at("open", path, OFlags::WRONLY) {
            File::from(file).write_all_at(note.as_bytes(), 0).unwrap_or_default();
        }
        Ok(Lock(file))
    }

    fn open_at(&self, operation: &'static str, path: &Path, flags: OFlags) -> Result<OwnedFd, StoreError> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::io::retry_on_intr(|| rustix::fs::openat(&self.root, own(path), flags, Mode::RUSR | Mode::WUSR))
            .map_err(|cause| self.error(operation, path, cause))
    }

    /// Some file systems leave the type out of their directories.
    fn is_directory(&self, listed: FileType, path: &Path) -> bool {
        if listed != FileType::Unknown {
            return listed == FileType::Directory;
        }
        let stat = rustix::fs::statat(&self.root, path, AtFlags::SYMLINK_NOFOLLOW);
        stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
    }

    fn error(&self, operation: &'static str, path: &Path, cause: impl Into<io::Error>) -> StoreError {
        io_error(operation, &self.path.join(path), cause)
    }
}

/// The store's directory itself is `.` below its own descriptor.
fn own(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

fn explain_lock(cause: io::Error, file: &mut File) -> io::Error {
    if cause.kind() != io::ErrorKind::WouldBlock {
        return cause;
    }
    let mut note = String::new();
    file.take(32).read_to_string(&mut note).unwrap_or_default();
    let holder = note.trim().parse::<u32>().map_or_else(|_| String::new(), |pid| format!(" (pid {pid})"));
    io::Error::new(io::ErrorKind::WouldBlock, format!("another process uses this store{holder}"))
}

pub(super) fn io_error(operation: &'static str, path: &Path, cause: impl Into<io::Error>) -> StoreError {
    StoreError::Io { operation, path: path.to_path_buf(), cause: cause.into() }
}

impl Disk for FileSystem {
    fn list(&self, directory: &Path) -> Result<Vec<Entry>, StoreError> {
        let fd = self.open_at("open", directory, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut entries = Vec::new();
        for entry in rustix::fs::Dir::new(fd).map_err(|cause| self.error("getdents", directory, cause))? {
            let entry = entry.map_err(|cause| self.error("getdents", directory, cause))?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                let name = PathBuf::from(OsStr::from_bytes(name));
                let is_directory = self.is_directory(entry.file_type(), &directory.join(&name));
                entries.push(Entry { name, is_directory });
            }
        }
        Ok(entries)
    }

    fn read(&self, path: &Path, limit: u64) -> Result<Vec<u8>, StoreError> {
        // NONBLOCK: a FIFO in the place of a file must not hold the start up.
        let file = File::from(self.open_at("open", path, OFlags::RDONLY | OFlags::NONBLOCK)?);
        let metadata = file.metadata().map_err(|cause| self.error("fstat", path, cause))?;
        if !metadata.is_file() {
            return Err(self.error("read", path, io::Error::other("not a regular file")));
        }
        if metadata.len() > limit {
            let cause = format!("{} bytes are more than the {limit} that any file has", metadata.len());
            return Err(self.error("read", path, io::Error::new(io::ErrorKind::FileTooLarge, cause)));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or_default());
        file.take(limit).read_to_end(&mut bytes).map_err(|cause| self.error("read", path, cause))?;
        Ok(bytes)
    }

    fn make_directory(&self, path: &Path) -> Result<bool, StoreError> {
        match rustix::fs::mkdirat(&self.root, path, Mode::RWXU) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::EXIST) => Ok(false),
            Err(cause) => Err(self.error("mkdir", path, cause)),
        }
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<Box<dyn WrittenFile>, StoreError> {
        let mut file = File::from(self.open_at("create", path, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC)?);
        file.write_all(bytes).map_err(|cause| self.error("write", path, cause))?;
        Ok(Box::new(RealFile { file, path: self.path.join(path) }))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result0 {
        rustix::fs::renameat_with(&self.root, from, &self.root, to, RenameFlags::empty())
            .map_err(|cause| self.error("rename", to, cause))
    }

    fn remove(&self, path: &Path) -> Result0 {
        match rustix::fs::unlinkat(&self.root, path, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(cause) => Err(self.error("unlink", path, cause)),
        }
    }

    fn remove_directory(&self, path: &Path) -> Result0 {
        rustix::fs::unlinkat(&self.root, path, AtFlags::REMOVEDIR).map_err(|cause| self.error("rmdir", path, cause))
    }

    fn sync_directory(&self, path: &Path) -> Result0 {
        let fd = self.open_at("open", path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        rustix::fs::fsync(fd).map_err(|cause| self.error("fsync", path, cause))
    }
}

#[derive(Debug)]
struct RealFile {
    file: File,
    path: PathBuf,
}

impl WrittenFile for RealFile {
    fn start(&self) {
        // Before it drops clean pages, this starts to write the dirty ones, and it doesn't wait (mm/fadvise.c).
        rustix::fs::fadvise(&self.file, 0, None, Advice::DontNeed).unwrap_or_default();
    }

    fn sync(&self) -> Result0 {
        self.file.sync_all().map_err(|cause| io_error("fsync", &self.path, cause))
    }
}
