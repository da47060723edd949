//! Random pods, and how their containers behave.

use std::time::Duration;

use super::behaviour::{Behaviour, Faults, Start};
use super::random::Random;
use super::world::World;
use crate::pod::event::StartFailureKind;
use crate::pod::spec::{
    ContainerSpec, HookHandler, PodSpec, ProbeHandler, ProbeKind, ProbeSpec, RestartPolicy, RestartRule, Role,
    RuleAction, RuleOperator,
};

fn span(random: &mut Random, seconds: u64) -> Duration {
    Duration::from_millis(random.below(seconds * 1000))
}

fn policy(random: &mut Random) -> RestartPolicy {
    let all = [RestartPolicy::Always, RestartPolicy::OnFailure, RestartPolicy::Never];
    random.pick(&all).unwrap_or(RestartPolicy::Always)
}

/// A pod with up to three init containers and sidecars in any order, and up to three apps.
pub fn spec(random: &mut Random) -> PodSpec {
    let mut spec = PodSpec::new("ns", "sim", "uid");
    spec.restart_policy = policy(random);
    spec.grace = Duration::from_secs(random.below(13));
    spec.static_pod = random.chance(1, 16);
    if random.chance(1, 8) {
        spec.active_deadline = Some(Duration::from_secs(random.below(300) + 1));
    }
    if random.chance(1, 8) {
        spec.readiness_gates.push("example.com/gate".to_owned());
    }
    for number in 0..random.below(4) {
        let role = if random.chance(1, 2) { Role::Init } else { Role::Sidecar };
        spec.containers.push(container(random, &format!("i{number}"), role));
    }
    for number in 0..random.below(3) + 1 {
        spec.containers.push(container(random, &format!("a{number}"), Role::App));
    }
    spec
}

fn container(random: &mut Random, name: &str, role: Role) -> ContainerSpec {
    let image = format!("image{}", random.below(3));
    let mut spec = ContainerSpec::new(name, role, &image);
    if role != Role::Sidecar && random.chance(1, 6) {
        spec.restart_policy = Some(policy(random));
        rules(random, &mut spec);
    }
    if role == Role::Init {
        return spec;
    }
    for kind in ProbeKind::ALL {
        let probe = random.chance(1, 4).then(|| probe(random, kind));
        match kind {
            ProbeKind::Startup => spec.startup = probe,
            ProbeKind::Liveness => spec.liveness = probe,
            ProbeKind::Readiness => spec.readiness = probe,
        }
    }
    spec.post_start = random.chance(1, 6).then(|| hook(random)).filter(|hook| *hook != HookHandler::TcpSocket);
    spec.pre_stop = random.chance(1, 3).then(|| hook(random));
    if random.chance(1, 3) {
        spec.restart_on_resize.push("cpu".to_owned());
    }
    spec
}

fn rules(random: &mut Random, spec: &mut ContainerSpec) {
    if random.chance(1, 2) {
        let action = if random.chance(1, 3) { RuleAction::RestartAllContainers } else { RuleAction::Restart };
        let operator = if random.chance(1, 4) { RuleOperator::NotIn } else { RuleOperator::In };
        let values = match operator {
            RuleOperator::In => vec![1, 42],
            RuleOperator::NotIn => vec![0, 1, 42],
        };
        spec.rules.push(RestartRule { action, operator, values });
    }
}

fn probe(random: &mut Random, kind: ProbeKind) -> ProbeSpec {
    let mut probe = ProbeSpec::new(ProbeHandler::Exec { command: vec!["check".to_owned()] });
    probe.initial_delay = Duration::from_secs(random.below(5));
    probe.period = Duration::from_secs(random.below(20) + 10);
    probe.failure_threshold = u32::try_from(random.below(3)).unwrap_or(0) + 1;
    if kind == ProbeKind::Readiness {
        probe.success_threshold = u32::try_from(random.below(2)).unwrap_or(0) + 1;
    } else if random.chance(1, 3) {
        probe.grace = Some(Duration::from_secs(random.below(8) + 1));
    }
    probe
}

fn hook(random: &mut Random) -> HookHandler {
    match random.below(4) {
        0 => HookHandler::TcpSocket,
        1 => HookHandler::Sleep { seconds: random.below(15) },
        _ => HookHandler::Exec { command: vec!["hook".to_owned()] },
    }
}

/// One to three behaviours per container; init containers tend to end.
pub fn behaviours(world: &mut World, random: &mut Random) {
    let containers = world.machine.spec().containers.clone();
    for container in containers {
        let count = random.below(3) + 1;
        let all = (0..count).map(|_| behaviour(random, container.role)).collect();
        world.behaviours.insert(container.name, all);
    }
    world.probe_takes = span(random, 2);
    world.hook.0 = span(random, 20);
}

fn behaviour(random: &mut Random, role: Role) -> Behaviour {
    let code = random.pick(&[0, 0, 1, 42, 143]).unwrap_or(0);
    let ends = role == Role::Init || random.chance(1, 2);
    let start_kind = |random: &mut Random| {
        let kinds = [StartFailureKind::Config, StartFailureKind::Create, StartFailureKind::Run];
        random.pick(&kinds).map_or(Start::Works, Start::Fails)
    };
    Behaviour {
        lives: ends.then(|| span(random, 20)),
        code,
        oom: random.chance(1, 8),
        obeys: random.chance(2, 3).then(|| span(random, 4)),
        create: if random.chance(1, 12) { start_kind(random) } else { Start::Works },
        start: if random.chance(1, 12) { Start::Fails(StartFailureKind::Run) } else { Start::Works },
    }
}

/// From a perfect world to a bad one.
pub fn faults(random: &mut Random) -> Faults {
    let level = u32::try_from(random.below(4)).unwrap_or(0);
    Faults {
        delay_max: Duration::from_millis(random.below(400)),
        lost: level * 8,
        doubled: level * 40,
        failing: level * 25,
    }
}
