//! When a connection on which nothing moves has ended.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::LINGER;

/// What a connection waits for besides its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::stream) enum Side {
    /// Both directions are open: the whole idle time counts.
    Open,
    /// Everything was said: the peer gets [`LINGER`] to close.
    Shut,
}

/// The timer of one connection.
pub(in crate::stream) struct Idle {
    timer: Pin<Box<Sleep>>,
    idle: Duration,
}

impl Idle {
    pub(in crate::stream) fn new(idle: Duration) -> Self {
        Self { timer: Box::pin(tokio::time::sleep(idle)), idle }
    }

    /// Ready once nothing has moved since `last` for as long as `side` allows. The timer is set late: only when it fires
    /// is it compared with what has moved since.
    pub(in crate::stream) fn poll(&mut self, last: Instant, side: Side, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let due = last
                + match side {
                    Side::Open => self.idle,
                    Side::Shut => LINGER,
                };
            if due < self.timer.deadline() {
                self.timer.as_mut().reset(due);
            }
            ready!(self.timer.as_mut().poll(context));
            if due <= Instant::now() {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(due);
        }
    }
}
