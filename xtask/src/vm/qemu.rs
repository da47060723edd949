//! QEMU as an ordinary user: started, listened to over virtio, and ended in time.

use std::io::{BufRead, BufReader};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How guest instructions run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Accel {
    /// KVM when a guest really boots with it, else emulation.
    Auto,
    Kvm,
    Tcg,
}

/// A machine to start.
#[derive(Debug)]
pub struct Machine {
    pub kernel: PathBuf,
    pub initrd: PathBuf,
    pub command_line: String,
    pub accel: Accel,
    pub processors: u32,
    pub memory_mib: u32,
    /// Sockets and the console's log.
    pub dir: PathBuf,
    pub timeout: Duration,
    /// The console is the terminal (a shell inside).
    pub interactive: bool,
}

/// The guest's last line on the results port.
const EXIT: &str = "MONOPOD-EXIT ";

impl Machine {
    /// Boots, hands every line of the results port to `line`, and gives back the guest's exit code.
    pub fn run(&self, mut line: impl FnMut(&str)) -> Result<i32> {
        let socket = self.dir.join("results.sock");
        match std::fs::remove_file(&socket) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).context("old socket"),
            _ => {}
        }
        let listener = UnixListener::bind(&socket).with_context(|| format!("bind {}", socket.display()))?;
        let mut guest = Guest::start(self.command(&socket))?;
        let deadline = Instant::now() + self.timeout;
        let results = accept(&listener, &mut guest, deadline)?;
        results.set_read_timeout(Some(Duration::from_millis(500)))?;
        let mut results = BufReader::new(results);
        let mut text = String::new();
        loop {
            match results.read_line(&mut text) {
                Ok(0) => bail!("the machine ended without a result; see {}", self.console_log().display()),
                Ok(_) if text.ends_with('\n') => {
                    if let Some(code) = text.trim().strip_prefix(EXIT) {
                        return code.parse().context("exit code of the guest");
                    }
                    line(text.trim_end());
                    text.clear();
                }
                Ok(_) => {}
                Err(error) if is_timeout(&error) => {}
                Err(error) => return Err(error).context("read results"),
            }
            if Instant::now() > deadline {
                bail!("the machine did not end within {:?}; see {}", self.timeout, self.console_log().display());
            }
        }
    }

    /// Runs with the terminal as the machine's console.
    pub fn shell(&self) -> Result<()> {
        let status = self.command(&self.dir.join("results.sock")).status().context("start qemu-system-x86_64")?;
        if !status.success() {
            bail!("qemu-system-x86_64 ended with {status}");
        }
        Ok(())
    }

    pub fn console_log(&self) -> PathBuf {
        self.dir.join("console.log")
    }

    fn command(&self, socket: &Path) -> Command {
        let mut command = Command::new("qemu-system-x86_64");
        let accel = match self.accel {
            Accel::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Accel::Auto | Accel::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max"],
        };
        let panic = "panic=-1 console=ttyS0 quiet loglevel=4";
        command
            .args(accel)
            .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-machine", "q35"])
            .args(["-smp", &self.processors.to_string(), "-m", &format!("{}M", self.memory_mib)])
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(&self.initrd)
            .args(["-append", &format!("{panic} {}", self.command_line)])
            .args(["-device", "virtio-serial-pci"]);
        if self.interactive {
            command.args(["-serial", "mon:stdio"]);
        } else {
            command
                .args(["-serial", &format!("file:{}", self.console_log().display())])
                .args(["-chardev", &format!("socket,id=results,path={}", socket.display())])
                .args(["-device", "virtserialport,chardev=results,name=monopod.results"])
                .stdin(Stdio::null());
        }
        command
    }
}

/// A running QEMU; it never outlives this.
#[derive(Debug)]
struct Guest(Child);

impl Guest {
    fn start(mut command: Command) -> Result<Self> {
        Ok(Self(command.spawn().context("start qemu-system-x86_64 (package qemu-system-x86)")?))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Fails when it has ended already, which is what we want.
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// QEMU connects before it starts the guest, unless it refuses its arguments.
fn accept(listener: &UnixListener, guest: &mut Guest, deadline: Instant) -> Result<UnixStream> {
    use rustix::event::{PollFd, PollFlags, Timespec};
    loop {
        let mut fds = [PollFd::new(listener, PollFlags::IN)];
        let wait = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
        if rustix::event::poll(&mut fds, Some(&wait)).context("poll")? > 0 {
            return Ok(listener.accept().context("accept")?.0);
        }
        if let Some(status) = guest.0.try_wait()? {
            bail!("qemu-system-x86_64 ended with {status}");
        }
        if Instant::now() > deadline {
            bail!("qemu-system-x86_64 did not connect");
        }
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
}
