//! Bodies of answers: whole ones, and those that come piece by piece.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::sync::mpsc;

/// Pieces that wait for a client; whoever writes them waits beyond.
pub const PIECES: usize = 4;

/// What an answer carries.
#[derive(Debug)]
pub enum Body {
    Whole(Option<Bytes>),
    Pieces(mpsc::Receiver<Bytes>),
    /// Another server's.
    Passed(Box<Incoming>),
}

impl Body {
    pub fn empty() -> Self {
        Self::Whole(None)
    }

    pub fn text(text: impl Into<Bytes>) -> Self {
        Self::Whole(Some(text.into()))
    }

    /// A body that grows; it ends when the sender is dropped.
    pub fn pieces() -> (mpsc::Sender<Bytes>, Self) {
        let (sender, receiver) = mpsc::channel(PIECES);
        (sender, Self::Pieces(receiver))
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(match self.get_mut() {
            Self::Whole(bytes) => bytes.take().map(|bytes| Ok(Frame::data(bytes))),
            Self::Pieces(pieces) => ready!(pieces.poll_recv(context)).map(|bytes| Ok(Frame::data(bytes))),
            Self::Passed(body) => ready!(Pin::new(body).poll_frame(context)),
        })
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Pieces(_) => false,
            Self::Passed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Pieces(_) => SizeHint::new(),
            Self::Passed(body) => body.size_hint(),
        }
    }
}
