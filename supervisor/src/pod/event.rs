//! What happens outside the machine: results of actions and things that containers do by themselves.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::action::{ActionId, Instance};
use super::spec::{Index, Signal};
use super::timer::WallTime;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The answer to an action. Dropped when the machine no longer waits for this id.
    Done {
        action: ActionId,
        outcome: Outcome,
    },
    /// An `EnsureImage` began to pull (IP6 `Pulling`).
    PullStarted {
        action: ActionId,
    },
    ContainerExited {
        instance: Instance,
        exit: Exit,
    },
    /// The engine knows nothing of an instance that it should know (CS6).
    ContainerLost {
        instance: Instance,
    },
    /// Pause died or the network is gone (IN8).
    SandboxLost {
        attempt: u32,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    VolumesSetUp(Result<(), VolumeFailure>),
    SandboxCreated(Result<SandboxReady, String>),
    Image(Result<ImageReady, ImageFailure>),
    ContainerCreated(Result<Created, StartFailure>),
    ContainerStarted(Result<WallTime, StartFailure>),
    ContainerRemoved(Result<(), String>),
    Probe(ProbeOutcome),
    Hook(Result<HookSuccess, HookFailure>),
    Resized(Result<(), String>),
    SandboxStopped(Result<(), String>),
    VolumesTornDown(Result<(), String>),
    PodRemoved(Result<(), String>),
}

/// Rule VO1: `volume` is named in the event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeFailure {
    pub volume: String,
    pub message: String,
}

/// A sandbox with its addresses, the primary one first; those of the node with `hostNetwork`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxReady {
    pub ips: Vec<IpAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageReady {
    /// None: it was present already (IP3).
    pub pulled: Option<PullReport>,
    /// `repo@sha256:...` (CS8).
    pub image_id: String,
    /// `StopSignal` of the image config (LC11).
    pub stop_signal: Option<Signal>,
}

/// Figures of the `Pulled` event (IP6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullReport {
    pub took: Duration,
    pub took_with_waiting: Duration,
    pub bytes: u64,
}

/// Why there is no image; each has its own waiting reason (1.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageFailure {
    /// `ErrImagePull`
    Pull(String),
    /// `ErrImageNeverPull`
    NeverPull,
    /// `InvalidImageName`
    InvalidName,
    /// `ImageInspectError`
    Inspect(String),
    /// `RegistryUnavailable`; what follows the fixed text.
    RegistryUnavailable(String),
    /// `SignatureValidationFailed`; what follows the fixed text.
    SignatureValidationFailed(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Created {
    /// `<runtime>://<64 hex>`, shown as `containerID`.
    pub id: String,
    /// The normalized reference that runs (CS8).
    pub image: String,
    /// Shown as `user.linux`.
    pub user: Option<User>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

/// Why a container could not be created or started. Whichever call fails, no process lives afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartFailure {
    pub kind: StartFailureKind,
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartFailureKind {
    /// `CreateContainerConfigError`: missing configMap, secret, key, bad subPath, runAsNonRoot.
    Config,
    /// `CreateContainerError`: no instance was made.
    Create,
    /// `RunContainerError`: what the OCI runtime would refuse (no such program, a mount, a user). Leaves an instance that
    /// ended with code 128, `StartError`.
    Run,
}

/// How a container's first process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Code, or 128 + signal (CT1).
    pub code: i32,
    pub oom_killed: bool,
    /// Failure of the exec itself (`StartError`).
    pub start_error: Option<String>,
    pub started: Option<WallTime>,
    pub finished: WallTime,
    /// The termination message, chosen by [`super::status::termination_message`].
    pub message: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeOutcome {
    Success,
    /// Counts as success (HG3).
    Warning(String),
    Failure(String),
    /// The probe could not be run (PR6).
    Error(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookSuccess {
    /// The host, when an HTTPS hook was answered by plain HTTP and repeated (LC3).
    pub http_fallback: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookFailure {
    pub error: String,
    /// Combined output of an exec hook.
    pub output: String,
}

/// What the engine says exists, for [`super::machine::Machine::adopt`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// The newest sandbox whose pause lives and whose network is intact.
    pub sandbox: Option<(u32, SandboxReady)>,
    pub containers: Vec<(Instance, ObservedState)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObservedState {
    Created,
    Running { started: WallTime },
    Exited(Exit),
}

/// Whether the machine's monotonic clock still has the origin that the snapshot's times refer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Boot {
    Same,
    New,
}

/// A Kubernetes Event to publish (10.8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubeEvent {
    pub severity: Severity,
    pub reason: &'static str,
    pub message: String,
    /// The container it is about; none means the pod.
    pub container: Option<Index>,
    pub at: WallTime,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    Normal,
    Warning,
}
