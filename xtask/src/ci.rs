//! What has to pass before a change lands.

use std::process::ExitCode;

use anyhow::Result;
use xshell::cmd;

use crate::{build, setup, test};

/// Formatting, lints, then all tests.
pub fn run() -> Result<ExitCode> {
    let sh = build::shell()?;
    setup::packages(&sh, setup::BUILD)?;
    cmd!(sh, "cargo fmt --all --check").run()?;
    cmd!(sh, "cargo clippy --locked --workspace --all-targets --profile ci -- --deny warnings").run()?;
    test::Test::everything().run()
}
