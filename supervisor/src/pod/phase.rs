//! Status as a function of state: phase, conditions, container states (sections 1.1-1.3).

use super::container::{Container, Run};
use super::machine::{Goal, Machine, Mutant};
use super::restart;
use super::spec::{ContainerSpec, Role};
use super::status::{ContainerStatus, Phase, State, Status, Terminated, Waiting, cut_messages};
use super::timer::WallTime;

/// The status as it was when the state changed last.
pub(super) fn status(machine: &Machine) -> Status {
    status_at(machine, WallTime::EPOCH)
}

/// The status; `wall` is the transition time of conditions that change now.
pub(super) fn status_at(machine: &Machine, wall: WallTime) -> Status {
    let mut init = Vec::new();
    let mut apps = Vec::new();
    let mut ephemeral = Vec::new();
    for index in 0..machine.spec.containers.len() {
        let Some((spec, container)) = machine.pair(index) else {
            continue;
        };
        let entry = container_status(machine, index, spec, container);
        match spec.role {
            Role::Init | Role::Sidecar => init.push(entry),
            Role::App => apps.push(entry),
            Role::Ephemeral => ephemeral.push(entry),
        }
    }
    let computed = compute_phase(machine, &init, &apps);
    let ending = machine.state.ending.as_ref().filter(|_| !machine.is_mutant(Mutant::ForgetPhase));
    // Conditions know of an end at once.
    let conditions =
        super::conditions::all(machine, ending.map_or(computed, |ending| ending.phase), &init, &apps, wall);
    let (phase, reason, message) = match ending {
        Some(ending)
            if ending.reason.is_some() && machine.state.containers.iter().any(|one| one.run != Run::Absent) =>
        {
            (before_the_end(machine, computed), None, None)
        }
        Some(ending) => (ending.phase, ending.reason.clone(), ending.message.clone()),
        None => (computed, None, None),
    };
    apps.sort_by(|a, b| a.name.cmp(&b.name));
    ephemeral.sort_by(|a, b| a.name.cmp(&b.name));
    let mut status = Status {
        phase,
        reason,
        message,
        conditions,
        start_time: machine.state.start_time,
        ips: machine.state.ips.clone(),
        init,
        apps,
        ephemeral,
        observed_generation: machine.spec.generation,
        deletion: machine.state.deletion,
    };
    cut_messages(&machine.spec, &mut status);
    status
}

/// The phase of a pod that was failed from outside waits until nothing of it runs, as the kubelet's does: who sees a final
/// phase may take what the pod had.
fn before_the_end(machine: &Machine, computed: Phase) -> Phase {
    match computed {
        Phase::Pending | Phase::Running => computed,
        Phase::Succeeded | Phase::Failed if machine.state.has_initialized => Phase::Running,
        Phase::Succeeded | Phase::Failed => Phase::Pending,
    }
}

fn container_status(machine: &Machine, index: usize, spec: &ContainerSpec, container: &Container) -> ContainerStatus {
    let (state, last) = states(machine, index, container);
    let ready = match (spec.role, &state) {
        (Role::Init, State::Terminated(record)) => record.succeeded(Role::Init),
        (Role::Init, State::Waiting(_) | State::Running { .. }) => false,
        (Role::Sidecar | Role::App, _) => machine.shows_ready(index),
        (Role::Ephemeral, _) => false,
    };
    ContainerStatus {
        name: spec.name.clone(),
        role: spec.role,
        image: container.image.clone(),
        image_id: container.image_id.clone(),
        id: container.id.clone(),
        ready,
        started: container.is_running() && container.started,
        restart_count: container.restart_count,
        state,
        last,
        user: container.user.clone(),
        stop_signal: container.run.live().map(|_| container.stop_signal(spec)),
        actual: container.run.live().and(container.actual.clone()).filter(|actual| *actual != spec.resources),
    }
}

/// Rules CS1-CS5, LC6.
fn states(machine: &Machine, index: usize, container: &Container) -> (State, Option<Terminated>) {
    let nth = |n: usize| container.dead.get(n).map(|dead| dead.record.clone());
    if let Run::Running { wall, .. } = container.run {
        return (State::Running { started: wall }, nth(0));
    }
    let goes_on = machine.state.goal != Goal::End && machine.wants(index);
    let waits = container.waiting.as_ref().filter(|_| goes_on || container.dead.is_empty());
    match (waits, nth(0)) {
        (Some(waiting), newest) => (State::Waiting(waiting.clone()), newest),
        (None, Some(newest)) => (State::Terminated(newest), nth(1)),
        (None, None) => (State::Waiting(default_waiting(machine)), None),
    }
}

/// Rule CS1.
fn default_waiting(machine: &Machine) -> Waiting {
    let has_init = machine.spec.containers.iter().any(|c| matches!(c.role, Role::Init | Role::Sidecar));
    let reason = if has_init { "PodInitializing" } else { "ContainerCreating" };
    Waiting { reason: reason.to_owned(), message: String::new() }
}

#[derive(Default)]
struct Counts {
    pending_init: usize,
    failed_init_final: usize,
    pending_sidecar: usize,
    waiting: usize,
    running: usize,
    stopped: usize,
    succeeded: usize,
    stopped_final: usize,
}

/// Rules PH1-PH8. No container is ever absent from our status, so `unknown` is always 0.
fn compute_phase(machine: &Machine, init: &[ContainerStatus], apps: &[ContainerStatus]) -> Phase {
    let mut counts = Counts::default();
    for status in init {
        match status.role {
            Role::Init => count_init(machine, status, &mut counts),
            Role::Sidecar => count_sidecar(status, &mut counts),
            Role::App | Role::Ephemeral => {}
        }
    }
    for status in apps {
        count_app(machine, status, &mut counts);
    }
    let gated = counts.pending_sidecar > 0 && !machine.state.has_initialized;
    if counts.failed_init_final > 0 {
        return Phase::Failed;
    }
    if counts.pending_init > 0 || gated || counts.waiting > 0 {
        return Phase::Pending;
    }
    if counts.running > 0 {
        return Phase::Running;
    }
    if counts.stopped == 0 {
        return Phase::Pending;
    }
    let terminal = machine.is_finished() && !machine.spec.static_pod;
    if !terminal && counts.stopped != counts.stopped_final {
        return Phase::Running;
    }
    if counts.stopped == counts.succeeded { Phase::Succeeded } else { Phase::Failed }
}

/// The end that counts: of the state, or of the instance before a wait.
fn ended(status: &ContainerStatus) -> Option<&Terminated> {
    match &status.state {
        State::Terminated(record) => Some(record),
        State::Waiting(_) => status.last.as_ref(),
        State::Running { .. } => None,
    }
}

fn goes_on(machine: &Machine, status: &ContainerStatus, record: &Terminated) -> bool {
    let index = machine.spec.find(&status.name).map(|index| usize::from(index.0));
    let pair = index.and_then(|i| machine.pair(i));
    pair.is_some_and(|(spec, container)| match container.newest_dead() {
        Some(dead) => machine.restarts(spec, dead),
        None => restart::should_restart(&machine.spec, spec, record.exit_code, record.succeeded(spec.role)),
    })
}

fn count_init(machine: &Machine, status: &ContainerStatus, counts: &mut Counts) {
    match ended(status) {
        None => counts.pending_init += 1,
        Some(record) if record.succeeded(Role::Init) => {}
        Some(record) => counts.failed_init_final += usize::from(!goes_on(machine, status, record)),
    }
}

fn count_sidecar(status: &ContainerStatus, counts: &mut Counts) {
    match (&status.state, ended(status)) {
        (State::Running { .. }, _) => {
            counts.running += 1;
            counts.pending_sidecar += usize::from(!status.started);
        }
        (State::Waiting(_) | State::Terminated(_), Some(_)) => {}
        (State::Waiting(_) | State::Terminated(_), None) => {
            counts.pending_sidecar += 1;
            counts.waiting += 1;
        }
    }
}

fn count_app(machine: &Machine, status: &ContainerStatus, counts: &mut Counts) {
    match (&status.state, ended(status)) {
        (State::Running { .. }, _) => counts.running += 1,
        (State::Waiting(_) | State::Terminated(_), None) => counts.waiting += 1,
        (state, Some(record)) => {
            counts.stopped += 1;
            counts.stopped_final += usize::from(!goes_on(machine, status, record));
            let visible = matches!(state, State::Terminated(_));
            counts.succeeded += usize::from(visible && record.exit_code == 0);
        }
    }
}
