//! Frames on the wire.

use super::{ProtocolError, StreamId};

/// Length of every frame's head.
const HEAD_BYTES: usize = 8;
/// Longest control frame that is read: a header block of [`super::MAX_HEADER_BYTES`] that did not compress, with room.
pub const MAX_CONTROL_BYTES: usize = 32 * 1024;
/// Longest piece of data in one frame that we send; the format's limit is 16 MiB.
pub(super) const MAX_DATA_BYTES: usize = 64 * 1024;

const VERSION: u16 = 3;
const CONTROL: u8 = 0x80;
const FLAG_FIN: u8 = 1;
const FLAG_UNIDIRECTIONAL: u8 = 2;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

/// A control frame; `block` is a compressed header block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    SynStream {
        id: StreamId,
        fin: bool,
        unidirectional: bool,
        block: Vec<u8>,
    },
    SynReply {
        id: StreamId,
        fin: bool,
        block: Vec<u8>,
    },
    RstStream {
        id: StreamId,
        status: u32,
    },
    /// Pairs of id and value.
    Settings(Vec<(u32, u32)>),
    Ping(u32),
    GoAway {
        last: StreamId,
        status: u32,
    },
    Headers {
        id: StreamId,
        fin: bool,
        block: Vec<u8>,
    },
    WindowUpdate {
        id: StreamId,
        delta: u32,
    },
}

/// What a decoder found.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    Control(Frame),
    /// Part of a data frame; `fin` with its last part alone.
    Data {
        id: StreamId,
        bytes: &'a [u8],
        fin: bool,
    },
}

/// Reads frames from pieces of any size. Data is handed on as it comes, so that no frame is held whole.
#[derive(Debug, Default)]
pub struct Decoder {
    head: Vec<u8>,
    state: State,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Head,
    Data {
        id: StreamId,
        left: usize,
        fin: bool,
    },
    Control {
        kind: u16,
        flags: u8,
        length: usize,
        body: Vec<u8>,
    },
}

impl Decoder {
    /// Takes bytes from the front of `input`; none when it needs more of them.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Piece<'a>>, ProtocolError> {
        loop {
            match &mut self.state {
                State::Head => {
                    take(input, HEAD_BYTES, &mut self.head);
                    let Ok(head) = <[u8; HEAD_BYTES]>::try_from(self.head.as_slice()) else { return Ok(None) };
                    self.head.clear();
                    self.state = begin(head)?;
                }
                State::Data { id, left, fin } => {
                    let (id, count) = (*id, (*left).min(input.len()));
                    if count == 0 && *left > 0 {
                        return Ok(None);
                    }
                    let (bytes, rest) = input.split_at(count);
                    *input = rest;
                    *left -= count;
                    let (last, fin) = (*left == 0, *fin);
                    if last {
                        self.state = State::Head;
                    }
                    return Ok(Some(Piece::Data { id, bytes, fin: fin && last }));
                }
                State::Control { kind, flags, length, body } => {
                    take(input, *length, body);
                    if body.len() < *length {
                        return Ok(None);
                    }
                    let parsed = parse(*kind, *flags, std::mem::take(body));
                    self.state = State::Head;
                    if let Some(frame) = parsed? {
                        return Ok(Some(Piece::Control(frame)));
                    }
                }
            }
        }
    }
}

/// Fills `into` up to `length`.
fn take(input: &mut &[u8], length: usize, into: &mut Vec<u8>) {
    let (bytes, rest) = input.split_at(input.len().min(length - into.len()));
    into.extend_from_slice(bytes);
    *input = rest;
}

fn begin(head: [u8; HEAD_BYTES]) -> Result<State, ProtocolError> {
    let [a, b, c, d, flags, length @ ..] = head;
    let length = usize::try_from(u32::from_be_bytes([0, length[0], length[1], length[2]])).unwrap_or(usize::MAX);
    if a & CONTROL == 0 {
        let id = u32::from_be_bytes([a, b, c, d]);
        return Ok(State::Data { id, left: length, fin: flags & FLAG_FIN != 0 });
    }
    let version = u16::from_be_bytes([a & !CONTROL, b]);
    if version != VERSION {
        return Err(ProtocolError::Version(version));
    }
    if length > MAX_CONTROL_BYTES {
        return Err(ProtocolError::FrameTooLarge(length));
    }
    Ok(State::Control { kind: u16::from_be_bytes([c, d]), flags, length, body: Vec::new() })
}

/// None for types that are not known: they are skipped.
fn parse(kind: u16, flags: u8, body: Vec<u8>) -> Result<Option<Frame>, ProtocolError> {
    let word = |at: usize| -> Result<u32, ProtocolError> {
        let bytes = body.get(at..at + 4).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
        bytes.map(u32::from_be_bytes).ok_or(ProtocolError::FrameTooShort(kind))
    };
    let id = |at: usize| word(at).map(|word| word & 0x7fff_ffff);
    let fin = flags & FLAG_FIN != 0;
    let block = |from: usize| body.get(from..).map(<[u8]>::to_vec).ok_or(ProtocolError::FrameTooShort(kind));
    Ok(Some(match kind {
        SYN_STREAM => {
            let unidirectional = flags & FLAG_UNIDIRECTIONAL != 0;
            Frame::SynStream { id: id(0)?, fin, unidirectional, block: block(10)? }
        }
        SYN_REPLY => Frame::SynReply { id: id(0)?, fin, block: block(4)? },
        RST_STREAM => Frame::RstStream { id: id(0)?, status: word(4)? },
        SETTINGS => {
            let pair = |pair: &[u8]| match *pair {
                [_flags, a, b, c, v, w, x, y] => (u32::from_be_bytes([0, a, b, c]), u32::from_be_bytes([v, w, x, y])),
                _ => (0, 0),
            };
            word(0)?;
            Frame::Settings(body.get(4..).unwrap_or_default().chunks_exact(8).map(pair).collect())
        }
        PING => Frame::Ping(word(0)?),
        GOAWAY => Frame::GoAway { last: id(0)?, status: word(4)? },
        HEADERS => Frame::Headers { id: id(0)?, fin, block: block(4)? },
        WINDOW_UPDATE => Frame::WindowUpdate { id: id(0)?, delta: word(4)? & 0x7fff_ffff },
        _ => return Ok(None),
    }))
}

impl Frame {
    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let fin = |fin: bool| if fin { FLAG_FIN } else { 0 };
        match self {
            Self::SynStream { id, fin: end, unidirectional, block } => {
                let flags = fin(*end) | if *unidirectional { FLAG_UNIDIRECTIONAL } else { 0 };
                // Associated stream, priority and slot are zero.
                control(out, SYN_STREAM, flags, &[&id.to_be_bytes(), &[0; 6], block]);
            }
            Self::SynReply { id, fin: end, block } => control(out, SYN_REPLY, fin(*end), &[&id.to_be_bytes(), block]),
            Self::RstStream { id, status } => control(out, RST_STREAM, 0, &[&id.to_be_bytes(), &status.to_be_bytes()]),
            Self::Settings(settings) => {
                let pairs: Vec<u8> = settings
                    .iter()
                    .flat_map(|(id, value)| [(id & 0x00ff_ffff).to_be_bytes(), value.to_be_bytes()].concat())
                    .collect();
                let count = u32::try_from(settings.len()).unwrap_or(u32::MAX);
                control(out, SETTINGS, 0, &[&count.to_be_bytes(), &pairs]);
            }
            Self::Ping(id) => control(out, PING, 0, &[&id.to_be_bytes()]),
            Self::GoAway { last, status } => control(out, GOAWAY, 0, &[&last.to_be_bytes(), &status.to_be_bytes()]),
            Self::Headers { id, fin: end, block } => control(out, HEADERS, fin(*end), &[&id.to_be_bytes(), block]),
            Self::WindowUpdate { id, delta } => {
                control(out, WINDOW_UPDATE, 0, &[&id.to_be_bytes(), &delta.to_be_bytes()]);
            }
        }
    }
}

fn control(out: &mut Vec<u8>, kind: u16, flags: u8, parts: &[&[u8]]) {
    out.extend_from_slice(&(VERSION | u16::from(CONTROL) << 8).to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    length(out, flags, parts.iter().map(|part| part.len()).sum());
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

fn length(out: &mut Vec<u8>, flags: u8, length: usize) {
    let [_, length @ ..] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    out.push(flags);
    out.extend_from_slice(&length);
}

/// Appends a data frame; at most [`MAX_DATA_BYTES`].
pub(super) fn encode_data(out: &mut Vec<u8>, id: StreamId, bytes: &[u8], fin: bool) {
    out.extend_from_slice(&id.to_be_bytes());
    length(out, if fin { FLAG_FIN } else { 0 }, bytes.len());
    out.extend_from_slice(bytes);
}
