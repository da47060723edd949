//! The other side of the virtual machine: this binary is its init, and then runs the ring's tests one by one.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::mount::MountFlags;
use rustix::system::RebootCommand;

use crate::leaks;

/// Longest a test may take under emulation before it is ended and called a hang.
const TEST_TIMEOUT: Duration = Duration::from_secs(120);
const RESULTS_PORT: &str = "monopod.results";
/// The slowest tests are listed, this many.
const SLOWEST: usize = 10;

/// Sets the machine up, runs the tests, says how it went, and switches the machine off.
pub fn init() -> ! {
    let outcome = set_up().and_then(|()| run());
    if let Err(error) = &outcome {
        eprintln!("init: {error:?}");
    }
    rustix::fs::sync();
    let off = rustix::system::reboot(RebootCommand::PowerOff);
    eprintln!("init: power off: {off:?}");
    loop {
        std::thread::park();
    }
}

fn set_up() -> Result<()> {
    for (kind, target, data) in [
        (c"proc", c"/proc", None),
        (c"sysfs", c"/sys", None),
        (c"devtmpfs", c"/dev", None),
        (c"tmpfs", c"/run", Some(c"mode=755")),
        (c"tmpfs", c"/tmp", Some(c"mode=1777")),
        (c"tmpfs", c"/var", Some(c"mode=755")),
        (c"cgroup2", c"/sys/fs/cgroup", Some(c"nsdelegate")),
    ] {
        rustix::mount::mount(kind, target, kind, MountFlags::empty(), data)
            .with_context(|| format!("mount {kind:?} on {target:?}"))?;
    }
    for (kind, dir) in [(c"devpts", "/dev/pts"), (c"tmpfs", "/dev/shm"), (c"mqueue", "/dev/mqueue")] {
        std::fs::create_dir_all(dir)?;
        rustix::mount::mount(kind, dir, kind, MountFlags::empty(), None).with_context(|| format!("mount {dir}"))?;
    }
    for dir in ["/var/lib", "/var/log", "/var/tmp"] {
        std::fs::create_dir_all(dir)?;
    }
    load_modules()?;
    rustix::system::sethostname(b"testnode").context("sethostname")?;
    Ok(())
}

fn load_modules() -> Result<()> {
    let mut modules: Vec<PathBuf> = std::fs::read_dir("/modules")?.flatten().map(|entry| entry.path()).collect();
    modules.sort();
    for module in modules {
        let file = File::open(&module)?;
        match rustix::system::finit_module(&file, c"", 0) {
            Ok(()) | Err(rustix::io::Errno::EXIST | rustix::io::Errno::NODEV) => {}
            Err(error) => bail!("finit_module({}): {error}", module.display()),
        }
    }
    Ok(())
}

fn run() -> Result<()> {
    let command_line = std::fs::read_to_string("/proc/cmdline")?;
    let Some(port) = results_port()? else {
        let status = command("/bin/sh", &[]).status().context("start a shell")?;
        println!("shell: {status}");
        return Ok(());
    };
    let mut results = OpenOptions::new().write(true).open(port)?;
    let code = if command_line.contains("monopod.probe") { 0 } else { i32::from(!run_tests(&mut results)?) };
    writeln!(results, "MONOPOD-EXIT {code}")?;
    Ok(())
}

/// The port that the host listens to; none when the console is a terminal.
fn results_port() -> Result<Option<PathBuf>> {
    let Ok(ports) = std::fs::read_dir("/sys/class/virtio-ports") else { return Ok(None) };
    for port in ports.flatten() {
        let name = std::fs::read_to_string(port.path().join("name")).unwrap_or_default();
        if name.trim() == RESULTS_PORT {
            return Ok(Some(Path::new("/dev").join(port.file_name())));
        }
    }
    Ok(None)
}

/// Every test in a process of its own, so that a hang costs one test; true when all passed.
fn run_tests(results: &mut File) -> Result<bool> {
    let filters: Vec<String> = serde_json::from_slice(&std::fs::read("/etc/monopod-tests.json")?)?;
    let names = list(&filters)?;
    writeln!(results, "\nrunning {} tests", names.len())?;
    let mut failed = Vec::new();
    let mut times = Vec::new();
    for name in &names {
        let before = leaks::Snapshot::take()?;
        let started = Instant::now();
        let mut outcome = one(name)?;
        if let (Outcome::Passed, Some(left)) = (&outcome, before.left_behind()?) {
            outcome = Outcome::Failed(format!("left behind: {left}"));
        }
        times.push((started.elapsed(), name));
        let millis = started.elapsed().as_millis();
        match outcome {
            Outcome::Passed => writeln!(results, "test {name} ... ok ({millis} ms)")?,
            Outcome::Failed(why) => {
                writeln!(results, "test {name} ... FAILED ({millis} ms)\n{}\n", why.trim_end())?;
                failed.push(name);
            }
        }
    }
    times.sort();
    let slowest = times.iter().rev().take(SLOWEST);
    let slowest: Vec<_> = slowest.map(|(time, name)| format!("  {:>7} ms  {name}", time.as_millis())).collect();
    writeln!(results, "\nslowest:\n{}\n", slowest.join("\n"))?;
    let verdict = if failed.is_empty() { "ok" } else { "FAILED" };
    let passed = names.len() - failed.len();
    writeln!(results, "test result: {verdict}. {passed} passed; {} failed", failed.len())?;
    Ok(failed.is_empty())
}

fn list(filters: &[String]) -> Result<Vec<String>> {
    let mut arguments = vec!["--list".to_owned()];
    arguments.extend(filters.iter().cloned());
    let output = command("/init", &arguments).output().context("list the tests")?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(|line| line.strip_suffix(": test").map(str::to_owned)).collect())
}

enum Outcome {
    Passed,
    Failed(String),
}

fn one(name: &str) -> Result<Outcome> {
    let log = "/run/test.log";
    let file = File::create(log)?;
    let arguments = ["--exact".to_owned(), name.to_owned()];
    let mut test = command("/init", &arguments)
        .stdout(file.try_clone()?)
        .stderr(file)
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .context("start a test")?;
    let pidfd =
        rustix::process::pidfd_open(rustix::process::Pid::from_child(&test), rustix::process::PidfdFlags::empty())?;
    let mut fds = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
    let limit = rustix::time::Timespec { tv_sec: TEST_TIMEOUT.as_secs() as i64, tv_nsec: 0 };
    let ended = rustix::event::poll(&mut fds, Some(&limit))? > 0;
    if !ended {
        let group = rustix::process::Pid::from_child(&test);
        let _gone = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    let status = test.wait()?;
    let output = std::fs::read(log)?;
    let output = String::from_utf8_lossy(&output);
    Ok(match (ended, status.success()) {
        (true, true) => Outcome::Passed,
        (true, false) => Outcome::Failed(output.into_owned()),
        (false, _) => Outcome::Failed(format!("hang: ended after {TEST_TIMEOUT:?}\n{output}")),
    })
}

fn command(program: &str, arguments: &[String]) -> Command {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("MONOPOD_RING", "vm")
        .env("MONOPOD_BIN", "/bin")
        .env("PATH", "/bin")
        .env("HOME", "/root");
    command
}
