//! What a fresh Debian machine lacks.

use anyhow::{Context, Result, bail};
use xshell::{Shell, cmd};

/// Packages for building and for the demo.
pub const BUILD: &[&str] = &["gcc", "libc6-dev"];

/// What reads and writes what is generated.
pub const CODEGEN: &[&str] = &["zstd"];

/// The virtual machine's.
pub const VM: &[&str] = &["qemu-system-x86"];

/// What builds the machine's Debian with systemd.
pub const ROOT: &[&str] = &["e2fsprogs", "mmdebstrap", "squashfs-tools", "uidmap"];

/// Makes sure that `packages` are installed: as root by installing them, else by saying which are missing.
pub fn packages(sh: &Shell, packages: &[&str]) -> Result<()> {
    let missing: Vec<&str> = packages.iter().copied().filter(|package| !is_installed(sh, package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() {
        bail!("these packages are missing: run `sudo apt-get install {}`", missing.join(" "));
    }
    eprintln!("installing {}", missing.join(" "));
    let _frontend = sh.push_env("DEBIAN_FRONTEND", "noninteractive");
    let names = &missing;
    let install =
        || cmd!(sh, "apt-get install --yes --quiet --no-install-recommends {names...}").quiet().ignore_stdout();
    if install().ignore_stderr().run().is_err() {
        // A fresh machine has no package lists, or old ones.
        cmd!(sh, "apt-get update --quiet").quiet().ignore_stdout().run().context("apt-get update")?;
        install().run().with_context(|| format!("apt-get install {}", names.join(" ")))?;
    }
    Ok(())
}

/// Whether the search path has it, installed by whomever.
pub fn has_program(sh: &Shell, name: &str) -> bool {
    let path = sh.var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(name).exists())
}

fn is_installed(sh: &Shell, package: &str) -> bool {
    let format = "--showformat=${db:Status-Status}";
    let status = cmd!(sh, "dpkg-query --show {format} {package}");
    status.quiet().ignore_stderr().read().is_ok_and(|status| status == "installed")
}
