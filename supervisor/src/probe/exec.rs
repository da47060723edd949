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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt as _;

    fn command(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    /// EX1, EX2
    #[test]
    fn an_end_and_its_text() {
        let sleep = command(&["sleep", "10"]);
        let second = Duration::from_secs(1);
        for (end, output, outcome) in [
            (ExecEnd::Exited(0), "fine", ProbeOutcome::Success),
            (ExecEnd::Exited(1), "no such file\n", ProbeOutcome::Failure("no such file\n".to_owned())),
            (ExecEnd::Exited(137), "", ProbeOutcome::Failure(String::new())),
            (
                ExecEnd::TimedOut(second),
                "half",
                ProbeOutcome::Failure(r#"command timed out: "sleep 10" timed out after 1s"#.to_owned()),
            ),
        ] {
            assert_eq!(exec_outcome(end, output.as_bytes(), &sleep), outcome);
        }
    }

    /// EX1
    #[test]
    fn a_failure_shows_the_first_ten_kibibytes() {
        let outcome = exec_outcome(ExecEnd::Exited(1), &[b'x'; OUTPUT_BYTES + 1], &[]);
        assert_eq!(outcome, ProbeOutcome::Failure("x".repeat(10_240)));
    }

    /// F10
    #[tokio::test]
    async fn a_flood_is_read_and_dropped() {
        let (mut out, out_reader) = tokio::io::duplex(64);
        let (mut err, err_reader) = tokio::io::duplex(64);
        let mut combined = Combined::default();
        let writer = async {
            err.write_all(b"begins ").await.unwrap();
            drop(err);
            for _ in 0..100 {
                out.write_all(&[b'x'; 1024]).await.unwrap();
            }
            drop(out);
        };
        let (collected, ()) = tokio::join!(collect(out_reader, err_reader, &mut combined), writer);
        collected.unwrap();
        assert_eq!(combined.bytes().len(), OUTPUT_BYTES);
        assert!(combined.bytes().windows(7).any(|window| window == b"begins "));
    }

    #[tokio::test]
    async fn what_came_before_the_end_is_kept() {
        let (mut out, out_reader) = tokio::io::duplex(64);
        let (_held_open, err_reader) = tokio::io::duplex(64);
        out.write_all(b"half").await.unwrap();
        drop(out);
        let mut combined = Combined::default();
        let never = collect(out_reader, err_reader, &mut combined);
        assert!(tokio::time::timeout(Duration::from_millis(20), never).await.is_err());
        assert_eq!(combined.bytes(), b"half");
    }
}
