//! The machine with systemd: from our init to Debian's root, and back to the tests as a service of it.

use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use rustix::mount::{MountFlags, UnmountFlags};

use crate::vm::{self, Orders};
use crate::vm_package;

/// Set for the service that runs the tests.
pub const RUNNER: &str = "MONOPOD_RUNNER";
const IMAGE: &str = "/dev/vda";
/// What is written lies there, and is found again after a reboot.
const DISK: &str = "/dev/vdb";
const WRITTEN: &str = "/written";
/// On the disk once everything is.
const FILLED: &str = "/written/filled";
/// The driver looks for its device in the background.
const IMAGE_WITHIN: Duration = Duration::from_secs(10);
const NEW: &str = "/new";
/// Where the service's program lies in the new root.
const PROGRAM: &str = "/usr/lib/monopod-tests/it";
const SERVICE: &str = "monopod-tests.service";
/// What waits for devices that nobody announces here, or has nothing to do.
const MASKED: &[&str] = &[
    "getty.target",
    "serial-getty@.service",
    "console-getty.service",
    "systemd-random-seed.service",
    "systemd-timesyncd.service",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
];

/// What they would generate units from is not there, and each is a program that every `daemon-reload` starts: together half
/// of what that takes.
const GENERATORS: &str = "/usr/lib/systemd/system-generators";

/// Hands the machine over to systemd.
pub fn boot(_orders: &Orders) -> Result<()> {
    mount_root()?;
    let first = !Path::new(FILLED).exists();
    if first {
        fill()?;
        copy_var()?;
    }
    // No overlay has its layers on another one, and containers' layers lie in the first; the host has put the second there.
    for dir in ["/var", "/packages"] {
        let to = format!("{NEW}{dir}");
        std::fs::create_dir_all(&to)?;
        rustix::mount::mount_bind(format!("{WRITTEN}{dir}"), to).with_context(|| format!("bind {dir}"))?;
    }
    std::fs::write(FILLED, "")?;
    for dir in ["/tmp", "/run", "/var"] {
        rustix::mount::unmount(dir, UnmountFlags::DETACH).with_context(|| format!("umount {dir}"))?;
    }
    for dir in ["/dev", "/proc", "/sys"] {
        let to = format!("{NEW}{dir}");
        rustix::mount::mount_move(dir, &*to).with_context(|| format!("move {dir}"))?;
    }
    std::env::set_current_dir(NEW).context("chdir")?;
    rustix::mount::mount_move(NEW, "/").context("move the root")?;
    rustix::process::chroot(".").context("chroot")?;
    std::env::set_current_dir("/").context("chdir")?;
    Err(anyhow!(Command::new("/sbin/init").exec())).context("start /sbin/init")
}

/// The image with a writable layer on the disk.
fn mount_root() -> Result<()> {
    let started = Instant::now();
    while !Path::new(IMAGE).exists() || !Path::new(DISK).exists() {
        ensure!(started.elapsed() < IMAGE_WITHIN, "no {IMAGE} and {DISK} within {IMAGE_WITHIN:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
    for dir in ["/lower", WRITTEN, NEW] {
        std::fs::create_dir(dir)?;
    }
    rustix::mount::mount(IMAGE, "/lower", "squashfs", MountFlags::RDONLY, None).context("mount the image")?;
    rustix::mount::mount(DISK, WRITTEN, "ext4", MountFlags::empty(), None).context("mount the disk")?;
    for dir in ["/written/upper", "/written/work"] {
        std::fs::create_dir_all(dir)?;
    }
    let layers = c"lowerdir=/lower,upperdir=/written/upper,workdir=/written/work";
    rustix::mount::mount("overlay", NEW, "overlay", MountFlags::empty(), Some(layers)).context("mount overlay")
}

fn copy_var() -> Result<()> {
    let (from, to) = (format!("{NEW}/var"), format!("{WRITTEN}/var"));
    let copied = Command::new("/bin/busybox").args(["cp", "-a", &from, &to]).status().context("start busybox")?;
    ensure!(copied.success(), "cp -a {from} {to}: {copied}");
    Ok(())
}

/// What the new root gets from the initramfs, and the service.
fn fill() -> Result<()> {
    copy("/init", &format!("{NEW}{PROGRAM}"))?;
    copy("/etc/monopod-vm.json", &format!("{NEW}/etc/monopod-vm.json"))?;
    // Tests install the package; who wants a prompt gets the programs.
    for name in ["monopod", "monitor", "pause"].into_iter().filter(|name| Path::new("/bin").join(name).exists()) {
        copy(&format!("/bin/{name}"), &format!("{NEW}/usr/bin/{name}"))?;
    }
    for dir in ["/images", "/manifests"] {
        for entry in std::fs::read_dir(dir)?.flatten() {
            let from = entry.path().to_string_lossy().into_owned();
            copy(&from, &format!("{NEW}{from}"))?;
        }
    }
    let units = format!("{NEW}/etc/systemd/system");
    for unit in MASKED {
        symlink("/dev/null", format!("{units}/{unit}")).with_context(|| format!("mask {unit}"))?;
    }
    let generators = format!("{NEW}/etc/systemd/system-generators");
    std::fs::create_dir_all(&generators)?;
    for entry in std::fs::read_dir(format!("{NEW}{GENERATORS}"))?.flatten() {
        let masked = Path::new(&generators).join(entry.file_name());
        symlink("/dev/null", &masked).with_context(|| format!("mask {}", masked.display()))?;
    }
    let service = format!(
        "[Unit]\nDescription=The tests\n[Service]\nType=exec\nDelegate=yes\nEnvironment={RUNNER}=1\n\
         ExecStart={PROGRAM}\nStandardOutput=tty\nStandardError=tty\nTTYPath=/dev/console\n\
         [Install]\nWantedBy=multi-user.target\n"
    );
    std::fs::write(format!("{units}/{SERVICE}"), service)?;
    std::fs::create_dir_all(format!("{units}/multi-user.target.wants"))?;
    symlink(format!("../{SERVICE}"), format!("{units}/multi-user.target.wants/{SERVICE}"))?;
    std::fs::write(format!("{NEW}/etc/hostname"), "testnode\n")?;
    std::fs::write(format!("{NEW}/etc/resolv.conf"), "nameserver 192.0.2.53\n")?;
    Ok(())
}

fn copy(from: &str, to: &str) -> Result<()> {
    if let Some(dir) = Path::new(to).parent() {
        std::fs::create_dir_all(dir)?;
    }
    std::fs::copy(from, to).map(drop).with_context(|| format!("copy {from} to {to}"))
}

/// The service: runs the tests, reports, and switches the machine off.
pub fn run_tests() -> ! {
    let done = Orders::read().and_then(|orders| {
        let mut results = vm::open_results()?;
        vm_package::before_boot(&orders)?;
        vm::tests(&orders, &mut results)
    });
    if let Err(error) = done {
        eprintln!("tests: {error:?}");
    }
    vm::power_off()
}
