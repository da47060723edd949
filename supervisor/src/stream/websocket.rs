//! WebSocket below the channels: a bounded connection, and a tunnel of bytes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::{Sink, Stream as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

/// Longest message that is read. Kubernetes' own client sends 32 KiB at most, others send what they are given.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;
/// Held by every connection.
const READ_BUFFER_BYTES: usize = 16 * 1024;
/// Messages are handed down at once, one is written at a time.
const MAX_WRITE_BYTES: usize = 256 * 1024;

/// The server's side of a connection that was switched.
pub async fn server<T: AsyncRead + AsyncWrite + Unpin>(io: T) -> WebSocketStream<T> {
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config())).await
}

/// The limits of a connection.
pub fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(MAX_WRITE_BYTES)
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES))
}

/// Sends a close frame with code 1000: without a code, clients take the end for a failure.
pub fn say_goodbye<T: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut WebSocketStream<T>,
    said: &mut bool,
    context: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    if !*said {
        ready!(Pin::new(&mut *socket).poll_ready(context)).map_err(io::Error::other)?;
        let frame = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() };
        match Pin::new(&mut *socket).start_send(Message::Close(Some(frame))) {
            // The other side said it first, and is answered already.
            Ok(()) | Err(Error::ConnectionClosed | Error::AlreadyClosed | Error::Protocol(_)) => *said = true,
            Err(error) => return Poll::Ready(Err(io::Error::other(error))),
        }
    }
    Pin::new(socket).poll_flush(context).map_err(io::Error::other)
}

/// Bytes in binary messages whose borders mean nothing.
#[derive(Debug)]
pub struct Tunnel<T> {
    socket: WebSocketStream<T>,
    unread: Bytes,
    goodbye_said: bool,
}

/// Longest message that a tunnel sends.
const TUNNEL_MESSAGE_BYTES: usize = 32 * 1024;

impl<T> Tunnel<T> {
    pub fn new(socket: WebSocketStream<T>) -> Self {
        Self { socket, unread: Bytes::new(), goodbye_said: false }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Tunnel<T> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_next(context)) {
                Some(Ok(Message::Binary(bytes))) => self.unread = bytes,
                Some(Ok(Message::Text(_))) => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(())),
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
            }
        }
        let count = self.unread.len().min(into.remaining());
        into.put_slice(&self.unread.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Tunnel<T> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.socket).poll_ready(context)).map_err(io::Error::other)?;
        let count = bytes.len().min(TUNNEL_MESSAGE_BYTES);
        let message = Message::Binary(Bytes::copy_from_slice(bytes.get(..count).unwrap_or_default()));
        Pin::new(&mut self.socket).start_send(message).map_err(io::Error::other)?;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context).map_err(io::Error::other)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { socket, goodbye_said, .. } = &mut *self;
        say_goodbye(socket, goodbye_said, context)
    }
}
