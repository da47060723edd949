//! The invariants. They are written against what the world saw, not against what the machine remembers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::world::{ProcState, Seen, World};
use crate::pod::action::{HookKind, Instance, Todo};
use crate::pod::event::KubeEvent;
use crate::pod::spec::{PodSpec, ProbeKind, Role};
use crate::pod::status::{ContainerStatus, Phase, State, Status};
use crate::pod::timer::{GRACE_MIN, Instant};

/// What must hold after every step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invariant {
    /// Never two living instances of a container.
    OneLiving,
    /// Init containers in order, apps after all of them and the started sidecars, nothing while a postStart hook runs.
    StartOrder,
    /// A hook at most once per instance.
    HookOnce,
    /// No SIGKILL before the grace in force is over, nor within two seconds of the stop signal.
    Grace,
    /// Sidecars end after the apps, in reverse.
    StopOrder,
    /// A final phase stays final.
    FinalPhase,
    /// Restart counts only grow.
    Counts,
    /// Everything that was started is ended.
    AllEnded,
    /// After a bounded number of steps nothing is left to do.
    Rest,
    /// The status never contradicts what happened.
    Truth,
}

type Broken = (Invariant, String);

/// A kill that was announced.
#[derive(Debug, Clone, Copy)]
struct Kill {
    /// When the grace is over.
    until: Instant,
    /// The whole pod ends, so order counts.
    of_pod: bool,
}

#[derive(Debug)]
pub struct Check {
    spec: PodSpec,
    /// Init containers that ended well and sidecars that started, since the sandbox came.
    passed: BTreeSet<u16>,
    hooks: BTreeSet<(Instance, HookKind)>,
    /// Starts that were asked for in this step.
    starts: Vec<Instance>,
    kills: BTreeMap<u16, Kill>,
    signalled: BTreeMap<u64, Instant>,
    /// The end of the grace of every kill of the whole pod.
    pod_kills: Vec<Instant>,
    was_ending: bool,
    up: BTreeSet<String>,
    ended: BTreeMap<String, i32>,
    creates: BTreeMap<String, u32>,
    counts: BTreeMap<String, u32>,
    final_phase: Option<(Phase, Option<String>)>,
}

impl Check {
    pub fn new(world: &World) -> Self {
        Self {
            spec: world.machine.spec().clone(),
            passed: BTreeSet::new(),
            hooks: BTreeSet::new(),
            starts: Vec::new(),
            kills: BTreeMap::new(),
            signalled: BTreeMap::new(),
            pod_kills: Vec::new(),
            was_ending: false,
            up: BTreeSet::new(),
            ended: BTreeMap::new(),
            creates: BTreeMap::new(),
            counts: BTreeMap::new(),
            final_phase: None,
        }
    }

    /// The whole pod is told to end within `grace`.
    pub fn pod_kill(&mut self, now: Instant, grace: Duration) {
        self.pod_kills.push(now.after(grace));
    }

    pub fn after_step(&mut self, world: &mut World) -> Result<(), Broken> {
        if world.machine.spec().containers.len() != self.spec.containers.len() {
            self.spec = world.machine.spec().clone();
        }
        if world.machine.is_ending() && !self.was_ending {
            self.was_ending = true;
            self.pod_kill(world.now.mono, self.spec.grace);
        }
        for (at, seen) in std::mem::take(&mut world.seen) {
            self.look_at(at, seen, world)?;
        }
        let timeout = world.machine.next_timeout(world.now);
        if timeout.is_some_and(|at| at < world.now.mono) {
            return Err((Invariant::Rest, "a deadline has passed and nothing was done".to_owned()));
        }
        let status = world.machine.status();
        self.look_at_starts(&status, world)?;
        self.look_at_status(&status, world)
    }

    /// Rule LC6: a container whose postStart hook runs shows Waiting.
    fn look_at_starts(&mut self, status: &Status, world: &World) -> Result<(), Broken> {
        let lives = |instance: &Instance| {
            let proc = world.procs.get(&instance.serial);
            proc.is_some_and(|proc| matches!(proc.state, ProcState::Running { .. }))
        };
        let hooked = self.hooks.iter().filter(|(_, hook)| *hook == HookKind::PostStart).map(|(instance, _)| instance);
        let all = || status.init.iter().chain(&status.apps).chain(&status.ephemeral);
        let waits = |instance: &Instance| {
            all().any(|c| c.id == id_of(*instance) && matches!(c.state, State::Waiting(_) | State::Terminated(_)))
        };
        let busy: Vec<Instance> = hooked.filter(|instance| lives(instance) && waits(instance)).copied().collect();
        for start in std::mem::take(&mut self.starts) {
            if let Some(other) = busy.iter().find(|other| other.container != start.container) {
                let text = format!("{} starts during the hook of {}", world.name(start), world.name(*other));
                return Err((Invariant::StartOrder, text));
            }
        }
        Ok(())
    }

    fn look_at(&mut self, at: Instant, seen: Seen, world: &World) -> Result<(), Broken> {
        match seen {
            Seen::Up(instance) => self.came_up(instance, world),
            Seen::Passed(instance) => {
                self.passed.insert(instance.container.0);
                Ok(())
            }
            Seen::Ended(instance, code) => {
                self.has_ended(instance, code, world);
                Ok(())
            }
            Seen::Told(event) => {
                self.was_told(at, &event);
                Ok(())
            }
            Seen::Asked(todo) => self.was_asked(at, todo, world),
        }
    }

    fn role(&self, container: u16) -> Role {
        self.spec.containers.get(usize::from(container)).map_or(Role::App, |spec| spec.role)
    }

    fn came_up(&mut self, instance: Instance, world: &World) -> Result<(), Broken> {
        let own = instance.container.0;
        let twin = world.procs.values().find(|proc| {
            proc.instance != instance
                && proc.instance.container == instance.container
                && matches!(proc.state, ProcState::Running { .. })
        });
        if let Some(twin) = twin {
            return Err((Invariant::OneLiving, format!("{instance:?} beside {:?}", twin.instance)));
        }
        let role = self.role(own);
        if role == Role::Init && self.passed.contains(&own) {
            self.passed.retain(|other| *other < own);
        }
        let indices = (0u16..).zip(&self.spec.containers);
        let needed = |other: u16, needs: Role| match (role, needs) {
            (Role::Ephemeral, _) | (_, Role::App | Role::Ephemeral) => false,
            (Role::App, Role::Init | Role::Sidecar) => true,
            (Role::Init | Role::Sidecar, Role::Init | Role::Sidecar) => other < own,
        };
        let mut missing = indices.filter(|(other, spec)| needed(*other, spec.role) && !self.passed.contains(other));
        if let Some((_, spec)) = missing.next() {
            return Err((Invariant::StartOrder, format!("{} came up before {}", world.name(instance), spec.name)));
        }
        let gated = self.spec.containers.get(usize::from(own)).is_some_and(|spec| spec.startup.is_some());
        if role == Role::Sidecar && !gated {
            self.passed.insert(own);
        }
        self.up.insert(id_of(instance));
        self.kills.remove(&own);
        Ok(())
    }

    fn has_ended(&mut self, instance: Instance, code: i32, world: &World) {
        let oom = world.procs.get(&instance.serial).is_some_and(|proc| match &proc.state {
            ProcState::Exited(exit) => exit.oom_killed,
            ProcState::Created | ProcState::Running { .. } => false,
        });
        if self.role(instance.container.0) == Role::Init && code == 0 && !oom {
            self.passed.insert(instance.container.0);
        }
        self.ended.insert(id_of(instance), code);
    }

    fn was_told(&mut self, at: Instant, event: &KubeEvent) {
        match event.reason {
            "SandboxChanged" => self.pod_kill(at, self.spec.grace),
            "Killing" => {
                let Some(container) = event.container else { return };
                let of_pod = event.message.starts_with("Stopping");
                let grace = self.grace_of(container.0, &event.message);
                self.kills.insert(container.0, Kill { until: at.after(grace), of_pod });
            }
            _ => {}
        }
    }

    fn grace_of(&self, container: u16, message: &str) -> Duration {
        let spec = self.spec.containers.get(usize::from(container));
        let of = |kind| spec.and_then(|spec| spec.probe(kind)).and_then(|probe| probe.grace);
        let own = if message.contains("failed liveness") {
            of(ProbeKind::Liveness)
        } else if message.contains("failed startup") {
            of(ProbeKind::Startup)
        } else {
            None
        };
        own.unwrap_or(self.spec.grace)
    }

    /// When a SIGKILL is allowed at the earliest.
    fn allowed(&self, container: u16) -> Instant {
        let own = self.kills.get(&container).map(|kill| kill.until);
        let of_pod = self.pod_kills.iter().copied().min();
        [own, of_pod].into_iter().flatten().min().unwrap_or_default()
    }

    fn was_asked(&mut self, at: Instant, todo: Todo, world: &World) -> Result<(), Broken> {
        match todo {
            Todo::CreateSandbox { .. } => self.passed.clear(),
            Todo::CreateContainer { instance, .. } => {
                *self.creates.entry(world.name(instance)).or_default() += 1;
            }
            Todo::RunHook { instance, hook, .. } => {
                if !self.hooks.insert((instance, hook)) {
                    return Err((Invariant::HookOnce, format!("{hook:?} of {instance:?} runs again")));
                }
            }
            Todo::Signal { instance, .. } => return self.was_signalled(at, instance, world),
            Todo::Kill { instance } => return self.was_killed(at, instance),
            Todo::StartContainer { instance } => self.starts.push(instance),
            Todo::SetUpVolumes
            | Todo::EnsureImage { .. }
            | Todo::RemoveContainer { .. }
            | Todo::RunProbe { .. }
            | Todo::Resize { .. }
            | Todo::Cancel { .. }
            | Todo::StopSandbox { .. }
            | Todo::TearDownVolumes
            | Todo::RemovePod => {}
        }
        Ok(())
    }

    fn was_killed(&self, at: Instant, instance: Instance) -> Result<(), Broken> {
        let Some(signalled) = self.signalled.get(&instance.serial) else {
            return Err((Invariant::Grace, format!("{instance:?} is killed without a signal")));
        };
        if at < signalled.after(GRACE_MIN) {
            return Err((Invariant::Grace, format!("{instance:?} is killed within two seconds of the signal")));
        }
        if !self.spec.may_restart_all() && at < self.allowed(instance.container.0) {
            return Err((Invariant::Grace, format!("{instance:?} is killed before its grace is over")));
        }
        Ok(())
    }

    fn was_signalled(&mut self, at: Instant, instance: Instance, world: &World) -> Result<(), Broken> {
        let own = instance.container.0;
        if self.signalled.contains_key(&instance.serial) {
            return Ok(());
        }
        self.signalled.insert(instance.serial, at);
        let of_pod = self.kills.get(&own).is_some_and(|kill| kill.of_pod);
        let ordered = of_pod && self.role(own) == Role::Sidecar && !self.spec.may_restart_all();
        if !ordered || at >= self.allowed(own) {
            return Ok(());
        }
        let goes_first = |other: u16| match self.role(other) {
            Role::Init | Role::App => true,
            Role::Sidecar => other > own,
            Role::Ephemeral => false,
        };
        let living = world
            .procs
            .values()
            .find(|proc| goes_first(proc.instance.container.0) && matches!(proc.state, ProcState::Running { .. }));
        match living {
            None => Ok(()),
            Some(other) => {
                let text = format!("{} is signalled while {} runs", world.name(instance), world.name(other.instance));
                Err((Invariant::StopOrder, text))
            }
        }
    }

    fn look_at_status(&mut self, status: &Status, world: &World) -> Result<(), Broken> {
        let now = (status.phase, status.reason.clone());
        match &self.final_phase {
            Some(known) if *known != now => {
                return Err((Invariant::FinalPhase, format!("{known:?} became {now:?}")));
            }
            Some(_) => {}
            None if status.phase.is_final() => self.final_phase = Some(now),
            None => {}
        }
        for container in status.init.iter().chain(&status.apps).chain(&status.ephemeral) {
            self.look_at_container(container)?;
        }
        if world.machine.is_finished() {
            let living = world.procs.values().any(|proc| matches!(proc.state, ProcState::Running { .. }));
            if living || world.sandbox.is_some() || world.volumes {
                return Err((Invariant::AllEnded, "the pod is finished, but something is left".to_owned()));
            }
        }
        Ok(())
    }

    fn look_at_container(&mut self, status: &ContainerStatus) -> Result<(), Broken> {
        let name = &status.name;
        let known = self.counts.entry(name.clone()).or_default();
        if status.restart_count < *known {
            return Err((Invariant::Counts, format!("{name}: {known} became {}", status.restart_count)));
        }
        *known = status.restart_count;
        let truth = |what: &str| Err((Invariant::Truth, format!("{name}: {what}")));
        if status.restart_count > self.creates.get(name).copied().unwrap_or(0) {
            return truth("was restarted more often than created");
        }
        match &status.state {
            State::Running { .. } if !self.up.contains(&status.id) => return truth("runs, but never came up"),
            State::Running { .. } => {}
            State::Waiting(_) | State::Terminated(_) if status.started => {
                return truth("has started, but does not run");
            }
            State::Waiting(_) | State::Terminated(_) if status.ready && status.role != Role::Init => {
                return truth("is ready, but does not run");
            }
            State::Waiting(_) | State::Terminated(_) => {}
        }
        let records = [&status.last, &terminated(&status.state)];
        for record in records.into_iter().flatten() {
            let told = matches!(record.reason.as_str(), "Completed" | "Error" | "OOMKilled");
            let known = self.ended.get(&record.id);
            if told && !record.message.starts_with("Unable") && known != Some(&record.exit_code) {
                return truth(&format!("ended with {}, but {known:?} was seen", record.exit_code));
            }
        }
        Ok(())
    }

    /// The pod was deleted and the machine says that it is gone.
    pub fn nothing_left(&self, world: &World) -> Result<(), Broken> {
        let living = world.procs.values().filter(|proc| matches!(proc.state, ProcState::Running { .. })).count();
        let left = [
            (living > 0, "a process"),
            (world.sandbox.is_some(), "the sandbox"),
            (world.volumes, "the volumes"),
            (!world.pod_removed, "the pod itself"),
        ];
        match left.into_iter().find(|(is_left, _)| *is_left) {
            None => Ok(()),
            Some((_, what)) => Err((Invariant::AllEnded, format!("{what} is left"))),
        }
    }
}

fn id_of(instance: Instance) -> String {
    format!("monopod://{:064x}", instance.serial)
}

fn terminated(state: &State) -> Option<crate::pod::status::Terminated> {
    match state {
        State::Terminated(record) => Some(record.clone()),
        State::Waiting(_) | State::Running { .. } => None,
    }
}
