//! A stream that remembers what came first, so that an answer that is no answer can be named, and that ends a flood.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes remembered: more than a status line or a frame's head, and short enough for an event's message.
const REMEMBERED_BYTES: usize = 1024;

/// Bytes that one connection may deliver: many times what a head and the part of a body that is read take. Interim answers,
/// pings and chunks of nothing have no bound of their own, and a flood of them keeps the only thread from its other work,
/// since the runtime looks for new events and due timers after 61 polls of whoever is always ready.
pub(super) const RECEIVED_BYTES: usize = 256 * 1024;

/// A byte stream of any kind.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// The first bytes received; a handle that outlives the stream.
#[derive(Clone, Default)]
pub(super) struct Seen(Arc<Mutex<Vec<u8>>>);

impl Seen {
    /// What came so far, at most [`REMEMBERED_BYTES`].
    pub(super) fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, bytes: &[u8]) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = REMEMBERED_BYTES.saturating_sub(seen.len()).min(bytes.len());
        seen.extend_from_slice(&bytes[..room]);
    }
}

/// A stream whose first bytes are noted, and that fails with `FileTooLarge` after [`RECEIVED_BYTES`].
pub(super) struct Tap<S> {
    inner: S,
    seen: Seen,
    received: usize,
    turn: Turn,
}

/// Who speaks.
#[derive(Debug)]
enum Turn {
    /// We have not spoken yet: what the peer says before is not looked at. Who waits for it is woken then.
    Ours(Option<Waker>),
    Either,
}

impl<S> Tap<S> {
    pub(super) fn new(inner: S) -> (Self, Seen) {
        let seen = Seen::default();
        (Self { inner, seen: seen.clone(), received: 0, turn: Turn::Either }, seen)
    }

    /// Nothing is read before something was written. A server that answers before it was asked would otherwise end the
    /// exchange or not, as the two ends race (hyper takes such bytes for noise on an idle connection).
    pub(super) fn asking_first(inner: S) -> (Self, Seen) {
        let (mut tap, seen) = Self::new(inner);
        tap.turn = Turn::Ours(None);
        (tap, seen)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Tap<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Turn::Ours(waiting) = &mut self.turn {
            *waiting = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if self.received >= RECEIVED_BYTES {
            return Poll::Ready(Err(io::ErrorKind::FileTooLarge.into()));
        }
        let before = buf.filled().len();
        let result = Pin::new(&mut self.inner).poll_read(cx, buf);
        let new = &buf.filled()[before..];
        self.seen.note(new);
        self.received += new.len();
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tap<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        if written.is_ready()
            && let Turn::Ours(Some(waiting)) = std::mem::replace(&mut self.turn, Turn::Either)
        {
            waiting.wake();
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt as _;

    #[tokio::test]
    async fn only_the_first_bytes_are_remembered() {
        let sent: Vec<u8> = (0..REMEMBERED_BYTES * 3).map(|n| (n % 251) as u8).collect();
        let (mut tap, seen) = Tap::new(io::Cursor::new(sent.clone()));
        let mut received = Vec::new();
        tap.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, sent);
        assert_eq!(seen.bytes(), sent[..REMEMBERED_BYTES]);
    }

    #[test]
    fn an_answer_is_not_looked_at_before_the_question() {
        let stream = tokio::io::join(io::Cursor::new(b"early".to_vec()), tokio::io::sink());
        let (mut tap, seen) = Tap::asking_first(stream);
        let mut cx = Context::from_waker(Waker::noop());
        let mut bytes = [0; 8];
        let mut buf = ReadBuf::new(&mut bytes);
        assert!(Pin::new(&mut tap).poll_read(&mut cx, &mut buf).is_pending());
        assert!(Pin::new(&mut tap).poll_write(&mut cx, b"question").is_ready());
        assert!(Pin::new(&mut tap).poll_read(&mut cx, &mut buf).is_ready());
        assert_eq!(seen.bytes(), b"early");
    }

    /// F10
    #[tokio::test]
    async fn a_flood_ends() {
        let (mut tap, _) = Tap::new(tokio::io::join(tokio::io::repeat(b'x'), tokio::io::sink()));
        let mut received = Vec::new();
        let error = tap.read_to_end(&mut received).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        assert!((RECEIVED_BYTES..2 * RECEIVED_BYTES).contains(&received.len()));
    }
}
