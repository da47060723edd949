//! The end of all pods, in order: for a shutdown of the machine, and before Monopod is removed (TR13).
//!
//! Ordinary pods end first, then critical ones, each stage at most for its part of the period. While the node drains and
//! until the daemon starts again, nothing new is taken in. A static pod comes back with the next start.

use std::time::Duration;

use tokio::time::Instant;

use super::pods::Pods;
use crate::admission::defaults::CRITICAL;
pub use crate::convert::status::DISRUPTION;
use crate::node::Node;
use crate::pod::status::{Condition, Truth};
use crate::pod::timer::WallTime;

/// `status.reason` of a pod that ended so.
pub const REASON: &str = "Terminated";
const MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";
/// The reason of [`DISRUPTION`] when the node decides.
pub const BY_KUBELET: &str = "TerminationByKubelet";

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Ordinary { until: Instant },
    Critical { until: Instant },
    Done,
}

/// How long each stage may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Periods {
    pub ordinary: Duration,
    pub critical: Duration,
}

/// A drain that goes on.
#[derive(Debug)]
pub struct Drain {
    periods: Periods,
    stage: Stage,
}

impl Drain {
    pub fn begin(periods: Periods, pods: &mut Pods, node: &mut Node) -> Self {
        tracing::info!("draining: pods end");
        pods.refuse();
        let until = Instant::now() + periods.ordinary;
        end(pods, node, periods.ordinary, |priority| priority < CRITICAL);
        Self { periods, stage: Stage::Ordinary { until } }
    }

    /// When to look again at the latest.
    pub fn until(&self) -> Option<Instant> {
        match self.stage {
            Stage::Ordinary { until } | Stage::Critical { until } => Some(until),
            Stage::Done => None,
        }
    }

    pub fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    /// Goes on when a stage is over.
    pub fn advance(&mut self, pods: &mut Pods, node: &mut Node) {
        let now = Instant::now();
        if let Stage::Ordinary { until } = self.stage
            && (until <= now || left(pods, node, |priority| priority < CRITICAL) == 0)
        {
            end(pods, node, self.periods.critical, |priority| priority >= CRITICAL);
            self.stage = Stage::Critical { until: now + self.periods.critical };
        }
        if let Stage::Critical { until } = self.stage
            && (until <= now || left(pods, node, |_| true) == 0)
        {
            let left = left(pods, node, |_| true);
            tracing::info!(left, "drained");
            self.stage = Stage::Done;
        }
    }

    /// Pods that have not ended.
    pub fn left(&self, pods: &Pods, node: &Node) -> usize {
        left(pods, node, |_| true)
    }
}

fn left(pods: &Pods, node: &Node, wanted: impl Fn(i32) -> bool) -> usize {
    pods.priorities().filter(|(uid, priority)| wanted(*priority) && node.has(uid) && !node.is_finished(uid)).count()
}

fn end(pods: &Pods, node: &mut Node, period: Duration, wanted: impl Fn(i32) -> bool) {
    let all: Vec<String> =
        pods.priorities().filter(|(_, priority)| wanted(*priority)).map(|(uid, _)| uid.to_owned()).collect();
    for uid in all {
        let over = node.status(&uid).is_none_or(|status| status.phase.is_final());
        if over {
            continue;
        }
        node.change(&uid, |machine, now| {
            machine.set_condition(disruption(BY_KUBELET, MESSAGE, machine.spec().generation, now.wall), now);
            let grace = machine.spec().grace.min(period);
            machine.fail(REASON, MESSAGE, Some(grace), now);
        });
    }
}

/// Rule CO6.
pub(super) fn disruption(reason: &str, message: &str, generation: i64, wall: WallTime) -> Condition {
    Condition {
        kind: DISRUPTION.to_owned(),
        status: Truth::True,
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_transition: wall,
        observed_generation: generation,
    }
}
