//! When somebody looks at what is scarce.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Pressures;
use super::look::{Limits, Looked, look};
use super::signal::Shown;
use crate::node::Sessions;

/// Between two looks while something is scarce, or nearly: as often as the kubelet looks.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// The next pod is evicted when the one before is gone, or after this time.
const VICTIM_GOES: Duration = Duration::from_secs(30);

/// At most one look at a time; another one that is asked for meanwhile comes after it.
#[derive(Debug, Default)]
pub struct Monitor {
    looking: Option<JoinHandle<Result<Looked, String>>>,
    again: bool,
    shown: Shown,
    due: Option<Instant>,
    peeked: Option<Instant>,
    victim: Option<(String, Instant)>,
    failed: bool,
}

impl Monitor {
    /// Something was written, or given back.
    pub fn changed(&mut self, limits: &Limits, sessions: &Sessions) {
        if self.looking.is_some() {
            self.again = true;
            return;
        }
        self.looking = Some(tokio::task::spawn_local(look(limits.clone(), sessions.clone())));
    }

    /// The watchdog has woken the daemon: is there something to do?
    pub fn glance(&mut self, limits: &Limits, sessions: &Sessions) {
        if limits.has_many_images() || limits.is_pressed() {
            self.changed(limits, sessions);
        }
    }

    /// Processes wait for memory.
    pub fn stalled(&mut self, limits: &Limits, sessions: &Sessions) {
        if limits.is_pressed() {
            self.changed(limits, sessions);
        }
    }

    /// The daemon is awake for whatever reason: that costs an idle node nothing.
    pub fn peek(&mut self, limits: impl FnOnce() -> Limits, sessions: &Sessions, now: Instant) {
        if self.peeked.is_none_or(|last| now >= last + LOOK_AGAIN) {
            self.peeked = Some(now);
            self.stalled(&limits(), sessions);
        }
    }

    /// When to look although nobody said anything; none as long as there is enough of everything.
    pub fn due(&self) -> Option<Instant> {
        self.due.filter(|_| self.looking.is_none())
    }

    /// What the node shows after a look.
    pub fn judge(&mut self, looked: &Looked, period: Duration, now: Instant) -> Pressures {
        self.victim.take_if(|(_, until)| *until <= now);
        let shown = self.shown.judge(&looked.met, period, now);
        let next = (looked.is_near || !shown.is_empty()).then(|| now + LOOK_AGAIN);
        let ends = self.shown.ends(period).filter(|ends| *ends > now);
        self.due = next.map(|next| ends.map_or(next, |ends| ends.min(next)));
        shown
    }

    /// Who goes at the moment: one pod at a time (EV5).
    pub fn victim(&self) -> Option<&str> {
        self.victim.as_ref().map(|(uid, _)| uid.as_str())
    }

    pub fn evicts(&mut self, uid: String, now: Instant) {
        self.victim = Some((uid, now + VICTIM_GOES));
    }

    /// The victim is gone.
    pub fn is_rid(&mut self) {
        self.victim = None;
    }

    /// Whether the last collection of images freed too little and the one before it did not.
    pub fn fails_anew(&mut self, fails: bool) -> bool {
        !std::mem::replace(&mut self.failed, fails) && fails
    }

    /// The next finding; waits for ever while nobody looks.
    pub async fn looked(&mut self) -> Result<Looked, String> {
        let Some(looking) = &mut self.looking else { return std::future::pending().await };
        let found = looking.await.unwrap_or_else(|error| Err(error.to_string()));
        self.looking = None;
        found
    }

    /// Whether something happened since the last look began.
    pub fn take_again(&mut self) -> bool {
        std::mem::take(&mut self.again)
    }
}

#[cfg(test)]
mod tests {
    use cgroupd::Quantity;

    use super::*;
    use crate::serve::pressure::signal::{Met, Signal};

    fn looked(low: bool, is_near: bool) -> Looked {
        let amount = Quantity::from_bytes(1);
        let met = Met { signal: Signal::NodefsAvailable, threshold: amount, available: amount };
        let met = if low { vec![met] } else { Vec::new() };
        Looked { met, most_urgent: None, is_near, pods: Vec::new(), removed: Vec::new(), failure: None }
    }

    /// EV5: nobody looks at a node that has enough.
    #[test]
    fn looks_come_while_something_is_scarce_or_nearly() {
        let (mut monitor, start, period) = (Monitor::default(), Instant::now(), Duration::from_secs(25));
        let at = |seconds| start + Duration::from_secs(seconds);
        for (seconds, low, near, due) in [
            (0, false, false, None),
            (0, false, true, Some(10)),
            (10, true, true, Some(20)),
            (20, false, false, Some(30)),
            (30, false, false, Some(35)),
            (35, false, false, None),
        ] {
            monitor.judge(&looked(low, near), period, at(seconds));
            assert_eq!(monitor.due(), due.map(at), "{seconds}");
        }
    }

    /// EV5
    #[test]
    fn one_pod_goes_at_a_time_but_not_for_ever() {
        let (mut monitor, start) = (Monitor::default(), Instant::now());
        monitor.evicts("u".to_owned(), start);
        monitor.judge(&looked(true, true), Duration::ZERO, start + VICTIM_GOES / 2);
        assert_eq!(monitor.victim(), Some("u"));
        monitor.judge(&looked(true, true), Duration::ZERO, start + VICTIM_GOES);
        assert_eq!(monitor.victim(), None);
    }
}
