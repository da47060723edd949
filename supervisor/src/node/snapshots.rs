//! The machines' memory on disk: one file per pod, written before a machine's actions are executed (D43).
//!
//! Replaced by rename and not synced: it has to outlive the daemon, not a power cut. After one, nothing of the pod runs, and
//! a pod without memory starts anew.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::engine::record;
use crate::pod::adopt::Snapshot;
use crate::pod::machine::Machine;
use crate::pod::spec::PodSpec;

/// Ending of a file that was not understood and was put aside.
const CORRUPT: &str = "corrupt";

/// A machine's memory as it was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Kept {
    /// Of the boot in which it was written: instants of another one mean nothing.
    pub boot_id: String,
    pub spec: PodSpec,
    pub snapshot: Snapshot,
}

/// The same, to be written without a copy.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Keeping<'a> {
    boot_id: &'a str,
    spec: &'a PodSpec,
    snapshot: Snapshot,
}

/// A directory of snapshots.
#[derive(Debug)]
pub struct Snapshots {
    dir: PathBuf,
    boot_id: String,
}

impl Snapshots {
    /// # Errors
    /// The directory can't be made.
    pub fn open(dir: PathBuf) -> io::Result<Self> {
        crate::engine::dirs::create_private(&dir)?;
        Ok(Self { dir, boot_id: record::boot_id() })
    }

    /// A failure is told and changes nothing else: the pod goes on, and only a death of the daemon would miss it.
    pub(super) fn save(&self, machine: &Machine) {
        let spec = machine.spec();
        let kept = Keeping { boot_id: &self.boot_id, spec, snapshot: machine.snapshot() };
        if let Err(error) = self.write(&spec.uid, &kept) {
            tracing::error!(pod = spec.name, "remember the pod's state in {}: {error}", self.dir.display());
        }
    }

    fn write(&self, uid: &str, kept: &Keeping<'_>) -> io::Result<()> {
        let temporary = self.dir.join(format!("{uid}.tmp"));
        std::fs::write(&temporary, serde_json::to_vec(kept)?)?;
        std::fs::rename(&temporary, self.path(uid))
    }

    pub(super) fn remove(&self, uid: &str) {
        match std::fs::remove_file(self.path(uid)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!("forget pod {uid}: {error}");
            }
            _ => {}
        }
    }

    /// All that can be read; what can't is put aside. Leftovers of writes that did not finish are removed.
    pub(super) fn load(&self) -> BTreeMap<String, Kept> {
        let mut all = BTreeMap::new();
        for path in files(&self.dir) {
            let Some(uid) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".json")) else {
                if path.extension().is_some_and(|ending| ending == "tmp") {
                    let _gone = std::fs::remove_file(&path);
                }
                continue;
            };
            match read(&path) {
                Ok(kept) if kept.spec.uid == uid => drop(all.insert(uid.to_owned(), kept)),
                Ok(_) => put_aside(&path, "it is about another pod"),
                Err(error) => put_aside(&path, &error.to_string()),
            }
        }
        all
    }

    /// Whether this was written in the boot that runs now.
    pub(super) fn is_of_this_boot(&self, kept: &Kept) -> bool {
        kept.boot_id == self.boot_id
    }

    fn path(&self, uid: &str) -> PathBuf {
        self.dir.join(format!("{uid}.json"))
    }
}

fn files(dir: &Path) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn read(path: &Path) -> io::Result<Kept> {
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}

fn put_aside(path: &Path, cause: &str) {
    let aside = path.with_extension(CORRUPT);
    tracing::error!("{}: {cause}; put aside as {}", path.display(), aside.display());
    if let Err(error) = std::fs::rename(path, &aside) {
        tracing::error!("rename {}: {error}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::spec::{ContainerSpec, Role};
    use crate::pod::timer::{Instant, Now, WallTime};

    fn machine() -> Machine {
        let mut spec = PodSpec::new("ns", "p", "u");
        spec.containers.push(ContainerSpec::new("c", Role::App, "busybox"));
        Machine::new(spec, Now { mono: Instant(1), wall: WallTime(1) })
    }

    #[test]
    fn what_was_saved_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::open(dir.path().join("machines")).unwrap();
        let machine = machine();
        snapshots.save(&machine);
        let all = snapshots.load();
        assert_eq!(all["u"].snapshot, machine.snapshot());
        assert!(snapshots.is_of_this_boot(&all["u"]));
        snapshots.remove("u");
        snapshots.remove("u");
        assert!(snapshots.load().is_empty());
    }

    /// F15: each kind of damage loses this pod's memory and nothing else.
    #[test]
    fn a_damaged_snapshot_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::open(dir.path().to_owned()).unwrap();
        snapshots.save(&machine());
        let good = std::fs::read(dir.path().join("u.json")).unwrap();
        let mut flipped = good.clone();
        flipped[2] ^= 0x20;
        let damaged = [Vec::new(), good[..good.len() / 2].to_vec(), vec![0; good.len()], flipped];
        for (number, bytes) in damaged.iter().enumerate() {
            std::fs::write(dir.path().join(format!("x{number}.json")), bytes).unwrap();
        }
        std::fs::write(dir.path().join("other.json"), &good).unwrap();
        std::fs::write(dir.path().join("u.tmp"), "half").unwrap();
        assert_eq!(snapshots.load().into_keys().collect::<Vec<_>>(), ["u"]);
        assert!(dir.path().join("x0.corrupt").exists() && dir.path().join("other.corrupt").exists());
        assert!(!dir.path().join("u.tmp").exists());
    }
}
