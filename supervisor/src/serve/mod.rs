//! The node service: `monopod serve`.
//!
//! ```text
//! manifests ──> source ──┐                 ┌──> node_object
//!                        ▼                 │
//!   API ───────────>  store  ──feed──>  Daemon ──> pods ──> driver (crate::node) ──> monitors
//!                        ▲                              │
//!                        └──── status, events <─────────┘ notices
//! ```
//!
//! One task owns everything; whatever happens comes through its one loop. It may die at any moment: what it decided is in
//! the store and in the machines' snapshots, what runs belongs to the monitors (D43).

pub mod admit;
pub mod api;
mod backends;
mod clock;
pub mod control;
pub mod drain;
pub mod events;
pub mod feeds;
pub mod host;
pub mod journal;
pub mod lock;
pub mod node_object;
pub mod pods;
pub mod preempt;
pub mod pressure;
pub mod reset;
pub mod rest;
pub mod schedule;
pub mod source;
pub mod systemd;
pub mod taints;
pub mod tokens;

use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node as NodeObject;
use serde_json::value::RawValue;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::api::Backends;
use crate::config::Config;
use crate::engine::dirs::Dirs;
use crate::engine::record::Owner;
use crate::engine::{self, Engine};
use crate::identity::{DEFAULT_ISSUER, Issuer};
use crate::image;
use crate::monitor::protocol::WhenBrainDies;
use crate::node::{LogPolicy, Node, Notice, Settings, Snapshots, StoreObjects, host_addresses, node_facts};
use crate::pod::event::Severity;
use crate::store::{Key, Store, StoreError};
use crate::volume::claims::{
    NodeLabels,
    controller::{self, Controller},
};

pub use reset::reset;

use api::Api;
use backends::{NodeMetrics, NodeStreams};
use control::{Control, Order};
use drain::{Drain, Periods};
use events::{Recorder, Said};
use feeds::Fed;
use host::Host;
use lock::Lock;
use pods::{PODS, Pods};
use pressure::monitor::Monitor;
use pressure::stall::Stalls;
use rest::Rest;
use source::Source;
use systemd::Notifier;
use tokens::StoreTokens;

/// What the daemon follows.
const FOLLOWED: [&str; 8] = [
    PODS,
    node_object::NODES,
    "configmaps",
    "secrets",
    "serviceaccounts",
    "persistentvolumeclaims",
    "persistentvolumes",
    "storageclasses.storage.k8s.io",
];
/// After the node's own object could not be written.
const PUBLISH_AGAIN: Duration = Duration::from_secs(10);
/// Directory of cgroups where no service manager gives one.
const CGROUP: &str = "monopod";

/// Why the service does not start, or can't go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("{operation} {}: {source}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("another monopod serve has {} locked", .0.display())]
    Second(PathBuf),
    #[error(transparent)]
    Engine(#[from] engine::error::EngineError),
    #[error(transparent)]
    Images(#[from] image::store::StoreError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    CgroupHost(#[from] cgroupd::host::HostError),
    #[error(transparent)]
    CgroupTree(#[from] cgroupd::tree::TreeError),
    #[error(transparent)]
    Api(#[from] crate::api::ServerError),
    #[error(transparent)]
    Identity(#[from] crate::identity::IdentityError),
    #[error("podCIDR: {0}")]
    Range(String),
    #[error("this host has no cgroup2 file system: mount one (mount -t cgroup2 none /sys/fs/cgroup)")]
    NoCgroup,
    #[error(
        "cgroup2 lacks the controllers {0}: limits could not be enforced. Boot with \
         systemd.unified_cgroup_hierarchy=1, or run with --allow-unenforced-limits"
    )]
    Controllers(String),
    #[error("must be root")]
    NotRoot,
}

impl ServeError {
    pub(crate) fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { operation, path, source }
    }
}

/// Runs the service until it is told to stop; pods stay.
///
/// # Errors
/// It can't start. Afterwards failures are told and lived with.
pub async fn run(config: Config, config_path: Option<PathBuf>) -> Result<(), ServeError> {
    let mut daemon = Daemon::start(config, config_path).await?;
    daemon.serve().await
}

struct Daemon {
    config: Config,
    config_path: Option<PathBuf>,
    _lock: Lock,
    store: Store,
    host: Rc<Host>,
    images: image::Store,
    node: Node,
    notices: mpsc::UnboundedReceiver<Notice>,
    pods: Pods,
    events: Rc<RefCell<Recorder>>,
    source: Source,
    feed: mpsc::UnboundedReceiver<Fed>,
    claims: Controller,
    issuer: Rc<Issuer>,
    pressure: Monitor,
    stalls: Stalls,
    rest: Rest,
    /// The node's own object could not be written.
    publish_again: Option<tokio::time::Instant>,
    notifier: Notifier,
    shown: String,
    api: Option<Api>,
    control: Control,
    orders: (mpsc::UnboundedSender<Order>, mpsc::UnboundedReceiver<Order>),
    drain: Option<Drain>,
    /// Who waits for the end of the drain, and what was said last.
    waiting: (Vec<mpsc::UnboundedSender<String>>, Option<usize>),
}

impl Daemon {
    async fn start(config: Config, config_path: Option<PathBuf>) -> Result<Self, ServeError> {
        if !rustix::process::geteuid().is_root() {
            return Err(ServeError::NotRoot);
        }
        let notifier = Notifier::from_environment();
        let dirs = dirs(&config);
        engine::dirs::create_private(&dirs.data).map_err(ServeError::io("make", &dirs.data))?;
        let lock = Lock::take(&dirs.data).await?;
        let (store, damaged) = Store::open(&dirs.data.join("store"))?;
        let events = Rc::new(RefCell::new(Recorder::new(store.clone())));
        let user_namespaces = user_namespaces(&config);
        let facts = node_facts(config.node_name.clone(), host_addresses());
        let mut host = Host { user_namespaces, ..Host::new(&config, &facts) };
        for own in damaged {
            let text = format!("{}: {}; put aside", own.path.display(), own.cause);
            tracing::error!("{text}");
            let said = Said::of_node(&host.name, Severity::Warning, "CorruptState", &text);
            events.borrow_mut().say(&said);
        }
        let (engine, engine_events) = Engine::open(engine_config(&config, &dirs)?).await?;
        let issuer = Rc::new(Issuer::open(&dirs.data.join("identity"), DEFAULT_ISSUER)?);
        let objects = StoreObjects::new(store.clone(), issuer.clone(), &host.name);
        let (node, notices) = Node::new(engine, engine_events, settings(&config, &dirs, objects)?);
        let images = image::Store::open(dirs.images(), image::Limits::default())?;
        // On a full disk pods go on, and what can be read is read.
        let published = node_object::publish(&store, &host, &images).await;
        let publish_again = published.err().map(|error| try_later(&error));
        take_node(&store, &mut host);
        let host = Rc::new(host);
        let source = Source::open(&config.static_pod_path, store.clone(), host.clone(), events.clone())?;
        let pods = Pods::new(store.clone(), events.clone(), host.clone(), source.claimed());
        let feed = feeds::follow(&store, &FOLLOWED)?;
        let claims = Controller::new(store.clone(), node_labels(&host), &dirs.data.join("claims"));
        let shown = String::new();
        let control = Control::listen(&dirs.run)?;
        Ok(Self {
            config,
            config_path,
            _lock: lock,
            store,
            host,
            images,
            node,
            notices,
            pods,
            events,
            source,
            feed,
            claims,
            issuer,
            pressure: Monitor::default(),
            stalls: Stalls::watch(),
            rest: Rest::default(),
            publish_again,
            notifier,
            shown,
            api: None,
            control,
            orders: mpsc::unbounded_channel(),
            drain: None,
            waiting: (Vec::new(), None),
        })
    }

    async fn serve(&mut self) -> Result<(), ServeError> {
        // The files first: a pod whose manifest changed meanwhile is known to end when it is taken over.
        self.source.look().await;
        self.bind_claims().await;
        self.pods.begin(&mut self.node).await;
        self.publish_all();
        self.glance();
        let mut signals = Signals::new()?;
        self.api = Some(Api::start(&self.config, &self.host, &self.store, self.backends())?);
        self.notifier.ready(&self.status());
        let mut alive = self.notifier.pace().map(tokio::time::interval);
        let mut expiry = self.events.borrow_mut().expire();
        self.rest.stir(tokio::time::Instant::now());
        loop {
            let (scarce, deferred) = (self.pressure.due(), self.pods.deferred_until());
            let leaves = self.pods.leaves();
            tokio::select! {
                () = self.node.step() => {}
                Some(fed) = self.feed.recv() => self.fed(fed).await,
                Some(uid) = self.pods.ended() => self.pods.begin_again(&uid, &mut self.node),
                looked = self.pressure.looked() => self.looked(looked).await,
                () = self.stalls.next() => self.stalled(),
                () = self.source.changed() => self.source.look().await,
                wanted = signals.next() => match wanted {
                    Wanted::Stop => break,
                    Wanted::Reload => self.reload().await,
                },
                () = self.control.accept(&self.orders.0) => {}
                Some(Order::Drain(lines)) = self.orders.1.recv() => self.drain(lines),
                () = until(self.drain.as_ref().and_then(Drain::until)) => {}
                () = tick(&mut alive) => {
                    self.notifier.alive();
                    self.glance();
                }
                () = until(leaves) => self.pods.drive_due(&mut self.node),
                () = until(scarce) => self.look(),
                () = after(expiry) => {}
                () = until(self.publish_again) => self.publish_node().await,
                () = until(deferred) => self.pods.retry_resizes(&mut self.node),
                () = connection_ended(self.api.as_ref()) => self.rest.stir(tokio::time::Instant::now()),
                () = until(self.rest.due()) => self.rest.give_back(tokio::time::Instant::now()),
            }
            self.publish_all();
            self.drain_on();
            self.pods.admit_waiting(&mut self.node);
            self.peek();
            expiry = self.events.borrow_mut().expire();
            self.show_status();
        }
        self.notifier.stopping("stopping; pods go on");
        if let Some(api) = self.api.take() {
            api.stop().await;
        }
        Ok(())
    }

    /// What the node does for the API server.
    fn backends(&self) -> Backends {
        let tokens = StoreTokens::new(self.issuer.clone(), self.store.clone());
        let (sessions, store) = (self.node.sessions(), self.store.clone());
        Backends {
            streams: Some(Rc::new(NodeStreams(sessions.clone()))),
            metrics: Some(Rc::new(NodeMetrics { sessions, store })),
            tokens: Some(Rc::new(tokens)),
        }
    }

    async fn fed(&mut self, fed: Fed) {
        self.rest.stir(tokio::time::Instant::now());
        let event = match fed {
            Fed::Changed(event) => event,
            Fed::Missed(PODS) => return self.pods.resync(&mut self.node),
            Fed::Missed(node_object::NODES) => return self.node_changed(),
            Fed::Missed(resource) => {
                for object in self.store.list(resource, None).0 {
                    self.node.object_changed(&object.key);
                }
                self.bind_claims().await;
                return self.pods.retry(&mut self.node);
            }
        };
        match &*event.object.key.resource {
            PODS => self.pod_changed(&event).await,
            node_object::NODES => self.node_changed(),
            _ => self.node.object_changed(&event.object.key),
        }
        if controller::concerns(&event) {
            self.bind_claims().await;
        }
        // A pod that waits for a claim.
        if [controller::CLAIMS, controller::CLASSES].contains(&&*event.object.key.resource) {
            self.pods.retry(&mut self.node);
        }
    }

    async fn bind_claims(&mut self) {
        match self.claims.run().await {
            Ok(waiting) => waiting.iter().for_each(|claim| self.events.borrow_mut().say(&Said::of_claim(claim))),
            Err(error) => tracing::error!("bind claims: {error}"),
        }
    }

    async fn pod_changed(&mut self, event: &crate::store::WatchEvent) {
        self.pods.changed(event, &mut self.node);
        if event.kind == crate::store::WatchEventKind::Modified
            && is_told_otherwise(event)
            && let Some(pod) = pods::read(&event.object)
        {
            self.node.pod_changed(pod);
        }
        let deleting =
            event.kind == crate::store::WatchEventKind::Deleted || event.object.text.contains("\"deletionTimestamp\"");
        if deleting && event.object.text.contains(source::MANIFEST) {
            self.source.look().await;
        }
    }

    /// Cordoned, tainted, labelled.
    fn node_changed(&mut self) {
        let mut host = Host::clone(&self.host);
        take_node(&self.store, &mut host);
        self.host = Rc::new(host);
        self.pods.set_host(self.host.clone(), &mut self.node);
    }

    /// What the driver said since the last time.
    fn publish_all(&mut self) {
        while let Ok(notice) = self.notices.try_recv() {
            match notice {
                Notice::Status { uid, status } => {
                    let ended = status.phase.is_final();
                    self.pods.publish(&uid, status);
                    if ended {
                        // What it had is free, for resizes and for pods that wait.
                        self.pods.retry(&mut self.node);
                    }
                }
                Notice::Event { uid, event } => {
                    if event.reason == "Pulled" {
                        self.look();
                    }
                    self.pods.said(&uid, &event, &self.node);
                }
                Notice::Warning { uid, text } => tracing::warn!(pod = uid, "{text}"),
                Notice::Removed { uid } => {
                    self.look();
                    self.pods.removed(&uid, &mut self.node);
                }
            }
        }
    }

    async fn publish_node(&mut self) {
        let published = node_object::publish(&self.store, &self.host, &self.images).await;
        self.publish_again = published.err().map(|error| try_later(&error));
    }

    /// Ends all pods; a second order only listens.
    fn drain(&mut self, lines: mpsc::UnboundedSender<String>) {
        self.waiting.0.push(lines);
        self.waiting.1 = None;
        if self.drain.is_none() {
            let critical = self.config.shutdown_grace_period_critical_pods;
            let ordinary = self.config.shutdown_grace_period.saturating_sub(critical);
            let periods = Periods { ordinary, critical };
            self.drain = Some(Drain::begin(periods, &mut self.pods, &mut self.node));
        }
    }

    fn drain_on(&mut self) {
        let Some(drain) = &mut self.drain else { return };
        drain.advance(&mut self.pods, &mut self.node);
        let left = drain.left(&self.pods, &self.node);
        if self.waiting.1 != Some(left) {
            self.waiting.1 = Some(left);
            // Whoever has gone does not listen.
            self.waiting.0.retain(|lines| lines.send(format!("{} left", counted(left, "pod"))).is_ok());
        }
        if drain.is_done() {
            for lines in self.waiting.0.drain(..) {
                let _gone = lines.send("done".to_owned());
            }
        }
    }

    async fn reload(&mut self) {
        self.notifier.reloading();
        match Config::read(self.config_path.as_deref()) {
            Ok(config) => self.take_config(config).await,
            Err(error) => tracing::error!("the configuration stays as it was: {error}"),
        }
        self.shown = String::new();
        self.notifier.ready(&self.status());
    }

    async fn take_config(&mut self, config: Config) {
        let later = self.config.needs_restart(&config);
        if !later.is_empty() {
            tracing::warn!("taken at the next start: {}", later.join(", "));
        }
        let facts = node_facts(Some(self.host.name.clone()), self.host.ips.clone());
        let user_namespaces = self.host.user_namespaces;
        let pressure = self.host.pressure.clone();
        let mut host = Host { pressure, user_namespaces, ..Host::new(&config, &facts) };
        let published = node_object::publish(&self.store, &host, &self.images).await;
        self.publish_again = published.err().map(|error| try_later(&error));
        take_node(&self.store, &mut host);
        self.host = Rc::new(host);
        self.pods.set_host(self.host.clone(), &mut self.node);
        self.config = config;
        self.source.look().await;
        tracing::info!("configuration reloaded");
    }

    fn status(&self) -> String {
        let pods = counted(self.pods.count(), "pod");
        match self.source.wrong() {
            0 => pods,
            1 => format!("{pods}; 1 manifest is not understood"),
            wrong => format!("{pods}; {wrong} manifests are not understood"),
        }
    }

    fn show_status(&mut self) {
        let status = self.status();
        if status != self.shown {
            self.notifier.status(&status);
            self.shown = status;
        }
    }
}

/// When the node's object is written again.
fn try_later(error: &StoreError) -> tokio::time::Instant {
    tracing::error!("publish the node: {error}");
    tokio::time::Instant::now() + PUBLISH_AGAIN
}

/// `1 pod`, `2 pods`
fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn node_labels(host: &Host) -> NodeLabels {
    NodeLabels { name: host.name.clone(), labels: host.labels.clone() }
}

/// What users wrote of the node.
fn take_node(store: &Store, host: &mut Host) {
    let stored = store.get(&Key::new(node_object::NODES, "", &host.name));
    if let Some(node) = stored.and_then(|object| object.read::<NodeObject>().ok()) {
        node_object::adopt_spec(host, &node);
    }
}

/// Where the service keeps things.
pub fn dirs(config: &Config) -> Dirs {
    Dirs { data: config.data_dir.clone(), run: config.run_dir.clone(), log: config.log_dir.clone() }
}

fn engine_config(config: &Config, dirs: &Dirs) -> Result<engine::Config, ServeError> {
    let ranges = match (config.pod_cidr, config.pod_cidr6) {
        (Some(v4), v6) => {
            let ranges = netsetup::ipam::Ranges::new(v4, v6);
            netsetup::RangeChoice::Given(ranges.map_err(|error| ServeError::Range(error.to_string()))?)
        }
        (None, _) => netsetup::RangeChoice::Auto,
    };
    Ok(engine::Config {
        dirs: dirs.clone(),
        owner: Owner::Service,
        cgroup_parent: cgroup_parent(config)?,
        network: netsetup::Config {
            ranges,
            // Pods reach the API by its cluster address alone (D24).
            closed_ports: config.api.listen.iter().map(|own| (netsetup::Protocol::Tcp, own.port())).collect(),
            service: api::service(config),
            ..netsetup::Config::new(dirs.leases())
        },
    })
}

/// The unit's own cgroup where the service manager put the daemon into a leaf of it (`DelegateSubgroup=`, systemd 254). An
/// older one could not start the daemon again in a cgroup that has children, so there pods lie in a tree of their own.
fn cgroup_parent(config: &Config) -> Result<PathBuf, ServeError> {
    let detected = cgroupd::host::Host::detect()?;
    let mount = detected.mount_point.ok_or(ServeError::NoCgroup)?;
    let leaf = cgroupd::host::own_cgroup_dir()?.filter(|dir| dir.ends_with(cgroupd::tree::DAEMON_LEAF));
    let unit = leaf.as_deref().and_then(Path::parent).map(Path::to_owned);
    let parent = config.cgroup_parent.clone().or(unit).unwrap_or_else(|| mount.join(CGROUP));
    std::fs::create_dir_all(&parent).map_err(ServeError::io("make", &parent))?;
    if parent.parent() == Some(&mount) {
        pass_controllers_on(&mount);
    }
    let tree = cgroupd::Tree::open(&parent)?;
    let missing = cgroupd::host::missing_controllers(tree.usable());
    if !missing.is_empty() && !config.allow_unenforced_limits {
        let names: Vec<_> = missing.iter().map(|controller| controller.name()).collect();
        return Err(ServeError::Controllers(names.join(", ")));
    }
    Ok(parent)
}

/// Whoever made the root's other children enabled what those need; what can't be had is missed later.
fn pass_controllers_on(mount: &Path) {
    let text = std::fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
    for controller in cgroupd::files::Controller::parse_list(&text) {
        if let Err(error) = std::fs::write(mount.join("cgroup.subtree_control"), format!("+{}", controller.name())) {
            tracing::debug!("enable {}: {error}", controller.name());
        }
    }
}

/// Whether what a pod is told of itself, labels and annotations, is not what it was.
fn is_told_otherwise(event: &crate::store::WatchEvent) -> bool {
    #[derive(serde::Deserialize)]
    struct Told<'a> {
        #[serde(borrow)]
        metadata: Metadata<'a>,
    }
    #[derive(serde::Deserialize)]
    struct Metadata<'a> {
        #[serde(borrow, default)]
        labels: Option<&'a RawValue>,
        #[serde(borrow, default)]
        annotations: Option<&'a RawValue>,
    }
    // As text: most events are the node's own changes of a status, and stored objects are written in one way.
    let told = |object: &crate::store::Object| {
        let told = serde_json::from_str::<Told<'_>>(&object.text).ok()?.metadata;
        Some([told.labels, told.annotations].map(|value| value.map(|value| value.get().to_owned())))
    };
    event.previous.as_ref().is_some_and(|previous| told(previous) != told(&event.object))
}

/// Whether there are any; what keeps them from pods that would get them is told once.
fn user_namespaces(config: &Config) -> bool {
    let checked = crate::user_namespace::support::check(&config.data_dir);
    if let (Err(cause), false) = (&checked, config.host_users) {
        tracing::warn!("hostUsers: pods that don't say have the host's users all the same: {cause}");
    }
    checked.is_ok()
}

fn settings(config: &Config, dirs: &Dirs, objects: StoreObjects) -> Result<Settings, ServeError> {
    let page_sizes = cgroupd::host::page_sizes()?;
    let machines = dirs.data.join("machines");
    let access = image::AccessPolicy {
        verification: config.image_pull_credentials_verification_policy,
        allowlist: config.preloaded_images_verification_allowlist.clone(),
    };
    Ok(Settings {
        images: image::Store::open(dirs.images(), image::Limits::default())?.verifying(access),
        node: node_facts(config.node_name.clone(), host_addresses()),
        objects: Box::new(objects),
        resolv: netsetup::resolv::parse(&std::fs::read_to_string(&config.resolv_conf).unwrap_or_default()),
        hosts: std::fs::read_to_string("/etc/hosts").unwrap_or_default(),
        when_brain_dies: WhenBrainDies::Stay,
        log: LogPolicy {
            max_bytes: config.log_bytes().unwrap_or(LogPolicy::default().max_bytes),
            max_files: config.container_log_max_files,
        },
        seccomp_dir: dirs.data.join("seccomp"),
        resources: cgroupd::Policy { page_sizes, ..cgroupd::Policy::default() },
        host_users: config.host_users,
        comes_back: Some(drain::REASON),
        snapshots: Some(Snapshots::open(machines.clone()).map_err(ServeError::io("make", &machines))?),
    })
}

/// What a signal asks for.
enum Wanted {
    Stop,
    Reload,
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Self, ServeError> {
        let listen = |kind| signal(kind).map_err(ServeError::io("listen to signals", Path::new("signal(7)")));
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Wanted {
        tokio::select! {
            _ = self.interrupt.recv() => Wanted::Stop,
            _ = self.terminate.recv() => Wanted::Stop,
            _ = self.hangup.recv() => Wanted::Reload,
        }
    }
}

/// Ends when the service manager wants to hear of us; never without one.
async fn tick(alive: &mut Option<tokio::time::Interval>) {
    match alive {
        Some(interval) => drop(interval.tick().await),
        None => std::future::pending().await,
    }
}

async fn until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn connection_ended(api: Option<&Api>) {
    match api {
        Some(api) => api.connection_ended().await,
        None => std::future::pending().await,
    }
}

async fn after(span: Option<Duration>) {
    match span {
        Some(span) => tokio::time::sleep(span).await,
        None => std::future::pending().await,
    }
}
