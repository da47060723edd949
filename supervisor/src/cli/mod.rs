//! The command line.

use std::process::ExitCode;

/// Entry of the `monopod` binary.
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
