//! `cargo xtask bench start`: from a manifest to the first line of output, to the end, step by step; beside it the kernel's
//! floor (`supervisor/examples/floor.rs`) and podman where it is installed, all in turns. And the log path.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use xshell::cmd;

use super::{host, median};
use crate::build::{self, Profile};

/// What the container of the log bench writes, and how often.
const LOG_BLOCK: u64 = 20_000_000;
const LOG_BLOCKS: u64 = 10;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How often each candidate is run
    #[arg(long, default_value_t = 50)]
    rounds: usize,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(args.rounds > 0, "--rounds must be at least 1");
    ensure!(rustix::process::geteuid().is_root(), "bench start needs root");
    if !host::is_inside() {
        return enter_namespaces();
    }
    let bench = Bench::set_up()?;
    bench.start(args.rounds)?;
    bench.log()
}

/// Builds what is measured, and starts anew on a host of its own.
fn enter_namespaces() -> Result<()> {
    let sh = build::shell()?;
    build::binaries(&sh, Profile::Release)?;
    cmd!(sh, "cargo build --locked --release --package supervisor --example floor").run()?;
    host::enter()
}

struct Bench {
    bin: PathBuf,
    work: PathBuf,
}

impl Bench {
    fn set_up() -> Result<Self> {
        let sh = build::shell()?;
        let bin = build::output_dir(&sh, Profile::Release)?;
        host::set_up(&sh, &bin)?;
        let work = PathBuf::from("/run/bench");
        fs::create_dir_all(work.join("rootfs/bin"))?;
        fs::copy("/bin/busybox", work.join("rootfs/bin/echo")).context("/bin/busybox (package busybox-static)")?;
        for (name, containers) in [("one", 1), ("three", 3)] {
            fs::write(work.join(format!("{name}.yaml")), manifest(name, containers))?;
        }
        Ok(Self { bin, work })
    }

    fn start(&self, rounds: usize) -> Result<()> {
        let mut steps = [Steps::default(), Steps::default()];
        let mut floor = [Vec::new(), Vec::new(), Vec::new()];
        for round in 0..rounds {
            for (steps, name) in steps.iter_mut().zip(["one", "three"]) {
                steps.add(&self.timings(name)?)?;
            }
            self.floor(round, &mut floor)?;
        }
        println!("medians of {rounds} runs, milliseconds");
        for (steps, name) in steps.iter().zip(["one container", "three containers"]) {
            println!("\n{name}");
            steps.print();
        }
        println!("\nthe kernel's floor (namespaces, overlay, pivot_root, exec; no network, no cgroup, no log)");
        for (name, samples) in ["clone3 returned", "first byte", "ended"].iter().zip(&floor) {
            println!("{:9.2}  {name}", median(samples).unwrap_or_default());
        }
        let ours = steps[0].between("engine open", "first line of output");
        if let (Some(ours), Some(least)) = (ours, median(&floor[1])) {
            println!("\nfirst line after {ours:.2} ms, {:.1} times the floor", ours / least);
        }
        Ok(())
    }

    /// What `--timings` printed.
    fn timings(&self, name: &str) -> Result<String> {
        let output = Command::new(self.bin.join("monopod"))
            .args(["run", "--timings"])
            .arg(self.work.join(format!("{name}.yaml")))
            .output()
            .context("monopod run")?;
        ensure!(output.status.success(), "monopod run: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stderr)?)
    }

    fn floor(&self, round: usize, samples: &mut [Vec<f64>; 3]) -> Result<()> {
        let (rootfs, scratch) = (self.work.join("rootfs"), self.work.join(format!("floor-{round}")));
        let output = Command::new(self.bin.join("examples/floor")).arg("1").args([&rootfs, &scratch]).output()?;
        ensure!(output.status.success(), "floor: {}", String::from_utf8_lossy(&output.stderr));
        for (sample, micros) in samples.iter_mut().zip(String::from_utf8(output.stdout)?.split_whitespace()) {
            sample.push(micros.parse::<f64>()? / 1000.0);
        }
        Ok(())
    }

    /// How fast a container can write short lines, and what that costs. An init container makes a block of lines in memory,
    /// so that the writer costs nothing but its writes.
    fn log(&self) -> Result<()> {
        let path = self.work.join("log.yaml");
        fs::write(&path, log_manifest())?;
        let before = children_cpu()?;
        let output = Command::new(self.bin.join("monopod"))
            .args(["run", "--timings", "--log-prefix=none"])
            .arg(&path)
            .stdout(Stdio::null())
            .output()?;
        ensure!(output.status.success(), "monopod run: {}", String::from_utf8_lossy(&output.stderr));
        let mut steps = Steps::default();
        steps.add(&String::from_utf8(output.stderr)?)?;
        let seconds = steps.between("container a of log running", "containers of log ended").unwrap_or_default() / 1e3;
        let bytes = LOG_BLOCK * LOG_BLOCKS;
        println!("\nlog of {} MB of 41-byte lines", bytes / 1_000_000);
        let cpu = children_cpu()? - before;
        println!("{:9.2}  GB/s, {cpu:.2} CPU s of all processes", bytes as f64 / seconds / 1e9);
        Ok(())
    }
}

/// Seconds that ended children of this process have used, and theirs.
fn children_cpu() -> Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| -> Result<f64> { Ok(fields.get(at).context("/proc/self/stat")?.parse::<f64>()?) };
    // cutime and cstime (proc_pid_stat(5)), in hundredths of a second.
    Ok((ticks(13)? + ticks(14)?) / 100.0)
}

/// When each step was reached, over all runs.
#[derive(Debug, Default)]
struct Steps {
    order: Vec<String>,
    samples: BTreeMap<String, Vec<f64>>,
}

impl Steps {
    fn add(&mut self, text: &str) -> Result<()> {
        for line in text.lines() {
            // `     9.46 ms  +    2.10 ms  container a of one running`
            let Some((at, rest)) = line.trim_start().split_once(" ms  +") else { continue };
            let Some((_, name)) = rest.split_once(" ms  ") else { continue };
            if !self.samples.contains_key(name) {
                self.order.push(name.to_owned());
            }
            self.samples.entry(name.to_owned()).or_default().push(at.parse()?);
        }
        Ok(())
    }

    fn between(&self, from: &str, to: &str) -> Option<f64> {
        let spans: Vec<f64> = self.samples.get(from)?.iter().zip(self.samples.get(to)?).map(|(a, b)| b - a).collect();
        median(&spans)
    }

    fn print(&self) {
        let mut order: Vec<(&String, f64)> =
            self.order.iter().filter_map(|name| Some((name, median(self.samples.get(name)?)?))).collect();
        order.sort_by(|a, b| a.1.total_cmp(&b.1));
        let mut before = 0.0;
        for (name, at) in order {
            println!("{at:9.2}  +{:6.2}  {name}", at - before);
            before = at;
        }
    }
}

fn manifest(name: &str, containers: usize) -> String {
    let names: Vec<&str> = ["a", "b", "c"].into_iter().take(containers).collect();
    let containers: Vec<(&str, &[&str])> =
        names.into_iter().map(|name| (name, ["/bin/echo", "hi"].as_slice())).collect();
    pod(name, &containers)
}

fn pod(name: &str, containers: &[(&str, &[&str])]) -> String {
    let containers: Vec<serde_json::Value> = containers
        .iter()
        .map(|(name, command)| serde_json::json!({"name": name, "image": "busybox", "command": command}))
        .collect();
    let spec = serde_json::json!({"restartPolicy": "Never", "containers": containers});
    serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}).to_string()
}

fn log_manifest() -> String {
    let make = format!("yes 0123456789012345678901234567890123456789 | head -c {LOG_BLOCK} > /m/x");
    let write = format!("cat{}", " /m/x".repeat(usize::try_from(LOG_BLOCKS).unwrap_or(0)));
    let container = |name: &str, script: &str| {
        serde_json::json!({"name": name, "image": "busybox", "command": ["sh", "-c", script],
            "volumeMounts": [{"name": "m", "mountPath": "/m"}]})
    };
    let spec = serde_json::json!({"restartPolicy": "Never",
        "initContainers": [container("make", &make)], "containers": [container("a", &write)],
        "volumes": [{"name": "m", "emptyDir": {"medium": "Memory"}}]});
    serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "log"}, "spec": spec}).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_read_from_what_timings_prints() {
        let mut steps = Steps::default();
        for text in ["   1.00 ms  +    1.00 ms  a\nother\n    3.50 ms  +    2.50 ms  b c\n"; 2] {
            steps.add(text).expect("numbers");
        }
        assert_eq!(steps.order, ["a", "b c"]);
        assert_eq!(steps.between("a", "b c"), Some(2.5));
    }
}
