//! One probe of one running instance (section 4): when it ticks, and what its results mean.
//!
//! Ticks are anchored at the container's start, not at the pod's first sync as in the reference: the first tick comes at
//! the end of the initial delay and never later than there.

use serde::{Deserialize, Serialize};

use super::action::ActionId;
use super::spec::{ProbeKind, ProbeSpec};
use super::timer::{Instant, PROBE_SLACK};

/// Attempts per tick while the probe cannot be run (PR6).
pub(super) const ATTEMPTS_PER_TICK: u8 = 3;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Probe {
    next: Instant,
    /// Runs at once, between two ticks (PR4).
    extra: bool,
    busy: Option<Busy>,
    attempts: u8,
    last: Option<bool>,
    repeats: u32,
    /// The published result (PR5); startup's initial `unknown` is no success.
    result: bool,
    /// Killed its container: silent until the next instance (PR8), or for the rest of the pod (PR12).
    hold: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Busy {
    id: ActionId,
    give_up: Instant,
}

/// What a result changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Below the threshold, or as before.
    Unchanged,
    Passed,
    /// The threshold is reached; said again for every further failure.
    Failed,
}

impl Probe {
    /// For an instance that started at `started`.
    pub(super) fn new(kind: ProbeKind, spec: &ProbeSpec, started: Instant) -> Self {
        Self {
            next: started.after(spec.initial_delay),
            extra: false,
            busy: None,
            attempts: 0,
            last: None,
            repeats: 0,
            result: match kind {
                ProbeKind::Liveness => true,
                ProbeKind::Startup | ProbeKind::Readiness => false,
            },
            hold: false,
        }
    }

    /// The published result.
    pub(super) fn result(&self) -> bool {
        self.result
    }

    /// The action that is waited for.
    pub(super) fn action(&self) -> Option<ActionId> {
        self.busy.map(|busy| busy.id)
    }

    /// Next moment at which the probe wants attention.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        match self.busy {
            Some(busy) => Some(busy.give_up),
            None if self.hold => None,
            None if self.extra => Some(now),
            None => Some(self.next),
        }
    }

    /// A tick or an extra run is due. Advances to the tick after `now`; a tick that falls into a run is skipped (PR2).
    pub(super) fn due(&mut self, spec: &ProbeSpec, now: Instant) -> bool {
        if self.hold || self.busy.is_some() || !(self.extra || self.next <= now) {
            return false;
        }
        self.extra = false;
        self.attempts = 0;
        self.skip_past(spec, now);
        true
    }

    fn skip_past(&mut self, spec: &ProbeSpec, now: Instant) {
        if self.next > now {
            return;
        }
        let period = spec.period.as_nanos().max(1);
        let missed = now.since(self.next).as_nanos() / period + 1;
        let ahead = u64::try_from(missed.saturating_mul(period)).unwrap_or(u64::MAX);
        self.next = Instant(self.next.0.saturating_add(ahead));
    }

    /// Ticks that were due while the probe was not allowed to run are gone.
    pub(super) fn activate(&mut self, spec: &ProbeSpec, now: Instant) {
        if self.next < now {
            self.skip_past(spec, now);
        }
    }

    /// Runs once without waiting for the tick, unless its initial delay is not over (PR3, PR4).
    pub(super) fn trigger(&mut self, spec: &ProbeSpec, started: Instant, now: Instant) {
        self.extra = started.after(spec.initial_delay) <= now;
    }

    /// The action that runs the probe.
    pub(super) fn begin(&mut self, spec: &ProbeSpec, id: ActionId, now: Instant) {
        self.attempts += 1;
        self.busy = Some(Busy { id, give_up: now.after(spec.timeout).after(PROBE_SLACK) });
    }

    /// The result is too late: as good as none. Returns what to cancel.
    pub(super) fn give_up(&mut self, now: Instant) -> Option<ActionId> {
        let busy = self.busy.filter(|busy| busy.give_up <= now)?;
        self.busy = None;
        Some(busy.id)
    }

    /// The probe could not be run; true when it is to be tried again at once (PR6).
    pub(super) fn erred(&mut self) -> bool {
        self.busy = None;
        self.attempts < ATTEMPTS_PER_TICK
    }

    /// A result came (PR5).
    pub(super) fn finished(&mut self, spec: &ProbeSpec, success: bool) -> Verdict {
        self.busy = None;
        self.repeats = if self.last == Some(success) { self.repeats.saturating_add(1) } else { 1 };
        self.last = Some(success);
        let threshold = if success { spec.success_threshold } else { spec.failure_threshold };
        if self.repeats < threshold {
            return Verdict::Unchanged;
        }
        match (success, self.result) {
            (true, true) => Verdict::Unchanged,
            (true, false) => {
                self.result = true;
                Verdict::Passed
            }
            (false, _) => {
                self.result = false;
                Verdict::Failed
            }
        }
    }

    /// No more ticks for this instance (PR8).
    pub(super) fn hold(&mut self) -> Option<ActionId> {
        self.hold = true;
        self.extra = false;
        self.busy.take().map(|busy| busy.id)
    }

    /// The pod is being deleted: success, and silence (PR12).
    pub(super) fn retire(&mut self) -> Option<ActionId> {
        self.result = true;
        self.hold()
    }

    /// The daemon was restarted: what ran is gone, results stay (PR14).
    pub(super) fn forget_action(&mut self) {
        self.busy = None;
    }
}
