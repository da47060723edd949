//! Taking over what an earlier life of the owner left (D43).
//!
//! A sandbox is taken over when its monitor answers, pause lives, it was finished ([`Engine::finish_sandbox`]) and its
//! network stands. Otherwise it counts as lost; stopping it ends whatever is left of it.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use super::Engine;
use super::container::RECORD as CONTAINER_RECORD;
use super::error::EngineError;
use super::id::SandboxId;
use super::record::{self, ContainerRecord, SandboxRecord};
use super::sandbox::{RECORD, Sandbox, open_user_namespace, pod_id};
use crate::convert::mounts::FILES_VOLUME;
use crate::monitor::client::Client;
use crate::monitor::protocol::{ContainerState, Snapshot};

/// A monitor that does not answer for so long is given up: it may wait for a slow disk, but not for ever.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);
/// Says that everything of a sandbox's creation was done.
const FINISHED: &str = "finished";

/// What is left of a sandbox.
#[derive(Debug)]
pub struct Adopted {
    /// Its addresses, the primary one first, when it goes on; empty with the host's network.
    pub live: Option<Vec<IpAddr>>,
    pub containers: Vec<AdoptedContainer>,
}

/// A container that has an owner record.
#[derive(Debug)]
pub struct AdoptedContainer {
    pub record: ContainerRecord,
    /// None: it does not run, and nobody wrote down how it ended.
    pub state: Option<ContainerState>,
}

impl Engine {
    /// Notes that a sandbox has everything that its owner wanted to put into it.
    pub fn finish_sandbox(&self, id: &SandboxId) -> Result<(), EngineError> {
        let path = self.dirs().sandbox(id).join(FINISHED);
        // An empty file of this boot's sandbox: after a power cut nothing of it runs anyway.
        File::create(&path).map(drop).map_err(EngineError::io("make", &path))
    }

    /// Connects to the sandbox's monitor and asks what it knows. From then on its events come as of any other.
    pub async fn adopt_sandbox(&self, record: &SandboxRecord) -> Adopted {
        let connected = if record.boot_id == record::boot_id() { self.reconnect(record).await } else { None };
        let (live, snapshot) = match connected {
            Some((live, snapshot)) => (live, Some(snapshot)),
            None => (None, None),
        };
        let containers = self.container_records(&record.id);
        if live.is_some() {
            containers.iter().for_each(|own| self.watch_logs(own));
        }
        let containers = containers.into_iter().map(|own| self.adopted(record, own, snapshot.as_ref())).collect();
        Adopted { live, containers }
    }

    /// None when it can't go on and stopping it has to look for what is left; what ended is written down anyway.
    async fn reconnect(&self, record: &SandboxRecord) -> Option<(Option<Vec<IpAddr>>, Snapshot)> {
        let asking = async {
            let (client, events) = Client::connect(&self.dirs().monitor(&record.id)).await?;
            let snapshot = client.snapshot().await?;
            Ok::<_, EngineError>((client, events, snapshot))
        };
        let (client, events, snapshot) = match tokio::time::timeout(ANSWERS_WITHIN, asking).await {
            Ok(Ok(answered)) => answered,
            Ok(Err(error)) => {
                tracing::info!(pod = record.pod.name, sandbox = %record.id, "its monitor is gone: {error}");
                return None;
            }
            Err(_) => {
                tracing::warn!(pod = record.pod.name, sandbox = %record.id, "its monitor does not answer");
                return None;
            }
        };
        let finished = self.dirs().sandbox(&record.id).join(FINISHED).exists();
        self.end_unrecorded(record, &client, &snapshot).await;
        let pause = snapshot.pause_pid.filter(|_| finished)?;
        let taken = async {
            let files = client.open_volume(FILES_VOLUME).await?;
            // The monitor has not reaped pause, so the number is still its.
            let path = format!("/proc/{pause}/ns/net");
            let netns = OwnedFd::from(File::open(&path).map_err(EngineError::io("open", &path))?);
            let users = record.user_namespace.map(|_| open_user_namespace(pause)).transpose()?;
            let sandbox = Sandbox { client: client.clone(), record: record.clone(), files, netns, users };
            let sandbox = std::rc::Rc::new(sandbox);
            self.shared.sandboxes.borrow_mut().insert(record.id.clone(), sandbox.clone());
            self.forward(record.id.clone(), events, None);
            self.reattach(record, &sandbox.netns).await
        };
        match taken.await {
            Ok(addresses) => Some((Some(addresses), snapshot)),
            Err(error) => {
                tracing::warn!(pod = record.pod.name, sandbox = %record.id, "it can't go on: {error}");
                Some((None, snapshot))
            }
        }
    }

    /// Containers whose record can't be read are nobody's: their owner makes new ones, and two of one name may not live.
    async fn end_unrecorded(&self, record: &SandboxRecord, client: &Client, snapshot: &Snapshot) {
        let known = self.container_records(&record.id);
        for container in &snapshot.containers {
            if known.iter().any(|known| known.id.as_str() == container.id) {
                continue;
            }
            let path = self.dirs().sandbox(&record.id).join("containers").join(&container.id).join(CONTAINER_RECORD);
            let id = &container.id;
            tracing::error!(pod = record.pod.name, "{} is damaged: its container is ended", path.display());
            let ended = async {
                client.kill_container(id).await?;
                client.remove_container(id).await
            };
            if let Err(error) = ended.await {
                tracing::warn!(pod = record.pod.name, container = id, "end it: {error}");
            }
        }
    }

    /// Attaching again what is attached only mends it; the lease says with which ports.
    async fn reattach(&self, record: &SandboxRecord, netns: &OwnedFd) -> Result<Vec<IpAddr>, EngineError> {
        if !record.network {
            return Ok(Vec::new());
        }
        let id = pod_id(&record.id)?;
        let leases = self.shared.network.leases().await?;
        let lease = leases.into_iter().find(|lease| lease.pod == id);
        let lease =
            lease.ok_or_else(|| EngineError::NotFound { what: "address lease of", id: record.id.to_string() })?;
        Ok(self.shared.network.attach(&id, netns.as_fd(), &lease.ports).await?.addresses)
    }

    fn adopted(&self, sandbox: &SandboxRecord, own: ContainerRecord, snapshot: Option<&Snapshot>) -> AdoptedContainer {
        let known = snapshot.and_then(|all| all.containers.iter().find(|known| known.id == own.id.as_str()));
        let recorded = || self.exit_record(&sandbox.id, &own.id).map(ContainerState::Exited);
        let state = known.map(|known| known.state.clone()).or_else(recorded);
        AdoptedContainer { record: own, state }
    }

    /// Ends a sandbox whose monitor is not connected: one that was never finished, or that was lost.
    pub(super) async fn stop_unconnected(&self, id: &SandboxId) -> Result<(), EngineError> {
        let state = self.dirs().monitor(id);
        let Some(record) = record::load::<SandboxRecord>(&self.dirs().sandbox(id).join(RECORD)) else { return Ok(()) };
        if !state.exists() {
            return Ok(());
        }
        if let Ok((client, _events)) = Client::connect(&state).await {
            // What it does not end goes with the cgroup.
            let _ended = tokio::time::timeout(ANSWERS_WITHIN, client.shutdown()).await;
        }
        if record.network {
            self.detach(id).await?;
        }
        self.remove_resources(&record).await
    }
}
