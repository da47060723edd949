//! Removing everything that the service made, while it does not run.

use crate::config::Config;
use crate::engine::record::Owner;
use crate::engine::{self, Engine};

use super::lock::Lock;
use super::{ServeError, dirs, engine_config};

/// Ends every sandbox of the service, gives network and cgroups back. Files are the caller's.
///
/// # Errors
/// The service runs, or the kernel refuses.
pub async fn reset(config: &Config) -> Result<(), ServeError> {
    let dirs = dirs(config);
    engine::dirs::create_private(&dirs.data).map_err(ServeError::io("make", &dirs.data))?;
    let _lock = Lock::take(&dirs.data).await?;
    let config = Config { allow_unenforced_limits: true, ..config.clone() };
    let own = engine_config(&config, &dirs)?;
    let cgroup = own.cgroup_parent.clone();
    let (engine, _events) = Engine::open(own).await?;
    for record in engine.sandboxes().into_iter().filter(|record| record.owner == Owner::Service) {
        println!("ending pod {}/{}", record.pod.namespace, record.pod.name);
        engine.remove_sandbox(&record.id).await?;
    }
    engine.close().await?;
    remove_cgroups(&cgroup);
    Ok(())
}

/// Emptied levels, the deepest first; one that somebody else uses stays.
fn remove_cgroups(parent: &std::path::Path) {
    let kubepods = parent.join("kubepods");
    for dir in [kubepods.join("burstable"), kubepods.join("besteffort"), kubepods, parent.to_owned()] {
        if let Err(error) = std::fs::remove_dir(&dir) {
            tracing::debug!("rmdir {}: {error}", dir.display());
        }
    }
}
