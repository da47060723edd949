//! `cargo xtask bench start`: from a manifest to the first line of output, to the end, step by step; beside it the kernel's
//! floor (`supervisor/examples/floor.rs`), all in turns.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use xshell::cmd;

use super::{host, median};
use crate::build::{self, Profile};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How often each candidate is run
    #[arg(long, default_value_t = 50)]
    rounds: usize,
    /// Measures the programs in this directory (with `examples/floor`) instead of building them
    #[arg(long, value_name = "DIR")]
    bin: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(args.rounds > 0, "--rounds must be at least 1");
    ensure!(rustix::process::geteuid().is_root(), "bench start needs root");
    if !host::is_inside() {
        return enter_namespaces(args);
    }
    let bench = Bench::set_up(args)?;
    bench.start(args.rounds)
}

/// Builds what is measured, and starts anew on a host of its own.
fn enter_namespaces(args: &Args) -> Result<()> {
    if args.bin.is_none() {
        let sh = build::shell()?;
        build::binaries(&sh, Profile::Release)?;
        cmd!(sh, "cargo build --locked --release --package supervisor --example floor").run()?;
    }
    host::enter()
}

struct Bench {
    bin: PathBuf,
    work: PathBuf,
}

impl Bench {
    fn set_up(args: &Args) -> Result<Self> {
        let sh = build::shell()?;
        let bin = match &args.bin {
            Some(bin) => bin.clone(),
            None => build::output_dir(&sh, Profile::Release)?,
        };
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
        print_figures(&steps, &floor);
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
}

/// The figures that have goals, each as a multiple of what the kernel needs for a container.
fn print_figures([one, three]: &[Steps; 2], floor: &[Vec<f64>; 3]) {
    let least = median(&floor[1]).unwrap_or(f64::NAN);
    let span = |steps: &Steps, from: &str, to: &str| steps.between(from, to).unwrap_or(f64::NAN);
    let (first, last) = ("container a of three running", "container c of three running");
    println!("\nfigures, in milliseconds and in times of the floor's first byte");
    for (name, took) in [
        ("one container: engine open -> first line", span(one, "engine open", "first line of output")),
        ("three containers: engine open -> last one running", span(three, "engine open", last)),
        ("each container after the first", span(three, first, last) / 2.0),
        ("one container: ended -> nothing left", span(one, "containers of one ended", "one gone")),
        ("three containers: ended -> nothing left", span(three, "containers of three ended", "three gone")),
    ] {
        println!("{took:9.2} {:6.1}  {name}", took / least);
    }
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
