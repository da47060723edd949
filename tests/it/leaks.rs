//! What a test left behind on its machine: processes, mounts, links, cgroups, network namespaces, nftables, files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal};

use crate::vm_nft as nft;

/// Where the runner keeps a test's output.
pub const RUNNERS_LOG: &str = "/run/test.log";

/// Directories in which every file counts, however deep.
const WATCHED: &[&str] =
    &["/run", "/tmp", "/dev/shm", "/dev/mqueue", "/var/lib/monopod/scratch", "/var/log/pods", "/var/log/containers"];

/// What stays on purpose: the runner's own log, directories and locks that a first pod makes once and for all.
const KEPT: &[&str] = &[
    "file /run/test.log",
    "file /run/monopod",
    "file /run/monopod/sandboxes",
    "file /run/monopod/lock",
    "link mono0",
    "cgroup /kubepods",
    "cgroup /kubepods/burstable",
    "cgroup /kubepods/besteffort",
    "cgroup /daemon",
    "cgroup /monopod",
    "cgroup /monopod/kubepods",
    "cgroup /monopod/kubepods/burstable",
    "cgroup /monopod/kubepods/besteffort",
    "nft table monopod",
];

/// What systemd and its services change at any time.
const SYSTEMS: &[&str] =
    &["/run/systemd", "/run/udev", "/run/log", "/run/user", "/run/credentials", "/tmp/systemd-private-"];

/// Linux' `PF_KTHREAD`, in the ninth field of `/proc/PID/stat`.
const KERNEL_THREAD: u64 = 0x0020_0000;

/// Everything that a pod could leave, by kind and name, with how often it is there.
#[derive(Debug)]
pub struct Snapshot(BTreeMap<String, usize>);

impl Snapshot {
    pub fn take() -> Result<Self> {
        let mut all = BTreeMap::new();
        let found = [
            processes()?.into_iter().map(|process| process.to_string()).collect(),
            namespaces()?,
            mounts()?,
            names("link", Path::new("/sys/class/net")),
            names("block device", Path::new("/sys/block")),
            cgroups(Path::new("/sys/fs/cgroup"), ""),
            files(),
            nft::objects()?,
        ];
        for entry in found.into_iter().flatten() {
            *all.entry(entry).or_insert(0) += 1;
        }
        Ok(Self(all))
    }

    /// What is there now and was not before, one line each.
    pub fn left_behind(&self) -> Result<Option<String>> {
        let now = Self::take()?.0;
        let before = |entry: &str| self.0.get(entry).copied().unwrap_or(0);
        let new = now.iter().filter(|(entry, count)| **count > before(entry) && !KEPT.contains(&entry.as_str()));
        let new: Vec<&str> = new.map(|(entry, _)| entry.as_str()).collect();
        Ok((!new.is_empty()).then(|| new.join("\n  ")))
    }
}

/// So that a leak is found in one test and not in all that follow.
pub fn kill_new_processes(before: &Snapshot) -> Result<()> {
    for process in processes()?.iter().filter(|process| !before.0.contains_key(&process.to_string())) {
        if let Some(pid) = Pid::from_raw(process.pid) {
            // It may end by itself meanwhile.
            let _gone = rustix::process::kill_process(pid, Signal::KILL);
        }
    }
    Ok(())
}

struct Process {
    pid: i32,
    name: String,
}

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} {}", self.pid, self.name)
    }
}

/// User processes that no systemd started by itself; kernel threads come and go.
fn processes() -> Result<Vec<Process>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir("/proc").context("read /proc")?.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((name, rest)) = stat.split_once('(').and_then(|(_, rest)| rest.rsplit_once(')')) else { continue };
        let flags = rest.split_whitespace().nth(6).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        let cgroup = std::fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        let systems = cgroup.contains("/init.scope") || cgroup.contains("/system.slice/systemd-");
        if flags & KERNEL_THREAD == 0 && !systems {
            all.push(Process { pid, name: name.to_owned() });
        }
    }
    Ok(all)
}

/// Network namespaces that processes or mounts hold; each also shows up as its holder.
fn namespaces() -> Result<Vec<String>> {
    let mut all = BTreeSet::new();
    for process in processes()? {
        if let Ok(link) = std::fs::read_link(format!("/proc/{}/ns/net", process.pid)) {
            all.insert(format!("network namespace {}", link.display()));
        }
    }
    Ok(all.into_iter().collect())
}

fn mounts() -> Result<Vec<String>> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    let points = text.lines().filter_map(|line| line.split(' ').nth(4)).filter(|point| !is_systems(Path::new(point)));
    Ok(points.map(|point| format!("mount {point}")).collect())
}

fn is_systems(path: &Path) -> bool {
    SYSTEMS.iter().any(|prefix| path.to_string_lossy().starts_with(prefix))
}

fn names(kind: &str, dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| format!("{kind} {}", entry.file_name().to_string_lossy())).collect()
}

fn cgroups(dir: &Path, name: &str) -> Vec<String> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let name = format!("{name}/{}", entry.file_name().to_string_lossy());
            if !name.starts_with("/system.slice/systemd-") {
                all.push(format!("cgroup {name}"));
                all.extend(cgroups(&entry.path(), &name));
            }
        }
    }
    all
}

fn files() -> Vec<String> {
    let mut open: Vec<PathBuf> = WATCHED.iter().map(PathBuf::from).collect();
    let mut all = Vec::new();
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten().filter(|entry| !is_systems(&entry.path()))
        {
            all.push(format!("file {}", entry.path().display()));
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(entry.path());
            }
        }
    }
    all
}
