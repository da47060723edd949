//! What the machine remembers of one container.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::action::{ActionId, Instance};
use super::event::{Created, User};
use super::grace::{Hook, Stop};
use super::probe::Probe;
use super::restart::CrashBackOff;
use super::spec::{ContainerSpec, ProbeKind, Resources, Signal};
use super::status::{Terminated, Waiting};
use super::timer::{Instant, WallTime};

/// Dead instances that are remembered: `state` and `lastState` (CS3).
pub(super) const DEAD_KEPT: usize = 2;

/// The way of one instance, from the image to the exit.
///
/// ```text
/// Absent ──> Pulling ──> Creating ─(─> Made ─)─> Starting ──> PostStart ──> Running ──> Absent
///   ^            │           │           │           │            └─────────────┴── exit ──^
///   └────────────┘           └───────────┴─ Removing ┘  (no answer, or not wanted any more)
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Run {
    /// Nothing lives and nothing is under way.
    Absent,
    Pulling {
        action: ActionId,
        give_up: Instant,
    },
    Creating {
        action: ActionId,
        instance: Instance,
        give_up: Instant,
    },
    /// Prepared ahead of its turn.
    Made {
        instance: Instance,
        made: Created,
    },
    Starting {
        action: ActionId,
        instance: Instance,
        give_up: Instant,
    },
    /// The process runs, its hook too (LC6).
    PostStart {
        instance: Instance,
        started: Instant,
        wall: WallTime,
        /// None: it failed, and the container is being stopped.
        hook: Option<Hook>,
    },
    Running {
        instance: Instance,
        started: Instant,
        wall: WallTime,
    },
    /// The engine is told to forget the instance, whatever became of it; nothing new starts before it has.
    Removing {
        action: ActionId,
        instance: Instance,
        give_up: Instant,
        /// The process may have run: it counts as lost (CS6).
        started: bool,
    },
}

impl Run {
    /// The instance that exists or may exist in the engine.
    pub(super) fn instance(&self) -> Option<Instance> {
        match self {
            Self::Absent | Self::Pulling { .. } => None,
            Self::Creating { instance, .. }
            | Self::Made { instance, .. }
            | Self::Starting { instance, .. }
            | Self::PostStart { instance, .. }
            | Self::Running { instance, .. }
            | Self::Removing { instance, .. } => Some(*instance),
        }
    }

    /// The process lives, as far as is known, and with it what a kill can reach.
    pub(super) fn live(&self) -> Option<Instance> {
        match self {
            Self::PostStart { instance, .. } | Self::Running { instance, .. } => Some(*instance),
            Self::Absent
            | Self::Pulling { .. }
            | Self::Creating { .. }
            | Self::Made { .. }
            | Self::Starting { .. }
            | Self::Removing { .. } => None,
        }
    }

    /// A start is under way: no other container of the pod starts meanwhile (IN5, LC6).
    pub(super) fn is_starting(&self) -> bool {
        match self {
            Self::Pulling { .. }
            | Self::Creating { .. }
            | Self::Made { .. }
            | Self::Starting { .. }
            | Self::PostStart { .. } => true,
            Self::Absent | Self::Running { .. } | Self::Removing { .. } => false,
        }
    }

    /// Between its image and its process: nothing that a user wrote runs.
    pub(super) fn is_being_made(&self) -> bool {
        match self {
            Self::Creating { .. } | Self::Made { .. } | Self::Starting { .. } => true,
            Self::Absent
            | Self::Pulling { .. }
            | Self::PostStart { .. }
            | Self::Running { .. }
            | Self::Removing { .. } => false,
        }
    }

    /// The answer that is waited for, and when it is given up.
    pub(super) fn awaited(&self) -> Option<(ActionId, Instant)> {
        match self {
            Self::Absent | Self::Made { .. } | Self::PostStart { .. } | Self::Running { .. } => None,
            Self::Pulling { action, give_up }
            | Self::Creating { action, give_up, .. }
            | Self::Starting { action, give_up, .. }
            | Self::Removing { action, give_up, .. } => Some((*action, *give_up)),
        }
    }
}

/// What follows the end of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Fate {
    /// Rules and policy decide by the exit code.
    ByPolicy,
    /// Starts again whatever the code (IN12, RR3, IN8).
    Restart,
    /// Stays dead (RC4).
    Stay,
}

/// An ended instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Dead {
    pub(super) instance: Instance,
    pub(super) record: Terminated,
    pub(super) fate: Fate,
    /// When the machine learnt of it: what back-off counts from (CB2).
    pub(super) at: Instant,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Container {
    pub(super) run: Run,
    /// Only while the process lives.
    pub(super) stop: Option<Stop>,
    /// Newest first, at most [`DEAD_KEPT`].
    pub(super) dead: Vec<Dead>,
    /// Shown instead of the default or the newest death (CS4).
    pub(super) waiting: Option<Waiting>,
    /// No start before this instant: back-off, or the pause after a failed start.
    pub(super) retry_at: Option<Instant>,
    pub(super) back_off: Option<CrashBackOff>,
    /// The end of the newest instance is no crash: it starts again without back-off.
    pub(super) immediate: bool,
    /// A start was attempted since the sandbox came (or all containers were restarted).
    pub(super) begun: bool,
    /// Being prepared before its turn: others that come before it are still starting (IN5).
    #[serde(default)]
    pub(super) ahead: bool,
    /// A regular init container ended well (IN4).
    pub(super) done: bool,
    pub(super) next_attempt: u32,
    pub(super) restart_count: u32,
    /// `ErrImagePull` turns into `ImagePullBackOff` then.
    pub(super) image_error_until: Option<Instant>,
    /// The image as the running instance's spec wrote it: another one now means IN12.
    pub(super) made_of: String,
    /// What its cgroup was given; none: what the spec says.
    #[serde(default)]
    pub(super) actual: Option<Resources>,
    /// A change of its cgroup began, and nobody knows whether it is done.
    #[serde(default)]
    pub(super) unsure: bool,
    /// It restarts because of a resize and does not run again yet (RZ7).
    #[serde(default)]
    pub(super) resizing: bool,
    pub(super) image_id: String,
    pub(super) image: String,
    pub(super) id: String,
    pub(super) user: Option<User>,
    pub(super) image_stop_signal: Option<Signal>,
    pub(super) probes: BTreeMap<ProbeKind, Probe>,
    /// `started` of the status (CS9).
    pub(super) started: bool,
}

impl Container {
    /// Before anything happened.
    pub(super) fn new(spec: &ContainerSpec) -> Self {
        Self {
            run: Run::Absent,
            stop: None,
            dead: Vec::new(),
            waiting: None,
            retry_at: None,
            back_off: None,
            immediate: false,
            begun: false,
            ahead: false,
            done: false,
            next_attempt: spec.first_attempt,
            restart_count: spec.first_attempt,
            image_error_until: None,
            made_of: String::new(),
            actual: None,
            unsure: false,
            resizing: false,
            image_id: String::new(),
            image: spec.image.clone(),
            id: String::new(),
            user: None,
            image_stop_signal: None,
            probes: BTreeMap::new(),
            started: false,
        }
    }

    /// The newest ended instance.
    pub(super) fn newest_dead(&self) -> Option<&Dead> {
        self.dead.first()
    }

    /// Running, and past its postStart hook: what the status calls Running.
    pub(super) fn is_running(&self) -> bool {
        match self.run {
            Run::Running { .. } => true,
            Run::Absent
            | Run::Pulling { .. }
            | Run::Creating { .. }
            | Run::Made { .. }
            | Run::Starting { .. }
            | Run::PostStart { .. }
            | Run::Removing { .. } => false,
        }
    }

    /// Readiness of an app container or sidecar (CS10).
    pub(super) fn is_ready(&self) -> bool {
        self.started && self.probes.get(&ProbeKind::Readiness).is_none_or(Probe::result)
    }

    /// Shows why the container waits.
    pub(super) fn wait(&mut self, reason: &str, message: String) {
        self.waiting = Some(Waiting { reason: reason.to_owned(), message });
    }

    /// Nothing hinders the next start any more.
    pub(super) fn clear_waiting(&mut self) {
        self.waiting = None;
        self.retry_at = None;
        self.image_error_until = None;
    }

    /// Starts again whatever it ended with, and without back-off (RR4).
    pub(super) fn begin_anew(&mut self, not_before: Option<Instant>) {
        self.clear_waiting();
        self.immediate = true;
        self.retry_at = not_before;
        self.dead.truncate(1);
        for dead in &mut self.dead {
            dead.fate = Fate::Restart;
        }
        self.wait(
            "RestartingAllContainers",
            "The container is removed because RestartAllContainers in place".to_owned(),
        );
    }

    /// Enters a death; returns the instance that is to be forgotten (CS3).
    pub(super) fn bury(&mut self, dead: Dead) -> Option<Instance> {
        self.run = Run::Absent;
        self.stop = None;
        self.started = false;
        self.probes.clear();
        self.dead.insert(0, dead);
        if self.dead.len() > DEAD_KEPT { self.dead.pop().map(|old| old.instance) } else { None }
    }

    /// The stop signal in force (LC11).
    pub(super) fn stop_signal(&self, spec: &ContainerSpec) -> Signal {
        spec.stop_signal.or(self.image_stop_signal).unwrap_or(Signal::TERM)
    }
}
