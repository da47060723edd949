//! Static manifests: a directory whose files become objects, and whose changes become theirs.
//!
//! Nothing is remembered between two looks but what the store has: a look reads every file, and [`diff`] tells what has to
//! happen for the store to say the same. A file that is not understood changes nothing of what it said before. The contract
//! for writers is a rename into the directory; what is written in place is taken when it is closed.

pub mod diff;
pub mod manifest;
mod references;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::inotify;
use serde_json::{Value, json};
use tokio::io::unix::AsyncFd;

use super::events::{Recorder, Said};
use super::host::Host;
use super::pods::PODS;
use super::{ServeError, clock};
use crate::api;
use crate::convert::machine::MIRROR;
use crate::pod::event::Severity;
use crate::store::{Change, Durability, Key, Store, StoreError};
use crate::sys::fd::registered;

use diff::{Step, Stored};
use manifest::Wanted;

/// Says which file an object comes from.
pub const MANIFEST: &str = "monopod.io/manifest";
/// What the file said of it, so that a change is seen.
const MANIFEST_HASH: &str = "monopod.io/manifest-hash";
/// Attempts to end a pod whose status is written meanwhile.
const ENDS_MAX: usize = 16;
/// Every resource that a file may hold, pods last: they need the others.
const RESOURCES: [&str; 10] = [
    "namespaces",
    "priorityclasses.scheduling.k8s.io",
    "serviceaccounts",
    "configmaps",
    "secrets",
    "persistentvolumes",
    "persistentvolumeclaims",
    "services",
    "limitranges",
    PODS,
];

/// The uids of pods that some file wants: nobody but the file ends them (ST3).
pub type Claimed = Rc<RefCell<BTreeSet<String>>>;

/// See the module's documentation.
#[derive(Debug)]
pub struct Source {
    dir: PathBuf,
    store: Store,
    host: Rc<Host>,
    events: Rc<RefCell<Recorder>>,
    claimed: Claimed,
    /// What is wrong, by file; told once.
    wrong: BTreeMap<String, String>,
    watch: AsyncFd<OwnedFd>,
    /// Files that were away since the last look; they may be back.
    away: BTreeSet<String>,
    /// The uids of pods that end because of their files, until their objects are gone: their files don't claim them.
    ended: BTreeSet<String>,
}

impl Source {
    /// # Errors
    /// The directory can't be made or watched.
    pub fn open(dir: &Path, store: Store, host: Rc<Host>, events: Rc<RefCell<Recorder>>) -> Result<Self, ServeError> {
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let watch = inotify::init(flags).map_err(|errno| ServeError::io("inotify_init1", dir)(errno.into()))?;
        if !dir.as_os_str().is_empty() {
            std::fs::create_dir_all(dir).map_err(ServeError::io("make", dir))?;
            let what = inotify::WatchFlags::CLOSE_WRITE
                | inotify::WatchFlags::MOVED_TO
                | inotify::WatchFlags::MOVED_FROM
                | inotify::WatchFlags::DELETE
                | inotify::WatchFlags::ONLYDIR;
            inotify::add_watch(&watch, dir, what).map_err(|errno| ServeError::io("watch", dir)(errno.into()))?;
        }
        let watch = registered(watch).map_err(ServeError::io("watch", dir))?;
        let claimed = Claimed::default();
        Ok(Self {
            dir: dir.to_owned(),
            store,
            host,
            events,
            claimed,
            wrong: BTreeMap::new(),
            watch,
            away: BTreeSet::new(),
            ended: BTreeSet::new(),
        })
    }

    pub fn claimed(&self) -> Claimed {
        self.claimed.clone()
    }

    /// Until something in the directory has changed.
    pub async fn changed(&mut self) {
        if let Ok(mut ready) = self.watch.readable().await {
            self.away.extend(files_away(self.watch.get_ref()));
            ready.clear_ready();
        }
    }

    /// How many files are not understood.
    pub fn wrong(&self) -> usize {
        self.wrong.len()
    }

    /// Reads everything and brings the store to it.
    pub async fn look(&mut self) {
        let (wanted, mut wrong) = self.read();
        let stored = self.stored();
        self.away.clear();
        self.ended.retain(|uid| stored.iter().any(|stored| stored.ending && stored.uid == *uid));
        let broken: BTreeSet<String> = wrong.keys().cloned().collect();
        let mut claimed = claimed(&wanted, &stored, &broken);
        let steps = diff::diff(wanted, &stored, &broken);
        self.ended.extend(steps.iter().filter_map(|step| ended_by(step, &stored)));
        claimed.retain(|uid| !self.ended.contains(uid));
        *self.claimed.borrow_mut() = claimed;
        for step in steps {
            if let Step::Refuse { file, why, .. } = &step {
                wrong.insert(file.clone(), why.clone());
                continue;
            }
            let what = step.key().to_string();
            match self.take(step).await {
                // Somebody else changed it at the same time: the next look sees it.
                Ok(()) | Err(StoreError::NotFound(_) | StoreError::Conflict { .. }) => {}
                Err(error) => tracing::error!("{what}: {error}"),
            }
        }
        self.tell(wrong);
    }

    /// Every manifest by file name, and what is wrong with files.
    fn read(&self) -> (Vec<Wanted>, BTreeMap<String, String>) {
        let (mut wanted, mut wrong) = (Vec::new(), BTreeMap::new());
        for path in manifests(&self.dir) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            match manifest::read(&path, &name, &self.host, &self.store) {
                Ok(all) => wanted.extend(all),
                Err(error) => drop(wrong.insert(name, error)),
            }
        }
        (wanted, wrong)
    }

    fn stored(&self) -> Vec<Stored> {
        let all = RESOURCES.iter().flat_map(|resource| self.store.list(resource, None).0);
        all.filter_map(|object| {
            let value: Value = serde_json::from_str(&object.text).ok()?;
            let text = |path: &str| value.pointer(path).and_then(Value::as_str).map(str::to_owned);
            let annotation = |name: &str| value["metadata"]["annotations"][name].as_str().map(str::to_owned);
            let uid = annotation(MIRROR).or_else(|| text("/metadata/uid")).unwrap_or_default();
            let file = annotation(MANIFEST);
            Some(Stored {
                key: object.key.clone(),
                by_file: self.ended.contains(&uid),
                was_away: file.as_ref().is_some_and(|file| self.away.contains(file)),
                uid,
                file,
                hash: annotation(MANIFEST_HASH).unwrap_or_default(),
                ending: !value["metadata"]["deletionTimestamp"].is_null(),
            })
        })
        .collect()
    }

    async fn take(&self, step: Step) -> Result<(), StoreError> {
        let commit = |change| self.store.commit(change, Durability::Kernel);
        match step {
            Step::Create(wanted) => {
                tracing::info!(manifest = wanted.file, "creating {}", wanted.key);
                let key = wanted.key.clone();
                commit(Change::Create { key, value: stamped(wanted) }).await.map(drop)
            }
            Step::Update(wanted) => {
                tracing::info!(manifest = wanted.file, "updating {}", wanted.key);
                let old = self.store.get(&wanted.key).map(|object| object.value()).unwrap_or_default();
                let key = wanted.key.clone();
                let mut value = stamped(wanted);
                for kept in ["uid", "creationTimestamp"] {
                    value["metadata"][kept] = old["metadata"][kept].clone();
                }
                commit(Change::Update { key, expected: None, value }).await.map(drop)
            }
            Step::End { key } => self.end(&key).await,
            // Its deletion in the feed makes another one.
            Step::Again { key } => commit(Change::Delete { key, expected: None }).await.map(drop),
            Step::Delete { key } => {
                tracing::info!("deleting {key}: its manifest is gone");
                commit(Change::Delete { key, expected: None }).await.map(drop)
            }
            Step::Refuse { .. } => Ok(()),
        }
    }

    /// Graceful deletion of a pod (DE2).
    async fn end(&self, key: &Key) -> Result<(), StoreError> {
        tracing::info!("ending {key}: its manifest has changed or is gone");
        let mut ended = Ok(());
        for _ in 0..ENDS_MAX {
            let Some(object) = self.store.get(key) else { return Ok(()) };
            let Some(value) = api::ending(&object.value(), clock::stamp(clock::wall())) else { return Ok(()) };
            let change = Change::Update { key: key.clone(), expected: Some(object.version), value };
            ended = self.store.commit(change, Durability::Kernel).await.map(drop);
            if !matches!(ended, Err(StoreError::Conflict { .. })) {
                break;
            }
        }
        ended
    }

    /// Says what is wrong when it was not wrong before.
    fn tell(&mut self, wrong: BTreeMap<String, String>) {
        for (file, why) in &wrong {
            if self.wrong.get(file) != Some(why) {
                tracing::error!(manifest = file, "{why}");
                let said = Said::of_node(&self.host.name, Severity::Warning, "InvalidManifest", why);
                self.events.borrow_mut().say(&said);
            }
        }
        self.wrong = wrong;
    }
}

/// The pods of files that are understood, and those that a broken file said before.
fn claimed(wanted: &[Wanted], stored: &[Stored], broken: &BTreeSet<String>) -> BTreeSet<String> {
    let good = wanted.iter().filter_map(|wanted| wanted.uid.clone());
    let kept = stored.iter().filter(|stored| stored.file.as_ref().is_some_and(|file| broken.contains(file)));
    good.chain(kept.filter(|stored| !stored.ending).map(|stored| stored.uid.clone())).collect()
}

/// The pod that a step ends.
fn ended_by(step: &Step, stored: &[Stored]) -> Option<String> {
    let Step::End { key } = step else { return None };
    stored.iter().find(|stored| stored.key == *key).map(|stored| stored.uid.clone())
}

/// What the kernel has told of files that went. Whether a file is back by now makes no difference to its pod.
fn files_away(watch: &OwnedFd) -> Vec<String> {
    let went = inotify::ReadFlags::DELETE | inotify::ReadFlags::MOVED_FROM;
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(watch, &mut buffer);
    let mut names = Vec::new();
    while let Ok(event) = reader.next() {
        if event.events().intersects(went) {
            names.extend(event.file_name().map(|name| name.to_string_lossy().into_owned()));
        }
    }
    names
}

/// An object as it goes into the store; of a static pod each has a uid of its own (ST3).
fn stamped(wanted: Wanted) -> Value {
    let Wanted { mut value, file, hash, uid, .. } = wanted;
    let metadata = &mut value["metadata"];
    if !metadata["annotations"].is_object() {
        metadata["annotations"] = json!({});
    }
    metadata["annotations"][MANIFEST] = json!(file);
    metadata["annotations"][MANIFEST_HASH] = json!(hash);
    metadata["uid"] = json!(uuid::Uuid::new_v4().to_string());
    if uid.is_some() {
        metadata["generation"] = json!(1);
    }
    metadata["creationTimestamp"] = json!(clock::now());
    value
}

/// Files in the order of their names, whatever these are; hidden ones are somebody else's (ST1).
fn manifests(dir: &Path) -> Vec<PathBuf> {
    if dir.as_os_str().is_empty() {
        return Vec::new();
    }
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) => {
            report(dir, &error);
            return Vec::new();
        }
    };
    let wanted = |path: &PathBuf| {
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        !hidden && path.is_file()
    };
    let mut all: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(wanted).collect();
    all.sort();
    all
}

fn report(dir: &Path, error: &io::Error) {
    tracing::error!("read {}: {error}", dir.display());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ST1
    #[test]
    fn files_of_any_name_are_manifests_but_hidden_ones() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.yaml", "a", "c.manifest", ".hidden.yaml"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        std::fs::create_dir(dir.path().join("sub.yaml")).unwrap();
        let found = manifests(dir.path());
        assert_eq!(found, ["a", "b.yaml", "c.manifest"].map(|name| dir.path().join(name)));
    }

    #[test]
    fn a_mirror_has_a_uid_of_its_own_and_one_generation() {
        let wanted = |uid: Option<&str>| Wanted {
            key: Key::new(PODS, "default", "p"),
            file: "a".into(),
            hash: "h".into(),
            uid: uid.map(str::to_owned),
            value: json!({"metadata": {"uid": "hash"}}),
        };
        let [first, second] = [stamped(wanted(Some("hash"))), stamped(wanted(Some("hash")))];
        assert_ne!(first["metadata"]["uid"], second["metadata"]["uid"]);
        assert_eq!(first["metadata"]["generation"], 1);
        assert!(stamped(wanted(None))["metadata"]["generation"].is_null());
    }
}
