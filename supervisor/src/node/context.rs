//! What a pod has on this node: its sandboxes, volumes, instances and the execs that run in them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec as ApiSpec};
use netsetup::hostname::{self, HostnameError, Names};
use tokio::sync::{Mutex, mpsc, oneshot};

use super::{Notice, clock};
use crate::convert::env::Sources;
use crate::convert::facts::{NodeFacts, Objects, PodFacts};
use crate::convert::mounts::termination_log;
use crate::engine::Engine;
use crate::engine::id::{ContainerId, SandboxId};
use crate::engine::record::PodReference;
use crate::image::Store;
use crate::monitor::protocol::{Exit as MonitorExit, ExitRecord, WhenBrainDies};
use crate::pod::action::Instance;
use crate::pod::event::{Event, Exit, KubeEvent, Severity};
use crate::pod::spec::{Index, PodSpec};
use crate::pod::status::{TERMINATION_MESSAGE_BYTES, termination_message};
use crate::runtime::launch::Process;
use crate::volume::ReadyVolume;

/// What is the same for all pods of a node.
pub struct Settings {
    pub images: Store,
    pub node: NodeFacts,
    pub objects: Box<dyn Objects>,
    /// The node's own `/etc/resolv.conf` and `/etc/hosts`.
    pub resolv: netsetup::resolv::Resolv,
    pub hosts: String,
    pub when_brain_dies: WhenBrainDies,
    pub log: LogPolicy,
    /// Directory of `Localhost` seccomp profiles.
    pub seccomp_dir: PathBuf,
    pub resources: cgroupd::Policy,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings").field("node", &self.node.name).finish_non_exhaustive()
    }
}

/// `containerLogMaxSize`, `containerLogMaxFiles` (rule LF3).
#[derive(Debug, Clone, Copy)]
pub struct LogPolicy {
    pub max_bytes: u64,
    pub max_files: u32,
}

impl Default for LogPolicy {
    fn default() -> Self {
        Self { max_bytes: 10 << 20, max_files: 5 }
    }
}

/// An instance that the engine knows.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub id: ContainerId,
    pub sandbox: SandboxId,
    /// For execs; none until it was created.
    pub process: Option<Rc<Process>>,
    /// The filter that its processes run under.
    pub seccomp: Option<Rc<OwnedFd>>,
}

/// Lives as long as the pod; shared by the tasks that act for it, all on one thread.
#[derive(Debug)]
pub(super) struct Context {
    pub engine: Engine,
    pub settings: Rc<Settings>,
    pub pod: Pod,
    pub reference: PodReference,
    spec: PodSpec,
    notices: mpsc::UnboundedSender<Notice>,
    sandboxes: RefCell<BTreeMap<u32, SandboxId>>,
    addresses: RefCell<Vec<IpAddr>>,
    pub volumes: RefCell<Vec<ReadyVolume>>,
    instances: RefCell<BTreeMap<Instance, Known>>,
    execs: RefCell<BTreeMap<String, oneshot::Sender<MonitorExit>>>,
    turns: RefCell<BTreeMap<Turn, Rc<Mutex<()>>>>,
}

/// What tasks take turns on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Turn {
    Pod,
    Instance(Instance),
}

impl Context {
    pub(super) fn new(
        engine: Engine,
        settings: Rc<Settings>,
        pod: Pod,
        spec: &PodSpec,
        notices: mpsc::UnboundedSender<Notice>,
    ) -> Self {
        let reference =
            PodReference { namespace: spec.namespace.clone(), name: spec.name.clone(), uid: spec.uid.clone() };
        Self {
            engine,
            settings,
            pod,
            reference,
            spec: spec.clone(),
            notices,
            sandboxes: RefCell::default(),
            addresses: RefCell::default(),
            volumes: RefCell::default(),
            instances: RefCell::default(),
            execs: RefCell::default(),
            turns: RefCell::default(),
        }
    }

    pub(super) fn warn(&self, text: String) {
        let _nobody_listens = self.notices.send(Notice::Warning { uid: self.reference.uid.clone(), text });
    }

    /// A Warning event of the pod that no decision of its machine depends on.
    pub(super) fn warning_event(&self, reason: &'static str, message: String) {
        let now = clock::now().wall;
        let event = KubeEvent { severity: Severity::Warning, reason, message, container: None, at: now };
        let _nobody_listens = self.notices.send(Notice::Event { uid: self.reference.uid.clone(), event });
    }

    pub(super) fn turn(&self, turn: Turn) -> Rc<Mutex<()>> {
        self.turns.borrow_mut().entry(turn).or_default().clone()
    }

    pub(super) fn api_spec(&self) -> Option<&ApiSpec> {
        self.pod.spec.as_ref()
    }

    /// The container as the manifest has it.
    pub(super) fn container(&self, index: Index) -> Option<&Container> {
        let spec = self.api_spec()?;
        let name = &self.spec.get(index)?.name;
        spec.init_containers.iter().flatten().chain(&spec.containers).find(|container| container.name == *name)
    }

    pub(super) fn sources<'a>(&'a self, facts: &'a PodFacts) -> Sources<'a> {
        Sources { pod: &self.pod, pod_facts: facts, node: &self.settings.node, objects: &*self.settings.objects }
    }

    /// `<name>_<namespace>(<uid>)`
    pub(super) fn description(&self) -> String {
        self.spec.description()
    }

    pub(super) fn facts(&self) -> PodFacts {
        let hostname = self.names().map(|names| names.nodename).unwrap_or_default();
        PodFacts { ips: self.addresses.borrow().clone(), hostname }
    }

    /// Rules HN1 to HN5.
    pub(super) fn names(&self) -> Result<Names, HostnameError> {
        let spec = self.api_spec();
        if spec.and_then(|spec| spec.host_network).unwrap_or(false) {
            let node = rustix::system::uname().nodename().to_string_lossy().into_owned();
            return Ok(Names { nodename: node.clone(), hostname: node, domain: None });
        }
        hostname::names(&hostname::Request {
            name: &self.reference.name,
            namespace: &self.reference.namespace,
            hostname: spec.and_then(|spec| spec.hostname.as_deref()),
            subdomain: spec.and_then(|spec| spec.subdomain.as_deref()),
            as_fqdn: spec.and_then(|spec| spec.set_hostname_as_fqdn).unwrap_or(false),
            override_with: spec.and_then(|spec| spec.hostname_override.as_deref()),
            cluster_domain: CLUSTER_DOMAIN,
        })
    }

    /// The directory of the pod's volumes on disk.
    pub(super) fn dir(&self) -> PathBuf {
        self.engine.dirs().data.join("pods").join(&self.reference.uid)
    }

    /// `<ns>_<name>_<uid>` below the log directory (rule LF1).
    pub(super) fn log_dir(&self) -> PathBuf {
        let PodReference { namespace, name, uid } = &self.reference;
        self.engine.dirs().log.join(format!("{namespace}_{name}_{uid}"))
    }

    pub(super) fn new_sandbox(&self, attempt: u32) -> SandboxId {
        let id = SandboxId::random();
        self.sandboxes.borrow_mut().insert(attempt, id.clone());
        id
    }

    pub(super) fn sandbox(&self, attempt: u32) -> Option<SandboxId> {
        self.sandboxes.borrow().get(&attempt).cloned()
    }

    pub(super) fn newest_sandbox(&self) -> Option<SandboxId> {
        self.sandboxes.borrow().last_key_value().map(|(_, id)| id.clone())
    }

    pub(super) fn all_sandboxes(&self) -> Vec<SandboxId> {
        self.sandboxes.borrow().values().cloned().collect()
    }

    pub(super) fn attempt_of(&self, id: &SandboxId) -> Option<u32> {
        self.sandboxes.borrow().iter().find_map(|(attempt, known)| (known == id).then_some(*attempt))
    }

    pub(super) fn set_addresses(&self, addresses: Vec<IpAddr>) {
        *self.addresses.borrow_mut() = addresses;
    }

    pub(super) fn primary_address(&self) -> Option<IpAddr> {
        self.addresses.borrow().first().copied()
    }

    pub(super) fn know(&self, instance: Instance, known: Known) {
        self.instances.borrow_mut().insert(instance, known);
    }

    pub(super) fn known(&self, instance: Instance) -> Option<Known> {
        self.instances.borrow().get(&instance).cloned()
    }

    pub(super) fn forget(&self, instance: Instance) {
        self.instances.borrow_mut().remove(&instance);
        self.turns.borrow_mut().remove(&Turn::Instance(instance));
    }

    pub(super) fn await_exec(&self, id: &str) -> oneshot::Receiver<MonitorExit> {
        let (sender, receiver) = oneshot::channel();
        self.execs.borrow_mut().insert(id.to_owned(), sender);
        receiver
    }

    pub(super) fn exec_exited(&self, id: &str, exit: MonitorExit) {
        if let Some(waiting) = self.execs.borrow_mut().remove(id) {
            // Nobody waits any more when its probe or hook was given up.
            let _given_up = waiting.send(exit);
        }
    }

    /// What a monitor recorded, with the termination message.
    pub(super) fn exited(&self, record: &ExitRecord) -> Option<Event> {
        let (instance, known) = self
            .instances
            .borrow()
            .iter()
            .find(|(_, known)| known.id.as_str() == record.container)
            .map(|(instance, known)| (*instance, known.clone()))?;
        let code = record.exit.code();
        let exit = Exit {
            code,
            oom_killed: record.oom_killed,
            start_error: record.start_error.as_ref().map(ToString::to_string),
            started: record.started_at.as_deref().map(clock::wall),
            finished: clock::wall(&record.finished_at),
            message: self.termination_message(instance, &known, code),
        };
        Some(Event::ContainerExited { instance, exit })
    }

    fn termination_message(&self, instance: Instance, known: &Known, code: i32) -> Option<String> {
        let policy = self.spec.get(instance.container)?.termination_message_policy;
        let name = termination_log(known.id.as_str());
        let file = self.engine.read_pod_file(&known.sandbox, &name, TERMINATION_MESSAGE_BYTES).unwrap_or_default();
        termination_message(policy, code, &file, || self.log_tail(instance))
    }

    /// The content of the last lines of an instance's log.
    fn log_tail(&self, instance: Instance) -> Vec<u8> {
        let path = self.log_file(instance);
        let mut content = Vec::new();
        let mut follower = crate::logs::follow::Follower::new(path);
        let keep = |line: &[u8]| {
            if let Some(record) = crate::logs::record::parse(line) {
                content.extend_from_slice(record.content);
                if !record.partial {
                    content.push(b'\n');
                }
            }
        };
        let mut keep = keep;
        while let Ok(true) = follower.read(&mut keep) {}
        content
    }

    /// `<container>/<restartCount>.log` (rule LF1).
    pub(super) fn log_file(&self, instance: Instance) -> PathBuf {
        self.container_log_dir(instance).join(format!("{}.log", instance.attempt))
    }

    pub(super) fn container_log_dir(&self, instance: Instance) -> PathBuf {
        let name = self.spec.get(instance.container).map(|container| container.name.clone());
        self.log_dir().join(name.unwrap_or_default())
    }

    /// How many containers may write a termination message at the same time, restarts included.
    pub(super) fn pod_files(&self) -> u64 {
        3 + 2 * self.spec.containers.len() as u64
    }
}

/// The domain of services.
pub(super) const CLUSTER_DOMAIN: &str = "cluster.local";
