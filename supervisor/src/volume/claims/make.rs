//! The objects that are written.

use std::path::Path;

use k8s_openapi::api::core::v1::{
    LocalVolumeSource, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, ObjectReference, PersistentVolume,
    PersistentVolumeClaim, PersistentVolumeClaimStatus, PersistentVolumeClaimTemplate, PersistentVolumeSpec,
    PersistentVolumeStatus, Pod, VolumeNodeAffinity,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::{
    BIND_COMPLETED, BOUND_BY_CONTROLLER, CLAIM_PROTECTION, PROVISIONED_BY, PROVISIONER, VOLUME_PROTECTION, World,
    ephemeral_name, name, protect, text, uid,
};

/// A volume with a directory of its own, bound to `claim` from the start.
pub(super) fn provisioned(world: &World, claim: &PersistentVolumeClaim, class: &StorageClass) -> PersistentVolume {
    let spec = claim.spec.clone().unwrap_or_default();
    let host = NodeSelectorRequirement {
        key: "kubernetes.io/hostname".to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![world.node.name.clone()]),
    };
    let term = NodeSelectorTerm { match_expressions: Some(vec![host]), ..NodeSelectorTerm::default() };
    let path = world.directory.join(directory_name(claim));
    PersistentVolume {
        metadata: ObjectMeta {
            name: Some(volume_name(claim)),
            annotations: Some([(PROVISIONED_BY.to_owned(), PROVISIONER.to_owned())].into()),
            finalizers: Some(vec![VOLUME_PROTECTION.to_owned()]),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeSpec {
            access_modes: spec.access_modes.clone(),
            capacity: spec.resources.and_then(|resources| resources.requests),
            claim_ref: Some(reference(claim)),
            local: Some(LocalVolumeSource { path: shown(&path), fs_type: None }),
            node_affinity: Some(VolumeNodeAffinity {
                required: Some(NodeSelector { node_selector_terms: vec![term] }),
            }),
            persistent_volume_reclaim_policy: Some(class.reclaim_policy.clone().unwrap_or("Delete".to_owned())),
            storage_class_name: class.metadata.name.clone(),
            volume_mode: Some("Filesystem".to_owned()),
            ..PersistentVolumeSpec::default()
        }),
        status: Some(phase("Bound")),
    }
}

/// `pvc-UID`; objects that are in no store have no uid.
fn volume_name(claim: &PersistentVolumeClaim) -> String {
    match uid(&claim.metadata) {
        uid if uid.is_empty() => format!("pvc-{}-{}", text(&claim.metadata.namespace), name(&claim.metadata)),
        uid => format!("pvc-{uid}"),
    }
}

/// For a person who looks into the directory. Names are DNS labels: no `_`, no `/`.
fn directory_name(claim: &PersistentVolumeClaim) -> String {
    let (namespace, name) = (text(&claim.metadata.namespace), name(&claim.metadata));
    match uid(&claim.metadata) {
        uid if uid.is_empty() => format!("{namespace}_{name}"),
        uid => format!("{namespace}_{name}_{uid}"),
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

pub(super) fn phase(phase: &str) -> PersistentVolumeStatus {
    PersistentVolumeStatus { phase: Some(phase.to_owned()), ..PersistentVolumeStatus::default() }
}

pub(super) fn reference(claim: &PersistentVolumeClaim) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("PersistentVolumeClaim".to_owned()),
        namespace: claim.metadata.namespace.clone(),
        name: claim.metadata.name.clone(),
        uid: claim.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

/// The claim as it is once it has the volume.
pub(super) fn bound(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> PersistentVolumeClaim {
    let mut bound = claim.clone();
    let annotations = bound.metadata.annotations.get_or_insert_default();
    annotations.insert(BIND_COMPLETED.to_owned(), "yes".to_owned());
    let spec = bound.spec.get_or_insert_default();
    if spec.volume_name.as_deref().unwrap_or_default().is_empty() {
        annotations.insert(BOUND_BY_CONTROLLER.to_owned(), "yes".to_owned());
        spec.volume_name = volume.metadata.name.clone();
    }
    protect(&mut bound.metadata, CLAIM_PROTECTION);
    let from = volume.spec.clone().unwrap_or_default();
    // What others say in the status stays.
    let status = bound.status.get_or_insert_default();
    status.phase = Some("Bound".to_owned());
    status.access_modes = from.access_modes;
    status.capacity = from.capacity;
    bound
}

/// VO37: owned by the pod, so that it goes with it.
pub(super) fn ephemeral(pod: &Pod, volume: &str, template: &PersistentVolumeClaimTemplate) -> PersistentVolumeClaim {
    let own = template.metadata.clone().unwrap_or_default();
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(ephemeral_name(&name(&pod.metadata), volume)),
            namespace: pod.metadata.namespace.clone(),
            labels: own.labels,
            annotations: own.annotations,
            finalizers: Some(vec![CLAIM_PROTECTION.to_owned()]),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Pod".to_owned(),
                name: name(&pod.metadata),
                uid: uid(&pod.metadata),
                controller: Some(true),
                block_owner_deletion: Some(true),
            }]),
            ..ObjectMeta::default()
        },
        spec: Some(template.spec.clone()),
        status: Some(PersistentVolumeClaimStatus {
            phase: Some("Pending".to_owned()),
            ..PersistentVolumeClaimStatus::default()
        }),
    }
}
