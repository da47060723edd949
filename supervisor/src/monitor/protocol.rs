//! What the brain and a monitor say to each other, over a Unix seqpacket socket.
//!
//! One JSON message per packet; descriptors travel by `SCM_RIGHTS` and are named by [`FdSlot`]. Fields may be added (with
//! `#[serde(default)]`) and are ignored by who does not know them; a changed meaning needs a new [`VERSION`]. A monitor
//! outlives upgrades of the brain, so a brain speaks every version since [`OLDEST_VERSION`].

use serde::{Deserialize, Serialize};

use crate::runtime::launch::{FdSlot, Identity, LaunchError};
use crate::user_namespace::IdRange;

/// 2: [`Request::Attach`]. Who sends it asks first what the monitor greeted with: an unknown request ends the connection.
/// 3: [`SandboxSpec::user_namespace`]. Who did not know it would run the pod as the host's root.
pub const VERSION: u16 = 3;
/// Since which monitors know [`Request::Attach`].
pub const ATTACH_VERSION: u16 = 2;
/// Since which monitors know [`SandboxSpec::user_namespace`].
pub const USER_NAMESPACE_VERSION: u16 = 3;
pub const OLDEST_VERSION: u16 = 1;

/// A request carries the number under which its reply comes back.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Call {
    pub number: u64,
    pub request: Request,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Request {
    /// First on every connection; a new connection replaces the one before it.
    Hello {
        version: u16,
    },
    CreateSandbox(SandboxSpec),
    /// Keeps a volume mounted in the monitor's own mount namespace under `name`; the descriptor is a detached mount.
    /// Repeating it for a name that is kept already changes nothing.
    KeepVolume {
        name: String,
        mount: FdSlot,
    },
    /// Sends back a descriptor of the kept volume's root directory.
    OpenVolume {
        name: String,
    },
    /// Sends back a detached copy of the kept volume's mount: with it the content outlives this monitor.
    CloneVolume {
        name: String,
    },
    /// Prepares everything up to the exec and fails early; the process waits.
    CreateContainer(ContainerSpec),
    /// Lets the prepared process exec.
    StartContainer {
        id: String,
    },
    /// To the container's first process.
    SignalContainer {
        id: String,
        signal: i32,
    },
    /// SIGKILL to every process of the container's cgroup.
    KillContainer {
        id: String,
    },
    /// Forgets an ended container (its exit record stays with the brain); kills it first when it still runs.
    RemoveContainer {
        id: String,
    },
    /// Runs one more process inside a running container.
    Exec(ExecSpec),
    KillExec {
        id: String,
    },
    /// Copies what a container writes from now on.
    Attach(AttachSpec),
    /// Asks for everything that the monitor knows.
    Snapshot,
    /// Ends every process including pause, then the monitor itself.
    Shutdown,
}

/// Which namespaces a sandbox shares with the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostNamespaces {
    pub network: bool,
    pub pid: bool,
    pub ipc: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SandboxSpec {
    pub id: String,
    /// The UTS node name; none with the host's network (rule HN5).
    pub hostname: Option<String>,
    pub host: HostNamespaces,
    /// `name = value`, names with dots or slashes; already checked by the brain.
    pub sysctls: Vec<(String, String)>,
    /// Directory of the cgroup that pause runs in.
    pub cgroup: FdSlot,
    /// The pause binary.
    pub pause: FdSlot,
    /// The network namespace that pause joins; without, it is born into a new one. Since version 1.
    #[serde(default)]
    pub netns: Option<FdSlot>,
    /// The pod has a user namespace of its own with these ids, which owns its other namespaces; then `netns` is none. Since
    /// version 3.
    #[serde(default)]
    pub user_namespace: Option<IdRange>,
    pub oom_score_adj: Option<i32>,
    /// Size of the `/dev/shm` that the pod's containers share, kept as volume [`SHM_VOLUME`]. None with the host's IPC.
    pub shm_bytes: Option<u64>,
    /// What the monitor does when the brain's connection ends.
    pub when_brain_dies: WhenBrainDies,
}

/// Name under which a sandbox keeps its `/dev/shm`.
pub const SHM_VOLUME: &str = "shm";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum WhenBrainDies {
    /// Containers go on; a new brain will connect (`serve`).
    Stay,
    /// Containers are signalled with SIGTERM, killed after the given time, and the monitor ends (`run`).
    EndAfter { grace_ms: u64 },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerSpec {
    pub id: String,
    /// Memfd with the JSON of a [`crate::runtime::launch::Launch`]; its own slots name descriptors of this message.
    pub launch: FdSlot,
    /// Directory of the container's cgroup.
    pub cgroup: FdSlot,
    pub pid: PidNamespace,
    /// The container sees the host's cgroup namespace (privileged).
    pub host_cgroup_namespace: bool,
    pub log: Option<LogSpec>,
    /// Keep the process's standard input open for attached clients.
    pub stdin: bool,
    pub stdin_once: bool,
    pub terminal: bool,
    /// Where [`ExitRecord`] is written before the process is reaped: a directory, and the file's name in it.
    pub record_dir: FdSlot,
    pub record_name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PidNamespace {
    /// The container's first process is PID 1 of its own.
    Own,
    /// The sandbox's, where pause is PID 1 (`shareProcessNamespace`).
    Sandbox,
    Host,
    /// That of another container (`targetContainerName` of an ephemeral container).
    Container(String),
}

/// A log in the CRI format (rules LF1-LF3).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LogSpec {
    pub dir: FdSlot,
    /// `<restartCount>.log`
    pub name: String,
    pub max_bytes: u64,
    /// With the current one.
    pub max_files: u32,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExecSpec {
    pub id: String,
    pub container: String,
    /// Memfd with the JSON of a [`crate::runtime::launch::Process`].
    pub process: FdSlot,
    /// The streams of the process: pipes, `/dev/null`, or a socket. With `terminal` none are sent: the reply to the request
    /// brings the master side of a pty.
    pub stdin: Option<FdSlot>,
    pub stdout: Option<FdSlot>,
    pub stderr: Option<FdSlot>,
    pub terminal: bool,
}

/// Pipes that get what a container writes. One that is full is closed, with its fellow: nobody's slowness holds the container
/// up.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AttachSpec {
    pub container: String,
    /// Asks for a writer of the container's standard input, where it has one. With `stdin_once` it is the only one, given once.
    pub stdin: bool,
    /// What a terminal shows counts as stdout.
    pub stdout: Option<FdSlot>,
    pub stderr: Option<FdSlot>,
}

/// What a monitor sends.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Message {
    Reply { number: u64, result: Result<Answer, MonitorError> },
    Event(Event),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    Hello {
        version: u16,
        pid: u32,
    },
    /// Descriptors: pidfd of pause, then its network namespace.
    SandboxCreated {
        pause_pid: u32,
        pidfd: FdSlot,
        netns: FdSlot,
    },
    /// Descriptor: pidfd of the container's first process.
    ContainerCreated {
        pid: u32,
        identity: Identity,
        pidfd: FdSlot,
    },
    ContainerStarted {
        started_at: String,
    },
    ExecStarted {
        pid: u32,
        terminal: Option<FdSlot>,
    },
    Volume {
        root: FdSlot,
    },
    /// Descriptor: the container's terminal, or a writer of its standard input.
    Attached {
        input: Option<FdSlot>,
    },
    Snapshot(Snapshot),
    Done,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Event {
    ContainerExited(ExitRecord),
    ExecExited {
        id: String,
        exit: Exit,
    },
    /// Pause died: its namespaces are lost (rule IN8).
    SandboxExited {
        exit: Exit,
    },
    /// The log could not be written; bytes wait in the pipe and the container blocks (D42).
    LogBlocked {
        container: String,
        cause: String,
    },
    LogResumed {
        container: String,
    },
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Exit {
    Code(i32),
    Signal(i32),
}

impl Exit {
    /// Rule CT1: 128 + signal.
    pub fn code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

/// The one durable truth about a container's end (D41). Times are RFC 3339 with nanoseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExitRecord {
    pub version: u16,
    pub container: String,
    pub exit: Exit,
    /// None when the process was never let go to exec.
    pub started_at: Option<String>,
    pub finished_at: String,
    /// The kernel's OOM killer ended a process of the container's cgroup (`memory.events`).
    pub oom_killed: bool,
    /// Why the start failed, when it did (exit 128, reason `StartError`).
    pub start_error: Option<LaunchError>,
    /// The container wrote no newline after what its log ends with; the log has one (LF2). Older monitors don't say.
    #[serde(default)]
    pub unterminated: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Snapshot {
    pub sandbox: Option<String>,
    pub pause_pid: Option<u32>,
    pub containers: Vec<ContainerSnapshot>,
    pub execs: Vec<String>,
    pub volumes: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerSnapshot {
    pub id: String,
    pub pid: u32,
    pub state: ContainerState,
    pub identity: Identity,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ContainerState {
    Created,
    Running { started_at: String },
    Exited(ExitRecord),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "camelCase")]
pub enum MonitorError {
    #[error("{what} {id} does not exist")]
    NotFound { what: String, id: String },
    #[error("{what} {id} exists already")]
    Exists { what: String, id: String },
    #[error("{what} {id} is {state}")]
    WrongState { what: String, id: String, state: String },
    #[error(transparent)]
    Launch(LaunchError),
    #[error("{call}: {cause}")]
    System { call: String, cause: String, errno: Option<i32> },
    #[error("protocol: {0}")]
    Protocol(String),
}
