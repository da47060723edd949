//! `cgroupd` on a real cgroup v2 with all controllers: the files byte for byte, updates, removal, an OOM kill.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use cgroupd::parse::MemoryEvents;
use cgroupd::plan::{self, Change};
use cgroupd::qos::qos_class;
use cgroupd::{
    CgroupPath, ContainerCgroup, ContainerKind, ContainerResources, PodCgroup, PodResources, PodUid, Policy, QosClass,
    Quantity, Requirements, Resource, Setting, Tree, files, host,
};

use crate::{Test, tests};

pub fn tests() -> Vec<Test> {
    tests![Vm: files_hold_what_the_table_says, an_update_changes_the_files, a_removed_pod_leaves_nothing,
        a_process_over_its_limit_is_killed_and_counted]
}

const ROOT: &str = "/sys/fs/cgroup";
const UID: &str = "6f1f4d1e-0c7e-4d0e-9d3b-000000000001";

/// `cpu` in thousandths and `memory` in bytes.
type Amounts<'a> = &'a [(Resource, u64)];

fn requirements(requests: Amounts<'_>, limits: Amounts<'_>) -> Requirements {
    let mut all = Requirements::default();
    for (list, amounts) in [(&mut all.requests, requests), (&mut all.limits, limits)] {
        for (resource, amount) in amounts {
            let cpu = matches!(resource, Resource::Cpu);
            let quantity = if cpu { Quantity::from_millis(*amount) } else { Quantity::from_bytes(*amount) };
            list.set(resource.clone(), quantity);
        }
    }
    all
}

/// A pod with one container in the machine's own tree; dropped with everything below.
struct Pod {
    tree: Tree,
    cgroup: PodCgroup,
    leaf: ContainerCgroup,
    resources: PodResources,
    policy: Policy,
}

impl Pod {
    fn create(resources: Requirements) -> Result<Self> {
        let mut resources = PodResources {
            containers: vec![ContainerResources { kind: ContainerKind::App, resources }],
            ..PodResources::default()
        };
        resources.set_defaults();
        let policy = Policy { page_sizes: host::page_sizes()?, ..Policy::default() };
        let cgroup = PodCgroup { uid: PodUid::new(UID)?, qos: qos_class(&resources) };
        let leaf = cgroup.leaf("app")?;
        let pod = Self { tree: Tree::open(Path::new(ROOT))?, cgroup, leaf, resources, policy };
        ensure!(host::missing_controllers(pod.tree.usable()).is_empty(), "controllers are missing");
        for qos in [QosClass::Guaranteed, QosClass::Burstable, QosClass::BestEffort] {
            let settings = files::qos_level(qos, 0, &pod.policy);
            none_left_out(&pod.tree.create_level(&CgroupPath::qos(qos), &settings)?)?;
        }
        none_left_out(&pod.tree.create_pod(&pod.cgroup, &pod.pod_settings())?)?;
        none_left_out(&pod.tree.create_container(&pod.leaf, &pod.container_settings()?)?.unenforced)?;
        Ok(pod)
    }

    fn pod_settings(&self) -> Vec<Setting> {
        files::pod(&self.resources, self.cgroup.qos, &self.policy)
    }

    fn container_settings(&self) -> Result<Vec<Setting>> {
        let own = self.resources.containers.first().context("the container")?;
        Ok(files::container(&self.resources, &own.resources, &self.policy))
    }

    fn dir(&self) -> PathBuf {
        Path::new(ROOT).join(self.cgroup.path().to_string())
    }

    fn leaf_dir(&self) -> PathBuf {
        Path::new(ROOT).join(self.leaf.path().to_string())
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if let Err(error) = self.tree.remove(&self.cgroup.path()) {
            eprintln!("remove the test's pod: {error}");
        }
    }
}

fn none_left_out(unenforced: &[cgroupd::Unenforced]) -> Result<()> {
    ensure!(unenforced.is_empty(), "not enforced: {unenforced:?}");
    Ok(())
}

fn read(dir: &Path, name: &str) -> Result<String> {
    let path = dir.join(name);
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    Ok(text.trim_end_matches('\n').to_owned())
}

/// Every named file of a directory against its expected bytes.
fn check(dir: &Path, expected: &[(&str, &str)]) -> Result<()> {
    for (name, expected) in expected {
        let found = read(dir, name)?;
        ensure!(found == *expected, "{}/{name} holds {found:?} instead of {expected:?}", dir.display());
    }
    Ok(())
}

const CPU: Resource = Resource::Cpu;
const MEMORY: Resource = Resource::Memory;
const MIB: u64 = 1 << 20;

/// CG2 to CG10: one pod of each class.
fn files_hold_what_the_table_says() -> Result<()> {
    let burstable = requirements(&[(CPU, 250), (MEMORY, 64 * MIB)], &[(CPU, 500), (MEMORY, 128 * MIB)]);
    let guaranteed = requirements(&[], &[(CPU, 1500), (MEMORY, 32 * MIB)]);
    let table = [
        (burstable, "kubepods/burstable/pod", ["35", "50000 100000", "134217728"]),
        (guaranteed, "kubepods/pod", ["138", "150000 100000", "33554432"]),
        (Requirements::default(), "kubepods/besteffort/pod", ["1", "max 100000", "max"]),
    ];
    for (resources, path, [weight, cpu_max, memory_max]) in table {
        let pod = Pod::create(resources)?;
        ensure!(pod.dir() == Path::new(ROOT).join(format!("{path}{UID}")), "the pod is in {}", pod.dir().display());
        let both = [("cpu.weight", weight), ("cpu.max", cpu_max), ("memory.max", memory_max), ("hugetlb.2MB.max", "0")];
        check(&pod.dir(), &both)?;
        check(&pod.dir(), &[("pids.max", "4096"), ("memory.oom.group", "0"), ("memory.high", "max")])?;
        check(&pod.leaf_dir(), &both)?;
        check(&pod.leaf_dir(), &[("memory.swap.max", "0"), ("memory.oom.group", "1"), ("pids.max", "max")])?;
    }
    Ok(())
}

/// RZ5: down and up again, in place.
fn an_update_changes_the_files() -> Result<()> {
    let pod = Pod::create(requirements(&[], &[(CPU, 500), (MEMORY, 64 * MIB)]))?;
    let pod_before = pod.pod_settings();
    let leaf_before = pod.container_settings()?;
    let mut wanted = pod.resources.clone();
    let container = wanted.containers.first_mut().context("the container")?;
    container.resources = requirements(&[], &[(CPU, 250), (MEMORY, 128 * MIB)]);
    wanted.set_defaults();
    let own = wanted.containers.first().context("the container")?;
    let pod_change =
        Change { dir: pod.cgroup.path(), from: pod_before, to: files::pod(&wanted, pod.cgroup.qos, &pod.policy) };
    let leaf_change =
        Change { dir: pod.leaf.path(), from: leaf_before, to: files::container(&wanted, &own.resources, &pod.policy) };
    none_left_out(&pod.tree.execute(&plan::update(&pod_change, &[leaf_change]))?)?;
    for dir in [pod.dir(), pod.leaf_dir()] {
        check(&dir, &[("cpu.weight", "35"), ("cpu.max", "25000 100000"), ("memory.max", "134217728")])?;
    }
    Ok(())
}

fn a_removed_pod_leaves_nothing() -> Result<()> {
    let pod = Pod::create(Requirements::default())?;
    let mut sleeper = Command::new("sleep").arg("1000").spawn().context("start sleep")?;
    std::fs::write(pod.leaf_dir().join("cgroup.procs"), sleeper.id().to_string()).context("move the process")?;
    let dir = pod.dir();
    pod.tree.remove(&pod.cgroup.path())?;
    ensure!(!dir.exists(), "{} is still there", dir.display());
    let status = sleeper.wait()?;
    ensure!(std::os::unix::process::ExitStatusExt::signal(&status) == Some(9), "the process ended with {status}");
    ensure!(pod.tree.list()?.is_empty(), "pods are left: {:?}", pod.tree.list()?);
    Ok(())
}

/// CG6: a process that takes more than `memory.max` ends with SIGKILL, and the cgroup's counter says why.
fn a_process_over_its_limit_is_killed_and_counted() -> Result<()> {
    let pod = Pod::create(requirements(&[], &[(CPU, 1000), (MEMORY, 16 * MIB)]))?;
    let events = || Ok::<_, anyhow::Error>(MemoryEvents::parse(&pod.tree.read(&pod.leaf.path(), "memory.events")?)?);
    let before = events()?;
    // tail keeps the last line, which never ends here.
    let script = "echo $$ > \"$1/cgroup.procs\" && exec tail /dev/zero";
    let mut hungry = Command::new("sh");
    hungry.args(["-c", script, "sh"]).arg(pod.leaf_dir());
    let status = hungry.status().context("start sh")?;
    ensure!(std::os::unix::process::ExitStatusExt::signal(&status) == Some(9), "the process ended with {status}");
    let after = events()?;
    ensure!(after.oom_killed_since(&before), "{after:?} after {before:?}");
    // The kernel counts the victim twice when it kills the group.
    ensure!(after.oom_group_kill == before.oom_group_kill + 1, "{after:?} after {before:?}");
    ensure!(read(&pod.leaf_dir(), "cgroup.procs")?.is_empty(), "processes are left");
    Ok(())
}
