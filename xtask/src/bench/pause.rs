//! `cargo xtask bench pause`: what pause costs, beside the programs that others use in its place.
//!
//! All candidates take turns, so that a busy machine troubles them alike: compare within one run, not between runs.

use std::fs;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{SigSet, Signal as Blocked};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::median;
use crate::{build, image};

/// How long a candidate may take to obey; far above any that does (8 ms).
const PATIENCE: Duration = Duration::from_millis(500);

/// Programs from Debian that hold a Pod or a container elsewhere: package, program, arguments.
const PEERS: &[(&str, &str, &[&str])] = &[
    ("catatonit", "/usr/bin/catatonit", &["-P"]),
    ("tini", "/usr/bin/tini-static", &["-s", "--", "/usr/bin/sleep", "infinity"]),
    ("coreutils", "/usr/bin/sleep", &["infinity"]),
];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How often each candidate is started
    #[arg(long, default_value_t = 200)]
    rounds: usize,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(args.rounds > 0, "--rounds must be at least 1");
    let mut candidates = candidates()?;
    // A TERM that comes before execve is kept, so that the time from the start to the end is all the program's.
    let mut held = SigSet::empty();
    held.add(Blocked::SIGTERM);
    held.thread_block().context("pthread_sigmask(SIG_BLOCK, [TERM])")?;
    for _ in 0..args.rounds {
        for candidate in &mut candidates {
            candidate.round()?;
        }
    }
    println!("medians of {} starts each; in brackets: times pause", args.rounds);
    println!("{}", header());
    let unit = candidates[0].medians();
    for candidate in &candidates {
        println!("{}", row(&candidate.name, &candidate.medians(), &unit));
    }
    Ok(())
}

fn candidates() -> Result<Vec<Candidate>> {
    let target = image::PLATFORMS[0].target;
    let ours = image::build(&build::shell()?, &build::root(), target)?;
    let mut candidates = vec![Candidate::new("pause".to_owned(), ours, &[])?];
    for (package, program, args) in PEERS {
        let path = PathBuf::from(program);
        if !path.exists() {
            println!("not measured: {program} (Debian package {package})");
            continue;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let shown = args.first().filter(|arg| **arg != "-s");
        let name = shown.map_or_else(|| name.to_string(), |arg| format!("{name} {arg}"));
        candidates.push(Candidate::new(name, path, args)?);
    }
    Ok(candidates)
}

/// The columns, with the number of digits after the point.
const COLUMNS: [(&str, usize); 6] = [
    ("file bytes", 0),
    ("RSS KiB", 0),
    ("dirty KiB", 0),
    ("page tables KiB", 0),
    ("CPU to idle us", 1),
    ("start, TERM, end us", 1),
];

type Figures = [Option<f64>; COLUMNS.len()];

#[derive(Debug)]
struct Candidate {
    name: String,
    program: PathBuf,
    args: &'static [&'static str],
    samples: [Vec<f64>; COLUMNS.len()],
    obeys: bool,
}

impl Candidate {
    fn new(name: String, program: PathBuf, args: &'static [&'static str]) -> Result<Self> {
        let file = fs::File::open(&program).with_context(|| program.display().to_string())?;
        // The pages of a file that has just been built count as dirty.
        file.sync_all()?;
        let size = file.metadata()?.len();
        let mut samples: [Vec<f64>; COLUMNS.len()] = Default::default();
        samples[0].push(size as f64);
        Ok(Self { name, program, args, samples, obeys: true })
    }

    /// One start for the figures at idle, one for the time.
    fn round(&mut self) -> Result<()> {
        let mut process = Process(self.start()?);
        let idle = process.when_idle()?;
        for (samples, figure) in self.samples[1..=4].iter_mut().zip(idle) {
            samples.push(figure);
        }
        drop(process);
        if self.obeys {
            match self.start_term_end()? {
                Some(micros) => self.samples[5].push(micros),
                None => self.obeys = false,
            }
        }
        Ok(())
    }

    #[expect(clippy::disallowed_methods, reason = "a task runs programs")]
    fn start(&self) -> Result<Child> {
        let mut command = Command::new(&self.program);
        command.args(self.args).env_clear();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().with_context(|| format!("{command:?}"))
    }

    /// From before the start to the end, TERM sent at once; `None` if it doesn't obey.
    fn start_term_end(&self) -> Result<Option<f64>> {
        let start = Instant::now();
        let mut process = Process(self.start()?);
        let pidfd = pidfd_open(process.pid()?, PidfdFlags::empty())?;
        pidfd_send_signal(&pidfd, Signal::TERM)?;
        let limit = Timespec::try_from(PATIENCE)?;
        let ended = poll(&mut [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)], Some(&limit))?;
        let micros = start.elapsed().as_secs_f64() * 1e6;
        // Ended by itself, not by the signal.
        Ok((ended > 0 && process.0.wait()?.success()).then_some(micros))
    }

    fn medians(&self) -> Figures {
        std::array::from_fn(|column| median(&self.samples[column]))
    }
}

/// Ended when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // The child may have ended, and nothing is left to do if waiting fails.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Process {
    fn pid(&self) -> Result<Pid> {
        i32::try_from(self.0.id()).ok().and_then(Pid::from_raw).context("a process number")
    }

    /// RSS, dirty and page tables in KiB, CPU time since its fork in microseconds, all once it sleeps for good.
    fn when_idle(&mut self) -> Result<[f64; 4]> {
        let dir = PathBuf::from(format!("/proc/{}", self.0.id()));
        let read = |name: &str| fs::read_to_string(dir.join(name)).with_context(|| format!("{}/{name}", dir.display()));
        let start = Instant::now();
        let mut last = String::new();
        loop {
            let now = read("syscall")? + &read("schedstat")?;
            if now == last && read("stat")?.contains(") S ") {
                break;
            }
            last = now;
            ensure!(start.elapsed() < PATIENCE, "{} is not idle after {PATIENCE:?}", dir.display());
            std::thread::yield_now();
        }
        let rollup = read("smaps_rollup")?;
        let cpu = read("schedstat")?.split(' ').next().context("schedstat")?.parse::<f64>()? / 1000.0;
        Ok([kib(&rollup, "Rss:")?, kib(&rollup, "Private_Dirty:")?, kib(&read("status")?, "VmPTE:")?, cpu])
    }
}

/// The number in a line such as `Rss:  8 kB`.
fn kib(text: &str, name: &str) -> Result<f64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
    Ok(value.trim().trim_end_matches(" kB").parse()?)
}

fn header() -> String {
    let columns = COLUMNS.map(|(name, _)| format!(" {name:>20} |"));
    format!("| {:<16} |{}", "", columns.concat())
}

fn row(name: &str, figures: &Figures, unit: &Figures) -> String {
    let cells: String =
        (0..COLUMNS.len()).map(|n| format!(" {:>20} |", cell(figures[n], unit[n], COLUMNS[n].1))).collect();
    format!("| {name:<16} |{cells}")
}

fn cell(figure: Option<f64>, unit: Option<f64>, digits: usize) -> String {
    match (figure, unit) {
        (Some(figure), Some(unit)) if unit > 0.0 && figure != unit => {
            format!("{figure:.digits$} ({:.2})", figure / unit)
        }
        (Some(figure), _) => format!("{figure:.digits$}"),
        (None, _) => "does not obey".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
    }

    #[test]
    fn a_cell_shows_the_ratio_to_pause() {
        assert_eq!(cell(Some(8.0), Some(4.0), 0), "8 (2.00)");
        assert_eq!(cell(Some(4.0), Some(4.0), 1), "4.0");
        assert_eq!(cell(None, Some(4.0), 1), "does not obey");
    }
}
