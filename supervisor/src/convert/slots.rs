//! The descriptors that a launch needs, named before they are opened.

use serde::{Deserialize, Serialize};

use crate::runtime::launch::FdSlot;

/// One descriptor that the brain opens and sends along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Needed {
    /// Directory of an unpacked layer, by its place in the image's list (the uppermost is 0).
    Layer(usize),
    /// Directory with `upper` and `work` of the container's root.
    Scratch,
    /// A detached copy of a volume's mount, or of what lies at `sub_path` in it.
    Volume { name: String, sub_path: Option<String>, recursive: bool },
    /// The host's `/dev/shm`, with its IPC namespace (`hostIPC`).
    HostShm,
    /// The compiled seccomp program.
    Seccomp(SeccompProfile),
}

/// `seccompProfile` as a container gets it (rule PV6, D21).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum SeccompProfile {
    RuntimeDefault,
    /// Relative to the node's profile directory.
    Localhost(String),
}

/// Gives out slots in the order in which descriptors are asked for.
#[derive(Debug, Default)]
pub struct Slots {
    needed: Vec<Needed>,
}

/// The kernel takes at most this many descriptors in one message (`SCM_MAX_FD`).
pub const MAX_DESCRIPTORS: usize = 253;

impl Slots {
    pub fn add(&mut self, needed: Needed) -> FdSlot {
        self.needed.push(needed);
        // More than `MAX_DESCRIPTORS` are refused before anything is sent, so the saturated value is never used.
        FdSlot(u8::try_from(self.needed.len() - 1).unwrap_or(u8::MAX))
    }

    pub fn into_needed(self) -> Vec<Needed> {
        self.needed
    }
}
