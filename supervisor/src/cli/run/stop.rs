//! Who may end a run: the user, a service manager, and `--for`.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{RunError, io};

/// How the pods end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Requested {
    Gracefully,
    Now,
}

/// What was heard so far.
#[derive(Debug)]
pub(super) struct Stop {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    limit: Option<tokio::time::Instant>,
    /// What the next signal means: the first one is polite.
    next: Requested,
}

impl Stop {
    pub(super) fn new(limit: Option<Duration>) -> Result<Self, RunError> {
        let listen = |kind| signal(kind).map_err(io("listen to signals"));
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
            limit: limit.map(|limit| tokio::time::Instant::now() + limit),
            next: Requested::Gracefully,
        })
    }

    pub(super) async fn requested(&mut self) -> Requested {
        let limit = self.limit;
        let over = async {
            match limit {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
            () = over => {
                self.limit = None;
                return Requested::Gracefully;
            }
        }
        std::mem::replace(&mut self.next, Requested::Now)
    }
}
