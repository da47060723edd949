//! `monopod run`: pods of manifests in the foreground.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use netsetup::RangeChoice;
use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::admit::{self, Admitted};
use super::output::{LogPrefix, Printer, Source};
use crate::convert::machine;
use crate::engine::dirs::Dirs;
use crate::engine::{Config, Engine, record};
use crate::image::{Limits, Store};
use crate::logs::follow::Follower;
use crate::logs::record as log_record;
use crate::manifest;
use crate::monitor::protocol::WhenBrainDies;
use crate::node::{LogPolicy, Node, Notice, Settings, node_facts};
use crate::pod::event::Severity;
use crate::pod::status::{ContainerStatus, Phase, State, Status};

/// Runs the Pods of manifests in the foreground
///
/// Shows their containers' output. Ctrl-C ends them gracefully, a second one at once. The exit code is 0 when all
/// succeeded, else the first failing container's.
#[derive(Debug, clap::Args)]
pub struct RunCommand {
    /// Manifests: files, directories, or - for standard input
    #[arg(value_name = "FILE|DIR|-", required = true)]
    manifests: Vec<PathBuf>,
    /// Ends the pods gracefully after this long, for example 10s or 2m
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    limit: Option<Duration>,
    /// What stands in front of each line of output
    #[arg(long, value_enum, default_value_t = LogPrefix::Auto)]
    log_prefix: LogPrefix,
    /// Shows how long each step of the start took
    #[arg(long)]
    timings: bool,
    /// spec.nodeName of the pods [default: the host's name]
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// Where images, container roots and records are kept
    #[arg(long, value_name = "DIR", default_value = "/var/lib/monopod")]
    data_dir: PathBuf,
    /// Where sockets and address leases are kept
    #[arg(long, value_name = "DIR", default_value = "/run/monopod")]
    run_dir: PathBuf,
    /// Where container logs are written
    #[arg(long, value_name = "DIR", default_value = "/var/log/pods")]
    log_dir: PathBuf,
    /// Range of the pods' IPv4 addresses [default: one that no route of the host overlaps]
    #[arg(long, value_name = "CIDR")]
    pod_cidr: Option<ipnet::Ipv4Net>,
    /// Range of the pods' IPv6 addresses
    #[arg(long, value_name = "CIDR", requires = "pod_cidr")]
    pod_cidr6: Option<ipnet::Ipv6Net>,
}

/// Manifests that are refused (sysexits(3) has no better word for it).
const EXIT_REFUSED: u8 = 2;
/// Directory of cgroups that a `run` outside of a service uses.
const CGROUP: &str = "monopod";
/// A monitor whose brain was killed gives its containers this long.
const ORPHAN_GRACE: Duration = Duration::from_secs(2);

/// Go's durations, as far as people write them: `10s`, `1m30s`, `500ms`.
fn duration(text: &str) -> Result<Duration, String> {
    let span: jiff::SignedDuration = text.parse().map_err(|error: jiff::Error| error.to_string())?;
    Duration::try_from(span).map_err(|_| "must not be negative".to_owned())
}

/// Why nothing ran.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("{operation}: {source}")]
    Io { operation: String, source: std::io::Error },
    #[error(transparent)]
    Engine(#[from] crate::engine::error::EngineError),
    #[error(transparent)]
    Store(#[from] crate::image::store::StoreError),
    #[error("this host has no cgroup2 file system: mount one (mount -t cgroup2 none /sys/fs/cgroup)")]
    NoCgroup,
    #[error(transparent)]
    Host(#[from] cgroupd::host::HostError),
    #[error("--pod-cidr: {0}")]
    Range(String),
    #[error("must be root: `cargo xtask run` runs the demo in a virtual machine for other users")]
    NotRoot,
}

fn io(operation: impl Into<String>) -> impl FnOnce(std::io::Error) -> RunError {
    let operation = operation.into();
    move |source| RunError::Io { operation, source }
}

/// Runs `monopod run ...`.
pub fn run(command: &RunCommand) -> Result<ExitCode, RunError> {
    let started = Instant::now();
    let admitted = match manifest::read(&command.manifests).and_then(admit::admit) {
        Ok(admitted) => admitted,
        Err(refused) => {
            eprint!(
                "{}",
                if std::io::stderr().is_terminal() { refused.with_snippets() } else { format!("{refused}\n") }
            );
            return Ok(ExitCode::from(EXIT_REFUSED));
        }
    };
    if !rustix::process::geteuid().is_root() {
        return Err(RunError::NotRoot);
    }
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(8).build();
    let runtime = runtime.map_err(io("start the runtime"))?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let mut session = Session::open(command, admitted, started).await?;
        session.run(command.limit).await
    })
}

/// One `monopod run` from its first pod to its last.
struct Session {
    node: Node,
    notices: mpsc::UnboundedReceiver<Notice>,
    pods: BTreeMap<String, Shown>,
    printer: Printer<std::io::Stdout>,
    watch: AsyncFd<std::os::fd::OwnedFd>,
    followers: Vec<Followed>,
    timeline: Timeline,
    log_dir: PathBuf,
    /// Code of the first container that failed by itself.
    failed: Option<i32>,
    ending: bool,
}

/// What was shown of a pod.
#[derive(Default)]
struct Shown {
    directory: PathBuf,
    label: String,
    followed: BTreeMap<String, (Source, Option<u32>)>,
    waiting: BTreeMap<String, String>,
    finished: bool,
}

struct Followed {
    source: Source,
    follower: Follower,
}

impl Session {
    async fn open(command: &RunCommand, admitted: Admitted, started: Instant) -> Result<Self, RunError> {
        let mut timeline = Timeline::new(started, command.timings);
        timeline.mark("manifests read");
        for warning in &admitted.warnings {
            eprintln!("warning: {warning}");
        }
        for kind in &admitted.ignored {
            eprintln!("warning: {kind} objects have no effect in `monopod run`");
        }
        let dirs = Dirs { data: command.data_dir.clone(), run: command.run_dir.clone(), log: command.log_dir.clone() };
        let (engine, events) = Engine::open(config(command, &dirs)?).await?;
        timeline.mark("engine open");
        let settings = settings(command, &dirs, admitted.objects)?;
        let (node, notices) = Node::new(engine, events, settings);
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK);
        let watch = watch.map_err(|error| io("inotify_init")(error.into()))?;
        let mut session = Self {
            node,
            notices,
            pods: BTreeMap::new(),
            printer: Printer::stdout(command.log_prefix),
            watch: registered(watch).map_err(io("watch the logs"))?,
            followers: Vec::new(),
            timeline,
            log_dir: dirs.log,
            failed: None,
            ending: false,
        };
        let several = admitted.pods.len() > 1;
        for pod in admitted.pods {
            session.add(pod, several)?;
        }
        Ok(session)
    }

    fn add(&mut self, mut pod: k8s_openapi::api::core::v1::Pod, several: bool) -> Result<(), RunError> {
        let uid = uuid::Uuid::new_v4().to_string();
        pod.metadata.uid = Some(uid.clone());
        let spec = machine::spec(&pod);
        let directory = self.log_dir.join(format!("{}_{}_{uid}", spec.namespace, spec.name));
        let mut shown = Shown { label: spec.name.clone(), directory, ..Shown::default() };
        for container in &spec.containers {
            let dir = shown.directory.join(&container.name);
            std::fs::create_dir_all(&dir).map_err(io(format!("make {}", dir.display())))?;
            let flags = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
            let watched = inotify::add_watch(self.watch.get_ref(), &dir, flags);
            watched.map_err(|error| io(format!("watch {}", dir.display()))(error.into()))?;
            let name = if several { format!("{}/{}", spec.name, container.name) } else { container.name.clone() };
            shown.followed.insert(container.name.clone(), (self.printer.add(&name), None));
        }
        self.pods.insert(uid, shown);
        self.node.add(pod, spec);
        Ok(())
    }

    async fn run(&mut self, limit: Option<Duration>) -> Result<ExitCode, RunError> {
        let mut stop = Stop::new(limit)?;
        while !self.node.is_empty() {
            tokio::select! {
                () = self.node.step() => {}
                ready = self.watch.readable() => {
                    if let Ok(mut ready) = ready {
                        drain_events(self.watch.get_ref());
                        ready.clear_ready();
                    }
                }
                requested = stop.requested() => self.end(requested),
            }
            while let Ok(notice) = self.notices.try_recv() {
                self.show(notice);
            }
            self.print_logs();
        }
        self.node.engine().close().await?;
        self.timeline.print();
        let code = self.failed.and_then(|code| u8::try_from(code).ok());
        Ok(code.map_or(ExitCode::SUCCESS, ExitCode::from))
    }

    fn end(&mut self, requested: Requested) {
        if !self.ending && std::io::stderr().is_terminal() {
            eprintln!("ending the pods gracefully; Ctrl-C again ends them at once");
        }
        self.ending = true;
        match requested {
            Requested::Gracefully => self.node.delete_all(None),
            Requested::Now => self.node.delete_all(Some(Duration::ZERO)),
        }
    }

    fn show(&mut self, notice: Notice) {
        match notice {
            Notice::Status { uid, status } => self.show_status(&uid, &status),
            Notice::Event { uid, event } => {
                // A back-off says again what its cause said.
                let news = event.severity == Severity::Warning && event.reason != "BackOff" && !self.ending;
                if news {
                    eprintln!("pod {}: {}: {}", self.label(&uid), event.reason, event.message);
                } else {
                    tracing::debug!(pod = self.label(&uid), reason = event.reason, "{}", event.message);
                }
            }
            Notice::Warning { uid, text } => eprintln!("warning: pod {}: {text}", self.label(&uid)),
            Notice::Removed { uid } => drop(self.pods.remove(&uid)),
        }
    }

    fn label(&self, uid: &str) -> String {
        self.pods.get(uid).map(|shown| shown.label.clone()).unwrap_or_default()
    }

    fn show_status(&mut self, uid: &str, status: &Status) {
        if status
            .conditions
            .iter()
            .any(|c| c.kind == "PodReadyToStartContainers" && c.status == crate::pod::status::Truth::True)
        {
            self.timeline.mark_once(&format!("sandbox of {} ready", self.label(uid)));
        }
        for container in status.init.iter().chain(&status.apps).chain(&status.ephemeral) {
            self.show_container(uid, container);
        }
        let finished = status.phase.is_final();
        let Some(shown) = self.pods.get_mut(uid) else { return };
        if finished && !shown.finished {
            shown.finished = true;
            if status.phase == Phase::Failed && !self.ending {
                let why = [status.reason.as_deref(), status.message.as_deref()].into_iter().flatten();
                let why: Vec<&str> = why.collect();
                let why = if why.is_empty() { String::new() } else { format!(": {}", why.join(": ")) };
                eprintln!("pod {} failed{why}", shown.label);
                self.failed = self.failed.or(Some(1));
            }
            self.node.delete(uid);
        }
    }

    fn show_container(&mut self, uid: &str, container: &ContainerStatus) {
        let ending = self.ending;
        let label = self.label(uid);
        let Some(shown) = self.pods.get_mut(uid) else { return };
        match &container.state {
            State::Waiting(waiting) => {
                let text = format!("{}: {}", waiting.reason, waiting.message);
                let news = !waiting.message.is_empty() && shown.waiting.get(&container.name) != Some(&text);
                if news && !ending {
                    eprintln!("pod {label}, container {}: {text}", container.name);
                    shown.waiting.insert(container.name.clone(), text);
                }
            }
            State::Running { .. } => {
                self.timeline.mark_once(&format!("container {} of {label} running", container.name));
            }
            State::Terminated(ended) => {
                let by_itself = !ending && !shown.finished;
                if by_itself
                    && ended.exit_code != 0
                    && self.failed.is_none()
                    && container.role != crate::pod::spec::Role::Sidecar
                {
                    self.failed = Some(ended.exit_code);
                }
            }
        }
        self.follow(uid, container);
    }

    /// A new instance has a new file.
    fn follow(&mut self, uid: &str, container: &ContainerStatus) {
        let Some(shown) = self.pods.get_mut(uid) else { return };
        let Some((source, attempt)) = shown.followed.get_mut(&container.name) else { return };
        if container.id.is_empty() || *attempt == Some(container.restart_count) {
            return;
        }
        *attempt = Some(container.restart_count);
        let path = shown.directory.join(&container.name).join(format!("{}.log", container.restart_count));
        self.followers.push(Followed { source: *source, follower: Follower::new(path) });
    }

    fn print_logs(&mut self) {
        let printer = &mut self.printer;
        let mut first = false;
        for followed in &mut self.followers {
            let source = followed.source;
            let mut print = |line: &[u8]| {
                if let Some(record) = log_record::parse(line) {
                    first = true;
                    if let Err(error) = printer.line(source, record.content, !record.partial) {
                        tracing::debug!("write output: {error}");
                    }
                }
            };
            while let Ok(true) = followed.follower.read(&mut print) {}
        }
        if first {
            self.timeline.mark_once("first line of output");
        }
    }
}

#[expect(deprecated, reason = "what replaces it is an unsafe function; an owned descriptor keeps its number valid")]
fn registered(watch: std::os::fd::OwnedFd) -> std::io::Result<AsyncFd<std::os::fd::OwnedFd>> {
    AsyncFd::new(watch)
}

/// Only that something happened matters; every follower looks for itself.
fn drain_events(watch: &std::os::fd::OwnedFd) {
    let mut buffer = [0; 4096];
    while rustix::io::read(watch, &mut buffer).is_ok_and(|read| read > 0) {}
}

fn config(command: &RunCommand, dirs: &Dirs) -> Result<Config, RunError> {
    let host = cgroupd::host::Host::detect()?;
    let cgroup_parent = host.mount_point.ok_or(RunError::NoCgroup)?.join(CGROUP);
    std::fs::create_dir_all(&cgroup_parent).map_err(io(format!("make {}", cgroup_parent.display())))?;
    let ranges = match (command.pod_cidr, command.pod_cidr6) {
        (Some(v4), v6) => {
            let ranges = netsetup::ipam::Ranges::new(v4, v6);
            RangeChoice::Given(ranges.map_err(|error| RunError::Range(error.to_string()))?)
        }
        (None, _) => RangeChoice::Auto,
    };
    Ok(Config {
        dirs: dirs.clone(),
        owner: record::this_process(),
        cgroup_parent,
        network: netsetup::Config { ranges, ..netsetup::Config::new(dirs.leases()) },
    })
}

fn settings(command: &RunCommand, dirs: &Dirs, objects: admit::Given) -> Result<Settings, RunError> {
    let page_sizes = cgroupd::host::page_sizes()?;
    Ok(Settings {
        images: Store::open(dirs.images(), Limits::default())?.watched(super::pull_bars::watcher()),
        node: node_facts(command.node_name.clone(), host_addresses()),
        objects: Box::new(objects),
        resolv: netsetup::resolv::parse(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default()),
        hosts: std::fs::read_to_string("/etc/hosts").unwrap_or_default(),
        when_brain_dies: WhenBrainDies::EndAfter {
            grace_ms: u64::try_from(ORPHAN_GRACE.as_millis()).unwrap_or(u64::MAX),
        },
        log: LogPolicy::default(),
        seccomp_dir: dirs.data.join("seccomp"),
        resources: cgroupd::Policy { page_sizes, ..cgroupd::Policy::default() },
    })
}

/// The address that the host would speak from; connecting a datagram socket sends nothing.
fn host_addresses() -> Vec<IpAddr> {
    let toward = |from: &str, to: &str| -> Option<IpAddr> {
        let socket = UdpSocket::bind(from).ok()?;
        socket.connect(to.parse::<SocketAddr>().ok()?).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    let found = [toward("0.0.0.0:0", "192.0.2.1:9"), toward("[::]:0", "[2001:db8::1]:9")];
    let mut addresses: Vec<IpAddr> = found.into_iter().flatten().collect();
    if addresses.is_empty() {
        addresses.push(IpAddr::from([127, 0, 0, 1]));
    }
    addresses
}

/// How the user wants it to end.
enum Requested {
    Gracefully,
    Now,
}

struct Stop {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    limit: Option<tokio::time::Instant>,
    asked: bool,
}

impl Stop {
    fn new(limit: Option<Duration>) -> Result<Self, RunError> {
        let listen = |kind| signal(kind).map_err(io("listen to signals"));
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
            limit: limit.map(|limit| tokio::time::Instant::now() + limit),
            asked: false,
        })
    }

    async fn requested(&mut self) -> Requested {
        let limit = self.limit;
        let over = async {
            match limit {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
            () = over => {
                self.limit = None;
                return Requested::Gracefully;
            }
        }
        let again = std::mem::replace(&mut self.asked, true);
        if again { Requested::Now } else { Requested::Gracefully }
    }
}

/// What happened when, from the start of the program.
struct Timeline {
    started: Instant,
    shown: bool,
    marks: Vec<(String, Duration)>,
}

impl Timeline {
    fn new(started: Instant, shown: bool) -> Self {
        Self { started, shown, marks: Vec::new() }
    }

    fn mark(&mut self, what: &str) {
        self.marks.push((what.to_owned(), self.started.elapsed()));
    }

    fn mark_once(&mut self, what: &str) {
        if self.shown && !self.marks.iter().any(|(known, _)| known == what) {
            self.mark(what);
        }
    }

    fn print(&self) {
        if !self.shown {
            return;
        }
        let mut before = Duration::ZERO;
        for (what, at) in &self.marks {
            let millis = |span: Duration| span.as_secs_f64() * 1000.0;
            eprintln!("{:9.2} ms  +{:8.2} ms  {what}", millis(*at), millis(at.saturating_sub(before)));
            before = *at;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_duration_as_people_write_it() {
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        for text in ["", "ten", "-1s"] {
            assert!(duration(text).is_err(), "{text:?}");
        }
    }
}
