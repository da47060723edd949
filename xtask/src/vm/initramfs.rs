//! The machine's first filesystem: what seldom changes as one archive that is kept, and what every run packs anew.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result};
use xshell::Shell;

use super::cpio::Archive;
use super::kernel::{self, Kernel};
use crate::apt::Apt;
use crate::build;

/// What the guest is told, in `etc/monopod-vm.json`.
#[derive(Debug, Default, serde::Serialize)]
pub struct Orders {
    /// Arguments for the tests' binary, mostly filters.
    pub arguments: Vec<String>,
    /// The rings whose tests run.
    pub rings: Vec<String>,
    /// Runs the tests that have to fail, too.
    pub planted: bool,
    /// Longest a test may take.
    pub test_seconds: u64,
    /// A shell on the console after a failure.
    pub keep: bool,
    /// What to run instead of tests.
    pub program: Vec<String>,
}

/// What a run adds to the base.
#[derive(Debug)]
pub struct Content<'a> {
    pub kernel: &'a Kernel,
    /// The directory of the shipped binaries, unless the machine installs them.
    pub bin: Option<&'a Path>,
    /// The tests' binary: the machine's init.
    pub it: &'a Path,
    pub images: &'a [PathBuf],
    /// A manifest from outside of the checkout.
    pub manifest: Option<&'a Path>,
    pub orders: &'a Orders,
}

const DIRECTORIES: &[&str] = &[
    "bin",
    "dev",
    "etc",
    "images",
    "lib",
    "manifests",
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
];

/// Commands of the shell inside.
const APPLETS: &[&str] = &[
    "sh", "ls", "cat", "ps", "ip", "mount", "umount", "ping", "sleep", "echo", "grep", "find", "dmesg", "id", "wget",
    "nc", "poweroff", "top", "stat", "head", "tail", "kill", "mkdir", "rm", "rmdir", "less", "vi", "env", "date",
    "setsid",
];

const FILES: &[(&str, &str)] = &[
    ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"),
    ("etc/group", "root:x:0:\n"),
    ("etc/hosts", "127.0.0.1\tlocalhost\n"),
    ("etc/resolv.conf", "nameserver 192.0.2.53\nsearch example.test\n"),
];

/// Writes the whole initramfs; says whether the base had to be packed.
pub fn write(sh: &Shell, into: &Path, content: &Content<'_>) -> Result<bool> {
    let (base, packed) = base(sh, content.kernel)?;
    let own = into.with_extension("own");
    pack_own(&own, content)?;
    let mut out = create(into)?;
    for part in [&base, &own] {
        let mut part = File::open(part).with_context(|| format!("open {}", part.display()))?;
        std::io::copy(&mut part, &mut out).with_context(|| format!("write {}", into.display()))?;
    }
    Ok(packed)
}

/// Directories, modules and tools, packed once for each kernel and each version of this program.
fn base(sh: &Shell, kernel: &Kernel) -> Result<(PathBuf, bool)> {
    let path = super::dir().join("base.cpio");
    let key = format!("{} {}", kernel.image.display(), fingerprint(&std::env::current_exe()?)?);
    let key_file = path.with_extension("key");
    if std::fs::read_to_string(&key_file).is_ok_and(|known| known == key) && path.exists() {
        return Ok((path, false));
    }
    let mut archive = Archive::new(BufWriter::new(create(&path)?));
    for dir in DIRECTORIES {
        archive.directory(dir, 0o755)?;
    }
    // The kernel opens it for us before anything is mounted.
    archive.character_device("dev/console", 0o600, 5, 1)?;
    pack_tools(sh, &mut archive)?;
    for (number, module) in kernel.modules()?.iter().enumerate() {
        let name = module.file_stem().and_then(|name| name.to_str()).unwrap_or("module");
        archive.file(&format!("modules/{number:03}-{name}"), 0o644, &kernel::content(module)?)?;
    }
    archive.finish()?;
    sh.write_file(&key_file, &key)?;
    Ok((path, true))
}

/// A shell and the usual commands, for `--shell` and for tests that look from outside.
fn pack_tools<W: std::io::Write>(sh: &Shell, archive: &mut Archive<W>) -> Result<()> {
    let dir = super::dir().join("busybox");
    if !dir.exists() {
        Apt::open(sh)?.extract("busybox-static", &dir)?;
    }
    let busybox = std::fs::read(dir.join("bin/busybox")).or_else(|_| std::fs::read(dir.join("usr/bin/busybox")))?;
    archive.file("bin/busybox", 0o755, &busybox)?;
    for applet in APPLETS {
        archive.symlink(&format!("bin/{applet}"), "busybox")?;
    }
    for (name, text) in FILES {
        archive.file(name, 0o644, text.as_bytes())?;
    }
    Ok(())
}

fn pack_own(path: &Path, content: &Content<'_>) -> Result<()> {
    let mut archive = Archive::new(BufWriter::new(create(path)?));
    archive.file("init", 0o755, &read(content.it)?)?;
    if let Some(bin) = content.bin {
        for name in ["monopod", "monitor", "pause"] {
            archive.file(&format!("bin/{name}"), 0o755, &read(&bin.join(name))?)?;
        }
    }
    let manifests = build::root().join("tests/manifests");
    let manifests = std::fs::read_dir(&manifests).with_context(|| format!("read {}", manifests.display()))?;
    let manifests: Vec<PathBuf> = manifests.flatten().map(|entry| entry.path()).collect();
    let manifests = manifests.iter().map(PathBuf::as_path).chain(content.manifest).map(|path| ("manifests", path));
    let images = content.images.iter().map(|path| ("images", path.as_path()));
    for (dir, file) in images.chain(manifests) {
        archive.file(&format!("{dir}/{}", file_name(file)?), 0o644, &read(file)?)?;
    }
    archive.file("etc/monopod-vm.json", 0o644, &serde_json::to_vec(content.orders)?)?;
    archive.finish()?;
    Ok(())
}

pub fn file_name(path: &Path) -> Result<&str> {
    path.file_name().and_then(|name| name.to_str()).with_context(|| format!("{} has no name", path.display()))
}

/// What tells one build of a file from the next.
fn fingerprint(path: &Path) -> Result<String> {
    let metadata = std::fs::metadata(path).with_context(|| format!("stat {}", path.display()))?;
    let changed = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(format!("{} {}", metadata.len(), changed.as_nanos()))
}

fn create(path: &Path) -> Result<File> {
    File::create(path).with_context(|| format!("create {}", path.display()))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("read {}", path.display()))
}
