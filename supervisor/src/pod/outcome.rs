//! What events mean: each one together with each state it can meet.

use super::action::{ActionId, Instance};
use super::container::Run;
use super::event::{Event, Exit, HookFailure, HookSuccess, Outcome, Severity, StartFailure, StartFailureKind};
use super::machine::{Machine, Removal, Sandbox, Volumes};
use super::start::TIMED_OUT;
use super::timer::{Now, SANDBOX_RETRY, START_RETRY, TEARDOWN_RETRY};

impl Machine {
    pub(super) fn apply(&mut self, event: Event, now: Now) {
        match event {
            Event::Done { action, outcome } => self.done(action, outcome, now),
            Event::PullStarted { action } => {
                if let Some(index) = self.awaiting(action) {
                    self.pull_started(index, now);
                }
            }
            Event::ContainerExited { instance, exit } => self.handle_exit(instance, exit, now),
            Event::ContainerLost { instance } => self.on_lost(instance, now),
            Event::SandboxLost { attempt } => self.on_sandbox_lost(attempt, now),
        }
    }

    /// The container whose state waits for this action.
    fn awaiting(&self, action: ActionId) -> Option<usize> {
        self.state.containers.iter().position(|c| c.run.awaited().is_some_and(|(id, _)| id == action))
    }

    /// An answer. One that nobody waits for is dropped: its action was abandoned, or it came twice.
    fn done(&mut self, action: ActionId, outcome: Outcome, now: Now) {
        match outcome {
            Outcome::VolumesSetUp(result) => match self.state.volumes {
                Volumes::SettingUp { action: id, delay, .. } if id == action => self.volumes_set_up(result, delay, now),
                Volumes::SettingUp { .. }
                | Volumes::Absent
                | Volumes::Waiting { .. }
                | Volumes::Ready
                | Volumes::TearingDown { .. }
                | Volumes::TearDownWaiting { .. } => {}
            },
            Outcome::VolumesTornDown(result) => match self.state.volumes {
                Volumes::TearingDown { action: id, .. } if id == action => self.volumes_torn_down(&result, now),
                Volumes::TearingDown { .. }
                | Volumes::Absent
                | Volumes::Waiting { .. }
                | Volumes::Ready
                | Volumes::SettingUp { .. }
                | Volumes::TearDownWaiting { .. } => {}
            },
            Outcome::SandboxCreated(result) => match self.state.sandbox {
                Sandbox::Creating { action: id, .. } if id == action => self.sandbox_created(result, now),
                Sandbox::Creating { .. }
                | Sandbox::Absent
                | Sandbox::Waiting { .. }
                | Sandbox::Ready(_)
                | Sandbox::Lost
                | Sandbox::Stopping { .. }
                | Sandbox::StopWaiting { .. } => {}
            },
            Outcome::SandboxStopped(result) => match self.state.sandbox {
                Sandbox::Stopping { action: id, .. } if id == action => self.sandbox_stopped(result, now),
                Sandbox::Stopping { .. }
                | Sandbox::Absent
                | Sandbox::Waiting { .. }
                | Sandbox::Ready(_)
                | Sandbox::Lost
                | Sandbox::Creating { .. }
                | Sandbox::StopWaiting { .. } => {}
            },
            Outcome::PodRemoved(result) => match self.state.removal {
                Removal::Removing { action: id, .. } if id == action => self.pod_removed(&result, now),
                Removal::Removing { .. } | Removal::NotYet | Removal::Waiting { .. } | Removal::Gone => {}
            },
            Outcome::Probe(result) => {
                let found = self.state.containers.iter().enumerate();
                let probe = found.into_iter().find_map(|(i, c)| Self::find_probe(c, action).map(|kind| (i, kind)));
                if let Some((index, kind)) = probe {
                    self.probe_done(index, kind, result, now);
                }
            }
            Outcome::Hook(result) => self.hook_done(action, result, now),
            Outcome::Resized(result) => self.resized(action, result, now),
            Outcome::Image(_)
            | Outcome::ContainerCreated(_)
            | Outcome::ContainerStarted(_)
            | Outcome::ContainerRemoved(_) => {
                if let Some(index) = self.awaiting(action) {
                    self.container_done(index, outcome, now);
                }
            }
        }
    }

    /// The answer to the action that this container waits for.
    fn container_done(&mut self, index: usize, outcome: Outcome, now: Now) {
        let Some(run) = self.state.containers.get(index).map(|c| c.run.clone()) else {
            return;
        };
        match (run, outcome) {
            (Run::Pulling { .. }, Outcome::Image(Ok(ready))) => self.image_ready(index, ready, now),
            (Run::Pulling { .. }, Outcome::Image(Err(failure))) => self.image_failed(index, failure, now),
            (Run::Creating { instance, .. }, Outcome::ContainerCreated(Ok(made))) => {
                self.created(index, instance, made, now);
            }
            (Run::Creating { instance, .. }, Outcome::ContainerCreated(Err(failure))) => {
                self.start_failed(index, instance, failure, now);
            }
            (Run::Starting { instance, .. }, Outcome::ContainerStarted(Ok(wall))) => {
                self.started(index, instance, wall, now);
            }
            (Run::Starting { instance, .. }, Outcome::ContainerStarted(Err(failure))) => {
                let failure = StartFailure { kind: StartFailureKind::Run, ..failure };
                self.start_failed(index, instance, failure, now);
            }
            (Run::Removing { instance, started, .. }, Outcome::ContainerRemoved(Ok(()))) => {
                self.removed(index, instance, started, now);
            }
            (Run::Removing { action, instance, started, .. }, Outcome::ContainerRemoved(Err(_))) => {
                // Asked again after a while, under a new id.
                let give_up = now.mono.after(TEARDOWN_RETRY);
                self.set_run(index, Run::Removing { action, instance, give_up, started });
            }
            // An answer of another kind than was asked for: the driver errs; the time-out will tell.
            (
                Run::Absent
                | Run::Pulling { .. }
                | Run::Creating { .. }
                | Run::Made { .. }
                | Run::Starting { .. }
                | Run::PostStart { .. }
                | Run::Running { .. }
                | Run::Removing { .. },
                _,
            ) => {}
        }
    }

    /// The engine has forgotten the instance.
    fn removed(&mut self, index: usize, instance: Instance, started: bool, now: Now) {
        if started {
            self.lost(index, instance, now);
        } else {
            self.set_run(index, Run::Absent);
        }
    }

    pub(super) fn handle_exit(&mut self, instance: Instance, exit: Exit, now: Now) {
        let Some(index) = self.current(instance) else {
            return;
        };
        let Some(run) = self.state.containers.get(index).map(|c| c.run.clone()) else {
            return;
        };
        match run {
            Run::Absent | Run::Pulling { .. } => {}
            // The exit overtook the answer.
            Run::Starting { .. } if exit.start_error.is_none() => {
                self.record(Severity::Normal, "Started", "Container started".to_owned(), Some(index), now);
                self.exited(index, instance, exit, now);
            }
            Run::Creating { .. } | Run::Made { .. } | Run::Starting { .. } => {
                let message = exit.start_error.clone().unwrap_or_default();
                let failure = StartFailure { kind: StartFailureKind::Run, message };
                self.start_failed(index, instance, failure, now);
            }
            Run::PostStart { .. } | Run::Running { .. } => self.exited(index, instance, exit, now),
            // What remains is to hear that it is forgotten.
            Run::Removing { .. } => {}
        }
    }

    fn on_lost(&mut self, instance: Instance, now: Now) {
        let Some(index) = self.current(instance) else {
            return;
        };
        let Some(run) = self.state.containers.get(index).map(|c| c.run.clone()) else {
            return;
        };
        match run {
            Run::Absent | Run::Pulling { .. } | Run::Removing { .. } => {}
            Run::Creating { .. } | Run::Made { .. } => self.set_run(index, Run::Absent),
            Run::Starting { .. } | Run::PostStart { .. } | Run::Running { .. } => self.lost(index, instance, now),
        }
    }

    fn on_sandbox_lost(&mut self, attempt: u32, now: Now) {
        if attempt != self.state.sandbox_attempt {
            return;
        }
        match self.state.sandbox {
            Sandbox::Ready(_) | Sandbox::Creating { .. } => self.sandbox_lost(now),
            Sandbox::Absent
            | Sandbox::Waiting { .. }
            | Sandbox::Lost
            | Sandbox::Stopping { .. }
            | Sandbox::StopWaiting { .. } => {}
        }
    }

    fn hook_done(&mut self, action: ActionId, result: Result<HookSuccess, HookFailure>, now: Now) {
        use super::grace::Hook;
        let is_post = |c: &super::container::Container| match &c.run {
            Run::PostStart { hook: Some(Hook::Action { id, .. }), .. } => *id == action,
            Run::PostStart { .. }
            | Run::Absent
            | Run::Pulling { .. }
            | Run::Creating { .. }
            | Run::Made { .. }
            | Run::Starting { .. }
            | Run::Running { .. }
            | Run::Removing { .. } => false,
        };
        if let Some(index) = self.state.containers.iter().position(is_post) {
            self.tell_fallback(index, &result, now);
            match result {
                Ok(_) => self.post_start_over(index),
                Err(failure) => self.post_start_failed(index, &failure, now),
            }
            return;
        }
        if let Some(index) = self.state.containers.iter().position(|c| Self::is_pre_stop(c, action)) {
            self.tell_fallback(index, &result, now);
            self.pre_stop_over(index, result.is_err(), now);
        }
    }

    /// Rule LC3.
    fn tell_fallback(&mut self, index: usize, result: &Result<HookSuccess, HookFailure>, now: Now) {
        let Ok(HookSuccess { http_fallback: Some(host) }) = result else {
            return;
        };
        let message = format!("request to HTTPS lifecycle hook {host} got HTTP response, retry with HTTP succeeded");
        self.record(Severity::Warning, "LifecycleHTTPFallback", message, Some(index), now);
    }

    /// Answers that did not come in time.
    pub(super) fn give_up_late(&mut self, now: Now) -> bool {
        self.give_up_pod(now) || (0..self.state.containers.len()).any(|index| self.give_up_container(index, now))
    }

    fn give_up_pod(&mut self, now: Now) -> bool {
        let late = |give_up: super::timer::Instant| give_up <= now.mono;
        match self.state.volumes {
            Volumes::SettingUp { give_up, delay, .. } if late(give_up) => {
                let failure = super::event::VolumeFailure { volume: String::new(), message: TIMED_OUT.to_owned() };
                self.volumes_set_up(Err(failure), delay, now);
                return true;
            }
            Volumes::TearingDown { give_up, .. } if late(give_up) => {
                self.volumes_torn_down(&Err(TIMED_OUT.to_owned()), now);
                return true;
            }
            Volumes::SettingUp { .. }
            | Volumes::TearingDown { .. }
            | Volumes::Absent
            | Volumes::Waiting { .. }
            | Volumes::Ready
            | Volumes::TearDownWaiting { .. } => {}
        }
        match self.state.sandbox {
            Sandbox::Creating { give_up, .. } if late(give_up) => {
                // Nobody knows what became of it: it is stopped before there is another one.
                let message = format!("Failed to create pod sandbox: {TIMED_OUT}");
                self.record(Severity::Warning, "FailedCreatePodSandBox", message, None, now);
                self.state.sandbox = Sandbox::StopWaiting { until: now.mono };
                return true;
            }
            Sandbox::Stopping { give_up, .. } if late(give_up) => {
                self.sandbox_stopped(Err(TIMED_OUT.to_owned()), now);
                return true;
            }
            Sandbox::Creating { .. }
            | Sandbox::Stopping { .. }
            | Sandbox::Absent
            | Sandbox::Waiting { .. }
            | Sandbox::Ready(_)
            | Sandbox::Lost
            | Sandbox::StopWaiting { .. } => {}
        }
        match self.state.removal {
            Removal::Removing { give_up, .. } if late(give_up) => {
                self.pod_removed(&Err(TIMED_OUT.to_owned()), now);
                true
            }
            Removal::Removing { .. } | Removal::NotYet | Removal::Waiting { .. } | Removal::Gone => false,
        }
    }

    fn give_up_container(&mut self, index: usize, now: Now) -> bool {
        let Some(container) = self.state.containers.get(index) else {
            return false;
        };
        let late = container.run.awaited().filter(|(_, give_up)| *give_up <= now.mono);
        let Some((action, _)) = late else {
            return false;
        };
        match container.run.clone() {
            Run::Absent | Run::Made { .. } | Run::PostStart { .. } | Run::Running { .. } => return false,
            Run::Pulling { .. } => {
                self.cancel(action);
                self.image_failed(index, super::event::ImageFailure::Pull(TIMED_OUT.to_owned()), now);
            }
            Run::Creating { instance, .. } => self.give_up_instance(index, instance, false, now),
            Run::Starting { instance, .. } => self.give_up_instance(index, instance, true, now),
            Run::Removing { instance, started, .. } => self.remove(index, instance, started, now),
        }
        true
    }

    /// The instance may exist or come to exist: it is removed before there is another one.
    fn give_up_instance(&mut self, index: usize, instance: Instance, started: bool, now: Now) {
        self.record(Severity::Warning, "Failed", format!("Error: {TIMED_OUT}"), Some(index), now);
        self.remove(index, instance, started, now);
        let Some(container) = self.state.containers.get_mut(index) else {
            return;
        };
        container.wait("CreateContainerError", TIMED_OUT.to_owned());
        container.retry_at = Some(now.mono.after(START_RETRY));
    }
}

/// The sandbox is asked for again no earlier than this, whatever hindered it.
const _: () = assert!(SANDBOX_RETRY.as_secs() > 0);
