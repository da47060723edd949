//! `monopod reset`: the machine as it was before the first pod.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::config::{Config, ConfigError};
use crate::engine::log_link;
use crate::serve::{self, ServeError};

/// Ends every pod of the service and removes everything that it made
///
/// Objects, images, volumes, logs, certificates, addresses, rules and cgroups go; manifests and configuration stay. The
/// service must have been stopped.
#[derive(Debug, clap::Args)]
pub struct ResetCommand {
    /// Configuration of the service [default: /etc/monopod/config.yaml, when it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Removes what a boot of the machine would: processes, addresses, rules, cgroups. Files on disk stay
    #[arg(long)]
    runtime: bool,
    /// Does it; without, only what would go is shown
    #[arg(long)]
    yes: bool,
}

/// Why something is left.
#[derive(Debug, thiserror::Error)]
pub enum ResetError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error("remove {}: {source}", path.display())]
    Remove { path: PathBuf, source: std::io::Error },
    #[error("start the runtime: {0}")]
    Runtime(std::io::Error),
}

/// Runs `monopod reset`.
///
/// # Errors
/// The service runs, or something can't be removed.
pub fn run(command: &ResetCommand) -> Result<ExitCode, ResetError> {
    let config = Config::read(command.config.as_deref())?;
    let kept = command.runtime;
    let dirs = [&config.run_dir, &config.data_dir, &config.log_dir];
    let dirs = if kept { dirs.get(..1).unwrap_or_default() } else { &dirs };
    if !command.yes {
        println!("all pods of the service, and what is below:");
        dirs.iter().for_each(|dir| println!("  {}", dir.display()));
        println!("go with --yes");
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ResetError::Runtime)?;
    let tasks = tokio::task::LocalSet::new();
    tasks.block_on(&runtime, serve::reset(&config))?;
    drop(runtime);
    for dir in dirs {
        remove_below(dir)?;
    }
    if kept {
        return Ok(ExitCode::SUCCESS);
    }
    let own = serve::dirs(&config);
    log_link::sweep(&own).map_err(|source| ResetError::Remove { path: own.log_links(), source })?;
    // Made by the service, unlike what lies beside them.
    for name in ["pki", "kubeconfig"] {
        remove(&config.api.dir.join(name))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The directory itself may belong to a package, or be a mount point.
fn remove_below(dir: &Path) -> Result<(), ResetError> {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        remove(&entry.path())?;
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), ResetError> {
    let is_dir = path.symlink_metadata().is_ok_and(|own| own.is_dir());
    let removed = if is_dir { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    match removed {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(ResetError::Remove { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}
