//! `cargo xtask bench life`: from a process's end to the status that shows it and to the next start, and what an init
//! container and an exec cost; beside each the kernel's floor from the same run.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags, Signal};
use serde_json::{Value, json};

use super::host;
use crate::build::{self, Profile};

/// Containers of a pod whose ends are measured one after the other.
const CONTAINERS: usize = 20;
/// Init containers whose cost is measured.
const INITS: usize = 20;
/// Longest wait for one thing.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Pods of each kind
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Measures the programs in this directory instead of building them
    #[arg(long, value_name = "DIR")]
    bin: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(args.rounds > 0, "--rounds must be at least 1");
    ensure!(rustix::process::geteuid().is_root(), "bench life needs root");
    let sh = build::shell()?;
    if !host::is_inside() {
        if args.bin.is_none() {
            build::binaries(&sh, Profile::Release)?;
        }
        return host::enter();
    }
    let bin = match &args.bin {
        Some(bin) => bin.clone(),
        None => build::output_dir(&sh, Profile::Release)?,
    };
    host::set_up(&sh, &bin)?;
    let mut samples = Samples::default();
    for _ in 0..args.rounds {
        samples.round(&bin)?;
    }
    samples.print();
    Ok(())
}

/// In milliseconds.
#[derive(Debug, Default)]
struct Samples {
    shown: Vec<f64>,
    restarted: Vec<f64>,
    noticed: Vec<f64>,
    init: Vec<f64>,
    exec: Vec<f64>,
    spawned: Vec<f64>,
}

impl Samples {
    /// All kinds in turn, so that what else the machine does hits them alike.
    fn round(&mut self, bin: &Path) -> Result<()> {
        let ended = |status: &Value| !status["state"]["terminated"].is_null();
        self.shown.extend(after_kills(bin, "Never", ended)?);
        let again = |status: &Value| status["restartCount"] == 1 && !status["state"]["running"].is_null();
        self.restarted.extend(after_kills(bin, "Always", again)?);
        let init = |number| one(&format!("i{number}"), &["true"]);
        let (without, with) = (time_to_run(bin, Vec::new())?, time_to_run(bin, (0..INITS).map(init).collect())?);
        self.init.push(millis(with.saturating_sub(without)) / INITS as f64);
        let (plain, hooked) = (|number| sidecar(number, false), |number| sidecar(number, true));
        let without = time_to_run(bin, (0..INITS).map(plain).collect())?;
        let with = time_to_run(bin, (0..INITS).map(hooked).collect())?;
        self.exec.push(millis(with.saturating_sub(without)) / INITS as f64);
        for _ in 0..CONTAINERS {
            self.noticed.push(millis(time_to_notice()?));
            self.spawned.push(millis(time_to_spawn()?));
        }
        Ok(())
    }

    fn print(&self) {
        println!("milliseconds: p50, p99, samples");
        for (name, samples) in [
            ("process killed -> its status line read", &self.shown),
            ("process killed -> its next instance is Running", &self.restarted),
            ("  floor: process killed -> its pidfd is readable", &self.noticed),
            ("one init container (`true`) more", &self.init),
            ("one exec (`true`, as a postStart hook), from its request to its answer", &self.exec),
            ("  floor of both: spawn `true` and wait", &self.spawned),
        ] {
            let (half, most) = (percentile(samples, 50), percentile(samples, 99));
            println!("{half:8.3} {most:8.3} {:5}  {name}", samples.len());
        }
        let over = percentile(&self.init, 50) - percentile(&self.spawned, 50);
        println!("an init container costs {over:.3} ms above its own run");
    }
}

fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}

/// The smallest sample that so many percent do not exceed.
fn percentile(samples: &[f64], percent: usize) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

/// Kills the containers of a pod one after the other; how long until each one's status is so.
fn after_kills(bin: &Path, policy: &str, is_so: impl Fn(&Value) -> bool) -> Result<Vec<f64>> {
    let sleeper = |number| json!({"name": format!("c{number}"), "image": "busybox", "command": ["sleep", "1000"]});
    let containers: Vec<Value> = (0..CONTAINERS).map(sleeper).collect();
    let grace = json!({"restartPolicy": policy, "containers": containers, "terminationGracePeriodSeconds": 0});
    let mut life = Life::start(bin, grace)?;
    let up = life.until(|pod| statuses(pod).filter(|one| !one["state"]["running"].is_null()).count() == CONTAINERS)?.1;
    let processes = processes(&up)?;
    let mut samples = Vec::new();
    for (name, pid) in processes {
        let killed = Instant::now();
        rustix::process::kill_process(pid, Signal::KILL).context("kill")?;
        let shown = life.until(|pod| statuses(pod).any(|one| one["name"] == name.as_str() && is_so(one)))?.0;
        samples.push(millis(shown.duration_since(killed)));
    }
    life.end()?;
    Ok(samples)
}

fn one(name: &str, command: &[&str]) -> Value {
    json!({"name": name, "image": "busybox", "command": command})
}

/// Nothing starts while its hook runs (LC6).
fn sidecar(number: usize, hook: bool) -> Value {
    let mut sidecar = one(&format!("s{number}"), &["sleep", "1000"]);
    sidecar["restartPolicy"] = json!("Always");
    if hook {
        sidecar["lifecycle"] = json!({"postStart": {"exec": {"command": ["true"]}}});
    }
    sidecar
}

/// From a sandbox that is ready to a running app, behind these init containers.
fn time_to_run(bin: &Path, init: Vec<Value>) -> Result<Duration> {
    let spec = json!({"initContainers": init, "containers": [one("c", &["sleep", "1000"])],
        "terminationGracePeriodSeconds": 0});
    let mut life = Life::start(bin, spec)?;
    let ready = |pod: &Value| {
        let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
        conditions.into_iter().any(|c| c["type"] == "PodReadyToStartContainers" && c["status"] == "True")
    };
    let from = life.until(ready)?.0;
    let to = life.until(|pod| statuses(pod).any(|one| one["name"] == "c" && !one["state"]["running"].is_null()))?.0;
    life.end()?;
    Ok(to.duration_since(from))
}

fn statuses(pod: &Value) -> impl Iterator<Item = &Value> {
    pod["status"]["containerStatuses"].as_array().into_iter().flatten()
}

/// The only process of each container, by the container's name.
fn processes(pod: &Value) -> Result<Vec<(String, Pid)>> {
    let ids: BTreeMap<&str, &str> = statuses(pod)
        .filter_map(|one| Some((one["containerID"].as_str()?.rsplit('/').next()?, one["name"].as_str()?)))
        .collect();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        let cgroup = std::fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        let leaf = cgroup.lines().find_map(|line| line.strip_prefix("0::")?.rsplit('/').next());
        if let (Some(pid), Some(name)) = (pid, leaf.and_then(|leaf| ids.get(leaf))) {
            found.push(((*name).to_owned(), pid));
        }
    }
    ensure!(found.len() == CONTAINERS, "{} of {CONTAINERS} processes were found", found.len());
    Ok(found)
}

/// A parent that does nothing but wait for its child's pidfd.
fn time_to_notice() -> Result<Duration> {
    let mut child = Command::new("sleep").arg("1000").spawn().context("start sleep")?;
    let pid = Pid::from_child(&child);
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).context("pidfd_open")?;
    let killed = Instant::now();
    rustix::process::kill_process(pid, Signal::KILL).context("kill")?;
    rustix::event::poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], None).context("poll")?;
    let span = killed.elapsed();
    child.wait().context("wait")?;
    Ok(span)
}

fn time_to_spawn() -> Result<Duration> {
    let started = Instant::now();
    let status = Command::new("busybox").arg("true").status().context("start busybox")?;
    ensure!(status.success(), "busybox true: {status}");
    Ok(started.elapsed())
}

/// `monopod run --output json`, each pod with the moment at which it was read.
struct Life {
    child: Child,
    lines: Receiver<(Instant, String)>,
    _manifest: tempfile::NamedTempFile,
}

impl Life {
    fn start(bin: &Path, spec: Value) -> Result<Self> {
        let manifest = tempfile::Builder::new().suffix(".json").tempfile()?;
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "life"}, "spec": spec});
        std::fs::write(manifest.path(), pod.to_string())?;
        let mut command = Command::new(bin.join("monopod"));
        command.args(["run", "--output=json"]).arg(manifest.path());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().context("start monopod")?;
        let pipe = BufReader::new(child.stdout.take().context("pipe")?);
        let (send, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in pipe.lines().map_while(Result::ok) {
                if send.send((Instant::now(), line)).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, lines, _manifest: manifest })
    }

    fn until(&mut self, is_so: impl Fn(&Value) -> bool) -> Result<(Instant, Value)> {
        loop {
            let (at, line) = self.lines.recv_timeout(PATIENCE).context("wait for a status")?;
            let mut event: Value = serde_json::from_str(&line)?;
            let pod = event["object"].take();
            if pod["kind"] == "Pod" && is_so(&pod) {
                return Ok((at, pod));
            }
        }
    }

    fn end(&mut self) -> Result<()> {
        rustix::process::kill_process(Pid::from_child(&self.child), Signal::TERM).context("kill")?;
        self.child.wait().map(drop).context("wait")
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        // Fails when it has ended, as it should have.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples() {
        let samples: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!((percentile(&samples, 50), percentile(&samples, 99)), (100.0, 198.0));
        assert_eq!(percentile(&[7.0], 99), 7.0);
        assert_eq!(percentile(&[], 99), 0.0);
    }
}
