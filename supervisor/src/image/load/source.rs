//! Where the bytes of an image come from.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};

use super::{LoadError, Progress, check_size, io_error};
use crate::image::archive::decompress;
use crate::image::digest::{Digest, HashingReader};
use crate::image::document::Blob;
use crate::image::limits::{MAX_MANIFEST_BYTES, MAX_MEMBERS};
use crate::image::store::{Work, open_directory};
use crate::image::tar::{Entry, Kind, Reader};

const PROGRESS_BYTES: u64 = 1 << 20;
const COPY_BYTES: usize = 128 << 10;
/// Documents that are kept in memory: everything else is a blob.
const DOCUMENTS: [&str; 3] = ["index.json", "manifest.json", "oci-layout"];

/// An image as a user gives it.
pub enum Source {
    /// An OCI layout.
    Directory(PathBuf),
    /// An archive, compressed or not.
    Stream(Box<dyn Read>),
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => f.debug_tuple("Directory").field(path).finish(),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}

impl Source {
    /// A file, a directory, or standard input for `-`.
    pub fn open(path: &Path) -> io::Result<Self> {
        if path == Path::new("-") {
            return Ok(Self::Stream(Box::new(io::stdin())));
        }
        if fs::metadata(path)?.is_dir() {
            return Ok(Self::Directory(path.to_owned()));
        }
        Ok(Self::Stream(Box::new(File::open(path)?)))
    }
}

/// The files of an image, at hand.
pub(super) enum Content {
    Directory { path: PathBuf, fd: OwnedFd },
    Spooled(Spool),
}

/// An archive's files in the work directory: a stream cannot be asked for what it had.
#[derive(Default)]
pub(super) struct Spool {
    directory: PathBuf,
    documents: HashMap<String, Vec<u8>>,
    files: HashMap<String, Blob>,
    links: HashMap<String, String>,
    by_digest: HashMap<Digest, PathBuf>,
}

impl Content {
    pub(super) fn read(source: Source, work: &Work<'_>, progress: &mut dyn FnMut(Progress)) -> Result<Self, LoadError> {
        match source {
            Source::Directory(path) => Ok(Self::Directory { fd: open_directory(&path)?, path }),
            Source::Stream(stream) => Spool::read(stream, work, progress).map(Self::Spooled),
        }
    }

    /// A document at the top, if it is there.
    pub(super) fn document(&self, name: &str) -> Result<Option<Vec<u8>>, LoadError> {
        match self {
            Self::Spooled(spool) => Ok(spool.documents.get(name).cloned()),
            Self::Directory { path, fd } => match open_beneath(fd, name) {
                Ok(file) => bounded(file, name, MAX_MANIFEST_BYTES).map(Some),
                Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(err) => Err(io_error("open", path.join(name))(err)),
            },
        }
    }

    /// Puts a verified blob into the work directory, under its digits.
    pub(super) fn fetch(&self, blob: &Blob, to: &Path, limit: u64) -> Result<(), LoadError> {
        let place = to.join(blob.digest.hex());
        let name = format!("blobs/sha256/{}", blob.digest.hex());
        match self {
            Self::Spooled(spool) => {
                let from = spool.by_digest.get(&blob.digest).ok_or(LoadError::Missing(name))?;
                check_size(blob, from)?;
                fs::hard_link(from, &place).map_err(io_error("link", place))
            }
            Self::Directory { path, fd } => {
                let file = match open_beneath(fd, &name) {
                    Err(err) if err.kind() == io::ErrorKind::NotFound => {
                        return Err(LoadError::Missing(name));
                    }
                    result => result.map_err(io_error("open", path.join(&name)))?,
                };
                let copied = copy_hashed(file, &place, &name, limit.min(blob.size), &mut |_| {})?;
                check(blob, &copied, &name)
            }
        }
    }

    /// A file of a docker archive, by the name that `manifest.json` gives it.
    pub(super) fn named(&self, name: &str) -> Result<Blob, LoadError> {
        match self {
            Self::Directory { .. } => Err(LoadError::NoImage),
            Self::Spooled(spool) => {
                let name = normal(name.as_bytes());
                // `docker save` writes a layer that two images share as a link.
                let target = spool.links.get(&name).unwrap_or(&name);
                spool.files.get(target).cloned().ok_or(LoadError::Missing(name))
            }
        }
    }
}

fn check(blob: &Blob, copied: &Blob, name: &str) -> Result<(), LoadError> {
    if copied.size != blob.size {
        return Err(LoadError::Size { name: name.to_owned(), wanted: blob.size, actual: copied.size });
    }
    if copied.digest != blob.digest {
        return Err(LoadError::Digest { name: name.to_owned(), actual: copied.digest.clone() });
    }
    Ok(())
}

impl Spool {
    fn read(stream: Box<dyn Read>, work: &Work<'_>, progress: &mut dyn FnMut(Progress)) -> Result<Self, LoadError> {
        let mut spool = Self { directory: work.path.clone(), ..Self::default() };
        let stream = decompress(stream).map_err(io_error("read", "archive"))?;
        let mut archive = Reader::new(stream);
        let mut read = 0;
        let mut tell = |bytes| progress(Progress::Read { bytes });
        let limit = work.store.limits().blob_bytes;
        while let Some(entry) = archive.next_entry()? {
            if archive.headers() > MAX_MEMBERS as u64 {
                return Err(LoadError::TooManyMembers);
            }
            read += spool.take(&entry, &mut archive, limit, &mut |bytes| tell(read + bytes))?;
        }
        Ok(spool)
    }

    fn take(
        &mut self,
        entry: &Entry,
        content: &mut impl Read,
        limit: u64,
        tell: &mut dyn FnMut(u64),
    ) -> Result<u64, LoadError> {
        let name = normal(&entry.path);
        match &entry.kind {
            Kind::File { size } => {
                if DOCUMENTS.contains(&name.as_str()) {
                    let bytes = bounded(content, &name, MAX_MANIFEST_BYTES)?;
                    return match self.documents.insert(name.clone(), bytes) {
                        None => Ok(*size),
                        Some(_) => Err(LoadError::Twice(name)),
                    };
                }
                self.take_file(name, content, limit, tell)?;
                Ok(*size)
            }
            Kind::Symlink { target } | Kind::HardLink { target } => {
                let target = match &entry.kind {
                    Kind::Symlink { .. } => beside(&name, target),
                    Kind::File { .. }
                    | Kind::Sparse { .. }
                    | Kind::HardLink { .. }
                    | Kind::Directory
                    | Kind::Device
                    | Kind::Fifo => normal(target),
                };
                self.links.insert(name, target);
                Ok(0)
            }
            Kind::Sparse { .. } | Kind::Directory | Kind::Device | Kind::Fifo => Ok(0),
        }
    }

    fn take_file(
        &mut self,
        name: String,
        content: &mut impl Read,
        limit: u64,
        tell: &mut dyn FnMut(u64),
    ) -> Result<(), LoadError> {
        let path = self.directory.join(format!("file-{}", self.files.len()));
        let blob = copy_hashed(content, &path, &name, limit, tell)?;
        if let Some(said) = name.strip_prefix("blobs/sha256/").filter(|said| *said != blob.digest.hex()) {
            return Err(LoadError::Digest { name: format!("blobs/sha256/{said}"), actual: blob.digest });
        }
        self.by_digest.entry(blob.digest.clone()).or_insert(path);
        match self.files.insert(name.clone(), blob) {
            None => Ok(()),
            Some(_) => Err(LoadError::Twice(name)),
        }
    }
}

/// Components without `.`, `..` and empty ones. Names here are keys of a map and never paths.
fn normal(name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name);
    let mut parts = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

fn beside(name: &str, target: &[u8]) -> String {
    let directory = name.rsplit_once('/').map_or("", |(directory, _)| directory);
    normal(&[directory.as_bytes(), b"/", target].concat())
}

fn open_beneath(dir: &OwnedFd, name: &str) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let fd = rustix::fs::openat2(dir, name, flags, Mode::empty(), resolve)?;
    let mode = rustix::fs::fstat(&fd)?.st_mode;
    if FileType::from_raw_mode(mode) != FileType::RegularFile {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok(fd.into())
}

fn bounded(from: impl Read, name: &str, limit: u64) -> Result<Vec<u8>, LoadError> {
    let mut bytes = Vec::new();
    from.take(limit + 1).read_to_end(&mut bytes).map_err(io_error("read", name))?;
    if bytes.len() as u64 > limit {
        return Err(LoadError::TooLarge { name: name.to_owned(), limit });
    }
    Ok(bytes)
}

/// Copies at most `limit` bytes and says what they were.
fn copy_hashed(
    from: impl Read,
    to: &Path,
    name: &str,
    limit: u64,
    tell: &mut dyn FnMut(u64),
) -> Result<Blob, LoadError> {
    let mut file = File::options().write(true).create_new(true).open(to).map_err(io_error("create", to))?;
    let mut reader = HashingReader::new(from.take(limit.saturating_add(1)));
    let mut buffer = vec![0; COPY_BYTES];
    let (mut size, mut told) = (0u64, 0u64);
    loop {
        let got = reader.read(&mut buffer).map_err(io_error("read", name))?;
        let piece = buffer.get(..got).unwrap_or_default();
        if piece.is_empty() {
            break;
        }
        file.write_all(piece).map_err(io_error("write", to))?;
        size += got as u64;
        if size - told >= PROGRESS_BYTES {
            told = size;
            tell(size);
        }
    }
    if size > limit {
        return Err(LoadError::TooLarge { name: name.to_owned(), limit });
    }
    let (digest, size) = reader.finish();
    Ok(Blob { digest, size })
}
