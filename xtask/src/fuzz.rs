//! Tries every parser of what comes from outside with mutated samples (`supervisor/src/fuzz`).

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use xshell::cmd;

use crate::build;

#[derive(Debug, clap::Args)]
pub struct Fuzz {
    /// How long, such as 60s; all parsers side by side
    #[arg(long = "for", default_value = "60s")]
    time: String,
    /// Only parsers whose name contains this
    parser: Option<String>,
}

impl Fuzz {
    /// What an ordinary run of all tests does after the others.
    pub fn everyday() -> Self {
        Self { time: "60s".to_owned(), parser: None }
    }

    pub fn run(self) -> Result<ExitCode> {
        let seconds: u64 = self.time.trim_end_matches('s').parse().context("--for takes seconds, such as 60s")?;
        let sh = build::shell()?;
        let filter = format!("fuzz::{}", self.parser.map(|name| format!("parsers::{name}")).unwrap_or_default());
        // More threads than processors: each parser gets the whole time, and all of them together take no longer.
        cmd!(
            sh,
            "cargo test --locked --profile ci --package supervisor --lib -- --show-output --test-threads 32 {filter}"
        )
        .env("MONOPOD_FUZZ_SECONDS", seconds.to_string())
        .run()?;
        Ok(ExitCode::SUCCESS)
    }
}
