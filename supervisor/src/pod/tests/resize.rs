//! Section 5.10: in-place resize.

use super::*;
use crate::pod::event::Boot;
use crate::pod::resize::{Reason, Refusal, Verdict};
use crate::pod::status::Condition;

/// The same pod with other amounts of cpu, and its generation.
fn wanted(world: &World, cpu: &[(&str, &str)], generation: i64) -> PodSpec {
    let mut spec = world.machine.spec().clone();
    spec.generation = generation;
    for (name, amount) in cpu {
        let own = spec.containers.iter_mut().find(|own| own.name == *name).expect("the container");
        own.resources.limits.insert("cpu".to_owned(), (*amount).to_owned());
        own.resources_key = format!("cpu {amount}");
    }
    spec
}

fn resize(world: &mut World, cpu: &[(&str, &str)], generation: i64) {
    let spec = wanted(world, cpu, generation);
    world.act(|machine, now| machine.resize(&spec, &Verdict::Allocated, now));
}

fn running(apps: &[(&str, Role)], restarting: &[&str]) -> World {
    let mut spec = pod(RestartPolicy::Always, apps);
    for own in spec.containers.iter_mut().filter(|own| restarting.contains(&own.name.as_str())) {
        own.restart_on_resize.push("cpu".to_owned());
    }
    let mut world = World::new(spec);
    world.run_for(seconds(1));
    world
}

fn resizing(world: &World) -> Vec<Condition> {
    world.machine.status().conditions.into_iter().filter(|own| own.kind.starts_with("PodResize")).collect()
}

fn told(world: &World) -> Vec<String> {
    story(world, |text| ["Normal Resize", "Warning Resize", "resize "].iter().any(|verb| text.starts_with(verb)))
}

fn count(world: &World, name: &str) -> u32 {
    container(world, name).restart_count
}

/// RZ3-RZ5, RZ8, CO8
#[test]
fn what_needs_no_restart_runs_on() {
    let mut world = running(&[("a", Role::App), ("b", Role::App)], &[]);
    resize(&mut world, &[("a", "2")], 2);
    let conditions = resizing(&world);
    assert_eq!(conditions.len(), 1);
    assert_eq!((conditions[0].kind.as_str(), &conditions[0].reason), ("PodResizeInProgress", &None));
    assert_eq!(conditions[0].observed_generation, 2);
    assert!(container(&world, "a").actual.is_some_and(|actual| actual.limits.is_empty()));
    world.run_for(seconds(1));
    assert_eq!(resizing(&world), []);
    assert_eq!((count(&world, "a"), container(&world, "a").actual), (0, None));
    let amounts = r#"{"containers":[{"name":"a","resources":{"limits":{"cpu":"2"}}},{"name":"b","resources":{}}],"generation":2}"#;
    assert_eq!(
        told(&world),
        [
            format!("1.0 Normal ResizeStarted Pod resize started: {amounts}"),
            "1.0 resize [\"a\"]".to_owned(),
            format!("1.0 Normal ResizeCompleted Pod resize completed: {amounts}"),
        ]
    );
}

/// RZ5, RZ7, LC7, CB1: the pod's limits rise before the restart and fall after it.
#[test]
fn what_needs_a_restart_restarts_once_and_at_once() {
    let mut world = running(&[("a", Role::App), ("b", Role::App)], &["a"]);
    resize(&mut world, &[("a", "2"), ("b", "3")], 2);
    world.run_for(seconds(60));
    assert_eq!(resizing(&world), []);
    assert_eq!((count(&world, "a"), count(&world, "b")), (1, 0));
    assert_eq!(state(&world, "a"), "Running");
    assert!(events(&world).iter().any(|text| text.ends_with("Normal Killing Container a resize requires restart")));
    assert!(!events(&world).iter().any(|text| text.contains("BackOff")));
    let steps: Vec<String> = told(&world).into_iter().filter(|text| text.contains(" resize [")).collect();
    assert_eq!(steps.len(), 2, "{steps:?}");
    assert!(steps[0].ends_with("resize [\"b\"], only up") && steps[1].ends_with("resize []"), "{steps:?}");
}

/// RZ4, RZ6: a failure is shown, told once and tried again.
#[test]
fn a_step_that_fails_is_tried_again() {
    let mut world = running(&[("a", Role::App)], &[]);
    world.resize_failures = 2;
    resize(&mut world, &[("a", "2")], 2);
    world.run_for(seconds(15));
    let conditions = resizing(&world);
    assert_eq!(conditions[0].reason.as_deref(), Some("Error"));
    let message = "attempting to set pod memory limit (1) below current usage (2)";
    assert_eq!(conditions[0].message.as_deref(), Some(message));
    assert_eq!(events(&world).iter().filter(|text| text.contains("Warning ResizeError")).count(), 1);
    world.run_for(seconds(10));
    assert_eq!(resizing(&world), []);
}

/// RZ4, CO7: nothing changes while the node has no room; what was refused is told once.
#[test]
fn a_refused_resize_changes_nothing() {
    let mut world = running(&[("a", Role::App)], &[]);
    let refuse = |world: &mut World, reason| {
        let (spec, message) = (wanted(world, &[("a", "2")], 2), "Node is full".to_owned());
        let verdict = Verdict::Refused(Refusal { reason, word: "OutOfcpu", message });
        world.act(|machine, now| machine.resize(&spec, &verdict, now));
    };
    refuse(&mut world, Reason::Deferred);
    refuse(&mut world, Reason::Deferred);
    world.run_for(seconds(30));
    let conditions = resizing(&world);
    assert_eq!((conditions[0].kind.as_str(), conditions[0].reason.as_deref()), ("PodResizePending", Some("Deferred")));
    assert_eq!(world.machine.status().observed_generation, 2);
    let wanted =
        r#"{"containers":[{"name":"a","resources":{"limits":{"cpu":"2"}}}],"generation":2,"error":"Node is full"}"#;
    assert_eq!(told(&world), [format!("1.0 Warning ResizeDeferred Pod resize OutOfcpu: {wanted}")]);
    resize(&mut world, &[("a", "2")], 2);
    world.run_for(seconds(1));
    assert_eq!(resizing(&world), []);
    assert!(told(&world).last().is_some_and(|text| text.contains("ResizeCompleted")));
}

/// RZ4: what was allocated survives the daemon, and what nobody saw done is done again.
#[test]
fn a_daemon_that_comes_back_goes_on() {
    let mut world = running(&[("a", Role::App)], &[]);
    world.faults.delay_max = seconds(5);
    resize(&mut world, &[("a", "2")], 2);
    world.crash(Boot::Same);
    world.faults.delay_max = Duration::ZERO;
    world.run_for(seconds(10));
    assert_eq!(resizing(&world), []);
    let has: Vec<Option<&String>> = world.amounts.values().map(|own| own.limits.get("cpu")).collect();
    assert_eq!(has, [Some(&"2".to_owned())]);
}

/// RZ4: back to what it had, while the step before is under way.
#[test]
fn a_resize_may_be_taken_back() {
    let mut world = running(&[("a", Role::App)], &[]);
    resize(&mut world, &[("a", "2")], 2);
    world.run_for(seconds(1));
    world.faults.delay_max = seconds(2);
    resize(&mut world, &[("a", "3")], 3);
    resize(&mut world, &[("a", "2")], 4);
    world.run_for(seconds(20));
    assert_eq!(resizing(&world), []);
    let has: Vec<Option<&String>> = world.amounts.values().map(|own| own.limits.get("cpu")).collect();
    assert_eq!(has, [Some(&"2".to_owned())]);
}
