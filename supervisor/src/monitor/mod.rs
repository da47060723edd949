//! The parent of all processes of one pod.

pub mod channel;
pub mod protocol;

use std::process::ExitCode;

/// Entry of the `monitor` binary.
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
