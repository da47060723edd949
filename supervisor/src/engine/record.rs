//! Owner records: what exists on the machine because of us, written before it is made (D43).

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::id::{ContainerId, SandboxId};
use crate::image::digest::Digest;
use crate::user_namespace::IdRange;

/// Format of the records below.
pub const VERSION: u16 = 1;
/// The field with the digest of all others.
const SUM: &str = "sum";

/// For whom a sandbox was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Owner {
    /// A `monopod run`: when this process is gone, so may be everything that it made.
    Process { pid: u32, start_time: u64 },
    /// The node service, which adopts what it finds.
    Service,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxRecord {
    pub version: u16,
    pub id: SandboxId,
    /// Of the boot in which it was made: after another one nothing of it runs.
    pub boot_id: String,
    pub owner: Owner,
    pub pod: PodReference,
    /// As the kubelet names it; with the pod's uid it says where the cgroup is.
    pub qos: String,
    pub network: bool,
    /// The ids of the pod's user namespace; none when it has the host's users.
    #[serde(default)]
    pub user_namespace: Option<IdRange>,
    /// What else the owner made for the pod: goes with a dead owner's sandbox.
    #[serde(default)]
    pub directories: Vec<PathBuf>,
    /// What the owner wants to find again; opaque here.
    #[serde(default)]
    pub memo: serde_json::Value,
}

impl SandboxRecord {
    /// Where its cgroup is, below the tree's root. None when the record was damaged in a way that still parses.
    pub fn cgroup(&self) -> Option<cgroupd::PodCgroup> {
        let qos = cgroupd::QosClass::ALL.into_iter().find(|qos| qos.to_string() == self.qos)?;
        Some(cgroupd::PodCgroup { uid: cgroupd::PodUid::new(self.pod.uid.clone()).ok()?, qos })
    }
}

/// Which pod a sandbox belongs to; opaque to the engine but for the uid in the cgroup's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PodReference {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRecord {
    pub version: u16,
    pub id: ContainerId,
    pub sandbox: SandboxId,
    pub name: String,
    /// Its log file: where its link leads (LF1).
    #[serde(default)]
    pub log: Option<PathBuf>,
    /// What the owner wants to find again; opaque here.
    #[serde(default)]
    pub memo: serde_json::Value,
}

/// Writes `value` so that a reader sees the old content or the new. Whoever needs it after a power cut calls [`sync`]: what
/// a container's record names has then ended, and its root is swept without it.
pub fn save(path: &Path, value: &impl Serialize) -> std::io::Result<()> {
    let temporary = temporary_name(path);
    let mut value = serde_json::to_value(value)?;
    let sum = sum(&value);
    if let Some(fields) = value.as_object_mut() {
        fields.insert(SUM.to_owned(), sum.into());
    }
    std::fs::write(&temporary, serde_json::to_vec(&value)?)?;
    std::fs::rename(&temporary, path)
}

/// Of a record without its sum; its fields are in the order of their names.
fn sum(record: &serde_json::Value) -> String {
    Digest::of(record.to_string().as_bytes()).to_string()
}

/// After this returns a record that was new outlives a power cut (D40). One cut before leaves none, or a damaged one, which
/// counts as none: there is no older one to lose, so both steps share one commit of the file system's journal.
pub fn sync(path: &Path) -> std::io::Result<()> {
    std::fs::File::open(path)?.sync_all()?;
    std::fs::File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

fn temporary_name(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    path.with_file_name(name)
}

/// None when there is no such file or what it holds is damaged; nothing on disk is trusted.
pub fn load<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let mut record: serde_json::Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    // What a monitor wrote has none.
    let said = record.as_object_mut().and_then(|fields| fields.remove(SUM));
    let is_whole = said.is_none_or(|said| said == sum(&record));
    is_whole.then(|| serde_json::from_value(record).ok()).flatten()
}

/// Who this process is, for [`Owner::Process`].
pub fn this_process() -> Owner {
    let pid = std::process::id();
    Owner::Process { pid, start_time: start_time(pid).unwrap_or(0) }
}

/// Whether the owner may still come back for what it made.
pub fn is_alive(owner: &Owner) -> bool {
    match owner {
        Owner::Process { pid, start_time: recorded } => start_time(*pid) == Some(*recorded),
        Owner::Service => true,
    }
}

/// Field 22 of `/proc/PID/stat`: with the pid it names a process for good (proc_pid_stat(5)).
fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// The kernel's random name of the current boot.
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_back_and_a_damaged_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("container.json");
        let record = ContainerRecord {
            version: VERSION,
            id: ContainerId::random(),
            sandbox: SandboxId::random(),
            name: "app".into(),
            log: None,
            memo: serde_json::json!({"attempt": 1}),
        };
        save(&path, &record).unwrap();
        sync(&path).unwrap();
        assert_eq!(load(&path), Some(record));
        let flipped = std::fs::read_to_string(&path).unwrap().replace("app", "apq");
        for damage in ["", "{", "[]", "\0\0\0", &flipped] {
            std::fs::write(&path, damage).unwrap();
            assert_eq!(load::<ContainerRecord>(&path), None, "{damage:?}");
        }
    }

    #[test]
    fn an_owner_is_known_by_pid_and_start() {
        let me = this_process();
        assert!(is_alive(&me));
        let Owner::Process { pid, start_time } = me else { panic!("not a process") };
        assert!(!is_alive(&Owner::Process { pid, start_time: start_time + 1 }));
    }
}
