//! The finished plan for one process of a pod.
//!
//! The brain decides everything and writes it down here; the child of the monitor only obeys, in the order of defence D13.
//! A launch travels as JSON in a sealed memfd; descriptors travel beside it and are named by [`FdSlot`].

use serde::{Deserialize, Serialize};

/// Index of a descriptor in the message that carries the launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FdSlot(pub u8);

/// A container's first process and the world it is put into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    pub root: Root,
    /// In the order in which they are made: a parent before what lies below it.
    pub mounts: Vec<Mount>,
    pub devices: Devices,
    /// Absolute paths hidden from the container: a file becomes `/dev/null`, a directory an empty read-only tmpfs (D5).
    pub masked_paths: Vec<String>,
    /// Absolute paths that are remounted read-only.
    pub read_only_paths: Vec<String>,
    pub process: Process,
}

/// The root file system: an overlay over the image's layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Directories of the unpacked layers, the uppermost first.
    pub layers: Vec<FdSlot>,
    /// Directory that holds `upper` and `work`; both exist.
    pub scratch: FdSlot,
    pub read_only: bool,
}

/// One mount inside the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path inside the container; missing directories (or the file) are created in the root.
    pub target: String,
    pub source: MountSource,
    pub options: MountOptions,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum MountSource {
    /// A detached mount that the brain made (`open_tree(OPEN_TREE_CLONE)` or `fsmount`) of a directory or a file.
    Detached(FdSlot),
    /// A volume that the monitor keeps in its mount namespace, or something below it.
    Kept {
        name: String,
        sub_path: Option<String>,
    },
    Proc,
    Sysfs,
    /// The container's own view of the cgroup hierarchy.
    Cgroup,
    Devpts,
    Mqueue,
    Tmpfs {
        size_bytes: u64,
        mode: u32,
    },
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountOptions {
    pub read_only: bool,
    /// `read_only` reaches every mount below, too (`AT_RECURSIVE`).
    pub recursive_read_only: bool,
    pub nosuid: bool,
    pub nodev: bool,
    pub noexec: bool,
    pub propagation: Propagation,
}

/// `mountPropagation` (rule VO46).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Propagation {
    #[default]
    Private,
    Slave,
    Shared,
}

/// What `/dev` holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Devices {
    /// The nodes that every container has (rule PV9).
    Default,
    /// All of the host's (privileged).
    Host,
}

/// The process itself. An exec into a container is a `Process` alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Program and arguments; the program is looked up in the environment's `PATH` inside the container.
    pub args: Vec<String>,
    /// `NAME=value`, one per name. `HOME` is added from the user's passwd entry when absent.
    pub env: Vec<String>,
    /// Absolute; created inside the root when missing (D9).
    pub cwd: String,
    /// A pty of the container's own devpts becomes its controlling terminal and all three streams.
    pub terminal: bool,
    pub user: User,
    pub capabilities: Capabilities,
    pub no_new_privs: bool,
    pub rlimits: Vec<Rlimit>,
    pub oom_score_adj: Option<i32>,
    /// A compiled program (array of `struct sock_filter`) in a descriptor; none means unconfined.
    pub seccomp: Option<FdSlot>,
    pub apparmor: Option<String>,
}

/// Who the process runs as (rules US1-US4); names are resolved inside the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// `runAsUser`, or the image's `USER` as written: `uid`, `name`, `uid:gid`, `name:group`. Empty means uid 0.
    pub name: String,
    /// `runAsGroup`: wins over what the image says.
    pub group: Option<u32>,
    /// `fsGroup` and `supplementalGroups`.
    pub supplementary: Vec<u32>,
    /// Add the groups that the image's `/etc/group` gives the user (`supplementalGroupsPolicy: Merge`).
    pub merge_image_groups: bool,
    /// Refuse uid 0, checked on the final number (D15).
    pub non_root: bool,
}

/// Bit sets as in `/proc/PID/status`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    pub bounding: u64,
    pub permitted: u64,
    pub effective: u64,
    pub inheritable: u64,
    pub ambient: u64,
}

/// One `setrlimit`; numbers as in `<sys/resource.h>`, `u64::MAX` is infinity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    pub resource: u32,
    pub soft: u64,
    pub hard: u64,
}

/// Who the process turned out to be (rule US5).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

/// Why a process could not be prepared or started. `step` and `object` say what was tried, once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{step} {object}: {cause}")]
pub struct LaunchError {
    pub step: Step,
    pub object: String,
    pub cause: String,
    pub errno: Option<i32>,
}

/// The steps of a launch, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Step {
    Read,
    JoinNamespaces,
    MountRoot,
    Mount,
    MakeDevice,
    Mask,
    PivotRoot,
    LookUpUser,
    WorkingDirectory,
    Terminal,
    Credentials,
    Seccomp,
    LookUpProgram,
    Exec,
    /// Of a sandbox.
    Hostname,
    Sysctl,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Read => "read launch plan",
            Self::JoinNamespaces => "join namespaces of",
            Self::MountRoot => "mount root file system",
            Self::Mount => "mount",
            Self::MakeDevice => "make device",
            Self::Mask => "mask",
            Self::PivotRoot => "pivot root",
            Self::LookUpUser => "look up user",
            Self::WorkingDirectory => "change to working directory",
            Self::Terminal => "set up terminal",
            Self::Credentials => "set credentials",
            Self::Seccomp => "load seccomp profile",
            Self::LookUpProgram | Self::Exec => "exec:",
            Self::Hostname => "set host name",
            Self::Sysctl => "set sysctl",
        })
    }
}
