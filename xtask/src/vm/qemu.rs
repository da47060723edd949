//! QEMU as an ordinary user: started, listened to over virtio, and ended in time.

use std::io::{BufRead, BufReader};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// How guest instructions run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Accel {
    /// KVM when a guest really boots with it, else emulation.
    Auto,
    Kvm,
    Tcg,
}

/// What the machine's serial console is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Console {
    /// A file that is looked at when something went wrong.
    Log,
    /// This process's terminal, and the file.
    Terminal,
}

/// A machine to start.
#[derive(Debug, Clone)]
pub struct Machine {
    pub kernel: PathBuf,
    pub initrd: PathBuf,
    /// The image of a root filesystem, read-only.
    pub root: Option<PathBuf>,
    /// A disk that outlives a reboot of the machine, which may happen then.
    pub disk: Option<PathBuf>,
    pub command_line: String,
    pub accel: Accel,
    pub processors: u32,
    pub memory_mib: u32,
    /// Sockets and the console's log.
    pub dir: PathBuf,
    pub console: Console,
    pub limits: Limits,
}

/// How long a machine may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From the start to the guest's first word.
    pub boot: Duration,
    /// Between two words.
    pub silence: Duration,
    /// From the start to the end.
    pub whole: Duration,
}

/// What an emulated kernel is told. Translated code is kept by its address: a program that is at another one each time is
/// translated each time, which is most of what a short one costs. And without a TSC that it trusts, every look at the clock is
/// a question to an emulated device.
const FOR_EMULATION: &str = "norandmaps tsc=reliable";
/// Everything that can be emulated, but for fast copies of strings: programs that find them copy and clear memory by the byte,
/// which emulation does one after the other.
const EMULATED: &str = "max,-erms,-fsrm";
/// The guest's first line on the results port.
const UP: &str = "MONOPOD-UP";
/// The guest's last line there.
const EXIT: &str = "MONOPOD-EXIT ";
/// The most first words of one run: init has one, the service that runs the tests another, and a test may ask for a reboot.
const MOST_UPS: usize = 4;
/// Lines of the console that a message shows.
const CONSOLE_LINES: usize = 30;
/// How often limits are looked at.
const TICK: Duration = Duration::from_millis(500);

/// How a run went.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    pub code: u8,
    /// From the start of QEMU to the guest's first word.
    pub boot: Duration,
}

impl Machine {
    /// Boots, hands every line of the results port to `line`, and gives back the guest's exit code.
    pub fn run(&self, line: impl FnMut(&str)) -> Result<Ended> {
        let socket = self.dir.join("results.sock");
        for old in [&socket, &self.console_log()] {
            match std::fs::remove_file(old) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).context("old run"),
                _ => {}
            }
        }
        let listener = UnixListener::bind(&socket).with_context(|| format!("bind {}", socket.display()))?;
        let mut guest = Guest::start(self.command(&socket))?;
        let started = Instant::now();
        let port = accept(&listener, &mut guest, started + self.limits.boot)?;
        let ended = self.listen(port, started, line)?;
        if self.console == Console::Terminal {
            // It gives the terminal back as it was.
            guest.0.wait().context("wait for qemu-system-x86_64")?;
        }
        Ok(ended)
    }

    fn listen(&self, port: UnixStream, started: Instant, mut line: impl FnMut(&str)) -> Result<Ended> {
        port.set_read_timeout(Some(TICK))?;
        let mut port = BufReader::new(port);
        let mut text = Vec::new();
        let (mut boot, mut ups) = (None, 0);
        let mut heard = started;
        loop {
            match port.read_until(b'\n', &mut text) {
                Ok(_) if text.ends_with(b"\n") => {
                    heard = Instant::now();
                    let said = String::from_utf8_lossy(&text).trim_end().to_owned();
                    text.clear();
                    if said == UP {
                        boot.get_or_insert(started.elapsed());
                        ups += 1;
                        ensure!(ups <= MOST_UPS, "the machine boots again and again{}", self.console_tail());
                    } else if let Some(code) = said.strip_prefix(EXIT) {
                        let code = code.parse().context("exit code of the guest")?;
                        return Ok(Ended { code, boot: boot.unwrap_or_default() });
                    } else {
                        line(&said);
                    }
                }
                Ok(_) => bail!("the machine ended without a result{}", self.console_tail()),
                Err(error) if is_timeout(&error) => {}
                Err(error) => return Err(error).context("read results"),
            }
            if let Some(passed) = self.limits.passed(started, heard, boot.is_some()) {
                bail!("{passed}{}", self.console_tail());
            }
        }
    }

    pub fn console_log(&self) -> PathBuf {
        self.dir.join("console.log")
    }

    /// What the kernel and init said last, for a message.
    fn console_tail(&self) -> String {
        let log = self.console_log();
        let text = String::from_utf8_lossy(&std::fs::read(&log).unwrap_or_default()).into_owned();
        let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        let last = lines.get(lines.len().saturating_sub(CONSOLE_LINES)..).unwrap_or_default();
        if last.is_empty() {
            return format!("; its console ({}) is empty", log.display());
        }
        format!("; the end of its console ({}):\n  {}", log.display(), last.join("\n  "))
    }

    fn command(&self, socket: &Path) -> Command {
        // QEMU never outlives the task, however that ends.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64"]);
        let (accel, for_accel) = match self.accel {
            Accel::Kvm => (["-accel", "kvm", "-cpu", "host"], ""),
            Accel::Auto | Accel::Tcg => (["-accel", "tcg,thread=multi", "-cpu", EMULATED], FOR_EMULATION),
        };
        command
            .args(accel)
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35"])
            .args(["-smp", &self.processors.to_string(), "-m", &format!("{}M", self.memory_mib)])
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(&self.initrd)
            .args(["-append", &format!("panic=-1 console=ttyS0 quiet loglevel=4 {for_accel} {}", self.command_line)])
            .args(["-device", "virtio-serial-pci"])
            .args(["-chardev", &self.console_device(), "-serial", "chardev:console"])
            .args(["-chardev", &format!("socket,id=results,path={}", socket.display())])
            .args(["-device", "virtserialport,chardev=results,name=monopod.results"]);
        if let Some(root) = &self.root {
            let drive = format!("file={},format=raw,if=none,id=root,readonly=on", root.display());
            command.args(["-drive", &drive, "-device", "virtio-blk-pci,drive=root"]);
        }
        match &self.disk {
            Some(disk) => {
                // What the host loses is nobody's.
                let drive = format!("file={},format=raw,if=none,id=disk,cache=unsafe", disk.display());
                command.args(["-drive", &drive, "-device", "virtio-blk-pci,drive=disk"]);
            }
            None => drop(command.arg("-no-reboot")),
        }
        match self.console {
            Console::Log => command.stdin(Stdio::null()),
            // Ctrl-A X ends QEMU, whatever the guest does.
            Console::Terminal => command.args(["-mon", "chardev=console,mode=readline"]),
        };
        command
    }

    fn console_device(&self) -> String {
        let log = self.console_log();
        match self.console {
            Console::Log => format!("file,id=console,path={}", log.display()),
            // Ctrl-C belongs to the guest.
            Console::Terminal => format!("stdio,id=console,mux=on,signal=off,logfile={}", log.display()),
        }
    }
}

impl Limits {
    /// What took too long, if anything did.
    fn passed(&self, started: Instant, heard: Instant, up: bool) -> Option<String> {
        if !up && started.elapsed() > self.boot {
            return Some(format!("the machine did not boot within {:?}", self.boot));
        }
        if heard.elapsed() > self.silence {
            return Some(format!("the machine said nothing for {:?}", self.silence));
        }
        (started.elapsed() > self.whole).then(|| format!("the machine did not end within {:?}", self.whole))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_is_named_when_it_has_passed() {
        let second = Duration::from_secs(1);
        let limits = Limits { boot: second, silence: 3 * second, whole: 10 * second };
        let now = Instant::now();
        let ago = |seconds: u32| now.checked_sub(seconds * second).unwrap();
        let table = [
            (0, 0, false, None),
            (2, 2, false, Some("did not boot within 1s")),
            (2, 0, true, None),
            (5, 4, true, Some("said nothing for 3s")),
            (11, 0, true, Some("did not end within 10s")),
        ];
        for (started, heard, up, expected) in table {
            let passed = limits.passed(ago(started), ago(heard), up);
            match expected {
                None => assert_eq!(passed, None),
                Some(text) => assert!(passed.unwrap().contains(text), "{text}"),
            }
        }
    }
}
