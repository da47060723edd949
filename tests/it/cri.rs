//! A CRI client for a handful of calls: gRPC over HTTP/2 (RFC 9113) on a Unix socket, without a library.
//!
//! One connection per call. Of the answer only the message is read: headers are compressed, and a failed call is one
//! without a message; the reason is in the server's log.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// Above what a container's start takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
/// Of SETTINGS and PING; of DATA and HEADERS the same bit means the end of the stream.
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A protobuf message under construction.
#[derive(Default)]
pub(crate) struct Message(Vec<u8>);

impl Message {
    pub(crate) fn text(self, field: u8, value: &str) -> Self {
        self.bytes(field, value.as_bytes())
    }

    pub(crate) fn message(self, field: u8, value: Message) -> Self {
        self.bytes(field, &value.0)
    }

    /// An enum value below 128.
    pub(crate) fn choice(mut self, field: u8, value: u8) -> Self {
        self.0.extend([field << 3, value]);
        self
    }

    fn bytes(mut self, field: u8, value: &[u8]) -> Self {
        self.0.push(field << 3 | 2);
        let mut rest = value.len();
        while rest > 0x7f {
            self.0.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.0.push(rest as u8);
        self.0.extend(value);
        self
    }
}

/// Calls `method` of the CRI's RuntimeService. `None` if it failed.
pub(crate) fn call(socket: &Path, method: &str, request: &Message) -> Result<Option<Vec<u8>>> {
    let mut stream = UnixStream::connect(socket).with_context(|| socket.display().to_string())?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?;
    send(&mut stream, SETTINGS, 0, 0, &[])?;
    send(&mut stream, HEADERS, END_HEADERS, 1, &headers(method))?;
    let length = u32::try_from(request.0.len())?.to_be_bytes();
    let body = [&[0][..], &length, &request.0].concat();
    send(&mut stream, DATA, END_STREAM, 1, &body)?;
    let answer = receive(&mut stream).with_context(|| method.to_owned())?;
    // A byte that says "not compressed" and four for the length stand before the message.
    Ok(answer.get(5..).map(<[u8]>::to_vec))
}

/// The first field of an answer, if it is a string shorter than 128: every id is.
pub(crate) fn first_text(answer: &[u8]) -> Result<String> {
    let length = usize::from(*answer.get(1).context("an empty answer")?);
    ensure!(answer[0] == 1 << 3 | 2 && length < 128, "{answer:?}");
    Ok(String::from_utf8(answer.get(2..2 + length).context("a short answer")?.to_vec())?)
}

/// HPACK (RFC 7541) literals, neither indexed nor compressed.
fn headers(method: &str) -> Vec<u8> {
    let path = format!("/runtime.v1.RuntimeService/{method}");
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", &path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        block.push(0);
        for text in [name, value] {
            block.push(text.len() as u8);
            block.extend(text.as_bytes());
        }
    }
    block
}

fn send(stream: &mut UnixStream, kind: u8, flags: u8, id: u32, payload: &[u8]) -> Result<()> {
    let length = u32::try_from(payload.len())?.to_be_bytes();
    let frame = [&length[1..], &[kind, flags], &id.to_be_bytes(), payload].concat();
    Ok(stream.write_all(&frame)?)
}

/// The body of the answer, to the end of its stream.
fn receive(stream: &mut UnixStream) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut head = [0; 9];
        match stream.read_exact(&mut head) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(body),
            result => result?,
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload)?;
        let (kind, flags) = (head[3], head[4]);
        match kind {
            SETTINGS if flags & ACK == 0 => send(stream, SETTINGS, ACK, 0, &[])?,
            PING if flags & ACK == 0 => send(stream, PING, ACK, 0, &payload)?,
            DATA => body.extend(payload),
            RST_STREAM | GOAWAY => return Ok(body),
            _ => {}
        }
        if matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
            return Ok(body);
        }
    }
}
