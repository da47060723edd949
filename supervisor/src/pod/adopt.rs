//! The machine's memory across a restart of the daemon (D43).
//!
//! The snapshot is written after every change and before the actions of that change are executed. So whatever the engine
//! shows is known to the snapshot, and what the snapshot waits for was either done or never begun; looking at the engine
//! tells which. No call is repeated that could start something twice.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::action::{Instance, Todo};
use super::container::Run;
use super::event::{Boot, Created, Exit, Observed, ObservedState};
use super::grace::{Hook, Stage};
use super::machine::{Goal, Machine, PodState, Removal, Sandbox, Volumes};
use super::spec::PodSpec;
use super::timer::{ENGINE_TIMEOUT, Instant, Now};

/// Version of [`Snapshot`]'s format.
pub const SNAPSHOT_VERSION: u16 = 1;

/// Everything that a machine has to remember.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    pub version: u16,
    pub(super) state: PodState,
}

/// Why a snapshot can't be taken over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdoptError {
    #[error("pod {pod}: snapshot has version {found}, known is {SNAPSHOT_VERSION}")]
    Version { pod: String, found: u16 },
    #[error("pod {pod}: snapshot has {found} containers, the spec {expected}")]
    Containers { pod: String, found: usize, expected: usize },
}

impl Snapshot {
    /// `status.reason` of a pod that was ended from outside.
    pub fn ending_reason(&self) -> Option<&str> {
        self.state.ending.as_ref()?.reason.as_deref()
    }
}

impl Machine {
    /// What to write down before the next actions are polled.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot { version: SNAPSHOT_VERSION, state: self.state.clone() }
    }

    /// Takes over a pod from an earlier life of the daemon. `observed` is what the engine shows now; exits that happened
    /// meanwhile may be in it or come as events later. After a new boot nothing of the pod runs any more (IN9).
    ///
    /// # Errors
    /// A snapshot of another version, or of another pod.
    pub fn adopt(
        spec: PodSpec,
        snapshot: Snapshot,
        observed: Observed,
        boot: Boot,
        now: Now,
    ) -> Result<Self, AdoptError> {
        let pod = || spec.description();
        if snapshot.version != SNAPSHOT_VERSION {
            return Err(AdoptError::Version { pod: pod(), found: snapshot.version });
        }
        let (found, expected) = (snapshot.state.containers.len(), spec.containers.len());
        if found != expected {
            return Err(AdoptError::Containers { pod: pod(), found, expected });
        }
        let mut machine = Self::at_rest(spec, now);
        machine.state = snapshot.state;
        machine.rebase(boot, now);
        machine.take_over(observed, now);
        machine.settle(now);
        Ok(machine)
    }

    /// Back-off is lost with the daemon (CB9). After a boot, instants of the old clock mean nothing.
    fn rebase(&mut self, boot: Boot, now: Now) {
        for container in &mut self.state.containers {
            container.back_off = None;
            container.retry_at = None;
            container.image_error_until = None;
            container.immediate = true;
            container.ahead = false;
            for probe in container.probes.values_mut() {
                probe.forget_action();
            }
        }
        self.state.images.clear();
        if let Some(progress) = &mut self.state.resize.progress {
            progress.forget_action();
        }
        match boot {
            Boot::Same => {}
            Boot::New => {
                self.state.lived_before = now.wall.since(self.state.start_time);
                self.state.began = now.mono;
                self.state.ending_since = self.state.ending_since.map(|(_, grace)| (now.mono, grace));
                for container in &mut self.state.containers {
                    for dead in &mut container.dead {
                        dead.at = now.mono;
                    }
                }
            }
        }
    }

    fn take_over(&mut self, observed: Observed, now: Now) {
        self.take_over_volumes(now);
        let ready = observed.sandbox.filter(|(attempt, _)| *attempt == self.state.sandbox_attempt);
        let lost = self.take_over_sandbox(ready.map(|(_, ready)| ready), now);
        for (instance, _) in &observed.containers {
            if self.current(*instance).is_none() && !self.is_buried(*instance) {
                self.act(Todo::RemoveContainer { instance: *instance });
            }
        }
        for index in 0..self.state.containers.len() {
            let instance = self.state.containers.get(index).and_then(|c| c.run.instance());
            let seen = observed.containers.iter().find(|(seen, _)| Some(*seen) == instance);
            self.take_over_container(index, seen.map(|(_, state)| state.clone()), now);
        }
        if lost {
            self.sandbox_lost(now);
        }
    }

    fn is_buried(&self, instance: Instance) -> bool {
        self.state.containers.iter().any(|c| c.dead.iter().any(|dead| dead.instance == instance))
    }

    fn take_over_volumes(&mut self, now: Now) {
        match self.state.volumes {
            Volumes::Absent | Volumes::Ready => {}
            Volumes::Waiting { delay, .. } => self.state.volumes = Volumes::Waiting { until: now.mono, delay },
            Volumes::SettingUp { .. } => {
                self.state.volumes = Volumes::Waiting { until: now.mono, delay: Duration::ZERO }
            }
            Volumes::TearingDown { .. } | Volumes::TearDownWaiting { .. } => {
                self.state.volumes = Volumes::TearDownWaiting { until: now.mono };
            }
        }
        match self.state.removal {
            Removal::NotYet | Removal::Gone => {}
            Removal::Removing { .. } | Removal::Waiting { .. } => {
                self.state.removal = Removal::Waiting { until: now.mono };
            }
        }
    }

    /// True when the sandbox was lost while nobody looked.
    fn take_over_sandbox(&mut self, seen: Option<super::event::SandboxReady>, now: Now) -> bool {
        let stop = Sandbox::StopWaiting { until: now.mono };
        match (&self.state.sandbox, seen) {
            (Sandbox::Absent, None) => {}
            (Sandbox::Waiting { .. }, None) => self.state.sandbox = Sandbox::Waiting { until: now.mono },
            (Sandbox::Creating { .. } | Sandbox::Ready(_), Some(ready)) => self.sandbox_created(Ok(ready), now),
            (Sandbox::Ready(_), None) => return true,
            // Half of it may exist: it is cleared away first.
            (Sandbox::Creating { .. } | Sandbox::Stopping { .. } | Sandbox::StopWaiting { .. }, _)
            | (Sandbox::Absent | Sandbox::Waiting { .. }, Some(_)) => self.state.sandbox = stop,
            (Sandbox::Lost, _) => {}
        }
        false
    }

    fn take_over_container(&mut self, index: usize, seen: Option<ObservedState>, now: Now) {
        self.forget_hooks(index, now);
        let Some(run) = self.state.containers.get(index).map(|c| c.run.clone()) else {
            return;
        };
        match (run, seen) {
            (Run::Absent, _) => {}
            (Run::Pulling { .. }, _) | (Run::Creating { .. }, None) => self.set_run(index, Run::Absent),
            (Run::Creating { instance, .. }, Some(state)) => {
                let image = self.pair(index).map(|(_, c)| c.image.clone()).unwrap_or_default();
                let made = Created { id: self.container_id(index), image, user: None };
                match state {
                    // Its answer was lost; the instance is not known well enough to be used.
                    ObservedState::Created => self.remove(index, instance, false, now),
                    ObservedState::Running { started } => {
                        self.created(index, instance, made, now);
                        self.take_over_running(index, instance, started, now);
                    }
                    ObservedState::Exited(exit) => self.take_over_exit(index, instance, exit, now),
                }
            }
            // Its turn has not come: it is made anew in its order.
            (Run::Made { instance, .. }, _) => self.remove(index, instance, false, now),
            (Run::Starting { .. }, None) => self.take_over_loss(index, now),
            (Run::Starting { instance, .. }, Some(ObservedState::Created)) => {
                let action = self.act(Todo::StartContainer { instance });
                self.set_run(index, Run::Starting { action, instance, give_up: now.mono.after(ENGINE_TIMEOUT) });
            }
            (Run::Starting { instance, .. }, Some(ObservedState::Running { started })) => {
                self.take_over_running(index, instance, started, now);
            }
            (Run::PostStart { .. } | Run::Running { .. }, None) => self.take_over_loss(index, now),
            (
                Run::PostStart { .. } | Run::Running { .. },
                Some(ObservedState::Created | ObservedState::Running { .. }),
            ) => {}
            (
                Run::Starting { instance, .. } | Run::PostStart { instance, .. } | Run::Running { instance, .. },
                Some(ObservedState::Exited(exit)),
            ) => self.take_over_exit(index, instance, exit, now),
            (Run::Removing { instance, started, .. }, _) => self.remove(index, instance, started, now),
        }
    }

    /// It ran when the daemon came back; its postStart hook may have run and is not repeated (LC5).
    fn take_over_running(&mut self, index: usize, instance: Instance, wall: super::timer::WallTime, now: Now) {
        let started = Instant(now.mono.0.saturating_sub(u64::try_from(now.wall.since(wall).as_nanos()).unwrap_or(0)));
        self.set_run(index, Run::PostStart { instance, started, wall, hook: None });
        self.post_start_over(index);
    }

    fn take_over_exit(&mut self, index: usize, instance: Instance, exit: Exit, now: Now) {
        self.handle_exit(instance, exit, now);
        if let Some(container) = self.state.containers.get_mut(index) {
            container.immediate = true;
        }
    }

    fn take_over_loss(&mut self, index: usize, now: Now) {
        let instance = self.state.containers.get(index).and_then(|c| c.run.instance());
        if let Some(instance) = instance {
            self.lost(index, instance, now);
        }
    }

    /// Hooks that were running are neither waited for nor repeated; a stop signal is, since it may not have been sent.
    fn forget_hooks(&mut self, index: usize, now: Now) {
        let Some((spec, container)) = self.parts(index) else {
            return;
        };
        let signal = container.stop_signal(spec);
        let mut repeat = None;
        if let Some(stop) = &mut container.stop {
            match &stop.stage {
                Stage::PreStop(Hook::Action { .. }) => {
                    let left = super::grace::less(stop.grace, now.mono.since(stop.since));
                    stop.stage = Stage::Turn { from: now.mono, left };
                }
                Stage::Signalled { .. } => repeat = container.run.live(),
                Stage::PreStop(Hook::Sleep { .. }) | Stage::Turn { .. } | Stage::Killed { .. } => {}
            }
        }
        let over = match &container.run {
            Run::PostStart { hook: Some(Hook::Action { .. }), .. } => true,
            Run::PostStart { hook: Some(Hook::Sleep { .. }) | None, .. }
            | Run::Absent
            | Run::Pulling { .. }
            | Run::Creating { .. }
            | Run::Made { .. }
            | Run::Starting { .. }
            | Run::Running { .. }
            | Run::Removing { .. } => false,
        };
        if let Some(instance) = repeat {
            self.act(Todo::Signal { instance, signal });
        }
        if over {
            self.post_start_over(index);
        }
    }

    /// The pod is on its way to its end, or has come to it.
    pub fn is_ending(&self) -> bool {
        match self.state.goal {
            Goal::End => true,
            Goal::Run | Goal::RestartAll | Goal::NewSandbox => false,
        }
    }
}
