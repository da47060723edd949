//! The pod as a whole: volumes, sandbox, containers, and all of it back again (IN1, IN7, IN8, TR7, VO1).

use std::time::Duration;

use super::action::Todo;
use super::container::{Dead, Fate, Run};
use super::event::{SandboxReady, Severity, VolumeFailure};
use super::grace::Cause;
use super::machine::{Ending, Goal, Machine, Mutant, Removal, Sandbox, Volumes};
use super::spec::{RestartPolicy, Role};
use super::status::{Phase, Terminated};
use super::timer::{ENGINE_TIMEOUT, Now, SANDBOX_RETRY, TEARDOWN_RETRY, VOLUME_RETRY_FIRST, VOLUME_RETRY_MAX};

/// Rule PH12.
const NOT_LOCATED: &str = "The container could not be located when the pod was terminated";

impl Machine {
    /// One step towards the goal.
    pub(super) fn advance_pod(&mut self, now: Now) -> bool {
        if self.flip_image_errors(now) {
            return true;
        }
        match self.state.goal {
            Goal::Run => self.advance_setup(now),
            Goal::RestartAll | Goal::NewSandbox | Goal::End => self.stop_stragglers(now) || self.advance_ending(now),
        }
    }

    fn advance_setup(&mut self, now: Now) -> bool {
        match &self.state.volumes {
            Volumes::Ready => {}
            Volumes::Absent => return self.set_up_volumes(None, now),
            Volumes::Waiting { until, delay } => {
                let (until, delay) = (*until, *delay);
                return until <= now.mono && self.set_up_volumes(Some(delay), now);
            }
            Volumes::SettingUp { .. } | Volumes::TearingDown { .. } | Volumes::TearDownWaiting { .. } => return false,
        }
        match &self.state.sandbox {
            Sandbox::Absent => self.create_sandbox(now),
            Sandbox::Waiting { until } => *until <= now.mono && self.create_sandbox(now),
            Sandbox::StopWaiting { until } => *until <= now.mono && self.stop_sandbox(now),
            Sandbox::Lost => self.stop_sandbox(now),
            Sandbox::Creating { .. } | Sandbox::Stopping { .. } => false,
            Sandbox::Ready(_) => self.check_end(now) || self.start_next(now),
        }
    }

    fn set_up_volumes(&mut self, delay: Option<Duration>, now: Now) -> bool {
        let action = self.act(Todo::SetUpVolumes);
        self.state.volumes = Volumes::SettingUp { action, give_up: now.mono.after(ENGINE_TIMEOUT), delay };
        true
    }

    /// Rule VO1.
    pub(super) fn volumes_set_up(&mut self, result: Result<(), VolumeFailure>, delay: Option<Duration>, now: Now) {
        let Err(failure) = result else {
            self.state.volumes = Volumes::Ready;
            return;
        };
        let message = format!("MountVolume.SetUp failed for volume {:?} : {}", failure.volume, failure.message);
        self.record(Severity::Warning, "FailedMount", message, None, now);
        let delay = delay.map_or(VOLUME_RETRY_FIRST, |known| (known * 2).min(VOLUME_RETRY_MAX));
        self.state.volumes = Volumes::Waiting { until: now.mono.after(delay), delay };
    }

    fn create_sandbox(&mut self, now: Now) -> bool {
        let attempt = self.state.sandbox_attempt;
        let action = self.act(Todo::CreateSandbox { attempt });
        self.state.sandbox = Sandbox::Creating { action, give_up: now.mono.after(ENGINE_TIMEOUT) };
        true
    }

    pub(super) fn sandbox_created(&mut self, result: Result<SandboxReady, String>, now: Now) {
        match result {
            Ok(ready) => {
                self.state.ips.clone_from(&ready.ips);
                self.state.sandbox = Sandbox::Ready(ready);
            }
            Err(error) => {
                let message = format!("Failed to create pod sandbox: {error}");
                self.record(Severity::Warning, "FailedCreatePodSandBox", message, None, now);
                self.state.sandbox_attempt += 1;
                self.state.sandbox = Sandbox::Waiting { until: now.mono.after(SANDBOX_RETRY) };
            }
        }
    }

    fn stop_sandbox(&mut self, now: Now) -> bool {
        let attempt = self.state.sandbox_attempt;
        let action = self.act(Todo::StopSandbox { attempt });
        self.state.sandbox = Sandbox::Stopping { action, give_up: now.mono.after(ENGINE_TIMEOUT) };
        true
    }

    pub(super) fn sandbox_stopped(&mut self, result: Result<(), String>, now: Now) {
        match result {
            Err(error) => {
                self.record_failed_end(&error, now);
                self.state.sandbox = Sandbox::StopWaiting { until: now.mono.after(TEARDOWN_RETRY) };
            }
            Ok(()) => {
                self.state.sandbox_attempt += 1;
                self.state.sandbox = match self.state.goal {
                    Goal::Run => Sandbox::Waiting { until: now.mono.after(SANDBOX_RETRY) },
                    Goal::RestartAll | Goal::NewSandbox | Goal::End => Sandbox::Absent,
                };
            }
        }
    }

    /// Rule IN8: pause died or the network is gone.
    pub(super) fn sandbox_lost(&mut self, now: Now) {
        self.state.sandbox = Sandbox::Lost;
        match self.state.goal {
            Goal::End | Goal::NewSandbox => return,
            Goal::Run | Goal::RestartAll => {}
        }
        if self.recreates_sandbox() {
            let message = "Pod sandbox changed, it will be killed and re-created.".to_owned();
            self.record(Severity::Normal, "SandboxChanged", message, None, now);
            self.state.goal = Goal::NewSandbox;
            self.state.ending_since = None;
            self.stop_all(Cause::SandboxChanged, self.spec.grace, now);
        } else {
            self.end_pod(None, now);
        }
    }

    fn recreates_sandbox(&self) -> bool {
        let pairs = || self.spec.containers.iter().zip(&self.state.containers);
        let existed = pairs().any(|(_, c)| !c.id.is_empty() || c.run.instance().is_some());
        let restartable = pairs().any(|(spec, _)| {
            spec.role != Role::Ephemeral
                && super::restart::policy(&self.spec, spec) != RestartPolicy::Never
                && spec.role != Role::Sidecar
        });
        let some_app_goes_on = (0..self.spec.containers.len()).any(|i| {
            self.pair(i).is_some_and(|(spec, c)| spec.role == Role::App && (c.run != Run::Absent || self.wants(i)))
        });
        (restartable || !existed) && some_app_goes_on
    }

    /// Rules IN3, IN7: nothing is left that could run.
    fn check_end(&mut self, now: Now) -> bool {
        let failed_init = |index: usize| {
            self.pair(index).is_some_and(|(spec, c)| {
                spec.role == Role::Init && c.run == Run::Absent && !c.done && !c.dead.is_empty() && !self.wants(index)
            })
        };
        let over = |index: usize| {
            self.pair(index)
                .is_some_and(|(spec, c)| spec.role != Role::App || (c.run == Run::Absent && !self.wants(index)))
        };
        let count = self.spec.containers.len();
        let has_apps = self.spec.containers.iter().any(|spec| spec.role == Role::App);
        let ends = (0..count).any(failed_init) || (self.state.initialized && has_apps && (0..count).all(over));
        if ends {
            self.end_pod(None, now);
        }
        ends
    }

    /// All containers are told to end; what follows when they have.
    fn advance_ending(&mut self, now: Now) -> bool {
        if self.state.containers.iter().any(|c| c.run != Run::Absent) {
            return false;
        }
        match self.state.goal {
            Goal::Run => false,
            Goal::RestartAll => {
                self.restart_all();
                true
            }
            Goal::NewSandbox => self.clear_sandbox(now) || self.renew(),
            Goal::End => self.clear_sandbox(now) || self.clear_volumes(now) || self.clear_pod(now),
        }
    }

    /// True when it did something; false when there is nothing more, or only waiting.
    fn clear_sandbox(&mut self, now: Now) -> bool {
        match &self.state.sandbox {
            Sandbox::Absent | Sandbox::Creating { .. } | Sandbox::Stopping { .. } => false,
            Sandbox::Waiting { .. } => {
                self.state.sandbox = Sandbox::Absent;
                true
            }
            Sandbox::StopWaiting { until } => *until <= now.mono && self.stop_sandbox(now),
            Sandbox::Ready(_) if self.is_mutant(Mutant::KeepSandbox) => {
                self.state.sandbox = Sandbox::Absent;
                true
            }
            Sandbox::Ready(_) | Sandbox::Lost => self.stop_sandbox(now),
        }
    }

    /// The old sandbox is gone: init containers run again, records of theirs are purged (IN8).
    fn renew(&mut self) -> bool {
        if self.state.sandbox != Sandbox::Absent {
            return false;
        }
        self.begin_again();
        let mut purged = Vec::new();
        for (spec, container) in self.spec.containers.iter().zip(&mut self.state.containers) {
            if matches!(spec.role, Role::Init | Role::Sidecar) {
                purged.extend(container.dead.drain(..).map(|dead| dead.instance));
                container.clear_waiting();
            }
        }
        for instance in purged {
            self.act(Todo::RemoveContainer { instance });
        }
        true
    }

    fn clear_volumes(&mut self, now: Now) -> bool {
        if self.state.sandbox != Sandbox::Absent {
            return false;
        }
        match &self.state.volumes {
            Volumes::Absent | Volumes::SettingUp { .. } | Volumes::TearingDown { .. } => false,
            Volumes::TearDownWaiting { until } if now.mono < *until => false,
            Volumes::Waiting { .. } | Volumes::Ready | Volumes::TearDownWaiting { .. } => self.tear_down_volumes(now),
        }
    }

    fn tear_down_volumes(&mut self, now: Now) -> bool {
        let action = self.act(Todo::TearDownVolumes);
        self.state.volumes = Volumes::TearingDown { action, give_up: now.mono.after(ENGINE_TIMEOUT) };
        true
    }

    pub(super) fn volumes_torn_down(&mut self, result: &Result<(), String>, now: Now) {
        self.state.volumes = match result {
            Ok(()) => Volumes::Absent,
            Err(error) => {
                self.record_failed_end(error, now);
                Volumes::TearDownWaiting { until: now.mono.after(TEARDOWN_RETRY) }
            }
        };
    }

    /// Rule TR7, for a pod that is deleted.
    fn clear_pod(&mut self, now: Now) -> bool {
        let ready = self.state.sandbox == Sandbox::Absent && self.state.volumes == Volumes::Absent;
        if !ready || self.state.deletion.is_none() {
            return false;
        }
        match &self.state.removal {
            Removal::Removing { .. } | Removal::Gone => false,
            Removal::Waiting { until } if now.mono < *until => false,
            Removal::NotYet | Removal::Waiting { .. } => {
                self.account_for_all(now);
                let action = self.act(Todo::RemovePod);
                self.state.removal = Removal::Removing { action, give_up: now.mono.after(ENGINE_TIMEOUT) };
                true
            }
        }
    }

    pub(super) fn pod_removed(&mut self, result: &Result<(), String>, now: Now) {
        self.state.removal = match result {
            Ok(()) => Removal::Gone,
            Err(error) => {
                self.record_failed_end(error, now);
                Removal::Waiting { until: now.mono.after(TEARDOWN_RETRY) }
            }
        };
    }

    /// Why a pod that should be gone is still there (10.8).
    fn record_failed_end(&mut self, error: &str, now: Now) {
        self.record(Severity::Warning, "FailedKillPod", format!("error killing pod: {error}"), None, now);
    }

    /// Rule PH12: before a deleted pod disappears every container that began has an end, and the pod a final phase.
    fn account_for_all(&mut self, now: Now) {
        if self.spec.static_pod {
            return;
        }
        let last_init =
            self.state.containers.iter().zip(&self.spec.containers).rposition(|(c, spec)| {
                matches!(spec.role, Role::Init | Role::Sidecar) && (c.begun || !c.dead.is_empty())
            });
        for index in 0..self.state.containers.len() {
            let Some((spec, container)) = self.pair(index) else {
                continue;
            };
            let missing = container.dead.is_empty()
                && match spec.role {
                    Role::App => self.state.has_initialized,
                    Role::Init | Role::Sidecar => last_init.is_some_and(|last| index <= last),
                    Role::Ephemeral => false,
                };
            if missing {
                self.bury_unlocated(index, now);
            }
        }
        let phase = self.status().phase;
        if self.state.ending.is_none() {
            let phase = if phase.is_final() { phase } else { Phase::Failed };
            self.state.ending = Some(Ending { phase, reason: None, message: None });
        }
    }

    fn bury_unlocated(&mut self, index: usize, now: Now) {
        let container = super::spec::Index(u16::try_from(index).unwrap_or(u16::MAX));
        let attempt = self.state.containers.get(index).map_or(0, |c| c.restart_count);
        let instance = super::action::Instance { container, serial: 0, attempt };
        let record = Terminated {
            exit_code: 137,
            reason: "ContainerStatusUnknown".to_owned(),
            message: NOT_LOCATED.to_owned(),
            started: None,
            finished: None,
            id: self.container_id(index),
        };
        if let Some(c) = self.state.containers.get_mut(index) {
            c.waiting = None;
            c.dead.insert(0, Dead { instance, record, fate: Fate::Stay, at: now.mono });
        }
    }
}
