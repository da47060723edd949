//! The virtual machine in which the second ring of the tests runs: Debian's kernel, our own init, nothing installed.

pub mod cpio;
pub mod initramfs;
pub mod kernel;
pub mod planted;
pub mod probe;
pub mod qemu;
pub mod root;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::build;

/// Everything of the machine that is kept between runs.
pub fn dir() -> PathBuf {
    build::root().join("target/vm")
}

/// How long each phase took.
#[derive(Debug)]
pub struct Phases {
    started: Instant,
    last: Instant,
    all: Vec<(String, Duration)>,
}

impl Phases {
    pub fn new() -> Self {
        let now = Instant::now();
        Self { started: now, last: now, all: Vec::new() }
    }

    /// From the command's start: `cargo xtask` builds this program first and then becomes it.
    pub fn of_the_command() -> Result<Self> {
        let mut phases = Self::new();
        let before = since_start()?;
        phases.started = phases.started.checked_sub(before).unwrap_or(phases.started);
        phases.all.push(("xtask itself".to_owned(), before));
        Ok(phases)
    }

    pub fn done(&mut self, name: impl Into<String>) {
        self.all.push((name.into(), self.last.elapsed()));
        self.last = Instant::now();
    }

    /// Splits what the last phase took: its first part was this long.
    pub fn first_part(&mut self, name: impl Into<String>, first: Duration) {
        if let Some((last, time)) = self.all.pop() {
            self.all.push((name.into(), first));
            self.all.push((last, time.saturating_sub(first)));
        }
    }

    pub fn print(&self) {
        println!("phases:");
        for (name, time) in &self.all {
            println!("  {:>7.1} s  {name}", time.as_secs_f64());
        }
        println!("  {:>7.1} s  in all", self.started.elapsed().as_secs_f64());
    }
}

/// How old this process is: its start in ticks after the machine's, by proc_pid_stat(5).
fn since_start() -> Result<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat").context("read /proc/self/stat")?;
    let uptime = std::fs::read_to_string("/proc/uptime").context("read /proc/uptime")?;
    age(&stat, &uptime, rustix::param::clock_ticks_per_second())
        .with_context(|| format!("the start in {stat:?} and the time in {uptime:?}"))
}

fn age(stat: &str, uptime: &str, ticks_per_second: u64) -> Option<Duration> {
    // The second field may hold blanks; after it comes the third.
    let (_, rest) = stat.rsplit_once(')')?;
    let ticks: u64 = rest.split_whitespace().nth(22 - 3)?.parse().ok()?;
    let uptime: f64 = uptime.split_whitespace().next()?.parse().ok()?;
    Duration::try_from_secs_f64((uptime - ticks as f64 / ticks_per_second as f64).max(0.0)).ok()
}

/// What the guest's init becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Our own init runs the tests, up in about two seconds under emulation.
    Bare,
    /// Debian's root with systemd, of which the tests are a service.
    Systemd,
}

impl Profile {
    /// The ring of tests that needs it, which is also its name on the guest's command line.
    pub fn ring(self) -> &'static str {
        match self {
            Self::Bare => "vm",
            Self::Systemd => "systemd",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_of_a_process_counts_from_its_start() {
        let fields = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 250 20 21";
        let old = age(&format!("42 (a b) c) {fields}"), "12.50 3.00\n", 100);
        assert_eq!(old, Some(Duration::from_secs(10)));
        assert_eq!(age("42 (x) S 1", "12.50 3.00", 100), None);
    }

    #[test]
    fn the_first_part_of_a_phase_is_a_phase() {
        let mut phases = Phases::new();
        phases.all.push(("both".to_owned(), Duration::from_secs(5)));
        phases.first_part("one", Duration::from_secs(2));
        let seconds: Vec<(&str, u64)> = phases.all.iter().map(|(name, time)| (&**name, time.as_secs())).collect();
        assert_eq!(seconds, [("one", 2), ("both", 3)]);
    }
}
