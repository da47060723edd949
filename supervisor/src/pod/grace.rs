//! The grace of one kill (section 2.4): a single budget that hook, waiting for the turn and stop signal share.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::action::ActionId;
use super::spec::ProbeKind;
use super::timer::{GRACE_MIN, Instant};

/// Why a container is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Cause {
    /// Liveness or startup failed; `restart` was decided then (RR3).
    Probe { kind: ProbeKind, restart: bool },
    /// The postStart hook failed (LC8).
    PostStartHook,
    /// The image in the spec is another one now (IN12).
    DefinitionChanged,
    /// What the container may have changes, and it wants to start with it (RZ7).
    Resize,
    /// IN8.
    SandboxChanged,
    /// RR4.
    RestartAll,
    /// The pod is finished, past its deadline, evicted or deleted.
    PodEnds,
}

/// A kill under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stop {
    pub(super) cause: Cause,
    /// Since when `grace` is spent.
    pub(super) since: Instant,
    pub(super) grace: Duration,
    pub(super) stage: Stage,
}

/// How far a kill has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Stage {
    /// The hook runs: as an action, or as a sleep until an instant.
    PreStop(Hook),
    /// Waits until the containers that go first are gone (TR3).
    Turn {
        from: Instant,
        left: Duration,
    },
    Signalled {
        kill_at: Instant,
    },
    Killed {
        again_at: Instant,
    },
}

/// A hook under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Hook {
    Action { id: ActionId, give_up: Option<Instant> },
    Sleep { until: Instant, seconds: u64 },
}

impl Stop {
    /// When the whole grace is spent, before the minimum after the signal.
    pub(super) fn spent_at(&self) -> Instant {
        self.since.after(self.grace)
    }

    /// Makes the grace end earlier; never later (TR9).
    pub(super) fn shorten(&mut self, now: Instant, grace: Duration) {
        if now.after(grace) < self.spent_at() {
            self.since = now;
            self.grace = grace;
        }
        match &mut self.stage {
            Stage::PreStop(_) | Stage::Killed { .. } => {}
            Stage::Turn { from, left } => {
                if now.after(grace) < from.after(*left) {
                    *from = now;
                    *left = grace;
                }
            }
            Stage::Signalled { kill_at } => *kill_at = (*kill_at).min(now.after(at_least_minimum(grace))),
        }
    }
}

/// What is left of `grace` after `spent`, of which whole seconds count (step 3).
pub(super) fn less(grace: Duration, spent: Duration) -> Duration {
    grace.saturating_sub(Duration::from_secs(spent.as_secs()))
}

/// Step 4: at least [`GRACE_MIN`] lies between stop signal and SIGKILL.
pub(super) fn at_least_minimum(grace: Duration) -> Duration {
    grace.max(GRACE_MIN)
}

/// Step 2: the grace of a whole-pod kill is at least one second.
pub(super) fn of_pod(requested: Duration) -> Duration {
    requested.max(Duration::from_secs(1))
}
