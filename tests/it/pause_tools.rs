//! Processes for the tests of `pause`: started, watched and waited for without a sleep.

use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

/// Far above any time seen (microseconds), so that a busy machine fails no test.
const PATIENCE: Duration = Duration::from_secs(20);

/// The binary beside the test's own: built by the same profile.
pub(crate) fn binary() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let profile = own.ancestors().nth(2).context("the test binary lies outside of a target directory")?;
    let binary = profile.join("pause");
    ensure!(binary.exists(), "{} is missing: run `cargo build -p pause` with the same profile", binary.display());
    Ok(binary)
}

#[expect(clippy::disallowed_methods, reason = "a test starts programs")]
pub(crate) fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    Command::new(program)
}

/// A running pause and the program that started it. Both are ended when a test fails half-way.
pub(crate) struct Pause {
    starter: Child,
    pub(crate) pid: Pid,
}

impl Pause {
    /// As PID 1 of a new PID namespace.
    pub(crate) fn first() -> Result<Self> {
        let mut command = command("unshare");
        command.args(["--pid", "--fork", "--kill-child"]).arg(binary()?);
        Self::start(command)
    }

    /// Runs `command`, which becomes pause or has it as its only child, and waits until pause is idle.
    pub(crate) fn start(mut command: Command) -> Result<Self> {
        let starter = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        Self::from_starter(starter.with_context(|| format!("{command:?}"))?)
    }

    /// As `start`, for a program that runs already.
    pub(crate) fn from_starter(mut starter: Child) -> Result<Self> {
        let own = pid_of(&starter)?;
        let found = until_some("pause runs", || {
            if let Some(status) = starter.try_wait()? {
                bail!("it ended: {status}");
            }
            let family = std::iter::once(own).chain(children_of(own)?);
            Ok(family.into_iter().find(|pid| comm(*pid).is_ok_and(|name| name == "pause")))
        });
        let pause = Self { pid: *found.as_ref().unwrap_or(&own), starter };
        found?;
        until("pause is idle", || pause.is_idle())?;
        Ok(pause)
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(self.pid, signal).with_context(|| format!("kill({}, {signal:?})", self.pid))
    }

    pub(crate) fn status(&self) -> Result<String> {
        Ok(fs::read_to_string(format!("/proc/{}/status", self.pid))?)
    }

    /// In its last `read`, asleep.
    pub(crate) fn is_idle(&self) -> Result<bool> {
        let call = fs::read_to_string(format!("/proc/{}/syscall", self.pid))?;
        let read = if cfg!(target_arch = "x86_64") { "0 " } else { "63 " };
        Ok(call.starts_with(read) && comm(self.pid)? == "pause")
    }

    /// A shell in the PID namespace of this pause; what it leaves behind becomes an orphan there.
    pub(crate) fn enter(&self, script: &str) -> Command {
        let mut command = command("nsenter");
        command.args(["--target", &self.pid.to_string(), "--pid", "sh", "-c", script]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    pub(crate) fn inside(&self, script: &str) -> Result<()> {
        let status = wait(&mut self.enter(script).spawn()?)?;
        ensure!(status.success(), "{script}: {status}");
        Ok(())
    }

    /// Waits for the end: code 0, and exactly this on standard error.
    pub(crate) fn ends_well(mut self, message: &str) -> Result<()> {
        let status = wait(&mut self.starter)?;
        let mut stderr = String::new();
        self.starter.stderr.take().context("stderr")?.read_to_string(&mut stderr)?;
        ensure!(status.code() == Some(0), "{status}, signal {:?}: {stderr}", status.signal());
        ensure!(stderr == message, "standard error: {stderr:?}");
        Ok(())
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        // While the starter has not been waited for, its number and its child's can't have been given to others.
        if let Ok(None) = self.starter.try_wait() {
            kill_process(self.pid, Signal::KILL).ok();
            self.starter.kill().ok();
            self.starter.wait().ok();
        }
    }
}

pub(crate) fn pid_of(child: &Child) -> Result<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a process number")
}

/// Waits for the exit, by pidfd, no longer than `PATIENCE`.
pub(crate) fn wait(child: &mut Child) -> Result<ExitStatus> {
    let pidfd = pidfd_open(pid_of(child)?, PidfdFlags::empty())?;
    let limit = Timespec::try_from(PATIENCE)?;
    let ready = poll(&mut [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)], Some(&limit))?;
    if ready == 0 {
        child.kill()?;
        child.wait()?;
        bail!("it did not end within {PATIENCE:?}");
    }
    Ok(child.wait()?)
}

/// The exit, standard output and standard error of a program that writes little.
pub(crate) fn finish(mut child: Child) -> Result<(ExitStatus, String, String)> {
    let status = wait(&mut child)?;
    let (mut stdout, mut stderr) = (String::new(), String::new());
    if let Some(mut pipe) = child.stdout.take() {
        pipe.read_to_string(&mut stdout)?;
    }
    if let Some(mut pipe) = child.stderr.take() {
        pipe.read_to_string(&mut stderr)?;
    }
    Ok((status, stdout, stderr))
}

/// Asks until the answer is yes, no longer than `PATIENCE`. For what the kernel gives no event for.
pub(crate) fn until(what: &str, mut answer: impl FnMut() -> Result<bool>) -> Result<()> {
    until_some(what, || Ok(answer()?.then_some(())))
}

pub(crate) fn until_some<T>(what: &str, mut answer: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = answer()? {
            return Ok(value);
        }
        ensure!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::yield_now();
    }
}

/// The children of a process, zombies included.
pub(crate) fn children_of(parent: Pid) -> Result<Vec<Pid>> {
    let list = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
    list.split_whitespace().map(|pid| Pid::from_raw(pid.parse()?).context("a process number")).collect()
}

pub(crate) fn comm(pid: Pid) -> Result<String> {
    Ok(fs::read_to_string(format!("/proc/{pid}/comm"))?.trim_end().to_owned())
}

pub(crate) fn is_zombie(pid: Pid) -> Result<bool> {
    Ok(field(&fs::read_to_string(format!("/proc/{pid}/status"))?, "State")?.starts_with('Z'))
}

/// One line of a `Name:\tvalue` file.
pub(crate) fn field(text: &str, name: &str) -> Result<String> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(value.with_context(|| format!("no {name} in {text}"))?.trim().to_owned())
}
