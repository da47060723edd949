//! `monopod serve`: the node service.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::config::{Config, ConfigError};
use crate::serve::{self, ServeError};

/// Runs the node service
///
/// Static manifests become pods, and what the API is told happens. Its end touches no container; the next start takes them
/// over.
#[derive(Debug, clap::Args)]
pub struct ServeCommand {
    /// Configuration [default: /etc/monopod/config.yaml, when it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Runs pods with limits that this host can't enforce, and says so, instead of refusing to start
    #[arg(long)]
    allow_unenforced_limits: bool,
}

/// Why it did not run.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error("start the runtime: {0}")]
    Runtime(std::io::Error),
}

/// Runs `monopod serve ...`.
///
/// # Errors
/// The configuration is wrong, or the host.
pub fn run(command: &ServeCommand) -> Result<ExitCode, CommandError> {
    let mut config = Config::read(command.config.as_deref())?;
    config.allow_unenforced_limits |= command.allow_unenforced_limits;
    crate::sys::memory::use_one_heap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CommandError::Runtime)?;
    let tasks = tokio::task::LocalSet::new();
    tasks.block_on(&runtime, serve::run(config, command.config.clone()))?;
    // Deletions in the background go on at the next start.
    runtime.shutdown_background();
    Ok(ExitCode::SUCCESS)
}
