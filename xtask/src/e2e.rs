//! The tests' second ring, in a virtual machine of our own.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use xshell::{Shell, cmd};

use crate::build::{self, Built, Profile};
use crate::lane::Step;
use crate::vm::initramfs::{self, Content, Orders};
use crate::vm::kernel::{self, Kernel};
use crate::vm::qemu::{Accel, Console, Ended, Limits, Machine};
use crate::vm::{self, Phases, planted, probe, root};
use crate::{dist, images, setup};

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
    #[arg(long, default_value_t = TEST_SECONDS)]
    test_timeout: u64,
    /// Runs one machine after the other, where processors are busy with other things.
    #[arg(long)]
    in_turn: bool,
    /// The machine's kind; by default each that has tests for the filter.
    #[arg(long, value_enum, default_value_t = Choice::Auto)]
    profile: Choice,
    /// Part of all tests: others may match the filter.
    #[arg(skip)]
    part: bool,
    #[command(flatten)]
    hardware: Hardware,
}

/// Which kinds of machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Choice {
    Auto,
    /// Our own init.
    Bare,
    Systemd,
    All,
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

/// A [`Job::mode`].
const TESTS: &str = "tests";
/// Emulation on a busy machine is slow.
const TEST_SECONDS: u64 = 300;
/// Emulated processors that wait for each other cost a fifth more than one.
const PROCESSORS: u32 = 1;
const MEMORY_MIB: u32 = 1536;
/// Sparse: what is written takes space on the host.
const DISK_BYTES: u64 = 2 << 30;
/// From QEMU's start to init's first word; emulation takes about two seconds on an idle machine.
const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// What the guest may need beyond a test's own limit to say that it was ended.
const SILENCE_MARGIN: Duration = Duration::from_secs(60);

impl Default for Hardware {
    fn default() -> Self {
        Self { kernel: None, smp: PROCESSORS, mem: MEMORY_MIB, accel: Accel::Auto }
    }
}

/// All tests in virtual machines, by a process of their own.
pub fn tests_step() -> Result<Step> {
    step("e2e", &["e2e", "--in-turn"], true)
}

/// The search for planted faults, by a process of its own.
pub fn planted_step() -> Result<Step> {
    step("planted", &["e2e", "--planted"], true)
}

fn step(name: &'static str, arguments: &[&str], tells: bool) -> Result<Step> {
    let mut command = Command::new(std::env::current_exe().context("find this program")?);
    command.args(arguments);
    Ok(Step { name, command, tells })
}

impl E2e {
    /// All rings' tests whose name contains the filter.
    pub fn tests(filter: String) -> Self {
        Self {
            profile: Choice::Auto,
            filter: Some(filter),
            part: true,
            shell: false,
            keep: false,
            planted: false,
            in_turn: false,
            timeout: 25 * 60,
            test_timeout: TEST_SECONDS,
            hardware: Hardware::default(),
        }
    }

    pub fn run(self) -> Result<ExitCode> {
        let mut phases = Phases::of_the_command()?;
        let done = self.run_in(&mut phases);
        // Whoever waited in vain wants to know for what.
        if !self.shell {
            phases.print();
        }
        done
    }

    /// As a part of something longer.
    pub fn run_in(&self, phases: &mut Phases) -> Result<ExitCode> {
        let sh = build::shell()?;
        let root: &[&str] = if self.planted || self.profile == Choice::Bare { &[] } else { setup::ROOT };
        setup::packages(&sh, &[setup::BUILD, setup::VM, root].concat())?;
        phases.done("packages");
        let ready = Ready::new(&sh, &self.hardware, phases)?;
        let code = if self.shell {
            let job = Job::interactive("shell", Orders::default(), self.profile.one());
            ready.boot(&sh, &job, phases, |_| {})?
        } else if self.planted {
            self.find_planted(&sh, &ready, phases)?
        } else {
            self.test(&sh, &ready, phases)?
        };
        Ok(ExitCode::from(code))
    }

    /// In all machines; the worst of their exit codes.
    fn test(&self, sh: &Shell, ready: &Ready, phases: &mut Phases) -> Result<u8> {
        let jobs = self.profiles(sh, &ready.built.it)?.into_iter().map(|profile| self.job(profile));
        // A terminal is for one.
        let codes: Vec<u8> = if self.in_turn || self.keep {
            jobs.map(|job| ready.boot(sh, &job, phases, |line| println!("{line}"))).collect::<Result<_>>()?
        } else {
            let machines = jobs.map(|job| ready.prepare(sh, &job, phases).map(|machine| (job.profile.ring(), machine)));
            side_by_side(&machines.collect::<Result<Vec<_>>>()?, phases)?
        };
        let worst = codes.into_iter().max().unwrap_or_default();
        if worst != 0 {
            eprintln!("the machines' files are in {}", ready.dir.display());
        }
        Ok(worst)
    }

    /// The machines that are asked for, or those that have tests for the filter.
    fn profiles(&self, sh: &Shell, it: &Path) -> Result<Vec<vm::Profile>> {
        use vm::Profile::{Bare, Systemd};
        let all = match self.profile {
            Choice::Bare => return Ok(vec![Bare]),
            Choice::Systemd => return Ok(vec![Systemd]),
            Choice::All => return Ok(vec![Bare, Systemd]),
            Choice::Auto => [Bare, Systemd],
        };
        let mut chosen = Vec::new();
        for profile in all {
            let filter = self.filter.iter();
            let list = cmd!(sh, "{it} --list {filter...}")
                .env("MONOPOD_RING", Self::rings(profile).join(","))
                .quiet()
                .read()?;
            if list.lines().any(|line| line.ends_with(": test")) {
                chosen.push(profile);
            }
        }
        ensure!(
            self.part || !chosen.is_empty(),
            "no test's name contains {:?}",
            self.filter.as_deref().unwrap_or_default()
        );
        Ok(chosen)
    }

    /// The host's tests that need root and none of the host's programs run in the small machine, too: as everybody, on
    /// an old kernel, with all controllers.
    fn rings(profile: vm::Profile) -> Vec<String> {
        let own = profile.ring().to_owned();
        let others = profile == vm::Profile::Bare;
        std::iter::once(own).chain(others.then(|| "privileged".to_owned())).collect()
    }

    fn job(&self, profile: vm::Profile) -> Job {
        let console = if self.keep { Console::Terminal } else { Console::Log };
        let orders = Orders {
            arguments: self.filter.iter().cloned().collect(),
            rings: Self::rings(profile),
            test_seconds: self.test_timeout,
            keep: self.keep,
            ..Orders::default()
        };
        Job { mode: TESTS, profile, orders, console, limits: self.limits() }
    }

    fn find_planted(&self, sh: &Shell, ready: &Ready, phases: &mut Phases) -> Result<u8> {
        let mut job = self.job(vm::Profile::Bare);
        job.orders.planted = true;
        job.orders.arguments = vec![planted::FILTER.to_owned()];
        job.orders.test_seconds = planted::TEST_SECONDS;
        let mut output = String::new();
        let code = ready.boot(sh, &job, phases, |line| {
            output.push_str(line);
            output.push('\n');
        })?;
        let missed = planted::missed(&output);
        if !missed.is_empty() || code == 0 {
            bail!(
                "planted faults that were not found (exit code {code}):\n  {}\nof this run:\n{output}",
                missed.join("\n  ")
            );
        }
        println!("\nall {} planted faults were found:", planted::FAULTS.len());
        for (test, words) in planted::FAULTS {
            println!("  {test}: {words}");
        }
        Ok(0)
    }

    fn limits(&self) -> Limits {
        let silence = BOOT_LIMIT.max(Duration::from_secs(self.test_timeout)) + SILENCE_MARGIN;
        Limits { boot: BOOT_LIMIT, silence, whole: Duration::from_secs(self.timeout) }
    }
}

impl Choice {
    /// Where only one machine makes sense.
    fn one(self) -> vm::Profile {
        match self {
            Self::Systemd => vm::Profile::Systemd,
            Self::Auto | Self::Bare | Self::All => vm::Profile::Bare,
        }
    }
}

/// Somebody sits in front of it.
const FOREVER: Limits = Limits { boot: BOOT_LIMIT, silence: Duration::MAX, whole: Duration::MAX };

/// What a machine is started for.
#[derive(Debug)]
pub struct Job {
    /// `tests`, `program` or `shell`.
    pub mode: &'static str,
    pub profile: vm::Profile,
    pub orders: Orders,
    pub console: Console,
    pub limits: Limits,
}

impl Job {
    /// With the terminal as the machine's console.
    pub fn interactive(mode: &'static str, orders: Orders, profile: vm::Profile) -> Self {
        Self { mode, profile, orders, console: Console::Terminal, limits: FOREVER }
    }
}

/// Everything that a machine is made of.
#[derive(Debug)]
pub struct Ready {
    kernel: Kernel,
    built: Built,
    images: Vec<PathBuf>,
    /// A manifest that the machine gets beside the tests' ones.
    pub manifest: Option<PathBuf>,
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
        let images = vec![images::image("busybox")?, images::image("nginx")?];
        phases.done("images");
        let built = build::with_tests(sh, Profile::Ci)?;
        phases.done("build");
        Ok(Self { kernel, built, images, manifest: None, dir, hardware: hardware.clone() })
    }

    /// One run of the machine; the guest's exit code.
    pub fn boot(&self, sh: &Shell, job: &Job, phases: &mut Phases, line: impl FnMut(&str)) -> Result<u8> {
        let machine = self.prepare(sh, job, phases)?;
        let ended = machine.run(line)?;
        let ring = job.profile.ring();
        phases.done(format!("{ring}: {}", if job.orders.planted { "planted faults" } else { job.mode }));
        phases.first_part(format!("{ring}: boot"), ended.boot);
        Ok(ended.code)
    }

    /// A machine with all that it boots from, in a directory of its own.
    fn prepare(&self, sh: &Shell, job: &Job, phases: &mut Phases) -> Result<Machine> {
        let dir = self.dir.join(job.profile.ring());
        sh.create_dir(&dir)?;
        let initrd = dir.join("initrd");
        let installs = job.profile == vm::Profile::Systemd && job.mode == TESTS;
        let content = Content {
            kernel: &self.kernel,
            bin: (!installs).then_some(&*self.built.bin),
            it: &self.built.it,
            images: &self.images,
            manifest: self.manifest.as_deref(),
            orders: &job.orders,
        };
        let packed = initramfs::write(sh, &initrd, &content)?;
        phases.done(if packed { "initramfs" } else { "initramfs (base kept)" });
        let root = self.root(sh, job.profile, phases)?;
        let disk = root.is_some().then(|| self.disk(sh, &dir)).transpose()?;
        let mut machine = self.machine(dir, initrd, root, disk, job);
        if machine.accel == Accel::Auto {
            machine.accel = probe::choose(&machine)?;
            phases.done("probe of KVM");
        }
        Ok(machine)
    }

    fn root(&self, sh: &Shell, profile: vm::Profile, phases: &mut Phases) -> Result<Option<PathBuf>> {
        match profile {
            vm::Profile::Bare => Ok(None),
            vm::Profile::Systemd => {
                let (image, built) = root::image(sh)?;
                phases.done(if built { "root" } else { "root (kept)" });
                Ok(Some(image))
            }
        }
    }

    /// With the packages on it: what lies in the initramfs, a machine unpacks at each of its boots.
    fn disk(&self, sh: &Shell, dir: &Path) -> Result<PathBuf> {
        let (path, content) = (dir.join("disk"), dir.join("content"));
        let packages = content.join("packages");
        sh.create_dir(&packages)?;
        let made = dist::for_machine(sh, &self.built.bin, &dir.join("package"))?;
        cmd!(sh, "mv {made...} {packages}").quiet().run()?;
        std::fs::File::create(&path)?.set_len(DISK_BYTES)?;
        cmd!(sh, "mkfs.ext4 -q -m 0 -d {content} {path}").quiet().run()?;
        sh.remove_path(content)?;
        Ok(path)
    }

    fn machine(
        &self,
        dir: PathBuf,
        initrd: PathBuf,
        root: Option<PathBuf>,
        disk: Option<PathBuf>,
        job: &Job,
    ) -> Machine {
        Machine {
            kernel: self.kernel.image.clone(),
            initrd,
            root,
            disk,
            command_line: format!("monopod.mode={} monopod.profile={}", job.mode, job.profile.ring()),
            accel: self.hardware.accel,
            processors: self.hardware.smp,
            memory_mib: self.hardware.mem,
            dir,
            console: job.console,
            limits: job.limits,
        }
    }
}

/// All at a time. What the first says is printed as it comes, what the others said after it; their exit codes.
fn side_by_side(machines: &[(&str, Machine)], phases: &mut Phases) -> Result<Vec<u8>> {
    let Some(((ring, first), others)) = machines.split_first() else { return Ok(Vec::new()) };
    std::thread::scope(|scope| {
        let start = |machine| scope.spawn(move || heard(machine));
        let others: Vec<_> = others.iter().map(|(ring, machine)| (ring, start(machine))).collect();
        let ended = first.run(|line| println!("{line}"))?;
        phases.done(format!("{ring}: tests"));
        phases.first_part(format!("{ring}: boot"), ended.boot);
        let mut codes = vec![ended.code];
        for (ring, other) in others {
            let (said, ended) = other.join().map_err(|_| anyhow::anyhow!("{ring}: the thread panicked"))?;
            print!("{said}");
            codes.push(ended?.code);
            phases.done(format!("{ring}: what was left of it"));
        }
        Ok(codes)
    })
}

/// What a machine says until it has ended.
fn heard(machine: &Machine) -> (String, Result<Ended>) {
    let mut said = String::new();
    let ended = machine.run(|line| {
        said.push_str(line);
        said.push('\n');
    });
    (said, ended)
}
