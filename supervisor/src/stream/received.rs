//! The body of a request that comes in: read to its end even when the answer doesn't wait for it.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};

/// Bytes that are read on after an answer that came early.
const UNREAD_MAX: usize = 4 * 1024 * 1024;
/// How long they may take.
const UNREAD_TIME: Duration = Duration::from_secs(5);

/// A body whose rest is read and forgotten once nobody wants it.
///
/// A client may send a body before it reads an answer. If the connection closed under it, it would see a broken pipe where
/// the answer says what was wrong. The rest is read within limits by a task on this thread: it takes a `LocalSet`.
#[derive(Debug)]
pub struct Received(Option<Incoming>);

impl From<Incoming> for Received {
    fn from(body: Incoming) -> Self {
        Self(Some(body))
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.0 {
            Some(body) => Pin::new(body).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        let Some(body) = self.0.take().filter(|body| !body.is_end_stream()) else { return };
        tokio::task::spawn_local(async move {
            // Whoever takes longer than that, or breaks off, gets what there is.
            let _late = tokio::time::timeout(UNREAD_TIME, forget(body)).await;
        });
    }
}

async fn forget(mut body: Incoming) {
    let mut count = 0;
    while let Some(Ok(frame)) = body.frame().await {
        count += frame.data_ref().map_or(0, Bytes::len);
        if count > UNREAD_MAX {
            return;
        }
    }
}
