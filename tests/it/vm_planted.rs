//! Faults on purpose: each of these tests has to fail, and `cargo xtask e2e --planted` checks that the harness says why.

use anyhow::{Context as _, Result, ensure};
use rustix::mount::MountFlags;

use crate::host::run;
use crate::{Test, tests};

/// Listed only when they are asked for.
pub fn tests() -> Vec<Test> {
    if std::env::var_os("MONOPOD_PLANTED").is_none() {
        return Vec::new();
    }
    tests![Vm: a_failure, a_panic, a_hang, a_leaked_process, a_leaked_mount, a_leaked_cgroup, a_leaked_link, a_leaked_file,
        a_leaked_table]
}

fn a_failure() -> Result<()> {
    ensure!(std::hint::black_box(1) == 2, "one is not two");
    Ok(())
}

#[expect(clippy::panic, reason = "the fault")]
fn a_panic() -> Result<()> {
    panic!("a planted panic")
}

fn a_hang() -> Result<()> {
    loop {
        std::thread::park();
    }
}

fn a_leaked_process() -> Result<()> {
    // In a group of its own, as a daemon would be.
    run("setsid", &["sh", "-c", "sleep 1000 >/dev/null 2>&1 &"]).map(drop)
}

fn a_leaked_mount() -> Result<()> {
    let dir = "/run/planted-mount";
    std::fs::create_dir(dir)?;
    rustix::mount::mount("tmpfs", dir, "tmpfs", MountFlags::empty(), None).with_context(|| format!("mount {dir}"))
}

fn a_leaked_cgroup() -> Result<()> {
    std::fs::create_dir("/sys/fs/cgroup/planted").context("mkdir")
}

fn a_leaked_link() -> Result<()> {
    run("ip", &["link", "add", "planted0", "type", "dummy"]).map(drop)
}

fn a_leaked_file() -> Result<()> {
    std::fs::write("/tmp/planted-file", "").context("write")
}

/// `NFT_MSG_NEWTABLE` in a batch, as `nft add table inet planted` sends it.
fn a_leaked_table() -> Result<()> {
    crate::vm_nft::add_table("planted")
}
