//! A private host for a test: network and mount namespaces of its own, with empty directories where Monopod keeps things.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sched::CloneFlags;
use rustix::mount::{MountFlags, MountPropagationFlags};

/// Longest that a test waits for something that should come at once.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Directories that a test gets empty.
const OWN: &[&str] = &["/run", "/var/lib/monopod", "/var/log/pods", "/var/log/containers", "/tmp"];

/// Runs `body` on a thread of its own inside new network and mount namespaces. Programs that it starts are inside, too.
pub fn private_host(body: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            enter().context("make a private host (needs root)")?;
            body()
        });
        thread.join().unwrap_or_else(|_| bail!("the test panicked"))
    })
}

fn enter() -> Result<()> {
    nix::sched::unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).context("unshare")?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).context("make mounts private")?;
    for dir in OWN {
        std::fs::create_dir_all(dir).with_context(|| format!("mkdir {dir}"))?;
        // `/run` also holds what name resolution and package tools want; an empty one is what a fresh boot has.
        rustix::mount::mount("tmpfs", *dir, "tmpfs", MountFlags::empty(), c"mode=1777")
            .with_context(|| format!("mount {dir}"))?;
    }
    run("ip", &["link", "set", "lo", "up"])?;
    // A way out, as every machine has one: names are routed there and nothing answers.
    run("ip", &["link", "add", "uplink", "type", "bridge"])?;
    run("ip", &["address", "add", "192.0.2.2/24", "dev", "uplink"])?;
    run("ip", &["link", "set", "uplink", "up"])?;
    run("ip", &["route", "add", "default", "via", "192.0.2.1"])?;
    Ok(())
}

/// The directory with the binaries under test.
pub fn bin_dir() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("MONOPOD_BIN") {
        return Ok(dir.into());
    }
    let exe = std::env::current_exe().context("path of the tests")?;
    // target/<triple>/<profile>/deps/it-<hash>
    let dir = exe.parent().and_then(Path::parent).context("directory of the tests")?;
    ensure!(
        dir.join("monopod").exists() && dir.join("pause").exists(),
        "{} holds no monopod and pause: run `cargo xtask test`, which builds them first",
        dir.display()
    );
    Ok(dir.to_path_buf())
}

/// A binary under test.
pub fn binary(name: &str) -> Result<Command> {
    Ok(Command::new(bin_dir()?.join(name)))
}

/// Runs a program that has to succeed; what it wrote to standard output.
pub fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output().with_context(|| format!("start {program}"))?;
    checked(output, &format!("{program} {}", arguments.join(" ")))
}

fn checked(output: Output, what: &str) -> Result<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    ensure!(output.status.success(), "{what}: {}\n{}{}", output.status, text(&output.stdout), text(&output.stderr));
    Ok(text(&output.stdout))
}

/// A running program whose output a test waits for.
#[derive(Debug)]
pub struct Running {
    child: Child,
    out: std::sync::mpsc::Receiver<u8>,
    pub seen: String,
}

impl Running {
    pub fn start(mut command: Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("start")?;
        let mut pipe = child.stdout.take().context("pipe")?;
        let (send, out) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = pipe.read(&mut buffer) {
                for byte in buffer.iter().take(read) {
                    if send.send(*byte).is_err() {
                        return;
                    }
                }
            }
        });
        Ok(Self { child, out, seen: String::new() })
    }

    /// Waits until the output holds `text`.
    pub fn wait_for(&mut self, text: &str) -> Result<()> {
        while !self.seen.contains(text) {
            match self.out.recv_timeout(PATIENCE) {
                Ok(byte) => self.seen.push(char::from(byte)),
                Err(_) => bail!("the output never held {text:?}; it was:\n{}", self.seen),
            }
        }
        Ok(())
    }

    pub fn signal(&self, signal: rustix::process::Signal) -> Result<()> {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).context("kill")
    }

    /// Waits for the end; the whole output is in `seen` then.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        while let Ok(byte) = self.out.recv_timeout(PATIENCE) {
            self.seen.push(char::from(byte));
        }
        self.child.wait().context("wait")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails when it has ended, which is what tests usually wait for.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}
