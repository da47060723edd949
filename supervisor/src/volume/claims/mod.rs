//! Persistent volume claims on one node (section 7.4): who gets which volume, what is made for whom, what is given back.
//!
//! [`reconcile`] looks at everything and says what to write next; it is pure and asked again after every step, so that a
//! crash between two of them changes nothing. [`settle`] does it for objects that are in no store; the [`controller`] for
//! the daemon.
//!
//! A claim without a volume of an administrator's gets a directory of its own (class [`CLASS`]).

mod binder;
pub mod controller;
mod make;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::convert::env::Sources;
use binder::Choice;
pub(crate) use binder::is_default;

/// The class of claims that name none, when no object says otherwise.
pub const CLASS: &str = "local";
/// The provisioner of directories on this node.
pub const PROVISIONER: &str = "monopod.io/local";
/// On volumes that were made for a claim: by whom.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// On the class of claims that name none.
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// Keeps a claim that a pod uses.
pub(crate) const CLAIM_PROTECTION: &str = "kubernetes.io/pvc-protection";
/// Keeps a volume that a claim has.
pub(crate) const VOLUME_PROTECTION: &str = "kubernetes.io/pv-protection";
/// [`settle`] comes to rest long before: each object takes a few steps.
const ROUNDS_MAX: usize = 10_000;

/// Everything that decides.
#[derive(Debug, Clone, Default)]
pub struct World {
    pub claims: Vec<PersistentVolumeClaim>,
    pub volumes: Vec<PersistentVolume>,
    /// Of [`default_class`]'s name there need not be one.
    pub classes: Vec<StorageClass>,
    pub pods: Vec<Pod>,
    pub node: NodeLabels,
    /// Where directories for claims are made.
    pub directory: PathBuf,
}

/// The node, as far as node affinity asks.
#[derive(Debug, Clone, Default)]
pub struct NodeLabels {
    pub name: String,
    pub labels: BTreeMap<String, String>,
}

/// One write.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    CreateClaim(Box<PersistentVolumeClaim>),
    UpdateClaim(Box<PersistentVolumeClaim>),
    RemoveClaim {
        namespace: String,
        name: String,
    },
    CreateVolume(Box<PersistentVolume>),
    UpdateVolume(Box<PersistentVolume>),
    /// With the directory that goes with it: only of a volume that was made for a claim, and only after the claim.
    RemoveVolume {
        name: String,
        directory: Option<PathBuf>,
    },
}

/// Something to tell about a claim that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub warning: bool,
    pub reason: &'static str,
    pub message: String,
}

/// What is to be written, and who waits for what. Steps touch each object at most once.
pub fn reconcile(world: &World) -> (Vec<Step>, Vec<Waiting>) {
    let mut steps = ephemeral_claims(world);
    let mut waiting = Vec::new();
    let mut taken = std::collections::BTreeSet::new();
    for claim in &world.claims {
        if claim.metadata.deletion_timestamp.is_some() || is_orphan(world, claim) {
            steps.extend(release_claim(world, claim));
            continue;
        }
        match binder::choose(world, claim, &taken) {
            Choice::Done => {}
            Choice::Claim(step) => steps.push(step),
            Choice::Volume(volume, step) => {
                taken.insert(volume);
                steps.push(step);
            }
            Choice::Wait { warning, reason, message } => {
                let (namespace, name, uid) =
                    (text(&claim.metadata.namespace), name(&claim.metadata), uid(&claim.metadata));
                waiting.push(Waiting { namespace, name, uid, warning, reason, message });
            }
        }
    }
    for volume in &world.volumes {
        if !taken.contains(&name(&volume.metadata)) {
            steps.extend(binder::volume_step(world, volume));
        }
    }
    (steps, waiting)
}

/// Brings objects that are in no store to rest.
pub fn settle(world: &mut World) -> Vec<Waiting> {
    for _ in 0..ROUNDS_MAX {
        let (steps, waiting) = reconcile(world);
        if steps.is_empty() {
            return waiting;
        }
        steps.into_iter().for_each(|step| apply(world, step));
    }
    Vec::new()
}

fn apply(world: &mut World, step: Step) {
    let same = |a: &ObjectMeta, b: &ObjectMeta| a.name == b.name && a.namespace == b.namespace;
    match step {
        Step::CreateClaim(claim) => world.claims.push(*claim),
        Step::UpdateClaim(claim) => {
            world.claims.retain(|known| !same(&known.metadata, &claim.metadata));
            world.claims.push(*claim);
        }
        Step::RemoveClaim { namespace, name: gone } => {
            world.claims.retain(|claim| name(&claim.metadata) != gone || text(&claim.metadata.namespace) != namespace)
        }
        Step::CreateVolume(volume) => world.volumes.push(*volume),
        Step::UpdateVolume(volume) => {
            world.volumes.retain(|known| !same(&known.metadata, &volume.metadata));
            world.volumes.push(*volume);
        }
        Step::RemoveVolume { name: gone, .. } => world.volumes.retain(|volume| name(&volume.metadata) != gone),
    }
}

/// The class that every node has: a directory, deleted with its claim, made when the first pod wants it.
pub fn default_class() -> StorageClass {
    StorageClass {
        metadata: ObjectMeta {
            name: Some(CLASS.to_owned()),
            annotations: Some([(DEFAULT_CLASS.to_owned(), "true".to_owned())].into()),
            ..ObjectMeta::default()
        },
        provisioner: PROVISIONER.to_owned(),
        reclaim_policy: Some("Delete".to_owned()),
        volume_binding_mode: Some("WaitForFirstConsumer".to_owned()),
        ..StorageClass::default()
    }
}

/// Name of the claim that an `ephemeral` volume makes (VO37).
pub fn ephemeral_name(pod: &str, volume: &str) -> String {
    format!("{pod}-{volume}")
}

/// Whether the claim has its volume.
pub fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    names_volume(claim) && claim.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(BIND_COMPLETED))
}

/// Whether the claim's class binds it only when a pod wants it. `classes` are the objects that are stored.
pub fn waits_for_consumer(claim: &PersistentVolumeClaim, classes: &[StorageClass]) -> bool {
    let class = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    !names_volume(claim) && binder::class_of(classes, class).is_some_and(|class| binder::binds_late(&class))
}

fn names_volume(claim: &PersistentVolumeClaim) -> bool {
    claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).is_some_and(|name| !name.is_empty())
}

/// A claim of that name which belongs to somebody else must not be used (VO37).
///
/// # Errors
/// It does.
pub fn check_owner(sources: Sources<'_>, claim: &str) -> Result<(), String> {
    let meta = &sources.pod.metadata;
    let namespace = meta.namespace.as_deref().unwrap_or("default");
    match sources.objects.claim(namespace, claim) {
        Some(found) if !is_owned_by(&found.metadata, meta) => {
            let pod = name(meta);
            Err(format!("PVC {namespace}/{claim} was not created for pod {namespace}/{pod} (pod is not owner)"))
        }
        _ => Ok(()),
    }
}

/// The claims that pods make for themselves.
fn ephemeral_claims(world: &World) -> Vec<Step> {
    let mut steps = Vec::new();
    for pod in world.pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none() && !is_finished(pod)) {
        for volume in pod.spec.iter().filter_map(|spec| spec.volumes.as_ref()).flatten() {
            let Some(template) = volume.ephemeral.as_ref().and_then(|source| source.volume_claim_template.as_ref())
            else {
                continue;
            };
            let claim = make::ephemeral(pod, &volume.name, template);
            let exists = world.claims.iter().any(|known| {
                known.metadata.name == claim.metadata.name && known.metadata.namespace == claim.metadata.namespace
            });
            if !exists {
                steps.push(Step::CreateClaim(Box::new(claim)));
            }
        }
    }
    steps
}

/// Keeps an object, beside whoever else does.
fn protect(meta: &mut ObjectMeta, finalizer: &str) {
    let finalizers = meta.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|name| name == finalizer) {
        finalizers.push(finalizer.to_owned());
    }
}

/// It was made for a pod that is gone.
fn is_orphan(world: &World, claim: &PersistentVolumeClaim) -> bool {
    let owners = claim.metadata.owner_references.as_deref().unwrap_or_default();
    let pods: Vec<_> = owners.iter().filter(|owner| owner.kind == "Pod").collect();
    !pods.is_empty()
        && !world.pods.iter().any(|pod| {
            pod.metadata.namespace == claim.metadata.namespace && is_owned_by(&claim.metadata, &pod.metadata)
        })
}

fn is_owned_by(meta: &ObjectMeta, pod: &ObjectMeta) -> bool {
    let owners = meta.owner_references.as_deref().unwrap_or_default();
    owners.iter().any(|owner| owner.kind == "Pod" && owner.name == name(pod) && owner.uid == uid(pod))
}

/// A claim that is to go goes when no pod uses it.
fn release_claim(world: &World, claim: &PersistentVolumeClaim) -> Option<Step> {
    // One that has no node yet gets none while the claim is leaving.
    let has_node =
        |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).is_some_and(|name| !name.is_empty());
    if consumers(world, claim).any(has_node) {
        return None;
    }
    let (namespace, name) = (text(&claim.metadata.namespace), name(&claim.metadata));
    let others: Vec<String> =
        claim.metadata.finalizers.iter().flatten().filter(|name| *name != CLAIM_PROTECTION).cloned().collect();
    if others.is_empty() {
        return Some(Step::RemoveClaim { namespace, name });
    }
    let changed = claim.metadata.finalizers.as_ref().is_some_and(|all| all.len() != others.len());
    changed.then(|| {
        let mut claim = claim.clone();
        claim.metadata.finalizers = Some(others);
        Step::UpdateClaim(Box::new(claim))
    })
}

/// Pods that use the claim and have not ended.
fn consumers<'a>(world: &'a World, claim: &'a PersistentVolumeClaim) -> impl Iterator<Item = &'a Pod> {
    world
        .pods
        .iter()
        .filter(move |pod| pod.metadata.namespace == claim.metadata.namespace && !is_finished(pod) && uses(pod, claim))
}

/// A claim that another pod made for itself only has the name of ours.
fn uses(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let wanted = name(&claim.metadata);
    let mut volumes = pod.spec.iter().filter_map(|spec| spec.volumes.as_ref()).flatten();
    volumes.any(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => source.claim_name == wanted,
        (None, Some(_)) => {
            ephemeral_name(&name(&pod.metadata), &volume.name) == wanted && is_owned_by(&claim.metadata, &pod.metadata)
        }
        (None, None) => false,
    })
}

/// Names of the claims that a pod uses.
pub fn claims_of(pod: &Pod) -> Vec<String> {
    let volumes = pod.spec.iter().filter_map(|spec| spec.volumes.as_ref()).flatten();
    volumes.filter_map(|volume| claim_of(pod, volume)).collect()
}

/// Name of the claim that a volume uses.
pub fn claim_of(pod: &Pod, volume: &Volume) -> Option<String> {
    match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => Some(source.claim_name.clone()),
        (None, Some(_)) => Some(ephemeral_name(&name(&pod.metadata), &volume.name)),
        (None, None) => None,
    }
}

fn is_finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// The directory of a volume that was made for a claim.
fn own_directory(volume: &PersistentVolume) -> Option<&Path> {
    let ours = volume.metadata.annotations.as_ref()?.get(PROVISIONED_BY)? == PROVISIONER;
    let local = volume.spec.as_ref()?.local.as_ref()?;
    ours.then(|| Path::new(&local.path))
}

fn name(meta: &ObjectMeta) -> String {
    text(&meta.name)
}

fn uid(meta: &ObjectMeta) -> String {
    text(&meta.uid)
}

fn text(field: &Option<String>) -> String {
    field.clone().unwrap_or_default()
}

#[cfg(test)]
mod tests;
