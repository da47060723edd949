//! Files of this machine as an archive.

use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use tar::{Builder, EntryType, Header};

/// Writes a file, or a directory with all that is in it, under another name. Links stay links.
pub(super) fn pack(from: &Path, name: &str, to: impl Write) -> io::Result<()> {
    let mut archive = Builder::new(to);
    // What a user names may be a link to it.
    add(&mut archive, from, Path::new(name), &fs::metadata(from)?)?;
    archive.finish()
}

fn add(archive: &mut Builder<impl Write>, from: &Path, name: &Path, metadata: &Metadata) -> io::Result<()> {
    let kind = metadata.file_type();
    if kind.is_dir() {
        let mut entries = fs::read_dir(from).map_err(named(from))?.collect::<io::Result<Vec<_>>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        if entries.is_empty() {
            return archive.append_data(&mut header(metadata, EntryType::Directory, 0), name, io::empty());
        }
        // With something in it, it is made where it isn't there, and left as it is where it is.
        return entries.iter().try_for_each(|entry| {
            let metadata = entry.metadata().map_err(named(&entry.path()))?;
            add(archive, &entry.path(), &name.join(entry.file_name()), &metadata)
        });
    }
    if kind.is_symlink() {
        let target = fs::read_link(from).map_err(named(from))?;
        return archive.append_link(&mut header(metadata, EntryType::Symlink, 0), name, target);
    }
    if kind.is_file() {
        let file = File::open(from).map_err(named(from))?;
        // What it grows by meanwhile is not in the archive; what it shrinks by is an error.
        let size = metadata.len();
        let mut header = header(metadata, EntryType::Regular, size);
        return archive.append_data(&mut header, name, io::Read::take(file, size)).map_err(named(from));
    }
    eprintln!("warning: skipping {:?}, which is no file, directory or link", from.display().to_string());
    Ok(())
}

fn header(metadata: &Metadata, kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(metadata.mode() & 0o7777);
    header.set_uid(metadata.uid().into());
    header.set_gid(metadata.gid().into());
    header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or(0));
    header
}

fn named(path: &Path) -> impl Fn(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("read {}: {error}", path.display()))
}
