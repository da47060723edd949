//! What the unpacker tells: small frames `KIND LENGTH PAYLOAD` on a pipe.
//!
//! The process that writes them has handled hostile bytes and may be the author's by now. So frames are bounded, and believed only
//! where a lie harms nothing but the layer itself.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

use crate::image::digest::Digest;
use crate::image::limits::MAX_PATH_BYTES;

/// Bytes of a frame's payload: a path with some text around it.
const MAX_PAYLOAD: usize = 2 * MAX_PATH_BYTES;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Report {
    /// Stored bytes of the layer that are read so far.
    Progress(u64),
    /// This directory, relative to the layer's root, hides what lies below (`trusted.overlay.opaque`).
    Opaque(Vec<u8>),
    /// Something was left out, and why.
    Skipped(String),
    Done(Summary),
    Failed(String),
}

/// A layer that was applied whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Digest of the uncompressed archive.
    pub diff_id: Digest,
    pub uncompressed_bytes: u64,
    pub(super) entries: u64,
    pub(super) skipped: u64,
}

impl Report {
    pub(super) fn write(&self, mut to: impl Write) -> io::Result<()> {
        let (kind, payload) = match self {
            Self::Progress(bytes) => (b'p', bytes.to_le_bytes().to_vec()),
            Self::Opaque(path) => (b'o', path.clone()),
            Self::Skipped(text) => (b's', clip(text)),
            Self::Done(summary) => (b'd', serde_json::to_vec(summary)?),
            Self::Failed(text) => (b'f', clip(text)),
        };
        let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
        let frame = [&[kind][..], &length.to_le_bytes(), &payload].concat();
        to.write_all(&frame)
    }

    /// The next frame, or nothing at the end.
    pub(super) fn read(mut from: impl Read) -> io::Result<Option<Self>> {
        let mut kind = [0];
        if from.read(&mut kind)? == 0 {
            return Ok(None);
        }
        let mut length = [0; 4];
        from.read_exact(&mut length)?;
        let length = usize::try_from(u32::from_le_bytes(length)).map_err(io::Error::other)?;
        if length > MAX_PAYLOAD {
            return Err(malformed());
        }
        let mut payload = vec![0; length];
        from.read_exact(&mut payload)?;
        Self::parse(kind[0], payload).map(Some)
    }

    fn parse(kind: u8, payload: Vec<u8>) -> io::Result<Self> {
        Ok(match kind {
            b'p' => Self::Progress(u64::from_le_bytes(payload.try_into().map_err(|_| malformed())?)),
            b'o' => Self::Opaque(payload),
            b's' => Self::Skipped(printable(&payload)),
            b'd' => Self::Done(serde_json::from_slice(&payload)?),
            b'f' => Self::Failed(printable(&payload)),
            _ => return Err(malformed()),
        })
    }
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "malformed report")
}

fn clip(text: &str) -> Vec<u8> {
    text.bytes().take(MAX_PAYLOAD).collect()
}

/// No control characters from there reach a terminal (D20).
fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_as_they_were_sent() {
        let summary = Summary { diff_id: Digest::of(b"x"), uncompressed_bytes: 1, entries: 2, skipped: 3 };
        for report in [
            Report::Progress(7),
            Report::Opaque(b"a/\xff".to_vec()),
            Report::Skipped("dev/null: device".to_owned()),
            Report::Done(summary),
            Report::Failed("no".to_owned()),
        ] {
            let mut bytes = Vec::new();
            report.write(&mut bytes).unwrap();
            assert_eq!(Report::read(&bytes[..]).unwrap(), Some(report));
        }
        assert_eq!(Report::read(&b""[..]).unwrap(), None);
    }

    #[test]
    fn a_lying_reporter_is_bounded() {
        for bytes in [&b"p\xff\xff\xff\xff"[..], b"z\0\0\0\0", b"p\x01\0\0\0a", b"d\x02\0\0\0{}", b"f\x09\0\0\0a"] {
            assert!(Report::read(bytes).is_err(), "{}", bytes.escape_ascii());
        }
        let escape = Report::read(&b"f\x02\0\0\0\x1b["[..]).unwrap();
        assert_eq!(escape, Some(Report::Failed("\u{fffd}[".to_owned())));
    }
}
