//! What users want of a pod that lives already.

use std::time::Duration;

use super::container::Container;
use super::event::Severity;
use super::machine::{Ending, Goal, Machine};
use super::spec::{ContainerSpec, Index, PodSpec, PullPolicy};
use super::status::{Condition, Deletion, Phase};
use super::timer::{EVICTION_GRACE, Now, WallTime};

impl Machine {
    /// A pod that the node refuses (PH15): it has failed, and nothing of it is ever made.
    pub fn rejected(spec: PodSpec, reason: &'static str, message: &str, now: Now) -> Self {
        let mut machine = Self::at_rest(spec, now);
        machine.record(Severity::Warning, reason, message.to_owned(), None, now);
        machine.state.goal = Goal::End;
        machine.state.ending = Some(Ending {
            phase: Phase::Failed,
            reason: Some(reason.to_owned()),
            message: Some(format!("Pod was rejected: {message}")),
        });
        machine.settle(now);
        machine
    }

    /// Deletion with a grace in whole seconds (DE1, DE2); 0 means by force (TR8). A second one can only shorten (TR9).
    pub fn delete(&mut self, grace: Duration, now: Now) {
        let seconds = grace.as_secs();
        let timestamp = WallTime(now.wall.0.saturating_add(i64::try_from(grace.as_nanos()).unwrap_or(i64::MAX)));
        match &self.state.deletion {
            Some(known) if known.grace_seconds <= seconds => {}
            Some(known) => {
                let timestamp = timestamp.min(known.timestamp);
                self.state.deletion = Some(Deletion { timestamp, grace_seconds: seconds });
                self.end_pod(Some(grace), now);
            }
            None => {
                self.state.deletion = Some(Deletion { timestamp, grace_seconds: seconds });
                self.end_pod(Some(grace), now);
                self.retire_probes();
            }
        }
        self.settle(now);
    }

    /// Ends everything that runs now, whatever grace is left: for somebody who sits in front of it and has asked twice. What the
    /// API asks for goes by [`Self::delete`], whose shortest way takes two seconds (step 4 of section 2.4).
    pub fn end_at_once(&mut self, now: Now) {
        self.delete(Duration::ZERO, now);
        self.kill_all(now);
        self.settle(now);
    }

    /// Fails the pod from outside: eviction, node shutdown (PH11, EV7, TR13). `grace` of none is the pod's own. A pod that
    /// has a final phase already keeps it.
    pub fn fail(&mut self, reason: &str, message: &str, grace: Option<Duration>, now: Now) {
        if self.state.ending.is_none() {
            self.state.ending = Some(Ending {
                phase: Phase::Failed,
                reason: Some(reason.to_owned()),
                message: Some(message.to_owned()),
            });
        }
        self.end_pod(grace, now);
        self.settle(now);
    }

    /// What the pod takes of the node is more than it may (EV1, EV7).
    pub fn evict(&mut self, message: &str, now: Now) {
        const REASON: &str = "Evicted";
        self.record(Severity::Warning, REASON, message.to_owned(), None, now);
        self.fail(REASON, message, Some(EVICTION_GRACE), now);
    }

    /// A critical pod needs its place (section 10.8); it gets its own grace.
    pub fn preempt(&mut self, message: &str, now: Now) {
        const REASON: &str = "Preempting";
        self.record(Severity::Warning, REASON, message.to_owned(), None, now);
        self.fail(REASON, message, None, now);
    }

    /// Another image for a container (IN12); the generation of the changed spec.
    pub fn set_image(&mut self, index: Index, image: &str, policy: PullPolicy, generation: i64, now: Now) {
        self.spec.generation = self.spec.generation.max(generation);
        let Some(spec) = self.spec.containers.get_mut(usize::from(index.0)) else {
            return;
        };
        spec.pull_policy = policy;
        if spec.image != image {
            spec.image = image.to_owned();
            self.image_changed(usize::from(index.0));
        }
        self.settle(now);
    }

    /// Adds a container to a pod that lives already (EP1, EP2). A name that is known changes nothing.
    pub fn add_ephemeral(&mut self, container: ContainerSpec, generation: i64, now: Now) {
        self.spec.generation = self.spec.generation.max(generation);
        if self.spec.find(&container.name).is_none() {
            self.state.containers.push(Container::new(&container));
            self.spec.containers.push(container);
        }
        self.settle(now);
    }

    /// A condition that somebody else owns, such as a readiness gate's (CO5, CO11).
    pub fn set_condition(&mut self, mut condition: Condition, now: Now) {
        match self.state.foreign.iter_mut().find(|known| known.kind == condition.kind) {
            Some(known) => {
                if known.status == condition.status {
                    condition.last_transition = known.last_transition;
                }
                *known = condition;
            }
            None => self.state.foreign.push(condition),
        }
        self.settle(now);
    }

    /// `activeDeadlineSeconds` set or lowered (DL2), measured from the pod's start (DL1).
    pub fn set_deadline(&mut self, span: Duration, generation: i64, now: Now) {
        self.spec.generation = self.spec.generation.max(generation);
        if self.spec.active_deadline.is_none_or(|known| span < known) {
            self.spec.active_deadline = Some(span);
        }
        self.settle(now);
    }
}
