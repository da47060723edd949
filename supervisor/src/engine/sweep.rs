//! Removing what dead owners left behind, and nothing else (D43).

use super::Engine;
use super::id::SandboxId;
use super::record::{self, Owner, SandboxRecord};
use super::sandbox::{RECORD, pod_id};
use crate::monitor::client::Client;

impl Engine {
    /// Goes through the owner records. Errors are logged and the next sweep tries again: one stuck sandbox must not keep
    /// the others, or the node, from starting.
    pub(super) async fn sweep(&self) {
        let boot = record::boot_id();
        for record in self.sandboxes() {
            let alive = record.boot_id == boot && record::is_alive(&record.owner);
            // The service adopts what it finds, also the records of an earlier boot.
            let adopted_later = record.owner == Owner::Service;
            if !alive && !adopted_later {
                self.sweep_sandbox(&record).await;
            }
        }
        self.sweep_damaged().await;
        self.sweep_network().await;
        self.sweep_scratch();
        self.empty_trash();
    }

    async fn sweep_sandbox(&self, record: &SandboxRecord) {
        tracing::info!(pod = record.pod.name, sandbox = %record.id, "removing what a dead owner left");
        if let Ok((client, _events)) = Client::connect(&self.dirs().monitor(&record.id)).await
            && let Err(error) = client.shutdown().await
        {
            tracing::warn!(sandbox = %record.id, "end the monitor: {error}");
        }
        for step in [self.detach(&record.id).await, self.remove_resources(record).await] {
            if let Err(error) = step {
                tracing::warn!(sandbox = %record.id, "{error}");
                return;
            }
        }
        for container in self.containers(&record.id) {
            self.warn(self.discard(&self.dirs().scratch(&container.id)));
        }
        for directory in &record.directories {
            self.warn(self.discard(directory));
        }
        self.warn(self.discard(&self.dirs().sandbox(&record.id)));
    }

    /// Leases, links and rules without a sandbox.
    async fn sweep_network(&self) {
        let live: Vec<_> = self.sandboxes().iter().filter_map(|record| pod_id(&record.id).ok()).collect();
        if let Err(error) = self.shared.network.sweep(&live).await {
            tracing::warn!("sweep the network: {error}");
        }
    }

    /// Directories whose record can't be read: a crash before it was written, or damage. Nobody can take over what runs
    /// there, so it is ended; its cgroups go with those of the pod.
    async fn sweep_damaged(&self) {
        for entry in std::fs::read_dir(self.dirs().sandboxes()).into_iter().flatten().flatten() {
            let path = entry.path().join(RECORD);
            if record::load::<SandboxRecord>(&path).is_some() {
                continue;
            }
            if let Some(id) = entry.file_name().to_str().and_then(SandboxId::parse) {
                if path.exists() {
                    tracing::error!("{} is damaged: its sandbox is ended", path.display());
                }
                self.end_unknown(&id).await;
            }
            self.warn(self.discard(&entry.path()));
        }
    }

    /// Ends a sandbox of which only the id is known.
    async fn end_unknown(&self, id: &SandboxId) {
        if let Ok((client, _events)) = Client::connect(&self.dirs().monitor(id)).await
            && let Err(error) = client.shutdown().await
        {
            tracing::warn!(sandbox = %id, "end the monitor: {error}");
        }
        self.warn(self.detach(id).await);
        self.warn(self.remove_state(id));
    }

    /// Roots of containers that no record names any more.
    fn sweep_scratch(&self) {
        let known: std::collections::BTreeSet<String> = self
            .sandboxes()
            .iter()
            .flat_map(|record| self.containers(&record.id))
            .map(|container| container.id.to_string())
            .collect();
        for entry in std::fs::read_dir(self.dirs().data.join("scratch")).into_iter().flatten().flatten() {
            if !known.contains(entry.file_name().to_string_lossy().as_ref()) {
                self.warn(self.discard(&entry.path()));
            }
        }
    }

    fn empty_trash(&self) {
        let entries: Vec<_> =
            std::fs::read_dir(self.dirs().trash()).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        tokio::task::spawn_blocking(move || {
            for path in entries {
                if let Err(error) = crate::volume::remove::path(&path) {
                    tracing::warn!("delete {}: {error}", path.display());
                }
            }
        });
    }

    fn warn(&self, result: Result<(), super::error::EngineError>) {
        if let Err(error) = result {
            tracing::warn!("{error}");
        }
    }
}
