//! Reads tar archives: old, ustar, GNU and PAX headers, from a stream, in bounded memory.
//!
//! Two readers that disagree about one archive are how a scanner sees another image than the node runs (P15). So
//! whatever is read differently by the tar programs in use is refused here, and nothing is guessed. The layout of a header is the
//! `tar` crate's; its iterator is not used: it reads extension headers of any size, and loses PAX records with line ends.

use std::io::{self, Read};

use ::tar::{GnuExtSparseHeader, GnuSparseHeader, Header};

use super::limits::{MAX_PATH_BYTES, MAX_PATH_COMPONENTS, MAX_PAX_BYTES};
use super::pax::{self, BadPax};

const BLOCK: u64 = 512;
const BLOCK_BYTES: usize = 512;
/// Extents of one sparse file: 21 per block, 64 KiB of them.
const MAX_EXTENTS: usize = 65_536;
const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";

/// One file of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// As it stands in the archive.
    pub path: Vec<u8>,
    pub kind: Kind,
    /// Permission bits with set-uid, set-gid and sticky.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds since 1970 and nanoseconds.
    pub mtime: (i64, u32),
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    File {
        size: u64,
    },
    /// `size` is the file's; the archive holds the extents' bytes one after the other.
    Sparse {
        size: u64,
        extents: Vec<Extent>,
    },
    HardLink {
        target: Vec<u8>,
    },
    Symlink {
        target: Vec<u8>,
    },
    Directory,
    Device,
    Fifo,
}

/// A part of a sparse file that holds data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub offset: u64,
    pub length: u64,
}

/// Where and why an archive is refused.
#[derive(Debug, thiserror::Error)]
#[error("tar archive, byte {at}: {cause}")]
pub struct TarError {
    /// Bytes from the start of the uncompressed archive.
    pub at: u64,
    #[source]
    pub cause: Cause,
}

#[derive(Debug, thiserror::Error)]
pub enum Cause {
    #[error("read: {0}")]
    Read(#[from] io::Error),
    #[error("the archive ends inside an entry")]
    Truncated,
    #[error("header checksum does not match")]
    Checksum,
    #[error("the end mark is followed by another entry")]
    AfterEnd,
    #[error("{0} is not a number in range")]
    Number(&'static str),
    #[error("entry type {:?} is unknown", char::from(*.0))]
    UnknownType(u8),
    #[error("{0}")]
    Pax(#[from] BadPax),
    #[error("an extension header is {0} bytes long, the limit is {MAX_PAX_BYTES}")]
    ExtensionTooLarge(u64),
    #[error("two extension headers of one kind describe one entry")]
    TwoExtensions,
    #[error("extension headers describe no entry")]
    NoEntry,
    #[error("the name stands in a GNU and in a PAX header, and they differ")]
    TwoNames,
    #[error("a global PAX header changes {0}, which tar programs do not agree upon")]
    GlobalHeader(String),
    #[error("an entry without content has a size")]
    SizeWithoutContent,
    #[error("PAX sparse files are not supported; make the archive with --format=gnu")]
    PaxSparse,
    #[error("the map of a sparse file is not in order or does not fit its sizes")]
    SparseMap,
    #[error("a name is empty or holds a NUL")]
    Name,
    #[error("a name is longer than {MAX_PATH_BYTES} bytes or {MAX_PATH_COMPONENTS} components")]
    NameTooLong,
    #[error("the header mixes GNU and POSIX fields")]
    MixedHeader,
}

/// What extension headers say about the next entry.
#[derive(Debug, Default)]
struct Extensions {
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    pax: Option<Vec<u8>>,
}

impl Extensions {
    fn is_empty(&self) -> bool {
        self.long_name.is_none() && self.long_link.is_none() && self.pax.is_none()
    }
}

/// What PAX records say, the last of each key.
#[derive(Debug, Default)]
struct PaxFields {
    path: Option<Vec<u8>>,
    link_path: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A tar archive read entry by entry; between two calls of [`next_entry`](Self::next_entry), `Read` gives the entry's bytes.
#[derive(Debug)]
pub struct Reader<R> {
    inner: R,
    position: u64,
    /// Content of the current entry that nobody has read yet.
    content: u64,
    /// Bytes from the end of the content to the next header.
    padding: u64,
    ended: bool,
    /// Headers of all kinds so far.
    headers: u64,
}

impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.content).unwrap_or(usize::MAX).min(buf.len());
        let n = self.inner.read(buf.get_mut(..most).unwrap_or_default())?;
        if n == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.content -= n as u64;
        self.position += n as u64;
        Ok(n)
    }
}

impl<R: Read> Reader<R> {
    pub fn new(inner: R) -> Self {
        Self { inner, position: 0, content: 0, padding: 0, ended: false, headers: 0 }
    }

    /// The stream behind the archive, for what follows the end mark.
    pub fn into_inner(self) -> R {
        self.inner
    }

    /// Headers read so far, extension headers included: each costs time, so the caller limits them.
    pub fn headers(&self) -> u64 {
        self.headers
    }

    /// The next file, or nothing at the end. Unread content of the last one is skipped.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        self.try_next().map_err(|cause| TarError { at: self.position, cause })
    }

    fn try_next(&mut self) -> Result<Option<Entry>, Cause> {
        let mut extensions = Extensions::default();
        while let Some(header) = self.next_header()? {
            let kind = type_flag(&header);
            let slot = match kind {
                b'L' => &mut extensions.long_name,
                b'K' => &mut extensions.long_link,
                b'x' => &mut extensions.pax,
                b'g' => {
                    let bytes = self.extension(&header)?;
                    check_global(&bytes)?;
                    continue;
                }
                _ => return self.entry(&header, extensions).map(Some),
            };
            if slot.replace(self.extension(&header)?).is_some() {
                return Err(Cause::TwoExtensions);
            }
        }
        if extensions.is_empty() { Ok(None) } else { Err(Cause::NoEntry) }
    }

    fn next_header(&mut self) -> Result<Option<Header>, Cause> {
        if self.ended {
            return Ok(None);
        }
        self.skip_content()?;
        match self.block()? {
            None => self.ended = true,
            Some(block) if is_zero(&block) => {
                self.ended = true;
                if self.block()?.is_some_and(|second| !is_zero(&second)) {
                    return Err(Cause::AfterEnd);
                }
            }
            Some(block) => {
                self.headers += 1;
                let header = Header::from_byte_slice(&block).clone();
                check_sum(&header)?;
                return Ok(Some(header));
            }
        }
        Ok(None)
    }

    fn skip_content(&mut self) -> Result<(), Cause> {
        let skip = self.content.checked_add(self.padding).ok_or(Cause::Number("size"))?;
        self.content = skip;
        self.padding = 0;
        let skipped = io::copy(self, &mut io::sink());
        match skipped {
            Ok(_) => Ok(()),
            Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => Err(Cause::Truncated),
            Err(err) => Err(Cause::Read(err)),
        }
    }

    /// A whole block, or nothing at the end of the stream.
    fn block(&mut self) -> Result<Option<[u8; BLOCK_BYTES]>, Cause> {
        let mut block = [0; BLOCK_BYTES];
        let mut have = 0;
        while let Some(rest) = block.get_mut(have..).filter(|rest| !rest.is_empty()) {
            match self.inner.read(rest) {
                Ok(0) if have == 0 => return Ok(None),
                Ok(0) => return Err(Cause::Truncated),
                Ok(n) => have += n,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(Cause::Read(err)),
            }
        }
        self.position += BLOCK;
        Ok(Some(block))
    }

    fn set_content(&mut self, size: u64) -> Result<(), Cause> {
        let whole = size.checked_next_multiple_of(BLOCK).ok_or(Cause::Number("size"))?;
        self.content = size;
        self.padding = whole - size;
        Ok(())
    }

    fn extension(&mut self, header: &Header) -> Result<Vec<u8>, Cause> {
        let size = unsigned(&header.as_old().size, "size")?;
        if size > MAX_PAX_BYTES {
            return Err(Cause::ExtensionTooLarge(size));
        }
        self.set_content(size)?;
        let mut bytes = Vec::new();
        match self.take(size).read_to_end(&mut bytes) {
            Ok(_) => Ok(bytes),
            Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => Err(Cause::Truncated),
            Err(err) => Err(Cause::Read(err)),
        }
    }

    fn entry(&mut self, header: &Header, extensions: Extensions) -> Result<Entry, Cause> {
        let old = header.as_old();
        let records = extensions.pax.unwrap_or_default();
        let pax = pax_fields(&records)?;
        let path = one_name(extensions.long_name, pax.path, header_path(header)?)?;
        let link = one_name(extensions.long_link, pax.link_path, until_nul(&old.linkname).to_vec())?;
        let size = match pax.size {
            Some(size) => size,
            None => unsigned(&old.size, "size")?,
        };
        let kind = self.kind(header, &path, link, size)?;
        check_name(&path)?;
        Ok(Entry {
            path,
            kind,
            mode: narrow(unsigned(&old.mode, "mode")?, "mode")? & 0o7777,
            uid: id(pax.uid, &old.uid, "uid")?,
            gid: id(pax.gid, &old.gid, "gid")?,
            mtime: match pax.mtime {
                Some(time) => time,
                None => (number(&old.mtime, "mtime")?, 0),
            },
            xattrs: pax.xattrs,
        })
    }

    fn kind(&mut self, header: &Header, path: &[u8], link: Vec<u8>, size: u64) -> Result<Kind, Cause> {
        let kind = match type_flag(header) {
            // A regular file whose name ends in a slash is how old programs wrote directories.
            0 | b'0' if path.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' => Kind::File { size },
            b'1' => Kind::HardLink { target: checked_name(link)? },
            b'2' => Kind::Symlink { target: checked_name(link)? },
            b'3' | b'4' => Kind::Device,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            b'S' => return self.sparse(header, size),
            unknown => return Err(Cause::UnknownType(unknown)),
        };
        match kind {
            Kind::File { size } | Kind::Sparse { size, .. } => self.set_content(size)?,
            Kind::HardLink { .. } | Kind::Symlink { .. } | Kind::Directory | Kind::Device | Kind::Fifo => {
                if size != 0 {
                    return Err(Cause::SizeWithoutContent);
                }
            }
        }
        Ok(kind)
    }

    /// Reads the map of an old GNU sparse file, whose later parts follow the header.
    fn sparse(&mut self, header: &Header, stored: u64) -> Result<Kind, Cause> {
        let gnu = header.as_gnu().ok_or(Cause::SparseMap)?;
        let mut extents = Vec::new();
        add_extents(&mut extents, &gnu.sparse)?;
        let mut more = gnu.is_extended();
        while more {
            let mut next = GnuExtSparseHeader::new();
            *next.as_mut_bytes() = self.block()?.ok_or(Cause::Truncated)?;
            add_extents(&mut extents, next.sparse())?;
            more = next.is_extended();
        }
        let size = unsigned(&gnu.realsize, "size")?;
        check_extents(&extents, size, stored)?;
        self.set_content(stored)?;
        Ok(Kind::Sparse { size, extents })
    }
}

fn add_extents(extents: &mut Vec<Extent>, entries: &[GnuSparseHeader]) -> Result<(), Cause> {
    for entry in entries.iter().filter(|entry| entry.offset.iter().any(|b| *b != 0)) {
        if extents.len() == MAX_EXTENTS {
            return Err(Cause::SparseMap);
        }
        extents
            .push(Extent { offset: unsigned(&entry.offset, "offset")?, length: unsigned(&entry.numbytes, "length")? });
    }
    Ok(())
}

fn check_extents(extents: &[Extent], size: u64, stored: u64) -> Result<(), Cause> {
    let mut end = 0u64;
    let mut total = 0u64;
    for extent in extents {
        if extent.offset < end {
            return Err(Cause::SparseMap);
        }
        end = extent.offset.checked_add(extent.length).ok_or(Cause::SparseMap)?;
        total = total.checked_add(extent.length).ok_or(Cause::SparseMap)?;
    }
    if end > size || total != stored {
        return Err(Cause::SparseMap);
    }
    Ok(())
}

fn type_flag(header: &Header) -> u8 {
    header.as_old().linkflag[0]
}

fn is_zero(block: &[u8]) -> bool {
    block.iter().all(|b| *b == 0)
}

/// The sum of all bytes with the field itself as spaces; old programs added signed bytes.
fn check_sum(header: &Header) -> Result<(), Cause> {
    let want = unsigned(&header.as_old().cksum, "checksum")?;
    let field = 148..156;
    let bytes = header.as_bytes().iter().enumerate();
    let (mut plain, mut signed) = (0i64, 0i64);
    for (i, byte) in bytes {
        let byte = if field.contains(&i) { b' ' } else { *byte };
        plain += i64::from(byte);
        signed += i64::from(byte.cast_signed());
    }
    if [plain, signed].iter().any(|sum| u64::try_from(*sum) == Ok(want)) { Ok(()) } else { Err(Cause::Checksum) }
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or_default()
}

fn header_path(header: &Header) -> Result<Vec<u8>, Cause> {
    let name = until_nul(&header.as_old().name);
    if let Some(gnu) = header.as_gnu() {
        // GNU keeps two times where POSIX keeps the prefix of the name: a name there is read by some programs only.
        number(&gnu.atime, "atime").map_err(|_| Cause::MixedHeader)?;
        number(&gnu.ctime, "ctime").map_err(|_| Cause::MixedHeader)?;
        return Ok(name.to_vec());
    }
    let prefix = header.as_ustar().map_or(&[][..], |ustar| until_nul(&ustar.prefix));
    if prefix.is_empty() {
        return Ok(name.to_vec());
    }
    Ok([prefix, b"/", name].concat())
}

fn one_name(gnu: Option<Vec<u8>>, pax: Option<Vec<u8>>, header: Vec<u8>) -> Result<Vec<u8>, Cause> {
    let gnu = gnu.map(|name| until_nul(&name).to_vec());
    match (gnu, pax) {
        (Some(gnu), Some(pax)) if gnu != pax => Err(Cause::TwoNames),
        (Some(name), _) | (None, Some(name)) => Ok(name),
        (None, None) => Ok(header),
    }
}

fn check_name(name: &[u8]) -> Result<(), Cause> {
    if name.is_empty() || name.contains(&0) {
        return Err(Cause::Name);
    }
    let components = name.split(|b| *b == b'/').filter(|part| !part.is_empty());
    if name.len() > MAX_PATH_BYTES || components.count() > MAX_PATH_COMPONENTS {
        return Err(Cause::NameTooLong);
    }
    Ok(())
}

fn checked_name(name: Vec<u8>) -> Result<Vec<u8>, Cause> {
    check_name(&name).map(|()| name)
}

fn pax_fields(records: &[u8]) -> Result<PaxFields, Cause> {
    let mut fields = PaxFields::default();
    for (key, value) in pax::records(records)? {
        let given = (!value.is_empty()).then_some(value);
        match key {
            b"path" => fields.path = given.map(<[u8]>::to_vec),
            b"linkpath" => fields.link_path = given.map(<[u8]>::to_vec),
            b"size" => fields.size = given.map(pax::decimal).transpose()?,
            b"uid" => fields.uid = given.map(pax::decimal).transpose()?,
            b"gid" => fields.gid = given.map(pax::decimal).transpose()?,
            b"mtime" => fields.mtime = given.map(pax::time).transpose()?,
            _ if key.starts_with(b"GNU.sparse.") => return Err(Cause::PaxSparse),
            _ => {
                if let Some(name) = key.strip_prefix(XATTR_PREFIX) {
                    fields.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
    }
    Ok(fields)
}

fn check_global(records: &[u8]) -> Result<(), Cause> {
    for (key, _) in pax::records(records)? {
        let harmless = key == b"comment" || key == b"charset" || key == b"hdrcharset";
        if !harmless {
            let key = key.escape_ascii().to_string();
            return Err(Cause::GlobalHeader(key.chars().take(100).collect()));
        }
    }
    Ok(())
}

fn id(pax: Option<u64>, field: &[u8], what: &'static str) -> Result<u32, Cause> {
    let wide = match pax {
        Some(id) => id,
        None => unsigned(field, what)?,
    };
    // -1 means "unchanged" to chown(2).
    narrow(wide, what).and_then(|id| if id == u32::MAX { Err(Cause::Number(what)) } else { Ok(id) })
}

fn narrow(wide: u64, what: &'static str) -> Result<u32, Cause> {
    u32::try_from(wide).map_err(|_| Cause::Number(what))
}

fn unsigned(field: &[u8], what: &'static str) -> Result<u64, Cause> {
    u64::try_from(number(field, what)?).map_err(|_| Cause::Number(what))
}

/// Octal digits between spaces and NULs, or a big-endian binary number marked by the highest bit.
fn number(field: &[u8], what: &'static str) -> Result<i64, Cause> {
    let bad = || Cause::Number(what);
    if field.first().is_some_and(|first| first & 0x80 != 0) {
        return binary(field).ok_or_else(bad);
    }
    let is_blank = |b: &u8| *b == b' ' || *b == 0;
    let start = field.iter().position(|b| !is_blank(b)).unwrap_or(field.len());
    let end = field.iter().rposition(|b| !is_blank(b)).map_or(start, |last| last + 1);
    let digits = field.get(start..end).unwrap_or_default();
    digits.iter().try_fold(0i64, |number, digit| {
        let digit = digit.checked_sub(b'0').filter(|d| *d < 8).ok_or_else(bad)?;
        number.checked_mul(8).map(|n| n + i64::from(digit)).ok_or_else(bad)
    })
}

fn binary(field: &[u8]) -> Option<i64> {
    let (first, rest) = field.split_first()?;
    let negative = first & 0x40 != 0;
    let start = if negative { i128::from(first | 0x80) - 256 } else { i128::from(first & 0x7f) };
    let number = rest.iter().try_fold(start, |number, byte| number.checked_mul(256)?.checked_add(i128::from(*byte)))?;
    i64::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(flag: u8, name: &str, size: u64) -> Header {
        let mut header = Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(size);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.as_old_mut().linkflag = [flag];
        header.set_cksum();
        header
    }

    fn archive(parts: &[(Header, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (header, content) in parts {
            bytes.extend_from_slice(header.as_bytes());
            bytes.extend_from_slice(content);
            bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
        }
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }

    fn read_all(bytes: &[u8]) -> Result<Vec<Entry>, String> {
        let mut reader = Reader::new(bytes);
        let mut entries = Vec::new();
        while let Some(entry) = reader.next_entry().map_err(|err| err.to_string())? {
            entries.push(entry);
        }
        Ok(entries)
    }

    fn names(bytes: &[u8]) -> Vec<String> {
        let entries = read_all(bytes).unwrap();
        entries.iter().map(|e| String::from_utf8(e.path.clone()).unwrap()).collect()
    }

    // P15, CVE-2025-62518: the header says 0 and hides an archive inside the content.
    #[test]
    fn the_size_of_a_pax_header_wins() {
        let hidden = header(b'0', "hidden", 0);
        let bytes = archive(&[
            (header(b'x', "pax", 12), b"12 size=512\n"),
            (header(b'0', "outer", 0), hidden.as_bytes()),
            (header(b'0', "next", 0), b""),
        ]);
        assert_eq!(names(&bytes), ["outer", "next"]);
    }

    #[test]
    fn a_pax_size_does_not_touch_extension_headers_in_between() {
        let bytes = archive(&[
            (header(b'x', "pax", 12), b"12 size=512\n"),
            (header(b'L', "long", 5), b"name\0"),
            (header(b'0', "x", 0), &[0; 512]),
            (header(b'0', "next", 0), b""),
        ]);
        assert_eq!(names(&bytes), ["name", "next"]);
    }

    #[test]
    fn a_binary_xattr_with_line_ends_arrives_whole() {
        let value = b"\x01\n\n=\0";
        let mut record = b"37 SCHILY.xattr.security.capability=".to_vec();
        record.extend_from_slice(value);
        record.push(b'\n');
        let length = record.len();
        record.splice(0..2, length.to_string().into_bytes());
        let bytes = archive(&[(header(b'x', "pax", record.len() as u64), &record), (header(b'0', "f", 0), b"")]);
        let entries = read_all(&bytes).unwrap();
        assert_eq!(entries[0].xattrs, [(b"security.capability".to_vec(), value.to_vec())]);
    }

    #[test]
    fn what_tar_programs_read_differently_is_refused() {
        let mut mixed = Header::new_gnu();
        mixed.as_old_mut().name[0] = b'x';
        mixed.as_gnu_mut().unwrap().atime[..4].copy_from_slice(b"evil");
        mixed.set_size(0);
        mixed.set_cksum();
        let mut bad_sum = header(b'0', "x", 0);
        bad_sum.as_old_mut().name[0] = b'y';
        for (parts, want) in [
            (vec![(header(b'5', "d", 512), &[0u8; 512][..])], "without content has a size"),
            (vec![(header(b'Z', "z", 0), b"")], "entry type 'Z' is unknown"),
            (vec![(header(b'x', "p", 4), b"abc\n"), (header(b'0', "x", 0), b"")], "PAX record's length"),
            (vec![(header(b'g', "p", 12), b"12 size=512\n")], "global PAX header changes size"),
            (vec![(header(b'x', "p", 6), b"6 a=b\n")], "describe no entry"),
            (vec![(header(b'L', "l", 2), b"a\0"), (header(b'L', "l", 2), b"b\0")], "two extension headers"),
            (
                vec![
                    (header(b'L', "l", 2), b"a\0"),
                    (header(b'x', "p", 9), b"9 path=b\n"),
                    (header(b'0', "x", 0), b""),
                ],
                "they differ",
            ),
            (vec![(header(b'x', "p", 2 << 20), b"")], "the limit is 1048576"),
            (vec![(header(b'0', "x", 4096), b"short")], "ends inside an entry"),
            (vec![(mixed, b"")], "mixes GNU and POSIX"),
            (vec![(bad_sum, b"")], "checksum"),
            (vec![(header(b'0', "", 0), b"")], "a name is empty"),
            (vec![(header(b'x', "p", 13), b"13 path=a\0bc\n"), (header(b'0', "x", 0), b"")], "holds a NUL"),
        ] {
            let err = read_all(&archive(&parts)).unwrap_err();
            assert!(err.contains(want), "want {want:?}, got {err:?}");
        }
    }

    #[test]
    fn numbers_are_octal_or_binary_and_nothing_else() {
        for (field, want) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0", Some(0)),
            (b"\x80\0\0\x01", Some(1)),
            (b"\xff\xff\xff\xfe", Some(-2)),
            (b"+644", None),
            (b"-1", None),
            (b"0x1f", None),
            (b"12 34", None),
            (b"888", None),
            (b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
            (b"7777777777777777777777777", None),
        ] {
            assert_eq!(number(field, "x").ok(), want, "{}", field.escape_ascii());
        }
    }

    // D28
    #[test]
    fn long_and_deep_names_are_refused() {
        for (name, ok) in
            [("a/".repeat(256), true), ("a/".repeat(257), false), ("a".repeat(4096), true), ("a".repeat(4097), false)]
        {
            assert_eq!(check_name(name.as_bytes()).is_ok(), ok, "{}", name.len());
        }
    }
}
