//! Rules of the semantics as tests, each with the ids it shows.

mod life;
mod probes;
mod resize;
mod restart;
mod start;
mod stop;

use std::time::Duration;

use super::action::{Instance, Todo};
use super::sim::behaviour::Behaviour;
use super::sim::world::{Seen, World};
use super::spec::{ContainerSpec, PodSpec, RestartPolicy, Role};
use super::status::{ContainerStatus, State};

/// A pod with these containers, all of the same image.
pub(super) fn pod(restart: RestartPolicy, containers: &[(&str, Role)]) -> PodSpec {
    let mut spec = PodSpec::new("default", "p", "u1");
    spec.restart_policy = restart;
    spec.containers = containers.iter().map(|(name, role)| ContainerSpec::new(name, *role, "busybox")).collect();
    spec
}

pub(super) fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// What happened, as `second.millisecond what`, from a list of what is of interest.
pub(super) fn story(world: &World, interest: impl Fn(&str) -> bool) -> Vec<String> {
    let first = world.seen.first().map(|(at, _)| *at).unwrap_or_default();
    let inner = |seen: &Seen| matches!(seen, Seen::Up(_) | Seen::Passed(_));
    let lines =
        world.seen.iter().filter(|(_, seen)| !inner(seen)).map(|(at, seen)| (at.since(first), line(world, seen)));
    lines.filter(|(_, text)| interest(text)).map(|(at, text)| format!("{:.1} {text}", at.as_secs_f64())).collect()
}

fn line(world: &World, seen: &Seen) -> String {
    let name = |instance: &Instance| world.name(*instance);
    match seen {
        Seen::Ended(instance, code) => format!("exit {} {code}", name(instance)),
        Seen::Up(instance) => format!("up {}", name(instance)),
        Seen::Passed(instance) => format!("passed {}", name(instance)),
        Seen::Told(event) => format!("{:?} {} {}", event.severity, event.reason, event.message),
        Seen::Asked(todo) => match todo {
            Todo::StartContainer { instance } => format!("start {}", name(instance)),
            Todo::CreateContainer { instance, .. } => {
                format!("create {}#{}", name(instance), instance.attempt)
            }
            Todo::Signal { instance, signal } => format!("signal {} {}", name(instance), signal.0),
            Todo::Kill { instance } => format!("kill {}", name(instance)),
            Todo::RemoveContainer { instance } => {
                format!("remove {}#{}", name(instance), instance.attempt)
            }
            Todo::RunProbe { instance, kind, .. } => format!("probe {} {kind}", name(instance)),
            Todo::RunHook { instance, hook, .. } => format!("hook {} {hook:?}", name(instance)),
            Todo::EnsureImage { image, .. } => format!("image {image}"),
            Todo::Resize { containers, lower } => {
                let names: Vec<String> = containers.iter().map(|(instance, _)| name(instance)).collect();
                format!("resize {names:?}{}", if *lower { "" } else { ", only up" })
            }
            Todo::CreateSandbox { attempt } => format!("sandbox {attempt}"),
            Todo::StopSandbox { attempt } => format!("stop sandbox {attempt}"),
            Todo::SetUpVolumes => "volumes".to_owned(),
            Todo::TearDownVolumes => "tear down volumes".to_owned(),
            Todo::RemovePod => "remove pod".to_owned(),
            Todo::Cancel { .. } => "cancel".to_owned(),
        },
    }
}

/// Only starts, exits, signals and kills.
pub(super) fn processes(world: &World) -> Vec<String> {
    story(world, |text| ["start ", "exit ", "signal ", "kill "].iter().any(|verb| text.starts_with(verb)))
}

/// Kubernetes Events alone.
pub(super) fn events(world: &World) -> Vec<String> {
    story(world, |text| text.starts_with("Normal ") || text.starts_with("Warning "))
}

pub(super) fn container(world: &World, name: &str) -> ContainerStatus {
    let status = world.machine.status();
    let mut all = status.init.into_iter().chain(status.apps).chain(status.ephemeral);
    all.find(|c| c.name == name).expect("the container has a status")
}

/// `Waiting reason: message`, `Running` or `Terminated reason code`.
pub(super) fn state(world: &World, name: &str) -> String {
    match container(world, name).state {
        State::Waiting(waiting) if waiting.message.is_empty() => {
            format!("Waiting {}", waiting.reason)
        }
        State::Waiting(waiting) => format!("Waiting {}: {}", waiting.reason, waiting.message),
        State::Running { .. } => "Running".to_owned(),
        State::Terminated(record) => format!("Terminated {} {}", record.reason, record.exit_code),
    }
}

pub(super) fn behave(world: &mut World, name: &str, all: &[Behaviour]) {
    world.behaviours.insert(name.to_owned(), all.to_vec());
}

/// The variants of an enum, from its source.
fn variants<'a>(source: &'a str, name: &str) -> Vec<&'a str> {
    let start = source.find(&format!("enum {name} {{")).expect("the enum");
    let body = source[start..].split("\n}").next().unwrap_or_default();
    let lines = body.lines().skip(1).filter_map(|line| line.strip_prefix("    "));
    let named = lines.filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()));
    named.map(|line| line.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default()).collect()
}

/// The page with the diagrams knows every state.
#[test]
fn the_page_is_true_to_the_code() {
    let page = include_str!("../../../docs/pod-machine.md");
    let (machine, container, grace) =
        (include_str!("machine.rs"), include_str!("container.rs"), include_str!("grace.rs"));
    for (source, name) in
        [(machine, "Goal"), (machine, "Sandbox"), (machine, "Volumes"), (container, "Run"), (grace, "Stage")]
    {
        let all = variants(source, name);
        assert!(all.len() > 3, "{name}: {all:?}");
        for variant in all {
            assert!(page.contains(variant), "{name}::{variant} is not on the page");
        }
    }
}
