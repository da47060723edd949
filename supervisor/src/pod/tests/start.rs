//! Sections 1.1 and 2.1: order of start, phases.

use super::*;
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
