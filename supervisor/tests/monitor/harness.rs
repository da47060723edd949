//! A pod of real processes under a real monitor, below a directory and a cgroup that end with the test.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen};
use supervisor::engine::program::plan;
use supervisor::monitor::client::{Client, Descriptors, MonitorProcess};
use supervisor::monitor::protocol::{
    ContainerSpec, Event, ExecSpec, ExitRecord, HostNamespaces, LogSpec, PidNamespace, SandboxSpec, WhenBrainDies,
};
use supervisor::monitor::spawn::Start;
use supervisor::monitor::template::Template;
use supervisor::runtime::launch::{Devices, FdSlot, Launch, Process, Root, User};
use supervisor::runtime::{capabilities, standard};
use tempfile::TempDir;
use tokio::sync::mpsc::UnboundedReceiver;

const BUSYBOX: &str = "/bin/busybox";

static COUNT: AtomicU32 = AtomicU32::new(0);

/// Everything of one test.
#[derive(Debug)]
pub(crate) struct Pod {
    dir: TempDir,
    cgroup: PathBuf,
    client: Option<Client>,
    pub(crate) events: UnboundedReceiver<Event>,
    pub(crate) process: MonitorProcess,
    pub(crate) template: Template,
    containers: u32,
    /// Until the monitor was greeted.
    pub(crate) spawned_in: std::time::Duration,
}

/// What a test changes of a container.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) pid: PidNamespace,
    pub(crate) terminal: bool,
    pub(crate) max_bytes: u64,
    /// Keeps standard input open, or until the first client has left.
    pub(crate) stdin: Option<Stdin>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stdin {
    Stays,
    Once,
}

impl Default for Options {
    fn default() -> Self {
        Self { pid: PidNamespace::Own, terminal: false, max_bytes: 10 << 20, stdin: None }
    }
}

pub(crate) fn run<F: Future>(test: F) -> F::Output {
    assert!(rustix::process::geteuid().is_root(), "these tests need root");
    assert!(fs::exists(BUSYBOX).unwrap(), "these tests need {BUSYBOX} (Debian: busybox-static)");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(test)
}

impl Pod {
    /// With a sandbox.
    pub(crate) async fn new(when_brain_dies: WhenBrainDies) -> Self {
        let pod = Self::without_sandbox().await;
        let mut fds = Descriptors::default();
        let spec = SandboxSpec {
            id: "sandbox".to_owned(),
            hostname: Some("pod".to_owned()),
            host: HostNamespaces::default(),
            sysctls: vec![("net.ipv4.tcp_syncookies".to_owned(), "0".to_owned())],
            cgroup: fds.add(pod.new_cgroup("pause")).unwrap(),
            pause: fds.add(pause(pod.dir.path())).unwrap(),
            netns: None,
            user_namespace: None,
            oom_score_adj: None,
            shm_bytes: Some(1 << 20),
            when_brain_dies,
        };
        let sandbox = pod.client().create_sandbox(spec, fds).await.unwrap();
        assert!(sandbox.pause_pid > 0);
        pod
    }

    pub(crate) async fn without_sandbox() -> Self {
        let template = Template::start(env!("CARGO_BIN_EXE_monitor").into()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fill_image(dir.path());
        let name = format!("monitor-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::SeqCst));
        let cgroup = cgroup_root().join(name);
        fs::create_dir(&cgroup).unwrap();
        let own = cgroup.join("monitor");
        fs::create_dir(&own).unwrap();
        let own = File::open(own).unwrap();
        let start = Start { state: dir.path(), cgroup: own.as_fd(), template: &template };
        let begin = std::time::Instant::now();
        let (client, events, process) = Client::spawn(&start).await.unwrap();
        let spawned_in = begin.elapsed();
        Self { dir, cgroup, client: Some(client), events, process, template, containers: 0, spawned_in }
    }

    /// Made by the same template, in a state directory and a cgroup of its own.
    pub(crate) async fn another_monitor(&self, name: &str) -> (Client, MonitorProcess) {
        fs::create_dir(self.path(name)).unwrap();
        let cgroup = self.new_cgroup(name);
        let start = Start { state: &self.path(name), cgroup: cgroup.as_fd(), template: &self.template };
        let (client, _events, process) = Client::spawn(&start).await.unwrap();
        (client, process)
    }

    pub(crate) fn cgroup_processes(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.cgroup.join(name).join("cgroup.procs")).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    pub(crate) fn client(&self) -> &Client {
        self.client.as_ref().expect("the brain has left")
    }

    /// What happens when the brain dies.
    pub(crate) fn leave(&mut self) {
        self.client = None;
    }

    /// What the next brain does.
    pub(crate) async fn reconnect(&mut self) {
        let (client, events) = Client::connect(self.dir.path()).await.unwrap();
        self.client = Some(client);
        self.events = events;
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn new_cgroup(&self, name: &str) -> OwnedFd {
        let path = self.cgroup.join(name);
        fs::create_dir_all(&path).unwrap();
        File::open(path).unwrap().into()
    }

    /// Creates a container that runs a script; the log is in `logs/<id>`.
    pub(crate) async fn create(&mut self, id: &str, script: &str, options: Options) -> Created {
        let log = self.directory(&format!("logs/{id}"));
        self.create_with(id, &["/bin/sh", "-c", script], options, log).await.unwrap()
    }

    pub(crate) async fn create_with(
        &mut self,
        id: &str,
        args: &[&str],
        options: Options,
        log: OwnedFd,
    ) -> Result<Created, supervisor::monitor::client::ClientError> {
        self.containers += 1;
        let scratch = format!("scratch/{}", self.containers);
        for name in ["upper", "work"] {
            fs::create_dir_all(self.path(&scratch).join(name)).unwrap();
        }
        let mut fds = Descriptors::default();
        let mut add = |fd: OwnedFd| fds.add(fd).unwrap();
        let launch = launch(args, &options, add(self.directory("layer")), add(self.directory(&scratch)));
        let spec = ContainerSpec {
            id: id.to_owned(),
            launch: add(plan(&launch).unwrap()),
            cgroup: add(self.new_cgroup(id)),
            pid: options.pid,
            host_cgroup_namespace: false,
            log: Some(LogSpec { dir: add(log), name: "0.log".to_owned(), max_bytes: options.max_bytes, max_files: 5 }),
            stdin: options.stdin.is_some(),
            stdin_once: options.stdin == Some(Stdin::Once),
            terminal: options.terminal,
            record_dir: add(self.directory("records")),
            record_name: format!("{id}.json"),
        };
        self.client().create_container(spec, fds).await
    }

    /// Creates and starts.
    pub(crate) async fn start(&mut self, id: &str, script: &str) {
        self.create(id, script, Options::default()).await;
        self.client().start_container(id).await.unwrap();
    }

    pub(crate) fn exec_spec(&self, container: &str, script: &str, fds: &mut Descriptors) -> ExecSpec {
        let process = process(&["/bin/sh", "-c", script], false);
        ExecSpec {
            id: "exec".to_owned(),
            container: container.to_owned(),
            process: fds.add(plan(&process).unwrap()).unwrap(),
            stdin: None,
            stdout: None,
            stderr: None,
            terminal: false,
        }
    }

    pub(crate) fn plan_of(&self, args: &[&str]) -> OwnedFd {
        plan(&process(args, false)).unwrap()
    }

    /// A process with a terminal.
    pub(crate) fn terminal_plan(&self, script: &str) -> OwnedFd {
        plan(&process(&["/bin/sh", "-c", script], true)).unwrap()
    }

    pub(crate) async fn event(&mut self) -> Event {
        self.events.recv().await.expect("the monitor is gone")
    }

    pub(crate) async fn exited(&mut self) -> ExitRecord {
        match self.event().await {
            Event::ContainerExited(record) => record,
            other @ (Event::ExecExited { .. }
            | Event::SandboxExited { .. }
            | Event::LogBlocked { .. }
            | Event::LogResumed { .. }) => panic!("{other:?}"),
        }
    }

    /// The record on disk.
    pub(crate) fn record(&self, id: &str) -> ExitRecord {
        serde_json::from_slice(&fs::read(self.path(&format!("records/{id}.json"))).unwrap()).unwrap()
    }

    /// The log's records without their time stamps.
    pub(crate) fn log(&self, id: &str) -> Vec<String> {
        let text = fs::read_to_string(self.path(&format!("logs/{id}/0.log"))).unwrap();
        text.split_terminator('\n').map(|line| line[31..].to_owned()).collect()
    }

    pub(crate) fn directory(&self, name: &str) -> OwnedFd {
        fs::create_dir_all(self.path(name)).unwrap();
        File::open(self.path(name)).unwrap().into()
    }

    /// Processes of the pod, the monitor not counted.
    pub(crate) fn processes(&self) -> Vec<String> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.cgroup).unwrap().flatten() {
            if entry.path().is_dir() && entry.file_name() != "monitor" {
                let text = fs::read_to_string(entry.path().join("cgroup.procs")).unwrap();
                all.extend(text.lines().map(str::to_owned));
            }
        }
        all
    }
}

impl Drop for Pod {
    /// The monitor is killed if the test did not end it, and its processes with it.
    fn drop(&mut self) {
        let _gone = fs::write(self.cgroup.join("cgroup.kill"), "1");
        let events = self.cgroup.join("cgroup.events");
        while fs::read_to_string(&events).is_ok_and(|text| text.contains("populated 1")) {
            std::thread::yield_now();
        }
        for entry in fs::read_dir(&self.cgroup).into_iter().flatten().flatten() {
            let _file = fs::remove_dir(entry.path());
        }
        let _left = fs::remove_dir(&self.cgroup);
    }
}

pub(crate) use supervisor::monitor::client::Created;

/// Until the process has ended.
pub(crate) fn wait_for_end(pidfd: &OwnedFd) {
    let fd = rustix::event::PollFd::new(pidfd, rustix::event::PollFlags::IN);
    rustix::event::poll(&mut [fd], None).unwrap();
}

/// Where cgroup v2 is mounted.
fn cgroup_root() -> PathBuf {
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = table.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"));
    let line = line.expect("these tests need a mounted cgroup2");
    PathBuf::from(line.split(' ').nth(1).unwrap())
}

fn fill_image(dir: &Path) {
    let bin = dir.join("layer/bin");
    fs::create_dir_all(&bin).unwrap();
    fs::create_dir_all(dir.join("layer/etc")).unwrap();
    fs::copy(BUSYBOX, bin.join("busybox")).unwrap();
    for name in ["sh", "cat", "echo", "hostname", "sleep", "ps", "seq", "dd", "tty", "yes", "head", "true"] {
        symlink("busybox", bin.join(name)).unwrap();
    }
}

fn pause(dir: &Path) -> OwnedFd {
    let path = dir.join("pause");
    crate::pause::write(&path);
    File::open(path).unwrap().into()
}

fn launch(args: &[&str], options: &Options, layer: FdSlot, scratch: FdSlot) -> Launch {
    Launch {
        root: Root { layers: vec![layer], scratch, read_only: false },
        mounts: standard::mounts(false),
        devices: Devices::Default,
        masked_paths: standard::masked_paths(1),
        read_only_paths: standard::read_only_paths(),
        process: process(args, options.terminal),
    }
}

fn process(args: &[&str], terminal: bool) -> Process {
    Process {
        args: args.iter().map(|&arg| arg.to_owned()).collect(),
        env: vec!["PATH=/bin".to_owned()],
        cwd: "/".to_owned(),
        terminal,
        user: User {
            name: String::new(),
            group: None,
            supplementary: vec![],
            merge_image_groups: false,
            non_root: false,
        },
        capabilities: capabilities::for_process(capabilities::default_set()),
        no_new_privs: true,
        rlimits: vec![],
        oom_score_adj: None,
        seccomp: None,
        apparmor: None,
    }
}

/// A detached file system of this size.
pub(crate) fn tmpfs(size: &str) -> OwnedFd {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    fsconfig_set_string(context.as_fd(), "size", size).unwrap();
    fsconfig_create(context.as_fd()).unwrap();
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).unwrap()
}

pub(crate) fn create(directory: &OwnedFd, name: &str) -> File {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::RUSR | Mode::WUSR).unwrap().into()
}

pub(crate) fn open_directory(directory: &OwnedFd) -> OwnedFd {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(directory, ".", flags, Mode::empty()).unwrap()
}

/// The log once the container is removed, so that nothing is written any more.
pub(crate) async fn drained(pod: &Pod, disk: &OwnedFd) -> String {
    loop {
        let mut text = String::new();
        create(disk, "0.log").read_to_string(&mut text).unwrap();
        if text.ends_with(" 3000\n") {
            return text;
        }
        pod.client().snapshot().await.unwrap();
    }
}

/// Descriptors and heap of the monitor.
pub(crate) fn held(pod: &Pod) -> (usize, String) {
    let process = format!("/proc/{}", pod.client().pid);
    let maps = fs::read_to_string(format!("{process}/maps")).unwrap();
    let heap = maps.lines().filter(|line| line.ends_with("[heap]")).collect();
    (fs::read_dir(format!("{process}/fd")).unwrap().count(), heap)
}

/// Until the monitor sleeps without a timeout.
pub(crate) fn wait_until_quiet(pid: u32) {
    // epoll_wait or epoll_pwait, the fourth argument is the timeout.
    let for_ever = |text: String| {
        text.starts_with(['2', '4']) && text.split(' ').nth(4).is_some_and(|timeout| timeout.ends_with("ffffffff"))
    };
    while !fs::read_to_string(format!("/proc/{pid}/syscall")).is_ok_and(for_ever) {
        std::thread::yield_now();
    }
}

/// User and system time.
pub(crate) fn cpu_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.split(' ').skip(13).take(2).map(|word| word.parse::<u64>().unwrap()).sum()
}
