//! Ending containers: hook, order, signal, SIGKILL (section 2.4), and what an end means.

use std::time::Duration;

use super::action::{HookKind, Instance, Todo};
use super::container::{Container, Dead, Fate, Run};
use super::event::{Exit, HookFailure, Severity};
use super::grace::{self, Cause, Hook, Stage, Stop};
use super::hooks;
use super::machine::{Goal, Machine, Mutant};
use super::restart;
use super::spec::{ContainerSpec, HookHandler, ProbeKind, Role, RuleAction};
use super::start::start_error;
use super::status::Terminated;
use super::timer::{KILL_RETRY, Now, RESTART_ALL_PACE};

impl Machine {
    /// Every container ends within `grace`; what is being stopped already can only end earlier (TR9).
    pub(super) fn stop_all(&mut self, cause: Cause, grace: Duration, now: Now) {
        let spent_at = |(since, grace): (super::timer::Instant, Duration)| since.after(grace);
        if self.state.ending_since.is_none_or(|known| now.mono.after(grace) < spent_at(known)) {
            self.state.ending_since = Some((now.mono, grace));
        }
        for index in 0..self.state.containers.len() {
            self.stop_one(index, cause, grace, now);
        }
    }

    fn stop_one(&mut self, index: usize, cause: Cause, grace: Duration, now: Now) {
        let repeat = self.is_mutant(Mutant::RepeatHook);
        let Some(container) = self.state.containers.get_mut(index) else {
            return;
        };
        match &container.run {
            Run::Absent | Run::Creating { .. } | Run::Starting { .. } | Run::Removing { .. } => {}
            Run::Pulling { action, .. } => {
                let action = *action;
                container.run = Run::Absent;
                self.cancel(action);
            }
            Run::Made { instance, .. } => {
                let instance = *instance;
                self.remove(index, instance, false, now);
            }
            Run::PostStart { .. } | Run::Running { .. } => match &mut container.stop {
                Some(stop) if !repeat => {
                    stop.cause = cause;
                    stop.shorten(now.mono, grace);
                }
                Some(_) | None => self.begin_stop(index, cause, grace, now),
            },
        }
    }

    /// Containers that came up after the pod had begun to end.
    pub(super) fn stop_stragglers(&mut self, now: Now) -> bool {
        let cause = match self.state.goal {
            Goal::Run => return false,
            Goal::RestartAll => Cause::RestartAll,
            Goal::NewSandbox => Cause::SandboxChanged,
            Goal::End => Cause::PodEnds,
        };
        let late = |c: &Container| c.run.live().is_some() && c.stop.is_none();
        let Some(index) = self.state.containers.iter().position(late) else {
            return false;
        };
        let (since, grace) = self.state.ending_since.unwrap_or((now.mono, self.spec.grace));
        self.begin_stop(index, cause, grace::less(grace, now.mono.since(since)), now);
        true
    }

    /// Announces the kill and begins it with the hook (TR1, LC7).
    pub(super) fn begin_stop(&mut self, index: usize, cause: Cause, grace: Duration, now: Now) {
        let Some((spec, container)) = self.pair(index) else {
            return;
        };
        let Some(instance) = container.run.live() else {
            return;
        };
        let message = killing_message(spec, cause);
        let hook = spec.pre_stop.clone().filter(|_| !grace.is_zero());
        self.record(Severity::Normal, "Killing", message, Some(index), now);
        self.cancel_post_start(index);
        self.hold_probes(index, cause);
        let stage = Stage::Turn { from: now.mono, left: grace };
        self.set_stop(index, Stop { cause, since: now.mono, grace, stage });
        if let Some(handler) = hook {
            self.begin_pre_stop(index, instance, handler, grace, now);
        }
    }

    fn set_stop(&mut self, index: usize, stop: Stop) {
        if let Some(container) = self.state.containers.get_mut(index) {
            container.stop = Some(stop);
        }
    }

    fn set_stage(&mut self, index: usize, stage: Stage) {
        if let Some(stop) = self.state.containers.get_mut(index).and_then(|c| c.stop.as_mut()) {
            stop.stage = stage;
        }
    }

    fn begin_pre_stop(&mut self, index: usize, instance: Instance, handler: HookHandler, grace: Duration, now: Now) {
        let hook = match handler {
            HookHandler::TcpSocket => {
                self.pre_stop_failed(index, now);
                return;
            }
            HookHandler::Sleep { seconds } => {
                Hook::Sleep { until: now.mono.after(Duration::from_secs(seconds)), seconds }
            }
            handler @ (HookHandler::Exec { .. } | HookHandler::HttpGet(_)) => {
                let id = self.act(Todo::RunHook { instance, hook: HookKind::PreStop, handler, budget: Some(grace) });
                Hook::Action { id, give_up: None }
            }
        };
        self.set_stage(index, Stage::PreStop(hook));
    }

    fn pre_stop_failed(&mut self, index: usize, now: Now) {
        self.record(Severity::Warning, "FailedPreStopHook", "PreStopHook failed".to_owned(), Some(index), now);
    }

    /// The hook's answer came (LC9).
    pub(super) fn pre_stop_over(&mut self, index: usize, failed: bool, now: Now) {
        if failed {
            self.pre_stop_failed(index, now);
        }
        let stop = self.state.containers.get(index).and_then(|c| c.stop.as_ref());
        let Some(left) = stop.map(|stop| grace::less(stop.grace, now.mono.since(stop.since))) else {
            return;
        };
        self.set_stage(index, Stage::Turn { from: now.mono, left });
    }

    /// Whether `action` is the hook that this container's stop waits for.
    pub(super) fn is_pre_stop(container: &Container, action: super::action::ActionId) -> bool {
        match container.stop.as_ref().map(|stop| &stop.stage) {
            Some(Stage::PreStop(Hook::Action { id, .. })) => *id == action,
            Some(
                Stage::PreStop(Hook::Sleep { .. })
                | Stage::Turn { .. }
                | Stage::Signalled { .. }
                | Stage::Killed { .. },
            )
            | None => false,
        }
    }

    fn cancel_post_start(&mut self, index: usize) {
        let Some(container) = self.state.containers.get_mut(index) else {
            return;
        };
        if let Run::PostStart { hook, .. } = &mut container.run
            && let Some(Hook::Action { id, .. }) = hook.take()
        {
            self.cancel(id);
        }
    }

    /// Moves kills on for which it is time.
    pub(super) fn advance_stops(&mut self, now: Now) -> bool {
        (0..self.state.containers.len()).any(|index| self.advance_hook(index, now) || self.advance_stop(index, now))
    }

    /// A postStart sleep that is over.
    fn advance_hook(&mut self, index: usize, now: Now) -> bool {
        let run = self.state.containers.get(index).map(|c| &c.run);
        let Some(Run::PostStart { hook: Some(Hook::Sleep { until, .. }), .. }) = run else {
            return false;
        };
        if now.mono < *until {
            return false;
        }
        self.post_start_over(index);
        true
    }

    fn advance_stop(&mut self, index: usize, now: Now) -> bool {
        let Some(container) = self.state.containers.get(index) else {
            return false;
        };
        let Some(instance) = container.run.live() else {
            return false;
        };
        let Some(stop) = container.stop.clone() else {
            return false;
        };
        match stop.stage {
            Stage::PreStop(hook) => self.advance_pre_stop(index, hook, &stop, now),
            Stage::Turn { from, left } => self.advance_turn(index, instance, stop.cause, (from, left), now),
            Stage::Signalled { kill_at } => kill_at <= now.mono && self.kill(index, instance, now),
            Stage::Killed { again_at } => again_at <= now.mono && self.kill(index, instance, now),
        }
    }

    fn advance_pre_stop(&mut self, index: usize, hook: Hook, stop: &Stop, now: Now) -> bool {
        let slept = match hook {
            Hook::Sleep { until, .. } => until <= now.mono,
            Hook::Action { .. } => false,
        };
        if slept {
            self.pre_stop_over(index, false, now);
            return true;
        }
        if now.mono < stop.spent_at() {
            return false;
        }
        // Rule LC10: the signal comes although the hook is not over.
        if let Hook::Action { id, .. } = hook {
            self.cancel(id);
        }
        self.set_stage(index, Stage::Turn { from: now.mono, left: Duration::ZERO });
        true
    }

    /// Rules TR3, TR4.
    fn advance_turn(
        &mut self,
        index: usize,
        instance: Instance,
        cause: Cause,
        (from, left): (super::timer::Instant, Duration),
        now: Now,
    ) -> bool {
        let ordered = match cause {
            Cause::PodEnds | Cause::SandboxChanged => !self.is_mutant(Mutant::ForgetOrder),
            Cause::RestartAll
            | Cause::Probe { .. }
            | Cause::PostStartHook
            | Cause::DefinitionChanged
            | Cause::Resize => false,
        };
        if ordered && !self.is_turn(index) && now.mono < from.after(left) {
            return false;
        }
        let left = grace::at_least_minimum(grace::less(left, now.mono.since(from)));
        let Some((spec, container)) = self.pair(index) else {
            return false;
        };
        let signal = container.stop_signal(spec);
        self.act(Todo::Signal { instance, signal });
        let wait = if self.is_mutant(Mutant::KillEarly) { left / 2 } else { left };
        self.set_stage(index, Stage::Signalled { kill_at: now.mono.after(wait) });
        true
    }

    /// A sidecar's turn comes when the containers proper and all later sidecars are gone; everyone else's at once.
    fn is_turn(&self, index: usize) -> bool {
        let is_sidecar = self.pair(index).is_some_and(|(spec, _)| spec.role == Role::Sidecar);
        let hinders = |other: usize, spec: &ContainerSpec| match spec.role {
            Role::Init | Role::App => true,
            Role::Sidecar => other > index,
            Role::Ephemeral => false,
        };
        let living = self.spec.containers.iter().zip(&self.state.containers).enumerate();
        !is_sidecar || !living.into_iter().any(|(i, (spec, c))| hinders(i, spec) && c.run.instance().is_some())
    }

    fn kill(&mut self, index: usize, instance: Instance, now: Now) -> bool {
        self.act(Todo::Kill { instance });
        self.set_stage(index, Stage::Killed { again_at: now.mono.after(KILL_RETRY) });
        true
    }

    /// Whatever its stop waits for: hook, turn, or the container itself.
    pub(super) fn kill_all(&mut self, now: Now) {
        for index in 0..self.state.containers.len() {
            let Some(container) = self.state.containers.get(index) else { continue };
            let (Some(instance), Some(stop)) = (container.run.live(), &container.stop) else { continue };
            match &stop.stage {
                Stage::Killed { .. } => continue,
                Stage::PreStop(Hook::Action { id, .. }) => {
                    let id = *id;
                    self.cancel(id);
                }
                Stage::PreStop(Hook::Sleep { .. }) | Stage::Turn { .. } | Stage::Signalled { .. } => {}
            }
            self.kill(index, instance, now);
        }
    }

    /// Rule IN12: what runs is not what the spec says any more.
    pub(super) fn check_definitions(&mut self, now: Now) -> bool {
        let differs = |(spec, c): (&ContainerSpec, &Container)| {
            let replaceable = match spec.role {
                Role::App | Role::Sidecar => true,
                Role::Init | Role::Ephemeral => false,
            };
            replaceable && c.is_running() && c.stop.is_none() && c.made_of != spec.image
        };
        let pairs = self.spec.containers.iter().zip(&self.state.containers);
        let Some(index) = pairs.into_iter().position(differs).filter(|_| self.state.goal == Goal::Run) else {
            return false;
        };
        self.begin_stop(index, Cause::DefinitionChanged, self.spec.grace, now);
        true
    }

    /// The instance ended: by itself, or because it was stopped.
    pub(super) fn exited(&mut self, index: usize, instance: Instance, exit: Exit, now: Now) {
        self.end_hooks(index, now);
        let record = terminated(exit, self.container_id(index));
        self.ended(index, instance, record, now);
    }

    /// The engine lost it (CS6, CS7).
    pub(super) fn lost(&mut self, index: usize, instance: Instance, now: Now) {
        self.end_hooks(index, now);
        let (exit_code, reason, message) = self.loss(index);
        let started = self.state.containers.get(index).and_then(|c| match c.run {
            Run::PostStart { wall, .. } | Run::Running { wall, .. } => Some(wall),
            Run::Absent
            | Run::Pulling { .. }
            | Run::Creating { .. }
            | Run::Made { .. }
            | Run::Starting { .. }
            | Run::Removing { .. } => None,
        });
        let record = Terminated {
            exit_code,
            reason: reason.to_owned(),
            message: message.to_owned(),
            started,
            finished: Some(now.wall),
            id: self.container_id(index),
        };
        self.ended(index, instance, record, now);
    }

    fn loss(&self, index: usize) -> (i32, &'static str, &'static str) {
        let is_init = self.pair(index).is_some_and(|(spec, _)| spec.role == Role::Init);
        if is_init && self.state.initialized {
            let message = "Unable to get init container status from container runtime and pod has been initialized, treat it as exited normally";
            return (0, "Completed", message);
        }
        let message = if self.state.deletion.is_some() {
            "The container could not be located when the pod was terminated"
        } else {
            "The container could not be located when the pod was deleted.  The container used to be Running"
        };
        (137, "ContainerStatusUnknown", message)
    }

    /// Hooks end with their container; an interrupted sleep is a failed hook (LC4).
    fn end_hooks(&mut self, index: usize, now: Now) {
        let Some(container) = self.state.containers.get_mut(index) else {
            return;
        };
        let stopping = match container.stop.take().map(|stop| (stop.stage.clone(), stop)) {
            Some((Stage::PreStop(hook), stop)) => {
                container.stop = Some(stop);
                Some(hook)
            }
            Some((Stage::Turn { .. } | Stage::Signalled { .. } | Stage::Killed { .. }, stop)) => {
                container.stop = Some(stop);
                None
            }
            None => None,
        };
        match stopping {
            Some(Hook::Action { id, .. }) => self.cancel(id),
            Some(Hook::Sleep { .. }) => self.pre_stop_failed(index, now),
            None => {}
        }
        let Some(container) = self.state.containers.get_mut(index) else {
            return;
        };
        if let Run::PostStart { hook, .. } = &mut container.run {
            match hook.take() {
                Some(Hook::Action { id, .. }) => self.cancel(id),
                Some(Hook::Sleep { .. }) => self.post_start_interrupted(index, now),
                None => {}
            }
        }
    }

    fn post_start_interrupted(&mut self, index: usize, now: Now) {
        self.record(Severity::Warning, "FailedPostStartHook", "PostStartHook failed".to_owned(), Some(index), now);
        let failure = HookFailure { error: hooks::SLEEP_INTERRUPTED.to_owned(), output: String::new() };
        let Some((spec, _)) = self.pair(index) else {
            return;
        };
        let Some(handler) = spec.post_start.clone() else {
            return;
        };
        let message = hooks::failure_message(&self.spec, spec, &handler, &failure);
        if let Some(container) = self.state.containers.get_mut(index) {
            container.wait("PostStartHookError", message);
        }
    }

    fn ended(&mut self, index: usize, instance: Instance, record: Terminated, now: Now) {
        let cause = self.state.containers.get(index).and_then(|c| c.stop.as_ref()).map(|stop| stop.cause);
        let fate = match cause {
            None | Some(Cause::PostStartHook | Cause::PodEnds) => Fate::ByPolicy,
            Some(Cause::Probe { restart: true, .. }) => Fate::Restart,
            Some(Cause::Probe { restart: false, .. }) => Fate::Stay,
            Some(Cause::DefinitionChanged | Cause::Resize | Cause::SandboxChanged | Cause::RestartAll) => Fate::Restart,
        };
        let crash = match cause {
            None | Some(Cause::PostStartHook | Cause::PodEnds | Cause::Probe { .. }) => true,
            Some(Cause::DefinitionChanged | Cause::Resize | Cause::SandboxChanged | Cause::RestartAll) => false,
        };
        let code = record.exit_code;
        self.bury(index, instance, record, fate, now);
        if let Some(container) = self.state.containers.get_mut(index) {
            container.immediate = !crash;
        }
        if cause.is_none() {
            self.maybe_restart_all(index, code, now);
        }
    }

    /// Enters the end of an instance.
    pub(super) fn bury(&mut self, index: usize, instance: Instance, record: Terminated, fate: Fate, now: Now) {
        self.cancel_probes(index);
        let Some((spec, container)) = self.parts(index) else {
            return;
        };
        container.done |= spec.role == Role::Init && record.succeeded(Role::Init);
        container.next_attempt = container.next_attempt.max(instance.attempt + 1);
        container.restart_count = container.restart_count.max(instance.attempt);
        container.immediate = false;
        container.retry_at = None;
        let old = container.bury(Dead { instance, record, fate, at: now.mono });
        if let Some(instance) = old {
            self.act(Todo::RemoveContainer { instance });
        }
    }

    /// Rule RR4.
    fn maybe_restart_all(&mut self, index: usize, exit_code: i32, now: Now) {
        let rule = self.pair(index).and_then(|(spec, _)| restart::matching_rule(spec, exit_code));
        if rule == Some(RuleAction::RestartAllContainers) && self.state.goal == Goal::Run {
            self.state.goal = Goal::RestartAll;
            self.state.ending_since = None;
            self.stop_all(Cause::RestartAll, Duration::ZERO, now);
        }
    }

    /// All containers have ended: their instances go, the sandbox stays, and everything begins again (RR4).
    pub(super) fn restart_all(&mut self) {
        let is_source = |spec: &ContainerSpec, dead: &Dead| {
            let rule = restart::matching_rule(spec, dead.record.exit_code);
            rule == Some(RuleAction::RestartAllContainers) && dead.fate == Fate::ByPolicy
        };
        let mut removed: Vec<(bool, Instance)> = Vec::new();
        for (spec, container) in self.spec.containers.iter().zip(&mut self.state.containers) {
            removed.extend(container.dead.iter().map(|dead| (is_source(spec, dead), dead.instance)));
            let source = container.newest_dead().filter(|dead| is_source(spec, dead));
            let not_before = source.map(|dead| dead.at.after(RESTART_ALL_PACE));
            if spec.role != Role::Ephemeral {
                container.begin_anew(not_before);
            }
        }
        // The sources go last.
        removed.sort();
        for (_, instance) in removed {
            self.act(Todo::RemoveContainer { instance });
        }
        self.begin_again();
    }

    /// The init sequence starts from its beginning.
    pub(super) fn begin_again(&mut self) {
        self.state.goal = Goal::Run;
        self.state.ending_since = None;
        self.state.initialized = false;
        self.state.has_initialized = false;
        let forget = self.is_mutant(Mutant::ForgetAttempts);
        for container in &mut self.state.containers {
            container.begun = false;
            container.done = false;
            if forget {
                container.next_attempt = 0;
            }
        }
    }
}

/// Texts of the `Killing` event (TR1, PR8, IN12, LC8, RZ7).
fn killing_message(spec: &ContainerSpec, cause: Cause) -> String {
    let name = &spec.name;
    let kind = if spec.role == Role::Sidecar { "Init container" } else { "Container" };
    let tail = |restart: bool| {
        if restart && spec.role != Role::Sidecar { ", will be restarted" } else { "" }
    };
    match cause {
        Cause::PodEnds | Cause::SandboxChanged | Cause::RestartAll => {
            format!("Stopping container {name}")
        }
        Cause::PostStartHook => "FailedPostStartHook".to_owned(),
        Cause::DefinitionChanged => format!("{kind} {name} definition changed{}", tail(true)),
        Cause::Resize => format!("Container {name} resize requires restart"),
        Cause::Probe { kind: probe, restart } => {
            let probe = match probe {
                ProbeKind::Startup => "startup",
                ProbeKind::Liveness => "liveness",
                ProbeKind::Readiness => "readiness",
            };
            format!("{kind} {name} failed {probe} probe{}", tail(restart))
        }
    }
}

/// Rules of 1.5.
fn terminated(exit: Exit, id: String) -> Terminated {
    if let Some(error) = exit.start_error {
        return start_error(&error, id, exit.finished);
    }
    let reason = match (exit.oom_killed, exit.code) {
        (true, _) => "OOMKilled",
        (false, 0) => "Completed",
        (false, _) => "Error",
    };
    Terminated {
        exit_code: exit.code,
        reason: reason.to_owned(),
        message: exit.message.unwrap_or_default(),
        started: exit.started,
        finished: Some(exit.finished),
        id,
    }
}
