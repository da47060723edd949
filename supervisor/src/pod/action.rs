//! What the machine asks its driver to do.
//!
//! The driver executes actions in the order in which it polled them where they name the same instance, sandbox or volumes,
//! otherwise side by side, and answers with an [`super::event::Event::Done`] that carries the action's id where the
//! variant says "answers". Every action may be repeated and then changes nothing.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::spec::{HookHandler, Index, ProbeHandler, ProbeKind, PullPolicy, Resources, Signal};

/// Names one action of one pod; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ActionId(pub u64);

/// One container process to be: every start attempt is an instance of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Instance {
    pub container: Index,
    /// Unique in the pod, never used twice: what the engine's id is derived from.
    pub serial: u64,
    /// `restartCount` (RC1): the name of the log file.
    pub attempt: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Action {
    pub id: ActionId,
    pub todo: Todo,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum HookKind {
    PostStart,
    PreStop,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Todo {
    /// Answers [`super::event::Outcome::VolumesSetUp`].
    SetUpVolumes,
    /// Network, namespaces, cgroup, pause. Answers [`super::event::Outcome::SandboxCreated`].
    CreateSandbox { attempt: u32 },
    /// Looks for the image and pulls it when the policy says so. Sends `Event::PullStarted` when it pulls; answers
    /// [`super::event::Outcome::Image`].
    EnsureImage { container: Index, image: String, policy: PullPolicy },
    /// Prepares the container and fails early. Answers [`super::event::Outcome::ContainerCreated`].
    CreateContainer { instance: Instance, image_id: String },
    /// Answers [`super::event::Outcome::ContainerStarted`].
    StartContainer { instance: Instance },
    /// Signal to the container's first process. No answer.
    Signal { instance: Instance, signal: Signal },
    /// SIGKILL to everything in the container's cgroup (TR11). No answer; the exit comes as an event.
    Kill { instance: Instance },
    /// Forgets the instance, killing it first where it lives; its log file stays. Answers
    /// [`super::event::Outcome::ContainerRemoved`]; afterwards the instance can't come to life any more.
    RemoveContainer { instance: Instance },
    /// Answers [`super::event::Outcome::Probe`].
    RunProbe { instance: Instance, kind: ProbeKind, handler: ProbeHandler, timeout: Duration },
    /// Runs an exec or HTTP handler, at most for `budget`. Answers [`super::event::Outcome::Hook`], in any case: a postStart
    /// hook may take for ever (LC2), so nobody waits for a lost answer.
    RunHook { instance: Instance, hook: HookKind, handler: HookHandler, budget: Option<Duration> },
    /// Writes what the spec gives to the pod and to these containers into their cgroups; without `lower` the pod's own
    /// limits only rise (RZ5). Answers [`super::event::Outcome::Resized`].
    Resize { containers: Vec<(Instance, Resources)>, lower: bool },
    /// Stops working on a pull, a probe or a hook; an answer that comes nevertheless is dropped.
    Cancel { action: ActionId },
    /// Ends pause and releases the network. Answers [`super::event::Outcome::SandboxStopped`].
    StopSandbox { attempt: u32 },
    /// Answers [`super::event::Outcome::VolumesTornDown`].
    TearDownVolumes,
    /// The pod was deleted and has ended: cgroup, directories, logs, records, then the API object (TR7). Answers
    /// [`super::event::Outcome::PodRemoved`].
    RemovePod,
}
