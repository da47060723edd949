//! Which container starts next, and its way from the image to the running process (sections 2.1, 3.1, 3.2).

use super::action::{HookKind, Instance, Todo};
use super::container::{Container, Dead, Fate, Run};
use super::event::{Created, HookFailure, KubeEvent, Severity, StartFailure, StartFailureKind};
use super::grace::{Cause, Hook};
use super::hooks;
use super::machine::{Goal, Machine, Mutant, Sandbox};
use super::probe::Probe;
use super::restart::{self, Turn};
use super::spec::{ContainerSpec, HookHandler, ProbeKind, Role};
use super::status::Terminated;
use super::timer::{ENGINE_TIMEOUT, Earliest, Instant, Now, START_RETRY, WallTime};

/// What an engine call that never answers is said to have failed with (1.4 `CreateContainerError`).
pub(super) const TIMED_OUT: &str = "context deadline exceeded";

impl Machine {
    /// Containers of the pod may be started at all (TR6).
    pub(super) fn may_start(&self) -> bool {
        self.state.goal == Goal::Run && matches!(self.state.sandbox, Sandbox::Ready(_))
    }

    /// The container is to run, now or later.
    pub(super) fn wants(&self, index: usize) -> bool {
        let Some((spec, container)) = self.pair(index) else {
            return false;
        };
        match spec.role {
            Role::Ephemeral => container.dead.is_empty(),
            Role::Init => !container.done && container.newest_dead().is_none_or(|dead| self.restarts(spec, dead)),
            Role::Sidecar => true,
            Role::App => container.newest_dead().is_none_or(|dead| self.restarts(spec, dead)),
        }
    }

    /// An instance that ended like this is followed by another one.
    pub(super) fn restarts(&self, spec: &ContainerSpec, dead: &Dead) -> bool {
        match dead.fate {
            Fate::Restart => true,
            Fate::Stay => false,
            Fate::ByPolicy => {
                let success = dead.record.succeeded(spec.role);
                restart::should_restart(&self.spec, spec, dead.record.exit_code, success)
            }
        }
    }

    /// Begins the next start (IN5).
    pub(super) fn start_next(&mut self, now: Now) -> bool {
        if self.note_initialized() {
            return true;
        }
        match self.last_starting() {
            None => self.candidates().into_iter().any(|index| self.try_start(index, now)),
            Some(last) => self.start_ahead(last, now),
        }
    }

    fn last_starting(&self) -> Option<usize> {
        self.state.containers.iter().rposition(|c| c.run.is_starting())
    }

    /// Prepares the next app container while those before it are made: the engine does so beside each other, and nothing
    /// shows it. What may take long, a pull or a postStart hook, is waited for (IN5, LC6).
    fn start_ahead(&mut self, last: usize, now: Now) -> bool {
        let pairs = self.spec.containers.iter().zip(&self.state.containers);
        let mut starting = pairs.filter(|(_, c)| c.run.is_starting());
        let is_short = |spec: &ContainerSpec, c: &Container| {
            let hook = spec.post_start.is_some() && !self.is_mutant(Mutant::PassHook);
            spec.role == Role::App && c.run.is_being_made() && !hook
        };
        if !starting.all(|(spec, c)| is_short(spec, c)) {
            return false;
        }
        let Some(index) = (last + 1..self.spec.containers.len()).find(|&index| self.is_fresh(index)) else {
            return false;
        };
        if let Some(container) = self.state.containers.get_mut(index) {
            container.ahead = true;
        }
        self.try_start(index, now)
    }

    /// An app container that was never tried.
    fn is_fresh(&self, index: usize) -> bool {
        self.pair(index).is_some_and(|(spec, c)| {
            spec.role == Role::App && c.run == Run::Absent && c.dead.is_empty() && c.retry_at.is_none() && !c.ahead
        })
    }

    /// The containers before this one have started, or failed to: what was prepared of it counts from now on.
    pub(super) fn take_turn(&mut self, now: Now) -> bool {
        let containers = &self.state.containers;
        let broken = self.is_mutant(Mutant::PassHook);
        let hinders = |c: &Container| c.run.is_starting() && !(broken && c.run.live().is_some());
        let is_next = |index: usize| !containers.iter().take(index).any(hinders);
        let Some(index) = (0..containers.len()).find(|&i| containers.get(i).is_some_and(|c| c.ahead) && is_next(i))
        else {
            return false;
        };
        self.tell_held(index, now);
        let Some(container) = self.state.containers.get_mut(index) else {
            return false;
        };
        container.ahead = false;
        if let Run::Made { instance, made } = container.run.clone() {
            self.launch(index, instance, made, now);
        }
        true
    }

    fn tell_held(&mut self, index: usize, now: Now) {
        let is_own = |event: &KubeEvent| event.container.is_some_and(|own| usize::from(own.0) == index);
        let (own, others) = std::mem::take(&mut self.held).into_iter().partition(is_own);
        self.held = others;
        let own: Vec<KubeEvent> = own;
        self.records.extend(own.into_iter().map(|event| KubeEvent { at: now.wall, ..event }));
    }

    /// When a container that waits for its next start may have it. While another one starts, its end comes first.
    pub(super) fn start_deadlines(&self, earliest: &mut Earliest) {
        if !self.may_start() || self.state.containers.iter().any(|c| c.run.is_starting()) {
            return;
        }
        for index in self.candidates() {
            let waiting = self.state.containers.get(index).filter(|c| c.run == Run::Absent);
            if let Some(at) = waiting.and_then(|c| c.retry_at).filter(|_| self.wants(index)) {
                earliest.at(at);
            }
        }
    }

    fn init_indices(&self) -> Vec<usize> {
        let is_init = |role| match role {
            Role::Init | Role::Sidecar => true,
            Role::App | Role::Ephemeral => false,
        };
        (0..self.spec.containers.len()).filter(|&i| self.pair(i).is_some_and(|(spec, _)| is_init(spec.role))).collect()
    }

    fn is_complete(&self, index: usize) -> bool {
        self.pair(index).is_some_and(|(spec, container)| match spec.role {
            Role::Init => container.done,
            Role::Sidecar => container.started,
            Role::App | Role::Ephemeral => true,
        })
    }

    fn note_initialized(&mut self) -> bool {
        let complete = self.init_indices().last().is_none_or(|&last| self.is_complete(last));
        let skipped = self.is_mutant(Mutant::SkipInit);
        if self.state.initialized || !(complete || skipped) {
            return false;
        }
        self.state.initialized = true;
        true
    }

    /// In the order of IN1; among init containers as far as the sequence has come (IN2, IN6).
    fn candidates(&self) -> Vec<usize> {
        let all = 0..self.spec.containers.len();
        let of = |role: Role| all.clone().filter(move |&i| self.pair(i).is_some_and(|(spec, _)| spec.role == role));
        let mut order: Vec<usize> = of(Role::Ephemeral).collect();
        order.extend(self.init_candidates());
        if self.state.initialized {
            order.extend(of(Role::App));
        }
        order
    }

    /// What was begun goes on; the first one that was not is next when its predecessor is complete.
    fn init_candidates(&self) -> Vec<usize> {
        let init = self.init_indices();
        let begun = |&i: &usize| self.state.containers.get(i).is_some_and(|c| c.begun);
        let reached = init.iter().rposition(begun);
        let end = match reached.and_then(|at| init.get(at).map(|&i| (at, i))) {
            None => 1,
            Some((at, last)) if self.is_complete(last) => at + 2,
            Some((at, _)) => at + 1,
        };
        init.into_iter().take(end).collect()
    }

    fn try_start(&mut self, index: usize, now: Now) -> bool {
        let Some((spec, container)) = self.pair(index) else {
            return false;
        };
        let living =
            container.run != Run::Absent && !(self.is_mutant(Mutant::StartBesideLiving) && container.stop.is_some());
        if living || !self.wants(index) || container.retry_at.is_some_and(|at| now.mono < at) {
            return false;
        }
        if self.is_mutant(Mutant::LoseRetry) && !container.dead.is_empty() {
            return false;
        }
        if let Some(target) = spec.target.clone().filter(|target| !self.was_created(target)) {
            return self.target_missing(index, &target, now);
        }
        match self.crash_turn(spec, container, now) {
            Turn::Wait(delay, until) => self.crash_loop(index, delay, until, now),
            Turn::Now(_) => self.ensure_image(index, now),
        }
    }

    fn was_created(&self, name: &str) -> bool {
        let index = self.spec.find(name).map(|index| usize::from(index.0));
        index.and_then(|i| self.state.containers.get(i)).is_some_and(|c| !c.id.is_empty())
    }

    /// Rule EP5; looked at again whenever something happens.
    fn target_missing(&mut self, index: usize, target: &str, now: Now) -> bool {
        let message = format!("unable to find target container {target}");
        let Some(container) = self.state.containers.get_mut(index) else {
            return false;
        };
        if container.waiting.as_ref().is_some_and(|waiting| waiting.message == message) {
            return false;
        }
        container.wait("CreateContainerConfigError", message.clone());
        self.record(Severity::Warning, "Failed", format!("Error: {message}"), Some(index), now);
        true
    }

    pub(super) fn crash_turn(&self, spec: &ContainerSpec, container: &Container, now: Now) -> Turn {
        let exited = container.newest_dead().filter(|_| !container.immediate).map(|dead| dead.at);
        let key = back_off_key(spec);
        restart::crash_turn(container.back_off.as_ref(), &key, exited, now.mono, self.spec.crash_back_off_max)
    }

    /// Rules CB2, CB7 and 1.4 `CrashLoopBackOff`.
    fn crash_loop(&mut self, index: usize, delay: std::time::Duration, until: Instant, now: Now) -> bool {
        let pod = self.spec.description();
        let Some((spec, container)) = self.parts(index) else {
            return false;
        };
        let name = spec.name.clone();
        let delay = restart::go_duration(delay);
        container.wait("CrashLoopBackOff", format!("back-off {delay} restarting failed container={name} pod={pod}"));
        container.retry_at = Some(until);
        let message = format!("Back-off restarting failed container {name} in pod {pod}");
        self.record(Severity::Warning, "BackOff", message, Some(index), now);
        true
    }

    pub(super) fn set_run(&mut self, index: usize, run: Run) {
        if let Some(container) = self.state.containers.get_mut(index) {
            container.run = run;
        }
    }

    /// The container is prepared; it starts when it is its turn.
    pub(super) fn created(&mut self, index: usize, instance: Instance, made: Created, now: Now) {
        let ahead = self.state.containers.get(index).is_some_and(|c| c.ahead);
        if ahead && self.may_start() {
            self.set_run(index, Run::Made { instance, made });
        } else {
            self.launch(index, instance, made, now);
        }
    }

    /// Lets a prepared container start, unless it is not wanted any more.
    pub(super) fn launch(&mut self, index: usize, instance: Instance, made: Created, now: Now) {
        let is_app = self.pair(index).is_some_and(|(spec, _)| spec.role == Role::App);
        self.state.has_initialized |= is_app;
        self.record(Severity::Normal, "Created", "Container created".to_owned(), Some(index), now);
        let Some(container) = self.state.containers.get_mut(index) else {
            return;
        };
        container.next_attempt = instance.attempt + 1;
        container.restart_count = instance.attempt;
        container.id = made.id;
        container.image = made.image;
        container.user = made.user;
        if self.may_start() {
            let action = self.act(Todo::StartContainer { instance });
            self.set_run(index, Run::Starting { action, instance, give_up: now.mono.after(ENGINE_TIMEOUT) });
        } else {
            self.remove(index, instance, false, now);
        }
    }

    /// Tells the engine to forget the instance, and waits until it has.
    pub(super) fn remove(&mut self, index: usize, instance: Instance, started: bool, now: Now) {
        let action = self.act(Todo::RemoveContainer { instance });
        let give_up = now.mono.after(ENGINE_TIMEOUT);
        if let Some(container) = self.state.containers.get_mut(index) {
            container.stop = None;
            container.run = Run::Removing { action, instance, give_up, started };
        }
    }

    /// Rules of 1.4 for a failed create or start, and CB10 for the next attempt.
    pub(super) fn start_failed(&mut self, index: usize, instance: Instance, failure: StartFailure, now: Now) {
        self.record(Severity::Warning, "Failed", format!("Error: {}", failure.message), Some(index), now);
        let reason = match failure.kind {
            StartFailureKind::Config => "CreateContainerConfigError",
            StartFailureKind::Create => "CreateContainerError",
            StartFailureKind::Run => "RunContainerError",
        };
        match failure.kind {
            StartFailureKind::Config | StartFailureKind::Create => {
                let Some(container) = self.state.containers.get_mut(index) else {
                    return;
                };
                container.run = Run::Absent;
                container.retry_at = Some(now.mono.after(START_RETRY));
                container.wait(reason, failure.message);
            }
            StartFailureKind::Run => {
                let record = start_error(&failure.message, self.container_id(index), now.wall);
                self.bury(index, instance, record, Fate::ByPolicy, now);
                if let Some(container) = self.state.containers.get_mut(index) {
                    container.wait(reason, failure.message);
                }
            }
        }
    }

    pub(super) fn container_id(&self, index: usize) -> String {
        self.state.containers.get(index).map(|c| c.id.clone()).unwrap_or_default()
    }

    /// The process runs; its postStart hook comes first (LC6).
    pub(super) fn started(&mut self, index: usize, instance: Instance, wall: WallTime, now: Now) {
        self.record(Severity::Normal, "Started", "Container started".to_owned(), Some(index), now);
        let hook = self.pair(index).and_then(|(spec, _)| spec.post_start.clone());
        let started = now.mono;
        self.set_run(index, Run::PostStart { instance, started, wall, hook: None });
        match hook {
            None => self.post_start_over(index),
            Some(HookHandler::TcpSocket) => {
                let failure = HookFailure { error: "invalid handler".to_owned(), output: String::new() };
                self.post_start_failed(index, &failure, now);
            }
            Some(HookHandler::Sleep { seconds }) => {
                let until = now.mono.after(std::time::Duration::from_secs(seconds));
                let hook = Some(Hook::Sleep { until, seconds });
                self.set_run(index, Run::PostStart { instance, started, wall, hook });
            }
            Some(handler @ (HookHandler::Exec { .. } | HookHandler::HttpGet(_))) => {
                let id = self.act(Todo::RunHook { instance, hook: HookKind::PostStart, handler, budget: None });
                let hook = Some(Hook::Action { id, give_up: None });
                self.set_run(index, Run::PostStart { instance, started, wall, hook });
            }
        }
    }

    /// The container is up: its status shows it, its probes begin.
    pub(super) fn post_start_over(&mut self, index: usize) {
        let surplus = {
            let Some((spec, container)) = self.parts(index) else {
                return;
            };
            let Run::PostStart { instance, started, wall, .. } = container.run else {
                return;
            };
            container.run = Run::Running { instance, started, wall };
            container.resizing = false;
            container.clear_waiting();
            container.started = spec.startup.is_none();
            container.probes = ProbeKind::ALL
                .into_iter()
                .filter_map(|kind| spec.probe(kind).map(|probe| (kind, Probe::new(kind, probe, started))))
                .collect();
            container.dead.split_off(container.dead.len().min(1))
        };
        for dead in surplus {
            self.act(Todo::RemoveContainer { instance: dead.instance });
        }
        if self.state.deletion.is_some() {
            self.retire_probes();
        }
    }

    /// Rule LC8.
    pub(super) fn post_start_failed(&mut self, index: usize, failure: &HookFailure, now: Now) {
        self.record(Severity::Warning, "FailedPostStartHook", "PostStartHook failed".to_owned(), Some(index), now);
        let grace = self.spec.grace;
        let message = self.pair(index).and_then(|(spec, _)| {
            let handler = spec.post_start.as_ref()?;
            Some(hooks::failure_message(&self.spec, spec, handler, failure))
        });
        let Some(container) = self.state.containers.get_mut(index) else {
            return;
        };
        if let Run::PostStart { hook, .. } = &mut container.run {
            *hook = None;
        }
        container.wait("PostStartHookError", message.unwrap_or_default());
        self.begin_stop(index, Cause::PostStartHook, grace, now);
    }
}

/// Image and resources; pod and container are given by where the entry is kept (CB1).
fn back_off_key(spec: &ContainerSpec) -> String {
    format!("{}\n{}", spec.image, spec.resources_key)
}

/// Rule 1.5 `StartError`.
pub(super) fn start_error(message: &str, id: String, finished: WallTime) -> Terminated {
    Terminated {
        exit_code: 128,
        reason: "StartError".to_owned(),
        message: message.to_owned(),
        started: Some(WallTime::EPOCH),
        finished: Some(finished),
        id,
    }
}
