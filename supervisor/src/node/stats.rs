//! How much pods have of something that is scarce on the node (EV6, EV8), and giving back what ended ones left.

use std::fmt;
use std::rc::Rc;

use cgroupd::parse::{MemoryStat, number, working_set};
use k8s_openapi::api::core::v1::Pod;

use super::context::{Context, Known};
use super::{Node, Sessions, volumes};

/// What pods are made to give back, in the words of messages and events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scarce {
    Memory,
    Storage,
    Inodes,
    Pids,
}

impl fmt::Display for Scarce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "memory",
            Self::Storage => "ephemeral-storage",
            Self::Inodes => "inodes",
            Self::Pids => "pids",
        })
    }
}

impl Scarce {
    /// Whether images and what ended pods left are a part of it.
    pub fn is_of_disk(self) -> bool {
        match self {
            Self::Memory | Self::Pids => false,
            Self::Storage | Self::Inodes => true,
        }
    }
}

/// Of one pod; bytes, inodes or processes.
#[derive(Debug, Clone, PartialEq)]
pub struct PodStats {
    pub uid: String,
    pub pod: Pod,
    /// By the pod as a whole.
    pub used: u64,
    /// By its running containers.
    pub containers: Vec<(String, u64)>,
}

impl Sessions {
    /// Of every pod that has something on this node.
    pub async fn stats(&self, scarce: Scarce) -> Vec<PodStats> {
        let contexts: Vec<Rc<Context>> = self.contexts();
        let mut all = Vec::new();
        for context in contexts.iter().filter(|context| context.newest_sandbox().is_some()) {
            let (used, containers) = match scarce {
                Scarce::Memory => memory(context),
                Scarce::Pids => processes(context),
                Scarce::Storage => volumes::taken(context, |amount| amount.bytes).await,
                Scarce::Inodes => volumes::taken(context, |amount| amount.inodes).await,
            };
            all.push(PodStats {
                uid: context.reference.uid.clone(),
                pod: Pod::clone(&context.newest_pod()),
                used,
                containers,
            });
        }
        all
    }
}

impl Node {
    /// Throws away the writable layers of pods that have ended, which only their records need; how many there were.
    pub fn discard_ended(&self) -> usize {
        let ended = self.pods.values().filter(|entry| entry.machine.is_finished());
        let layers = ended.flat_map(|entry| entry.context.instances().into_iter().map(|known| known.id));
        let engine = self.engine();
        let there = layers.map(|id| engine.dirs().scratch(&id)).filter(|layer| layer.exists());
        let discarded = there.filter(|layer| {
            let discarded = engine.discard(layer);
            discarded.inspect_err(|error| tracing::warn!("give back what an ended pod wrote: {error}")).is_ok()
        });
        discarded.count()
    }
}

fn memory(context: &Context) -> (u64, Vec<(String, u64)>) {
    let own = |known: &Known| {
        let read = |file: &str| context.engine.read_cgroup(&known.sandbox, &known.id, file).ok();
        memory_of(read)
    };
    let containers: Vec<(String, u64)> =
        context.running().iter().map(|(_, name, known)| (name.clone(), own(known).unwrap_or(0))).collect();
    let sandbox = context.newest_sandbox();
    // What a container that is gone left in volumes of memory is the pod's alone.
    let pod = sandbox.and_then(|id| memory_of(|file| context.engine.read_pod_cgroup(&id, file).ok()));
    (pod.unwrap_or_else(|| containers.iter().map(|(_, used)| used).sum()), containers)
}

/// The working set (EV8); none where the host does not account memory.
pub(super) fn memory_of(read: impl Fn(&str) -> Option<String>) -> Option<u64> {
    let current = number("memory.current", &read("memory.current")?).ok()?;
    Some(working_set(current, &MemoryStat::parse(&read("memory.stat")?).ok()?))
}

/// As the kernel counts them, threads included; else processes alone.
fn processes(context: &Context) -> (u64, Vec<(String, u64)>) {
    let own = |known: &Known| {
        let read = |file: &str| context.engine.read_cgroup(&known.sandbox, &known.id, file).ok();
        let counted = read("pids.current").and_then(|text| number("pids.current", &text).ok());
        counted.or_else(|| u64::try_from(read("cgroup.procs")?.lines().count()).ok()).unwrap_or(0)
    };
    let containers: Vec<(String, u64)> =
        context.running().iter().map(|(_, name, known)| (name.clone(), own(known))).collect();
    (containers.iter().map(|(_, used)| used).sum(), containers)
}
