//! What the files of a `configMap`, `secret`, `downwardAPI` or `projected` volume hold (section 7.3). Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ConfigMap, Container, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, ServiceAccountTokenProjection, Volume,
    VolumeProjection,
};

use super::VolumeError;
use crate::convert::env::Sources;
use crate::convert::field;

/// Mode of files for which the manifest gives none (VO22).
const DEFAULT_MODE: i32 = 0o644;
/// Mode of a token's file in a pod with `fsGroup` or one user for all containers (VO29).
const PRIVATE_MODE: u32 = 0o600;

/// One file of a volume.
#[derive(Clone, PartialEq, Eq)]
pub struct File {
    pub content: Vec<u8>,
    pub mode: u32,
    /// None is root.
    pub owner: Option<u32>,
}

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes, mode {:o}, owner {:?}", self.content.len(), self.mode, self.owner)
    }
}

/// Files by their path in the volume.
pub type Payload = BTreeMap<String, File>;

/// Where tokens come from: given the source, its path in the volume included, or why there is none.
pub type TokenSource<'a> = dyn FnMut(&ServiceAccountTokenProjection) -> Result<String, String> + 'a;

/// The files of `volume`; none when it is of another type.
///
/// # Errors
/// Something that is not optional is missing.
pub fn of(volume: &Volume, sources: Sources<'_>, token: &mut TokenSource<'_>) -> Option<Result<Payload, VolumeError>> {
    let mode = |mode: Option<i32>| mode.unwrap_or(DEFAULT_MODE).unsigned_abs();
    if let Some(source) = &volume.config_map {
        let reference = Reference::new(&source.name, source.items.as_deref(), source.optional);
        return Some(from_config_map(sources, reference, mode(source.default_mode)));
    }
    if let Some(source) = &volume.secret {
        let name = source.secret_name.as_deref().unwrap_or_default();
        let reference = Reference::new(name, source.items.as_deref(), source.optional);
        return Some(from_secret(sources, reference, mode(source.default_mode)));
    }
    if let Some(source) = &volume.downward_api {
        return Some(from_fields(sources, source.items.as_deref().unwrap_or_default(), mode(source.default_mode)));
    }
    let source = volume.projected.as_ref()?;
    let parts = source.sources.as_deref().unwrap_or_default();
    Some(projected(sources, parts, mode(source.default_mode), token))
}

/// Every source, a later one over an earlier one; all that is wrong is told at once.
fn projected(
    sources: Sources<'_>,
    parts: &[VolumeProjection],
    mode: u32,
    token: &mut TokenSource<'_>,
) -> Result<Payload, VolumeError> {
    let mut all = Payload::new();
    let mut wrong = Vec::new();
    for part in parts {
        match projection(sources, part, mode, token) {
            Ok(files) => all.extend(files),
            Err(error) => wrong.push(error.to_string()),
        }
    }
    match wrong.as_slice() {
        [] => Ok(all),
        [one] => Err(VolumeError::Content(one.clone())),
        several => Err(VolumeError::Content(format!("[{}]", several.join(", ")))),
    }
}

fn projection(
    sources: Sources<'_>,
    part: &VolumeProjection,
    mode: u32,
    token: &mut TokenSource<'_>,
) -> Result<Payload, VolumeError> {
    if let Some(source) = &part.config_map {
        let reference = Reference::new(&source.name, source.items.as_deref(), source.optional);
        return from_config_map(sources, reference, mode);
    }
    if let Some(source) = &part.secret {
        return from_secret(sources, Reference::new(&source.name, source.items.as_deref(), source.optional), mode);
    }
    if let Some(source) = &part.downward_api {
        return from_fields(sources, source.items.as_deref().unwrap_or_default(), mode);
    }
    if let Some(source) = &part.service_account_token {
        let owner = common_user(sources.pod);
        let has_group = fs_group(sources.pod).is_some();
        let mode = if owner.is_some() || has_group { PRIVATE_MODE } else { mode };
        let text = token(source).map_err(|cause| VolumeError::Content(format!("failed to fetch token: {cause}")))?;
        return Ok([(source.path.clone(), File { content: text.into_bytes(), mode, owner })].into());
    }
    let kind = if part.cluster_trust_bundle.is_some() { "clusterTrustBundle" } else { "podCertificate" };
    Err(VolumeError::Unsupported { kind: format!("projected source {kind}") })
}

/// A reference to an object with keys.
#[derive(Clone, Copy)]
struct Reference<'a> {
    name: &'a str,
    /// None or empty: every key is a file.
    items: &'a [KeyToPath],
    optional: bool,
}

impl<'a> Reference<'a> {
    fn new(name: &'a str, items: Option<&'a [KeyToPath]>, optional: Option<bool>) -> Self {
        Self { name, items: items.unwrap_or_default(), optional: optional.unwrap_or(false) }
    }

    /// Rule VO23; `missing` says which key is.
    fn files(self, all: &BTreeMap<&String, &[u8]>, mode: u32, missing: &str) -> Result<Payload, VolumeError> {
        let file = |content: &[u8], mode| File { content: content.to_vec(), mode, owner: None };
        if self.items.is_empty() {
            return Ok(all.iter().map(|(key, content)| ((*key).clone(), file(content, mode))).collect());
        }
        let mut files = Payload::new();
        for item in self.items {
            let own = item.mode.map_or(mode, i32::unsigned_abs);
            match all.get(&item.key) {
                Some(content) => drop(files.insert(item.path.clone(), file(content, own))),
                None if self.optional => {}
                None => return Err(VolumeError::Content(format!("{missing}: {}", item.key))),
            }
        }
        Ok(files)
    }
}

fn from_config_map(sources: Sources<'_>, reference: Reference<'_>, mode: u32) -> Result<Payload, VolumeError> {
    let found = sources.objects.config_map(namespace(sources.pod), reference.name);
    let object = match &found {
        Some(object) => &**object,
        None if reference.optional => &ConfigMap::default(),
        None => return Err(VolumeError::Content(format!("configmap {:?} not found", reference.name))),
    };
    let text = object.data.iter().flatten().map(|(key, value)| (key, value.as_bytes()));
    let binary = object.binary_data.iter().flatten().map(|(key, value)| (key, value.0.as_slice()));
    reference.files(&text.chain(binary).collect(), mode, "configmap references non-existent config key")
}

fn from_secret(sources: Sources<'_>, reference: Reference<'_>, mode: u32) -> Result<Payload, VolumeError> {
    let found = sources.objects.secret(namespace(sources.pod), reference.name);
    let object = match &found {
        Some(object) => &**object,
        None if reference.optional => &Secret::default(),
        None => return Err(VolumeError::Content(format!("secret {:?} not found", reference.name))),
    };
    let all = object.data.iter().flatten().map(|(key, value)| (key, value.0.as_slice()));
    reference.files(&all.collect(), mode, "references non-existent secret key")
}

/// Rule VO31.
fn from_fields(sources: Sources<'_>, items: &[DownwardAPIVolumeFile], mode: u32) -> Result<Payload, VolumeError> {
    let mut files = Payload::new();
    let nobody = Container::default();
    for item in items {
        let content = match (&item.field_ref, &item.resource_field_ref) {
            (Some(selector), _) => field::field(sources.pod, &selector.field_path, sources.pod_facts, sources.node),
            (None, Some(selector)) => field::resource(sources.pod, &nobody, selector, sources.node),
            (None, None) => continue,
        };
        let content = content.map_err(|error| VolumeError::Content(error.to_string()))?.into_bytes();
        let mode = item.mode.map_or(mode, i32::unsigned_abs);
        files.insert(item.path.clone(), File { content, mode, owner: None });
    }
    Ok(files)
}

/// Whether the volume's files come from this object.
pub fn refers_to(volume: &Volume, kind: Kind, name: &str) -> bool {
    let parts = volume.projected.iter().filter_map(|source| source.sources.as_ref()).flatten();
    match kind {
        Kind::ConfigMap => {
            let own = volume.config_map.iter().map(|source| source.name.as_str());
            own.chain(parts.filter_map(|part| part.config_map.as_ref().map(|source| source.name.as_str())))
                .any(|known| known == name)
        }
        Kind::Secret => {
            let own = volume.secret.iter().filter_map(|source| source.secret_name.as_deref());
            own.chain(parts.filter_map(|part| part.secret.as_ref().map(|source| source.name.as_str())))
                .any(|known| known == name)
        }
        Kind::Pod => volume.downward_api.is_some() || parts.into_iter().any(|part| part.downward_api.is_some()),
    }
}

/// Objects whose changes reach files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    ConfigMap,
    Secret,
    /// The pod itself: labels, annotations, resources.
    Pod,
}

/// The user of all containers, when they have one in common (VO29).
pub fn common_user(pod: &Pod) -> Option<u32> {
    let spec = pod.spec.as_ref()?;
    let of_pod = spec.security_context.as_ref().and_then(|security| security.run_as_user);
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let mut users = containers
        .map(|container| container.security_context.as_ref().and_then(|security| security.run_as_user).or(of_pod));
    let first = users.next()??;
    let same = users.all(|user| user == Some(first));
    u32::try_from(first).ok().filter(|_| same)
}

/// `fsGroup` of the pod.
pub fn fs_group(pod: &Pod) -> Option<u32> {
    let group = pod.spec.as_ref()?.security_context.as_ref()?.fs_group?;
    u32::try_from(group).ok()
}

fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or("default")
}

#[cfg(test)]
mod tests;
