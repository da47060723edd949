//! Sections 1.2, 1.3, 1.6, 2.1 (IN6-IN9), 7.8, 10.6: sandbox, sidecars, conditions, columns, messages.

use super::*;
use crate::pod::columns::columns;
use crate::pod::event::{Boot, Event, Exit};
use crate::pod::spec::TerminationMessagePolicy;
use crate::pod::status::{Condition, Phase, Truth, termination_message};

/// Type, status, reason, message.
fn condition(world: &World, kind: &str) -> (Truth, String, String) {
    let conditions = world.machine.status().conditions;
    let found = conditions.into_iter().find(|c| c.kind == kind).expect("the condition is there");
    (found.status, found.reason.unwrap_or_default(), found.message.unwrap_or_default())
}

fn row(world: &World) -> (String, String, String) {
    let columns = columns(&world.machine.status(), world.now.wall);
    (columns.ready, columns.status, columns.restarts)
}

fn cells(ready: &str, status: &str, restarts: &str) -> (String, String, String) {
    (ready.to_owned(), status.to_owned(), restarts.to_owned())
}

/// PH1, PH7, 11.2: what `kubectl get pods` says of init containers.
#[test]
fn init_containers_in_the_status_column() {
    let two = [("a", Role::Init), ("b", Role::Init), ("x", Role::App)];
    let mut world = World::new(pod(RestartPolicy::Always, &two));
    behave(&mut world, "a", &[Behaviour::ends(seconds(1), 0)]);
    assert_eq!(row(&world), cells("0/1", "Init:0/2", "0"));
    world.run_for(seconds(2));
    assert_eq!(row(&world), cells("0/1", "Init:1/2", "0"));
    assert_eq!(
        condition(&world, "Initialized"),
        (Truth::False, "ContainersNotInitialized".to_owned(), "containers with incomplete status: [b]".to_owned())
    );

    let one = [("i", Role::Init), ("x", Role::App)];
    let mut world = World::new(pod(RestartPolicy::Never, &one));
    behave(&mut world, "i", &[Behaviour::ends(seconds(1), 1)]);
    world.run_for(seconds(2));
    assert_eq!(world.machine.status().phase, Phase::Failed);
    assert_eq!(row(&world), cells("0/1", "Init:Error", "0"));
    assert!(world.machine.is_finished(), "IN3: the pod is killed");

    let mut world = World::new(pod(RestartPolicy::Always, &one));
    behave(&mut world, "i", &[Behaviour::ends(seconds(1), 1)]);
    world.run_for(seconds(5));
    assert_eq!(world.machine.status().phase, Phase::Pending);
    assert_eq!(row(&world), cells("0/1", "Init:CrashLoopBackOff", "1 (3s ago)"));
}

/// KC1, KC2, KC4: ready, restarts and final texts.
#[test]
fn columns_of_running_and_ended_pods() {
    let mut world = World::new(pod(RestartPolicy::Always, &[("s", Role::Sidecar), ("x", Role::App)]));
    world.run_for(seconds(1));
    assert_eq!(row(&world), cells("2/2", "Running", "0"));
    world.act(|machine, now| machine.delete(seconds(30), now));
    assert_eq!(row(&world).1, "Terminating");

    for (code, oom, expected) in [(0, false, "Completed"), (1, false, "Error"), (137, true, "OOMKilled")] {
        let mut world = World::new(pod(RestartPolicy::Never, &[("x", Role::App)]));
        behave(&mut world, "x", &[Behaviour { oom, ..Behaviour::ends(seconds(1), code) }]);
        world.run_for(seconds(2));
        assert_eq!(row(&world), cells("0/1", expected, "0"));
        world.act(|machine, now| machine.delete(seconds(0), now));
        assert_eq!(row(&world).1, expected, "a final pod keeps its status while it is deleted");
    }
}

/// KC7: one container serves, the other one ends again and again.
#[test]
fn one_serves_and_one_loops() {
    let mut world = World::new(pod(RestartPolicy::Always, &[("x", Role::App), ("y", Role::App)]));
    behave(&mut world, "y", &[Behaviour::ends(seconds(1), 0)]);
    world.run_for(seconds(330));
    assert_eq!(world.machine.status().phase, Phase::Running, "PH3");
    let (ready, status, restarts) = row(&world);
    assert_eq!((ready.as_str(), status.as_str()), ("1/2", "CrashLoopBackOff"));
    assert!(restarts.starts_with("6 ("), "{restarts}");
}

/// IN6: a sidecar restarts whatever the pod's policy, also after the init sequence; nothing else is run again.
#[test]
fn a_sidecar_restarts_by_itself() {
    let mut world = World::new(pod(RestartPolicy::Never, &[("i", Role::Init), ("s", Role::Sidecar), ("x", Role::App)]));
    behave(&mut world, "i", &[Behaviour::ends(seconds(1), 0)]);
    behave(&mut world, "s", &[Behaviour::ends(seconds(3), 0), Behaviour::ends(seconds(3), 1), Behaviour::FOREVER]);
    world.run_for(seconds(30));
    assert_eq!(
        processes(&world),
        [
            "0.0 start i",
            "1.0 exit i 0",
            "1.0 start s",
            "1.0 start x",
            "4.0 exit s 0",
            "4.0 start s",
            "7.0 exit s 1",
            "17.0 start s"
        ]
    );
}

/// IN6: before the pod is initialized a crashed sidecar comes back without disturbing what runs after it.
#[test]
fn a_sidecar_that_crashes_early_is_restarted_beside_its_successors() {
    let mut world =
        World::new(pod(RestartPolicy::Always, &[("s", Role::Sidecar), ("i", Role::Init), ("x", Role::App)]));
    behave(&mut world, "s", &[Behaviour::ends(seconds(1), 1), Behaviour::FOREVER]);
    behave(&mut world, "i", &[Behaviour::ends(seconds(4), 0)]);
    world.run_for(seconds(10));
    assert_eq!(
        processes(&world),
        ["0.0 start s", "0.0 start i", "1.0 exit s 1", "1.0 start s", "4.0 exit i 0", "4.0 start x"]
    );
}

/// IN7, PH8: when the apps are done the sidecars are stopped; their codes decide nothing.
#[test]
fn sidecars_do_not_keep_a_pod_alive() {
    let mut world = World::new(pod(RestartPolicy::Never, &[("s", Role::Sidecar), ("x", Role::App)]));
    behave(&mut world, "s", &[Behaviour { obeys: Some(seconds(2)), ..Behaviour::FOREVER }]);
    behave(&mut world, "x", &[Behaviour::ends(seconds(1), 0)]);
    world.run_for(seconds(2));
    assert_eq!(world.machine.status().phase, Phase::Running, "PH3: the sidecar still runs");
    world.run_for(seconds(5));
    assert_eq!(world.machine.status().phase, Phase::Succeeded);
    assert_eq!(processes(&world)[2..], ["1.0 exit x 0", "1.0 signal s 15", "3.0 exit s 143"]);
    assert_eq!(condition(&world, "Ready").1, "PodCompleted");
    assert_eq!(condition(&world, "Initialized"), (Truth::True, "PodCompleted".to_owned(), String::new()));
}

/// IN8, RC1, 11.2 `kill pause`: new sandbox, init again, counts go up.
#[test]
fn a_lost_sandbox_is_made_anew() {
    let mut world = World::new(pod(RestartPolicy::Always, &[("i", Role::Init), ("x", Role::App)]));
    behave(&mut world, "i", &[Behaviour::ends(seconds(1), 0)]);
    world.run_for(seconds(5));
    let before = world.machine.status().ips;
    world.lose_sandbox(false);
    world.run_for(seconds(5));
    assert_eq!(
        story(&world, |text| !["Normal P", "Normal C", "Normal Started", "image", "create"]
            .iter()
            .any(|w| text.starts_with(w))),
        [
            "0.0 volumes",
            "0.0 sandbox 0",
            "0.0 start i",
            "1.0 exit i 0",
            "1.0 start x",
            "5.0 Normal SandboxChanged Pod sandbox changed, it will be killed and re-created.",
            "5.0 Normal Killing Stopping container x",
            "5.0 signal x 15",
            "5.0 exit x 143",
            "5.0 stop sandbox 0",
            "5.0 remove i#0",
            "5.0 sandbox 1",
            "5.0 start i",
            "6.0 exit i 0",
            "6.0 start x",
            "6.0 remove x#0"
        ][..15]
    );
    for name in ["i", "x"] {
        assert_eq!(container(&world, name).restart_count, 1, "{name}");
    }
    assert_ne!(world.machine.status().ips, before);
    assert_eq!(world.machine.status().phase, Phase::Running);
}

/// IN8: under Never with containers that exist, and when all apps are complete, there is no new sandbox.
#[test]
fn a_never_pod_is_finished_when_its_sandbox_is_lost() {
    let mut world = World::new(pod(RestartPolicy::Never, &[("x", Role::App)]));
    world.run_for(seconds(5));
    world.lose_sandbox(false);
    world.run_for(seconds(5));
    assert_eq!(world.machine.status().phase, Phase::Failed);
    assert!(world.machine.is_finished());
    assert_eq!(story(&world, |text| text.starts_with("sandbox")).len(), 1);
}

/// IN8: under OnFailure an app that ended well is not started again.
#[test]
fn a_completed_app_stays_complete_in_a_new_sandbox() {
    let mut world = World::new(pod(RestartPolicy::OnFailure, &[("x", Role::App), ("y", Role::App)]));
    behave(&mut world, "x", &[Behaviour::ends(seconds(1), 0)]);
    world.run_for(seconds(5));
    world.lose_sandbox(false);
    world.run_for(seconds(5));
    assert_eq!(processes(&world)[2..], ["1.0 exit x 0", "5.0 signal y 15", "5.0 exit y 143", "5.0 start y"]);
}

/// CS6: the engine lost everything; the instances count.
#[test]
fn lost_containers_are_accounted_for() {
    let mut world = World::new(pod(RestartPolicy::Always, &[("x", Role::App)]));
    world.run_for(seconds(5));
    world.lose_sandbox(true);
    world.run_for(seconds(5));
    let status = container(&world, "x");
    assert_eq!((state(&world, "x").as_str(), status.restart_count), ("Running", 1));
    let last = status.last.expect("the lost instance");
    assert_eq!((last.exit_code, last.reason.as_str()), (137, "ContainerStatusUnknown"));
    assert_eq!(
        last.message,
        "The container could not be located when the pod was deleted.  The container used to be Running"
    );
}

/// CO2: published before any container starts; CO1, order of 1.2.
#[test]
fn conditions_of_a_starting_pod() {
    let mut world = World::new(pod(RestartPolicy::Always, &[("i", Role::Init), ("x", Role::App)]));
    assert_eq!(condition(&world, "PodReadyToStartContainers").0, Truth::False);
    world.run_for(seconds(1));
    assert_eq!(condition(&world, "PodReadyToStartContainers").0, Truth::True);
    let kinds: Vec<_> = world.machine.status().conditions.into_iter().map(|c| c.kind).collect();
    assert_eq!(kinds, ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"]);
}

/// CO5, CO11: readiness gates.
#[test]
fn readiness_gates_hold_ready_back() {
    let mut spec = pod(RestartPolicy::Always, &[("x", Role::App)]);
    spec.readiness_gates = vec!["example.com/a".to_owned(), "example.com/b".to_owned()];
    let mut world = World::new(spec);
    world.run_for(seconds(1));
    let set = |world: &mut World, kind: &str, status| {
        let condition = Condition {
            kind: kind.to_owned(),
            status,
            reason: None,
            message: None,
            last_transition: world.now.wall,
            observed_generation: 0,
        };
        world.act(|machine, now| machine.set_condition(condition, now));
    };
    set(&mut world, "example.com/b", Truth::Unknown);
    let text = "corresponding condition of pod readiness gate \"example.com/a\" does not exist., the status of pod readiness gate \"example.com/b\" is not \"True\", but Unknown";
    assert_eq!(condition(&world, "Ready"), (Truth::False, "ReadinessGatesNotReady".to_owned(), text.to_owned()));
    assert_eq!(condition(&world, "ContainersReady").0, Truth::True);
    set(&mut world, "example.com/a", Truth::True);
    set(&mut world, "example.com/b", Truth::True);
    assert_eq!(condition(&world, "Ready").0, Truth::True);
}

/// 1.2: the transition time moves with the status alone.
#[test]
fn transition_times_move_with_the_status() {
    let mut world = World::new(pod(RestartPolicy::Always, &[("x", Role::App)]));
    let since = |world: &World, kind: &str| {
        let conditions = world.machine.status().conditions;
        conditions.into_iter().find(|c| c.kind == kind).expect("there").last_transition
    };
    let began = world.now.wall;
    let second = |n: i64| crate::pod::timer::WallTime(began.0 + n * 1_000_000_000);
    world.run_for(seconds(2));
    behave(&mut world, "x", &[Behaviour::FOREVER]);
    assert_eq!((since(&world, "Ready"), since(&world, "PodScheduled")), (began, began));
    world.lose_sandbox(false);
    world.sandbox_failures = 1;
    world.run_for(seconds(9));
    assert_eq!((since(&world, "Ready"), since(&world, "PodScheduled")), (second(2), began));
    world.run_for(seconds(9));
    assert_eq!((since(&world, "Ready"), since(&world, "PodReadyToStartContainers")), (second(12), second(12)));
}

/// VO59, VO60, VO62.
#[test]
fn termination_messages_are_cut_to_their_end() {
    let file: Vec<u8> = (0..5000u32).map(|n| b'a' + u8::try_from(n % 26).unwrap()).collect();
    let log = || (0..200).flat_map(|n| format!("line {n}\n").into_bytes()).collect::<Vec<u8>>();
    let long = || vec![b'x'; 9000];
    use TerminationMessagePolicy::{FallbackToLogsOnError as Fallback, File};
    let got = |policy, code, file: &[u8]| termination_message(policy, code, file, log);
    assert_eq!(got(File, 0, &file).unwrap().as_bytes(), &file[904..], "the last 4096 bytes, whatever the code");
    assert_eq!(got(File, 1, b""), None);
    assert_eq!(got(Fallback, 0, b""), None);
    assert_eq!(got(Fallback, 1, b"short"), Some("short".to_owned()));
    let lines = got(Fallback, 1, b"").unwrap();
    assert_eq!((lines.lines().count(), lines.lines().next()), (80, Some("line 120")));
    assert_eq!(termination_message(Fallback, 1, b"", long).unwrap().len(), 2048);
    assert_eq!(termination_message(Fallback, 1, b"", Vec::new), None);
}

/// VO61: all messages of a pod together.
#[test]
fn messages_share_twelve_kibibytes() {
    for (count, expected) in [(1, 4096), (3, 4096), (4, 3072)] {
        let names: Vec<String> = (0..count).map(|n| format!("c{n}")).collect();
        let containers: Vec<(&str, Role)> = names.iter().map(|name| (name.as_str(), Role::App)).collect();
        let mut world = World::new(pod(RestartPolicy::Never, &containers));
        world.run_for(seconds(1));
        let instance = world.procs.values().next().expect("one runs").instance;
        let exit = Exit {
            code: 1,
            oom_killed: false,
            start_error: None,
            started: None,
            finished: world.now.wall,
            message: Some("m".repeat(4096)),
        };
        world.act(|machine, now| machine.handle(Event::ContainerExited { instance, exit }, now));
        let State::Terminated(record) = container(&world, "c0").state else { panic!("terminated") };
        assert_eq!(record.message.len(), expected, "{count} containers");
    }
}

/// 1.5: an init container with OOMKilled counts as failed even with code 0.
#[test]
fn an_oom_killed_init_container_has_failed() {
    let mut world = World::new(pod(RestartPolicy::Never, &[("i", Role::Init), ("x", Role::App)]));
    world.run_for(seconds(1));
    let instance = world.procs.values().next().expect("one runs").instance;
    let exit =
        Exit { code: 0, oom_killed: true, start_error: None, started: None, finished: world.now.wall, message: None };
    world.act(|machine, now| machine.handle(Event::ContainerExited { instance, exit }, now));
    world.run_for(seconds(1));
    assert_eq!((state(&world, "i").as_str(), world.machine.status().phase), ("Terminated OOMKilled 0", Phase::Failed));
}

/// EP2: an ephemeral container starts while init runs, is never restarted and changes neither phase nor readiness.
#[test]
fn an_ephemeral_container_stands_beside() {
    let mut world = World::new(pod(RestartPolicy::Always, &[("i", Role::Init), ("x", Role::App)]));
    behave(&mut world, "i", &[Behaviour::ends(seconds(9), 0)]);
    behave(&mut world, "d", &[Behaviour::ends(seconds(2), 1)]);
    world.run_for(seconds(1));
    let debug = ContainerSpec::new("d", Role::Ephemeral, "busybox");
    world.act(|machine, now| machine.add_ephemeral(debug, 2, now));
    world.run_for(seconds(19));
    assert_eq!(processes(&world), ["0.0 start i", "1.0 start d", "3.0 exit d 1", "9.0 exit i 0", "9.0 start x"]);
    let status = world.machine.status();
    assert_eq!((status.phase, status.observed_generation), (Phase::Running, 2));
    assert_eq!(condition(&world, "Ready").0, Truth::True);
}

/// EP5: a target without a status yet.
#[test]
fn an_ephemeral_container_waits_for_its_target() {
    let mut world = World::new(pod(RestartPolicy::Always, &[("i", Role::Init), ("x", Role::App)]));
    behave(&mut world, "i", &[Behaviour::ends(seconds(5), 0)]);
    world.run_for(seconds(1));
    let mut debug = ContainerSpec::new("d", Role::Ephemeral, "busybox");
    debug.target = Some("x".to_owned());
    world.act(|machine, now| machine.add_ephemeral(debug, 2, now));
    assert_eq!(state(&world, "d"), "Waiting CreateContainerConfigError: unable to find target container x");
    world.run_for(seconds(10));
    assert_eq!(state(&world, "d"), "Running");
}

/// VO1: volumes come first, and are tried again after 0.5, 1, 2 s ...
#[test]
fn volumes_that_fail_are_tried_again() {
    let mut world = World::new(pod(RestartPolicy::Always, &[("x", Role::App)]));
    world.volume_failures = 3;
    world.run_for(seconds(5));
    assert_eq!(story(&world, |text| text == "volumes"), ["0.0 volumes", "0.5 volumes", "1.5 volumes", "3.5 volumes"]);
    assert_eq!(
        events(&world)[0],
        "0.0 Warning FailedMount MountVolume.SetUp failed for volume \"data\" : no such thing"
    );
    assert_eq!(state(&world, "x"), "Running");
}

/// 10.8, TR7: what keeps a deleted pod from going is told, and it goes when the cause does.
#[test]
fn an_end_that_fails_is_told_and_tried_again() {
    let mut world = World::new(pod(RestartPolicy::Always, &[("x", Role::App)]));
    world.run_for(seconds(1));
    (world.teardown_failures, world.removal_failures) = (2, 1);
    world.act(|machine, now| machine.delete(seconds(0), now));
    world.run_for(seconds(7));
    let told = story(&world, |text| text.contains("FailedKillPod"));
    let of = |what: &str| format!("Warning FailedKillPod error killing pod: {what} stay");
    let reasons: Vec<&str> = told.iter().filter_map(|line| Some(line.split_once(' ')?.1)).collect();
    assert_eq!(reasons, [of("volumes"), of("volumes"), of("records")], "{told:?}");
    assert!(world.pod_removed);
}

/// 10.8: a sandbox that can't be made is told and tried again; containers stay ContainerCreating (1.4).
#[test]
fn a_sandbox_that_fails_is_tried_again() {
    let mut world = World::new(pod(RestartPolicy::Always, &[("x", Role::App)]));
    world.sandbox_failures = 1;
    world.run_for(seconds(5));
    assert_eq!(state(&world, "x"), "Waiting ContainerCreating");
    assert_eq!(events(&world), ["0.0 Warning FailedCreatePodSandBox Failed to create pod sandbox: no network"]);
    world.run_for(seconds(6));
    assert_eq!(state(&world, "x"), "Running");
}

/// PH15: a refused pod has failed; no container is made.
#[test]
fn a_refused_pod_has_failed() {
    use crate::pod::machine::Machine;
    let now = World::new(pod(RestartPolicy::Always, &[])).now;
    let spec = pod(RestartPolicy::Always, &[("x", Role::App)]);
    let mut world = World::with(Machine::rejected(spec, "OutOfcpu", "no cpu", now), now);
    let status = world.machine.status();
    assert_eq!(
        (status.phase, status.reason.as_deref(), status.message.as_deref()),
        (Phase::Failed, Some("OutOfcpu"), Some("Pod was rejected: no cpu"))
    );
    world.run_for(seconds(100));
    assert_eq!(story(&world, |_| true), ["0.0 Warning OutOfcpu no cpu"]);
    world.act(|machine, now| machine.delete(seconds(0), now));
    world.run_for(seconds(1));
    assert!(world.machine.is_gone());
}

/// D43, CB9, CS11: the daemon dies at every moment of a life; nothing starts twice, counts stay.
#[test]
fn a_restarted_daemon_carries_on() {
    let mut world =
        World::new(pod(RestartPolicy::Always, &[("i", Role::Init), ("s", Role::Sidecar), ("x", Role::App)]));
    behave(&mut world, "i", &[Behaviour::ends(seconds(2), 0)]);
    behave(&mut world, "x", &[Behaviour::ends(seconds(3), 1), Behaviour::ends(seconds(3), 1), Behaviour::FOREVER]);
    for _ in 0..20 {
        world.crash(Boot::Same);
        world.run_for(Duration::from_millis(700));
    }
    assert_eq!(container(&world, "x").restart_count, 2);
    assert_eq!(world.machine.status().phase, Phase::Running);
    let starts = |name: &str| story(&world, |text| text == format!("start {name}")).len();
    assert_eq!((starts("i"), starts("s"), starts("x")), (1, 1, 3));
}

/// IN9: after a reboot everything runs again, with counts that go on.
#[test]
fn a_reboot_runs_everything_again() {
    let mut world = World::new(pod(RestartPolicy::Always, &[("i", Role::Init), ("x", Role::App)]));
    behave(&mut world, "i", &[Behaviour::ends(seconds(1), 0)]);
    world.run_for(seconds(5));
    world.crash(Boot::New);
    world.run_for(seconds(5));
    for name in ["i", "x"] {
        assert_eq!(container(&world, name).restart_count, 1, "{name}");
    }
    assert_eq!(world.machine.status().phase, Phase::Running);
}

/// A snapshot of another version or pod is refused.
#[test]
fn a_strange_snapshot_is_refused() {
    use crate::pod::adopt::AdoptError;
    use crate::pod::event::Observed;
    use crate::pod::machine::Machine;
    let world = World::new(pod(RestartPolicy::Always, &[("x", Role::App)]));
    let adopt = |snapshot| {
        let spec = pod(RestartPolicy::Always, &[("x", Role::App)]);
        Machine::adopt(spec, snapshot, Observed::default(), Boot::Same, world.now).map(|_| ())
    };
    let mut strange = world.machine.snapshot();
    strange.version = 9;
    assert!(matches!(adopt(strange), Err(AdoptError::Version { found: 9, .. })));
    let other = World::new(pod(RestartPolicy::Always, &[("x", Role::App), ("y", Role::App)])).machine.snapshot();
    assert!(matches!(adopt(other), Err(AdoptError::Containers { found: 2, expected: 1, .. })));
}

/// ST5, PH4: a static pod's containers that would go on keep it Running while it is being ended.
#[test]
fn a_static_pod_keeps_no_final_phase_from_termination() {
    let mut spec = pod(RestartPolicy::Always, &[("x", Role::App)]);
    spec.static_pod = true;
    let mut world = World::new(spec);
    world.run_for(seconds(1));
    world.act(|machine, now| machine.delete(seconds(5), now));
    world.run_for(seconds(10));
    assert!(world.machine.is_gone());
    assert_eq!(world.machine.status().phase, Phase::Running);
}
