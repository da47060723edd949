//! What [`super::reconcile`] says, done in the object store.
//!
//! The daemon calls [`Controller::run`] at its start and whenever a change [`concerns`] claims: a
//! `persistentvolumeclaims`, `persistentvolumes` or `storageclasses.storage.k8s.io` object, or a pod that uses claims.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{NodeLabels, Step, Waiting, World, name, reconcile, text};
use crate::store::{Change, Durability, Key, Store, StoreError, WatchEvent};

/// The resource.
pub const CLAIMS: &str = "persistentvolumeclaims";
const VOLUMES: &str = "persistentvolumes";
/// The resource.
pub const CLASSES: &str = "storageclasses.storage.k8s.io";
const PODS: &str = "pods";
/// Rounds in one call; what is left then is done in the next.
const ROUNDS_MAX: usize = 64;

/// Writes the objects that claims need.
#[derive(Debug)]
pub struct Controller {
    store: Store,
    node: NodeLabels,
    directory: PathBuf,
    /// What was told of each claim, by uid: told again only when it changes.
    told: BTreeMap<String, String>,
}

/// Whether a change may be of interest to claims.
pub fn concerns(event: &WatchEvent) -> bool {
    match &*event.object.key.resource {
        CLAIMS | VOLUMES | CLASSES => true,
        PODS => ["persistentVolumeClaim", "ephemeral"].iter().any(|word| event.object.text.contains(word)),
        _ => false,
    }
}

impl Controller {
    /// `directory` is where the directories of claims are made.
    pub fn new(store: Store, node: NodeLabels, directory: &Path) -> Self {
        Self { store, node, directory: directory.to_owned(), told: BTreeMap::new() }
    }

    /// Does all that is to be done now; what is new to tell of claims that wait.
    ///
    /// # Errors
    /// The store can't write. A conflict is no error: its change brings the next call.
    pub async fn run(&mut self) -> Result<Vec<Waiting>, StoreError> {
        let mut waiting = Vec::new();
        for _ in 0..ROUNDS_MAX {
            let (steps, still) = reconcile(&self.world());
            waiting = still;
            if steps.is_empty() {
                break;
            }
            for step in steps {
                match self.write(step).await {
                    Err(StoreError::Conflict { .. } | StoreError::NotFound(_) | StoreError::Exists(_)) => {}
                    other => other?,
                }
            }
        }
        Ok(self.news(waiting))
    }

    fn news(&mut self, waiting: Vec<Waiting>) -> Vec<Waiting> {
        let told = std::mem::take(&mut self.told);
        self.told = waiting.iter().map(|one| (one.uid.clone(), one.message.clone())).collect();
        waiting.into_iter().filter(|one| told.get(&one.uid) != Some(&one.message)).collect()
    }

    fn world(&self) -> World {
        World {
            claims: self.all(CLAIMS),
            volumes: self.all(VOLUMES),
            classes: self.all(CLASSES),
            pods: self.all(PODS),
            node: self.node.clone(),
            directory: self.directory.clone(),
        }
    }

    /// What can't be read is as good as not there.
    fn all<T: DeserializeOwned>(&self, resource: &str) -> Vec<T> {
        let (objects, _) = self.store.list(resource, None);
        objects.iter().filter_map(|object| object.read().ok()).collect()
    }

    async fn write(&self, step: Step) -> Result<(), StoreError> {
        let change = match step {
            Step::CreateClaim(claim) => {
                Change::Create { key: key(CLAIMS, &claim.metadata), value: new(&*claim, "PersistentVolumeClaim") }
            }
            Step::UpdateClaim(claim) => self.update(CLAIMS, &claim.metadata, "PersistentVolumeClaim", &*claim),
            Step::RemoveClaim { namespace, name } => {
                Change::Delete { key: Key::new(CLAIMS, &namespace, &name), expected: None }
            }
            Step::CreateVolume(volume) => {
                Change::Create { key: key(VOLUMES, &volume.metadata), value: new(&*volume, "PersistentVolume") }
            }
            Step::UpdateVolume(volume) => self.update(VOLUMES, &volume.metadata, "PersistentVolume", &*volume),
            Step::RemoveVolume { name, directory } => {
                if let Some(directory) = directory {
                    remove_directory(&self.directory, directory).await;
                }
                Change::Delete { key: Key::new(VOLUMES, "", &name), expected: None }
            }
        };
        self.store.commit(change, Durability::Disk).await.map(drop)
    }

    fn update(&self, resource: &str, meta: &Meta, kind: &str, object: &impl Serialize) -> Change {
        let version = meta.resource_version.as_deref().and_then(|text| text.parse().ok());
        Change::Update {
            key: key(resource, meta),
            expected: version.map(crate::store::Version),
            value: typed(object, kind),
        }
    }
}

type Meta = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

fn key(resource: &str, meta: &Meta) -> Key {
    Key::new(resource, &text(&meta.namespace), &name(meta))
}

/// With `apiVersion` and `kind`, as objects in the store have them.
fn typed(object: &impl Serialize, kind: &str) -> Value {
    let mut value = serde_json::to_value(object).unwrap_or_default();
    value["apiVersion"] = "v1".into();
    value["kind"] = kind.into();
    value
}

fn new(object: &impl Serialize, kind: &str) -> Value {
    let mut value = typed(object, kind);
    value["metadata"]["uid"] = uuid::Uuid::new_v4().to_string().into();
    value["metadata"]["creationTimestamp"] = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into();
    value
}

/// Only what lies directly below the claims' own directory; off the loop, since it may be large.
async fn remove_directory(claims: &Path, directory: PathBuf) {
    let (Some(name), true) = (directory.file_name().and_then(|name| name.to_str()), directory.parent() == Some(claims))
    else {
        tracing::warn!("{} is no directory of a claim, it stays", directory.display());
        return;
    };
    let (claims, name) = (claims.to_owned(), name.to_owned());
    let removing = tokio::task::spawn_blocking(move || {
        let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
        let parent = rustix::fs::open(&claims, flags, rustix::fs::Mode::empty())
            .map_err(crate::volume::VolumeError::system("open", &claims))?;
        crate::volume::remove::tree(std::os::fd::AsFd::as_fd(&parent), &name)
    });
    if let Ok(Err(error)) = removing.await {
        tracing::warn!("delete the data of a claim, {}: {error}", directory.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[tokio::test(flavor = "current_thread")]
    async fn a_claim_gets_a_directory_and_gives_it_back() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(&dir.path().join("store")).unwrap();
        let claims = dir.path().join("claims");
        let node = NodeLabels { name: "n".into(), ..NodeLabels::default() };
        let mut controller = Controller::new(store.clone(), node, &claims);
        let commit = async |change| store.commit(change, Durability::Kernel).await.unwrap();
        let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": "data", "namespace": "ns", "uid": "u1"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}});
        commit(Change::Create { key: Key::new(CLAIMS, "ns", "data"), value: claim }).await;
        let told = controller.run().await.unwrap();
        assert_eq!(told.iter().map(|one| one.reason).collect::<Vec<_>>(), ["WaitForFirstConsumer"]);
        assert!(controller.run().await.unwrap().is_empty(), "told once");
        let pod = json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u2"}, "spec": {"nodeName": "n", "containers": [],
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}});
        commit(Change::Create { key: Key::new(PODS, "ns", "p"), value: pod }).await;
        controller.run().await.unwrap();
        let bound = store.get(&Key::new(CLAIMS, "ns", "data")).unwrap().value();
        assert_eq!((&bound["status"]["phase"], &bound["spec"]["volumeName"]), (&json!("Bound"), &json!("pvc-u1")));
        let volume = store.get(&Key::new(VOLUMES, "", "pvc-u1")).unwrap().value();
        let path = PathBuf::from(volume["spec"]["local"]["path"].as_str().unwrap());
        assert_eq!(path, claims.join("ns_data_u1"));
        std::fs::create_dir_all(path.join("sub")).unwrap();
        let mut going = bound.clone();
        going["metadata"]["deletionTimestamp"] = "2026-11-21T07:00:00Z".into();
        commit(Change::Update { key: Key::new(CLAIMS, "ns", "data"), expected: None, value: going }).await;
        controller.run().await.unwrap();
        assert!(store.get(&Key::new(CLAIMS, "ns", "data")).is_some(), "a pod uses it");
        commit(Change::Delete { key: Key::new(PODS, "ns", "p"), expected: None }).await;
        controller.run().await.unwrap();
        assert!(store.list(CLAIMS, None).0.is_empty() && store.list(VOLUMES, None).0.is_empty());
        assert!(!path.exists() && claims.exists());
    }
}
