//! The life of pods of real processes: the rows of section 11.2 that need neither cgroup controllers nor an API.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use serde_json::json;

use crate::life_watch::{
    Line, OBEDIENT, STUBBORN, Shared, Watch, cgroups_of, measured, mounting, pod, process_of, seconds, sh, uid, with,
};
use crate::run::with_images;
use crate::{Test, tests};

pub fn tests() -> Vec<Test> {
    tests![Host: sidecars_start_before_the_app_and_stop_after_it_in_reverse, a_probe_that_fails_restarts_its_container,
        an_unready_container_makes_its_pod_unready, a_failed_init_container_fails_a_pod_that_never_restarts,
        a_crashing_init_container_keeps_its_pod_pending, init_containers_are_counted, the_end_of_a_message_is_kept,
        the_end_of_the_log_stands_in_for_a_message, variables_refer_to_earlier_ones,
        a_killed_sandbox_is_made_anew, hosts_and_resolv_conf_follow_the_dns_policy,
        the_log_of_the_instance_before_is_kept, the_slow_rows]
}

/// IN2, TR3.
fn sidecars_start_before_the_app_and_stop_after_it_in_reverse() -> Result<()> {
    with_images(&["busybox"], || {
        let shared = Shared::new()?;
        let one = |name: &str| {
            let script = format!(
                "trap 'echo {name} >> /shared/ends; exit 0' TERM; echo {name} >> /shared/starts; sleep 1000 & wait"
            );
            let hook = json!({"preStop": {"exec": {"command": ["touch", format!("/shared/stop-{name}")]}}});
            with(mounting(sh(name, &script)), json!({"lifecycle": hook}))
        };
        let sidecar = |name: &str| with(one(name), json!({"restartPolicy": "Always"}));
        let spec = json!({"initContainers": [sidecar("a"), sidecar("b")], "containers": [one("app")],
            "volumes": [shared.volume()]});
        let mut watch = Watch::start(&[pod("order", spec)])?;
        watch.until("the app", |line| line.is_running("app"))?;
        // The scripts are a moment behind their processes.
        wait_for_lines(&shared, "starts", 3)?;
        let deleted = SystemTime::now();
        watch.delete()?;
        ensure!(shared.read("starts")? == "a\nb\napp\n", "started: {:?}", shared.read("starts")?);
        ensure!(shared.read("ends")? == "app\nb\na\n", "ended: {:?}", shared.read("ends")?);
        for name in ["a", "b", "app"] {
            let after = shared.written_at(&format!("stop-{name}"))?.duration_since(deleted).unwrap_or_default();
            measured(&format!("deletion to preStop of {name}"), after, Duration::ZERO..=Duration::from_millis(100))?;
        }
        Ok(())
    })
}

/// A file in memory is written in no time; this is no place to wait in.
fn wait_for_lines(shared: &Shared, name: &str, count: usize) -> Result<()> {
    let started = std::time::Instant::now();
    while shared.read(name).unwrap_or_default().lines().count() < count {
        ensure!(started.elapsed() < Duration::from_secs(10), "{name} never had {count} lines");
        std::thread::yield_now();
    }
    Ok(())
}

/// PR8, PR11: three failures, one period apart, from the first tick on.
fn a_probe_that_fails_restarts_its_container() -> Result<()> {
    with_images(&["busybox"], || {
        let probe = json!({"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 3});
        let spec = json!({"containers": [with(sh("c", OBEDIENT), json!({"livenessProbe": probe}))]});
        let mut watch = Watch::start(&[pod("live", spec)])?;
        let first = watch.until("the first failure", |line| line.is_event("Unhealthy"))?;
        let killing = watch.until("the kill", |line| line.is_event("Killing"))?;
        ensure!(killing.object["message"] == "Container c failed liveness probe, will be restarted");
        let failures = watch.count(|line| line.is_event("Unhealthy") && line.at <= killing.at);
        ensure!(failures == 3, "{failures} failures before the kill");
        let span = killing.at.duration_since(first.at);
        measured("first failure to kill", span, Duration::from_millis(1900)..=Duration::from_millis(2300))?;
        watch.until("the restart", |line| line.is_running("c") && line.restarts("c") == Some(1))?;
        watch.delete()?;
        Ok(())
    })
}

/// CO4, CO5, PR9.
fn an_unready_container_makes_its_pod_unready() -> Result<()> {
    with_images(&["busybox"], || {
        let probe = json!({"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 1});
        let spec = json!({"containers": [with(sh("c", OBEDIENT), json!({"readinessProbe": probe}))]});
        let mut watch = Watch::start(&[pod("unready", spec)])?;
        watch.until("a failure", |line| line.is_event("Unhealthy"))?;
        let shown = watch.last("unready")?;
        let expected = "False ContainersNotReady containers with unready status: [c]";
        ensure!(shown.phase() == Some("Running") && shown.is_running("c"), "{shown:?}");
        for kind in ["Ready", "ContainersReady"] {
            ensure!(shown.condition(kind).as_deref() == Some(expected), "{kind}: {:?}", shown.condition(kind));
        }
        ensure!(shown.container("c").context("c")?["ready"] == false);
        watch.delete()?;
        Ok(())
    })
}

/// What `kubectl get pods --watch` would have shown of a run that ends by itself or after `limit`.
fn rows(limit: &str, object: &serde_json::Value) -> Result<(Option<i32>, Vec<String>)> {
    let file = crate::run::written(&object.to_string())?;
    let output =
        crate::host::binary("monopod")?.args(["run", "--output=pods", "--for", limit]).arg(file.path()).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let rows = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    Ok((output.status.code(), rows.collect()))
}

/// PH1, section 1.6.
fn a_failed_init_container_fails_a_pod_that_never_restarts() -> Result<()> {
    with_images(&["busybox"], || {
        let spec =
            json!({"restartPolicy": "Never", "initContainers": [sh("i", "exit 3")], "containers": [sh("c", "")]});
        let object = pod("broken", spec);
        let mut watch = Watch::start(std::slice::from_ref(&object))?;
        let status = watch.wait()?;
        ensure!(status.code() == Some(3), "{status}");
        let shown = watch.last("broken")?;
        ensure!(shown.phase() == Some("Failed"), "{shown:?}");
        ensure!(shown.container("i").context("i")?["state"]["terminated"]["exitCode"] == 3, "{shown:?}");
        ensure!(watch.count(|line| line.is_running("c")) == 0, "the app ran");
        let (_, rows) = rows("10s", &object)?;
        ensure!(rows.iter().any(|row| row == "broken 0/1 Init:Error 0"), "{rows:?}");
        Ok(())
    })
}

/// PH7: the first restart comes at once, the second waits.
fn a_crashing_init_container_keeps_its_pod_pending() -> Result<()> {
    with_images(&["busybox"], || {
        let spec = json!({"initContainers": [sh("i", "exit 1")], "containers": [sh("c", "")]});
        let object = pod("looping", spec);
        let mut watch = Watch::start(std::slice::from_ref(&object))?;
        let shown = watch.until("the back-off", |line| line.waits_for("i") == Some("CrashLoopBackOff"))?;
        ensure!(shown.phase() == Some("Pending"), "{shown:?}");
        let message = shown.container("i").context("i")?["state"]["waiting"]["message"].clone();
        let expected = format!("back-off 10s restarting failed container=i pod=looping_default({})", uid(&shown)?);
        ensure!(message == expected.as_str(), "{message}");
        watch.delete()?;
        let (_, rows) = rows("1s", &object)?;
        let row = |row: &&String| row.starts_with("looping 0/1 Init:CrashLoopBackOff 1 (");
        ensure!(rows.iter().any(|line| row(&line)), "{rows:?}");
        Ok(())
    })
}

/// Section 1.6.
fn init_containers_are_counted() -> Result<()> {
    with_images(&["busybox"], || {
        let spec = json!({"initContainers": [sh("one", ""), sh("two", OBEDIENT)], "containers": [sh("c", "")]});
        let (_, rows) = rows("1s", &pod("counted", spec))?;
        ensure!(rows.iter().any(|row| row == "counted 0/1 Init:1/2 0"), "{rows:?}");
        Ok(())
    })
}

/// The message of the only container of a pod that ended.
fn message_of(container: serde_json::Value) -> Result<String> {
    let spec = json!({"restartPolicy": "Never", "containers": [container]});
    let mut watch = Watch::start(&[pod("message", spec)])?;
    watch.wait()?;
    let shown = watch.last("message")?;
    let ended = &shown.container("c").context("c")?["state"]["terminated"];
    Ok(ended["message"].as_str().with_context(|| format!("no message in {ended}"))?.to_owned())
}

/// VO59
fn the_end_of_a_message_is_kept() -> Result<()> {
    with_images(&["busybox"], || {
        let script = "i=0; while [ $i -lt 500 ]; do printf '%09d ' $i; i=$((i+1)); done > /dev/termination-log";
        let message = message_of(sh("c", script))?;
        println!("measured: of 5000 bytes the last {} are kept", message.len());
        let all: String = (0..500).map(|i| format!("{i:09} ")).collect();
        ensure!(Some(message.as_str()) == all.get(5000 - 4096..), "{message}");
        Ok(())
    })
}

/// VO60
fn the_end_of_the_log_stands_in_for_a_message() -> Result<()> {
    with_images(&["busybox"], || {
        let policy = json!({"terminationMessagePolicy": "FallbackToLogsOnError"});
        let short = "i=0; while [ $i -lt 100 ]; do echo $i; i=$((i+1)); done; exit 1";
        let message = message_of(with(sh("c", short), policy.clone()))?;
        let expected: String = (20..100).map(|i| format!("{i}\n")).collect();
        println!("measured: of 100 short lines the last {} are kept", message.lines().count());
        ensure!(message == expected, "{message:?}");
        let long = "i=0; while [ $i -lt 100 ]; do printf '%099d\\n' $i; i=$((i+1)); done; exit 1";
        let message = message_of(with(sh("c", long), policy))?;
        println!("measured: of 100 long lines the last {} bytes are kept", message.len());
        ensure!(message.len() == 2048 && message.ends_with("99\n"), "{message:?}");
        Ok(())
    })
}

/// EN7, EN8
fn variables_refer_to_earlier_ones() -> Result<()> {
    with_images(&["busybox"], || {
        let env = [("A", "1"), ("B", "$(A)2"), ("C", "$(D)"), ("D", "x"), ("E", "$$(A)")];
        let env = env.map(|(name, value)| json!({"name": name, "value": value}));
        let script = "echo \"$B|$C|$E\" > /dev/termination-log";
        let message = message_of(with(sh("c", script), json!({"env": env})))?;
        println!("measured: {}", message.trim());
        ensure!(message == "12|$(D)|$(A)\n", "{message:?}");
        Ok(())
    })
}

/// IN8
fn a_killed_sandbox_is_made_anew() -> Result<()> {
    with_images(&["busybox"], || {
        let shared = Shared::new()?;
        let init = mounting(sh("i", "echo init >> /shared/runs"));
        let spec = json!({"initContainers": [init], "containers": [sh("c", OBEDIENT)], "volumes": [shared.volume()],
            "terminationGracePeriodSeconds": 2});
        let mut watch = Watch::start(&[pod("sandbox", spec)])?;
        let up = watch.until("the app", |line| line.is_running("c"))?;
        rustix::process::kill_process(process_of("pause", uid(&up)?)?, Signal::KILL)?;
        watch.until("the news", |line| {
            line.says("SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
        })?;
        let again = watch.until("the new instance", |line| line.is_running("c") && line.restarts("c") == Some(1))?;
        measured("pause's end to the new instance", again.at - up.at, Duration::ZERO..=Duration::from_secs(4))?;
        ensure!(again.restarts("i") == Some(1), "init containers run again: {again:?}");
        ensure!(shared.read("runs")? == "init\ninit\n", "{:?}", shared.read("runs")?);
        watch.delete()?;
        ensure!(cgroups_of(uid(&up)?).is_empty(), "left behind: {:?}", cgroups_of(uid(&up)?));
        Ok(())
    })
}

/// LG2: `kubectl logs --previous` reads this file.
fn the_log_of_the_instance_before_is_kept() -> Result<()> {
    with_images(&["busybox"], || {
        let shared = Shared::new()?;
        let script =
            "echo again >> /shared/n; n=$(wc -l < /shared/n); echo instance $n; [ $n -ge 2 ] && sleep 1000; exit 1";
        let spec = json!({"containers": [mounting(sh("c", script))], "volumes": [shared.volume()],
            "terminationGracePeriodSeconds": 1});
        let mut watch = Watch::start(&[pod("logs", spec)])?;
        let line = watch.until("the restart", |line| line.is_running("c") && line.restarts("c") == Some(1))?;
        let file = format!("/var/log/pods/default_logs_{}/c/0.log", uid(&line)?);
        let text = std::fs::read_to_string(&file).with_context(|| format!("read {file}"))?;
        ensure!(text.ends_with(" stdout F instance 1\n"), "{text:?}");
        // LF1
        let links = std::fs::read_dir("/var/log/containers")?.flatten();
        let links = links.filter(|link| link.file_name().to_string_lossy().starts_with("logs_default_c-"));
        let logs: Vec<_> = links.filter_map(|link| std::fs::read_link(link.path()).ok()).collect();
        ensure!(logs.iter().any(|log| log.ends_with("c/1.log")), "{logs:?}");
        watch.delete()?;
        Ok(())
    })
}

/// Sections 8.2 and 8.3: byte for byte, for each policy.
fn hosts_and_resolv_conf_follow_the_dns_policy() -> Result<()> {
    with_images(&["busybox"], || {
        std::fs::write("/tmp/resolv.conf", "search example.test\nnameserver 192.0.2.53\noptions ndots:2\n")?;
        rustix::mount::mount_bind("/tmp/resolv.conf", "/etc/resolv.conf")?;
        let config = json!({"nameservers": ["192.0.2.99"], "searches": ["own.test"],
            "options": [{"name": "ndots", "value": "3"}]});
        let node = "search example.test\nnameserver 192.0.2.53\noptions ndots:2\n";
        for (policy, host_network, config, expected) in [
            ("ClusterFirst", false, None, node),
            ("Default", false, None, node),
            ("ClusterFirstWithHostNet", true, None, node),
            ("None", false, Some(config), "search own.test\nnameserver 192.0.2.99\noptions ndots:3\n"),
        ] {
            let spec = json!({"dnsPolicy": policy, "dnsConfig": config, "hostNetwork": host_network});
            let (resolv, hosts, shown) = files_of(spec)?;
            ensure!(resolv == expected, "{policy}: {resolv:?}");
            let expected = if host_network {
                format!("# Kubernetes-managed hosts file (host network).\n{}", std::fs::read_to_string("/etc/hosts")?)
            } else {
                let ips = shown.object["status"]["podIPs"].as_array().context("podIPs")?;
                let own = ips.iter().filter_map(|ip| Some(format!("{}\tdns\n", ip["ip"].as_str()?)));
                format!("{HOSTS}{}", own.collect::<String>())
            };
            ensure!(hosts == expected, "{policy}: {hosts:?} instead of {expected:?}");
        }
        rustix::mount::unmount("/etc/resolv.conf", rustix::mount::UnmountFlags::DETACH)?;
        Ok(())
    })
}

/// What every pod's hosts file begins with.
const HOSTS: &str = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n\
    ::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\n\
    fe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n";

/// `/etc/resolv.conf` and `/etc/hosts` of a pod, and the pod.
fn files_of(spec: serde_json::Value) -> Result<(String, String, Line)> {
    let shared = Shared::new()?;
    let container = mounting(sh("c", "cp /etc/resolv.conf /etc/hosts /shared"));
    let spec = with(spec, json!({"restartPolicy": "Never", "containers": [container], "volumes": [shared.volume()]}));
    let mut watch = Watch::start(&[pod("dns", spec)])?;
    watch.wait()?;
    Ok((shared.read("resolv.conf")?, shared.read("hosts")?, watch.last("dns")?.clone()))
}

/// What takes its time, side by side, each on a host of its own.
fn the_slow_rows() -> Result<()> {
    let rows = tests![Host: exits_are_followed_by_growing_gaps, a_hook_s_time_is_part_of_the_grace,
        a_short_grace_is_two_seconds];
    std::thread::scope(|scope| {
        let threads: Vec<_> = rows.into_iter().map(|row| (row.name(), scope.spawn(row.run))).collect();
        threads.into_iter().try_for_each(|(name, thread)| match thread.join() {
            Ok(done) => done.context(name),
            Err(_) => anyhow::bail!("{name} panicked"),
        })
    })
}

/// CB2, CB3, CB5: the first three gaps; the longer ones and the reset are the machine's unit tests' and the simulator's.
fn exits_are_followed_by_growing_gaps() -> Result<()> {
    with_images(&["busybox"], || {
        // One that ends at once may have ended before anybody is told that it runs.
        let mut watch = Watch::start(&[pod("loop", json!({"containers": [sh("c", "sleep 0.3")]}))])?;
        let mut ended = watch.until("the first end", |line| has_ended(line, 0) || line.restarts("c") == Some(1))?;
        for (restart, gap) in [(1_u64, 0), (2, 10), (3, 20)] {
            let started = watch.until("a start", |line| line.is_running("c") && line.restarts("c") == Some(restart))?;
            let span = started.at.duration_since(ended.at);
            // CB8: at most a second late.
            let bounds = Duration::from_secs(gap)..=Duration::from_secs(gap + 1);
            measured(&format!("exit to restart {restart}"), span, bounds)?;
            ended = watch.until("its end", |line| has_ended(line, restart))?;
        }
        watch.delete()?;
        Ok(())
    })
}

/// Instance `restart` of `c` is over.
fn has_ended(line: &Line, restart: u64) -> bool {
    line.restarts("c") == Some(restart) && !line.is_running("c") && line.waits_for("c").is_some()
}

/// 2.4, steps 3 and 4: 8 s of hook leave 2 s of 10.
fn a_hook_s_time_is_part_of_the_grace() -> Result<()> {
    with_images(&["busybox"], || {
        let hook = json!({"preStop": {"sleep": {"seconds": 8}}});
        let spec = json!({"containers": [with(sh("c", STUBBORN), json!({"lifecycle": hook}))],
            "terminationGracePeriodSeconds": 10});
        let span = time_to_kill(spec)?;
        measured("deletion to SIGKILL, grace 10, hook 8", span, seconds(9.9)..=seconds(10.4))
    })
}

/// 2.4, step 4
fn a_short_grace_is_two_seconds() -> Result<()> {
    with_images(&["busybox"], || {
        let spec = json!({"containers": [sh("c", STUBBORN)], "terminationGracePeriodSeconds": 1});
        measured("deletion to SIGKILL, grace 1", time_to_kill(spec)?, seconds(1.9)..=seconds(2.4))
    })
}

/// From the deletion of a pod to the end of its container by SIGKILL.
fn time_to_kill(spec: serde_json::Value) -> Result<Duration> {
    let mut watch = Watch::start(&[pod("stubborn", spec)])?;
    watch.until("the start", |line| line.is_running("c"))?;
    watch.delete()?;
    let ended = watch.when("the end", |line| line.is_terminated("c"))?;
    let code = watch.last("stubborn")?.container("c").context("c")?["state"]["terminated"]["exitCode"].clone();
    ensure!(code == 137, "exit code {code}");
    Ok(ended.duration_since(watch.asked.context("deleted")?))
}
