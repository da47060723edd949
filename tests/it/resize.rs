//! In-place resize against `monopod serve` (section 5.10). Where the host has cgroup controllers, their files are read.

use std::path::{Path, PathBuf};
use std::process::Output;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::serve::{Daemon, wait_until, with_busybox};
use crate::{Test, ask, host, tests};

pub fn tests() -> Vec<Test> {
    tests![Host: a_resize_reaches_a_container_that_runs_on, a_resize_that_wants_a_restart_counts_one,
        a_resize_that_does_not_fit_waits_or_stays_away, an_allocation_outlives_the_daemon]
}

fn monopod(arguments: &[&str]) -> Result<Output> {
    Ok(host::binary("monopod")?.args(arguments).output()?)
}

/// A pod of one container with this amount of cpu, and how it wants to be resized.
fn create(name: &str, cpu_milli: u64, policy: &str) -> Result<()> {
    let cpu = format!("{cpu_milli}m");
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
        "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "image": "busybox", "imagePullPolicy": "Never",
            "command": ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1 & wait; done"],
            "resizePolicy": [{"resourceName": "cpu", "restartPolicy": policy}],
            "resources": {"requests": {"cpu": cpu, "memory": "32Mi"}, "limits": {"memory": "64Mi"}}}]}});
    let path = format!("/run/{name}.json");
    std::fs::write(&path, pod.to_string())?;
    wait_until("the pod is taken", || {
        monopod(&["create", "-f", &path]).ok().filter(|output| output.status.success()).map(drop)
    })
}

fn resize(name: &str, cpu_milli: u64, memory: &str) -> Result<()> {
    let resources = json!({"requests": {"cpu": format!("{cpu_milli}m")}, "limits": {"memory": memory}});
    let patch = json!({"spec": {"containers": [{"name": "c", "resources": resources}]}}).to_string();
    let output = monopod(&["patch", "pod", name, "--subresource", "resize", "-p", &patch])?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn container(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]
}

fn condition(pod: &Value, kind: &str) -> Option<Value> {
    pod["status"]["conditions"].as_array()?.iter().find(|own| own["type"] == kind).cloned()
}

fn running(name: &str) -> Result<Value> {
    wait_until("the container runs", || ask::pod(name).filter(|pod| container(pod)["state"]["running"].is_object()))
}

/// The container runs with these requests, and nothing is left to do.
fn resized(name: &str, cpu_milli: u64) -> Result<Value> {
    let cpu = format!("{cpu_milli}m");
    wait_until("the resize is done", || {
        ask::pod(name).filter(|pod| {
            let own = container(pod);
            own["resources"]["requests"]["cpu"] == *cpu
                && own["allocatedResources"]["cpu"] == *cpu
                && own["state"]["running"].is_object()
                && condition(pod, "PodResizePending").is_none()
                && condition(pod, "PodResizeInProgress").is_none()
        })
    })
}

fn pending(name: &str, reason: &str) -> Result<Value> {
    wait_until("the resize is refused", || {
        ask::pod(name).filter(|pod| condition(pod, "PodResizePending").is_some_and(|own| own["reason"] == reason))
    })
}

/// What a file of the container's cgroup holds; none where there are no controllers.
fn cgroup_file(pod: &Value, name: &str) -> Option<String> {
    let id = container(pod)["containerID"].as_str()?.rsplit('/').next()?.to_owned();
    let uid = format!("pod{}", pod["metadata"]["uid"].as_str()?);
    let dirs = ["kubepods/burstable", "kubepods", "kubepods/besteffort"].map(PathBuf::from);
    let roots = ["/sys/fs/cgroup/monopod", "/sys/fs/cgroup/unified/monopod"].map(Path::new);
    let paths = roots.iter().flat_map(|root| dirs.iter().map(|dir| root.join(dir).join(&uid).join(&id).join(name)));
    let text = paths.filter_map(|path| std::fs::read_to_string(path).ok()).next()?;
    Some(text.trim_end().to_owned())
}

fn started_at(pod: &Value) -> Value {
    container(pod)["state"]["running"]["startedAt"].clone()
}

/// The reasons of a pod's events.
fn reasons(name: &str) -> Vec<String> {
    let all = monopod(&["get", "events", "-o", "json"]).ok().map(|output| output.stdout).unwrap_or_default();
    let all: Value = serde_json::from_slice(&all).unwrap_or_default();
    let own = all["items"].as_array().into_iter().flatten().filter(|event| event["involvedObject"]["name"] == name);
    own.filter_map(|event| event["reason"].as_str().map(str::to_owned)).collect()
}

fn daemon() -> Result<Daemon> {
    Daemon::configured("nodeName: node1\n")
}

/// A daemon with a pod `a` that runs and asks for 100m.
fn with_pod(policy: &str, body: impl FnOnce(&Value) -> Result<()> + Send) -> Result<()> {
    with_busybox(|| {
        let daemon = daemon()?;
        create("a", 100, policy)?;
        body(&running("a")?)?;
        daemon.kill()
    })
}

/// RZ3-RZ5, RZ8
fn a_resize_reaches_a_container_that_runs_on() -> Result<()> {
    with_pod("NotRequired", |before| {
        resize("a", 200, "128Mi")?;
        let after = resized("a", 200)?;
        ensure!(container(&after)["restartCount"] == 0, "{}", container(&after));
        ensure!(started_at(&after) == started_at(before), "it was started anew");
        ensure!(container(&after)["resources"]["limits"]["memory"] == "128Mi", "{}", container(&after));
        if let Some(limit) = cgroup_file(&after, "memory.max") {
            ensure!(limit == (128 << 20).to_string(), "memory.max is {limit}");
        }
        let told = reasons("a");
        let all = ["ResizeStarted", "ResizeCompleted"].iter().all(|own| told.iter().any(|reason| reason == own));
        ensure!(all, "{told:?}");
        let patch = json!({"spec": {"containers": [{"name": "c", "resources": {"limits": {"memory": null}}}]}});
        let refused = monopod(&["patch", "pod", "a", "--subresource", "resize", "-p", &patch.to_string()])?;
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(text.contains("resource limits cannot be removed"), "{text}");
        Ok(())
    })
}

/// RZ7
fn a_resize_that_wants_a_restart_counts_one() -> Result<()> {
    with_pod("RestartContainer", |_| {
        resize("a", 200, "64Mi")?;
        let after = resized("a", 200)?;
        ensure!(container(&after)["restartCount"] == 1, "{}", container(&after));
        resize("a", 200, "96Mi")?;
        let again = wait_until("the limit is another", || {
            ask::pod("a").filter(|pod| container(pod)["resources"]["limits"]["memory"] == "96Mi")
        })?;
        ensure!(container(&again)["restartCount"] == 1, "memory needs no restart: {}", container(&again));
        Ok(())
    })
}

/// RZ4
fn a_resize_that_does_not_fit_waits_or_stays_away() -> Result<()> {
    with_busybox(|| {
        let daemon = daemon()?;
        let node = wait_until("the node", || ask::get("/api/v1/nodes/node1"))?;
        let text = node["status"]["allocatable"]["cpu"].as_str().context("allocatable")?;
        let milli: u64 = match text.strip_suffix('m') {
            Some(milli) => milli.parse()?,
            None => text.parse::<u64>()? * 1000,
        };
        let (small, large) = (milli / 4 + 1, milli / 4 * 3 - 1);
        create("big", milli / 2, "NotRequired")?;
        create("a", small, "NotRequired")?;
        running("big")?;
        running("a")?;
        resize("a", milli * 2, "64Mi")?;
        let pod = pending("a", "Infeasible")?;
        ensure!(container(&pod)["allocatedResources"]["cpu"] == format!("{small}m"), "{}", container(&pod));
        resize("a", large, "64Mi")?;
        let pod = pending("a", "Deferred")?;
        ensure!(container(&pod)["resources"]["requests"]["cpu"] == format!("{small}m"), "{}", container(&pod));
        let deleted = monopod(&["delete", "pod", "big"])?;
        ensure!(deleted.status.success(), "{}", String::from_utf8_lossy(&deleted.stderr));
        let after = resized("a", large)?;
        ensure!(container(&after)["restartCount"] == 0, "{}", container(&after));
        daemon.kill()
    })
}

/// RZ4, D43
fn an_allocation_outlives_the_daemon() -> Result<()> {
    with_busybox(|| {
        let first = daemon()?;
        create("a", 100, "NotRequired")?;
        running("a")?;
        resize("a", 200, "64Mi")?;
        resized("a", 200)?;
        first.kill()?;
        let second = daemon()?;
        let after = resized("a", 200)?;
        ensure!(container(&after)["restartCount"] == 0, "{}", container(&after));
        resize("a", 300, "64Mi")?;
        resized("a", 300)?;
        second.kill()
    })
}
