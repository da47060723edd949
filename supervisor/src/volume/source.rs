//! From a volume of the manifest to what has to be made for it. Pure, but for the images that the caller looks up.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::{
    HostPathVolumeSource, ImageVolumeSource, PersistentVolume, PersistentVolumeClaim, PodSpec, Volume,
};

use super::claims::{self, PROVISIONED_BY, PROVISIONER};
use super::payload::{self, Payload, TokenSource};
use super::{VolumeError, memory};
use crate::admission::validate::NOT_A_SOURCE;
use crate::convert::env::Sources;

/// What one volume becomes.
#[derive(Debug, PartialEq)]
pub enum Source {
    /// `emptyDir` on the node's disk.
    Disk {
        limit_bytes: Option<u64>,
    },
    Memory {
        size_bytes: u64,
    },
    HugePages {
        page_bytes: u64,
    },
    HostPath(HostPathVolumeSource),
    /// Files that are written by us.
    Content(Payload),
    Persistent(Persistent),
    /// Directories of an image's layers, the uppermost first.
    Image(Vec<PathBuf>),
}

/// A claim's volume on this node.
#[derive(Debug, Clone, PartialEq)]
pub struct Persistent {
    pub place: PersistentPlace,
    /// For every mount, whatever it says itself (VO35).
    pub read_only: bool,
    pub group_policy: GroupPolicy,
    /// What was given to the claim; kept where the file system has quotas.
    pub size_bytes: Option<u64>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum PersistentPlace {
    /// A directory of ours, made with the first pod.
    Claim(PathBuf),
    /// An administrator's directory (`local`); it must exist.
    Local(PathBuf),
    /// Not given to a group (VO17).
    HostPath(HostPathVolumeSource),
}

/// `fsGroupChangePolicy` (VO52).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupPolicy {
    Always,
    OnRootMismatch,
}

impl GroupPolicy {
    fn of(spec: &PodSpec) -> Self {
        match spec.security_context.as_ref().and_then(|security| security.fs_group_change_policy.as_deref()) {
            Some("OnRootMismatch") => Self::OnRootMismatch,
            _ => Self::Always,
        }
    }
}

/// What decides beside the manifest.
#[expect(missing_debug_implementations, reason = "it lives for one call and holds closures")]
pub struct Around<'a> {
    pub sources: Sources<'a>,
    pub token: &'a mut TokenSource<'a>,
    /// The layers of an image, or why there are none.
    pub image: &'a dyn Fn(&ImageVolumeSource) -> Result<Vec<PathBuf>, String>,
}

/// Decides for one volume.
///
/// # Errors
/// It can't be had, now or at all.
pub fn of(volume: &Volume, spec: &PodSpec, around: &mut Around<'_>) -> Result<Source, VolumeError> {
    if let Some(content) = payload::of(volume, around.sources, &mut *around.token) {
        return content.map(Source::Content);
    }
    if let Some(source) = &volume.host_path {
        return Ok(Source::HostPath(source.clone()));
    }
    if let Some(source) = &volume.persistent_volume_claim {
        return persistent(around, spec, &source.claim_name, source.read_only.unwrap_or(false));
    }
    if volume.ephemeral.is_some() {
        let pod = around.sources.pod.metadata.name.as_deref().unwrap_or_default();
        let claim = claims::ephemeral_name(pod, &volume.name);
        claims::check_owner(around.sources, &claim).map_err(VolumeError::Content)?;
        return persistent(around, spec, &claim, false);
    }
    if let Some(source) = &volume.image {
        return (around.image)(source).map(Source::Image).map_err(VolumeError::Content);
    }
    match &volume.empty_dir {
        Some(source) => empty_dir(source, spec, around.sources),
        None if kind_of(volume) == "emptyDir" => Ok(Source::Disk { limit_bytes: None }),
        None => Err(VolumeError::Unsupported { kind: kind_of(volume) }),
    }
}

fn empty_dir(
    source: &k8s_openapi::api::core::v1::EmptyDirVolumeSource,
    spec: &PodSpec,
    sources: Sources<'_>,
) -> Result<Source, VolumeError> {
    match source.medium.as_deref().unwrap_or_default() {
        "" => Ok(Source::Disk { limit_bytes: memory::size_limit(source)? }),
        "Memory" => {
            let node = u64::try_from(sources.node.allocatable_memory_bytes).unwrap_or(0);
            Ok(Source::Memory { size_bytes: memory::size_bytes(source, [pod_memory(spec), node])? })
        }
        medium if medium == "HugePages" || medium.starts_with("HugePages-") => {
            Ok(Source::HugePages { page_bytes: memory::page_bytes(medium, spec)? })
        }
        medium => Err(VolumeError::Unsupported { kind: format!("emptyDir medium {medium}") }),
    }
}

/// The memory that the pod may use at most; zero when some container has no limit.
fn pod_memory(spec: &PodSpec) -> u64 {
    let Ok(resources) = crate::convert::resources::pod(spec) else { return 0 };
    resources
        .enforced_limit(&cgroupd::Resource::Memory)
        .and_then(|limit| u64::try_from(limit.value()).ok())
        .unwrap_or(0)
}

fn persistent(around: &Around<'_>, spec: &PodSpec, claim: &str, read_only: bool) -> Result<Source, VolumeError> {
    let sources = around.sources;
    let namespace = sources.pod.metadata.namespace.as_deref().unwrap_or("default");
    let found = sources.objects.claim(namespace, claim);
    let found = found.ok_or_else(|| VolumeError::Content(format!("persistentvolumeclaim {claim:?} not found")))?;
    let volume = bound_volume(sources, &found, claim)?;
    let place = place(&volume)?;
    let only_reads =
        found.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()) == Some(&["ReadOnlyMany".to_owned()]);
    Ok(Source::Persistent(Persistent {
        place,
        read_only: read_only || only_reads,
        group_policy: GroupPolicy::of(spec),
        size_bytes: capacity(&volume),
    }))
}

fn bound_volume(
    sources: Sources<'_>,
    claim: &PersistentVolumeClaim,
    name: &str,
) -> Result<std::rc::Rc<PersistentVolume>, VolumeError> {
    let waiting = || VolumeError::Content(format!("persistentvolumeclaim {name:?} is not bound"));
    let spec = claim.spec.as_ref().ok_or_else(waiting)?;
    if spec.volume_mode.as_deref() == Some("Block") {
        return Err(VolumeError::Unsupported { kind: "persistentVolumeClaim with volumeMode Block".to_owned() });
    }
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
    match phase {
        Some("Lost") => {
            return Err(VolumeError::Content(format!(
                "persistentvolumeclaim {name:?} bound to non-existent persistentvolume {:?}",
                spec.volume_name.as_deref().unwrap_or_default()
            )));
        }
        Some("Bound") => {}
        _ => return Err(waiting()),
    }
    let volume = spec.volume_name.as_deref().filter(|name| !name.is_empty()).ok_or_else(waiting)?;
    let found = sources.objects.persistent_volume(volume);
    found.ok_or_else(|| VolumeError::Content(format!("persistentvolume {volume:?} not found")))
}

fn capacity(volume: &PersistentVolume) -> Option<u64> {
    let storage = volume.spec.as_ref()?.capacity.as_ref()?.get("storage")?;
    let quantity: cgroupd::quantity::Quantity = storage.0.parse().ok()?;
    u64::try_from(quantity.value()).ok().filter(|bytes| *bytes > 0)
}

fn place(volume: &PersistentVolume) -> Result<PersistentPlace, VolumeError> {
    let spec = volume.spec.as_ref();
    if let Some(local) = spec.and_then(|spec| spec.local.as_ref()) {
        let path = PathBuf::from(&local.path);
        let annotations = volume.metadata.annotations.as_ref();
        let ours = annotations.and_then(|all| all.get(PROVISIONED_BY)).is_some_and(|by| by == PROVISIONER);
        return Ok(if ours { PersistentPlace::Claim(path) } else { PersistentPlace::Local(path) });
    }
    if let Some(source) = spec.and_then(|spec| spec.host_path.as_ref()) {
        return Ok(PersistentPlace::HostPath(source.clone()));
    }
    let kind = spec.map(|spec| kind_in(spec, NOT_A_SOURCE)).unwrap_or_default();
    Err(VolumeError::Unsupported { kind: format!("{kind} of a persistentVolume") })
}

/// The volume's source as the manifest spells it.
fn kind_of(volume: &Volume) -> String {
    let kind = kind_in(volume, &["name"]);
    if kind.is_empty() { "emptyDir".to_owned() } else { kind }
}

fn kind_in(object: &impl serde::Serialize, other: &[&str]) -> String {
    let value = serde_json::to_value(object).unwrap_or_default();
    let mut keys = value.as_object().into_iter().flat_map(|object| object.keys());
    keys.find(|key| !other.contains(&key.as_str())).cloned().unwrap_or_default()
}
