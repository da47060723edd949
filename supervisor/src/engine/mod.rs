//! Sandboxes and containers by opaque id, each created, started, signalled, stopped, removed and listed by itself.
//!
//! Every call may be repeated, also after a crash: what exists already is success, and so is what is gone already. There is
//! no policy here: restarts, back-off, probes, hooks, order and collection are the caller's. *Create* prepares and fails
//! early, *start* only executes.

pub mod adopt;
pub mod container;
pub mod dirs;
pub mod error;
pub mod id;
pub mod log_link;
mod log_pack;
pub mod program;
pub mod record;
pub mod sandbox;
pub mod sweep;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::monitor::client::Client;
use crate::monitor::protocol::Event;
use dirs::Dirs;
use error::EngineError;
use id::{ContainerId, SandboxId};
use record::{Owner, SandboxRecord};

/// What an engine is made with.
#[derive(Debug, Clone)]
pub struct Config {
    pub dirs: Dirs,
    pub owner: Owner,
    /// The directory in the cgroup tree below which everything of ours lies.
    pub cgroup_parent: std::path::PathBuf,
    pub network: netsetup::Config,
}

/// What happened in a sandbox, in the order in which it happened there.
#[derive(Debug, Clone)]
pub struct EngineEvent {
    pub sandbox: SandboxId,
    pub what: What,
}

#[derive(Debug, Clone)]
pub enum What {
    Happened(Event),
    /// The monitor is gone, and with it everything that it knew but had not written down.
    MonitorLost,
}

/// The layer below the pods. Cheap to clone; lives on one thread.
#[derive(Debug, Clone)]
pub struct Engine {
    shared: Rc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: Config,
    tree: Arc<cgroupd::Tree>,
    network: netsetup::Network,
    programs: program::Programs,
    /// None where the kernel gives no watch.
    packer: Option<log_pack::LogPacker>,
    sandboxes: RefCell<BTreeMap<SandboxId, Rc<sandbox::Sandbox>>>,
    events: mpsc::UnboundedSender<EngineEvent>,
}

impl Engine {
    /// Opens the node's directories, cgroup tree and network. What dead owners left behind is swept away.
    pub async fn open(config: Config) -> Result<(Self, mpsc::UnboundedReceiver<EngineEvent>), EngineError> {
        let dirs = &config.dirs;
        dirs.create().map_err(EngineError::io("make directories below", &dirs.data))?;
        let tree = Arc::new(cgroupd::Tree::open(&config.cgroup_parent)?);
        // First, so that the monitors' template begins while the network is looked at.
        let programs = program::Programs::open()?;
        let network = netsetup::Network::open(config.network.clone()).await?;
        let (events, receiver) = mpsc::unbounded_channel();
        let packer = log_pack::LogPacker::start();
        let packer = packer.inspect_err(|error| tracing::warn!("rotated logs are not packed: {error}")).ok();
        let sandboxes = RefCell::new(BTreeMap::new());
        let shared = Shared { config, tree, network, programs, packer, sandboxes, events };
        let engine = Self { shared: Rc::new(shared) };
        engine.sweep().await;
        Ok((engine, receiver))
    }

    /// Gives the host back what all pods share, unless somebody's pods still use it.
    pub async fn close(&self) -> Result<(), EngineError> {
        let _removed_or_in_use = self.shared.network.teardown().await?;
        Ok(())
    }

    pub fn dirs(&self) -> &Dirs {
        &self.shared.config.dirs
    }

    /// Every sandbox that has an owner record, with what is known of it now.
    pub fn sandboxes(&self) -> Vec<SandboxRecord> {
        self.dirs().sandbox_records()
    }

    fn sandbox(&self, id: &SandboxId) -> Result<Rc<sandbox::Sandbox>, EngineError> {
        let found = self.shared.sandboxes.borrow().get(id).cloned();
        found.ok_or_else(|| EngineError::NotFound { what: "sandbox", id: id.to_string() })
    }

    fn client(&self, id: &SandboxId) -> Result<Client, EngineError> {
        Ok(self.sandbox(id)?.client.clone())
    }
}

/// What a caller may ask about a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerSummary {
    pub id: ContainerId,
    pub sandbox: SandboxId,
    pub name: String,
}
