//! What has to pass before a change lands.

use std::process::{Command, ExitCode};

use anyhow::Result;
use xshell::cmd;

use crate::lane::Step;
use crate::test::Test;
use crate::vm::Phases;
use crate::{build, e2e, image, setup};

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
    phases.done("formatting");
    image::same_from_two_clones(&sh)?;
    phases.done("pause image twice");
    let ready = Test::everything().prepare(phases)?;
    ready.run(vec![e2e::planted_step()?, lints()], phases)
}

/// Clippy gets what nobody else wants.
fn lints() -> Step {
    // `pause` has no unwinder, so that it has to be compiled as it is shipped.
    let script = "cargo clippy --locked --workspace --exclude pause --all-targets --profile ci -- --deny warnings &&
                  cargo clippy --locked --package pause --release -- --deny warnings";
    let mut command = Command::new("chrt");
    command.args(["--idle", "0", "sh", "-c", script]);
    Step { name: "lints", command, tells: false }
}
