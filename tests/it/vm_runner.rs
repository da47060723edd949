//! Runs tests one by one inside the virtual machine: each in a process of its own with a time limit, and a look at what
//! it left behind.

use std::fs::File;
use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};

use crate::leaks::{self, Snapshot};
use crate::vm::{self, Orders};

/// The slowest tests are listed, this many.
const SLOWEST: usize = 10;
/// What a test wrote; part of no snapshot.
const LOG: &str = leaks::RUNNERS_LOG;
/// The kernel takes namespaces and what is in them down in the background.
const SETTLE: Duration = Duration::from_secs(3);
const SETTLE_STEP: Duration = Duration::from_millis(50);

/// Runs what was ordered and reports each test; true when all passed.
pub fn run(orders: &Orders, results: &mut File) -> Result<bool> {
    let names = list(orders)?;
    writeln!(results, "\nrunning {} tests", names.len())?;
    let mut report = Report::default();
    for name in names {
        let started = Instant::now();
        let why = one(&name, orders)?;
        report.add(results, name, started.elapsed(), why.as_deref())?;
    }
    report.end(results)
}

/// One test and the look after it; why it failed.
fn one(name: &str, orders: &Orders) -> Result<Option<String>> {
    let before = Snapshot::take()?;
    let failure = execute(name, orders)?;
    let left = settled(&before)?;
    leaks::kill_new_processes(&before)?;
    Ok(match (failure, left) {
        (Some(why), Some(left)) => Some(format!("{}\nleft behind:\n  {left}", why.trim_end())),
        (Some(why), None) => Some(why),
        (None, Some(left)) => Some(format!("left behind:\n  {left}")),
        (None, None) => None,
    })
}

/// What is still there after the kernel had its time.
fn settled(before: &Snapshot) -> Result<Option<String>> {
    let started = Instant::now();
    loop {
        reap_orphans();
        let left = before.left_behind()?;
        if left.is_none() || started.elapsed() > SETTLE {
            return Ok(left);
        }
        std::thread::sleep(SETTLE_STEP);
    }
}

/// Init is the parent of every orphan.
fn reap_orphans() {
    if rustix::process::getpid().is_init() {
        while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
    }
}

#[derive(Default)]
struct Report {
    passed: usize,
    failed: Vec<String>,
    times: Vec<(Duration, String)>,
}

impl Report {
    fn add(&mut self, results: &mut File, name: String, took: Duration, why: Option<&str>) -> Result<()> {
        let millis = took.as_millis();
        match why {
            None => {
                self.passed += 1;
                writeln!(results, "test {name} ... ok ({millis} ms)")?;
            }
            Some(why) => {
                writeln!(results, "test {name} ... FAILED ({millis} ms)\n{}\n", why.trim_end())?;
                self.failed.push(name.clone());
            }
        }
        self.times.push((took, name));
        Ok(())
    }

    fn end(mut self, results: &mut File) -> Result<bool> {
        self.times.sort();
        writeln!(results, "\nslowest:")?;
        for (time, name) in self.times.iter().rev().take(SLOWEST) {
            writeln!(results, "  {:>7} ms  {name}", time.as_millis())?;
        }
        if !self.failed.is_empty() {
            writeln!(results, "\nfailures:\n  {}", self.failed.join("\n  "))?;
        }
        let verdict = if self.failed.is_empty() { "ok" } else { "FAILED" };
        writeln!(results, "\ntest result: {verdict}. {} passed; {} failed", self.passed, self.failed.len())?;
        Ok(self.failed.is_empty())
    }
}

fn own_program() -> Result<String> {
    let path = std::env::current_exe().context("path of the tests")?;
    Ok(path.to_string_lossy().into_owned())
}

fn list(orders: &Orders) -> Result<Vec<String>> {
    let mut arguments = vec!["--list".to_owned()];
    arguments.extend(orders.arguments.iter().cloned());
    let file = File::create(LOG)?;
    let status = vm::test_process(&own_program()?, &arguments, None, orders, file)?.wait()?;
    let text = std::fs::read_to_string(LOG)?;
    anyhow::ensure!(status.success(), "list of the tests: {status}\n{text}");
    Ok(text.lines().filter_map(|line| line.strip_suffix(": test").map(str::to_owned)).collect())
}

/// Runs one test; why it failed.
fn execute(name: &str, orders: &Orders) -> Result<Option<String>> {
    let mut test = vm::test_process(&own_program()?, &[], Some(name), orders, File::create(LOG)?)?;
    let pid = Pid::from_child(&test);
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).context("pidfd_open")?;
    let limit = Timespec { tv_sec: i64::try_from(orders.test_seconds).unwrap_or(i64::MAX), tv_nsec: 0 };
    let ended = rustix::event::poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&limit))? > 0;
    if !ended {
        // The group may have more members than the test.
        let _gone = rustix::process::kill_process_group(pid, Signal::KILL);
    }
    let status = test.wait()?;
    let output = String::from_utf8_lossy(&std::fs::read(LOG)?).into_owned();
    Ok(match (ended, status.success()) {
        (true, true) => None,
        (true, false) => Some(format!("{status}\n{output}")),
        (false, _) => Some(format!("hang: ended after {}s\n{output}", orders.test_seconds)),
    })
}
