//! Looking at the node: file systems, memory, processes, and what can be given back before a pod goes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use super::signal::{self, Met, Observed, Signal};
use crate::config::Config;
use crate::config::eviction::EvictionHard;
use crate::image;
use crate::image::gc::{FileSystem, Policy};
use crate::node::{PodStats, Sessions};

/// What was removed is deleted in the background. For so long is waited before it counts as taken.
const DELETION: Duration = Duration::from_secs(30);
const DELETION_LOOK: Duration = Duration::from_millis(20);

/// What is looked at, and what is much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    images: PathBuf,
    data: PathBuf,
    trash: PathBuf,
    collect: Policy,
    keep: EvictionHard,
}

/// What a look found.
#[derive(Debug)]
pub struct Looked {
    /// Before anything but images beyond their own threshold was given back.
    pub met: Vec<Met>,
    /// What is to be reclaimed, and whether that has been done already without any pod.
    pub most_urgent: Option<(Met, Reclaimed)>,
    /// Something is beyond its threshold, or nearly.
    pub is_near: bool,
    /// What the pods have of what is scarce; empty when nothing is.
    pub pods: Vec<PodStats>,
    /// Images that were removed, as users know them.
    pub removed: Vec<String>,
    /// What the kubelet says when images gave too little.
    pub failure: Option<String>,
}

/// Whether images that nobody used sufficed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reclaimed {
    Enough,
    TooLittle,
}

impl Limits {
    pub fn new(config: &Config, images: &image::Store) -> Self {
        Self {
            images: images.root().to_owned(),
            data: config.data_dir.clone(),
            trash: super::super::dirs(config).trash(),
            collect: config.image_gc(),
            keep: config.eviction_hard,
        }
    }

    /// Is something beyond its threshold? Two calls of statvfs(3), and a few small files of proc(5).
    pub fn is_pressed(&self) -> bool {
        self.observe().is_ok_and(|observed| !signal::met(&observed, &self.keep).is_empty())
    }

    /// Are there more images than there should be?
    pub fn has_many_images(&self) -> bool {
        free(&self.images).is_ok_and(|imagefs| imagefs.excess(&self.collect) > 0)
    }

    fn observe(&self) -> Result<Vec<Observed>, String> {
        let (imagefs, nodefs) = (free(&self.images)?, free(&self.data)?);
        let disks = [
            (Signal::NodefsAvailable, nodefs.available_bytes, nodefs.capacity_bytes),
            (Signal::ImagefsAvailable, imagefs.available_bytes, imagefs.capacity_bytes),
            (Signal::NodefsInodesFree, nodefs.inodes_free, nodefs.inodes),
            (Signal::ImagefsInodesFree, imagefs.inodes_free, imagefs.inodes),
        ];
        let observed = |(signal, available, capacity)| Observed { signal, available, capacity };
        Ok(disks.map(observed).into_iter().chain(memory()).chain(processes()).collect())
    }
}

/// The kubelet's order: images beyond their threshold, then what is scarce, then images that nobody uses.
pub async fn look(limits: Limits, sessions: Sessions) -> Result<Looked, String> {
    if limits.is_pressed() {
        await_deletion(&limits.trash).await;
    }
    let looking = tokio::task::spawn_blocking(move || without_pods(&limits)).await;
    let mut looked = looking.unwrap_or_else(|error| Err(error.to_string()))?;
    if let Some((met, Reclaimed::TooLittle)) = &looked.most_urgent {
        looked.pods = sessions.stats(met.signal.scarce()).await;
    }
    Ok(looked)
}

fn without_pods(limits: &Limits) -> Result<Looked, String> {
    let images = image::Store::open(&limits.images, image::Limits::default()).map_err(|error| error.to_string())?;
    let report = images.garbage_collect(&limits.collect).map_err(|error| error.to_string())?;
    let failure = report.failure();
    let mut removed = report.removed;
    let observed = limits.observe()?;
    let met = signal::met(&observed, &limits.keep);
    let is_near = signal::is_near(&observed, &limits.keep);
    let most_urgent = match met.first().copied() {
        Some(first) if first.signal.scarce().is_of_disk() => {
            removed.extend(images.remove_unused(&limits.collect).map_err(|error| error.to_string())?);
            let left = signal::met(&limits.observe()?, &limits.keep);
            Some(left.first().map_or((first, Reclaimed::Enough), |left| (*left, Reclaimed::TooLittle)))
        }
        Some(first) => Some((first, Reclaimed::TooLittle)),
        None => None,
    };
    Ok(Looked { met, most_urgent, is_near, pods: Vec::new(), removed, failure })
}

/// Waits until everything that was removed is deleted.
async fn await_deletion(trash: &Path) {
    let is_empty = || std::fs::read_dir(trash).map_or(true, |mut entries| entries.next().is_none());
    let until = Instant::now() + DELETION;
    while !is_empty() && Instant::now() < until {
        tokio::time::sleep(DELETION_LOOK).await;
    }
}

fn free(path: &Path) -> Result<FileSystem, String> {
    FileSystem::of(path).map_err(|error| format!("statvfs {}: {error}", path.display()))
}

fn memory() -> Option<Observed> {
    available_memory(&std::fs::read_to_string("/proc/meminfo").ok()?)
}

/// As of a container (EV8): what is in use without the inactive page cache, which the kernel gives back first.
fn available_memory(meminfo: &str) -> Option<Observed> {
    let bytes = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.saturating_mul(1024))
    };
    let (capacity, free) = (bytes("MemTotal")?, bytes("MemFree")?);
    let available = free.saturating_add(bytes("Inactive(file)")?).min(capacity);
    Some(Observed { signal: Signal::MemoryAvailable, available, capacity })
}

fn processes() -> Option<Observed> {
    let number = |file: &str| std::fs::read_to_string(file).ok()?.trim().parse::<u64>().ok();
    let most = number("/proc/sys/kernel/pid_max")?.min(number("/proc/sys/kernel/threads-max")?);
    available_processes(&std::fs::read_to_string("/proc/loadavg").ok()?, most)
}

/// The fourth field of proc_loadavg(5): what runs, and what there is.
fn available_processes(loadavg: &str, capacity: u64) -> Option<Observed> {
    let there = loadavg.split_whitespace().nth(3)?.split_once('/')?.1.parse::<u64>().ok()?;
    Some(Observed { signal: Signal::PidAvailable, available: capacity.saturating_sub(there), capacity })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// EV8
    #[test]
    fn the_inactive_page_cache_is_available() {
        let text = "MemTotal:       1000 kB\nMemFree:         100 kB\nMemAvailable:    600 kB\nInactive:        300 kB\n\
                    Active(file):    200 kB\nInactive(file):  250 kB\n";
        let expected = Observed { signal: Signal::MemoryAvailable, available: 350 << 10, capacity: 1000 << 10 };
        assert_eq!(available_memory(text), Some(expected));
        assert_eq!(available_memory("MemTotal: 1000 kB\n"), None);
    }

    #[test]
    fn processes_are_those_of_the_load() {
        let expected = Observed { signal: Signal::PidAvailable, available: 900, capacity: 1000 };
        assert_eq!(available_processes("0.20 0.18 0.12 1/100 11206\n", 1000), Some(expected));
        assert_eq!(available_processes("", 1000), None);
    }
}
