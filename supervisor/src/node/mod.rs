//! The driver: one task owns all pod machines and feeds them from one queue; what they ask for runs beside it and comes
//! back as events.
//!
//! Nothing is decided here. A machine that was touched is asked for its actions until it has none; each becomes a task on
//! the same thread, and its result goes into the queue under the pod's uid. Tasks that name the same instance, or the
//! pod's sandbox and volumes, take turns in the order in which they were asked for.

mod adopt;
mod clock;
mod context;
mod execute;
mod facts;
mod images;
mod launch;
mod objects;
mod probes;
pub mod session;
mod snapshots;
mod stats;
mod volumes;

use std::collections::BTreeMap;
use std::rc::Rc;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::mpsc;

use crate::convert::machine::allocated;
use crate::convert::references;
use crate::engine::{Engine, EngineEvent, What};
use crate::monitor::protocol::Event as MonitorEvent;
use crate::pod::action::{Action, ActionId, Todo};
use crate::pod::event::{Event, KubeEvent, Outcome};
use crate::pod::machine::Machine;
use crate::pod::resize::Verdict;
use crate::pod::spec::PodSpec;
use crate::pod::status::Status;
use crate::pod::timer::Now;
use crate::store::Key;
use crate::volume::payload::Kind;

pub use adopt::Adoption;
pub use clock::wall_clock;
pub use context::{LogPolicy, Settings};
pub use facts::{host_addresses, node_facts};
pub use objects::StoreObjects;
pub use session::Sessions;
pub use snapshots::Snapshots;
pub use stats::{PodStats, Scarce};

/// What reaches the driver from its own tasks.
#[derive(Debug)]
enum Input {
    Done {
        uid: String,
        action: ActionId,
        outcome: Outcome,
    },
    PullStarted {
        uid: String,
        action: ActionId,
    },
    /// A pod takes more of the disk than it may.
    StorageExceeded {
        uid: String,
        message: String,
    },
}

/// What the outside hears of a pod.
#[derive(Debug)]
pub enum Notice {
    /// Something of the status changed.
    Status { uid: String, status: Box<Status> },
    /// A Kubernetes Event (section 10.8).
    Event { uid: String, event: KubeEvent },
    /// A limit that this host can't enforce, or another thing to know.
    Warning { uid: String, text: String },
    /// Deleted, and nothing is left of it.
    Removed { uid: String },
}

/// One pod with its machine and its running tasks.
#[derive(Debug)]
struct Entry {
    machine: Machine,
    context: Rc<context::Context>,
    tasks: BTreeMap<ActionId, tokio::task::AbortHandle>,
    /// Counts what it takes of the disk, when that is limited.
    counter: Option<tokio::task::AbortHandle>,
    shown: Option<Status>,
}

/// All pods of a node.
#[derive(Debug)]
pub struct Node {
    engine: Engine,
    settings: Rc<Settings>,
    claims: Rc<volumes::ClaimUsers>,
    pods: BTreeMap<String, Entry>,
    engine_events: mpsc::UnboundedReceiver<EngineEvent>,
    inbox: mpsc::UnboundedReceiver<Input>,
    sender: mpsc::UnboundedSender<Input>,
    notices: mpsc::UnboundedSender<Notice>,
    sessions: Sessions,
}

/// Does once what the first pod would wait for.
pub fn warm_up() {
    launch::compile_default();
}

impl Node {
    /// Must run inside a `LocalSet`.
    pub fn new(
        engine: Engine,
        engine_events: mpsc::UnboundedReceiver<EngineEvent>,
        settings: Settings,
    ) -> (Self, mpsc::UnboundedReceiver<Notice>) {
        let (sender, inbox) = mpsc::unbounded_channel();
        let (notices, receiver) = mpsc::unbounded_channel();
        let settings = Rc::new(settings);
        let node = Self {
            engine,
            settings,
            claims: Rc::default(),
            pods: BTreeMap::new(),
            engine_events,
            inbox,
            sender,
            notices,
            sessions: Sessions::default(),
        };
        (node, receiver)
    }

    /// Takes a pod in; it has defaults filled in, is validated and has a uid.
    pub fn add(&mut self, pod: Pod, spec: PodSpec) {
        let uid = spec.uid.clone();
        let context = self.context(pod, &spec);
        let machine = Machine::new(spec, clock::now());
        self.insert(uid, machine, context);
    }

    /// Takes in a pod that the node refuses (PH15): it only has a status.
    pub fn reject(&mut self, pod: Pod, spec: PodSpec, reason: &'static str, message: &str) {
        let uid = spec.uid.clone();
        let context = self.context(pod, &spec);
        let machine = Machine::rejected(spec, reason, message, clock::now());
        self.insert(uid, machine, context);
    }

    fn context(&self, pod: Pod, spec: &PodSpec) -> Rc<context::Context> {
        let (engine, settings) = (self.engine.clone(), self.settings.clone());
        Rc::new(context::Context::new(engine, settings, pod, spec, self.notices.clone(), self.claims.clone()))
    }

    fn insert(&mut self, uid: String, machine: Machine, context: Rc<context::Context>) {
        self.sessions.insert(&uid, context.clone());
        let counter = volumes::count_storage(&context, &self.sender);
        let entry = Entry { machine, context, tasks: BTreeMap::new(), counter, shown: None };
        self.pods.insert(uid.clone(), entry);
        self.settle(&uid);
    }

    /// Whether this pod, or what is left of it, is here.
    pub fn has(&self, uid: &str) -> bool {
        self.pods.contains_key(uid)
    }

    /// Namespace, name and uid of every pod that is here.
    pub fn pods(&self) -> impl Iterator<Item = &PodSpec> {
        self.pods.values().map(|entry| entry.machine.spec())
    }

    /// What users want of a pod that lives already; nothing happens when it is gone.
    pub fn change(&mut self, uid: &str, wish: impl FnOnce(&mut Machine, Now)) {
        if let Some(entry) = self.pods.get_mut(uid) {
            wish(&mut entry.machine, clock::now());
            self.settle(uid);
        }
    }

    /// Another spec of a pod that lives already, as far as it may change: images, ephemeral containers, deadline (UP rules),
    /// and resources, if they are allocated (RZ4).
    pub fn update(&mut self, pod: &Pod, new: &PodSpec, verdict: &Verdict) {
        let Some(entry) = self.pods.get_mut(&new.uid) else { return };
        let now = clock::now();
        let machine = &mut entry.machine;
        for container in &new.containers {
            let image = (container.image.as_str(), container.pull_policy);
            match machine.spec().find(&container.name) {
                None => machine.add_ephemeral(container.clone(), new.generation, now),
                Some(index) => machine.set_image(index, image.0, image.1, new.generation, now),
            }
        }
        if let Some(deadline) = new.active_deadline {
            machine.set_deadline(deadline, new.generation, now);
        }
        machine.resize(new, verdict, now);
        let pod = allocated(pod, machine.spec());
        entry.context = Rc::new(entry.context.changed(pod, machine.spec()));
        self.sessions.insert(&new.uid, entry.context.clone());
        // It spoke through the old one.
        volumes::refresh_tokens(&entry.context);
        self.settle(&new.uid);
    }

    /// A pod that is here, with what is allocated to it (RZ4).
    pub fn allocated(&self, uid: &str, pod: &Pod) -> Pod {
        self.pods.get(uid).map_or_else(|| pod.clone(), |entry| allocated(pod, entry.machine.spec()))
    }

    /// Whether everything of a pod has ended.
    pub fn is_finished(&self, uid: &str) -> bool {
        self.pods.get(uid).is_none_or(|entry| entry.machine.is_finished())
    }

    /// The machine's status of a pod.
    pub fn status(&self, uid: &str) -> Option<Status> {
        self.pods.get(uid).map(|entry| entry.machine.status())
    }

    /// Graceful deletion of every pod.
    pub fn delete_all(&mut self) {
        self.uids().iter().for_each(|uid| self.delete(uid));
    }

    /// Deletion of every pod without any grace.
    pub fn end_all_at_once(&mut self) {
        for uid in self.uids() {
            if let Some(entry) = self.pods.get_mut(&uid) {
                entry.machine.end_at_once(clock::now());
            }
            self.settle(&uid);
        }
    }

    /// Graceful deletion of one pod.
    pub fn delete(&mut self, uid: &str) {
        if let Some(entry) = self.pods.get_mut(uid) {
            let own = entry.machine.spec().grace;
            entry.machine.delete(own, clock::now());
        }
        self.settle(uid);
    }

    /// An object was added, changed or deleted: files that come from it change, and what waited for it is tried at once.
    pub fn object_changed(&mut self, key: &Key) {
        for uid in self.uids() {
            let Some(entry) = self.pods.get_mut(&uid) else { continue };
            let own = key.namespace.is_empty() || *entry.context.reference.namespace == *key.namespace;
            if !own || !references::refers_to(&entry.context.newest_pod(), &key.resource, &key.name) {
                continue;
            }
            let kind = match &*key.resource {
                "configmaps" => Some(Kind::ConfigMap),
                "secrets" => Some(Kind::Secret),
                _ => None,
            };
            if let Some(kind) = kind {
                volumes::object_changed(&entry.context, kind, &key.name);
            }
            entry.machine.objects_changed(clock::now());
            self.settle(&uid);
        }
    }

    /// The pod itself changed (labels, annotations): files that tell of it change.
    pub fn pod_changed(&mut self, pod: Pod) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        if let Some(entry) = self.pods.get(&uid) {
            entry.context.set_newest_pod(pod);
            volumes::object_changed(&entry.context, Kind::Pod, "");
        }
    }

    /// Counts what the pods take of the disk and evicts those that are beyond a limit (EV1), now and not when their counters
    /// come to it.
    pub async fn check_storage(&mut self) {
        for uid in self.uids() {
            let Some(entry) = self.pods.get(&uid) else { continue };
            if let Some(exceeded) = volumes::exceeded(&entry.context).await {
                self.evict(&uid, &exceeded.to_string());
            }
        }
    }

    fn evict(&mut self, uid: &str, message: &str) {
        // One that ended meanwhile takes nothing any more.
        if let Some(entry) = self.pods.get_mut(uid).filter(|entry| !entry.machine.is_finished()) {
            entry.machine.evict(message, clock::now());
            self.settle(uid);
        }
    }

    /// The layer below, for who ends it.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Streams into the pods.
    pub fn sessions(&self) -> Sessions {
        self.sessions.clone()
    }

    /// Whether pods are left.
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }

    /// Waits for the next thing to happen and deals with it.
    pub async fn step(&mut self) {
        let now = clock::now();
        let timeout = self.pods.values().filter_map(|entry| entry.machine.next_timeout(now)).min();
        tokio::select! {
            Some(input) = self.inbox.recv() => self.take_input(input),
            Some(event) = self.engine_events.recv() => self.take_engine_event(&event),
            () = clock::until(timeout) => self.take_timeouts(),
        }
    }

    fn take_input(&mut self, input: Input) {
        let (uid, event) = match input {
            Input::Done { uid, action, outcome } => {
                if let Some(entry) = self.pods.get_mut(&uid) {
                    entry.tasks.remove(&action);
                }
                if let Outcome::PodRemoved(Ok(())) = &outcome {
                    self.feed(&uid, Event::Done { action, outcome });
                    if let Some(Entry { counter: Some(counter), .. }) = self.pods.remove(&uid) {
                        counter.abort();
                    }
                    if let Some(snapshots) = &self.settings.snapshots {
                        snapshots.remove(&uid);
                    }
                    self.sessions.remove(&uid);
                    self.notify(Notice::Removed { uid });
                    return;
                }
                (uid, Event::Done { action, outcome })
            }
            Input::PullStarted { uid, action } => (uid, Event::PullStarted { action }),
            Input::StorageExceeded { uid, message } => return self.evict(&uid, &message),
        };
        self.feed(&uid, event);
    }

    fn take_engine_event(&mut self, event: &EngineEvent) {
        let found =
            self.pods.iter().find_map(|(uid, entry)| Some((uid.clone(), entry.context.attempt_of(&event.sandbox)?)));
        let Some((uid, attempt)) = found else { return };
        let context = match self.pods.get(&uid) {
            Some(entry) => entry.context.clone(),
            None => return,
        };
        self.sessions.happened(&uid, event);
        match &event.what {
            What::MonitorLost => {
                self.feed(&uid, Event::SandboxLost { attempt });
                // Nobody else will tell of their end; stopping the sandbox ends what still runs.
                for event in context.lost(&event.sandbox) {
                    self.feed(&uid, event);
                }
            }
            What::Happened(MonitorEvent::SandboxExited { .. }) => self.feed(&uid, Event::SandboxLost { attempt }),
            What::Happened(MonitorEvent::ContainerExited(record)) => {
                if let Some(event) = context.exited(record) {
                    self.feed(&uid, event);
                }
            }
            What::Happened(MonitorEvent::ExecExited { id, exit }) => context.exec_exited(id, *exit),
            What::Happened(MonitorEvent::LogBlocked { container, cause }) => {
                let text = format!("container {container}: its log can't be written ({cause}); the container waits");
                self.notify(Notice::Warning { uid, text });
            }
            What::Happened(MonitorEvent::LogResumed { .. }) => {}
        }
    }

    fn take_timeouts(&mut self) {
        let now = clock::now();
        for uid in self.uids() {
            let Some(entry) = self.pods.get_mut(&uid) else { continue };
            if entry.machine.next_timeout(now).is_some_and(|at| at <= now.mono) {
                entry.machine.handle_timeout(now);
                self.settle(&uid);
            }
        }
    }

    fn feed(&mut self, uid: &str, event: Event) {
        if let Some(entry) = self.pods.get_mut(uid) {
            entry.machine.handle(event, clock::now());
            self.settle(uid);
        }
    }

    /// Takes everything out of a machine that was touched.
    fn settle(&mut self, uid: &str) {
        let Some(entry) = self.pods.get_mut(uid) else { return };
        let actions: Vec<Action> = std::iter::from_fn(|| entry.machine.poll_action()).collect();
        let status = entry.machine.status();
        let changed = entry.shown.as_ref() != Some(&status);
        let published = changed && !entry.machine.is_replacing();
        if let Some(snapshots) = &self.settings.snapshots
            && (changed || actions.iter().any(is_remembered))
        {
            // Whatever the engine will show is known to the snapshot (D43).
            snapshots.save(&entry.machine);
        }
        for action in actions {
            if let Todo::Cancel { action: other } = action.todo {
                if let Some(task) = entry.tasks.remove(&other) {
                    task.abort();
                }
                continue;
            }
            let task = execute::start(&entry.context, action.clone(), &self.sender);
            entry.tasks.insert(action.id, task);
        }
        let mut notices = Vec::new();
        while let Some(event) = entry.machine.poll_event_record() {
            notices.push(Notice::Event { uid: uid.to_owned(), event });
        }
        if published {
            entry.shown = Some(status.clone());
            notices.push(Notice::Status { uid: uid.to_owned(), status: Box::new(status) });
        }
        notices.into_iter().for_each(|notice| self.notify(notice));
    }

    fn notify(&self, notice: Notice) {
        // Nobody listens any more when the program is ending.
        let _nobody_listens = self.notices.send(notice);
    }

    fn uids(&self) -> Vec<String> {
        self.pods.keys().cloned().collect()
    }
}

/// Whether something could exist after this action that a machine without memory of it would not expect. Probes leave
/// nothing, and there are many of them.
fn is_remembered(action: &Action) -> bool {
    match action.todo {
        Todo::RunProbe { .. } | Todo::Cancel { .. } | Todo::EnsureImage { .. } => false,
        Todo::SetUpVolumes
        | Todo::CreateSandbox { .. }
        | Todo::CreateContainer { .. }
        | Todo::StartContainer { .. }
        | Todo::Signal { .. }
        | Todo::Kill { .. }
        | Todo::RemoveContainer { .. }
        | Todo::RunHook { .. }
        | Todo::Resize { .. }
        | Todo::StopSandbox { .. }
        | Todo::TearDownVolumes
        | Todo::RemovePod => true,
    }
}
