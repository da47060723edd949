//! The disk: images that nobody uses go when it fills up, and the node says when that is not enough (EV5).
//!
//! Looked at when something was written or given back: after a pull, after a pod, and when the service manager's watchdog
//! wakes the daemon anyhow. A node on which nothing happens does not wake up for it; one whose disk is full does, since
//! nobody tells that there is room again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::Taint;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::config::Config;
use crate::config::eviction::EvictionHard;
use crate::image;
use crate::image::gc::{FileSystem, Policy};

/// Between two looks while the disk is full: as often as the kubelet looks.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// What is looked at, and what is much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    images: PathBuf,
    data: PathBuf,
    collect: Policy,
    keep_free: EvictionHard,
}

impl Limits {
    pub fn new(config: &Config, images: &image::Store) -> Self {
        Self {
            images: images.root().to_owned(),
            data: config.data_dir.clone(),
            collect: config.image_gc(),
            keep_free: config.eviction_hard,
        }
    }

    fn pressure(&self) -> Result<DiskPressure, String> {
        let (imagefs, nodefs) = (free(&self.images)?, free(&self.data)?);
        let keep = &self.keep_free;
        let full = imagefs.is_under_pressure(keep.imagefs_available, keep.imagefs_inodes_free)
            || nodefs.is_under_pressure(keep.nodefs_available, keep.nodefs_inodes_free);
        Ok(if full { DiskPressure::Pressure } else { DiskPressure::None })
    }

    fn is_much(&self) -> bool {
        let excess = free(&self.images).map(|imagefs| imagefs.excess(&self.collect));
        excess.is_ok_and(|bytes| bytes > 0) || self.pressure() == Ok(DiskPressure::Pressure)
    }
}

/// Whether the disk has room for new pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DiskPressure {
    #[default]
    None,
    /// Less is free than the hard eviction thresholds leave.
    Pressure,
}

/// What keeps pods from a node whose disk is full, as the node controller has it: it comes and goes with the condition.
pub const TAINT: &str = "node.kubernetes.io/disk-pressure";

impl DiskPressure {
    /// A node's taints with the one of pressure, or without it.
    pub fn taint(self, taints: &mut Vec<Taint>) {
        taints.retain(|taint| taint.key != TAINT);
        match self {
            Self::None => {}
            Self::Pressure => {
                let effect = "NoSchedule".to_owned();
                taints.push(Taint { key: TAINT.to_owned(), effect, value: None, time_added: None });
            }
        }
    }

    /// The reason of the kubelet's event when the node's condition changes.
    pub fn event(self) -> &'static str {
        match self {
            Self::None => "NodeHasNoDiskPressure",
            Self::Pressure => "NodeHasDiskPressure",
        }
    }
}

/// What a look found.
#[derive(Debug)]
pub struct Looked {
    pub pressure: DiskPressure,
    /// Images that were removed, as users know them.
    pub removed: Vec<String>,
    /// What the kubelet says when that did not suffice.
    pub failure: Option<String>,
}

/// At most one look at a time; another one that is asked for meanwhile comes after it.
#[derive(Debug, Default)]
pub struct Disk {
    looking: Option<JoinHandle<Result<Looked, String>>>,
    again: bool,
    full: Option<Full>,
    failed: bool,
}

/// The disk is full, or was a moment ago.
#[derive(Debug, Clone, Copy)]
struct Full {
    last_seen: Instant,
    look: Instant,
}

impl Disk {
    /// Something was written, or given back.
    pub fn changed(&mut self, limits: &Limits) {
        if self.looking.is_some() {
            self.again = true;
            return;
        }
        if let Some(full) = &mut self.full {
            full.look = Instant::now() + LOOK_AGAIN;
        }
        let limits = limits.clone();
        self.looking = Some(tokio::task::spawn_blocking(move || look(&limits)));
    }

    /// Somebody is awake: is there something to do? Two calls of statvfs(3).
    pub fn glance(&mut self, limits: &Limits) {
        if limits.is_much() {
            self.changed(limits);
        }
    }

    /// When to look although nobody wrote anything; none as long as there is room.
    pub fn due(&self) -> Option<Instant> {
        self.full.filter(|_| self.looking.is_none()).map(|full| full.look)
    }

    /// What the node shows after this finding: pressure lasts for `period` after it was seen last (EV5).
    pub fn judge(&mut self, found: DiskPressure, period: Duration, now: Instant) -> DiskPressure {
        self.full = match (found, self.full) {
            (DiskPressure::Pressure, _) => Some(Full { last_seen: now, look: now + LOOK_AGAIN }),
            (DiskPressure::None, Some(full)) if now < full.last_seen + period => {
                Some(Full { look: (full.last_seen + period).min(now + LOOK_AGAIN), ..full })
            }
            (DiskPressure::None, _) => None,
        };
        if self.full.is_some() { DiskPressure::Pressure } else { DiskPressure::None }
    }

    /// Whether the last collection freed too little and the one before it did not.
    pub fn fails_anew(&mut self, fails: bool) -> bool {
        !std::mem::replace(&mut self.failed, fails) && fails
    }

    /// The next finding; waits for ever while nobody looks.
    pub async fn looked(&mut self) -> Result<Looked, String> {
        let Some(looking) = &mut self.looking else { return std::future::pending().await };
        let found = looking.await.unwrap_or_else(|error| Err(error.to_string()));
        self.looking = None;
        found
    }

    /// Whether something happened since the last look began.
    pub fn take_again(&mut self) -> bool {
        std::mem::take(&mut self.again)
    }
}

fn look(limits: &Limits) -> Result<Looked, String> {
    let images = image::Store::open(&limits.images, image::Limits::default()).map_err(|error| error.to_string())?;
    let report = images.garbage_collect(&limits.collect).map_err(|error| error.to_string())?;
    Ok(Looked { pressure: limits.pressure()?, failure: report.failure(), removed: report.removed })
}

fn free(path: &Path) -> Result<FileSystem, String> {
    FileSystem::of(path).map_err(|error| format!("statvfs {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_taint_comes_and_goes_with_pressure() {
        let own = Taint { key: "own".into(), effect: "NoSchedule".into(), value: None, time_added: None };
        let mut taints = vec![own.clone()];
        DiskPressure::Pressure.taint(&mut taints);
        DiskPressure::Pressure.taint(&mut taints);
        assert_eq!(taints.iter().map(|taint| &*taint.key).collect::<Vec<_>>(), ["own", TAINT]);
        DiskPressure::None.taint(&mut taints);
        assert_eq!(taints, [own]);
    }

    /// EV5
    #[tokio::test]
    async fn pressure_outlasts_its_cause_for_the_period() {
        let (mut disk, start, period) = (Disk::default(), Instant::now(), Duration::from_secs(25));
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!((disk.judge(DiskPressure::None, period, start), disk.due()), (DiskPressure::None, None));
        for (seconds, found, shown, due) in [
            (0, DiskPressure::Pressure, DiskPressure::Pressure, Some(10)),
            (10, DiskPressure::Pressure, DiskPressure::Pressure, Some(20)),
            (20, DiskPressure::None, DiskPressure::Pressure, Some(30)),
            (30, DiskPressure::None, DiskPressure::Pressure, Some(35)),
            (35, DiskPressure::None, DiskPressure::None, None),
        ] {
            assert_eq!(disk.judge(found, period, at(seconds)), shown, "{seconds}");
            assert_eq!(disk.due(), due.map(at), "{seconds}");
        }
    }
}
