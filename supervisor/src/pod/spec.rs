//! What the machine needs to know of a Pod, without any Kubernetes type.
//!
//! Built by `convert::machine` from a Pod that has defaults filled in and is validated; numbers are in the units that the
//! machine calculates with.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::timer::CRASH_BACK_OFF_MAX;

/// A Pod, as far as its life depends on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodSpec {
    pub uid: String,
    pub namespace: String,
    pub name: String,
    /// `metadata.generation`: shown as `observedGeneration` (GE3). 0 shows nothing (GE4).
    pub generation: i64,
    pub restart_policy: RestartPolicy,
    /// All containers: init containers, then app containers, then ephemeral ones, each in spec order.
    pub containers: Vec<ContainerSpec>,
    /// `terminationGracePeriodSeconds`.
    pub grace: Duration,
    /// `activeDeadlineSeconds`.
    pub active_deadline: Option<Duration>,
    /// `readinessGates[].conditionType`.
    pub readiness_gates: Vec<String>,
    pub host_network: bool,
    /// Static pods keep their phase (PH4) and have no generation.
    pub static_pod: bool,
    /// The node's `crashLoopBackOff.maxContainerRestartPeriod` (CB6).
    pub crash_back_off_max: Duration,
}

impl PodSpec {
    /// A pod without containers that restarts always; tests and conversions fill in the rest.
    pub fn new(namespace: &str, name: &str, uid: &str) -> Self {
        Self {
            uid: uid.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            generation: 1,
            restart_policy: RestartPolicy::Always,
            containers: Vec::new(),
            grace: Duration::from_secs(30),
            active_deadline: None,
            readiness_gates: Vec::new(),
            host_network: false,
            static_pod: false,
            crash_back_off_max: CRASH_BACK_OFF_MAX,
        }
    }

    /// `<name>_<namespace>(<uid>)`, the description used inside messages.
    pub fn description(&self) -> String {
        format!("{}_{}({})", self.name, self.namespace, self.uid)
    }

    /// Position of the container called `name`; names are unique in a pod.
    pub fn find(&self, name: &str) -> Option<Index> {
        let position = self.containers.iter().position(|c| c.name == name)?;
        u16::try_from(position).ok().map(Index)
    }

    /// The container at `index`.
    pub fn get(&self, index: Index) -> Option<&ContainerSpec> {
        self.containers.get(usize::from(index.0))
    }

    /// Some container has a rule that restarts all (CO9).
    pub fn may_restart_all(&self) -> bool {
        self.containers.iter().any(|c| c.rules.iter().any(|r| r.action == RuleAction::RestartAllContainers))
    }
}

/// Position of a container in [`PodSpec::containers`]; stable, since ephemeral containers are added at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Index(pub u16);

/// Which list of the Pod a container stands in, and what it is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Role {
    /// A regular init container: runs to its end before the next one starts.
    Init,
    /// An init container with `restartPolicy: Always`.
    Sidecar,
    App,
    Ephemeral,
}

/// One container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    pub name: String,
    pub role: Role,
    /// As written in the manifest.
    pub image: String,
    pub pull_policy: PullPolicy,
    /// Container-level policy (RR1); none means the pod's.
    pub restart_policy: Option<RestartPolicy>,
    pub rules: Vec<RestartRule>,
    /// Canonical text of the resources: a change of it starts a fresh back-off (CB1).
    pub resources_key: String,
    /// What is allocated to it (RZ4).
    #[serde(default)]
    pub resources: Resources,
    /// `resizePolicy`: the resources whose change restarts it (RZ3).
    #[serde(default)]
    pub restart_on_resize: Vec<String>,
    pub startup: Option<ProbeSpec>,
    pub liveness: Option<ProbeSpec>,
    pub readiness: Option<ProbeSpec>,
    pub post_start: Option<HookHandler>,
    pub pre_stop: Option<HookHandler>,
    /// `lifecycle.stopSignal` (LC11); none means the image's, else SIGTERM.
    pub stop_signal: Option<Signal>,
    pub termination_message_path: String,
    pub termination_message_policy: TerminationMessagePolicy,
    /// `targetContainerName` of an ephemeral container (EP5).
    pub target: Option<String>,
    /// Attempt number of the first instance: 0, or one above the highest log file found (LF6).
    pub first_attempt: u32,
}

impl ContainerSpec {
    /// A container with nothing but a name, a role and an image.
    pub fn new(name: &str, role: Role, image: &str) -> Self {
        Self {
            name: name.to_owned(),
            role,
            image: image.to_owned(),
            pull_policy: PullPolicy::IfNotPresent,
            restart_policy: None,
            rules: Vec::new(),
            resources_key: String::new(),
            resources: Resources::default(),
            restart_on_resize: Vec::new(),
            startup: None,
            liveness: None,
            readiness: None,
            post_start: None,
            pre_stop: None,
            stop_signal: None,
            termination_message_path: "/dev/termination-log".to_owned(),
            termination_message_policy: TerminationMessagePolicy::File,
            target: None,
            first_attempt: 0,
        }
    }

    /// The probe of this kind.
    pub fn probe(&self, kind: ProbeKind) -> Option<&ProbeSpec> {
        match kind {
            ProbeKind::Startup => self.startup.as_ref(),
            ProbeKind::Liveness => self.liveness.as_ref(),
            ProbeKind::Readiness => self.readiness.as_ref(),
        }
    }

    /// `fieldPath` of the container's Kubernetes Events (10.8).
    pub fn field_path(&self) -> String {
        let list = match self.role {
            Role::Init | Role::Sidecar => "initContainers",
            Role::App => "containers",
            Role::Ephemeral => "ephemeralContainers",
        };
        format!("spec.{list}{{{}}}", self.name)
    }
}

/// Requests and limits as they are written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    pub requests: BTreeMap<String, String>,
    pub limits: BTreeMap<String, String>,
}

impl Resources {
    /// Whether both say the same of one resource.
    pub fn same(&self, other: &Self, name: &str) -> bool {
        self.requests.get(name) == other.requests.get(name) && self.limits.get(name) == other.limits.get(name)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

/// One entry of `restartPolicyRules` (RR2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartRule {
    pub action: RuleAction,
    pub operator: RuleOperator,
    pub values: Vec<i32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RuleAction {
    Restart,
    RestartAllContainers,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RuleOperator {
    In,
    NotIn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TerminationMessagePolicy {
    File,
    FallbackToLogsOnError,
}

/// A signal number as in `signal.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Signal(pub i32);

impl Signal {
    /// What ends a container when neither manifest nor image say otherwise (LC11).
    pub const TERM: Self = Self(15);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ProbeKind {
    Startup,
    Liveness,
    Readiness,
}

impl ProbeKind {
    /// In the order in which they are looked at.
    pub const ALL: [Self; 3] = [Self::Startup, Self::Liveness, Self::Readiness];
}

impl std::fmt::Display for ProbeKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        })
    }
}

/// A probe with its defaults filled in (PR1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeSpec {
    pub handler: ProbeHandler,
    pub initial_delay: Duration,
    pub period: Duration,
    pub timeout: Duration,
    pub success_threshold: u32,
    pub failure_threshold: u32,
    /// Overrides the pod's grace for the kill that this probe causes (PR13).
    pub grace: Option<Duration>,
}

impl ProbeSpec {
    /// A probe with the defaults of PR1.
    pub fn new(handler: ProbeHandler) -> Self {
        Self {
            handler,
            initial_delay: Duration::ZERO,
            period: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            success_threshold: 1,
            failure_threshold: 3,
            grace: None,
        }
    }
}

/// How a probe asks. A host of `None` is the pod's IP (HG1, TS1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProbeHandler {
    /// `$(VAR)` is expanded already (EX3).
    Exec {
        command: Vec<String>,
    },
    HttpGet(HttpGet),
    TcpSocket {
        host: Option<String>,
        port: Port,
    },
    Grpc {
        port: u16,
        service: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpGet {
    pub https: bool,
    pub host: Option<String>,
    pub port: Port,
    /// May contain a query.
    pub path: String,
    /// In the order written, repeats kept (HG2).
    pub headers: Vec<(String, String)>,
}

/// A port, named ones looked up in the same container's `ports` (PR15).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Port {
    Number(u16),
    /// No port of the container has this name: the probe errs.
    Unknown(String),
}

/// A lifecycle handler (LC1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HookHandler {
    Exec {
        command: Vec<String>,
    },
    HttpGet(HttpGet),
    /// Done by the machine itself.
    Sleep {
        seconds: u64,
    },
    /// Accepted by validation, never implemented: fails.
    TcpSocket,
}
