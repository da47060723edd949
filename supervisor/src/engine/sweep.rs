//! Removing what dead owners left behind, and nothing else (D43).

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::time::Duration;

use super::Engine;
use super::id::SandboxId;
use super::record::{self, Owner, SandboxRecord};
use super::sandbox::{RECORD, pod_id};
use crate::monitor::client::Client;

/// Longest between a sandbox's directory and the record in it.
const MAKING: Duration = Duration::from_millis(100);

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
        if let Err(error) = super::log_link::sweep(self.dirs()) {
            tracing::warn!("remove links to logs that are gone: {error}");
        }
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
        for container in self.container_records(&record.id) {
            self.remove_log_link(record, &container);
            self.warn(self.discard(&self.dirs().scratch(&container.id)));
        }
        for directory in &record.directories {
            self.warn(self.discard(directory));
        }
        self.warn(self.discard(&self.dirs().sandbox(&record.id)));
    }

    /// Leases, links and rules without a sandbox.
    async fn sweep_network(&self) {
        let dirs = self.dirs().clone();
        let live = move || dirs.sandbox_records().iter().filter_map(|record| pod_id(&record.id).ok()).collect();
        if let Err(error) = self.shared.network.sweep(live).await {
            tracing::warn!("sweep the network: {error}");
        }
    }

    /// Directories whose record can't be read: a crash before it was written, or damage. Nobody can take over what runs
    /// there, so it is ended; its cgroups go with those of the pod.
    async fn sweep_damaged(&self) {
        for entry in std::fs::read_dir(self.dirs().sandboxes()).into_iter().flatten().flatten() {
            let path = entry.path().join(RECORD);
            if !path.exists() {
                // Another process may be about to write it.
                tokio::time::sleep(MAKING).await;
            }
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

    /// Roots of containers that nobody knows any more.
    fn sweep_scratch(&self) {
        // What others make meanwhile is not among these.
        let scratch = std::fs::read_dir(self.dirs().data.join("scratch")).into_iter().flatten().flatten();
        let scratch: Vec<_> = scratch.collect();
        let known: BTreeSet<OsString> = self.sandboxes().iter().flat_map(|record| self.known(record)).collect();
        for entry in scratch {
            if !known.contains(&entry.file_name()) {
                self.warn(self.discard(&entry.path()));
            }
        }
    }

    /// The containers of a sandbox: ours have records, and others' may be about to get one.
    fn known(&self, record: &SandboxRecord) -> Vec<OsString> {
        if record.owner == self.shared.config.owner {
            return self.containers(&record.id).iter().map(|container| container.id.as_str().into()).collect();
        }
        let entries = std::fs::read_dir(self.dirs().containers(&record.id)).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name()).collect()
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
