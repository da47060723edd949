//! `cargo xtask bench log`: how fast a container can write lines, and what the log path costs; beside it a file as standard
//! output, which is the floor, and podman's conmon where it is installed, all in turns.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal};
use serde_json::json;
use xshell::{Shell, cmd};

use super::{host, median};
use crate::build::{self, Profile};

/// What the container writes.
const BYTES: u64 = 200_000_000;
/// Bytes of a line with its end: usual ones, and short ones.
const LINES: [usize; 2] = [128, 41];
/// Longest wait for one thing.
const PATIENCE: Duration = Duration::from_secs(60);
/// A log path that has used no CPU for so long has nothing more to write.
const QUIET: Duration = Duration::from_millis(30);
/// Where the writer and its result lie.
const WORK: &str = "/run/bench";
/// Everything of a record but its content.
const RECORD_OVERHEAD: usize = "2026-11-21T04:47:18.000000000Z stdout F ".len();

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How often each candidate is run
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Measures the programs in this directory (with `examples/writer`) instead of building them
    #[arg(long, value_name = "DIR")]
    bin: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(args.rounds > 0, "--rounds must be at least 1");
    ensure!(rustix::process::geteuid().is_root(), "bench log needs root");
    let sh = build::shell()?;
    if !host::is_inside() {
        if args.bin.is_none() {
            build::binaries(&sh, Profile::Release)?;
            cmd!(sh, "cargo build --locked --release --package supervisor --example writer").run()?;
        }
        return host::enter();
    }
    let bin = match &args.bin {
        Some(bin) => bin.clone(),
        None => build::output_dir(&sh, Profile::Release)?,
    };
    let bench = Bench::set_up(&sh, bin)?;
    for line in LINES {
        bench.compare(&sh, line, args.rounds)?;
    }
    Ok(())
}

/// One run: how fast the writer was, and the CPU of the process that takes its output.
#[derive(Debug, Clone, Copy)]
struct Sample {
    gigabytes_per_second: f64,
    cpu_seconds: f64,
}

struct Bench {
    bin: PathBuf,
    podman: bool,
}

impl Bench {
    fn set_up(sh: &Shell, bin: PathBuf) -> Result<Self> {
        host::set_up(sh, &bin)?;
        fs::create_dir_all(format!("{WORK}/out"))?;
        fs::copy(bin.join("examples/writer"), format!("{WORK}/writer")).context("examples/writer")?;
        let podman = set_up_podman(sh)?;
        Ok(Self { bin, podman })
    }

    fn compare(&self, sh: &Shell, line: usize, rounds: usize) -> Result<()> {
        let mut samples: BTreeMap<&str, Vec<Sample>> = BTreeMap::new();
        for _ in 0..rounds {
            samples.entry("a file as standard output").or_default().push(floor(line)?);
            samples.entry("monopod").or_default().push(self.monopod(line)?);
            if self.podman {
                samples.entry("podman, conmon").or_default().push(conmon(sh, line)?);
            }
        }
        println!("\n{} MB in lines of {line} bytes, writes of 4 KiB, medians of {rounds} runs", BYTES / 1_000_000);
        let of = |name: &str, figure: fn(&Sample) -> f64| {
            let figures: Vec<f64> = samples.get(name).into_iter().flatten().map(figure).collect();
            median(&figures).unwrap_or_default()
        };
        for name in samples.keys() {
            let (speed, cpu) = (of(name, |s| s.gigabytes_per_second), of(name, |s| s.cpu_seconds));
            println!("{speed:8.2} GB/s {cpu:8.3} CPU s  {name}");
        }
        let own = (of("monopod", |s| s.gigabytes_per_second), of("monopod", |s| s.cpu_seconds));
        println!("{:8.2} of the file's speed", own.0 / of("a file as standard output", |s| s.gigabytes_per_second));
        if self.podman {
            let speed = own.0 / of("podman, conmon", |s| s.gigabytes_per_second);
            println!(
                "{speed:8.2} of conmon's speed at {:.2} of its CPU",
                own.1 / of("podman, conmon", |s| s.cpu_seconds)
            );
        }
        Ok(())
    }

    /// Nobody follows the log.
    fn monopod(&self, line: usize) -> Result<Sample> {
        let manifest = format!("{WORK}/log.json");
        fs::write(&manifest, pod(line).to_string())?;
        let mut command = Command::new(self.bin.join("monopod"));
        command.args(["run", "--output=none", &manifest]).stdout(Stdio::null()).stderr(Stdio::null());
        let mut running = Running(command.spawn().context("start monopod")?);
        let result = result()?;
        let monitor = child_named(running.0.id(), "monitor")?;
        let cpu_seconds = settled_cpu(monitor)?;
        check_log(line)?;
        running.end()?;
        Ok(Sample { gigabytes_per_second: result, cpu_seconds })
    }
}

fn arguments(line: usize) -> [String; 4] {
    ["/w/writer".to_owned(), BYTES.to_string(), line.to_string(), "/w/out/result".to_owned()]
}

fn pod(line: usize) -> serde_json::Value {
    let container = json!({"name": "a", "image": "busybox", "command": arguments(line),
        "volumeMounts": [{"name": "w", "mountPath": "/w"}]});
    let spec = json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [container],
        "volumes": [{"name": "w", "hostPath": {"path": WORK}}]});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "log"}, "spec": spec})
}

fn floor(line: usize) -> Result<Sample> {
    let path = "/var/log/pods/floor";
    let [_, bytes, line, _] = arguments(line);
    let mut command = Command::new(format!("{WORK}/writer"));
    command.args([&bytes, &line, &format!("{WORK}/out/result")]).stdout(File::create(path)?);
    let mut running = Running(command.spawn().context("start the writer")?);
    let result = result()?;
    running.end()?;
    fs::remove_file(path)?;
    Ok(Sample { gigabytes_per_second: result, cpu_seconds: 0.0 })
}

/// Podman's store in memory, like ours, and what it needs on a host whose cgroups are of both versions.
fn set_up_podman(sh: &Shell) -> Result<bool> {
    if cmd!(sh, "podman --version").quiet().ignore_stdout().ignore_stderr().run().is_err() {
        println!("podman is not installed: conmon is left out");
        return Ok(false);
    }
    fs::create_dir_all("/var/lib/containers")?;
    cmd!(sh, "mount -t tmpfs tmpfs /var/lib/containers").quiet().run()?;
    let limits = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=4096:4096\"]\n";
    let engine = "[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\n";
    fs::write(format!("{WORK}/containers.conf"), format!("{limits}{engine}"))?;
    let image = crate::images::image("busybox")?;
    podman(&format!("podman load --quiet --input {}", image.display())).status().context("podman load")?;
    Ok(true)
}

/// A command of podman where there is no cgroup2 beside controllers of version 1: its crun refuses both together.
fn podman(command: &str) -> Command {
    let script = format!("umount /sys/fs/cgroup/unified 2>/dev/null; exec {command}");
    let mut shell = Command::new("unshare");
    shell.args(["--mount", "sh", "-c", &script]).env("CONTAINERS_CONF", format!("{WORK}/containers.conf"));
    shell.stdout(Stdio::null()).stderr(Stdio::null());
    shell
}

fn conmon(sh: &Shell, line: usize) -> Result<Sample> {
    let pid_file = format!("{WORK}/conmon.pid");
    let options = format!("--name log --network host --log-driver k8s-file --log-opt path={WORK}/podman.log");
    let volume = format!("--conmon-pidfile {pid_file} --volume {WORK}:/w");
    let program = arguments(line).join(" ");
    let mut running =
        Running(podman(&format!("podman run {options} {volume} busybox {program}")).spawn().context("start podman")?);
    let result = result()?;
    let pid = fs::read_to_string(&pid_file)?.trim().parse().context("conmon's pid")?;
    let cpu_seconds = settled_cpu(pid)?;
    podman("podman rm --force --time 0 log").status().context("podman rm")?;
    running.end()?;
    sh.remove_path(format!("{WORK}/podman.log"))?;
    Ok(Sample { gigabytes_per_second: result, cpu_seconds })
}

/// Waits for what the writer wrote about itself: gigabytes per second.
fn result() -> Result<f64> {
    let path = format!("{WORK}/out/result");
    let begun = Instant::now();
    let text = loop {
        match fs::read_to_string(&path) {
            Ok(text) => break text,
            Err(error) if begun.elapsed() > PATIENCE => return Err(error).context("the writer's result"),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    fs::remove_file(&path)?;
    let (bytes, nanoseconds) = text.split_once(' ').context("the writer's result")?;
    Ok(bytes.parse::<f64>()? / nanoseconds.parse::<f64>()?)
}

/// The CPU that a process has used once it has nothing to do.
fn settled_cpu(pid: u32) -> Result<f64> {
    let mut before = cpu(pid)?;
    loop {
        std::thread::sleep(QUIET);
        let now = cpu(pid)?;
        if now == before {
            return Ok(now);
        }
        before = now;
    }
}

/// Seconds of all its threads (`/proc/PID/task/TID/schedstat`, in nanoseconds).
fn cpu(pid: u32) -> Result<f64> {
    let mut nanoseconds = 0.0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        nanoseconds += text.split(' ').next().unwrap_or_default().parse::<f64>()?;
    }
    Ok(nanoseconds / 1e9)
}

fn child_named(parent: u32, name: &str) -> Result<u32> {
    for task in fs::read_dir(format!("/proc/{parent}/task"))? {
        let children = fs::read_to_string(task?.path().join("children"))?;
        for pid in children.split_whitespace() {
            if fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name) {
                return Ok(pid.parse()?);
            }
        }
    }
    bail!("process {parent} has no child {name}")
}

/// Every record that was kept is whole.
fn check_log(line: usize) -> Result<()> {
    let mut records = 0_usize;
    for pod in fs::read_dir("/var/log/pods")? {
        let Ok(files) = fs::read_dir(pod?.path().join("a")) else { continue };
        for file in files {
            let path = file?.path();
            for record in BufReader::new(File::open(&path)?).split(b'\n') {
                ensure!(is_record(&record?, line), "a record in {} is damaged", path.display());
                records += 1;
            }
        }
    }
    ensure!(records > 0, "there is no log");
    Ok(())
}

fn is_record(record: &[u8], line: usize) -> bool {
    let Some((head, content)) = record.split_at_checked(RECORD_OVERHEAD) else { return false };
    let is_head = head.ends_with(b"Z stdout F ") && head.starts_with(b"20") && head.get(10) == Some(&b'T');
    is_head && content.len() + 1 == line && content.iter().all(|byte| *byte == b'x')
}

/// Ended and reaped in any case.
struct Running(Child);

impl Running {
    fn end(&mut self) -> Result<()> {
        let _ended_already = rustix::process::kill_process(Pid::from_child(&self.0), Signal::TERM);
        self.0.wait().map(drop).context("wait")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails when it has ended, as it should have.
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_record_counts() {
        let stamp = "2026-11-21T04:47:18.000000000Z";
        for (record, whole) in [
            (format!("{stamp} stdout F xxx"), true),
            (format!("{stamp} stdout F xx"), false),
            (format!("{stamp} stdout P xxx"), false),
            (format!("{stamp} stdout F xxy"), false),
            ("xxx".to_owned(), false),
        ] {
            assert_eq!(is_record(record.as_bytes(), 4), whole, "{record}");
        }
    }
}
