//! Sections 2.2, 3.1-3.4: restarts, back-off, deadlines, final phases.

use super::*;
use crate::pod::event::{ImageFailure, ImageReady, PullReport, StartFailureKind};
use crate::pod::restart::{self, go_duration, go_duration_ms};
use crate::pod::sim::behaviour::Start;
use crate::pod::spec::{RestartRule, RuleAction, RuleOperator};
use crate::pod::status::Phase;

/// Seconds between each exit and the next start of `name`.
fn gaps(world: &World, name: &str) -> Vec<u64> {
    let mut gaps = Vec::new();
    let mut exit = None;
    for (at, seen) in &world.seen {
        match seen {
            Seen::Ended(instance, _) if world.name(*instance) == name => exit = Some(*at),
            Seen::Asked(Todo::StartContainer { instance }) if world.name(*instance) == name => {
                gaps.extend(exit.map(|exit| at.since(exit).as_secs()));
            }
            Seen::Ended(..) | Seen::Asked(_) | Seen::Told(_) | Seen::Up(_) | Seen::Passed(_) => {}
        }
    }
    gaps
}

/// CB2, CB3, CB5, CB8: delays count from the exit, whatever the code; the restart comes at the expiry.
#[test]
fn gaps_between_exit_and_next_start_double_up_to_five_minutes() {
    for code in [0, 1] {
        let mut world = World::new(pod(RestartPolicy::Always, &[("x", Role::App)]));
        behave(&mut world, "x", &[Behaviour::ends(seconds(1), code)]);
        world.run_for(seconds(1218));
        assert_eq!(gaps(&world, "x"), [0, 10, 20, 40, 80, 160, 300, 300], "exit code {code}");
    }
}

/// CB4: a run of more than ten minutes clears the entry.
#[test]
fn a_long_run_resets_the_back_off() {
    let mut world = World::new(pod(RestartPolicy::Always, &[("x", Role::App)]));
    let short = Behaviour::ends(seconds(1), 1);
    behave(&mut world, "x", &[short, short, short, Behaviour::ends(seconds(601), 1), short, short]);
    world.run_for(seconds(650));
    assert_eq!(gaps(&world, "x"), [0, 10, 20, 0, 10]);
}

/// CB1: another image starts anew. CB6: a small maximum also lowers the first delay.
#[test]
fn the_key_and_the_maximum_of_the_back_off_count() {
    let mut spec = pod(RestartPolicy::Always, &[("x", Role::App)]);
    spec.crash_back_off_max = seconds(4);
    let mut world = World::new(spec);
    behave(&mut world, "x", &[Behaviour::ends(seconds(1), 1)]);
    world.run_for(seconds(13));
    assert_eq!(gaps(&world, "x"), [0, 4, 4]);
    let index = world.machine.spec().find("x").expect("x exists");
    world.act(|machine, now| machine.set_image(index, "other", crate::pod::spec::PullPolicy::IfNotPresent, 2, now));
    world.run_for(Duration::ZERO);
    assert_eq!(gaps(&world, "x").len(), 4, "starts at once with another image");
}

/// CB7, 1.4: what is shown while a restart is delayed.
#[test]
fn crash_loop_back_off_is_shown_with_its_delay() {
    let mut world = World::new(pod(RestartPolicy::Always, &[("x", Role::App)]));
    behave(&mut world, "x", &[Behaviour::ends(seconds(1), 3)]);
    world.run_for(seconds(5));
    assert_eq!(
        state(&world, "x"),
        "Waiting CrashLoopBackOff: back-off 10s restarting failed container=x pod=p_default(u1)"
    );
    let status = container(&world, "x");
    assert_eq!((status.restart_count, status.last.map(|r| r.exit_code)), (1, Some(3)));
    assert_eq!(world.machine.status().phase, Phase::Running, "PH5: something will restart");
    let told = events(&world);
    assert_eq!(
        told.last().map(String::as_str),
        Some("2.0 Warning BackOff Back-off restarting failed container x in pod p_default(u1)")
    );
}

/// 1.4: Go's way to write a duration; IP6: with milliseconds.
#[test]
fn durations_are_written_as_go_writes_them() {
    for (secs, expected) in [(10, "10s"), (80, "1m20s"), (160, "2m40s"), (300, "5m0s"), (3600, "1h0m0s")] {
        assert_eq!(go_duration(seconds(secs)), expected);
    }
    for (ms, expected) in [(0, "0s"), (5, "5ms"), (230, "230ms"), (1234, "1.234s"), (1300, "1.3s"), (62_500, "1m2.5s")]
    {
        assert_eq!(go_duration_ms(Duration::from_millis(ms)), expected);
    }
}

/// 1.1 `shouldRestart`, RC2-RC4, IN3: which ends are final.
#[test]
fn policies_decide_by_exit_code() {
    use RestartPolicy::{Always, Never, OnFailure};
    for (policy, role, code, expected) in [
        (Always, Role::App, 0, true),
        (Always, Role::App, 1, true),
        (OnFailure, Role::App, 0, false),
        (OnFailure, Role::App, 1, true),
        (Never, Role::App, 0, false),
        (Never, Role::App, 1, false),
        (Always, Role::Init, 0, false),
        (Always, Role::Init, 1, true),
        (Never, Role::Init, 1, false),
        (Never, Role::Sidecar, 0, true),
        (Always, Role::Ephemeral, 1, false),
    ] {
        let spec = pod(policy, &[("x", role)]);
        let got = restart::should_restart(&spec, &spec.containers[0], code, code == 0);
        assert_eq!(got, expected, "{policy:?} {role:?} exit {code}");
    }
}

fn rule(action: RuleAction, operator: RuleOperator, values: &[i32]) -> RestartRule {
    RestartRule { action, operator, values: values.to_vec() }
}

/// RR1, RR2: the first rule that matches decides; without a container-level policy rules don't count.
#[test]
fn the_first_matching_rule_decides() {
    let rules = vec![
        rule(RuleAction::Restart, RuleOperator::In, &[42, 43]),
        rule(RuleAction::RestartAllContainers, RuleOperator::NotIn, &[0, 1]),
    ];
    let mut spec = pod(RestartPolicy::Never, &[("x", Role::App)]);
    spec.containers[0].rules = rules;
    assert_eq!(restart::matching_rule(&spec.containers[0], 42), None);
    spec.containers[0].restart_policy = Some(RestartPolicy::Never);
    for (code, expected) in
        [(42, Some(RuleAction::Restart)), (7, Some(RuleAction::RestartAllContainers)), (0, None), (1, None)]
    {
        assert_eq!(restart::matching_rule(&spec.containers[0], code), expected, "exit {code}");
        assert_eq!(restart::should_restart(&spec, &spec.containers[0], code, code == 0), expected.is_some());
    }
}

/// RR5: the pod runs on while a container restarts by rule, although its policy is Never.
#[test]
fn a_never_pod_with_a_restartable_container_stays_running() {
    let mut spec = pod(RestartPolicy::Never, &[("x", Role::App)]);
    spec.containers[0].restart_policy = Some(RestartPolicy::Never);
    spec.containers[0].rules = vec![rule(RuleAction::Restart, RuleOperator::In, &[42])];
    let mut world = World::new(spec);
    behave(
        &mut world,
        "x",
        &[Behaviour::ends(seconds(1), 42), Behaviour::ends(seconds(1), 42), Behaviour::ends(seconds(1), 0)],
    );
    world.run_for(seconds(5));
    assert_eq!(world.machine.status().phase, Phase::Running);
    world.run_for(seconds(20));
    assert_eq!(world.machine.status().phase, Phase::Succeeded);
    assert_eq!(container(&world, "x").restart_count, 2);
}

/// RR4, CO9, 1.4 `RestartingAllContainers`: everything ends at once, init containers run again, the sandbox stays.
#[test]
fn one_rule_restarts_all_containers() {
    let mut spec = pod(RestartPolicy::Never, &[("i", Role::Init), ("x", Role::App), ("y", Role::App)]);
    spec.containers[1].restart_policy = Some(RestartPolicy::Never);
    spec.containers[1].rules = vec![rule(RuleAction::RestartAllContainers, RuleOperator::In, &[42])];
    let mut world = World::new(spec);
    behave(&mut world, "i", &[Behaviour::ends(seconds(1), 0)]);
    behave(&mut world, "x", &[Behaviour::ends(seconds(1), 42), Behaviour::FOREVER]);
    behave(&mut world, "y", &[Behaviour::STUBBORN]);
    world.run_for(seconds(3));
    let restarting = |world: &World| {
        let conditions = world.machine.status().conditions;
        let found = conditions.into_iter().find(|c| c.kind == "AllContainersRestarting").expect("CO9");
        (found.status.name(), found.reason.unwrap_or_default(), found.message.unwrap_or_default())
    };
    assert_eq!(
        restarting(&world),
        ("True", "RestartAllContainersStarted".to_owned(), "container exited with restart policy rule".to_owned())
    );
    world.run_for(seconds(7));
    assert_eq!(
        processes(&world),
        [
            "0.0 start i",
            "1.0 exit i 0",
            "1.0 start x",
            "1.0 start y",
            "2.0 exit x 42",
            "2.0 signal y 15",
            "4.0 kill y",
            "4.0 exit y 137",
            "4.0 start i",
            "5.0 exit i 0",
            "5.0 start x",
            "5.0 start y"
        ]
    );
    let removed = story(&world, |text| text.starts_with("remove"));
    assert_eq!(removed, ["4.0 remove i#0", "4.0 remove y#0", "4.0 remove x#0"], "the source goes last");
    assert_eq!(restarting(&world).0, "False");
    for name in ["i", "x", "y"] {
        assert_eq!(container(&world, name).restart_count, 1, "{name}");
    }
    assert_eq!(story(&world, |text| text.starts_with("sandbox")).len(), 1);
}

/// RR4: a sidecar's rule, too.
#[test]
fn a_rule_of_a_sidecar_restarts_all_containers() {
    let mut spec = pod(RestartPolicy::Never, &[("s", Role::Sidecar), ("x", Role::App)]);
    spec.containers[0].restart_policy = Some(RestartPolicy::Always);
    spec.containers[0].rules = vec![rule(RuleAction::RestartAllContainers, RuleOperator::In, &[42])];
    let mut world = World::new(spec);
    behave(&mut world, "s", &[Behaviour::ends(seconds(1), 42), Behaviour::FOREVER]);
    world.run_for(seconds(30));
    for name in ["s", "x"] {
        assert_eq!((container(&world, name).restart_count, &*state(&world, name)), (1, "Running"), "{name}");
    }
}

/// RR3, RC4: rules are not asked when a probe killed the container.
#[test]
fn a_never_container_killed_by_its_probe_stays_dead() {
    use crate::pod::event::ProbeOutcome;
    use crate::pod::spec::{ProbeHandler, ProbeKind, ProbeSpec};
    let mut spec = pod(RestartPolicy::Never, &[("x", Role::App)]);
    spec.containers[0].restart_policy = Some(RestartPolicy::Never);
    spec.containers[0].rules = vec![rule(RuleAction::Restart, RuleOperator::In, &[143])];
    let mut probe = ProbeSpec::new(ProbeHandler::Exec { command: vec!["false".to_owned()] });
    probe.failure_threshold = 1;
    spec.containers[0].liveness = Some(probe);
    let mut world = World::new(spec);
    world.probes.insert(("x".to_owned(), ProbeKind::Liveness), vec![ProbeOutcome::Failure("no".to_owned())]);
    world.run_for(seconds(5));
    assert_eq!(state(&world, "x"), "Terminated Error 143");
    assert_eq!(world.machine.status().phase, Phase::Failed);
    assert!(events(&world).contains(&"0.0 Normal Killing Container x failed liveness probe".to_owned()));
}

/// RC2: while others run the phase stays Running, and the failed one shows its end.
#[test]
fn a_never_pod_fails_when_its_last_container_has_ended() {
    let mut world = World::new(pod(RestartPolicy::Never, &[("x", Role::App), ("y", Role::App)]));
    behave(&mut world, "x", &[Behaviour::ends(seconds(1), 5)]);
    behave(&mut world, "y", &[Behaviour::ends(seconds(3), 0)]);
    world.run_for(seconds(2));
    assert_eq!((world.machine.status().phase, state(&world, "x")), (Phase::Running, "Terminated Error 5".to_owned()));
    world.run_for(seconds(2));
    assert_eq!(world.machine.status().phase, Phase::Failed);
}

/// RC3: OnFailure restarts failures only.
#[test]
fn an_on_failure_pod_succeeds_at_last() {
    let mut world = World::new(pod(RestartPolicy::OnFailure, &[("x", Role::App)]));
    behave(&mut world, "x", &[Behaviour::ends(seconds(1), 1), Behaviour::ends(seconds(1), 0)]);
    world.run_for(seconds(20));
    assert_eq!((world.machine.status().phase, container(&world, "x").restart_count), (Phase::Succeeded, 1));
}

/// DL1, PH11: measured from the pod's start; containers end with the normal grace.
#[test]
fn an_active_deadline_fails_the_pod() {
    let mut spec = pod(RestartPolicy::Always, &[("x", Role::App)]);
    spec.active_deadline = Some(seconds(10));
    spec.grace = seconds(5);
    let mut world = World::new(spec);
    behave(&mut world, "x", &[Behaviour::STUBBORN]);
    world.run_for(seconds(12));
    let status = world.machine.status();
    // The kubelet shows a final phase only when nothing runs any more.
    assert_eq!((status.phase, status.reason), (Phase::Running, None));
    world.run_for(seconds(10));
    let status = world.machine.status();
    let text = "Pod was active on the node longer than the specified deadline";
    assert_eq!(
        (status.phase, status.reason.as_deref(), status.message.as_deref()),
        (Phase::Failed, Some("DeadlineExceeded"), Some(text))
    );
    assert_eq!(processes(&world), ["0.0 start x", "10.0 signal x 15", "15.0 kill x", "15.0 exit x 137"]);
    assert!(events(&world).contains(&format!("10.0 Normal DeadlineExceeded {text}")));
    assert!(world.machine.is_finished());
}

/// DL2: the deadline can be set and lowered, never raised; D44: a jump of the wall clock moves nothing.
#[test]
fn a_deadline_can_only_come_closer() {
    let mut world = World::new(pod(RestartPolicy::Always, &[("x", Role::App)]));
    world.run_for(seconds(5));
    world.now.wall.0 += 3_600_000_000_000;
    world.act(|machine, now| machine.set_deadline(seconds(20), 2, now));
    world.act(|machine, now| machine.set_deadline(seconds(30), 3, now));
    world.run_for(seconds(14));
    assert_eq!(world.machine.status().phase, Phase::Running);
    world.run_for(seconds(2));
    assert_eq!(world.machine.status().phase, Phase::Failed);
}

/// PH11, EV7, PH9: an eviction fails the pod, and nothing later changes that.
#[test]
fn an_evicted_pod_stays_failed() {
    let mut world = World::new(pod(RestartPolicy::Always, &[("x", Role::App)]));
    world.act(|machine, now| machine.fail("Evicted", "The node was low. ", Some(seconds(1)), now));
    world.run_for(seconds(10));
    world.act(|machine, now| machine.fail("Other", "later", None, now));
    let status = world.machine.status();
    assert_eq!(
        (status.phase, status.reason.as_deref(), status.message.as_deref()),
        (Phase::Failed, Some("Evicted"), Some("The node was low. "))
    );
}

/// CB10, 1.4: a start that leaves no instance is tried again after ten seconds, under the same attempt number.
#[test]
fn failed_creates_show_their_reason_and_are_repeated() {
    for (kind, reason) in
        [(StartFailureKind::Config, "CreateContainerConfigError"), (StartFailureKind::Create, "CreateContainerError")]
    {
        let mut world = World::new(pod(RestartPolicy::Never, &[("x", Role::App)]));
        let failing = Behaviour { create: Start::Fails(kind), ..Behaviour::FOREVER };
        behave(&mut world, "x", &[failing, Behaviour::FOREVER]);
        world.run_for(seconds(9));
        assert_eq!(state(&world, "x"), format!("Waiting {reason}: cannot"));
        assert_eq!(world.machine.status().phase, Phase::Pending);
        assert!(events(&world).contains(&"0.0 Warning Failed Error: cannot".to_owned()));
        world.run_for(seconds(1));
        assert_eq!((state(&world, "x").as_str(), container(&world, "x").restart_count), ("Running", 0));
    }
}

/// 1.5 `StartError`, CB10: a start that the runtime refuses leaves an instance with code 128; CB2 applies.
#[test]
fn a_refused_start_is_an_exit_with_128() {
    let failing = Behaviour { start: Start::Fails(StartFailureKind::Run), ..Behaviour::FOREVER };
    let mut world = World::new(pod(RestartPolicy::Never, &[("x", Role::App)]));
    behave(&mut world, "x", &[failing]);
    world.run_for(seconds(1));
    assert_eq!(
        (state(&world, "x").as_str(), world.machine.status().phase),
        ("Terminated StartError 128", Phase::Failed)
    );
    let mut world = World::new(pod(RestartPolicy::Always, &[("x", Role::App)]));
    behave(&mut world, "x", &[failing]);
    world.run_for(seconds(35));
    let starts = story(&world, |text| text.starts_with("start"));
    assert_eq!(starts, ["0.0 start x", "0.0 start x", "10.0 start x", "30.0 start x"]);
}

/// IP5, IP6, 1.4: a failing pull.
#[test]
fn failing_pulls_back_off() {
    let mut world = failing_world(ImageFailure::Pull("no route".to_owned()));
    world.run_for(seconds(1));
    assert_eq!(state(&world, "x"), "Waiting ErrImagePull: no route");
    world.run_for(seconds(4));
    assert_eq!(
        state(&world, "x"),
        "Waiting ImagePullBackOff: Back-off pulling image \"busybox\": ErrImagePull: no route"
    );
    world.run_for(seconds(145));
    let pulls = story(&world, |text| text.starts_with("image"));
    assert_eq!(
        pulls,
        ["0.0 image busybox", "10.0 image busybox", "30.0 image busybox", "70.0 image busybox", "150.0 image busybox"]
    );
    let told = events(&world);
    assert_eq!(
        told[..5],
        [
            "0.0 Normal Pulling Pulling image \"busybox\"",
            "0.0 Warning Failed Failed to pull image \"busybox\": no route",
            "0.0 Warning Failed Error: ErrImagePull",
            "2.0 Normal BackOff Back-off pulling image \"busybox\"",
            "2.0 Warning Failed Error: ImagePullBackOff"
        ]
    );
}

/// A world in which every image fails like this, from the first on.
fn failing_world(failure: ImageFailure) -> World {
    let mut world = World::new(pod(RestartPolicy::Always, &[("x", Role::App)]));
    world.image = vec![Err(failure)];
    world
}

/// 1.4: each way to have no image has its reason, message and events.
#[test]
fn image_failures_have_reasons_of_their_own() {
    let quoted = "\"busybox\"";
    for (failure, expected, event) in [
        (
            ImageFailure::NeverPull,
            format!("Waiting ErrImageNeverPull: Container image {quoted} is not present with pull policy of Never"),
            "ErrImageNeverPull",
        ),
        (
            ImageFailure::InvalidName,
            format!(
                "Waiting InvalidImageName: Failed to apply default image tag {quoted}: couldn't parse image name {quoted}: invalid reference format"
            ),
            "InspectFailed",
        ),
        (
            ImageFailure::Inspect("io".to_owned()),
            format!("Waiting ImageInspectError: Failed to inspect image {quoted}: io"),
            "InspectFailed",
        ),
        (
            ImageFailure::RegistryUnavailable(": down".to_owned()),
            "Waiting RegistryUnavailable: image pull failed for busybox because the registry is unavailable: down"
                .to_owned(),
            "Failed",
        ),
        (
            ImageFailure::SignatureValidationFailed(String::new()),
            "Waiting SignatureValidationFailed: image pull failed for busybox because the signature validation failed"
                .to_owned(),
            "Failed",
        ),
    ] {
        let mut world = failing_world(failure);
        world.run_for(seconds(1));
        assert_eq!(state(&world, "x"), expected);
        assert!(events(&world)[0].starts_with(&format!("0.0 Warning {event} ")), "{:?}", events(&world));
    }
}

/// IP6, IP9: the figures of a pull; the second container's image is asked for after the first one started.
#[test]
fn pulls_are_told_with_their_figures() {
    let report =
        PullReport { took: Duration::from_millis(1234), took_with_waiting: Duration::from_millis(1301), bytes: 12345 };
    let ready = ImageReady { pulled: Some(report), image_id: String::new(), stop_signal: None };
    let mut world = World::new(pod(RestartPolicy::Always, &[("x", Role::App), ("y", Role::App)]));
    world.image = vec![Ok(ready)];
    world.run_for(seconds(1));
    let text = "0.0 Normal Pulled Successfully pulled image \"busybox\" in 1.234s (1.301s including waiting). Image size: 12345 bytes.";
    let told = story(&world, |text| text.contains("Pulled") || text.starts_with("image") || text.starts_with("start"));
    assert_eq!(told, ["0.0 image busybox", text, "0.0 image busybox", "0.0 start x", text, "0.0 start y"]);
}

/// IP5: two containers of one image share its back-off.
#[test]
fn containers_of_one_image_share_its_back_off() {
    let mut world = World::new(pod(RestartPolicy::Always, &[("x", Role::App), ("y", Role::App)]));
    world.image = vec![Err(ImageFailure::Pull("no".to_owned()))];
    world.run_for(seconds(1));
    assert_eq!(story(&world, |text| text.starts_with("image")).len(), 1);
    assert_eq!(state(&world, "y"), "Waiting ImagePullBackOff: Back-off pulling image \"busybox\": ErrImagePull: no");
}

/// LF6, CS11: counting goes on where the log directory says.
#[test]
fn attempts_continue_from_the_logs() {
    let mut spec = pod(RestartPolicy::Always, &[("x", Role::App)]);
    spec.containers[0].first_attempt = 4;
    let mut world = World::new(spec);
    world.run_for(seconds(1));
    assert_eq!(container(&world, "x").restart_count, 4);
}
