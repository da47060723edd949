//! What an exec probe's end means (EX1, EX2), and a bounded keeper of its output.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::{OUTPUT_BYTES, text};
use crate::pod::event::ProbeOutcome;

/// Bytes read at a time.
const CHUNK_BYTES: usize = 4096;

/// How an exec probe's process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecEnd {
    /// Code, or 128 + signal.
    Exited(i32),
    /// It ran longer than the probe's `timeoutSeconds` and was killed.
    TimedOut(Duration),
}

/// The result of an exec probe from its end and what it printed, stdout and stderr as they came.
pub fn exec_outcome(end: ExecEnd, output: &[u8], command: &[String]) -> ProbeOutcome {
    match end {
        ExecEnd::Exited(0) => ProbeOutcome::Success,
        ExecEnd::Exited(_) => {
            let kept = &output[..output.len().min(OUTPUT_BYTES)];
            ProbeOutcome::Failure(String::from_utf8_lossy(kept).into_owned())
        }
        ExecEnd::TimedOut(after) => {
            let command = text::quote(command.join(" ").as_bytes());
            ProbeOutcome::Failure(format!("command timed out: {command} timed out after {}", text::duration(after)))
        }
    }
}

/// The first [`OUTPUT_BYTES`] of what a process prints.
#[derive(Debug, Default)]
pub struct Combined(Vec<u8>);

impl Combined {
    /// Keeps what fits and drops the rest.
    pub fn push(&mut self, bytes: &[u8]) {
        let room = OUTPUT_BYTES.saturating_sub(self.0.len()).min(bytes.len());
        self.0.extend_from_slice(&bytes[..room]);
    }

    /// What was kept.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Reads both streams to their ends, so that the process never waits for a reader, and keeps the beginning in `combined`.
/// A child that inherited a stream may hold it open for ever: drop the future when the process has ended; what came until
/// then is in `combined`.
pub async fn collect<O, E>(mut stdout: O, mut stderr: E, combined: &mut Combined) -> io::Result<()>
where
    O: AsyncRead + Unpin,
    E: AsyncRead + Unpin,
{
    let (mut from_out, mut from_err) = ([0; CHUNK_BYTES], [0; CHUNK_BYTES]);
    let (mut out_open, mut err_open) = (true, true);
    while out_open || err_open {
        tokio::select! {
            read = stdout.read(&mut from_out), if out_open => {
                let read = read?;
                combined.push(&from_out[..read]);
                out_open = read > 0;
            }
            read = stderr.read(&mut from_err), if err_open => {
                let read = read?;
                combined.push(&from_err[..read]);
                err_open = read > 0;
            }
        }
    }
    Ok(())
}
