//! Conditions of the pod (section 1.2), in the order in which the node writes them.

use super::machine::{Goal, Machine, Sandbox};
use super::spec::Role;
use super::status::{Condition, ContainerStatus, Phase, State, Truth};
use super::timer::WallTime;

type Verdict = (Truth, Option<String>, Option<String>);

fn yes() -> Verdict {
    (Truth::True, None, None)
}

fn no(reason: &str, message: Option<String>) -> Verdict {
    (Truth::False, Some(reason.to_owned()), message)
}

pub(super) fn all(
    machine: &Machine,
    phase: Phase,
    init: &[ContainerStatus],
    apps: &[ContainerStatus],
    wall: WallTime,
) -> Vec<Condition> {
    let containers = containers_ready(phase, init, apps);
    let ready = ready(machine, containers.clone());
    let has_sandbox = matches!(machine.state.sandbox, Sandbox::Ready(_));
    let mut own = vec![
        ("PodReadyToStartContainers", (Truth::from(has_sandbox), None, None)),
        ("Initialized", initialized(phase, init, apps)),
        ("Ready", ready),
        ("ContainersReady", containers),
        ("PodScheduled", yes()),
    ];
    if machine.spec.may_restart_all() {
        own.push(("AllContainersRestarting", restarting(machine, phase)));
    }
    let mut conditions = machine.state.foreign.clone();
    conditions.extend(resizing(machine, wall));
    conditions.extend(own.into_iter().map(|(kind, verdict)| dated(machine, kind, verdict, wall)));
    conditions
}

fn dated(machine: &Machine, kind: &str, (status, reason, message): Verdict, wall: WallTime) -> Condition {
    let last_transition = match machine.state.transitions.get(kind) {
        Some((known, since)) if *known == status => *since,
        Some(_) | None => wall,
    };
    let observed_generation = machine.spec.generation;
    Condition { kind: kind.to_owned(), status, reason, message, last_transition, observed_generation }
}

/// Rules CO7, CO8: there only while they are true.
fn resizing(machine: &Machine, wall: WallTime) -> Vec<Condition> {
    let resize = &machine.state.resize;
    let pending = resize.pending.as_ref().map(|own| {
        let verdict = (Truth::True, Some(own.reason.name().to_owned()), Some(own.message.clone()));
        ("PodResizePending", verdict, own.generation)
    });
    let progress = resize.progress.as_ref().map(|own| {
        let verdict = (Truth::True, own.failed.as_ref().map(|_| "Error".to_owned()), own.failed.clone());
        ("PodResizeInProgress", verdict, own.generation)
    });
    let condition =
        |(kind, verdict, observed_generation)| Condition { observed_generation, ..dated(machine, kind, verdict, wall) };
    pending.into_iter().chain(progress).map(condition).collect()
}

/// Rule CO3.
fn initialized(phase: Phase, init: &[ContainerStatus], apps: &[ContainerStatus]) -> Verdict {
    if init.is_empty() {
        return yes();
    }
    if phase == Phase::Succeeded {
        return (Truth::True, Some("PodCompleted".to_owned()), None);
    }
    let was_up = |status: &ContainerStatus| match status.state {
        State::Running { .. } | State::Terminated(_) => true,
        State::Waiting(_) => false,
    };
    let incomplete = |status: &&ContainerStatus| match status.role {
        Role::Sidecar => !status.started,
        Role::Init => !status.ready,
        Role::App | Role::Ephemeral => false,
    };
    let names: Vec<&str> = init.iter().filter(incomplete).map(|status| status.name.as_str()).collect();
    if names.is_empty() || apps.iter().any(was_up) {
        return yes();
    }
    no("ContainersNotInitialized", Some(format!("containers with incomplete status: [{}]", names.join(" "))))
}

/// Rule CO4.
fn containers_ready(phase: Phase, init: &[ContainerStatus], apps: &[ContainerStatus]) -> Verdict {
    match phase {
        Phase::Succeeded => return no("PodCompleted", None),
        Phase::Failed => return no("PodFailed", None),
        Phase::Pending | Phase::Running => {}
    }
    let sidecars = init.iter().filter(|status| status.role == Role::Sidecar);
    let unready: Vec<&str> = sidecars.chain(apps).filter(|s| !s.ready).map(|s| s.name.as_str()).collect();
    if unready.is_empty() {
        return yes();
    }
    no("ContainersNotReady", Some(format!("containers with unready status: [{}]", unready.join(" "))))
}

/// Rule CO5.
fn ready(machine: &Machine, containers: Verdict) -> Verdict {
    if containers.0 != Truth::True {
        return containers;
    }
    let complaint = |gate: &String| match machine.state.foreign.iter().find(|c| c.kind == *gate) {
        None => Some(format!("corresponding condition of pod readiness gate {gate:?} does not exist.")),
        Some(condition) if condition.status == Truth::True => None,
        Some(condition) => {
            Some(format!("the status of pod readiness gate {gate:?} is not \"True\", but {}", condition.status.name()))
        }
    };
    let complaints: Vec<String> = machine.spec.readiness_gates.iter().filter_map(complaint).collect();
    if complaints.is_empty() {
        return yes();
    }
    no("ReadinessGatesNotReady", Some(complaints.join(", ")))
}

/// Rule CO9.
fn restarting(machine: &Machine, phase: Phase) -> Verdict {
    match (phase, machine.state.goal) {
        (Phase::Succeeded, _) => no("PodCompleted", None),
        (Phase::Failed, _) => no("PodFailed", None),
        (Phase::Pending | Phase::Running, Goal::RestartAll) => (
            Truth::True,
            Some("RestartAllContainersStarted".to_owned()),
            Some("container exited with restart policy rule".to_owned()),
        ),
        (Phase::Pending | Phase::Running, Goal::Run | Goal::NewSandbox | Goal::End) => (Truth::False, None, None),
    }
}
