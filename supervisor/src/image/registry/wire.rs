//! What puller and fetcher say to each other: a question is one frame, its answer frames of content and one last frame.
//!
//! A frame is `KIND LENGTH PAYLOAD`. Each lane is a socket of its own with one question at a time. The fetcher has read hostile
//! answers and may be somebody else's by now, so the puller believes nothing but lengths that it bounds itself.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

use super::Failure;
use crate::image::digest::Digest;

/// Bytes of content in one frame.
pub const MAX_CONTENT_BYTES: usize = 128 << 10;
/// Bytes of a question or of a last frame: error texts are clipped long before.
pub const MAX_WORD_BYTES: usize = 64 << 10;
const HEAD_BYTES: usize = 5;

/// What the puller wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// A manifest or index, by tag or digest.
    Manifest {
        reference: String,
        limit: u64,
    },
    Blob {
        digest: Digest,
        size: u64,
        offset: u64,
    },
}

/// How an answer ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    Done(Facts),
    Failed(Failure),
}

/// What is known beside the content.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    pub content_type: Option<String>,
    /// `Docker-Content-Digest`.
    pub digest: Option<String>,
    /// Number of the endpoint that answered.
    pub endpoint: usize,
    /// [`super::Credential::source`] of the login that worked; none was anonymous.
    pub credential: Option<usize>,
    /// How often a broken connection was taken up again.
    pub resumed: u32,
}

#[derive(Debug)]
pub enum Frame {
    Content(Vec<u8>),
    End(End),
}

const QUESTION: u8 = b'q';
const CONTENT: u8 = b'c';
const END: u8 = b'e';

fn frame(kind: u8, payload: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
    Ok([&[kind][..], &length.to_le_bytes(), payload].concat())
}

impl Question {
    pub fn write(&self, mut to: impl Write) -> io::Result<()> {
        to.write_all(&frame(QUESTION, &serde_json::to_vec(self)?)?)
    }
}

/// The bytes before content of this length.
pub fn content_head(length: usize) -> io::Result<Vec<u8>> {
    let length = u32::try_from(length).map_err(io::Error::other)?;
    Ok([&[CONTENT][..], &length.to_le_bytes()].concat())
}

/// The last frame of an answer.
pub fn end_frame(end: &End) -> io::Result<Vec<u8>> {
    frame(END, &serde_json::to_vec(end)?)
}

/// Splits a head into kind and length, within the kind's bounds.
fn head(bytes: [u8; HEAD_BYTES]) -> io::Result<(u8, usize)> {
    let [kind, length @ ..] = bytes;
    let length = usize::try_from(u32::from_le_bytes(length)).map_err(io::Error::other)?;
    let limit = match kind {
        CONTENT => MAX_CONTENT_BYTES,
        QUESTION | END => MAX_WORD_BYTES,
        _ => return Err(malformed()),
    };
    if length > limit { Err(malformed()) } else { Ok((kind, length)) }
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "malformed frame")
}

/// The next frame of an answer; content goes into `buffer`'s memory.
pub fn read_frame(mut from: impl Read, mut buffer: Vec<u8>) -> io::Result<Frame> {
    let mut bytes = [0; HEAD_BYTES];
    from.read_exact(&mut bytes)?;
    let (kind, length) = head(bytes)?;
    buffer.resize(length, 0);
    from.read_exact(&mut buffer)?;
    match kind {
        CONTENT => Ok(Frame::Content(buffer)),
        END => Ok(Frame::End(serde_json::from_slice(&buffer)?)),
        _ => Err(malformed()),
    }
}

/// The next question; none when the puller has gone.
pub async fn read_question(from: &mut (impl tokio::io::AsyncRead + Unpin)) -> io::Result<Option<Question>> {
    use tokio::io::AsyncReadExt as _;
    let mut bytes = [0; HEAD_BYTES];
    match from.read_exact(&mut bytes).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        result => result?,
    };
    let (kind, length) = head(bytes)?;
    if kind != QUESTION {
        return Err(malformed());
    }
    let mut payload = vec![0; length];
    from.read_exact(&mut payload).await?;
    Ok(Some(serde_json::from_slice(&payload)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_comes_back_as_it_was_sent() {
        let end = End::Failed(Failure::Unavailable { host: "h".to_owned(), detail: "d".to_owned() });
        let bytes = [content_head(3).unwrap(), b"abc".to_vec(), end_frame(&end).unwrap()].concat();
        let mut from = &bytes[..];
        let Frame::Content(content) = read_frame(&mut from, Vec::new()).unwrap() else { panic!("content") };
        assert_eq!(content, b"abc");
        let Frame::End(back) = read_frame(&mut from, content).unwrap() else { panic!("end") };
        assert_eq!(back, end);
        assert_eq!(read_frame(&mut from, Vec::new()).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_lying_fetcher_is_bounded() {
        for bytes in [&b"c\xff\xff\xff\xff"[..], b"x\0\0\0\0", b"q\0\0\0\0", b"e\x02\0\0\0{}", b"e\xff\xff\xff\0"] {
            assert!(read_frame(bytes, Vec::new()).is_err(), "{}", bytes.escape_ascii());
        }
    }
}
