//! The machine of one pod: its interface, and the loop that brings it to rest.
//!
//! Four kinds of methods, to be called in this order by the driver:
//!
//! 1. [`Machine::handle`] and [`Machine::handle_timeout`] for what happened outside, and the mutators ([`Machine::delete`],
//!    [`Machine::set_image`], ...) for what the user wants;
//! 2. [`Machine::snapshot`] when the state is to survive the daemon: it is written before the next step;
//! 3. [`Machine::poll_action`] and [`Machine::poll_event_record`] until both are empty;
//! 4. [`Machine::next_timeout`] for when to call `handle_timeout` at the latest, and [`Machine::status`] to publish.
//!
//! Calling `handle_timeout` too early or too often changes nothing.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::action::{Action, ActionId, Instance, Todo};
use super::container::{Container, Fate, Run};
use super::event::{Event, KubeEvent, SandboxReady, Severity};
use super::grace::{Cause, Hook, Stage};
use super::resize::Resize;
use super::restart::ImageBackOff;
use super::spec::{ContainerSpec, Index, PodSpec};
use super::status::{Condition, Deletion, Phase, Status, Truth};
use super::timer::{Earliest, Instant, Now, WallTime};

/// What the pod as a whole is on its way to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Goal {
    /// Containers run, start and restart.
    Run,
    /// All containers end and start anew in the same sandbox (RR4).
    RestartAll,
    /// All containers end, then the sandbox is made anew (IN8).
    NewSandbox,
    /// All containers end, then sandbox and volumes go; a deleted pod is removed.
    End,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Sandbox {
    Absent,
    /// A failed attempt; the next one comes then.
    Waiting {
        until: Instant,
    },
    Creating {
        action: ActionId,
        give_up: Instant,
    },
    Ready(SandboxReady),
    /// Pause or network are gone; what is left of it has to be cleared away.
    Lost,
    Stopping {
        action: ActionId,
        give_up: Instant,
    },
    /// Stopping failed; repeated then.
    StopWaiting {
        until: Instant,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Volumes {
    Absent,
    Waiting { until: Instant, delay: Duration },
    SettingUp { action: ActionId, give_up: Instant, delay: Option<Duration> },
    Ready,
    TearingDown { action: ActionId, give_up: Instant },
    TearDownWaiting { until: Instant },
}

/// The last step of a deleted pod (TR7).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Removal {
    NotYet,
    Removing { action: ActionId, give_up: Instant },
    Waiting { until: Instant },
    Gone,
}

/// A phase with its reason, as decided by something else than the containers (PH11).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ending {
    pub phase: Phase,
    pub reason: Option<String>,
    pub message: Option<String>,
}

/// Everything that has to survive the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PodState {
    pub goal: Goal,
    pub sandbox: Sandbox,
    pub sandbox_attempt: u32,
    pub volumes: Volumes,
    pub removal: Removal,
    pub containers: Vec<Container>,
    /// The init sequence was complete in this sandbox.
    pub initialized: bool,
    /// Some app container exists in this sandbox (`podHasInitialized`).
    pub has_initialized: bool,
    pub images: BTreeMap<String, ImageBackOff>,
    pub start_time: WallTime,
    /// Of the newest sandbox; kept when it is gone, so that a completed pod still shows them.
    pub ips: Vec<IpAddr>,
    /// When the pod began in this boot, and how long it had lived before (DL1).
    pub began: Instant,
    pub lived_before: Duration,
    pub deletion: Option<Deletion>,
    /// The grace in force for the whole pod, once it ends.
    pub ending_since: Option<(Instant, Duration)>,
    /// A final phase, sticky (PH9).
    pub ending: Option<Ending>,
    /// Set by others: readiness gates, `DisruptionTarget` (CO6, CO11).
    pub foreign: Vec<Condition>,
    #[serde(default)]
    pub resize: Resize,
    /// Status and last change of our own conditions.
    pub transitions: BTreeMap<String, (Truth, WallTime)>,
    pub next_id: u64,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Machine {
    pub(super) spec: PodSpec,
    pub(super) state: PodState,
    pub(super) actions: VecDeque<Action>,
    pub(super) records: VecDeque<KubeEvent>,
    /// What is told of a container once its turn to start has come (IN5).
    pub(super) held: Vec<KubeEvent>,
    #[cfg(test)]
    pub(super) mutant: Option<Mutant>,
}

/// A rule that is broken on purpose, so that a test can show that the simulation's invariant finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mutant {
    /// Starts a replacement while the old instance may live.
    StartBesideLiving,
    /// App containers don't wait for init containers and sidecars.
    SkipInit,
    /// The next container starts while a postStart hook runs.
    PassHook,
    /// Runs the preStop hook again when the grace is shortened.
    RepeatHook,
    /// Kills without waiting for the grace.
    KillEarly,
    /// Sidecars are signalled with the apps.
    ForgetOrder,
    /// A final phase is computed anew.
    ForgetPhase,
    /// The attempt number starts again with the sandbox.
    ForgetAttempts,
    /// The sandbox of an ended pod stays.
    KeepSandbox,
    /// A crashed container is never started again.
    LoseRetry,
    /// Ready without having started.
    ReadyTooEarly,
}

/// A machine that needs more rounds than this to come to rest has a bug; no pod has a reason for it.
const ROUNDS_MAX: usize = 10_000;

impl Machine {
    /// A pod that the node acknowledges now (PH14). Its first actions wait to be polled.
    pub fn new(spec: PodSpec, now: Now) -> Self {
        let mut machine = Self::at_rest(spec, now);
        machine.settle(now);
        machine
    }

    /// Before anything was decided.
    pub(super) fn at_rest(spec: PodSpec, now: Now) -> Self {
        let state = PodState {
            goal: Goal::Run,
            sandbox: Sandbox::Absent,
            sandbox_attempt: 0,
            volumes: Volumes::Absent,
            removal: Removal::NotYet,
            containers: spec.containers.iter().map(Container::new).collect(),
            initialized: false,
            has_initialized: false,
            images: BTreeMap::new(),
            start_time: now.wall,
            ips: Vec::new(),
            began: now.mono,
            lived_before: Duration::ZERO,
            deletion: None,
            ending_since: None,
            ending: None,
            foreign: Vec::new(),
            resize: Resize::default(),
            transitions: BTreeMap::new(),
            next_id: 1,
        };
        Self {
            spec,
            state,
            actions: VecDeque::new(),
            records: VecDeque::new(),
            held: Vec::new(),
            #[cfg(test)]
            mutant: None,
        }
    }

    /// The specification as it is now.
    pub fn spec(&self) -> &PodSpec {
        &self.spec
    }

    /// Takes in what happened.
    pub fn handle(&mut self, event: Event, now: Now) {
        self.apply(event, now);
        self.settle(now);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        self.settle(now);
    }

    /// The next thing to do, if any.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The next Kubernetes Event to publish, if any.
    pub fn poll_event_record(&mut self) -> Option<KubeEvent> {
        self.records.pop_front()
    }

    /// What to show.
    pub fn status(&self) -> Status {
        super::phase::status(self)
    }

    /// A container that a probe killed is on its way back, without having to wait. The kubelet kills and starts it in one
    /// step, and nobody sees it ended in between: what the status says now is not to be published.
    pub fn is_replacing(&self) -> bool {
        let killed = |c: &Container| !c.immediate && c.newest_dead().is_some_and(|dead| dead.fate == Fate::Restart);
        let replaced = |c: &Container| killed(c) && c.waiting.is_none() && !c.is_running();
        self.may_start() && self.state.containers.iter().any(replaced)
    }

    /// The pod was deleted and nothing of it is left: the machine can be dropped.
    pub fn is_gone(&self) -> bool {
        self.state.removal == Removal::Gone
    }

    /// The pod has come to its end: all containers have stopped, sandbox and volumes are gone.
    pub fn is_finished(&self) -> bool {
        self.state.goal == Goal::End
            && self.state.sandbox == Sandbox::Absent
            && self.state.volumes == Volumes::Absent
            && self.state.containers.iter().all(|c| c.run == Run::Absent)
    }

    /// When to call [`Machine::handle_timeout`] at the latest; none while only events can change something.
    pub fn next_timeout(&self, now: Now) -> Option<Instant> {
        let mut earliest = Earliest::default();
        self.pod_deadlines(&mut earliest);
        for index in 0..self.state.containers.len() {
            self.container_deadlines(index, now, &mut earliest);
        }
        self.start_deadlines(&mut earliest);
        earliest.get()
    }

    fn pod_deadlines(&self, earliest: &mut Earliest) {
        match &self.state.sandbox {
            Sandbox::Absent | Sandbox::Ready(_) | Sandbox::Lost => {}
            Sandbox::Waiting { until } | Sandbox::StopWaiting { until } => earliest.at(*until),
            Sandbox::Creating { give_up, .. } | Sandbox::Stopping { give_up, .. } => earliest.at(*give_up),
        }
        match &self.state.volumes {
            Volumes::Absent | Volumes::Ready => {}
            Volumes::Waiting { until, .. } | Volumes::TearDownWaiting { until } => earliest.at(*until),
            Volumes::SettingUp { give_up, .. } | Volumes::TearingDown { give_up, .. } => earliest.at(*give_up),
        }
        match &self.state.removal {
            Removal::NotYet | Removal::Gone => {}
            Removal::Removing { give_up, .. } => earliest.at(*give_up),
            Removal::Waiting { until } => earliest.at(*until),
        }
        if let Some(deadline) = self.pending_deadline() {
            earliest.at(deadline);
        }
        if self.state.goal == Goal::Run
            && let Some(progress) = &self.state.resize.progress
        {
            progress.deadline(earliest);
        }
    }

    fn container_deadlines(&self, index: usize, now: Now, earliest: &mut Earliest) {
        let Some(container) = self.state.containers.get(index) else {
            return;
        };
        if let Some((_, give_up)) = container.run.awaited() {
            earliest.at(give_up);
        }
        if let Run::PostStart { hook: Some(hook), .. } = &container.run {
            hook_deadline(hook, earliest);
        }
        if let Some(at) = container.image_error_until {
            earliest.at(at);
        }
        if let Some(stop) = &container.stop {
            match &stop.stage {
                Stage::PreStop(hook) => {
                    hook_deadline(hook, earliest);
                    earliest.at(stop.spent_at());
                }
                Stage::Turn { from, left } => earliest.at(from.after(*left)),
                Stage::Signalled { kill_at } => earliest.at(*kill_at),
                Stage::Killed { again_at } => earliest.at(*again_at),
            }
        }
        for kind in self.active_probes(index) {
            if let Some(at) = container.probes.get(&kind).and_then(|probe| probe.deadline(now.mono)) {
                earliest.at(at);
            }
        }
    }

    /// Repeats until nothing more is to do at this moment.
    pub(super) fn settle(&mut self, now: Now) {
        for _ in 0..ROUNDS_MAX {
            if !self.round(now) {
                self.refresh(now);
                return;
            }
        }
        debug_assert!(false, "the machine of {} does not come to rest", self.spec.description());
    }

    fn round(&mut self, now: Now) -> bool {
        self.check_deadline(now)
            || self.give_up_late(now)
            || self.advance_stops(now)
            || self.check_definitions(now)
            || self.advance_resize(now)
            || self.run_probes(now)
            || self.take_turn(now)
            || self.advance_pod(now)
    }

    /// Records what must not be forgotten once it was shown: transition times and the final phase (PH9).
    fn refresh(&mut self, now: Now) {
        let status = super::phase::status_at(self, now.wall);
        if status.phase.is_final() && self.state.ending.is_none() {
            self.state.ending = Some(Ending { phase: status.phase, reason: None, message: None });
        }
        // A condition that comes back is a new one (CO7, CO8).
        self.state.transitions.retain(|kind, _| status.conditions.iter().any(|own| own.kind == *kind));
        for condition in status.conditions {
            if !self.state.foreign.iter().any(|f| f.kind == condition.kind) {
                self.state.transitions.insert(condition.kind, (condition.status, condition.last_transition));
            }
        }
    }

    // What the parts share.

    /// Queues an action.
    pub(super) fn act(&mut self, todo: Todo) -> ActionId {
        let id = ActionId(self.next_number());
        self.actions.push_back(Action { id, todo });
        id
    }

    pub(super) fn next_number(&mut self) -> u64 {
        let number = self.state.next_id;
        self.state.next_id += 1;
        number
    }

    pub(super) fn cancel(&mut self, action: ActionId) {
        self.act(Todo::Cancel { action });
    }

    pub(super) fn record(
        &mut self,
        severity: Severity,
        reason: &'static str,
        message: String,
        index: Option<usize>,
        now: Now,
    ) {
        let container = index.and_then(|i| u16::try_from(i).ok()).map(Index);
        let event = KubeEvent { severity, reason, message, container, at: now.wall };
        if index.and_then(|i| self.state.containers.get(i)).is_some_and(|c| c.ahead) {
            self.held.push(event);
        } else {
            self.records.push_back(event);
        }
    }

    /// Spec and state of one container, both to be had at once.
    pub(super) fn parts(&mut self, index: usize) -> Option<(&ContainerSpec, &mut Container)> {
        Some((self.spec.containers.get(index)?, self.state.containers.get_mut(index)?))
    }

    pub(super) fn pair(&self, index: usize) -> Option<(&ContainerSpec, &Container)> {
        Some((self.spec.containers.get(index)?, self.state.containers.get(index)?))
    }

    /// Where this instance is the current one.
    pub(super) fn current(&self, instance: Instance) -> Option<usize> {
        let index = usize::from(instance.container.0);
        let container = self.state.containers.get(index)?;
        (container.run.instance() == Some(instance)).then_some(index)
    }

    #[cfg(test)]
    pub(super) fn is_mutant(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "rules are broken in tests only")]
    pub(super) fn is_mutant(&self, _: Mutant) -> bool {
        false
    }

    fn pending_deadline(&self) -> Option<Instant> {
        let over = self.state.goal == Goal::End || self.state.ending.is_some();
        let span = self.spec.active_deadline.filter(|_| !over)?;
        Some(self.state.began.after(span.saturating_sub(self.state.lived_before)))
    }

    /// Rule DL1.
    fn check_deadline(&mut self, now: Now) -> bool {
        if self.pending_deadline().is_none_or(|at| now.mono < at) {
            return false;
        }
        let message = "Pod was active on the node longer than the specified deadline";
        self.record(Severity::Normal, "DeadlineExceeded", message.to_owned(), None, now);
        self.state.ending = Some(Ending {
            phase: Phase::Failed,
            reason: Some("DeadlineExceeded".to_owned()),
            message: Some(message.to_owned()),
        });
        self.end_pod(None, now);
        true
    }

    /// The pod is over: nothing starts any more, everything is stopped within `grace` (none: the pod's own).
    pub(super) fn end_pod(&mut self, grace: Option<Duration>, now: Now) {
        let requested = grace.unwrap_or(self.spec.grace);
        let grace = match self.state.deletion {
            Some(deletion) => requested.min(Duration::from_secs(deletion.grace_seconds)),
            None => requested,
        };
        let grace = if grace.is_zero() && self.state.deletion.is_none() && self.spec.grace.is_zero() {
            grace
        } else {
            super::grace::of_pod(grace)
        };
        self.state.goal = Goal::End;
        self.stop_all(Cause::PodEnds, grace, now);
    }
}

fn hook_deadline(hook: &Hook, earliest: &mut Earliest) {
    match hook {
        Hook::Action { give_up, .. } => {
            if let Some(at) = give_up {
                earliest.at(*at);
            }
        }
        Hook::Sleep { until, .. } => earliest.at(*until),
    }
}
