//! Section 4: probes.

use super::*;
use crate::pod::event::ProbeOutcome;
use crate::pod::spec::{ProbeHandler, ProbeKind, ProbeSpec};
use crate::pod::status::Phase;

fn probe(period: u64, failures: u32) -> ProbeSpec {
    let mut probe = ProbeSpec::new(ProbeHandler::Exec { command: vec!["check".to_owned()] });
    probe.period = seconds(period);
    probe.failure_threshold = failures;
    probe
}

fn with(kind: ProbeKind, probe: ProbeSpec) -> PodSpec {
    let mut spec = pod(RestartPolicy::Always, &[("x", Role::App)]);
    set(&mut spec, kind, probe);
    spec
}

fn set(spec: &mut PodSpec, kind: ProbeKind, probe: ProbeSpec) {
    let container = &mut spec.containers[0];
    match kind {
        ProbeKind::Startup => container.startup = Some(probe),
        ProbeKind::Liveness => container.liveness = Some(probe),
        ProbeKind::Readiness => container.readiness = Some(probe),
    }
}

fn script(world: &mut World, kind: ProbeKind, outcomes: &[ProbeOutcome]) {
    world.probes.insert(("x".to_owned(), kind), outcomes.to_vec());
}

fn fail() -> ProbeOutcome {
    ProbeOutcome::Failure("down".to_owned())
}

fn probes(world: &World) -> Vec<String> {
    story(world, |text| text.starts_with("probe"))
}

/// PR8, PR11, PR7: period 1, threshold 3, failing from the start: killed 2 s after the first tick, after 3 events.
#[test]
fn liveness_kills_at_the_threshold() {
    let mut world = World::new(with(ProbeKind::Liveness, probe(1, 3)));
    script(&mut world, ProbeKind::Liveness, &[fail()]);
    world.run_for(Duration::from_millis(2500));
    assert_eq!(
        events(&world)[3..],
        [
            "0.0 Warning Unhealthy Liveness probe failed: down",
            "1.0 Warning Unhealthy Liveness probe failed: down",
            "2.0 Warning Unhealthy Liveness probe failed: down",
            "2.0 Normal Killing Container x failed liveness probe, will be restarted",
            "2.0 Normal Pulled Container image \"busybox\" already present on machine and can be accessed by the pod",
            "2.0 Normal Created Container created",
            "2.0 Normal Started Container started",
            "2.0 Warning Unhealthy Liveness probe failed: down",
        ]
    );
    assert_eq!(container(&world, "x").restart_count, 1);
}

/// PR8: a watch never sees the end of what starts again at once; it does see that a crash loop waits.
#[test]
fn what_a_probe_killed_is_shown_when_it_runs_again_or_waits() {
    let mut world = World::new(with(ProbeKind::Liveness, probe(1, 1)));
    script(&mut world, ProbeKind::Liveness, &[fail()]);
    let (mut shown, end): (Vec<String>, _) = (Vec::new(), world.now.mono.after(seconds(5)));
    while world.now.mono < end && world.step() {
        let now = state(&world, "x").split(':').next().unwrap_or_default().to_owned();
        if !world.machine.is_replacing() && shown.last() != Some(&now) {
            shown.push(now);
        }
    }
    assert_eq!(shown, ["Waiting ContainerCreating", "Running", "Waiting CrashLoopBackOff"]);
    assert_eq!(container(&world, "x").restart_count, 1);
}

/// PR8: after the kill the probe is silent until the next instance. PR13: its own grace, for this kill only.
#[test]
fn a_probe_kill_has_its_own_grace() {
    let mut liveness = probe(1, 1);
    liveness.grace = Some(seconds(5));
    let mut world = World::new(with(ProbeKind::Liveness, liveness));
    behave(&mut world, "x", &[Behaviour::STUBBORN]);
    script(&mut world, ProbeKind::Liveness, &[fail(), ProbeOutcome::Success]);
    world.run_for(seconds(6));
    assert_eq!(processes(&world), ["0.0 start x", "0.0 signal x 15", "5.0 kill x", "5.0 exit x 137", "5.0 start x"]);
    assert_eq!(probes(&world)[..2], ["0.0 probe x Liveness", "5.0 probe x Liveness"]);
}

/// PR8: a sidecar's text.
#[test]
fn a_sidecar_killed_by_its_probe_is_called_init_container() {
    let mut spec = pod(RestartPolicy::Never, &[("x", Role::Sidecar), ("y", Role::App)]);
    spec.containers[0].liveness = Some(probe(1, 1));
    let mut world = World::new(spec);
    script(&mut world, ProbeKind::Liveness, &[fail(), ProbeOutcome::Success]);
    world.run_for(seconds(2));
    assert!(events(&world).contains(&"0.0 Normal Killing Init container x failed liveness probe".to_owned()));
    assert_eq!(state(&world, "x"), "Running");
}

/// PR4, PR5: only the startup probe runs until it succeeds; then readiness runs at once, not at its tick.
#[test]
fn startup_gates_the_other_probes() {
    let mut spec = with(ProbeKind::Startup, probe(3, 10));
    set(&mut spec, ProbeKind::Readiness, probe(10, 3));
    set(&mut spec, ProbeKind::Liveness, probe(4, 3));
    let mut world = World::new(spec);
    script(&mut world, ProbeKind::Startup, &[fail(), fail(), ProbeOutcome::Success]);
    world.run_for(seconds(5));
    assert!(!container(&world, "x").started && !container(&world, "x").ready);
    world.run_for(seconds(6));
    assert!(container(&world, "x").started && container(&world, "x").ready);
    assert_eq!(
        probes(&world),
        [
            "0.0 probe x Startup",
            "3.0 probe x Startup",
            "6.0 probe x Startup",
            "6.0 probe x Readiness",
            "8.0 probe x Liveness",
            "10.0 probe x Readiness"
        ]
    );
}

/// PR11: startup has initialDelay + failureThreshold x period.
#[test]
fn a_failed_startup_probe_kills() {
    let mut startup = probe(2, 3);
    startup.initial_delay = seconds(1);
    let mut world = World::new(with(ProbeKind::Startup, startup));
    script(&mut world, ProbeKind::Startup, &[fail(), fail(), fail(), ProbeOutcome::Success]);
    world.run_for(seconds(6));
    assert!(
        events(&world).contains(&"5.0 Normal Killing Container x failed startup probe, will be restarted".to_owned())
    );
}

/// PR3: nothing before the initial delay is over.
#[test]
fn the_initial_delay_counts_from_the_start() {
    let mut readiness = probe(10, 3);
    readiness.initial_delay = seconds(4);
    let mut world = World::new(with(ProbeKind::Readiness, readiness));
    world.run_for(seconds(20));
    assert_eq!(probes(&world), ["4.0 probe x Readiness", "14.0 probe x Readiness"]);
}

/// PR5, PR9: a published readiness changes after as many equal results as its threshold says; nothing restarts.
#[test]
fn readiness_follows_its_thresholds() {
    let mut readiness = probe(1, 2);
    readiness.success_threshold = 2;
    let mut world = World::new(with(ProbeKind::Readiness, readiness));
    let ok = ProbeOutcome::Success;
    script(
        &mut world,
        ProbeKind::Readiness,
        &[ok.clone(), fail(), ok.clone(), ok.clone(), fail(), ok.clone(), fail(), fail(), ok],
    );
    let mut seen = Vec::new();
    for _ in 0..10 {
        world.run_for(Duration::ZERO);
        seen.push(u8::from(container(&world, "x").ready));
        world.run_for(seconds(1));
    }
    assert_eq!(seen, [0, 0, 0, 1, 1, 1, 1, 0, 0, 1]);
    assert_eq!(container(&world, "x").restart_count, 0);
}

/// 11.2, CO4, CO5: readiness never passes.
#[test]
fn a_pod_that_is_never_ready_says_so() {
    let mut world = World::new(with(ProbeKind::Readiness, probe(1, 3)));
    script(&mut world, ProbeKind::Readiness, &[fail()]);
    world.run_for(seconds(10));
    let status = world.machine.status();
    assert_eq!(status.phase, Phase::Running);
    let ready = status.conditions.iter().find(|c| c.kind == "Ready").expect("Ready is there");
    assert_eq!(
        (ready.status.name(), ready.reason.as_deref(), ready.message.as_deref()),
        ("False", Some("ContainersNotReady"), Some("containers with unready status: [x]"))
    );
    let columns = crate::pod::columns::columns(&status, world.now.wall);
    assert_eq!((columns.ready.as_str(), columns.status.as_str()), ("0/1", "Running"));
}

/// PR6: a probe that can't be run is tried three times per tick, and its result is discarded.
#[test]
fn errors_are_discarded() {
    let mut world = World::new(with(ProbeKind::Liveness, probe(10, 1)));
    script(&mut world, ProbeKind::Liveness, &[ProbeOutcome::Error("no port".to_owned())]);
    world.run_for(seconds(5));
    assert_eq!(probes(&world).len(), 3);
    assert_eq!(
        events(&world)[3..],
        ["0.0 Warning Unhealthy Liveness probe errored and resulted in unknown state: no port"]
    );
    assert_eq!(state(&world, "x"), "Running");
}

/// PR7, HG3: a warning counts as success.
#[test]
fn a_warning_is_a_success() {
    let mut world = World::new(with(ProbeKind::Readiness, probe(10, 1)));
    script(&mut world, ProbeKind::Readiness, &[ProbeOutcome::Warning("elsewhere".to_owned())]);
    world.run_for(seconds(5));
    assert!(container(&world, "x").ready);
    assert!(events(&world).contains(&"0.0 Warning ProbeWarning Readiness probe warning: elsewhere".to_owned()));
}

/// PR2: ticks are strictly periodic; of those that a slow probe misses one is made up for, as a ticker does.
#[test]
fn a_slow_probe_skips_ticks() {
    let mut readiness = probe(2, 3);
    readiness.timeout = seconds(6);
    let mut world = World::new(with(ProbeKind::Readiness, readiness));
    world.probe_takes = seconds(5);
    world.run_for(seconds(9));
    world.probe_takes = Duration::ZERO;
    world.run_for(seconds(4));
    assert_eq!(
        probes(&world),
        ["0.0 probe x Readiness", "5.0 probe x Readiness", "10.0 probe x Readiness", "12.0 probe x Readiness"]
    );
}

/// PR12, TR5, CO10: liveness and startup are silent after deletion, readiness goes on.
#[test]
fn only_readiness_goes_on_after_deletion() {
    let mut spec = with(ProbeKind::Liveness, probe(1, 1));
    set(&mut spec, ProbeKind::Readiness, probe(1, 1));
    let mut world = World::new(spec);
    behave(&mut world, "x", &[Behaviour::STUBBORN]);
    world.run_for(Duration::from_millis(500));
    script(&mut world, ProbeKind::Liveness, &[fail()]);
    world.act(|machine, now| machine.delete(seconds(3), now));
    assert!(container(&world, "x").ready, "CO10: ready until it stops");
    script(&mut world, ProbeKind::Readiness, &[fail()]);
    world.run_for(seconds(2));
    assert!(!container(&world, "x").ready);
    let late: Vec<_> = probes(&world).into_iter().filter(|text| !text.starts_with("0.0")).collect();
    assert_eq!(late, ["1.0 probe x Readiness", "2.0 probe x Readiness"]);
}

/// PR10: without probes a container is started and ready as soon as it runs.
#[test]
fn no_probes_means_ready() {
    let mut world = World::new(pod(RestartPolicy::Always, &[("x", Role::App)]));
    world.run_for(Duration::ZERO);
    let status = container(&world, "x");
    assert!(status.started && status.ready);
}

/// CS9, IN2: a sidecar with a startup probe gates what follows; liveness and readiness don't.
#[test]
fn a_sidecar_gates_by_its_startup_probe_alone() {
    for (kind, expected) in [(ProbeKind::Startup, "5.0 start y"), (ProbeKind::Readiness, "0.0 start y")] {
        let mut spec = pod(RestartPolicy::Always, &[("x", Role::Sidecar), ("y", Role::App)]);
        set(&mut spec, kind, probe(5, 10));
        let mut world = World::new(spec);
        script(&mut world, kind, &[fail(), ProbeOutcome::Success]);
        world.run_for(Duration::from_secs(1));
        let gated = kind == ProbeKind::Startup;
        assert_eq!(world.machine.status().phase, if gated { Phase::Pending } else { Phase::Running }, "PH2");
        world.run_for(seconds(9));
        assert_eq!(processes(&world)[1], expected);
    }
}

/// PR14: what ran when the daemon came back stays started and ready, and its probes go on at their ticks.
#[test]
fn a_restarted_daemon_keeps_results() {
    let mut spec = with(ProbeKind::Startup, probe(10, 3));
    set(&mut spec, ProbeKind::Readiness, probe(10, 1));
    let mut world = World::new(spec);
    world.run_for(seconds(5));
    assert!(container(&world, "x").ready);
    world.crash(crate::pod::event::Boot::Same);
    assert!(container(&world, "x").started && container(&world, "x").ready);
    world.run_for(seconds(6));
    assert_eq!(probes(&world), ["0.0 probe x Startup", "0.0 probe x Readiness", "10.0 probe x Readiness"]);
}
