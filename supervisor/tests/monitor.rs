//! The monitor's binary with real processes.
//!
//! Needs root, cgroup v2 with `cgroup.kill`, and Debian's `busybox-static`.

#[cfg(test)]
#[path = "monitor/harness.rs"]
mod harness;

#[cfg(test)]
#[path = "monitor/attach.rs"]
mod attach;

#[cfg(test)]
#[path = "streams/pause.rs"]
mod pause;

use std::fs::{self, File};
use std::io::{PipeReader, Read, Write};
use std::os::fd::AsRawFd;

use harness::{
    Options, Pod, cpu_ticks, create, drained, held, open_directory, run, tmpfs, wait_for_end, wait_until_quiet,
};
use rustix::fs::AtFlags;
use rustix::process::{Signal, WaitId, WaitIdOptions, kill_process, waitid};
use supervisor::monitor::client::{ClientError, Descriptors};
use supervisor::monitor::protocol::{
    ContainerState, Event, Exit, MonitorError, PidNamespace, SHM_VOLUME, WhenBrainDies,
};

const STAY: WhenBrainDies = WhenBrainDies::Stay;

#[test]
fn a_container_logs_and_its_exit_is_recorded() {
    // LF2, D41, HN1
    run(async {
        let mut pod = Pod::new(STAY).await;
        pod.start("c", "hostname; echo err >&2; printf end; exit 7").await;
        let record = pod.exited().await;
        assert_eq!((record.exit, record.oom_killed, &record.start_error), (Exit::Code(7), false, &None));
        assert!(record.started_at.as_ref().unwrap() <= &record.finished_at);
        assert_eq!(pod.record("c"), record);
        let mut log = pod.log("c");
        log.sort();
        assert_eq!(log, ["stderr F err", "stdout F end", "stdout F pod"]);
        pod.client().remove_container("c").await.unwrap();
        assert!(pod.client().snapshot().await.unwrap().containers.is_empty());
    });
}

#[test]
fn a_template_makes_a_monitor_that_is_the_brains_child_alone() {
    // D10, D12
    run(async {
        let pod = Pod::new(STAY).await;
        let (monitor, template) = (pod.client().pid, pod.template.pid().await.as_raw_nonzero().get().cast_unsigned());
        let of = |pid: u32, file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
        for (pid, name) in [(monitor, "monitor\n"), (template, "template\n")] {
            assert_eq!(of(pid, "comm"), name);
            assert!(of(pid, "status").contains(&format!("PPid:\t{}\n", std::process::id())), "{name}");
            assert_eq!((of(pid, "cmdline").as_str(), of(pid, "environ").as_str()), ("monitor\0", "RUST_BACKTRACE=0\0"));
        }
        let sockets = |pid: u32| {
            let links =
                fs::read_dir(format!("/proc/{pid}/fd")).unwrap().map(|entry| fs::read_link(entry.unwrap().path()));
            links.filter(|link| link.as_ref().is_ok_and(|link| link.to_string_lossy().starts_with("socket:"))).count()
        };
        // Its first brain and whom it listens to; the template has kept nothing of it.
        assert_eq!((sockets(monitor), sockets(template)), (2, 1));
        drop(pod);
        assert!(!fs::exists(format!("/proc/{template}")).unwrap());
    });
}

#[test]
fn a_monitor_that_nobody_waited_for_is_not_taken_for_the_next() {
    run(async {
        let mut pod = Pod::new(STAY).await;
        let template = pod.template.pid().await;
        kill_process(template, Signal::STOP).unwrap();
        waitid(WaitId::Pid(template), WaitIdOptions::STOPPED).unwrap();
        let given_up = pod.another_monitor("given-up");
        assert!(tokio::time::timeout(std::time::Duration::ZERO, given_up).await.is_err());
        kill_process(template, Signal::CONT).unwrap();
        let (client, process) = pod.another_monitor("wanted").await;
        // proc_pid_fdinfo(5)
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", process.pidfd().as_raw_fd())).unwrap();
        assert!(info.contains(&format!("\nPid:\t{}\n", client.pid)), "{info}");
        assert_eq!(pod.cgroup_processes("wanted"), [client.pid.to_string()]);
        drop(client);
        process.wait().await.unwrap();
        pod.start("c", "exit 3").await;
        assert_eq!(pod.exited().await.exit, Exit::Code(3));
    });
}

#[test]
fn a_template_that_was_killed_is_started_anew() {
    run(async {
        let pod = Pod::new(STAY).await;
        let template = pod.template.pid().await;
        kill_process(template, Signal::KILL).unwrap();
        waitid(WaitId::Pid(template), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).unwrap();
        let (client, process) = pod.another_monitor("another").await;
        assert_ne!(pod.template.pid().await, template);
        assert_eq!(pod.cgroup_processes("another"), [client.pid.to_string()]);
        drop(client);
        process.wait().await.unwrap();
    });
}

#[test]
fn a_signalled_container_is_recorded_with_its_signal() {
    // CT1
    run(async {
        let mut pod = Pod::new(STAY).await;
        for (id, signal) in [("term", 15), ("rtmin", 37)] {
            let options = Options { pid: PidNamespace::Sandbox, ..Options::default() };
            pod.create(id, "exec sleep 1000", options).await;
            pod.client().start_container(id).await.unwrap();
            pod.client().signal_container(id, signal).await.unwrap();
            assert_eq!(pod.exited().await.exit, Exit::Signal(signal));
            assert_eq!(pod.record(id).exit.code(), 128 + signal);
        }
        pod.start("kill", "exec sleep 1000").await;
        pod.client().kill_container("kill").await.unwrap();
        assert_eq!(pod.exited().await.exit, Exit::Signal(9));
        let again = pod.client().signal_container("kill", 15).await;
        assert!(matches!(again, Err(ClientError::Monitor(MonitorError::WrongState { .. }))), "{again:?}");
    });
}

#[test]
fn a_program_that_cannot_be_executed_is_a_start_error() {
    run(async {
        let mut pod = Pod::new(STAY).await;
        let log = pod.directory("logs/c");
        fs::write(pod.path("layer/bin/garbage"), "garbage").unwrap();
        fs::set_permissions(pod.path("layer/bin/garbage"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        pod.create_with("c", &["/bin/garbage"], Options::default(), log).await.unwrap();
        let started = pod.client().start_container("c").await;
        assert!(matches!(started, Err(ClientError::Monitor(MonitorError::Launch(_)))), "{started:?}");
        let record = pod.exited().await;
        assert_eq!((record.exit, &record.started_at), (Exit::Code(128), &None));
        assert!(record.start_error.is_some());
        assert_eq!(pod.record("c"), record);
    });
}

#[test]
fn a_container_that_cannot_be_prepared_leaves_nothing() {
    run(async {
        let mut pod = Pod::new(STAY).await;
        fs::remove_dir_all(pod.path("layer/bin")).unwrap();
        let log = pod.directory("logs/c");
        let created = pod.create_with("c", &["nonexistent"], Options::default(), log).await;
        if created.is_ok() {
            pod.client().remove_container("c").await.unwrap();
        } else {
            assert!(matches!(created, Err(ClientError::Monitor(MonitorError::Launch(_)))), "{created:?}");
        }
        assert!(pod.client().snapshot().await.unwrap().containers.is_empty());
        assert_eq!(pod.processes().len(), 1, "only pause");
    });
}

#[test]
fn an_exit_without_a_brain_is_recorded_and_told_to_the_next() {
    // D41
    run(async {
        let mut pod = Pod::new(STAY).await;
        let created = pod.create("c", "exit 3", Options::default()).await;
        pod.start("d", "exec sleep 1000").await;
        pod.client().start_container("c").await.unwrap();
        pod.leave();
        wait_for_end(&created.pidfd);
        pod.reconnect().await;
        let snapshot = pod.client().snapshot().await.unwrap();
        assert_eq!(snapshot.sandbox.as_deref(), Some("sandbox"));
        let state = |id: &str| snapshot.containers.iter().find(|container| container.id == id).unwrap().clone().state;
        assert!(matches!(state("d"), ContainerState::Running { .. }));
        let ContainerState::Exited(record) = state("c") else {
            panic!("{:?}", state("c"));
        };
        assert_eq!(record.exit, Exit::Code(3));
        assert_eq!(pod.record("c"), record);
        pod.client().shutdown().await.unwrap();
        assert_eq!(pod.process.wait().await.unwrap(), Some(Exit::Code(0)));
        assert!(pod.processes().is_empty());
    });
}

#[test]
fn events_that_no_brain_took_come_after_hello() {
    run(async {
        let mut pod = Pod::new(STAY).await;
        pod.start("c", "read line < /dev/shm/never 2> /dev/null; exit 4").await;
        pod.leave();
        // The old connection has ended once the monitor answers on the new one.
        pod.reconnect().await;
        let record = match pod.events.try_recv() {
            Ok(Event::ContainerExited(record)) => record,
            _ => pod.exited().await,
        };
        assert_eq!((record.container.as_str(), record.exit), ("c", Exit::Code(4)));
    });
}

#[test]
fn a_pod_that_does_not_outlive_its_brain_ends_with_it() {
    run(async {
        let mut pod = Pod::new(WhenBrainDies::EndAfter { grace_ms: 600_000 }).await;
        let ready = pod.client().open_volume(SHM_VOLUME).await.unwrap();
        pod.start("obedient", "trap 'exit 5' TERM; echo up; while :; do sleep 0.01; done").await;
        while !fs::read_to_string(pod.path("logs/obedient/0.log")).unwrap().contains("up") {
            tokio::task::yield_now().await;
        }
        drop(ready);
        pod.leave();
        assert_eq!(pod.process.wait().await.unwrap(), Some(Exit::Code(0)));
        assert_eq!(pod.record("obedient").exit, Exit::Code(5));
    });
}

#[test]
fn a_container_that_ignores_term_is_killed_after_the_grace() {
    run(async {
        let mut pod = Pod::new(WhenBrainDies::EndAfter { grace_ms: 50 }).await;
        pod.start("deaf", "trap '' TERM; while :; do sleep 0.01; done").await;
        pod.leave();
        assert_eq!(pod.process.wait().await.unwrap(), Some(Exit::Code(0)));
        assert_eq!(pod.record("deaf").exit, Exit::Signal(9));
        assert!(pod.processes().is_empty());
    });
}

#[test]
fn a_monitor_without_a_sandbox_ends_with_its_brain() {
    run(async {
        let mut pod = Pod::without_sandbox().await;
        pod.leave();
        assert_eq!(pod.process.wait().await.unwrap(), Some(Exit::Code(0)));
    });
}

#[test]
fn what_the_first_process_leaves_behind_ends_with_it() {
    // TR11
    run(async {
        let mut pod = Pod::new(STAY).await;
        let options = Options { pid: PidNamespace::Sandbox, ..Options::default() };
        pod.create("c", "sleep 1000 & echo started", options).await;
        pod.client().start_container("c").await.unwrap();
        assert_eq!(pod.exited().await.exit, Exit::Code(0));
        assert_eq!(pod.processes().len(), 1, "only pause");
        assert_eq!(pod.log("c"), ["stdout F started"]);
    });
}

#[test]
fn a_writer_elsewhere_does_not_hold_up_the_end() {
    run(async {
        let mut pod = Pod::new(STAY).await;
        let created = pod.create("c", "exec sleep 1000", Options::default()).await;
        pod.client().start_container("c").await.unwrap();
        let mut leaked = File::options().write(true).open(format!("/proc/{}/fd/1", created.pid)).unwrap();
        pod.client().kill_container("c").await.unwrap();
        assert_eq!(pod.exited().await.exit, Exit::Signal(9));
        // The log goes on until the container is removed.
        leaked.write_all(b"late\n").unwrap();
        while pod.log("c") != ["stdout F late"] {
            tokio::task::yield_now().await;
        }
        pod.client().remove_container("c").await.unwrap();
        assert!(leaked.write_all(b"too late").is_err());
    });
}

#[test]
fn pause_has_no_rights_and_sees_nothing_of_the_host() {
    run(async {
        let pod = Pod::new(STAY).await;
        let pid = pod.client().snapshot().await.unwrap().pause_pid.unwrap();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        for line in [
            "Name:\tpause",
            "Uid:\t65535\t65535\t65535\t65535",
            "Gid:\t65535\t65535\t65535\t65535",
            "CapPrm:\t0000000000000000",
            "CapBnd:\t0000000000000000",
            "NoNewPrivs:\t1",
            "SigBlk:\t0000000000004002",
        ] {
            assert!(status.contains(line), "{line} in {status}");
        }
        let mounts = fs::read_to_string(format!("/proc/{pid}/mounts")).unwrap();
        assert_eq!(mounts.lines().count(), 1, "{mounts}");
        assert!(mounts.contains("none / tmpfs ro"), "{mounts}");
        assert_eq!(fs::read_dir(format!("/proc/{pid}/root")).unwrap().count(), 1);
        assert_eq!(fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count(), 3);
    });
}

#[test]
fn the_sandbox_has_its_sysctls_and_the_defaults() {
    // NS5, SY3
    run(async {
        let mut pod = Pod::new(STAY).await;
        pod.start("c", "cd /proc/sys/net/ipv4; cat tcp_syncookies ip_unprivileged_port_start ping_group_range").await;
        pod.exited().await;
        assert_eq!(pod.log("c"), ["stdout F 0", "stdout F 0", "stdout F 0\t2147483647"]);
    });
}

#[test]
fn an_exec_runs_inside_the_container() {
    run(async {
        let mut pod = Pod::new(STAY).await;
        pod.start("c", "exec sleep 1000").await;
        let mut fds = Descriptors::default();
        let mut spec = pod.exec_spec("c", "hostname; cat /proc/1/comm; readlink /proc/self/ns/pid; exit 9", &mut fds);
        let (mut reader, writer): (PipeReader, _) = std::io::pipe().unwrap();
        spec.stdout = fds.add(writer.into());
        let started = pod.client().exec(spec, fds).await.unwrap();
        let event = pod.event().await;
        assert!(matches!(&event, Event::ExecExited { id, exit: Exit::Code(9) } if id == "exec"), "{event:?}");
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("pod\nsleep\n"), "{text}");
        assert!(started.pid > 0 && started.terminal.is_none());
    });
}

#[test]
fn an_exec_with_a_terminal_brings_its_master() {
    run(async {
        let mut pod = Pod::new(STAY).await;
        pod.start("c", "exec sleep 1000").await;
        let mut fds = Descriptors::default();
        let mut spec = pod.exec_spec("c", "tty; read line; echo got $line", &mut fds);
        spec.terminal = true;
        spec.process = fds.add(pod.terminal_plan("tty; read line; echo got $line")).unwrap();
        let started = pod.client().exec(spec, fds).await.unwrap();
        let mut master = File::from(started.terminal.unwrap());
        master.write_all(b"x\n").unwrap();
        let event = pod.event().await;
        assert!(matches!(event, Event::ExecExited { exit: Exit::Code(0), .. }), "{event:?}");
        // EIO is the end of a terminal.
        let mut text = Vec::new();
        let _end = master.read_to_end(&mut text);
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("/dev/pts/") && text.contains("got x"), "{text}");
    });
}

#[test]
fn a_killed_exec_is_told_and_the_container_goes_on() {
    run(async {
        let mut pod = Pod::new(STAY).await;
        pod.start("c", "exec sleep 1000").await;
        let mut fds = Descriptors::default();
        let spec = pod.exec_spec("c", "sleep 1000; true", &mut fds);
        pod.client().exec(spec, fds).await.unwrap();
        assert_eq!(pod.client().snapshot().await.unwrap().execs, ["exec"]);
        pod.client().kill_exec("exec").await.unwrap();
        let event = pod.event().await;
        assert!(matches!(event, Event::ExecExited { exit: Exit::Signal(9), .. }), "{event:?}");
        let snapshot = pod.client().snapshot().await.unwrap();
        assert!(matches!(snapshot.containers[0].state, ContainerState::Running { .. }));
    });
}

#[test]
fn a_container_with_a_terminal_logs_what_it_prints() {
    run(async {
        let mut pod = Pod::new(STAY).await;
        pod.create("c", "tty; echo two", Options { terminal: true, ..Options::default() }).await;
        pod.client().start_container("c").await.unwrap();
        assert_eq!(pod.exited().await.exit, Exit::Code(0));
        let log = pod.log("c");
        assert_eq!(log.len(), 2, "{log:?}");
        assert!(log[0].starts_with("stdout F /dev/"), "{log:?}");
        assert_eq!(log[1], "stdout F two\r");
    });
}

#[test]
fn volumes_are_kept_and_opened_and_invisible_outside() {
    run(async {
        let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let pod = Pod::new(STAY).await;
        let shm = pod.client().open_volume(SHM_VOLUME).await.unwrap();
        assert_eq!(rustix::fs::fstat(&shm).unwrap().st_mode & 0o7777, 0o1777);
        let mount = tmpfs("64k");
        create(&mount, "file");
        pod.client().keep_volume("v", mount).await.unwrap();
        pod.client().keep_volume("v", tmpfs("64k")).await.unwrap();
        let kept = pod.client().open_volume("v").await.unwrap();
        assert!(rustix::fs::statat(&kept, "file", AtFlags::empty()).is_ok());
        let missing = pod.client().open_volume("w").await;
        assert!(matches!(missing, Err(ClientError::Monitor(MonitorError::NotFound { .. }))), "{missing:?}");
        assert_eq!(pod.client().snapshot().await.unwrap().volumes, [SHM_VOLUME, "v"]);
        assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
    });
}

#[test]
fn a_full_disk_blocks_the_log_and_loses_nothing() {
    // D42, F05
    run(async {
        let mut pod = Pod::new(STAY).await;
        let disk = tmpfs("256k");
        create(&disk, "filler").write_all(&vec![0; 200 << 10]).unwrap();
        let log = open_directory(&disk);
        pod.create_with("c", &["/bin/seq", "1", "3000"], Options::default(), log).await.unwrap();
        pod.client().start_container("c").await.unwrap();
        let (mut blocked, mut exited) = (false, false);
        while !(blocked && exited) {
            match pod.event().await {
                Event::LogBlocked { cause, .. } => {
                    assert!(cause.contains("space"), "{cause}");
                    blocked = true;
                }
                Event::ContainerExited(record) => exited = record.exit == Exit::Code(0),
                other @ (Event::ExecExited { .. } | Event::SandboxExited { .. } | Event::LogResumed { .. }) => {
                    panic!("{other:?}")
                }
            }
        }
        rustix::fs::unlinkat(&disk, "filler", AtFlags::empty()).unwrap();
        let resumed = pod.event().await;
        assert!(matches!(resumed, Event::LogResumed { .. }), "{resumed:?}");
        let text = drained(&pod, &disk).await;
        let lines: Vec<String> = text.lines().map(|line| line[40..].to_owned()).collect();
        let expected: Vec<String> = (1..=3000).map(|number: u32| number.to_string()).collect();
        assert_eq!(lines, expected);
    });
}

#[test]
fn a_flood_is_rotated_at_the_limit() {
    // LF3
    run(async {
        let mut pod = Pod::new(STAY).await;
        let max_bytes = 100_000;
        pod.create("c", "yes 123456789 | head -n 20000", Options { max_bytes, ..Options::default() }).await;
        pod.client().start_container("c").await.unwrap();
        pod.exited().await;
        let record = 40 + 10;
        let mut files: Vec<_> = fs::read_dir(pod.path("logs/c")).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        let sizes: Vec<u64> = files.iter().map(|path| fs::metadata(path).unwrap().len()).collect();
        assert_eq!(sizes.len(), 5, "{files:?}");
        assert!(sizes[1..].iter().all(|size| *size == max_bytes / record * record), "{sizes:?}");
    });
}

#[test]
fn many_rounds_leave_nothing() {
    const ROUNDS: u32 = 300;
    run(async {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mut pod = Pod::new(STAY).await;
        let mut after_warm_up = None;
        for round in 0..ROUNDS {
            let created = pod.create("c", "exec true", Options::default()).await;
            assert!(created.pid > 0);
            pod.client().start_container("c").await.unwrap();
            assert_eq!(pod.exited().await.exit, Exit::Code(0));
            pod.client().remove_container("c").await.unwrap();
            if round == ROUNDS / 3 {
                after_warm_up = Some(held(&pod));
            }
        }
        assert_eq!(Some(held(&pod)), after_warm_up);
        assert_eq!(pod.processes().len(), 1, "only pause");
        assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), mounts);
    });
}

/// What a pod costs and how long the monitor takes; run by hand in an optimised build.
#[test]
#[ignore = "a measurement, not a check"]
fn figures() {
    run(async {
        let mut pod = Pod::new(STAY).await;
        println!("monitor started and greeted: {:?}", pod.spawned_in);
        for id in ["a", "b", "c"] {
            let begin = std::time::Instant::now();
            pod.create(id, "exec sleep 1000", Options::default()).await;
            let created = begin.elapsed();
            pod.client().start_container(id).await.unwrap();
            println!("created after {created:?}, started after {:?}", begin.elapsed());
        }
        wait_until_quiet(pod.client().pid);
        let memory = fs::read_to_string(format!("/proc/{}/smaps_rollup", pod.client().pid)).unwrap();
        println!("{memory}");
        let block = ("x".repeat(127) + "\n").repeat(32);
        fs::write(pod.path("layer/flood"), block.repeat(200_000_000 / block.len())).unwrap();
        let before = cpu_ticks(pod.client().pid);
        let begin = std::time::Instant::now();
        let options = Options { max_bytes: u64::MAX, ..Options::default() };
        pod.create("flood", "exec dd if=/flood bs=4096 2> /dev/null", options).await;
        pod.client().start_container("flood").await.unwrap();
        assert_eq!(pod.exited().await.exit, Exit::Code(0));
        println!("200 MB in {:?}, {} ticks of 10 ms", begin.elapsed(), cpu_ticks(pod.client().pid) - before);
        println!("log of {} bytes", fs::metadata(pod.path("logs/flood/0.log")).unwrap().len());
    });
}
