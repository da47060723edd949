//! `monopod drain`: the end of all pods, by the daemon.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::config::{Config, ConfigError};
use crate::serve::control::SOCKET;

/// Ends all pods gracefully
///
/// Ordinary pods first, then critical ones, at most for shutdownGracePeriod. Nothing new starts until the service starts
/// again; then static pods come back.
#[derive(Debug, clap::Args)]
pub struct DrainCommand {
    /// Configuration of the service [default: /etc/monopod/config.yaml, when it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Why the pods did not end.
#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("monopod serve does not answer at {}: {source}", path.display())]
    Connect { path: PathBuf, source: std::io::Error },
    #[error("{0}")]
    Refused(String),
    #[error("monopod serve ended before its pods did")]
    Ended,
}

/// Runs `monopod drain`.
///
/// # Errors
/// The daemon does not run, or ended.
pub fn run(command: &DrainCommand) -> Result<ExitCode, DrainError> {
    let path = Config::read(command.config.as_deref())?.run_dir.join(SOCKET);
    let failed = |source| DrainError::Connect { path: path.clone(), source };
    let mut stream = UnixStream::connect(&path).map_err(failed)?;
    stream.write_all(b"drain\n").map_err(failed)?;
    for line in BufReader::new(stream).lines() {
        let line = line.map_err(failed)?;
        match line.strip_prefix("error: ") {
            Some(cause) => return Err(DrainError::Refused(cause.to_owned())),
            None if line == "done" => return Ok(ExitCode::SUCCESS),
            None => println!("{line}"),
        }
    }
    Err(DrainError::Ended)
}
