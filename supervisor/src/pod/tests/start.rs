//! Sections 1.1 and 2.1: order of start, phases.

use super::*;
use crate::pod::event::StartFailureKind;
use crate::pod::sim::behaviour::Start;
use crate::pod::spec::HookHandler;
use crate::pod::status::Phase;

/// IN1, IN2, IN5, 10.8: volumes, sandbox, init containers one after another, apps in order.
#[test]
fn a_pod_starts_in_order() {
    let containers = [("a", Role::Init), ("b", Role::Init), ("x", Role::App), ("y", Role::App)];
    let mut world = World::new(pod(RestartPolicy::Always, &containers));
    behave(&mut world, "a", &[Behaviour::ends(seconds(1), 0)]);
    behave(&mut world, "b", &[Behaviour::ends(seconds(2), 0)]);
    assert_eq!(world.machine.status().phase, Phase::Pending);
    world.run_for(seconds(10));
    let told =
        story(&world, |text| !text.starts_with("Normal") && !text.starts_with("image") && !text.starts_with("create"));
    assert_eq!(
        told,
        [
            "0.0 volumes",
            "0.0 sandbox 0",
            "0.0 start a",
            "1.0 exit a 0",
            "1.0 start b",
            "3.0 exit b 0",
            "3.0 start x",
            "3.0 start y"
        ]
    );
    assert_eq!(world.machine.status().phase, Phase::Running);
    assert_eq!(world.next(), None, "an idle pod without probes wakes nobody");
}

/// RC2, PH5: a Never pod whose containers all end well.
#[test]
fn a_pod_that_ends_well_succeeds_and_is_cleared_away() {
    let mut world = World::new(pod(RestartPolicy::Never, &[("x", Role::App)]));
    behave(&mut world, "x", &[Behaviour::ends(seconds(1), 0)]);
    world.run_for(seconds(5));
    assert_eq!(world.machine.status().phase, Phase::Succeeded);
    assert_eq!(state(&world, "x"), "Terminated Completed 0");
    assert!(world.machine.is_finished() && world.sandbox.is_none() && !world.volumes);
}

/// 10.8: golden sequences.
#[test]
fn events_of_a_simple_life() {
    let mut world = World::new(pod(RestartPolicy::Always, &[("x", Role::App)]));
    world.run_for(seconds(5));
    world.act(|machine, now| machine.delete(seconds(30), now));
    world.run_for(seconds(5));
    let pulled =
        "0.0 Normal Pulled Container image \"busybox\" already present on machine and can be accessed by the pod";
    assert_eq!(
        events(&world),
        [
            pulled,
            "0.0 Normal Created Container created",
            "0.0 Normal Started Container started",
            "5.0 Normal Killing Stopping container x"
        ]
    );
    assert!(world.machine.is_gone() && world.pod_removed);
}

fn three_apps() -> PodSpec {
    pod(RestartPolicy::Always, &[("x", Role::App), ("y", Role::App), ("z", Role::App)])
}

/// IN5: the next app is made while the one before it starts; they start, and are told of, in spec order.
#[test]
fn apps_are_made_ahead_and_started_in_order() {
    let mut world = World::new(three_apps());
    world.run_for(seconds(5));
    let told = story(&world, |text| !text.contains("olume") && !text.starts_with("sandbox"));
    let at = |what: &str, nth: usize| {
        let found = told.iter().enumerate().filter(|(_, line)| line.ends_with(what)).nth(nth);
        found.map(|(at, _)| at).unwrap()
    };
    for (nth, (before, own)) in [("x", "y"), ("y", "z")].into_iter().enumerate() {
        assert!(at("image busybox", nth + 1) < at(&format!("start {before}"), 0), "{told:?}");
        assert!(at(&format!("start {before}"), 0) < at(&format!("start {own}"), 0), "{told:?}");
    }
    let reasons: Vec<String> =
        super::events(&world).iter().map(|line| line.split(' ').nth(2).unwrap().to_owned()).collect();
    assert_eq!(reasons, ["Pulled", "Created", "Started"].repeat(3));
}

/// LC6: an app behind one with a postStart hook is not even made before the hook is over.
#[test]
fn nothing_is_made_ahead_of_a_hook() {
    let mut spec = three_apps();
    spec.containers[0].post_start = Some(HookHandler::Sleep { seconds: 3 });
    let mut world = World::new(spec);
    world.run_for(seconds(5));
    let told =
        story(&world, |text| text.starts_with("create") || text.starts_with("start") || text.starts_with("image"));
    assert_eq!(told[..3], ["0.0 image busybox", "0.0 create x#0", "0.0 start x"]);
    assert!(told[3..].iter().all(|line| line.starts_with("3.0")), "{told:?}");
}

/// IN5: an app that can't be made does not stop the others, and its failure is told in its turn.
#[test]
fn a_failure_ahead_is_told_in_turn() {
    let mut world = World::new(three_apps());
    let refused = Behaviour { create: Start::Fails(StartFailureKind::Config), ..Behaviour::FOREVER };
    behave(&mut world, "y", &[refused]);
    world.run_for(seconds(5));
    let reasons: Vec<String> =
        super::events(&world).iter().map(|line| line.split(' ').nth(2).unwrap().to_owned()).collect();
    let one = ["Pulled", "Created", "Started"];
    assert_eq!(reasons, [&one[..], &["Pulled", "Failed"], &one].concat());
    assert_eq!(state(&world, "z"), "Running");
}

/// TR6: what was made ahead never starts when the pod ends first.
#[test]
fn what_was_made_ahead_goes_with_the_pod() {
    let mut world = World::new(three_apps());
    while world.procs.len() < 2 {
        assert!(world.step(), "two are made");
    }
    world.act(|machine, now| machine.delete(seconds(1), now));
    world.run_for(seconds(20));
    assert!(world.machine.is_gone());
    let of_y = story(&world, |text| text.starts_with("start y") || text.starts_with("remove y"));
    assert_eq!(of_y, ["0.0 remove y#0"]);
}
