//! The tests' second ring, in a virtual machine of our own.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

use crate::build::{self, Profile};
use crate::vm::cpio::Archive;
use crate::vm::kernel::{self, Kernel};
use crate::vm::qemu::{Accel, Machine};
use crate::{apt::Apt, images, setup};

/// Boots a virtual machine and runs the tests that need one, as an ordinary user.
#[derive(Debug, clap::Args)]
pub struct E2e {
    /// Only tests whose name contains this.
    filter: Option<String>,
    /// A prompt inside the machine instead of the tests.
    #[arg(long)]
    shell: bool,
    /// Keeps the machine's files (console log, initramfs) after a success, too.
    #[arg(long)]
    keep: bool,
    /// A kernel package other than Debian's newest cloud kernel.
    #[arg(long, value_name = "PACKAGE")]
    kernel: Option<String>,
    /// Processors of the machine.
    #[arg(long, default_value_t = 2)]
    smp: u32,
    /// Memory of the machine, MiB.
    #[arg(long, default_value_t = 1536)]
    mem: u32,
    #[arg(long, value_enum, default_value_t = Accel::Auto)]
    accel: Accel,
}

/// The whole ring under emulation; each test has a limit of its own inside.
const TIMEOUT: Duration = Duration::from_secs(25 * 60);
/// A boot with nothing to do, with a real KVM; emulation takes about two seconds.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

impl E2e {
    pub fn everything() -> Self {
        Self { filter: None, shell: false, keep: false, kernel: None, smp: 2, mem: 1536, accel: Accel::Auto }
    }

    pub fn run(self) -> Result<ExitCode> {
        let sh = build::shell()?;
        setup::packages(&sh, setup::BUILD)?;
        setup::packages(&sh, setup::VM)?;
        let mut phases = Phases::new();
        let kernel = kernel::fetch(&sh, self.kernel.as_deref())?;
        phases.done("kernel");
        let bin = build::binaries(&sh, Profile::Ci)?;
        let it = test_binary(&sh)?;
        phases.done("build");
        let images = [images::image("busybox")?, images::image("nginx")?];
        phases.done("images");
        let dir = build::root().join("target/vm/run");
        sh.remove_path(&dir)?;
        sh.create_dir(&dir)?;
        let initrd = dir.join("initrd");
        self.pack(&sh, &initrd, &kernel, &bin, &it, &images)?;
        phases.done("initramfs");
        let machine = self.machine(&kernel, initrd, &dir)?;
        phases.done("probe of KVM");
        if self.shell {
            machine.shell()?;
            return Ok(ExitCode::SUCCESS);
        }
        let code = machine.run(|line| println!("{line}"))?;
        phases.done("tests");
        phases.print();
        if code != 0 || self.keep {
            eprintln!("the machine's files are in {}", dir.display());
        }
        Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
    }

    fn machine(&self, kernel: &Kernel, initrd: PathBuf, dir: &Path) -> Result<Machine> {
        let mut machine = Machine {
            kernel: kernel.image.clone(),
            initrd,
            command_line: String::new(),
            accel: self.accel,
            processors: self.smp,
            memory_mib: self.mem,
            dir: dir.to_path_buf(),
            timeout: TIMEOUT,
            interactive: self.shell,
        };
        if machine.accel == Accel::Auto {
            machine.accel = if kvm_works(&machine)? { Accel::Kvm } else { Accel::Tcg };
        }
        Ok(machine)
    }

    fn pack(
        &self,
        sh: &Shell,
        initrd: &Path,
        kernel: &Kernel,
        bin: &Path,
        it: &Path,
        images: &[PathBuf],
    ) -> Result<()> {
        let file = std::fs::File::create(initrd).with_context(|| format!("create {}", initrd.display()))?;
        let mut archive = Archive::new(std::io::BufWriter::new(file));
        for dir in [
            "bin",
            "dev",
            "etc",
            "images",
            "lib",
            "modules",
            "proc",
            "root",
            "run",
            "sys",
            "tmp",
            "usr",
            "usr/bin",
            "usr/sbin",
            "var",
            "var/lib",
            "var/log",
            "manifests",
        ] {
            archive.directory(dir, 0o755)?;
        }
        // The kernel opens it for us before anything is mounted.
        archive.character_device("dev/console", 0o600, 5, 1)?;
        archive.file("init", 0o755, &std::fs::read(it)?)?;
        for name in ["monopod", "monitor", "pause"] {
            archive.file(&format!("bin/{name}"), 0o755, &std::fs::read(bin.join(name))?)?;
        }
        self.pack_tools(sh, &mut archive)?;
        for image in images {
            let name = image.file_name().and_then(|name| name.to_str()).context("name of an image")?;
            archive.file(&format!("images/{name}"), 0o644, &std::fs::read(image)?)?;
        }
        for (number, module) in kernel.modules.iter().enumerate() {
            let name = module.file_stem().and_then(|name| name.to_str()).unwrap_or("module");
            archive.file(&format!("modules/{number:03}-{name}"), 0o644, &kernel::content(module)?)?;
        }
        for manifest in sh.read_dir(build::root().join("tests/manifests"))? {
            let name = manifest.file_name().and_then(|name| name.to_str()).context("name of a manifest")?;
            archive.file(&format!("manifests/{name}"), 0o644, &std::fs::read(&manifest)?)?;
        }
        let arguments: Vec<&str> = self.filter.as_deref().into_iter().collect();
        archive.file("etc/monopod-tests.json", 0o644, serde_json::to_string(&arguments)?.as_bytes())?;
        archive.finish()?;
        Ok(())
    }

    /// A shell and the usual commands, for `--shell` and for tests that look from outside.
    fn pack_tools<W: std::io::Write>(&self, sh: &Shell, archive: &mut Archive<W>) -> Result<()> {
        let dir = build::root().join("target/vm/busybox");
        Apt::open(sh)?.extract("busybox-static", &dir)?;
        let busybox = std::fs::read(dir.join("bin/busybox")).or_else(|_| std::fs::read(dir.join("usr/bin/busybox")))?;
        archive.file("bin/busybox", 0o755, &busybox)?;
        for applet in [
            "sh", "ls", "cat", "ps", "ip", "mount", "umount", "ping", "sleep", "echo", "grep", "find", "dmesg", "id",
            "wget", "nc", "poweroff", "top", "stat", "head", "tail",
        ] {
            archive.symlink(&format!("bin/{applet}"), "busybox")?;
        }
        archive.file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n")?;
        archive.file("etc/hosts", 0o644, b"127.0.0.1\tlocalhost\n")?;
        archive.file("etc/resolv.conf", 0o644, b"nameserver 192.0.2.53\nsearch example.test\n")?;
        Ok(())
    }
}

/// The device file says little: only a guest that boots does.
fn kvm_works(machine: &Machine) -> Result<bool> {
    let usable = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
    if !usable {
        eprintln!("/dev/kvm can't be used here: emulating");
        return Ok(false);
    }
    let probe = Machine {
        accel: Accel::Kvm,
        command_line: "monopod.probe".to_owned(),
        timeout: PROBE_TIMEOUT,
        kernel: machine.kernel.clone(),
        initrd: machine.initrd.clone(),
        dir: machine.dir.clone(),
        ..*machine
    };
    let works = probe.run(|_| {}).is_ok_and(|code| code == 0);
    if !works {
        eprintln!("/dev/kvm exists but boots no guest: emulating");
    }
    Ok(works)
}

/// The tests' binary, found by what cargo says it built.
fn test_binary(sh: &Shell) -> Result<PathBuf> {
    let profile = Profile::Ci.name();
    let messages = cmd!(
        sh,
        "cargo test --locked --profile {profile} --package tests --test it --no-run --message-format json-render-diagnostics"
    )
    .read()?;
    let built = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let paths = built.filter(|message| message["target"]["name"] == "it");
    let path = paths.filter_map(|message| message["executable"].as_str().map(PathBuf::from)).last();
    path.context("cargo built no test binary")
}

/// How long each phase took.
#[derive(Debug)]
struct Phases {
    last: Instant,
    all: Vec<(&'static str, Duration)>,
}

impl Phases {
    fn new() -> Self {
        Self { last: Instant::now(), all: Vec::new() }
    }

    fn done(&mut self, name: &'static str) {
        self.all.push((name, self.last.elapsed()));
        self.last = Instant::now();
    }

    fn print(&self) {
        let all: Vec<_> = self.all.iter().map(|(name, time)| format!("{name} {:.1} s", time.as_secs_f64())).collect();
        println!("phases: {}", all.join(", "));
    }
}
