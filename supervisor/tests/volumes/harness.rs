//! A node over an object store, on a host of its own: what the daemon is to pods, without an API.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use rustix::mount::{MountFlags, MountPropagationFlags};
use serde_json::{Value, json};
use supervisor::convert::machine;
use supervisor::engine::dirs::Dirs;
use supervisor::engine::{Config, Engine, record};
use supervisor::identity::{DEFAULT_ISSUER, Issuer};
use supervisor::image::{Limits, Store as Images};
use supervisor::manifest::Object;
use supervisor::monitor::protocol::WhenBrainDies;
use supervisor::node::{LogPolicy, Node, Notice, Settings, StoreObjects, node_facts};
use supervisor::pod::status::{ContainerStatus, State, Status};
use supervisor::store::{Change, Durability, Key, Store};
use supervisor::volume::claims::NodeLabels;
use supervisor::volume::claims::controller::Controller;
use tokio::sync::mpsc::UnboundedReceiver;

/// Longest wait for something that should come at once.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
const LIBEXEC: &str = "MONOPOD_LIBEXEC";

/// Runs `test` in a process of its own that finds the monitor and pause, inside namespaces of its own.
pub(crate) fn alone(name: &str, test: impl AsyncFnOnce(World)) {
    assert!(rustix::process::geteuid().is_root(), "these tests need root");
    if std::env::var_os(LIBEXEC).is_none() {
        let exe = std::env::current_exe().unwrap();
        let programs = exe.parent().unwrap().parent().unwrap();
        assert!(programs.join("pause").exists(), "build first: cargo build -p pause -p supervisor");
        let mut command = Command::new(&exe);
        command.args([name, "--exact", "--nocapture"]).env(LIBEXEC, programs);
        assert!(command.status().unwrap().success(), "{name}");
        return;
    }
    private_host();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async { test(World::open().await).await });
}

fn private_host() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET | nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).unwrap();
    for dir in ["/run", "/var/lib/monopod", "/var/log/pods", "/var/log/containers", "/tmp"] {
        std::fs::create_dir_all(dir).unwrap();
        rustix::mount::mount("tmpfs", dir, "tmpfs", MountFlags::empty(), c"mode=1777").unwrap();
    }
    for arguments in [
        "link set lo up",
        "link add uplink type bridge",
        "address add 192.0.2.2/24 dev uplink",
        "link set uplink up",
        "route add default via 192.0.2.1",
    ] {
        assert!(Command::new("ip").args(arguments.split(' ')).status().unwrap().success(), "ip {arguments}");
    }
}

/// Everything of one test.
pub(crate) struct World {
    pub(crate) store: Store,
    pub(crate) node: Node,
    pub(crate) controller: Controller,
    notices: UnboundedReceiver<Notice>,
    pub(crate) statuses: std::collections::BTreeMap<String, Status>,
    pub(crate) events: Vec<String>,
}

impl World {
    async fn open() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let image = [PathBuf::from("/images/busybox.tar"), root.join("target/images/busybox.tar")];
        let image = image.iter().find(|path| path.exists()).expect("cargo xtask images busybox");
        let loaded = Command::new(env!("CARGO_BIN_EXE_monopod")).args(["image", "load"]).arg(image).output().unwrap();
        assert!(loaded.status.success(), "{}", String::from_utf8_lossy(&loaded.stderr));
        let dirs = Dirs::default();
        let (store, _) = Store::open(&dirs.data.join("store")).unwrap();
        let issuer = Rc::new(Issuer::open(&dirs.data.join("identity"), DEFAULT_ISSUER).unwrap());
        let cgroups = cgroupd::host::Host::detect().unwrap().mount_point.unwrap().join("monopod");
        std::fs::create_dir_all(&cgroups).unwrap();
        let config = Config {
            dirs: dirs.clone(),
            owner: record::this_process(),
            cgroup_parent: cgroups,
            network: netsetup::Config::new(dirs.leases()),
        };
        let (engine, events) = Engine::open(config).await.unwrap();
        let settings = Settings {
            images: Images::open(dirs.images(), Limits::default()).unwrap(),
            node: node_facts(Some("node1".to_owned()), vec!["192.0.2.2".parse().unwrap()]),
            objects: Box::new(StoreObjects::new(store.clone(), issuer, "node1")),
            resolv: netsetup::resolv::parse(""),
            hosts: String::new(),
            when_brain_dies: WhenBrainDies::EndAfter { grace_ms: 100 },
            log: LogPolicy::default(),
            seccomp_dir: dirs.data.join("seccomp"),
            resources: cgroupd::Policy::default(),
            snapshots: None,
            host_users: true,
            comes_back: None,
        };
        let (node, notices) = Node::new(engine, events, settings);
        let labels = NodeLabels { name: "node1".to_owned(), ..NodeLabels::default() };
        let controller = Controller::new(store.clone(), labels, &dirs.data.join("claims"));
        let mut world = Self { store, node, controller, notices, statuses: Default::default(), events: Vec::new() };
        let account = json!({"metadata": {"name": "default", "namespace": "default", "uid": "uid-sa"}});
        world.create("serviceaccounts", "default", account).await;
        world
    }

    /// Creates an object and tells the node.
    pub(crate) async fn create(&mut self, resource: &str, name: &str, value: Value) {
        self.change(Change::Create { key: Key::new(resource, "default", name), value }).await;
    }

    pub(crate) async fn update(&mut self, resource: &str, name: &str, value: Value) {
        self.change(Change::Update { key: Key::new(resource, "default", name), expected: None, value }).await;
    }

    pub(crate) async fn delete(&mut self, resource: &str, name: &str) {
        self.change(Change::Delete { key: Key::new(resource, "default", name), expected: None }).await;
    }

    async fn change(&mut self, change: Change) {
        let key = change.key().clone();
        self.store.commit(change, Durability::Kernel).await.unwrap();
        self.node.object_changed(&key);
    }

    /// Stores a pod and lets the node run it; its uid.
    pub(crate) async fn run(&mut self, manifest: &str) -> String {
        let object = supervisor::manifest::decode("pod.yaml", manifest).unwrap().remove(0).object;
        let Object::Pod(pod) = with_defaults(object) else { panic!("no pod") };
        let mut pod: Pod = *pod;
        let uid = uuid::Uuid::new_v4().to_string();
        pod.metadata.uid = Some(uid.clone());
        if let Some(spec) = pod.spec.as_mut() {
            spec.service_account_name = Some("default".to_owned());
        }
        let name = pod.metadata.name.clone().unwrap();
        self.create("pods", &name, serde_json::to_value(&pod).unwrap()).await;
        self.bind_claims().await;
        let spec = machine::spec(&pod);
        self.node.add(pod, spec);
        uid
    }

    pub(crate) async fn bind_claims(&mut self) {
        self.controller.run().await.unwrap();
    }

    /// Steps until the condition holds.
    pub(crate) async fn until(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let waited = tokio::time::timeout(PATIENCE, async {
            while !holds(self) {
                self.step().await;
            }
        });
        assert!(waited.await.is_ok(), "{what}: {:#?}\n{:#?}", self.statuses, self.events);
    }

    pub(crate) async fn step(&mut self) {
        self.node.step().await;
        while let Ok(notice) = self.notices.try_recv() {
            match notice {
                Notice::Status { uid, status } => drop(self.statuses.insert(uid, *status)),
                Notice::Event { event, .. } => self.events.push(format!("{}: {}", event.reason, event.message)),
                Notice::Warning { text, .. } => self.events.push(text),
                Notice::Removed { uid } => drop(self.statuses.remove(&uid)),
            }
        }
    }

    pub(crate) async fn until_running(&mut self, uid: &str) {
        self.until("the pod runs", |world| {
            let apps = world.statuses.get(uid).map(|status| status.apps.as_slice()).unwrap_or_default();
            !apps.is_empty() && apps.iter().all(|app| matches!(app.state, State::Running { .. }))
        })
        .await;
    }

    /// Reason and message for which the first container waits.
    pub(crate) fn waits(&self, uid: &str) -> Option<(String, String)> {
        match &self.statuses.get(uid)?.apps.first()?.state {
            State::Waiting(waiting) => Some((waiting.reason.clone(), waiting.message.clone())),
            State::Running { .. } | State::Terminated(_) => None,
        }
    }

    /// Ends everything.
    pub(crate) async fn close(mut self) {
        self.node.end_all_at_once();
        self.until("all pods are gone", |world| world.node.is_empty()).await;
        self.node.engine().close().await.unwrap();
    }
}

fn with_defaults(mut object: Object) -> Object {
    supervisor::admission::defaults::object(&mut object);
    object
}

/// The root directory of the process with this word among its arguments, as it sees it.
pub(crate) fn root_of(word: &str) -> PathBuf {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let own = std::process::id().to_string();
    let found = entries.map(|entry| entry.path()).find(|path| {
        let command = std::fs::read(path.join("cmdline")).unwrap_or_default();
        let is_it = command.split(|byte| *byte == 0).any(|part| part == word.as_bytes());
        is_it && path.file_name().and_then(|name| name.to_str()) != Some(&own)
    });
    found.unwrap_or_else(|| panic!("no process has the argument {word}")).join("root")
}

/// The pause process of the pod whose container has this root: the one that shares its IPC namespace and is called so.
pub(crate) fn pause_of(root: &Path) -> rustix::process::Pid {
    let namespace = |process: &Path| std::fs::read_link(process.join("ns/ipc")).ok();
    let own = namespace(root.parent().unwrap());
    let processes = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let is_pause = |process: &PathBuf| {
        std::fs::read_to_string(process.join("comm")).is_ok_and(|name| name.trim() == "pause")
            && namespace(process) == own
    };
    let found = processes.into_iter().find(is_pause).expect("pause");
    let pid = found.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
    rustix::process::Pid::from_raw(pid.unwrap()).unwrap()
}

pub(crate) fn is_running(container: &ContainerStatus) -> bool {
    matches!(container.state, State::Running { .. })
}

/// Open descriptors of this process.
pub(crate) fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}
