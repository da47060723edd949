//! The tests' second ring, in a virtual machine of our own.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use xshell::Shell;

use crate::build::{self, Built, Profile};
use crate::vm::initramfs::{self, Content, Orders};
use crate::vm::kernel::{self, Kernel};
use crate::vm::qemu::{Accel, Console, Limits, Machine};
use crate::vm::{self, Phases, planted, probe};
use crate::{images, setup};

/// Boots a virtual machine and runs the tests that need one, as an ordinary user.
#[derive(Debug, clap::Args)]
pub struct E2e {
    /// Only tests whose name contains this.
    filter: Option<String>,
    /// A prompt inside the machine instead of the tests.
    #[arg(long, conflicts_with = "keep")]
    shell: bool,
    /// After a failure a prompt inside the machine, which stays until that ends.
    #[arg(long)]
    keep: bool,
    /// Runs tests with planted faults and checks that each is found.
    #[arg(long, conflicts_with_all = ["shell", "keep"])]
    planted: bool,
    /// Longest that all tests together may take, seconds.
    #[arg(long, default_value_t = 25 * 60)]
    timeout: u64,
    /// Longest that a test may take, seconds.
    #[arg(long, default_value_t = 120)]
    test_timeout: u64,
    #[command(flatten)]
    hardware: Hardware,
}

/// The machine that one wants.
#[derive(Debug, Clone, clap::Args)]
pub struct Hardware {
    /// A kernel package other than Debian's newest cloud kernel.
    #[arg(long, value_name = "PACKAGE")]
    pub kernel: Option<String>,
    /// Processors of the machine.
    #[arg(long, default_value_t = PROCESSORS)]
    pub smp: u32,
    /// Memory of the machine, MiB.
    #[arg(long, default_value_t = MEMORY_MIB)]
    pub mem: u32,
    #[arg(long, value_enum, default_value_t = Accel::Auto)]
    pub accel: Accel,
}

const PROCESSORS: u32 = 2;
const MEMORY_MIB: u32 = 1536;
/// From QEMU's start to init's first word; emulation takes about two seconds on an idle machine.
const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// What the guest may need beyond a test's own limit to say that it was ended.
const SILENCE_MARGIN: Duration = Duration::from_secs(60);

impl Default for Hardware {
    fn default() -> Self {
        Self { kernel: None, smp: PROCESSORS, mem: MEMORY_MIB, accel: Accel::Auto }
    }
}

impl E2e {
    pub fn everything() -> Self {
        Self {
            filter: None,
            shell: false,
            keep: false,
            planted: false,
            timeout: 25 * 60,
            test_timeout: 120,
            hardware: Hardware::default(),
        }
    }

    pub fn run(self) -> Result<ExitCode> {
        let sh = build::shell()?;
        setup::packages(&sh, &[setup::BUILD, setup::VM].concat())?;
        let mut phases = Phases::new();
        let ready = Ready::new(&sh, &self.hardware, &mut phases)?;
        if self.shell {
            let orders = Orders::default();
            let ended = ready.boot(&sh, &orders, "shell", Console::Terminal, FOREVER, &mut phases, |_| {})?;
            return Ok(ExitCode::from(ended));
        }
        let code = if self.planted {
            self.find_planted(&sh, &ready, &mut phases)?
        } else {
            self.test(&sh, &ready, &mut phases)?
        };
        phases.print();
        Ok(ExitCode::from(code))
    }

    fn test(&self, sh: &Shell, ready: &Ready, phases: &mut Phases) -> Result<u8> {
        let console = if self.keep { Console::Terminal } else { Console::Log };
        let code =
            ready.boot(sh, &self.orders(), "tests", console, self.limits(), phases, |line| println!("{line}"))?;
        if code != 0 {
            eprintln!("the machine's files are in {}", ready.dir.display());
        }
        Ok(code)
    }

    fn find_planted(&self, sh: &Shell, ready: &Ready, phases: &mut Phases) -> Result<u8> {
        let orders = Orders { planted: true, test_seconds: planted::TEST_SECONDS, ..self.orders() };
        let mut output = String::new();
        let code = ready.boot(sh, &orders, "tests", Console::Log, self.limits(), phases, |line| {
            output.push_str(line);
            output.push('\n');
        })?;
        print!("{output}");
        let missed = planted::missed(&output);
        ensure!(missed.is_empty(), "planted faults that were not found:\n  {}", missed.join("\n  "));
        ensure!(code != 0, "the run passed with planted faults in it");
        println!("all {} planted faults were found", planted::FAULTS.len());
        Ok(0)
    }

    fn orders(&self) -> Orders {
        Orders {
            arguments: self.filter.iter().cloned().collect(),
            rings: vec!["vm".to_owned()],
            planted: false,
            test_seconds: self.test_timeout,
            keep: self.keep,
            program: Vec::new(),
        }
    }

    fn limits(&self) -> Limits {
        let silence = BOOT_LIMIT.max(Duration::from_secs(self.test_timeout)) + SILENCE_MARGIN;
        Limits { boot: BOOT_LIMIT, silence, whole: Duration::from_secs(self.timeout) }
    }
}

/// Somebody sits in front of it.
pub const FOREVER: Limits = Limits { boot: BOOT_LIMIT, silence: Duration::MAX, whole: Duration::MAX };

/// Everything that a machine is made of.
#[derive(Debug)]
pub struct Ready {
    kernel: Kernel,
    built: Built,
    images: Vec<PathBuf>,
    dir: PathBuf,
    hardware: Hardware,
}

impl Ready {
    pub fn new(sh: &Shell, hardware: &Hardware, phases: &mut Phases) -> Result<Self> {
        let dir = vm::dir().join("run");
        sh.remove_path(&dir)?;
        sh.create_dir(&dir)?;
        let kernel = kernel::fetch(sh, hardware.kernel.as_deref())?;
        phases.done("kernel");
        let built = build::with_tests(sh, Profile::Ci)?;
        phases.done("build");
        let images = vec![images::image("busybox")?, images::image("nginx")?];
        phases.done("images");
        Ok(Self { kernel, built, images, dir, hardware: hardware.clone() })
    }

    /// One run of the machine; the guest's exit code.
    #[expect(clippy::too_many_arguments, reason = "one call per mode, each says all of it")]
    pub fn boot(
        &self,
        sh: &Shell,
        orders: &Orders,
        mode: &str,
        console: Console,
        limits: Limits,
        phases: &mut Phases,
        line: impl FnMut(&str),
    ) -> Result<u8> {
        let initrd = self.dir.join("initrd");
        let packed = self.pack(sh, &initrd, orders, None)?;
        phases.done(if packed { "initramfs" } else { "initramfs (base kept)" });
        let mut machine = self.machine(initrd, console, limits);
        machine.command_line = format!("monopod.mode={mode}");
        if machine.accel == Accel::Auto {
            machine.accel = probe::choose(&machine)?;
        }
        phases.done("probe of KVM");
        let ended = machine.run(line)?;
        phases.done(mode);
        phases.first_part("boot", ended.boot);
        Ok(ended.code)
    }

    fn pack(&self, sh: &Shell, initrd: &Path, orders: &Orders, manifest: Option<&Path>) -> Result<bool> {
        let content = Content {
            kernel: &self.kernel,
            bin: &self.built.bin,
            it: &self.built.it,
            images: &self.images,
            manifest,
            orders,
        };
        initramfs::write(sh, initrd, &content)
    }

    fn machine(&self, initrd: PathBuf, console: Console, limits: Limits) -> Machine {
        Machine {
            kernel: self.kernel.image.clone(),
            initrd,
            root: None,
            command_line: String::new(),
            accel: self.hardware.accel,
            processors: self.hardware.smp,
            memory_mib: self.hardware.mem,
            dir: self.dir.clone(),
            console,
            limits,
        }
    }
}
