//! A driver and an engine that exist in memory, with a clock of their own.
//!
//! The engine does what its contract says (see [`crate::pod::action`]): in order per object, idempotent, no id used twice.
//! Delays, lost and doubled answers are between engine and machine, where they are in reality.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::behaviour::{Behaviour, Faults, Start};
use super::random::Random;
use crate::pod::action::{Action, ActionId, Instance, Todo};
use crate::pod::event::{
    Created, Event, Exit, HookFailure, HookSuccess, ImageFailure, ImageReady, KubeEvent, Outcome, ProbeOutcome,
    PullReport, SandboxReady, StartFailure, StartFailureKind, VolumeFailure,
};
use crate::pod::machine::Machine;
use crate::pod::spec::{PodSpec, ProbeKind, Resources};
use crate::pod::timer::{Instant, Now, WallTime};

/// 2026-01-01T00:00:00Z, in seconds.
const EPOCH_SECONDS: i64 = 1_767_225_600;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProcState {
    Created,
    Running { started: WallTime },
    Exited(Exit),
}

#[derive(Debug, Clone)]
pub struct Proc {
    pub instance: Instance,
    pub state: ProcState,
    pub behaviour: Behaviour,
}

#[derive(Debug)]
pub(super) enum Item {
    Execute(Action),
    Deliver(Event),
    /// The process ends; the code.
    Die {
        serial: u64,
        code: i32,
    },
}

/// What the world saw, for tests and invariants.
#[derive(Debug, Clone, PartialEq)]
pub enum Seen {
    Asked(Todo),
    Told(KubeEvent),
    Ended(Instance, i32),
    /// The process runs.
    Up(Instance),
    /// Its startup probe is about to succeed.
    Passed(Instance),
}

#[derive(Debug)]
pub struct World {
    pub machine: Machine,
    pub now: Now,
    pub random: Random,
    pub faults: Faults,
    pub(super) queue: BTreeMap<(Instant, u64), Item>,
    pub(super) sequence: u64,
    pub(super) order: BTreeMap<u64, Instant>,
    pub procs: BTreeMap<u64, Proc>,
    pub(super) removed: BTreeSet<u64>,
    pub sandbox: Option<u32>,
    sandboxes_made: BTreeSet<u32>,
    pub volumes: bool,
    pub pod_removed: bool,
    cancelled: BTreeSet<ActionId>,
    /// Per container, one entry per instance; the last one repeats.
    pub behaviours: BTreeMap<String, Vec<Behaviour>>,
    instances: BTreeMap<u16, usize>,
    /// Answers of probes, in order; the last one repeats; none: success.
    pub probes: BTreeMap<(String, ProbeKind), Vec<ProbeOutcome>>,
    pub probe_takes: Duration,
    /// Duration and success of exec and HTTP hooks.
    pub hook: (Duration, Result<HookSuccess, HookFailure>),
    pub image: Vec<Result<ImageReady, ImageFailure>>,
    pub volume_failures: u32,
    pub sandbox_failures: u32,
    /// Of volumes that are torn down, then of the pod's removal.
    pub teardown_failures: u32,
    pub removal_failures: u32,
    /// What the cgroup of each instance has.
    pub amounts: BTreeMap<u64, Resources>,
    pub resize_failures: u32,
    pub seen: Vec<(Instant, Seen)>,
}

impl World {
    /// A perfect world with a new pod in it.
    pub fn new(spec: PodSpec) -> Self {
        let now = Now { mono: Instant(1_000_000_000_000), wall: WallTime(EPOCH_SECONDS * 1_000_000_000) };
        Self::with(Machine::new(spec, now), now)
    }

    pub fn with(machine: Machine, now: Now) -> Self {
        let mut world = Self {
            machine,
            now,
            random: Random::new(0),
            faults: Faults::default(),
            queue: BTreeMap::new(),
            sequence: 0,
            order: BTreeMap::new(),
            procs: BTreeMap::new(),
            removed: BTreeSet::new(),
            sandbox: None,
            sandboxes_made: BTreeSet::new(),
            volumes: false,
            pod_removed: false,
            cancelled: BTreeSet::new(),
            behaviours: BTreeMap::new(),
            instances: BTreeMap::new(),
            probes: BTreeMap::new(),
            probe_takes: Duration::ZERO,
            hook: (Duration::ZERO, Ok(HookSuccess { http_fallback: None })),
            image: Vec::new(),
            volume_failures: 0,
            sandbox_failures: 0,
            teardown_failures: 0,
            removal_failures: 0,
            amounts: BTreeMap::new(),
            resize_failures: 0,
            seen: Vec::new(),
        };
        world.drain();
        world
    }

    /// The next moment at which something happens.
    pub fn next(&self) -> Option<Instant> {
        let item = self.queue.keys().next().map(|(at, _)| *at);
        let timeout = self.machine.next_timeout(self.now);
        [item, timeout].into_iter().flatten().min()
    }

    /// Lets the next thing happen; false when nothing is left to do.
    pub fn step(&mut self) -> bool {
        let Some(at) = self.next() else { return false };
        self.advance(at.max(self.now.mono));
        let due = self.queue.first_key_value().map(|(key, _)| *key).filter(|(at, _)| *at <= self.now.mono);
        match due.and_then(|key| self.queue.remove(&key)) {
            Some(Item::Execute(action)) => self.execute(action),
            Some(Item::Deliver(event)) => self.machine.handle(event, self.now),
            Some(Item::Die { serial, code }) => self.die(serial, code),
            None => self.machine.handle_timeout(self.now),
        }
        self.drain();
        true
    }

    /// Lets `span` pass.
    pub fn run_for(&mut self, span: Duration) {
        let end = self.now.mono.after(span);
        while self.next().is_some_and(|at| at <= end) {
            self.step();
        }
        self.advance(end);
    }

    /// Moves both clocks.
    pub fn advance(&mut self, to: Instant) {
        let span = to.since(self.now.mono);
        self.now.mono = self.now.mono.after(span);
        self.now.wall.0 += i64::try_from(span.as_nanos()).unwrap_or(0);
    }

    /// Something that a user does, or that happens to the pod.
    pub fn act(&mut self, change: impl FnOnce(&mut Machine, Now)) {
        change(&mut self.machine, self.now);
        self.drain();
    }

    /// Takes what the machine wants to be done.
    pub(super) fn drain(&mut self) {
        while let Some(record) = self.machine.poll_event_record() {
            self.seen.push((self.now.mono, Seen::Told(record)));
        }
        while let Some(action) = self.machine.poll_action() {
            self.seen.push((self.now.mono, Seen::Asked(action.todo.clone())));
            if let Todo::CreateContainer { instance, .. } = action.todo {
                // The driver shows the container's task the pod as it is now.
                let resources = self.machine.spec().get(instance.container).map(|own| own.resources.clone());
                self.amounts.insert(instance.serial, resources.unwrap_or_default());
            }
            let delay = self.delay();
            let key = key_of(&action.todo);
            let earliest = self.order.get(&key).copied().unwrap_or_default();
            let at = self.now.mono.after(delay).max(earliest);
            self.order.insert(key, at);
            self.push(at, Item::Execute(action));
        }
    }

    fn push(&mut self, at: Instant, item: Item) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), item);
    }

    fn delay(&mut self) -> Duration {
        self.random.duration_below(self.faults.delay_max)
    }

    fn fails(&mut self) -> bool {
        let failing = self.faults.failing;
        self.random.chance(failing, 1000)
    }

    fn answer(&mut self, action: ActionId, outcome: Outcome, after: Duration) {
        let (lost, doubled) = (self.faults.lost, self.faults.doubled);
        // A postStart hook may take for ever (LC2), so the machine can't tell a lost answer from a late one.
        let is_hook = matches!(outcome, Outcome::Hook(_));
        if !is_hook && self.random.chance(lost, 1000) {
            return;
        }
        if self.random.chance(doubled, 1000) {
            let at = self.now.mono.after(after).after(self.delay());
            self.push(at, Item::Deliver(Event::Done { action, outcome: outcome.clone() }));
        }
        let at = self.now.mono.after(after).after(self.delay());
        self.push(at, Item::Deliver(Event::Done { action, outcome }));
    }

    fn tell(&mut self, event: Event) {
        let at = self.now.mono.after(self.delay());
        self.push(at, Item::Deliver(event));
    }

    pub(super) fn execute(&mut self, action: Action) {
        let id = action.id;
        match action.todo {
            Todo::SetUpVolumes => self.set_up_volumes(id),
            Todo::TearDownVolumes => {
                let fails = self.fails() || self.teardown_failures > 0;
                self.teardown_failures = self.teardown_failures.saturating_sub(1);
                self.volumes &= fails;
                let result = if fails { Err("volumes stay".to_owned()) } else { Ok(()) };
                self.answer(id, Outcome::VolumesTornDown(result), Duration::ZERO);
            }
            Todo::CreateSandbox { attempt } => self.create_sandbox(id, attempt),
            Todo::StopSandbox { attempt } => self.stop_sandbox(id, attempt),
            Todo::EnsureImage { .. } => self.ensure_image(id),
            Todo::CreateContainer { instance, .. } => self.create(id, instance),
            Todo::StartContainer { instance } => self.start(id, instance),
            Todo::Signal { instance, .. } => self.signal(instance),
            Todo::Kill { instance } => self.end(instance.serial, 137, Duration::ZERO),
            Todo::RemoveContainer { instance } => self.remove(id, instance),
            Todo::RunProbe { instance, kind, .. } => self.probe(id, instance, kind),
            Todo::RunHook { .. } => {
                let (takes, result) = self.hook.clone();
                let failed = self.fails();
                let failure = HookFailure { error: "no".to_owned(), output: String::new() };
                let result = if failed { Err(failure) } else { result };
                self.answer(id, Outcome::Hook(result), takes);
            }
            Todo::Resize { containers, .. } => self.resize(id, containers),
            Todo::Cancel { action } => {
                self.cancelled.insert(action);
            }
            Todo::RemovePod => {
                let fails = self.fails() || self.removal_failures > 0;
                self.removal_failures = self.removal_failures.saturating_sub(1);
                self.pod_removed |= !fails;
                let result = if fails { Err("records stay".to_owned()) } else { Ok(()) };
                self.answer(id, Outcome::PodRemoved(result), Duration::ZERO);
            }
        }
    }

    /// One that fails may have written some of it.
    fn resize(&mut self, id: ActionId, containers: Vec<(Instance, Resources)>) {
        let fails = self.fails() || self.resize_failures > 0;
        self.resize_failures = self.resize_failures.saturating_sub(1);
        for (instance, resources) in containers {
            self.amounts.insert(instance.serial, resources);
        }
        let error = "attempting to set pod memory limit (1) below current usage (2)".to_owned();
        self.answer(id, Outcome::Resized(if fails { Err(error) } else { Ok(()) }), Duration::ZERO);
    }

    fn set_up_volumes(&mut self, id: ActionId) {
        let fails = self.fails() || self.volume_failures > 0;
        self.volume_failures = self.volume_failures.saturating_sub(1);
        self.volumes |= !fails;
        let failure = VolumeFailure { volume: "data".to_owned(), message: "no such thing".to_owned() };
        let result = if fails { Err(failure) } else { Ok(()) };
        self.answer(id, Outcome::VolumesSetUp(result), Duration::ZERO);
    }

    fn create_sandbox(&mut self, id: ActionId, attempt: u32) {
        let fails = self.fails() || self.sandbox_failures > 0;
        self.sandbox_failures = self.sandbox_failures.saturating_sub(1);
        if fails {
            self.answer(id, Outcome::SandboxCreated(Err("no network".to_owned())), Duration::ZERO);
            return;
        }
        self.sandboxes_made.insert(attempt);
        self.sandbox = Some(attempt);
        let octet = u8::try_from(attempt % 200 + 2).unwrap_or(2);
        let ready = SandboxReady { ips: vec![IpAddr::V4(Ipv4Addr::new(10, 0, 0, octet))] };
        self.answer(id, Outcome::SandboxCreated(Ok(ready)), Duration::ZERO);
    }

    fn stop_sandbox(&mut self, id: ActionId, attempt: u32) {
        if self.fails() {
            self.answer(id, Outcome::SandboxStopped(Err("busy".to_owned())), Duration::ZERO);
            return;
        }
        if self.sandbox == Some(attempt) {
            self.sandbox = None;
        }
        self.answer(id, Outcome::SandboxStopped(Ok(())), Duration::ZERO);
    }

    fn ensure_image(&mut self, id: ActionId) {
        let ready = ImageReady { pulled: None, image_id: "busybox@sha256:00".to_owned(), stop_signal: None };
        let result = match self.image.len() {
            0 if self.fails() => Err(ImageFailure::Pull("registry says no".to_owned())),
            0 => Ok(ready),
            1 => self.image.first().cloned().unwrap_or(Ok(ready)),
            _ => self.image.remove(0),
        };
        if matches!(result, Ok(ImageReady { pulled: Some(PullReport { .. }), .. }) | Err(ImageFailure::Pull(_))) {
            self.tell(Event::PullStarted { action: id });
        }
        self.answer(id, Outcome::Image(result), Duration::ZERO);
    }

    fn next_behaviour(&mut self, instance: Instance) -> Behaviour {
        let name = self.name(instance);
        let nth = self.instances.entry(instance.container.0).or_default();
        let all = self.behaviours.get(&name);
        let found = all.and_then(|all| all.get(*nth).or(all.last())).copied();
        *nth += 1;
        found.unwrap_or(Behaviour::FOREVER)
    }

    /// Name of an instance's container.
    pub fn name(&self, instance: Instance) -> String {
        self.machine.spec().get(instance.container).map(|spec| spec.name.clone()).unwrap_or_default()
    }

    fn create(&mut self, id: ActionId, instance: Instance) {
        let known = self.procs.contains_key(&instance.serial) || self.removed.contains(&instance.serial);
        let behaviour = self.next_behaviour(instance);
        let failure = match behaviour.create {
            Start::Works if known || self.sandbox.is_none() || self.fails() => Some(StartFailureKind::Create),
            Start::Works => None,
            Start::Fails(kind) => Some(kind),
        };
        if let Some(kind) = failure {
            let failure = StartFailure { kind, message: "cannot".to_owned() };
            self.answer(id, Outcome::ContainerCreated(Err(failure)), Duration::ZERO);
            return;
        }
        self.procs.insert(instance.serial, Proc { instance, state: ProcState::Created, behaviour });
        let created = Created {
            id: format!("monopod://{:064x}", instance.serial),
            image: "docker.io/library/busybox:latest".to_owned(),
            user: None,
        };
        self.answer(id, Outcome::ContainerCreated(Ok(created)), Duration::ZERO);
    }

    fn start(&mut self, id: ActionId, instance: Instance) {
        let wall = self.now.wall;
        let fails = self.fails();
        let Some(proc) = self.procs.get_mut(&instance.serial) else {
            let failure = StartFailure { kind: StartFailureKind::Create, message: "not found".to_owned() };
            self.answer(id, Outcome::ContainerStarted(Err(failure)), Duration::ZERO);
            return;
        };
        let behaviour = proc.behaviour;
        match &proc.state {
            ProcState::Created => {}
            ProcState::Running { started } => {
                let started = *started;
                self.answer(id, Outcome::ContainerStarted(Ok(started)), Duration::ZERO);
                return;
            }
            ProcState::Exited(_) => return,
        }
        if let Start::Fails(kind) = if fails { Start::Fails(StartFailureKind::Run) } else { behaviour.start } {
            proc.state = ProcState::Exited(Exit {
                code: 128,
                oom_killed: false,
                start_error: Some("cannot".to_owned()),
                started: None,
                finished: wall,
                message: None,
            });
            let failure = StartFailure { kind, message: "cannot".to_owned() };
            self.answer(id, Outcome::ContainerStarted(Err(failure)), Duration::ZERO);
            return;
        }
        proc.state = ProcState::Running { started: wall };
        self.seen.push((self.now.mono, Seen::Up(instance)));
        self.answer(id, Outcome::ContainerStarted(Ok(wall)), Duration::ZERO);
        if let Some(lives) = behaviour.lives {
            self.end(instance.serial, behaviour.code, lives);
        }
    }

    fn signal(&mut self, instance: Instance) {
        let Some(obeys) = self.procs.get(&instance.serial).and_then(|proc| proc.behaviour.obeys) else {
            return;
        };
        let code = self.procs.get(&instance.serial).map_or(143, |proc| match proc.behaviour.lives {
            Some(_) => 143,
            None => proc.behaviour.code,
        });
        self.end(instance.serial, code, obeys);
    }

    fn end(&mut self, serial: u64, code: i32, after: Duration) {
        let at = self.now.mono.after(after);
        self.push(at, Item::Die { serial, code });
    }

    fn die(&mut self, serial: u64, code: i32) {
        let Some(proc) = self.procs.get_mut(&serial) else {
            return;
        };
        let started = match proc.state {
            ProcState::Created => None,
            ProcState::Running { started } => Some(started),
            ProcState::Exited(_) => return,
        };
        let exit = Exit {
            code,
            oom_killed: proc.behaviour.oom && code == 137,
            start_error: None,
            started,
            finished: self.now.wall,
            message: None,
        };
        proc.state = ProcState::Exited(exit.clone());
        let instance = proc.instance;
        self.seen.push((self.now.mono, Seen::Ended(instance, code)));
        self.tell(Event::ContainerExited { instance, exit });
    }

    fn remove(&mut self, id: ActionId, instance: Instance) {
        self.procs.remove(&instance.serial);
        self.removed.insert(instance.serial);
        self.answer(id, Outcome::ContainerRemoved(Ok(())), Duration::ZERO);
    }

    fn probe(&mut self, id: ActionId, instance: Instance, kind: ProbeKind) {
        let name = self.name(instance);
        let script = self.probes.entry((name, kind)).or_default();
        let scripted = match script.len() {
            0 => None,
            1 => script.first().cloned(),
            _ => Some(script.remove(0)),
        };
        let outcome = match scripted {
            Some(outcome) => outcome,
            None if self.fails() => ProbeOutcome::Failure("no".to_owned()),
            None => ProbeOutcome::Success,
        };
        if kind == ProbeKind::Startup && outcome == ProbeOutcome::Success {
            self.seen.push((self.now.mono, Seen::Passed(instance)));
        }
        let takes = self.probe_takes;
        self.answer(id, Outcome::Probe(outcome), takes);
    }

    /// Pause dies; with `monitor`, every process of the pod too, and nobody saw how.
    pub fn lose_sandbox(&mut self, monitor: bool) {
        let Some(attempt) = self.sandbox.take() else {
            return;
        };
        if monitor {
            let instances: Vec<Instance> = self.procs.values().map(|proc| proc.instance).collect();
            for instance in &instances {
                self.procs.remove(&instance.serial);
                self.removed.insert(instance.serial);
            }
            self.tell(Event::SandboxLost { attempt });
            for instance in instances {
                self.tell(Event::ContainerLost { instance });
            }
        } else {
            self.tell(Event::SandboxLost { attempt });
        }
    }
}

/// Actions with the same key are executed in order.
fn key_of(todo: &Todo) -> u64 {
    match todo {
        Todo::CreateContainer { instance, .. }
        | Todo::StartContainer { instance }
        | Todo::Signal { instance, .. }
        | Todo::Kill { instance }
        | Todo::RemoveContainer { instance } => instance.serial,
        Todo::SetUpVolumes
        | Todo::CreateSandbox { .. }
        | Todo::StopSandbox { .. }
        | Todo::Resize { .. }
        | Todo::TearDownVolumes
        | Todo::RemovePod => 0,
        Todo::EnsureImage { .. } | Todo::RunProbe { .. } | Todo::RunHook { .. } | Todo::Cancel { .. } => u64::MAX,
    }
}
