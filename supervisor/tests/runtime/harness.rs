//! Runs one launch in a process of its own.
//!
//! `unshare` makes the namespaces and starts this test binary again with only the `helper` test, on its main thread. The
//! helper opens what the plan names, hands the monitor's end of the channel to the test over its standard input, and becomes
//! the container. So no test process ever forks, and the child sees what the monitor's child sees.

use std::fs;
use std::io::{IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType,
};
use serde::{Deserialize, Serialize};
use supervisor::monitor::channel::{self, ChildPlan, Report, Streams, Work};
use supervisor::runtime::launch::{
    Devices, FdSlot, Identity, Launch, LaunchError, Mount, MountOptions, MountSource, Process, Root, User,
};
use supervisor::runtime::{capabilities, child, seccomp, standard};
use tempfile::TempDir;

/// The descriptors of every plan here: the filter, the scratch directory, then the layers from the lowest on.
pub(crate) const FILTER_SLOT: FdSlot = FdSlot(0);
const SCRATCH_SLOT: FdSlot = FdSlot(1);
const FIRST_LAYER_SLOT: u8 = 2;

const BUSYBOX: &str = "/bin/busybox";
const NAMESPACE_VARIABLE: &str = "RUNTIME_TEST_NAMESPACE";
const PLAN_VARIABLE: &str = "RUNTIME_TEST_PLAN";

#[derive(Debug)]
pub(crate) struct Container {
    dir: TempDir,
    pub(crate) launch: Launch,
    pub(crate) filter: Vec<u8>,
    /// Shell text that runs the container with odd attributes.
    pub(crate) prefix: String,
    /// The monitor goes away instead of letting the process go.
    pub(crate) give_up: bool,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) identity: Option<Identity>,
    pub(crate) error: Option<LaunchError>,
    pub(crate) code: Option<i32>,
    /// With a terminal, what its master read.
    pub(crate) out: String,
    pub(crate) err: String,
}

#[derive(Serialize, Deserialize)]
struct Plan {
    dir: PathBuf,
    launch: Launch,
    layers: Vec<PathBuf>,
}

pub(crate) fn process(args: &[&str]) -> Process {
    Process {
        args: args.iter().map(|&arg| arg.to_owned()).collect(),
        env: vec![],
        cwd: "/".to_owned(),
        terminal: false,
        user: User {
            name: String::new(),
            group: None,
            supplementary: vec![],
            merge_image_groups: true,
            non_root: false,
        },
        capabilities: capabilities::for_process(capabilities::default_set()),
        no_new_privs: true,
        rlimits: vec![],
        oom_score_adj: None,
        seccomp: Some(FILTER_SLOT),
        apparmor: None,
    }
}

impl Container {
    /// With the default sandbox and a busybox image of one layer.
    pub(crate) fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "these tests need root");
        assert!(fs::exists(BUSYBOX).unwrap(), "these tests need {BUSYBOX} (Debian: busybox-static)");
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["layer/bin", "layer/etc", "layer/srv/web", "scratch/upper", "scratch/work", "volumes"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        let container = Self {
            launch: launch(false),
            filter: seccomp::runtime_default(capabilities::default_set()).unwrap(),
            prefix: String::new(),
            give_up: false,
            dir,
        };
        container.fill_image();
        container
    }

    /// Everything open, no filter.
    pub(crate) fn privileged() -> Self {
        let mut container = Self::new();
        container.launch = launch(true);
        container.launch.process.seccomp = None;
        container.launch.process.no_new_privs = false;
        container
    }

    fn fill_image(&self) {
        let bin = self.path("layer/bin");
        fs::copy(BUSYBOX, bin.join("busybox")).unwrap();
        for name in [
            "sh", "cat", "cut", "echo", "grep", "head", "id", "ip", "ls", "mkdir", "mount", "nsenter", "pwd",
            "readlink", "stat", "touch", "tr", "true", "tty", "unshare", "sleep", "ps", "wc", "chroot",
        ] {
            std::os::unix::fs::symlink("busybox", bin.join(name)).unwrap();
        }
        fs::write(bin.join("garbage"), "\u{1}\u{2}garbage").unwrap();
        fs::set_permissions(bin.join("garbage"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(self.path("layer/etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102::/srv/web:\n").unwrap();
        fs::write(self.path("layer/etc/group"), "root:x:0:\nweb:x:102:\nextra:x:200:web\n").unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A symbolic link in the image.
    pub(crate) fn link(&mut self, name: &str, target: &str) -> &mut Self {
        std::os::unix::fs::symlink(target, self.path("layer").join(name)).unwrap();
        self
    }

    /// A kept volume with files.
    pub(crate) fn volume(&mut self, name: &str, files: &[(&str, &str)]) -> &mut Self {
        let root = self.path("volumes").join(name);
        fs::create_dir_all(&root).unwrap();
        write_files(&root, files);
        self
    }

    /// One more layer, on top of the others.
    pub(crate) fn layer(&mut self, files: &[(&str, &str)]) -> &mut Self {
        let slot = FIRST_LAYER_SLOT + u8::try_from(self.launch.root.layers.len()).unwrap();
        let root = self.path(&format!("layer-{slot}"));
        fs::create_dir(&root).unwrap();
        write_files(&root, files);
        self.launch.root.layers.insert(0, FdSlot(slot));
        self
    }

    pub(crate) fn sh(&mut self, script: &str) -> Ran {
        self.run_program(&["/bin/sh", "-c", script])
    }

    pub(crate) fn run_program(&mut self, args: &[&str]) -> Ran {
        let (ours, mut started) = self.launch_program(args);
        let (identity, error, terminal) = self.follow(&ours);
        let out = terminal.map(read_terminal).unwrap_or_default();
        let code = started.wait().unwrap().code();
        self.ran(identity, error, code, out)
    }

    /// Runs `process` inside the container while its first process waits for it to end.
    pub(crate) fn exec(&mut self, process: Process) -> Ran {
        let (ours, first) = self.launch_program(&["/bin/sleep", "1000"]);
        let (_, error, _) = self.follow(&ours);
        assert_eq!(error, None, "the container did not start");
        let parent = first.id();
        let pid = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
        let pid = pid.trim();
        let first = KilledOnDrop(first, rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap());
        self.launch.process = process;
        self.write_plan();
        let (ours, theirs) = socket_pair();
        let mut started = self.start_exec(pid, theirs);
        let (identity, error, terminal) = self.follow(&ours);
        let out = terminal.map(read_terminal).unwrap_or_default();
        let code = started.wait().unwrap().code();
        drop(first);
        self.ran(identity, error, code, out)
    }

    fn launch_program(&mut self, args: &[&str]) -> (OwnedFd, Child) {
        self.launch.process.args = args.iter().map(|&arg| arg.to_owned()).collect();
        self.write_plan();
        let (ours, theirs) = socket_pair();
        (ours, self.start(theirs))
    }

    /// Plays the monitor until the exec.
    fn follow(&self, ours: &OwnedFd) -> (Option<Identity>, Option<LaunchError>, Option<OwnedFd>) {
        let monitor = receive_channel(ours);
        let (identity, terminal) = match receive_report(&monitor) {
            Some((Report::Prepared(identity), terminal)) => (identity, terminal),
            Some((Report::Failed(error), _)) => return (None, Some(error), None),
            None => return (None, None, None),
        };
        if self.give_up {
            return (Some(identity), None, None);
        }
        rustix::net::send(&monitor, b"g", SendFlags::NOSIGNAL).unwrap();
        let error = receive_report(&monitor).map(|(report, _)| match report {
            Report::Failed(error) => error,
            Report::Prepared(_) => panic!("prepared twice"),
        });
        (Some(identity), error, terminal)
    }

    fn ran(&self, identity: Option<Identity>, error: Option<LaunchError>, code: Option<i32>, mut out: String) -> Ran {
        out.push_str(&fs::read_to_string(self.path("out")).unwrap());
        Ran { identity, error, code, out, err: fs::read_to_string(self.path("err")).unwrap() }
    }

    /// Runs a test of this (static) binary inside the container.
    pub(crate) fn probe(&mut self, test: &str) -> Ran {
        fs::copy(std::env::current_exe().unwrap(), self.path("layer/bin/probe")).unwrap();
        self.run_program(&["/bin/probe", "--exact", test, "--ignored", "--nocapture", "--test-threads=1"])
    }

    fn write_plan(&self) {
        let layers = (0..self.launch.root.layers.len()).map(|index| match index {
            0 => self.path("layer"),
            index => self.path(&format!("layer-{}", index + usize::from(FIRST_LAYER_SLOT))),
        });
        let plan = Plan { dir: self.path(""), launch: self.launch.clone(), layers: layers.collect() };
        fs::write(self.path("plan"), serde_json::to_vec(&plan).unwrap()).unwrap();
        fs::write(self.path("filter"), &self.filter).unwrap();
        for name in ["out", "err"] {
            fs::write(self.path(name), "").unwrap();
        }
    }

    #[expect(clippy::disallowed_methods, reason = "a test may start programs")]
    fn start(&self, stdin: OwnedFd) -> Child {
        let prefix = if self.prefix.is_empty() { "exec \"$@\"" } else { &self.prefix };
        let namespaces = ["unshare", "-m", "-n", "-i", "-u", "-C", "-p", "--fork", "--kill-child"];
        let setup = "echo pod > /proc/sys/kernel/hostname; exec \"$@\"";
        std::process::Command::new("sh")
            .args(["-c", prefix, "sh"])
            .args(namespaces)
            .args(["sh", "-c", setup, "sh"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "helper", "--ignored", "--nocapture", "--test-threads=1"])
            .env(PLAN_VARIABLE, self.path("plan"))
            .stdin(Stdio::from(stdin))
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }
}

impl Container {
    #[expect(clippy::disallowed_methods, reason = "a test may start programs")]
    fn start_exec(&self, pid: &str, stdin: OwnedFd) -> Child {
        std::process::Command::new("nsenter")
            .args(["-t", pid, "-n", "-i", "-u", "-C", "-p"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "exec_helper", "--ignored", "--nocapture", "--test-threads=1"])
            .env(PLAN_VARIABLE, self.path("plan"))
            .env(NAMESPACE_VARIABLE, format!("/proc/{pid}/ns/mnt"))
            .stdin(Stdio::from(stdin))
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }
}

/// Runs a test of this binary where its mounts end with it.
#[expect(clippy::disallowed_methods, reason = "a test may start programs")]
pub(crate) fn in_new_mount_namespace(test: &str) -> std::process::Output {
    std::process::Command::new("unshare")
        .arg("-m")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"])
        .output()
        .unwrap()
}

/// A container that ends with the test, also when that fails: `unshare`, and the process that it waits for.
struct KilledOnDrop(Child, rustix::process::Pid);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        rustix::process::kill_process(self.1, rustix::process::Signal::KILL).unwrap();
        self.0.wait().unwrap();
    }
}

fn write_files(root: &std::path::Path, files: &[(&str, &str)]) {
    for (name, content) in files {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}

fn launch(privileged: bool) -> Launch {
    let mut mounts = standard::mounts(privileged);
    mounts.push(Mount {
        target: "/dev/shm".to_owned(),
        source: MountSource::Tmpfs { size_bytes: 64 << 20, mode: 0o1777 },
        options: MountOptions { nosuid: true, nodev: true, noexec: true, ..MountOptions::default() },
    });
    Launch {
        root: Root { layers: vec![FdSlot(FIRST_LAYER_SLOT)], scratch: SCRATCH_SLOT, read_only: false },
        mounts,
        devices: if privileged { Devices::Host } else { Devices::Default },
        masked_paths: if privileged { vec![] } else { standard::masked_paths(2) },
        read_only_paths: if privileged { vec![] } else { standard::read_only_paths() },
        process: process(&[]),
    }
}

fn socket_pair() -> (OwnedFd, OwnedFd) {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
}

fn receive(socket: &OwnedFd) -> (Vec<u8>, Option<OwnedFd>) {
    let mut text = vec![0; channel::MAX_REPORT_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message =
        rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut text)], &mut control, RecvFlags::CMSG_CLOEXEC);
    // A child that ended with unread data resets the connection.
    let bytes = message.map_or(0, |message| message.bytes);
    let fd = control
        .drain()
        .find_map(|message| if let RecvAncillaryMessage::ScmRights(mut fds) = message { fds.next() } else { None });
    text.truncate(bytes);
    (text, fd)
}

/// The monitor's end of the channel, made blocking.
fn receive_channel(socket: &OwnedFd) -> OwnedFd {
    let (_, fd) = receive(socket);
    let fd = fd.expect("the helper ended before it sent its channel");
    rustix::io::ioctl_fionbio(&fd, false).unwrap();
    fd
}

fn receive_report(monitor: &OwnedFd) -> Option<(Report, Option<OwnedFd>)> {
    let (text, fd) = receive(monitor);
    (!text.is_empty()).then(|| (serde_json::from_slice(&text).unwrap(), fd))
}

/// Until the last process that has the terminal open is gone (EIO).
fn read_terminal(master: OwnedFd) -> String {
    let mut out = String::new();
    let mut file = fs::File::from(master);
    let mut buffer = [0; 4096];
    while let Ok(bytes @ 1..) = file.read(&mut buffer) {
        out.push_str(&String::from_utf8_lossy(&buffer[..bytes]));
    }
    out
}

/// In the helper: never returns unless something before the launch fails.
pub(crate) fn become_container() {
    let plan = read_plan();
    let mut fds = vec![open(&plan.dir.join("filter")), open(&plan.dir.join("scratch"))];
    fds.extend(plan.layers.iter().map(|layer| open(layer)));
    let launch = memfd(&serde_json::to_vec(&plan.launch).unwrap());
    std::env::set_current_dir(plan.dir.join("volumes")).unwrap();
    hand_over(&plan, &fds, Work::Container { launch: launch.as_fd() });
}

/// As [`become_container`], in the mount namespace of the process that the environment names.
pub(crate) fn become_exec() {
    let plan = read_plan();
    let fds = [open(&plan.dir.join("filter"))];
    let process = memfd(&serde_json::to_vec(&plan.launch.process).unwrap());
    let namespace = std::env::var(NAMESPACE_VARIABLE).unwrap();
    let namespace = open(std::path::Path::new(&namespace));
    JOIN.set(namespace).unwrap();
    hand_over(&plan, &fds, Work::Exec { process: process.as_fd() });
}

/// The mount namespace to join once nothing more is needed of the host.
static JOIN: std::sync::OnceLock<OwnedFd> = std::sync::OnceLock::new();

fn read_plan() -> Plan {
    serde_json::from_slice(&fs::read(std::env::var_os(PLAN_VARIABLE).unwrap()).unwrap()).unwrap()
}

fn memfd(bytes: &[u8]) -> OwnedFd {
    let memfd = rustix::fs::memfd_create("plan", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::io::write(&memfd, bytes).unwrap();
    memfd
}

fn hand_over(plan: &Plan, fds: &[OwnedFd], work: Work<'_>) {
    let (monitor, child) = channel::pair().unwrap();
    let sent = [monitor.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&sent));
    let stdin = std::io::stdin();
    rustix::net::sendmsg(stdin.as_fd(), &[IoSlice::new(b"c")], &mut control, SendFlags::NOSIGNAL).unwrap();
    drop(monitor);
    let stream = |name: &str| OwnedFd::from(fs::File::options().append(true).open(plan.dir.join(name)).unwrap());
    let (null, out, err) = (open(std::path::Path::new("/dev/null")), stream("out"), stream("err"));
    let streams = if plan.launch.process.terminal {
        Streams::Terminal
    } else {
        Streams::Given { stdin: null.as_fd(), stdout: out.as_fd(), stderr: err.as_fd() }
    };
    if let Some(namespace) = JOIN.get() {
        // The harness's main thread shares our working directory, which the kernel does not allow for this.
        #[expect(deprecated, reason = "the flag FS does not touch descriptors")]
        rustix::thread::unshare(rustix::thread::UnshareFlags::FS).unwrap();
        let mount = rustix::thread::LinkNameSpaceType::Mount;
        rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(mount)).unwrap();
    }
    child::run(&ChildPlan { work, fds, streams, users: None }, child)
}

fn open(path: &std::path::Path) -> OwnedFd {
    OwnedFd::from(fs::File::open(path).unwrap())
}
