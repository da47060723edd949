//! `cargo xtask sim`: random lives of random pods, each from a seed.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use xshell::cmd;

use crate::build;

/// What CI runs.
const SEEDS: u64 = 20_000;

#[derive(Debug, clap::Args)]
pub struct Sim {
    /// How many lives: 20,000, or 1 when --seed is given.
    #[arg(long)]
    seeds: Option<u64>,
    /// The first seed, 0 otherwise. A single life that fails is shown in full.
    #[arg(long)]
    seed: Option<u64>,
}

impl Sim {
    /// As many lives as every change has to survive.
    pub fn everyday() -> Self {
        Self { seeds: None, seed: None }
    }

    pub fn run(self) -> Result<ExitCode> {
        let sh = build::shell()?;
        let first = self.seed.unwrap_or(0).to_string();
        let seeds = self.seeds.unwrap_or(if self.seed.is_some() { 1 } else { SEEDS });
        let count = seeds.to_string();
        cmd!(sh, "cargo build --locked --quiet --profile ci --package supervisor --example sim").run()?;
        let began = Instant::now();
        let done =
            cmd!(sh, "cargo run --locked --quiet --profile ci --package supervisor --example sim -- {first} {count}")
                .run();
        let span = began.elapsed();
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = seeds as f64 / span.as_secs_f64();
        eprintln!("{seeds} seeds from {first} in {:.1} s, {rate:.0} per second", span.as_secs_f64());
        done?;
        Ok(ExitCode::SUCCESS)
    }
}
