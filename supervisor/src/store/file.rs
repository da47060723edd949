//! What an object is called on the disk, and what its file says.
//!
//! ```text
//! objects/RESOURCE/NAMESPACE/NAME.json    as it is on the disk for certain
//! objects/RESOURCE/NAMESPACE/NAME.late0   a newer state that only the kernel has for certain; .late1 in turn with it
//! objects/RESOURCE/NAMESPACE/.FILE.tmp    not finished
//! ```
//!
//! A file has two lines of ours before the JSON: what it is, with schema, length and checksum of the rest; and the key.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Key, Object, Version};
use crate::image::digest::Digest;

pub(super) const OBJECTS: &str = "objects";
pub(super) const QUARANTINE: &str = "quarantine";
pub(super) const VERSION: &str = "version";
pub(super) const LOCK: &str = "lock";

/// What this program writes, and the newest that it reads.
const SCHEMA: u32 = 1;
/// A name whose escaped form is longer is cut and gets its checksum: NAME_MAX is 255, and affixes need room.
const STEM_BYTES: usize = 200;
/// How much of a long name stays readable.
const STEM_HEAD_BYTES: usize = 120;
/// Stands for nothing, and before the checksum of a long name; never the result of escaping.
const MARK: &str = "~";
const TEMPORARY: &str = ".tmp";

/// One of the files that an object may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Main,
    Late0,
    Late1,
}

impl Place {
    pub(super) const ALL: [Self; 3] = [Self::Main, Self::Late0, Self::Late1];

    fn suffix(self) -> &'static str {
        match self {
            Self::Main => ".json",
            Self::Late0 => ".late0",
            Self::Late1 => ".late1",
        }
    }
}

pub(super) fn directory(key: &Key) -> PathBuf {
    Path::new(OBJECTS).join(escape(&key.resource)).join(escape(&key.namespace))
}

pub(super) fn path(key: &Key, place: Place) -> PathBuf {
    directory(key).join(escape(&key.name) + place.suffix())
}

/// Where the next content of a file is made.
pub(super) fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}{TEMPORARY}"))
}

/// What a file in an object directory is, by its name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Name<'a> {
    Object {
        stem: &'a str,
        place: Place,
    },
    /// Of the object with this stem.
    Temporary(&'a str),
    Foreign,
}

pub(super) fn classify(name: &str) -> Name<'_> {
    let of = |name| Place::ALL.iter().find_map(|place| Some((str::strip_suffix(name, place.suffix())?, *place)));
    if let Some(inner) = name.strip_prefix('.') {
        let inner = inner.strip_suffix(TEMPORARY).and_then(of);
        return inner.map_or(Name::Foreign, |(stem, _)| Name::Temporary(stem));
    }
    of(name).map_or(Name::Foreign, |(stem, place)| Name::Object { stem, place })
}

/// The key that a path stands for, as far as it can be read back.
pub(super) fn key_of(path: &Path) -> Option<Key> {
    let mut parts = path.strip_prefix(OBJECTS).ok()?.iter().map(|part| part.to_str());
    let (resource, namespace, name) = (parts.next()??, parts.next()??, parts.next()??);
    let stem = match classify(name) {
        Name::Object { stem, .. } | Name::Temporary(stem) => stem,
        Name::Foreign => return None,
    };
    Some(Key::new(&unescape(resource)?, &unescape(namespace)?, &unescape(stem)?))
}

/// Letters, digits, `-`, `_` and inner dots stand for themselves, so that a leading dot is always ours.
fn escape(text: &str) -> String {
    if text.is_empty() {
        return MARK.to_owned();
    }
    let mut escaped = String::with_capacity(text.len());
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => escaped.push(char::from(byte)),
            b'.' if index > 0 => escaped.push('.'),
            other => escaped.push_str(&format!("%{other:02X}")),
        }
    }
    if escaped.len() <= STEM_BYTES {
        return escaped;
    }
    escaped.truncate(STEM_HEAD_BYTES);
    escaped + MARK + Digest::of(text.as_bytes()).hex()
}

fn unescape(text: &str) -> Option<String> {
    if text == MARK {
        return Some(String::new());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut parts = text.split('%');
    bytes.extend(parts.next()?.bytes());
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend(rest.bytes());
    }
    (!text.contains(MARK)).then(|| String::from_utf8(bytes).ok())?
}

/// Why a file is not what it should be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadFile {
    #[error("empty")]
    Empty,
    #[error("not a file of the store")]
    Foreign,
    #[error("schema {found} is newer than {SCHEMA}, the newest that this monopod reads")]
    Newer { found: u32 },
    #[error("schema {found} is unknown")]
    UnknownSchema { found: u32 },
    #[error("truncated: {found} of {expected} bytes")]
    Truncated { found: usize, expected: usize },
    #[error("{found} bytes where {expected} were written")]
    TooLong { found: usize, expected: usize },
    #[error("wrong checksum")]
    Checksum,
    #[error("header: {0}")]
    Header(String),
    #[error("it is the file of {0}")]
    OtherKey(Key),
}

#[derive(Serialize, Deserialize)]
struct ObjectHeader {
    resource: String,
    namespace: String,
    name: String,
    version: u64,
    #[serde(default)]
    over_main: bool,
}

#[derive(Serialize, Deserialize)]
struct VersionHeader {
    reserved: u64,
}

/// A late file says whether there is a main file, too: where that is missing then, it was lost or its removal not finished, and
/// the object has to be brought to the disk again.
pub(super) fn encode_object(object: &Object, over_main: bool) -> Vec<u8> {
    let mut header = serde_json::json!({
        "resource": &*object.key.resource,
        "namespace": &*object.key.namespace,
        "name": &*object.key.name,
        "version": object.version.0,
    });
    if over_main {
        header["over_main"] = Value::Bool(true);
    }
    encode("object", &header, &object.text)
}

/// The object in a file that was found at a path, and whether it has a main file beside it.
pub(super) fn decode_object(path: &Path, bytes: &[u8]) -> Result<(Object, bool), BadFile> {
    let (header, text): (ObjectHeader, _) = decode("object", bytes)?;
    let key = Key::new(&header.resource, &header.namespace, &header.name);
    if !Place::ALL.iter().any(|place| self::path(&key, *place) == path) {
        return Err(BadFile::OtherKey(key));
    }
    Ok((Object { key, version: Version(header.version), text: text.into() }, header.over_main))
}

/// The highest version that may have been handed out.
pub(super) fn encode_version(reserved: Version) -> Vec<u8> {
    encode("versions", &serde_json::json!({ "reserved": reserved.0 }), "")
}

pub(super) fn decode_version(bytes: &[u8]) -> Result<Version, BadFile> {
    let (header, _): (VersionHeader, _) = decode("versions", bytes)?;
    Ok(Version(header.reserved))
}

fn encode(kind: &str, header: &Value, text: &str) -> Vec<u8> {
    let rest = format!("{header}\n{text}\n");
    let digest = Digest::of(rest.as_bytes());
    format!("{}\n{rest}", first_line_of(kind, rest.len(), &digest.to_string())).into_bytes()
}

fn first_line_of(kind: &str, length: usize, digest: &str) -> String {
    format!("monopod {kind} {SCHEMA} {length} {digest}")
}

fn decode<'a, H: Deserialize<'a>>(kind: &str, bytes: &'a [u8]) -> Result<(H, &'a str), BadFile> {
    if bytes.is_empty() {
        return Err(BadFile::Empty);
    }
    let end = bytes.iter().position(|byte| *byte == b'\n').ok_or(BadFile::Foreign)?;
    let (first, rest) = bytes.split_at(end);
    let rest = rest.get(1..).unwrap_or_default();
    let (length, digest) = read_first_line(kind, first)?;
    match rest.len() {
        found if found < length => return Err(BadFile::Truncated { found, expected: length }),
        found if found > length => return Err(BadFile::TooLong { found, expected: length }),
        _ => {}
    }
    if Digest::of(rest).to_string() != digest {
        return Err(BadFile::Checksum);
    }
    let rest = std::str::from_utf8(rest).map_err(|cause| BadFile::Header(cause.to_string()))?;
    let (header, text) = rest.split_once('\n').ok_or(BadFile::Foreign)?;
    let header = serde_json::from_str(header).map_err(|cause| BadFile::Header(cause.to_string()))?;
    Ok((header, text.strip_suffix('\n').unwrap_or(text)))
}

fn read_first_line<'a>(kind: &str, line: &'a [u8]) -> Result<(usize, &'a str), BadFile> {
    let line = std::str::from_utf8(line).map_err(|_| BadFile::Foreign)?;
    let mut words = line.strip_prefix("monopod ").unwrap_or_default().split(' ');
    if words.next() != Some(kind) {
        return Err(BadFile::Foreign);
    }
    match words.next().and_then(|word| word.parse::<u32>().ok()).ok_or(BadFile::Foreign)? {
        SCHEMA => {}
        newer if newer > SCHEMA => return Err(BadFile::Newer { found: newer }),
        found => return Err(BadFile::UnknownSchema { found }),
    }
    let length = words.next().and_then(|word| word.parse().ok()).ok_or(BadFile::Foreign)?;
    let digest = words.next().ok_or(BadFile::Foreign)?;
    // Numbers have other spellings, which no file of ours has.
    if line != first_line_of(kind, length, digest) {
        return Err(BadFile::Foreign);
    }
    Ok((length, digest))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn object(name: &str) -> Object {
        Object::new(Key::new("pods", "default", name), Version(9), serde_json::json!({"metadata": {"name": name}}))
    }

    #[test]
    fn every_name_has_a_file_of_its_own_and_can_be_read_back() {
        let long = "x".repeat(253);
        let other = format!("{}y", "x".repeat(252));
        let names = [
            "web",
            "web.json",
            "web.late0",
            "web.late",
            ".web",
            ".web.json.tmp",
            ".",
            "..",
            "",
            "~",
            "%",
            "%7E",
            "a/b",
            "a%2Fb",
            "system:node",
            "Web",
            "web~",
            "ü",
            "a\nb",
            &long,
            &other,
            "a b",
            "a\0b",
        ];
        let mut paths = BTreeSet::new();
        for name in names {
            let key = Key::new("leases.coordination.k8s.io", "", name);
            for place in Place::ALL {
                let path = path(&key, place);
                let temporary = temporary(&path);
                assert_eq!(path.parent(), Some(directory(&key).as_path()), "{name:?}");
                assert_eq!(directory(&key), Path::new("objects/leases.coordination.k8s.io/~"));
                for path in [path, temporary] {
                    let file = path.file_name().unwrap().to_str().unwrap().to_owned();
                    assert!(file.len() <= 255 && !file.contains(['/', '\0']), "{file}");
                    let expected = (name.len() < STEM_BYTES).then(|| key.clone());
                    assert_eq!(key_of(&path), expected, "{file}");
                    assert!(paths.insert(path), "{file} twice");
                }
            }
        }
    }

    #[test]
    fn a_file_says_what_it_is() {
        let text = String::from_utf8(encode_object(&object("web"), false)).unwrap();
        let mut lines = text.lines();
        assert!(lines.next().unwrap().starts_with("monopod object 1 117 sha256:"), "{text}");
        assert_eq!(lines.next(), Some(r#"{"name":"web","namespace":"default","resource":"pods","version":9}"#));
        assert_eq!(lines.next(), Some(r#"{"metadata":{"name":"web","resourceVersion":"9"}}"#));
        assert_eq!(lines.next(), None);
    }

    #[test]
    fn what_was_written_is_read() {
        let object = object("web");
        let path = path(&object.key, Place::Late1);
        for over_main in [false, true] {
            let (read, over) = decode_object(&path, &encode_object(&object, over_main)).unwrap();
            assert_eq!((&read.key, read.version, &read.text), (&object.key, object.version, &object.text));
            assert_eq!(over, over_main);
        }
        assert_eq!(decode_version(&encode_version(Version(77))), Ok(Version(77)));
        assert_eq!(decode_version(&encode_object(&self::object("web"), false)), Err(BadFile::Foreign));
    }

    #[test]
    fn no_damage_goes_unnoticed() {
        let object = object("web");
        let path = path(&object.key, Place::Main);
        let whole = encode_object(&object, false);
        for length in 0..whole.len() {
            assert!(decode_object(&path, &whole[..length]).is_err(), "cut to {length}");
        }
        for position in 0..whole.len() {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[position] ^= 1 << bit;
                assert!(decode_object(&path, &bytes).is_err(), "bit {bit} of byte {position}");
            }
        }
        let cause = |bytes: &[u8]| decode_object(&path, bytes).unwrap_err().to_string();
        let text = String::from_utf8(whole.clone()).unwrap();
        assert_eq!(cause(b""), "empty");
        assert_eq!(cause(&vec![0; whole.len()]), "not a file of the store");
        assert_eq!(cause(&[&*whole, b"x"].concat()), "118 bytes where 117 were written");
        assert!(cause(&whole[..whole.len() - 5]).starts_with("truncated: 112 of 117 bytes"));
        assert!(cause(text.replace("object 1", "object 2").as_bytes()).starts_with("schema 2 is newer than 1"));
        assert_eq!(cause(text.replace("object 1", "object 0").as_bytes()), "schema 0 is unknown");
        assert_eq!(cause(text.replace("web", "wob").as_bytes()), "wrong checksum");
        let moved = self::path(&Key::new("pods", "default", "wob"), Place::Main);
        let error = decode_object(&moved, &whole).unwrap_err();
        assert_eq!(error.to_string(), r#"it is the file of pods "web" in namespace "default""#);
    }
}
