//! What a pod has on this node: its sandboxes, volumes, instances and the execs that run in them.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec as ApiSpec};
use netsetup::hostname::{self, HostnameError, Names};
use tokio::sync::{Mutex, mpsc, oneshot};

use super::snapshots::Snapshots;
use super::{Notice, clock, volumes};
use crate::convert::env::Sources;
use crate::convert::ephemeral;
use crate::convert::facts::{NodeFacts, Objects, PodFacts};
use crate::convert::mounts::termination_log;
use crate::convert::sandbox::{self, Users};
use crate::engine::Engine;
use crate::engine::error::EngineError;
use crate::engine::id::{ContainerId, SandboxId};
use crate::engine::record::PodReference;
use crate::image::Store;
use crate::monitor::protocol::{Exit as MonitorExit, ExitRecord, WhenBrainDies};
use crate::pod::action::Instance;
use crate::pod::event::{Event, Exit, KubeEvent, Severity};
use crate::pod::spec::{Index, PodSpec};
use crate::pod::status::{TERMINATION_MESSAGE_BYTES, termination_message};
use crate::runtime::launch::Process;
use crate::user_namespace::{IdRange, claims, support};

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
    /// Where the machines' memory is kept; none when nobody comes back for it.
    pub snapshots: Option<Snapshots>,
    /// Whether pods that don't say have the host's users.
    pub host_users: bool,
    /// `status.reason` of static pods that start anew with the daemon.
    pub comes_back: Option<&'static str>,
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

/// The pod as it is now, and what it has; shared by the tasks that act for it, all on one thread.
#[derive(Debug)]
pub(super) struct Context {
    pub engine: Engine,
    pub settings: Rc<Settings>,
    pub pod: Pod,
    pub reference: PodReference,
    spec: PodSpec,
    notices: mpsc::UnboundedSender<Notice>,
    sandboxes: Rc<RefCell<BTreeMap<u32, SandboxId>>>,
    addresses: Rc<RefCell<Vec<IpAddr>>>,
    /// The pod's own, once it has claimed them.
    pub ids: Rc<Cell<Option<IdRange>>>,
    pub volumes: Rc<volumes::State>,
    /// Of all pods of the node.
    pub claims: Rc<volumes::ClaimUsers>,
    /// With what changed since: labels, annotations.
    newest: Rc<RefCell<Rc<Pod>>>,
    instances: Rc<RefCell<BTreeMap<Instance, Known>>>,
    execs: Rc<RefCell<BTreeMap<String, oneshot::Sender<MonitorExit>>>>,
    turns: Rc<RefCell<BTreeMap<Turn, Rc<Mutex<()>>>>>,
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
        claims: Rc<volumes::ClaimUsers>,
    ) -> Self {
        let reference =
            PodReference { namespace: spec.namespace.clone(), name: spec.name.clone(), uid: spec.uid.clone() };
        let newest = RefCell::new(Rc::new(pod.clone()));
        Self {
            engine,
            settings,
            pod,
            reference,
            spec: spec.clone(),
            notices,
            sandboxes: Rc::default(),
            addresses: Rc::default(),
            ids: Rc::default(),
            volumes: Rc::default(),
            claims,
            newest: Rc::new(newest),
            instances: Rc::default(),
            execs: Rc::default(),
            turns: Rc::default(),
        }
    }

    /// The same pod after a change of its spec; what runs is shared.
    pub(super) fn changed(&self, pod: Pod, spec: &PodSpec) -> Self {
        self.set_newest_pod(pod.clone());
        Self {
            engine: self.engine.clone(),
            settings: self.settings.clone(),
            pod,
            reference: self.reference.clone(),
            spec: spec.clone(),
            notices: self.notices.clone(),
            sandboxes: self.sandboxes.clone(),
            addresses: self.addresses.clone(),
            ids: self.ids.clone(),
            volumes: self.volumes.clone(),
            claims: self.claims.clone(),
            newest: self.newest.clone(),
            instances: self.instances.clone(),
            execs: self.execs.clone(),
            turns: self.turns.clone(),
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

    /// The pod with what changed since it was taken in: labels, annotations.
    pub(super) fn newest_pod(&self) -> Rc<Pod> {
        self.newest.borrow().clone()
    }

    pub(super) fn set_newest_pod(&self, pod: Pod) {
        *self.newest.borrow_mut() = Rc::new(pod);
    }

    pub(super) fn api_spec(&self) -> Option<&ApiSpec> {
        self.pod.spec.as_ref()
    }

    /// The container as the manifest has it.
    pub(super) fn container(&self, index: Index) -> Option<Cow<'_, Container>> {
        let spec = self.api_spec()?;
        let name = &self.spec.get(index)?.name;
        let written = spec.init_containers.iter().flatten().chain(&spec.containers).find(|own| own.name == *name);
        let ephemeral = || spec.ephemeral_containers.iter().flatten().find(|own| own.name == *name);
        written.map(Cow::Borrowed).or_else(|| ephemeral().map(|own| Cow::Owned(ephemeral::container(own))))
    }

    /// The newest instance of the container that an ephemeral one looks at (EP5).
    pub(super) fn target_of(&self, instance: Instance) -> Option<Known> {
        let target = self.spec.get(instance.container)?.target.as_deref()?;
        let index = self.spec.find(target)?;
        let instances = self.instances.borrow();
        let created = |(of, known): &(&Instance, &Known)| of.container == index && known.process.is_some();
        instances.iter().filter(created).max_by_key(|(of, _)| of.serial).map(|(_, known)| known.clone())
    }

    pub(super) fn sources<'a>(&'a self, facts: &'a PodFacts) -> Sources<'a> {
        Sources {
            pod: &self.pod,
            pod_facts: facts,
            node: &self.settings.node,
            objects: &*self.settings.objects,
            files: self,
        }
    }

    /// Gives the pod ids of its own, if it wants any and this machine has user namespaces; before anything is made for it.
    /// What it began with it keeps.
    pub(super) fn claim_ids(&self) -> Result<(), EngineError> {
        let (Some(spec), uid) = (self.api_spec(), &self.reference.uid) else { return Ok(()) };
        let is_supported = || support::check(&self.engine.dirs().data).is_ok();
        let ids = match sandbox::users(spec, self.settings.host_users) {
            Users::Host => None,
            // Without support there is no sandbox.
            Users::Own => is_supported().then(|| self.engine.claim_ids(uid)).transpose()?,
            Users::Unsaid { host } => {
                let known = claims::load(&self.dir());
                let begins = known.is_none() && !host && !self.dir().exists() && is_supported();
                if begins { Some(self.engine.claim_ids(uid)?) } else { known }
            }
        };
        self.ids.set(ids);
        Ok(())
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

    /// One of an earlier life.
    pub(super) fn know_sandbox(&self, attempt: u32, id: SandboxId) {
        self.sandboxes.borrow_mut().insert(attempt, id);
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

    /// All that are known, the ended ones, too.
    pub(super) fn instances(&self) -> Vec<Known> {
        self.instances.borrow().values().cloned().collect()
    }

    pub(super) fn container_names(&self) -> Vec<String> {
        self.spec.containers.iter().map(|container| container.name.clone()).collect()
    }

    /// The newest instance of a container.
    pub(super) fn newest(&self, container: &str) -> Option<(Instance, Known)> {
        let index = self.spec.find(container)?;
        let instances = self.instances.borrow();
        let own = instances.iter().filter(|(instance, _)| instance.container == index);
        own.max_by_key(|(instance, _)| instance.serial).map(|(instance, known)| (*instance, known.clone()))
    }

    /// The newest instances that have not ended, as far as somebody wrote that down, with their containers' names.
    pub(super) fn running(&self) -> Vec<(Instance, String, Known)> {
        let newest = self.spec.containers.iter().filter_map(|container| {
            let (instance, known) = self.newest(&container.name)?;
            Some((instance, container.name.clone(), known))
        });
        let lives =
            |known: &Known| known.process.is_some() && self.engine.exit_record(&known.sandbox, &known.id).is_none();
        newest.filter(|(_, _, known)| lives(known)).collect()
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

    /// It never began.
    pub(super) fn give_up_exec(&self, id: &str) {
        self.execs.borrow_mut().remove(id);
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
            message: self.termination_message(instance, &known, record),
        };
        Some(Event::ContainerExited { instance, exit })
    }

    /// The ends of a sandbox's instances whose monitor is gone: as it wrote them down, or unknown (CS6).
    pub(super) fn lost(&self, sandbox: &SandboxId) -> Vec<Event> {
        let all: Vec<(Instance, ContainerId)> = self
            .instances
            .borrow()
            .iter()
            .filter(|(_, known)| known.sandbox == *sandbox)
            .map(|(instance, known)| (*instance, known.id.clone()))
            .collect();
        let end = |(instance, id): (Instance, ContainerId)| match self.engine.exit_record(sandbox, &id) {
            Some(record) => self.exited(&record).unwrap_or(Event::ContainerLost { instance }),
            None => Event::ContainerLost { instance },
        };
        all.into_iter().map(end).collect()
    }

    fn termination_message(&self, instance: Instance, known: &Known, record: &ExitRecord) -> Option<String> {
        let policy = self.spec.get(instance.container)?.termination_message_policy;
        let name = termination_log(known.id.as_str());
        let file = self.engine.read_pod_file(&known.sandbox, &name, TERMINATION_MESSAGE_BYTES).unwrap_or_default();
        termination_message(policy, record.exit.code(), &file, || {
            as_written(self.log_tail(instance), record.unterminated)
        })
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

/// Rule VO60: what the container wrote, without the newline that the log ends every line with.
fn as_written(mut log: Vec<u8>, unterminated: bool) -> Vec<u8> {
    if unterminated && log.last() == Some(&b'\n') {
        log.pop();
    }
    log
}

/// The domain of services.
pub(super) const CLUSTER_DOMAIN: &str = "cluster.local";

#[cfg(test)]
mod tests {
    use super::*;

    /// VO60, LF2: every line of a log has an end, whatever the container wrote.
    #[test]
    fn a_newline_that_the_container_did_not_write_is_left_out() {
        for (log, unterminated, expected) in
            [("a\nDONE\n", true, "a\nDONE"), ("DONE\n", false, "DONE\n"), ("", true, "")]
        {
            assert_eq!(as_written(log.into(), unterminated), expected.as_bytes(), "{log:?}");
        }
    }
}
