//! A bench's host: network and mount namespaces of its own, with an image store that holds busybox.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use xshell::{Shell, cmd};

/// Set in the process that runs in namespaces of its own.
const INSIDE: &str = "MONOPOD_BENCH_INSIDE";

pub(super) fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Starts this program anew in namespaces of its own; comes back only when that failed.
pub(super) fn enter() -> Result<()> {
    crate::images::image("busybox")?;
    let error = Command::new("unshare")
        .args(["--net", "--mount"])
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .exec();
    Err(error).context("unshare")
}

/// Empty directories where Monopod keeps things, and busybox in its store.
pub(super) fn set_up(sh: &Shell, bin: &Path) -> Result<()> {
    for dir in ["/run", "/var/lib/monopod", "/var/log/pods", "/var/log/containers"] {
        fs::create_dir_all(dir)?;
        cmd!(sh, "mount -t tmpfs -o mode=755 tmpfs {dir}").quiet().run()?;
    }
    cmd!(sh, "ip link set lo up").quiet().run()?;
    let (monopod, image) = (bin.join("monopod"), crate::images::image("busybox")?);
    cmd!(sh, "{monopod} image load {image}").quiet().ignore_stdout().run()?;
    Ok(())
}
