//! `cargo xtask bench api`: what the API costs one client, alone and beside slow, many and deaf ones
//! (`tests/clients/load.py`).

use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::host;
use crate::build::{self, Profile};

/// Longest that the daemon may take until it serves.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Requests per figure
    #[arg(long, default_value_t = 1000)]
    rounds: usize,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(args.rounds > 0, "--rounds must be at least 1");
    ensure!(rustix::process::geteuid().is_root(), "bench api needs root");
    let sh = build::shell()?;
    if !host::is_inside() {
        build::binaries(&sh, Profile::Release)?;
        return host::enter();
    }
    let bin = build::output_dir(&sh, Profile::Release)?;
    host::set_up(&sh, &bin)?;
    let config =
        "staticPodPath: /run/manifests\nallowUnenforcedLimits: true\nnodeName: node1\napi: {dir: /run/access}\n";
    fs::create_dir_all("/run/manifests")?;
    fs::write("/run/serve.yaml", config)?;
    let log = fs::File::create("/run/serve.log")?;
    let mut daemon = Command::new(bin.join("monopod"));
    let daemon = daemon.args(["serve", "--config", "/run/serve.yaml"]).stdin(Stdio::null()).stderr(log);
    let mut daemon = Daemon(daemon.spawn().context("start monopod serve")?);
    let until = Instant::now() + PATIENCE;
    while !served(&bin) {
        ensure!(Instant::now() < until && daemon.0.try_wait()?.is_none(), "{}", fs::read_to_string("/run/serve.log")?);
        sleep(Duration::from_millis(50));
    }
    let script = build::root().join("tests/clients/load.py");
    let (pid, rounds) = (daemon.0.id().to_string(), args.rounds.to_string());
    let mut load = Command::new("python3");
    load.arg(script).args(["/run/monopod/monopod.sock", "/run/access/kubeconfig", &pid, &rounds]);
    let status = load.status().context("start python3")?;
    let mut delete = Command::new(bin.join("monopod"));
    // Waits until they are gone: nobody else would end them.
    let _deleted = delete.args(["delete", "pods", "--all", "--grace-period=0"]).output();
    ensure!(status.success(), "a figure misses its goal");
    Ok(())
}

/// Whether pods can be made: the default account is there.
fn served(bin: &std::path::Path) -> bool {
    let output = Command::new(bin.join("monopod")).args(["get", "serviceaccount", "default"]).output();
    output.is_ok_and(|output| output.status.success())
}

/// It dies with the bench.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}
