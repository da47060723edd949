//! The other side of the virtual machine: this binary is its init. It sets the machine up and does what it was ordered.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context as _, Result, bail};
use rustix::mount::MountFlags;
use rustix::system::RebootCommand;

use crate::{vm_root, vm_runner};

const RESULTS_PORT: &str = "monopod.results";
/// What `/dev/console` stands for; only the real one can be a controlling terminal.
const CONSOLE: &str = "/dev/ttyS0";
const ORDERS: &str = "/etc/monopod-vm.json";
/// A failure of the machine rather than of a test.
const BROKEN: u8 = 70;

/// What the host wants.
#[derive(Debug, Clone)]
pub struct Orders {
    pub arguments: Vec<String>,
    pub rings: Vec<String>,
    pub planted: bool,
    pub test_seconds: u64,
    pub keep: bool,
    pub program: Vec<String>,
}

impl Orders {
    pub fn read() -> Result<Self> {
        let bytes = std::fs::read(ORDERS).with_context(|| format!("read {ORDERS}"))?;
        let all: serde_json::Value = serde_json::from_slice(&bytes).with_context(|| format!("parse {ORDERS}"))?;
        let words = |key: &str| {
            let words = all[key].as_array().into_iter().flatten().filter_map(serde_json::Value::as_str);
            words.map(str::to_owned).collect()
        };
        let yes = |key: &str| all[key].as_bool().unwrap_or(false);
        Ok(Self {
            arguments: words("arguments"),
            rings: words("rings"),
            planted: yes("planted"),
            test_seconds: all["test_seconds"].as_u64().unwrap_or(0),
            keep: yes("keep"),
            program: words("program"),
        })
    }
}

/// Sets the machine up, does what was ordered, says how it went, and switches the machine off.
pub fn init() -> ! {
    let done = set_up().and_then(|()| obey());
    if let Err(error) = &done {
        eprintln!("init: {error:?}");
    }
    power_off()
}

/// Ends the machine from whichever process.
pub fn power_off() -> ! {
    rustix::fs::sync();
    let off = rustix::system::reboot(RebootCommand::PowerOff);
    eprintln!("init: power off: {off:?}");
    loop {
        std::thread::park();
    }
}

/// The kernel's first filesystem has no parent, and pivot_root(2) refuses to leave it; every real machine has left it.
fn leave_rootfs() -> Result<()> {
    let own = "/rootfs";
    std::fs::create_dir(own).context("mkdir")?;
    rustix::mount::mount_bind("/", own).context("bind the root")?;
    std::env::set_current_dir(own).context("chdir")?;
    rustix::mount::mount_move(own, "/").context("move the root")?;
    rustix::process::chroot(".").context("chroot")?;
    std::env::set_current_dir("/").context("chdir")
}

fn set_up() -> Result<()> {
    leave_rootfs()?;
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

fn obey() -> Result<()> {
    let command_line = std::fs::read_to_string("/proc/cmdline")?;
    let option =
        |name: &str| command_line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    let mut results = open_results()?;
    if option("monopod.mode") == Some("probe") {
        return finish(&mut results, 0);
    }
    let orders = Orders::read()?;
    network()?;
    if option("monopod.profile") == Some("systemd") {
        // Comes back only when it failed.
        return vm_root::boot(&orders);
    }
    match option("monopod.mode") {
        Some("tests") => tests(&orders, &mut results),
        Some("program") => {
            let status = on_console(&orders.program)?;
            finish(&mut results, code_of(status))
        }
        _ => {
            on_console(&["/bin/sh".to_owned()])?;
            finish(&mut results, 0)
        }
    }
}

/// Runs the ordered tests and ends the conversation with the host.
pub fn tests(orders: &Orders, results: &mut File) -> Result<()> {
    let outcome = vm_runner::run(orders, results);
    let code = match &outcome {
        Ok(passed) => u8::from(!passed),
        Err(error) => {
            writeln!(results, "the machine's runner failed: {error:?}")?;
            BROKEN
        }
    };
    if code != 0 && orders.keep {
        writeln!(results, "a shell is on the machine's console, which is this terminal; `exit` ends both")?;
        on_console(&["/bin/sh".to_owned()])?;
    }
    finish(results, code)
}

fn finish(results: &mut File, code: u8) -> Result<()> {
    writeln!(results, "MONOPOD-EXIT {code}").context("write the exit code")
}

/// As a shell gives it.
fn code_of(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}

/// The loopback device, and a way out as every machine has one: names are routed there and nothing answers.
fn network() -> Result<()> {
    for arguments in [
        "link set lo up",
        "link add uplink type dummy",
        "address add 192.0.2.2/24 dev uplink",
        "link set uplink up",
        "route add default via 192.0.2.1",
    ] {
        let words: Vec<String> = arguments.split(' ').map(str::to_owned).collect();
        let status = command("ip", &words).status().context("start ip")?;
        if !status.success() {
            bail!("ip {arguments}: {status}");
        }
    }
    Ok(())
}

/// The port that the host listens to.
pub fn open_results() -> Result<File> {
    for port in std::fs::read_dir("/sys/class/virtio-ports").context("no virtio port")?.flatten() {
        let name = std::fs::read_to_string(port.path().join("name")).unwrap_or_default();
        if name.trim() == RESULTS_PORT {
            let path = Path::new("/dev").join(port.file_name());
            let mut file = OpenOptions::new().write(true).open(&path);
            let file = file.as_mut().map_err(|error| anyhow::anyhow!("open {}: {error}", path.display()))?;
            writeln!(file, "MONOPOD-UP")?;
            return file.try_clone().context("dup");
        }
    }
    bail!("no virtio port is called {RESULTS_PORT}")
}

/// Runs a program with the console as its terminal, so that Ctrl-C reaches it.
fn on_console(program: &[String]) -> Result<ExitStatus> {
    let console = OpenOptions::new().read(true).write(true).open(CONSOLE).with_context(|| format!("open {CONSOLE}"))?;
    let arguments: Vec<String> =
        ["setsid", "-c"].iter().map(|word| (*word).to_owned()).chain(program.iter().cloned()).collect();
    command("/bin/busybox", &arguments)
        .stdin(console.try_clone()?)
        .stdout(console.try_clone()?)
        .stderr(console)
        .env("TERM", "vt100")
        .status()
        .with_context(|| format!("start {program:?}"))
}

/// A program as a test's process sees the machine.
pub fn command(program: &str, arguments: &[String]) -> Command {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("MONOPOD_BIN", "/bin")
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", "/root")
        .env_remove(vm_root::RUNNER)
        .current_dir("/");
    command
}

/// A test in a process and a process group of its own.
pub fn test_process(
    program: &str,
    arguments: &[String],
    one: Option<&str>,
    orders: &Orders,
    log: File,
) -> Result<std::process::Child> {
    let mut command = command(program, arguments);
    if let Some(name) = one {
        command.env(crate::ONE, name);
    }
    command.env("MONOPOD_RING", orders.rings.join(","));
    if orders.planted {
        command.env("MONOPOD_PLANTED", "1");
    }
    command.stdout(log.try_clone()?).stderr(log).stdin(Stdio::null()).process_group(0).spawn().context("start a test")
}
