//! The rows of section 11.2 that need cgroup controllers: memory, processors, oom_score_adj.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::life_watch::{Line, OBEDIENT, Watch, cgroups_of, measured, pod, processes_of, sh, uid, with};
use crate::run::{manifest, with_images};
use crate::serve::wait_until;
use crate::{Test, tests};

pub fn tests() -> Vec<Test> {
    tests![Vm: a_container_over_its_memory_limit_is_killed_whole, the_neighbour_of_an_eater_lives_on,
        processors_are_shared_as_requested, manifest_04_is_limited_as_it_says, what_asks_for_little_memory_goes_first]
}

/// The directory of a pod and that of one of its containers.
fn cgroups(line: &Line, container: &str) -> Result<(PathBuf, PathBuf)> {
    let pod = cgroups_of(uid(line)?).into_iter().next().context("the pod has no cgroup")?;
    let leaf = pod.join(id_of(line, container)?);
    Ok((pod, leaf))
}

/// What is behind `containerID`'s scheme.
fn id_of(line: &Line, container: &str) -> Result<String> {
    let id = line.container(container).and_then(|status| status["containerID"].as_str()).context("containerID")?;
    Ok(id.rsplit('/').next().unwrap_or_default().to_owned())
}

fn read(path: PathBuf) -> Result<String> {
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    Ok(text.trim_end().to_owned())
}

/// CG6, OM1
fn a_container_over_its_memory_limit_is_killed_whole() -> Result<()> {
    with_images(&["busybox"], || {
        let resources = json!({"resources": {"limits": {"memory": "64Mi"}}});
        let script = "sleep 1000 & sleep 1000 & tail /dev/zero & wait $!; exit 0";
        let spec = json!({"restartPolicy": "Never", "containers": [with(sh("c", script), resources)]});
        let mut watch = Watch::start(&[pod("oom", spec)])?;
        let ended = watch.until("the end", |line| line.is_terminated("c"))?;
        let left = processes_of(&id_of(&ended, "c")?)?;
        let state = ended.container("c").context("c")?["state"]["terminated"].clone();
        println!("measured: limit 64Mi: {} {}, {} processes left", state["reason"], state["exitCode"], left.len());
        ensure!(state["reason"] == "OOMKilled" && state["exitCode"] == 137, "{state}");
        ensure!(left.is_empty(), "left behind: {left:?}");
        watch.wait()?;
        Ok(())
    })
}

/// Founding manifest 12: CG6, CB2.
fn the_neighbour_of_an_eater_lives_on() -> Result<()> {
    with_images(&["busybox"], || {
        let text = std::fs::read_to_string(manifest("12-oom.yaml"))?;
        let mut watch = Watch::start_text(&[], &text, ".yaml")?;
        let again = watch.until("the restart", |line| line.is_running("eater") && line.restarts("eater") == Some(1))?;
        let last = again.container("eater").context("eater")?["lastState"]["terminated"].clone();
        ensure!(last["reason"] == "OOMKilled" && last["exitCode"] == 137, "{last}");
        ensure!(again.is_running("neighbour") && again.restarts("neighbour") == Some(0), "{again:?}");
        watch.signal(rustix::process::Signal::INT)?;
        watch.delete()?;
        Ok(())
    })
}

/// CG2 to CG4
fn processors_are_shared_as_requested() -> Result<()> {
    with_images(&["busybox"], || {
        let resources = json!({"resources": {"requests": {"cpu": "250m"}, "limits": {"cpu": "500m"}}});
        // With half a processor the shell may not have got to its trap when it is asked to end.
        let spec = json!({"terminationGracePeriodSeconds": 1, "containers": [with(sh("c", OBEDIENT), resources)]});
        let mut watch = Watch::start(&[pod("cpu", spec)])?;
        let up = watch.until("the start", |line| line.is_running("c"))?;
        let (pod, leaf) = cgroups(&up, "c")?;
        let found = [pod.join("cpu.max"), pod.join("cpu.weight"), leaf.join("cpu.max"), leaf.join("cpu.weight")];
        let found = found.into_iter().map(read).collect::<Result<Vec<_>>>()?;
        println!("measured: cpu.max and cpu.weight of pod and container: {found:?}");
        ensure!(found == ["50000 100000", "35", "50000 100000", "35"], "{found:?}");
        watch.delete()?;
        Ok(())
    })
}

/// Founding manifest 04: its `resources` in the files that enforce them (CG2 to CG6).
fn manifest_04_is_limited_as_it_says() -> Result<()> {
    const FILES: &[(&str, &str)] =
        &[("memory.max", "536870912"), ("memory.oom.group", "1"), ("cpu.max", "100000 100000"), ("cpu.weight", "35")];
    with_images(&["busybox"], || {
        let text = std::fs::read_to_string(manifest("04-full-pod.yaml"))?;
        let mut watch = Watch::start_text(&[], &text, ".yaml")?;
        let ready = watch.until("readiness", |line| {
            line.container("app").is_some_and(|status| status["ready"] == true && status["started"] == true)
        })?;
        let (pod, leaf) = cgroups(&ready, "app")?;
        for (file, expected) in FILES {
            let found = read(leaf.join(file))?;
            ensure!(found == *expected, "{file} of the container is {found:?}, not {expected:?}");
        }
        // The init container has no limits: CG4, CG5.
        let found = ["memory.max", "cpu.max", "cpu.weight"].map(|file| read(pod.join(file)).unwrap_or_default());
        ensure!(found == ["max", "max 100000", "35"], "the pod's limits are {found:?}");
        // Its server is PID 1 and ignores TERM: the second signal ends it.
        watch.signal(rustix::process::Signal::INT)?;
        watch.delete()?;
        Ok(())
    })
}

/// OO2: 1000 minus the request's share of the node's memory in thousandths.
fn what_asks_for_little_memory_goes_first() -> Result<()> {
    with_images(&["busybox"], || {
        let resources = json!({"resources": {"requests": {"memory": "256Mi"}}});
        let mut watch = Watch::start(&[pod("score", json!({"containers": [with(sh("c", OBEDIENT), resources)]}))])?;
        let up = watch.until("the start", |line| line.is_running("c"))?;
        let (process, _) = processes_of(&id_of(&up, "c")?)?.into_iter().next().context("no process")?;
        let found = read(format!("/proc/{}/oom_score_adj", process.as_raw_nonzero()).into())?;
        let memory = read("/proc/meminfo".into())?;
        let memory = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")).context("MemTotal")?;
        let memory = memory.trim().trim_end_matches(" kB").parse::<u64>()? * 1024;
        let expected = 1000 - 1000 * (256 << 20) / memory;
        println!("measured: oom_score_adj {found} of 256Mi in {memory} bytes (985 in 16 GiB)");
        ensure!(found == expected.to_string(), "oom_score_adj is {found}, not {expected}");
        wait_until("it listens to TERM", || catches_term(process).then_some(()))?;
        let stopped = std::time::Instant::now();
        watch.delete()?;
        measured("deletion of an obedient pod", stopped.elapsed(), Duration::ZERO..=Duration::from_secs(5))
    })
}

/// Whether a process has a handler for the signal: `SigCgt` of proc_pid_status(5).
fn catches_term(process: rustix::process::Pid) -> bool {
    const TERM: u64 = 1 << (rustix::process::Signal::TERM.as_raw() - 1);
    let status = read(format!("/proc/{}/status", process.as_raw_nonzero()).into()).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    caught.is_some_and(|mask| u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & TERM != 0))
}
