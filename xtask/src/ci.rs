//! What has to pass before a change lands.

use std::process::ExitCode;

use anyhow::Result;
use xshell::cmd;

use crate::e2e::E2e;
use crate::test::Test;
use crate::vm::Phases;
use crate::{build, image, setup};

/// What no other task calls.
const PACKAGES: &[&str] = &["git"];

/// Formatting, lints, the same image from everywhere, all tests, and that the machine's tests find what is wrong.
pub fn run() -> Result<ExitCode> {
    let mut phases = Phases::of_the_command()?;
    let done = run_in(&mut phases);
    phases.print();
    done
}

fn run_in(phases: &mut Phases) -> Result<ExitCode> {
    let sh = build::shell()?;
    setup::packages(&sh, &[setup::BUILD, PACKAGES].concat())?;
    cmd!(sh, "cargo fmt --all --check").run()?;
    cmd!(sh, "cargo clippy --locked --workspace --all-targets --profile ci -- --deny warnings").run()?;
    phases.done("lints");
    image::same_from_two_clones(&sh)?;
    phases.done("pause image twice");
    let tests = Test::everything().run_in(phases)?;
    // Whatever failed, these have to.
    let planted = E2e::planted().run_in(phases)?;
    Ok(if tests == ExitCode::SUCCESS { planted } else { tests })
}
