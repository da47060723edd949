//! What is observed, what of it is too little, and how long the node says so. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use cgroupd::Quantity;
use tokio::time::Instant;

use super::{Pressure, Pressures};
use crate::config::eviction::{EvictionHard, Threshold};
use crate::node::Scarce;

/// The kubelet's signals, in the order in which they are dealt with: memory first, it can't wait (EV5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    MemoryAvailable,
    NodefsAvailable,
    ImagefsAvailable,
    NodefsInodesFree,
    ImagefsInodesFree,
    PidAvailable,
}

impl Signal {
    pub fn pressure(self) -> Pressure {
        match self {
            Self::MemoryAvailable => Pressure::Memory,
            Self::NodefsAvailable | Self::ImagefsAvailable | Self::NodefsInodesFree | Self::ImagefsInodesFree => {
                Pressure::Disk
            }
            Self::PidAvailable => Pressure::Pid,
        }
    }

    pub fn scarce(self) -> Scarce {
        match self {
            Self::MemoryAvailable => Scarce::Memory,
            Self::NodefsAvailable | Self::ImagefsAvailable => Scarce::Storage,
            Self::NodefsInodesFree | Self::ImagefsInodesFree => Scarce::Inodes,
            Self::PidAvailable => Scarce::Pids,
        }
    }

    fn threshold(self, keep: &EvictionHard) -> Threshold {
        match self {
            Self::MemoryAvailable => keep.memory_available,
            Self::NodefsAvailable => keep.nodefs_available,
            Self::ImagefsAvailable => keep.imagefs_available,
            Self::NodefsInodesFree => keep.nodefs_inodes_free,
            Self::ImagefsInodesFree => keep.imagefs_inodes_free,
            Self::PidAvailable => keep.pid_available,
        }
    }
}

/// How much of something there is; bytes, inodes or processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observed {
    pub signal: Signal,
    pub available: u64,
    pub capacity: u64,
}

/// Less is available than has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Met {
    pub signal: Signal,
    pub threshold: Quantity,
    pub available: Quantity,
}

/// Those that are beyond their threshold, the most urgent one first. A file system that does not count has no capacity.
pub fn met(observed: &[Observed], keep: &EvictionHard) -> Vec<Met> {
    let met = |own: &Observed| {
        let threshold = own.signal.threshold(keep).of(own.capacity);
        let available = match own.signal.scarce() {
            Scarce::Memory | Scarce::Storage => Quantity::from_bytes(own.available),
            Scarce::Inodes | Scarce::Pids => Quantity::from_units(own.available),
        };
        (own.capacity > 0 && available < threshold).then_some(Met { signal: own.signal, threshold, available })
    };
    let mut all: Vec<Met> = observed.iter().filter_map(met).collect();
    all.sort_by_key(|met| met.signal);
    all
}

/// Whether something is beyond its threshold, or nearly: only a quarter of the threshold is left above it.
pub fn is_near(observed: &[Observed], keep: &EvictionHard) -> bool {
    let near = |own: &Observed| {
        let threshold = own.signal.threshold(keep).of(own.capacity).units();
        own.capacity > 0 && own.available < threshold.saturating_add(threshold / 4)
    };
    observed.iter().any(near)
}

/// When each was seen last: a node shows pressure for some time after it, so that it does not flap (EV5).
#[derive(Debug, Clone, Default)]
pub struct Shown(BTreeMap<Pressure, Instant>);

impl Shown {
    /// What the node shows after this finding.
    pub fn judge(&mut self, met: &[Met], period: Duration, now: Instant) -> Pressures {
        self.0.extend(met.iter().map(|met| (met.signal.pressure(), now)));
        self.0
            .retain(|pressure, seen| met.iter().any(|met| met.signal.pressure() == *pressure) || now < *seen + period);
        self.0.keys().copied().collect()
    }

    /// When the first of them is over, if it is not seen again.
    pub fn ends(&self, period: Duration) -> Option<Instant> {
        self.0.values().min().map(|seen| *seen + period)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observed(signal: Signal, available: u64, capacity: u64) -> Observed {
        Observed { signal, available, capacity }
    }

    fn signals(observed: &[Observed]) -> Vec<Signal> {
        met(observed, &EvictionHard::default()).into_iter().map(|met| met.signal).collect()
    }

    /// EV5: the kubelet's defaults.
    #[test]
    fn less_than_the_threshold_is_too_little() {
        const MI: u64 = 1 << 20;
        for (signal, capacity, enough) in [
            (Signal::MemoryAvailable, 1 << 34, 100 * MI),
            (Signal::NodefsAvailable, 1000 * MI, 100 * MI),
            (Signal::ImagefsAvailable, 1000 * MI, 150 * MI),
            (Signal::NodefsInodesFree, 1000, 50),
            (Signal::ImagefsInodesFree, 1000, 50),
        ] {
            assert_eq!(signals(&[observed(signal, enough, capacity)]), [], "{signal:?}");
            assert_eq!(signals(&[observed(signal, enough - 1, capacity)]), [signal]);
            assert_eq!(signals(&[observed(signal, 0, 0)]), [], "{signal:?} of what does not count");
        }
        assert_eq!(signals(&[observed(Signal::PidAvailable, 0, 1000)]), [], "unless somebody asks for it");
        let keep = EvictionHard { pid_available: Threshold::Percent(10), ..EvictionHard::default() };
        let found = met(&[observed(Signal::PidAvailable, 99, 1000)], &keep);
        assert_eq!((found[0].threshold.to_string(), found[0].available.to_string()), ("100".into(), "99".into()));
    }

    #[test]
    fn memory_is_the_most_urgent() {
        let all = [Signal::ImagefsInodesFree, Signal::NodefsAvailable, Signal::MemoryAvailable];
        let found = signals(&all.map(|signal| observed(signal, 0, 1000)));
        assert_eq!(found, [Signal::MemoryAvailable, Signal::NodefsAvailable, Signal::ImagefsInodesFree]);
    }

    #[test]
    fn near_is_a_quarter_above() {
        let near = |available| is_near(&[observed(Signal::NodefsAvailable, available, 1000)], &EvictionHard::default());
        assert_eq!([99, 124, 125].map(near), [true, true, false]);
    }

    /// EV5
    #[test]
    fn pressure_outlasts_its_cause_for_the_period() {
        let (mut shown, start, period) = (Shown::default(), Instant::now(), Duration::from_secs(25));
        let at = |seconds| start + Duration::from_secs(seconds);
        let low = |signal| met(&[observed(signal, 0, 1000)], &EvictionHard::default());
        let (disk, memory) = (low(Signal::NodefsAvailable), low(Signal::MemoryAvailable));
        for (seconds, found, text, ends) in [
            (0, &[][..], "[]", None),
            (0, &disk[..], "[DiskPressure]", Some(25)),
            (10, &memory[..], "[MemoryPressure DiskPressure]", Some(25)),
            (20, &disk[..], "[MemoryPressure DiskPressure]", Some(35)),
            (34, &[][..], "[MemoryPressure DiskPressure]", Some(35)),
            (35, &[][..], "[DiskPressure]", Some(45)),
            (45, &[][..], "[]", None),
        ] {
            assert_eq!(shown.judge(found, period, at(seconds)).to_string(), text, "{seconds}");
            assert_eq!(shown.ends(period), ends.map(at), "{seconds}");
        }
        shown.judge(&disk, Duration::ZERO, start);
        assert_eq!(shown.judge(&disk, Duration::ZERO, start).to_string(), "[DiskPressure]", "without a period, too");
    }
}
