//! Against the kernel's own cgroup2 (needs root and a mounted cgroup2), and against a lookalike for the values.

use std::process::{Child, Command, Stdio};
use std::sync::RwLock;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec};

use super::dir::remove_children;
use super::*;
use crate::convert::Limit;
use crate::files::{File, Origin, Value};
use crate::host::Host;
use crate::parse::CgroupEvents;
use crate::qos::QosClass;
use crate::watch::{Change, EventFile, Watch};

/// A subtree of the real hierarchy with a name of its own, removed at the end.
struct Fixture {
    tree: Tree,
    parent: PathBuf,
}

impl Fixture {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mount = Host::detect().expect("mountinfo").mount_point.expect("these tests need a mounted cgroup2");
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let parent = mount.join(format!("cgroupd-test-{}-{number}", std::process::id()));
        std::fs::create_dir(&parent).expect("these tests need root");
        Self { tree: Tree::open(&parent).expect("tree"), parent }
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.tree.remove(&CgroupPath::kubepods()).expect("remove kubepods");
        std::fs::remove_dir(&self.parent).expect("the subtree is empty again");
    }
}

/// Children are born in the cgroup of the test process, so none is started while that one moves around.
static OWN_CGROUP: RwLock<()> = RwLock::new(());

/// A process that is ended with the test.
struct Sleeper(Child);

impl Sleeper {
    #[expect(clippy::disallowed_methods, reason = "a test needs a process")]
    fn inside(tree: &Tree, path: &CgroupPath) -> Self {
        let _stays = OWN_CGROUP.read().expect("no test failed while moving");
        let child = Command::new("sleep").arg("600").stdout(Stdio::null()).spawn().expect("sleep");
        let dir = tree.open_dir(path).expect("leaf");
        tree.write_file(dir.as_fd(), "leaf", "cgroup.procs", &child.id().to_string()).expect("enter");
        Self(child)
    }

    fn signal(mut self) -> Option<i32> {
        use std::os::unix::process::ExitStatusExt;
        self.0.wait().expect("wait").signal()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.0.kill().expect("kill");
        self.0.wait().expect("wait");
    }
}

fn pod(uid: &str, qos: QosClass) -> PodCgroup {
    PodCgroup { uid: PodUid::new(uid).expect("uid"), qos }
}

fn setting(file: File, value: Value) -> Setting {
    Setting { file, value, origin: Origin::Manifest }
}

fn memory_max(bytes: u64) -> Setting {
    setting(File::MemoryMax, Value::Limit(Limit::Value(bytes)))
}

#[test]
fn a_pod_and_its_leaves_can_be_made_and_removed_twice() {
    let fixture = Fixture::new();
    let pod = pod("a", QosClass::Burstable);
    let leaf = pod.leaf("c1").expect("id");
    for _ in 0..2 {
        fixture.tree.create_pod(&pod, &[]).expect("pod");
        fixture.tree.create_sandbox(&pod.leaf("s1").expect("id")).expect("sandbox");
        fixture.tree.create_container(&leaf, &[]).expect("container");
    }
    let expected = [pod.path(), leaf.path(), pod.leaf("s1").expect("id").path()];
    assert_eq!(fixture.tree.list().expect("list"), expected);
    for _ in 0..2 {
        fixture.tree.remove(&leaf.path()).expect("remove leaf");
        fixture.tree.remove(&pod.path()).expect("remove pod");
    }
    assert_eq!(fixture.tree.list().expect("list"), []);
}

#[test]
fn removing_a_pod_ends_everything_in_it_however_deep() {
    let fixture = Fixture::new();
    let pod = pod("a", QosClass::Guaranteed);
    fixture.tree.create_pod(&pod, &[]).expect("pod");
    let leaf = pod.leaf("c").expect("id");
    fixture.tree.create_container(&leaf, &[]).expect("container");
    let nested = leaf.path().child("made-by-the-container").expect("name");
    fixture.tree.execute(&[Step::Mkdir(nested.clone())]).expect("nested");
    let sleepers = [&leaf.path(), &nested].map(|path| Sleeper::inside(&fixture.tree, path));
    fixture.tree.remove(&pod.path()).expect("remove");
    assert_eq!(sleepers.map(Sleeper::signal), [Some(9), Some(9)]);
    assert_eq!(fixture.tree.list().expect("list"), []);
}

#[test]
fn a_kernel_without_cgroup_kill_is_served_by_signals() {
    let fixture = Fixture::new();
    let pod = pod("a", QosClass::BestEffort);
    fixture.tree.create_pod(&pod, &[]).expect("pod");
    let leaf = pod.leaf("c").expect("id").path();
    fixture.tree.execute(&[Step::Mkdir(leaf.clone())]).expect("leaf");
    let sleeper = Sleeper::inside(&fixture.tree, &leaf);
    let dir = fixture.tree.open_dir(&pod.path()).expect("dir");
    fixture.tree.kill_by_signals(dir.as_fd(), "pod").expect("kill");
    assert_eq!(sleeper.signal(), Some(9));
}

#[test]
fn a_frozen_container_stands_until_it_is_thawed_or_killed() {
    let fixture = Fixture::new();
    let pod = pod("a", QosClass::Burstable);
    let leaf = pod.leaf("c").expect("id").path();
    fixture.tree.create_pod(&pod, &[]).expect("pod");
    fixture.tree.execute(&[Step::Mkdir(leaf.clone())]).expect("leaf");
    let sleeper = Sleeper::inside(&fixture.tree, &leaf);
    let events = || CgroupEvents::parse(&fixture.tree.read(&leaf, "cgroup.events").expect("read")).expect("parse");
    fixture.tree.freeze(&leaf).expect("freeze");
    assert_eq!(events(), CgroupEvents { populated: true, frozen: true });
    fixture.tree.thaw(&leaf).expect("thaw");
    assert!(!events().frozen);
    fixture.tree.freeze(&leaf).expect("freeze");
    fixture.tree.kill(&leaf).expect("kill");
    assert_eq!(sleeper.signal(), Some(9));
}

#[test]
fn the_watch_reports_that_a_cgroup_filled_and_ran_empty() {
    let fixture = Fixture::new();
    let pod = pod("a", QosClass::Burstable);
    fixture.tree.create_pod(&pod, &[]).expect("pod");
    let created = fixture.tree.create_container(&pod.leaf("c").expect("id"), &[]).expect("container");
    let leaf = pod.leaf("c").expect("id").path();
    let mut watch = Watch::new().expect("watch");
    watch.add(created.dir.as_fd(), EventFile::CgroupEvents, 7).expect("add");
    assert_eq!(watch.read().expect("nothing"), []);
    let file = EventFile::CgroupEvents;
    let sleeper = Sleeper::inside(&fixture.tree, &leaf);
    wait_for_change(&mut watch, Change::Changed { key: 7, file });
    fixture.tree.kill(&leaf).expect("kill");
    wait_for_change(&mut watch, Change::Changed { key: 7, file });
    assert_eq!(sleeper.signal(), Some(9));
    watch.remove(7);
    fixture.tree.remove(&leaf).expect("remove");
    assert_eq!(watch.read().expect("nothing more"), []);
}

fn wait_for_change(watch: &mut Watch<u32>, expected: Change<u32>) {
    let limit = Timespec { tv_sec: 10, tv_nsec: 0 };
    loop {
        let ready = rustix::event::poll(&mut [PollFd::new(watch, PollFlags::IN)], Some(&limit)).expect("poll");
        assert_eq!(ready, 1, "no {expected:?} within 10 s");
        if watch.read().expect("read").contains(&expected) {
            return;
        }
    }
}

#[test]
fn a_sweep_removes_only_pods_that_nobody_wants() {
    let fixture = Fixture::new();
    for (uid, qos) in [("keep", QosClass::Burstable), ("drop1", QosClass::Guaranteed), ("drop2", QosClass::BestEffort)]
    {
        fixture.tree.create_pod(&pod(uid, qos), &[]).expect("pod");
    }
    let foreign = CgroupPath::kubepods().child("foreign").expect("name");
    fixture.tree.execute(&[Step::Mkdir(foreign.clone())]).expect("foreign");
    let swept = fixture.tree.sweep(|uid| uid.as_str() == "keep");
    assert!(swept.errors.is_empty(), "{:?}", swept.errors);
    assert_eq!(swept.removed.len(), 2);
    assert_eq!(fixture.tree.list().expect("list"), [pod("keep", QosClass::Burstable).path()]);
    fixture.tree.open_dir(&foreign).expect("not ours");
}

/// A limit is never dropped in silence; what the kernel does anyway is no limit.
#[test]
fn what_this_host_cannot_enforce_is_named() {
    let fixture = Fixture::new();
    let pod = pod("a", QosClass::Burstable);
    let cpu_max = setting(File::CpuMax, Value::Bandwidth(Limit::Max));
    let wanted = [memory_max(1 << 30), cpu_max];
    let unenforced = fixture.tree.create_pod(&pod, &wanted).expect("pod");
    if fixture.tree.usable().contains(&Controller::Memory) {
        assert_eq!(unenforced, []);
        assert_eq!(fixture.tree.read(&pod.path(), "memory.max").expect("read"), "1073741824\n");
    } else {
        let texts: Vec<_> = unenforced.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["memory.max = 1073741824 is not enforced: cgroup2 has no memory controller here"]);
    }
}

#[test]
fn a_controller_that_is_usable_here_gets_its_value() {
    let fixture = Fixture::new();
    let size = crate::host::page_sizes().expect("page sizes").first().copied();
    let (Some(size), true) = (size, fixture.tree.usable().contains(&Controller::Hugetlb)) else {
        eprintln!("precondition missing: no hugetlb controller on this host's cgroup2");
        return;
    };
    let pod = pod("a", QosClass::Burstable);
    let limit = setting(File::HugetlbMax(size), Value::Limit(Limit::Value(0)));
    assert_eq!(fixture.tree.create_pod(&pod, &[limit]).expect("pod"), []);
    let leaf = pod.leaf("c").expect("id");
    assert_eq!(fixture.tree.create_container(&leaf, &[limit]).expect("leaf").unenforced, []);
    assert_eq!(fixture.tree.read(&leaf.path(), &limit.file.to_string()).expect("read"), "0\n");
}

#[test]
fn a_failed_plan_leaves_nothing_behind_and_names_file_and_value() {
    let dir = tempfile::tempdir().expect("tempdir");
    let tree = Tree::open_lookalike(dir.path(), Controllers::from([Controller::Memory])).expect("tree");
    let leaf = pod("a", QosClass::Guaranteed).leaf("c").expect("id");
    let error = tree.create_container(&leaf, &[]).expect_err("the pod is missing");
    assert!(error.to_string().ends_with("/kubepods/poda/c)"), "{error}");
    let mut steps = plan::create_pod(leaf.pod(), &[]);
    let missing = CgroupPath::kubepods().child("missing").expect("name");
    steps.push(Step::Write { dir: missing, setting: memory_max(5) });
    tree.execute(&steps).expect_err("nobody made it");
    assert_eq!(std::fs::read_dir(dir.path()).expect("read_dir").count(), 0);
}

#[test]
fn values_are_written_as_the_kernel_reads_them() {
    let dir = tempfile::tempdir().expect("tempdir");
    let usable = Controllers::from([Controller::Memory, Controller::Cpu]);
    let tree = Tree::open_lookalike(dir.path(), usable).expect("tree");
    let pod = pod("a", QosClass::Guaranteed);
    let pids = setting(File::PidsMax, Value::Limit(Limit::Value(9)));
    let cpu_max = setting(File::CpuMax, Value::Bandwidth(Limit::Value(50_000)));
    let unenforced = tree.create_pod(&pod, &[memory_max(5), cpu_max, pids]).expect("pod");
    assert_eq!(tree.read(&pod.path(), "memory.max").expect("read"), "5");
    assert_eq!(tree.read(&pod.path(), "cpu.max").expect("read"), "50000 100000");
    let why = Why::ControllerMissing(Controller::Pids);
    assert_eq!(unenforced, [Unenforced { dir: pod.path(), setting: pids, why }]);
}

#[test]
fn a_write_error_names_file_and_value() {
    let fixture = Fixture::new();
    let dir = fixture.tree.root.as_fd();
    let error = fixture.tree.write_file(dir, "root", "cgroup.freeze", "maybe").expect_err("no number");
    assert_eq!(error.to_string(), r#"write(root/cgroup.freeze, "maybe")"#);
}

#[test]
fn another_filesystem_is_refused() {
    let dir = tempfile::tempdir().expect("tempdir");
    assert!(matches!(Tree::open(dir.path()), Err(TreeError::NotCgroup2 { .. })));
}

/// A directory with processes cannot give controllers to its children.
#[test]
fn a_controller_that_the_kernel_refuses_is_named() {
    let fixture = Fixture::new();
    if !fixture.tree.usable().contains(&Controller::Hugetlb) {
        eprintln!("precondition missing: no hugetlb controller on this host's cgroup2");
        return;
    }
    let size = crate::host::page_sizes().expect("page sizes").first().copied().expect("a size");
    let _moves = OWN_CGROUP.write().expect("no test failed while moving");
    let home = crate::host::own_cgroup_dir().expect("own cgroup").expect("cgroup2");
    fixture.tree.enter_daemon_leaf().expect("enter");
    let own = std::fs::read_to_string("/proc/self/cgroup").expect("own cgroup");
    assert!(crate::host::own_cgroup(&own).is_some_and(|path| path.ends_with("/daemon")), "{own}");
    fixture.tree.write_file(fixture.tree.root.as_fd(), "root", "cgroup.procs", "0").expect("into the root");
    let pod = pod("a", QosClass::Burstable);
    let limit = setting(File::HugetlbMax(size), Value::Limit(Limit::Value(0)));
    let unenforced = fixture.tree.create_pod(&pod, &[limit]);
    std::fs::write(home.join("cgroup.procs"), "0").expect("home again");
    std::fs::remove_dir(fixture.parent.join(DAEMON_LEAF)).expect("remove the leaf");
    let whys: Vec<_> = unenforced.expect("pod").into_iter().map(|unenforced| unenforced.why).collect();
    assert_eq!(whys, [Why::NotEnabled(Controller::Hugetlb, Errno::BUSY)]);
}

#[test]
fn large_files_and_deep_trees_are_refused() {
    let dir = tempfile::tempdir().expect("tempdir");
    let tree = Tree::open_lookalike(dir.path(), Controllers::new()).expect("tree");
    let full = " ".repeat(FILE_BYTES_MAX);
    for (content, fits) in [(full.clone(), true), (full + " ", false)] {
        std::fs::write(dir.path().join("large"), content).expect("write");
        let result = read_file(tree.root.as_fd(), "root", "large");
        assert_eq!(matches!(result, Err(TreeError::Content { .. })), !fits);
    }
    let deepest = |depth: usize| dir.path().join(vec!["d"; depth].join("/"));
    for (depth, fits) in [(DEPTH_MAX - 1, true), (DEPTH_MAX, false)] {
        std::fs::create_dir_all(deepest(depth)).expect("nested");
        let result = remove_children(tree.root.as_fd(), "root", DEPTH_MAX);
        assert_eq!(matches!(result, Err(TreeError::TooDeep { .. })), !fits, "{result:?}");
    }
}

#[test]
fn levels_can_be_made_before_their_pods() {
    let fixture = Fixture::new();
    for qos in QosClass::ALL {
        fixture.tree.create_level(&CgroupPath::qos(qos), &[]).expect("level");
        fixture.tree.open_dir(&CgroupPath::qos(qos)).expect("exists");
    }
    assert_eq!(fixture.tree.list().expect("list"), []);
}

/// RZ5, RZ6: up and down in place; what this host lacks is passed over, and nothing falls below what is used.
#[test]
fn limits_change_while_the_container_runs() {
    let dir = std::env::temp_dir().join(format!("cgroupd-resize-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("directory");
    let tree = Tree::open_lookalike(&dir, Controller::ALL.into_iter().collect()).expect("tree");
    let pod = PodCgroup { uid: PodUid::new("u").expect("uid"), qos: QosClass::Burstable };
    let leaf = pod.leaf("c").expect("id");
    let memory = |bytes: u64| {
        vec![Setting { file: File::MemoryMax, value: Value::Limit(Limit::Value(bytes)), origin: Origin::Manifest }]
    };
    tree.create_pod(&pod, &memory(100)).expect("pod");
    drop(tree.create_container(&leaf, &memory(100)).expect("container"));
    let one = |bytes| vec![Resized { leaf: leaf.clone(), name: "c".to_owned(), settings: memory(bytes) }];
    let shown = || {
        let read = |path: &CgroupPath| tree.read(path, "memory.max").expect("memory.max");
        (read(&pod.path()), read(&leaf.path()))
    };
    assert_eq!(tree.resize(&pod, &memory(300), &one(200), true).expect("up"), []);
    assert_eq!(shown(), ("300".to_owned(), "200".to_owned()));
    tree.resize(&pod, &memory(50), &[], false).expect("the pod does not fall yet");
    assert_eq!(shown(), ("300".to_owned(), "200".to_owned()));
    std::fs::write(dir.join(pod.path().to_string()).join("memory.current"), "80\n").expect("usage");
    let refused = tree.resize(&pod, &memory(50), &one(50), true).expect_err("it uses more");
    assert_eq!(refused.to_string(), "attempting to set pod memory limit (50) below current usage (80)");
    tree.resize(&pod, &memory(90), &one(90), true).expect("down");
    assert_eq!(shown(), ("90".to_owned(), "90".to_owned()));
    std::fs::remove_dir_all(&dir).expect("cleanup");
}
