//! The parent of all processes of one pod.
//!
//! ```text
//! brain ── seqpacket ──> serve ──> state <── poller: pidfds, channels of children, log pipes
//!                                    ├─ pause, container, exec ──> fork ──> runtime::child
//!                                    ├─ pump ──> frame ──> log_file
//!                                    └─ record, volumes, outbox ──> brain
//! ```
//!
//! One thread, one loop, nothing blocks but the disk. It decides nothing: it starts what it is told, signals what it is told,
//! and records what happened. Its death ends nobody's work but its own, so from the loop on a failure is answered, noted or
//! tried again, never fatal.

pub mod channel;
pub mod client;
pub mod clock;
mod container;
mod ends;
mod exec;
mod failure;
mod fork;
pub mod frame;
pub mod log_file;
mod logs;
mod others;
mod outbox;
mod pause;
mod poller;
pub mod protocol;
pub mod pump;
pub mod record;
mod reports;
mod serve;
mod setup;
pub mod spawn;
mod state;
pub mod template;
mod volumes;
pub mod wire;

use std::process::ExitCode;

/// Exit code of a monitor that could not begin.
const CANNOT_BEGIN: u8 = 111;

/// Entry of the `monitor` binary.
pub fn main() -> ExitCode {
    crate::sys::abort_on_panic();
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            state::note(&error.to_string());
            ExitCode::from(CANNOT_BEGIN)
        }
    }
}

fn serve() -> std::io::Result<()> {
    match setup::become_template()? {
        Some(given) => setup::begin(given)?.run(),
        None => Ok(()),
    }
}
