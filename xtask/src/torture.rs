//! `cargo xtask torture`: the daemon is killed over and over, and nothing may be lost.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use xshell::cmd;

use crate::build::{self, Profile};
use crate::images;

/// The test that does it.
const TEST: &str = "torture::a_daemon_that_is_killed_all_the_time_loses_nothing";

#[derive(Debug, clap::Args)]
pub struct Torture {
    /// How often.
    #[arg(long, default_value_t = 500)]
    kills: u64,
    /// Fixes pods, objects and the places of the kills.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl Torture {
    pub fn run(self) -> Result<ExitCode> {
        ensure!(rustix::process::geteuid().is_root(), "pods need root");
        let sh = build::shell()?;
        let built = build::with_tests(&sh, Profile::Ci)?;
        images::image("busybox")?;
        let Self { kills, seed } = self;
        let it = &built.it;
        cmd!(sh, "{it}")
            .env("MONOPOD_BIN", &built.bin)
            .env("MONOPOD_ONE", TEST)
            .env("MONOPOD_TORTURE_KILLS", kills.to_string())
            .env("MONOPOD_TORTURE_SEED", seed.to_string())
            .run()?;
        Ok(ExitCode::SUCCESS)
    }
}
