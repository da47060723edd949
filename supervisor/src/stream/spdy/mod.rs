//! SPDY/3.1: many streams over one connection (draft-mbelshe-httpbis-spdy-00 and the SPDY/3.1 changes).
//!
//! [`Connection`] is the protocol without a socket; [`Session`] and [`Stream`] are the same over one. Kubernetes' clients
//! use a small part: streams that they open, replies, data, pings. What they lack is flow control: they neither send
//! WINDOW_UPDATE nor heed it, so windows are honoured only towards a peer that has shown that it knows them, and a stream
//! that nobody reads makes us stop reading the connection.

mod connection;
mod driver;
mod frame;
mod headers;
#[cfg(test)]
mod tests;

pub use connection::{Connection, Event, MAX_STREAMS, Read, Role};
pub use driver::{Session, Stream};
pub use frame::{Decoder, Frame, MAX_CONTROL_BYTES, Piece};
pub use headers::{Headers, MAX_HEADER_BYTES, MAX_HEADERS};

/// A stream's number: odd when the client opened it.
pub type StreamId = u32;

/// Why a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    #[error("frame of SPDY version {0}, not 3")]
    Version(u16),
    #[error("control frame of {0} bytes, more than {MAX_CONTROL_BYTES}")]
    FrameTooLarge(usize),
    #[error("control frame of type {0} is too short")]
    FrameTooShort(u16),
    #[error("header block can't be inflated")]
    Compression,
    #[error("header block of more than {MAX_HEADER_BYTES} bytes or {MAX_HEADERS} headers")]
    HeadersTooLarge,
    #[error("header block is malformed")]
    Headers,
    #[error("stream {0} can't be opened")]
    StreamId(StreamId),
    #[error("window of stream {0} overflows")]
    Window(StreamId),
}

/// Status of RST_STREAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum ResetStatus {
    ProtocolError = 1,
    InvalidStream = 2,
    RefusedStream = 3,
    Cancel = 5,
    InternalError = 6,
}
