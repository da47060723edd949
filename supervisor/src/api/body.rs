//! Bodies of answers: whole ones, and those that grow while a client reads.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::mpsc;

/// Pieces that wait for a client to read them; a writer waits beyond (D33: back-pressure, never growth).
const PIECES_MAX: usize = 8;

/// What an answer carries. Not `Send`: the server lives on one thread.
#[derive(Debug)]
pub struct Body(Inner);

#[derive(Debug)]
enum Inner {
    Whole(Option<Bytes>),
    Pieces(mpsc::Receiver<Bytes>),
}

impl Body {
    pub fn empty() -> Self {
        Self(Inner::Whole(None))
    }

    pub fn whole(bytes: impl Into<Bytes>) -> Self {
        Self(Inner::Whole(Some(bytes.into()).filter(|bytes| !bytes.is_empty())))
    }

    /// What somebody else writes piece by piece.
    pub fn received(pieces: mpsc::Receiver<Bytes>) -> Self {
        Self(Inner::Pieces(pieces))
    }

    /// A body that is written piece by piece. It ends when the writer is dropped.
    pub fn pieces() -> (Writer, Self) {
        let (sender, receiver) = mpsc::channel(PIECES_MAX);
        (Writer(sender), Self(Inner::Pieces(receiver)))
    }
}

/// The end of [`Body::pieces`] that is written to.
#[derive(Clone)]
pub struct Writer(mpsc::Sender<Bytes>);

impl Writer {
    /// Waits until the client has room.
    ///
    /// # Errors
    /// The client has gone.
    pub async fn write(&self, bytes: impl Into<Bytes>) -> Result<(), Gone> {
        self.0.send(bytes.into()).await.map_err(|_| Gone)
    }

    /// Returns when the client has gone.
    pub async fn gone(&self) {
        self.0.closed().await;
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Writer")
    }
}

/// The client has gone.
#[derive(Debug, thiserror::Error)]
#[error("the client has gone")]
pub struct Gone;

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.0 {
            Inner::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Inner::Pieces(receiver) => receiver.poll_recv(context).map(|bytes| bytes.map(|b| Ok(Frame::data(b)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Whole(bytes) => bytes.is_none(),
            Inner::Pieces(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Inner::Pieces(_) => SizeHint::default(),
        }
    }
}
