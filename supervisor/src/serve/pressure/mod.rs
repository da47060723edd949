//! What becomes scarce on the node, and who goes for it (EV5 to EV8).
//!
//! ```text
//! watchdog, pulls, ends, stalls ──> Monitor ──> look ──> Looked ──> act ──> conditions, taints, one victim
//!                                               (I/O)      └── signal, victim: pure
//! ```
//!
//! Looked at when something was written or given back, when the kernel tells of processes that wait for memory, and when the
//! daemon is awake anyhow: for its watchdog, say. A node on which nothing happens does not wake up for it; one that has too
//! little of something, or nearly so, does, since nobody tells that there is more again.

mod act;
pub mod look;
pub mod monitor;
pub mod signal;
pub mod stall;
pub mod victim;

use std::collections::BTreeSet;
use std::fmt;

use k8s_openapi::api::core::v1::Taint;

/// A condition of the node's that says what it has too little of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    Memory,
    Disk,
    Pid,
}

impl Pressure {
    /// In the order of the node's conditions.
    pub const ALL: [Self; 3] = [Self::Memory, Self::Disk, Self::Pid];

    /// The condition's type.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Memory => "MemoryPressure",
            Self::Disk => "DiskPressure",
            Self::Pid => "PIDPressure",
        }
    }

    /// The condition's reason without the `Kubelet` before it; with `Node` it is the event's.
    fn word(self, holds: bool) -> &'static str {
        match (self, holds) {
            (Self::Memory, true) => "HasInsufficientMemory",
            (Self::Memory, false) => "HasSufficientMemory",
            (Self::Disk, true) => "HasDiskPressure",
            (Self::Disk, false) => "HasNoDiskPressure",
            (Self::Pid, true) => "HasInsufficientPID",
            (Self::Pid, false) => "HasSufficientPID",
        }
    }

    /// Of the condition, in the kubelet's words.
    pub fn reason(self, holds: bool) -> String {
        format!("Kubelet{}", self.word(holds))
    }

    /// Of the kubelet's event when the condition changes.
    pub fn event(self, holds: bool) -> String {
        format!("Node{}", self.word(holds))
    }

    /// Of the condition, in the kubelet's words.
    pub fn message(self, holds: bool) -> &'static str {
        match (self, holds) {
            (Self::Memory, true) => "kubelet has insufficient memory available",
            (Self::Memory, false) => "kubelet has sufficient memory available",
            (Self::Disk, true) => "kubelet has disk pressure",
            (Self::Disk, false) => "kubelet has no disk pressure",
            (Self::Pid, true) => "kubelet has insufficient PID available",
            (Self::Pid, false) => "kubelet has sufficient PID available",
        }
    }

    /// The key of the taint that keeps pods away, as the node lifecycle controller has it.
    pub fn key(self) -> &'static str {
        match self {
            Self::Memory => "node.kubernetes.io/memory-pressure",
            Self::Disk => "node.kubernetes.io/disk-pressure",
            Self::Pid => "node.kubernetes.io/pid-pressure",
        }
    }

    pub fn taint(self) -> Taint {
        Taint { key: self.key().to_owned(), effect: "NoSchedule".to_owned(), value: None, time_added: None }
    }
}

/// All that hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pressures(BTreeSet<Pressure>);

impl Pressures {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn contains(&self, pressure: Pressure) -> bool {
        self.0.contains(&pressure)
    }

    /// A node's taints with those of pressure, or without them: they come and go with the conditions.
    pub fn taint(&self, taints: &mut Vec<Taint>) {
        taints.retain(|taint| Pressure::ALL.iter().all(|own| own.key() != taint.key));
        taints.extend(self.0.iter().map(|own| own.taint()));
    }
}

impl FromIterator<Pressure> for Pressures {
    fn from_iter<I: IntoIterator<Item = Pressure>>(all: I) -> Self {
        Self(all.into_iter().collect())
    }
}

impl fmt::Display for Pressures {
    /// As the kubelet writes a list of conditions.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds: Vec<&str> = self.0.iter().map(|own| own.kind()).collect();
        write!(f, "[{}]", kinds.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taints_come_and_go_with_pressure() {
        let own = Taint { key: "own".into(), effect: "NoSchedule".into(), value: None, time_added: None };
        let mut taints = vec![own.clone()];
        let both: Pressures = [Pressure::Pid, Pressure::Disk].into_iter().collect();
        both.taint(&mut taints);
        both.taint(&mut taints);
        let keys: Vec<&str> = taints.iter().map(|taint| &*taint.key).collect();
        assert_eq!(keys, ["own", "node.kubernetes.io/disk-pressure", "node.kubernetes.io/pid-pressure"]);
        Pressures::default().taint(&mut taints);
        assert_eq!(taints, [own]);
    }

    #[test]
    fn the_words_are_the_kubelet_s() {
        let said = |pressure: Pressure, holds| (pressure.reason(holds), pressure.event(holds));
        for (pressure, holds, reason, event) in [
            (Pressure::Memory, true, "KubeletHasInsufficientMemory", "NodeHasInsufficientMemory"),
            (Pressure::Memory, false, "KubeletHasSufficientMemory", "NodeHasSufficientMemory"),
            (Pressure::Disk, true, "KubeletHasDiskPressure", "NodeHasDiskPressure"),
            (Pressure::Disk, false, "KubeletHasNoDiskPressure", "NodeHasNoDiskPressure"),
            (Pressure::Pid, true, "KubeletHasInsufficientPID", "NodeHasInsufficientPID"),
            (Pressure::Pid, false, "KubeletHasSufficientPID", "NodeHasSufficientPID"),
        ] {
            assert_eq!(said(pressure, holds), (reason.to_owned(), event.to_owned()));
        }
        assert_eq!(Pressures::from_iter(Pressure::ALL).to_string(), "[MemoryPressure DiskPressure PIDPressure]");
    }
}
