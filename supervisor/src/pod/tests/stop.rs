//! Sections 2.3, 2.4: hooks and termination.

use super::*;
use crate::pod::event::{HookFailure, HookSuccess};
use crate::pod::spec::{HookHandler, HttpGet, Port, PullPolicy, Signal};
use crate::pod::status::Phase;

fn exec() -> HookHandler {
    HookHandler::Exec { command: vec!["sh".to_owned(), "-c".to_owned(), "x".to_owned()] }
}

fn delete(world: &mut World, grace: u64) {
    world.act(|machine, now| machine.delete(seconds(grace), now));
}

/// A pod with one app that ran for five seconds when it is deleted.
fn deleted(grace: u64, pre_stop: Option<HookHandler>, behaviour: Behaviour) -> World {
    let mut spec = pod(RestartPolicy::Always, &[("x", Role::App)]);
    spec.containers[0].pre_stop = pre_stop;
    let mut world = World::new(spec);
    behave(&mut world, "x", &[behaviour]);
    world.run_for(seconds(5));
    delete(&mut world, grace);
    world.run_for(seconds(60));
    assert!(world.machine.is_gone());
    world
}

/// 2.4 steps 3 and 4, TR10: the hook's time comes out of the grace; two seconds are left at least.
#[test]
fn hook_and_signal_share_one_grace() {
    let sleep = |seconds| Some(HookHandler::Sleep { seconds });
    for (grace, hook, expected) in [
        (10, sleep(8), ["13.0 signal x 15", "15.0 kill x"]),
        (1, None, ["5.0 signal x 15", "7.0 kill x"]),
        (10, sleep(60), ["15.0 signal x 15", "17.0 kill x"]),
        (10, sleep(0), ["5.0 signal x 15", "15.0 kill x"]),
        (3, None, ["5.0 signal x 15", "8.0 kill x"]),
        (0, None, ["5.0 signal x 15", "7.0 kill x"]),
    ] {
        let world = deleted(grace, hook.clone(), Behaviour::STUBBORN);
        assert_eq!(processes(&world)[1..3], expected, "grace {grace}, hook {hook:?}");
    }
}

/// A second Ctrl-C waits for nothing: neither for a hook, nor for a sidecar's turn, nor for the shortest grace.
#[test]
fn who_asked_twice_does_not_wait() {
    let mut spec = pod(RestartPolicy::Always, &[("side", Role::Sidecar), ("x", Role::App), ("hooked", Role::App)]);
    spec.containers[2].pre_stop = Some(HookHandler::Sleep { seconds: 20 });
    let mut world = World::new(spec);
    for name in ["side", "x", "hooked"] {
        behave(&mut world, name, &[Behaviour::STUBBORN]);
    }
    world.run_for(seconds(5));
    delete(&mut world, 30);
    world.run_for(seconds(2));
    world.act(|machine, now| machine.end_at_once(now));
    world.run_for(seconds(1));
    let seen = processes(&world);
    for name in ["side", "x", "hooked"] {
        assert!(seen.contains(&format!("7.0 kill {name}")), "{seen:?}");
    }
    assert!(world.machine.is_gone(), "{seen:?}");
}

/// TR10: an obedient container ends with its own code.
#[test]
fn an_obedient_container_is_not_killed() {
    let world = deleted(30, None, Behaviour::FOREVER);
    assert_eq!(processes(&world)[1..], ["5.0 signal x 15", "5.0 exit x 143"]);
    let phase = world.machine.status().phase;
    assert_eq!(phase, Phase::Failed, "PH12: a running pod that is deleted fails");
}

/// LC11: the manifest's stop signal wins over the image's.
#[test]
fn the_stop_signal_comes_from_manifest_or_image() {
    use crate::pod::event::ImageReady;
    for (manifest, image, expected) in [(None, None, 15), (None, Some(3), 3), (Some(10), Some(3), 10)] {
        let mut spec = pod(RestartPolicy::Always, &[("x", Role::App)]);
        spec.containers[0].stop_signal = manifest.map(Signal);
        let mut world = World::new(spec);
        world.image = vec![Ok(ImageReady { pulled: None, image_id: String::new(), stop_signal: image.map(Signal) })];
        world.run_for(seconds(5));
        delete(&mut world, 30);
        assert_eq!(processes(&world)[1], format!("5.0 signal x {expected}"));
    }
}

/// LC7: no preStop when the container ends by itself.
#[test]
fn no_pre_stop_for_a_container_that_ends_by_itself() {
    let mut spec = pod(RestartPolicy::Never, &[("x", Role::App)]);
    spec.containers[0].pre_stop = Some(exec());
    let mut world = World::new(spec);
    behave(&mut world, "x", &[Behaviour::ends(seconds(1), 0)]);
    world.run_for(seconds(5));
    assert_eq!(story(&world, |text| text.starts_with("hook")), [""; 0]);
}

/// LC9: a preStop that fails is told, and the signal follows. LC10: one that hangs is cancelled.
#[test]
fn a_bad_pre_stop_does_not_stop_the_stop() {
    let failure = HookFailure { error: "exit 1".to_owned(), output: String::new() };
    for (takes, result, signal) in
        [(1, Err(failure), "6.0 signal x 15"), (90, Ok(HookSuccess { http_fallback: None }), "9.0 signal x 15")]
    {
        let mut spec = pod(RestartPolicy::Always, &[("x", Role::App)]);
        spec.containers[0].pre_stop = Some(exec());
        let mut world = World::new(spec);
        world.hook = (seconds(takes), result);
        world.run_for(seconds(5));
        delete(&mut world, 4);
        world.run_for(seconds(200));
        assert_eq!(processes(&world)[1], signal);
        let failed = events(&world).iter().any(|text| text.ends_with("Warning FailedPreStopHook PreStopHook failed"));
        assert_eq!(failed, takes == 1);
        assert_eq!(story(&world, |text| text == "cancel").len(), usize::from(takes > 1));
        assert!(world.machine.is_gone());
    }
}

/// LC4: the container's end interrupts a sleeping hook, which counts as failed.
#[test]
fn a_sleep_is_interrupted_by_the_end() {
    let mut spec = pod(RestartPolicy::Always, &[("x", Role::App)]);
    spec.containers[0].pre_stop = Some(HookHandler::Sleep { seconds: 20 });
    let mut world = World::new(spec);
    behave(&mut world, "x", &[Behaviour::ends(seconds(7), 0)]);
    world.run_for(seconds(5));
    delete(&mut world, 30);
    world.run_for(seconds(60));
    assert!(events(&world).contains(&"7.0 Warning FailedPreStopHook PreStopHook failed".to_owned()));
    assert!(world.machine.is_gone());
}

/// LC5, LC6: while postStart runs nothing else starts and the container shows no Running.
#[test]
fn post_start_holds_the_pod_up() {
    let mut spec = pod(RestartPolicy::Always, &[("x", Role::App), ("y", Role::App)]);
    spec.containers[0].post_start = Some(HookHandler::Sleep { seconds: 3 });
    let mut world = World::new(spec);
    world.run_for(seconds(2));
    assert_eq!(state(&world, "x"), "Waiting ContainerCreating");
    assert!(!container(&world, "x").started);
    world.run_for(seconds(2));
    assert_eq!(state(&world, "x"), "Running");
    assert_eq!(processes(&world), ["0.0 start x", "3.0 start y"]);
}

/// LC8: texts and consequences of a failed postStart.
#[test]
fn a_failed_post_start_kills_the_container() {
    let get = HttpGet { https: false, host: None, port: Port::Number(80), path: "/up".to_owned(), headers: Vec::new() };
    let place = "for Container \"x\" in Pod \"p_default(u1)\" failed - error: boom";
    for (handler, message) in [
        (exec(), format!("Exec lifecycle hook ([sh -c x]) {place}, message: \"out\"")),
        (HookHandler::HttpGet(get), format!("HTTP lifecycle hook (/up) {place}")),
        (HookHandler::TcpSocket, "Cannot run handler: invalid handler".to_owned()),
    ] {
        let mut spec = pod(RestartPolicy::Always, &[("x", Role::App)]);
        spec.containers[0].post_start = Some(handler);
        let mut world = World::new(spec);
        world.hook = (seconds(1), Err(HookFailure { error: "boom".to_owned(), output: "out".to_owned() }));
        behave(&mut world, "x", &[Behaviour { obeys: Some(seconds(1)), ..Behaviour::FOREVER }]);
        world.run_for(Duration::from_millis(1500));
        assert_eq!(state(&world, "x"), format!("Waiting PostStartHookError: {message}"));
        let told = events(&world).join("\n");
        assert!(told.contains("Warning FailedPostStartHook PostStartHook failed"), "{told}");
        assert!(told.contains("Normal Killing FailedPostStartHook"), "{told}");
        world.run_for(seconds(10));
        assert!(container(&world, "x").restart_count >= 1);
    }
}

/// LC3: the fallback to plain HTTP is told.
#[test]
fn a_hook_answered_by_plain_http_is_told() {
    let mut spec = pod(RestartPolicy::Always, &[("x", Role::App)]);
    spec.containers[0].post_start = Some(exec());
    let mut world = World::new(spec);
    world.hook = (Duration::ZERO, Ok(HookSuccess { http_fallback: Some("10.0.0.2:80".to_owned()) }));
    world.run_for(seconds(1));
    assert!(events(&world).join("\n").contains("Warning LifecycleHTTPFallback"));
    assert_eq!(state(&world, "x"), "Running");
}

/// IN2, TR3: A, B, app; then app, B, A; all hooks begin at once.
#[test]
fn sidecars_start_first_and_end_last_in_reverse() {
    let mut spec = pod(RestartPolicy::Always, &[("a", Role::Sidecar), ("b", Role::Sidecar), ("app", Role::App)]);
    for container in &mut spec.containers {
        container.pre_stop = Some(exec());
    }
    let mut world = World::new(spec);
    for name in ["a", "b", "app"] {
        behave(&mut world, name, &[Behaviour { obeys: Some(seconds(1)), ..Behaviour::FOREVER }]);
    }
    world.run_for(seconds(5));
    delete(&mut world, 30);
    world.run_for(seconds(30));
    assert_eq!(
        processes(&world),
        [
            "0.0 start a",
            "0.0 start b",
            "0.0 start app",
            "5.0 signal app 15",
            "6.0 exit app 143",
            "6.0 signal b 15",
            "7.0 exit b 143",
            "7.0 signal a 15",
            "8.0 exit a 143"
        ]
    );
    assert_eq!(
        story(&world, |text| text.starts_with("hook")),
        ["5.0 hook a PreStop", "5.0 hook b PreStop", "5.0 hook app PreStop"]
    );
}

/// TR4: a sidecar whose grace is spent while it waits is signalled then, with the minimum before SIGKILL.
#[test]
fn waiting_sidecars_spend_the_same_grace() {
    let mut world = World::new(pod(RestartPolicy::Always, &[("s", Role::Sidecar), ("app", Role::App)]));
    behave(&mut world, "s", &[Behaviour::STUBBORN]);
    behave(&mut world, "app", &[Behaviour::STUBBORN]);
    world.run_for(seconds(5));
    delete(&mut world, 10);
    world.run_for(seconds(30));
    assert_eq!(
        processes(&world)[2..],
        [
            "5.0 signal app 15",
            "15.0 signal s 15",
            "15.0 kill app",
            "15.0 exit app 137",
            "17.0 kill s",
            "17.0 exit s 137"
        ]
    );
}

/// TR9: a second deletion can only shorten; the hook does not run again.
#[test]
fn a_second_delete_only_shortens() {
    let mut spec = pod(RestartPolicy::Always, &[("x", Role::App)]);
    spec.containers[0].pre_stop = Some(HookHandler::Sleep { seconds: 50 });
    let mut world = World::new(spec);
    behave(&mut world, "x", &[Behaviour::STUBBORN]);
    world.run_for(seconds(5));
    delete(&mut world, 30);
    let first = world.machine.status().deletion.expect("being deleted");
    world.run_for(seconds(2));
    delete(&mut world, 40);
    assert_eq!(world.machine.status().deletion, Some(first));
    delete(&mut world, 5);
    let second = world.machine.status().deletion.expect("being deleted");
    assert_eq!((second.grace_seconds, second.timestamp < first.timestamp), (5, true));
    world.run_for(seconds(30));
    assert_eq!(processes(&world)[1..3], ["12.0 signal x 15", "14.0 kill x"]);
    let killing = events(&world).into_iter().filter(|text| text.contains("Killing")).count();
    assert_eq!(killing, 1);
}

/// TR6: nothing starts any more once the pod is deleted, not even a sidecar that died.
#[test]
fn nothing_starts_after_deletion() {
    let mut world = World::new(pod(RestartPolicy::Always, &[("s", Role::Sidecar), ("app", Role::App)]));
    behave(&mut world, "s", &[Behaviour::ends(seconds(7), 1)]);
    behave(&mut world, "app", &[Behaviour::STUBBORN]);
    world.run_for(seconds(5));
    delete(&mut world, 10);
    world.run_for(seconds(30));
    assert_eq!(processes(&world)[2..], ["5.0 signal app 15", "7.0 exit s 1", "15.0 kill app", "15.0 exit app 137"]);
    assert!(world.machine.is_gone());
}

/// TR7: containers, sandbox, volumes, then the object.
#[test]
fn a_deleted_pod_is_cleared_away_in_order() {
    let world = deleted(30, None, Behaviour::FOREVER);
    let told = story(&world, |text| ["stop", "tear", "remove", "exit"].iter().any(|word| text.starts_with(word)));
    assert_eq!(told, ["5.0 exit x 143", "5.0 stop sandbox 0", "5.0 tear down volumes", "5.0 remove pod"]);
}

/// PH12: a container that never came to run gets an end before the object goes, when the pod was initialized.
#[test]
fn containers_without_an_end_get_one() {
    use crate::pod::event::StartFailureKind;
    use crate::pod::sim::behaviour::Start;
    let failing = Behaviour { create: Start::Fails(StartFailureKind::Config), ..Behaviour::FOREVER };
    let mut world = World::new(pod(RestartPolicy::Always, &[("x", Role::App), ("y", Role::App)]));
    behave(&mut world, "y", &[failing]);
    world.run_for(seconds(5));
    delete(&mut world, 30);
    world.run_for(seconds(5));
    let status = container(&world, "y");
    assert_eq!(state(&world, "y"), "Terminated ContainerStatusUnknown 137");
    let State::Terminated(record) = status.state else { panic!("terminated") };
    assert_eq!(record.message, "The container could not be located when the pod was terminated");
    assert_eq!(world.machine.status().phase, Phase::Failed);
}

/// IN12, UP7: another image kills and restarts the container, whatever its policy.
#[test]
fn another_image_replaces_the_container() {
    for (role, text) in [
        (Role::App, "Container x definition changed, will be restarted"),
        (Role::Sidecar, "Init container x definition changed"),
    ] {
        let mut world = World::new(pod(RestartPolicy::Never, &[("x", role), ("z", Role::App)]));
        world.run_for(seconds(5));
        let index = world.machine.spec().find("x").expect("x exists");
        world.act(|machine, now| machine.set_image(index, "other", PullPolicy::IfNotPresent, 2, now));
        world.run_for(seconds(5));
        assert!(events(&world).contains(&format!("5.0 Normal Killing {text}")), "{:?}", events(&world));
        assert_eq!((state(&world, "x").as_str(), container(&world, "x").restart_count), ("Running", 1));
        assert_eq!(world.machine.status().observed_generation, 2);
    }
}

/// IN4: a finished init container doesn't care about its image any more.
#[test]
fn another_image_for_a_finished_init_container_changes_nothing() {
    let mut world = World::new(pod(RestartPolicy::Always, &[("i", Role::Init), ("x", Role::App)]));
    behave(&mut world, "i", &[Behaviour::ends(seconds(1), 0)]);
    world.run_for(seconds(5));
    let index = world.machine.spec().find("i").expect("i exists");
    world.act(|machine, now| machine.set_image(index, "other", PullPolicy::IfNotPresent, 2, now));
    world.run_for(seconds(50));
    assert_eq!(processes(&world), ["0.0 start i", "1.0 exit i 0", "1.0 start x"]);
}
