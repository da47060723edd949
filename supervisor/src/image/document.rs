//! Manifests, indexes and configurations: JSON of strangers, checked before it is believed (D25).

use std::collections::BTreeMap;

use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType};
use serde::Deserialize;

use super::digest::Digest;
use super::limits::{Limits, MAX_MEMBERS};

const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";

/// Why a document is refused.
#[derive(Debug, thiserror::Error)]
pub enum BadDocument {
    #[error("{what}: {cause}")]
    Json { what: &'static str, cause: serde_json::Error },
    #[error("{0} has both \"layers\" and \"manifests\": it could be read as either")]
    Ambiguous(&'static str),
    #[error("{what} says it is {said:?}, its descriptor says {wanted:?}")]
    MediaType { what: &'static str, said: String, wanted: String },
    #[error("{0:?} is no container image's {1}")]
    NotAnImage(String, &'static str),
    #[error("{0}")]
    Digest(#[from] super::digest::BadDigest),
    #[error("{0} layers, the limit is {1}")]
    TooManyLayers(usize, usize),
    #[error("the configuration names {config} layers, the manifest {manifest}")]
    LayerCount { config: usize, manifest: usize },
    #[error("the index names {0} manifests, the limit is {MAX_MEMBERS}")]
    TooManyManifests(usize),
    #[error("schema version {0} is not 2")]
    Schema(u32),
}

/// A blob as a manifest names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    pub digest: Digest,
    pub size: u64,
}

impl TryFrom<&Descriptor> for Blob {
    type Error = BadDocument;

    fn try_from(descriptor: &Descriptor) -> Result<Self, BadDocument> {
        Ok(Self { digest: descriptor.digest().to_string().parse()?, size: descriptor.size() })
    }
}

/// What a manifest needs to be an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    pub config: Blob,
    /// The lowest first.
    pub layers: Vec<Blob>,
}

/// Is this document an index, by its descriptor's media type?
pub fn is_index(media_type: &MediaType) -> bool {
    matches!(media_type, MediaType::ImageIndex) || media_type.to_string() == DOCKER_INDEX
}

fn is_manifest(media_type: &MediaType) -> bool {
    matches!(media_type, MediaType::ImageManifest) || media_type.to_string() == DOCKER_MANIFEST
}

/// What a registry's answer is: by its header, else by its own word, else by its shape. Whatever this says, reading it as that is
/// what decides.
pub fn media_type(bytes: &[u8], header: Option<&str>) -> MediaType {
    let header = header.and_then(|header| header.split(';').next()).map(|header| MediaType::from(header.trim()));
    if let Some(known) = header.filter(|media_type| is_index(media_type) || is_manifest(media_type)) {
        return known;
    }
    match serde_json::from_slice::<Shape>(bytes) {
        Ok(Shape { media_type: Some(own), .. }) => own.as_str().into(),
        Ok(Shape { manifests: Some(_), .. }) => MediaType::ImageIndex,
        Ok(_) | Err(_) => MediaType::ImageManifest,
    }
}

/// Both documents' own say: a field that is only looked for.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    media_type: Option<String>,
    layers: Option<serde::de::IgnoredAny>,
    manifests: Option<serde::de::IgnoredAny>,
}

fn check_shape(what: &'static str, bytes: &[u8], media_type: Option<&MediaType>) -> Result<(), BadDocument> {
    let shape: Shape = json(what, bytes)?;
    if shape.layers.is_some() && shape.manifests.is_some() {
        return Err(BadDocument::Ambiguous(what));
    }
    match (shape.media_type, media_type.map(MediaType::to_string)) {
        (Some(said), Some(wanted)) if said != wanted => Err(BadDocument::MediaType { what, said, wanted }),
        (Some(_) | None, _) => Ok(()),
    }
}

fn json<'a, T: Deserialize<'a>>(what: &'static str, bytes: &'a [u8]) -> Result<T, BadDocument> {
    serde_json::from_slice(bytes).map_err(|cause| BadDocument::Json { what, cause })
}

/// Reads an index. `media_type` is its descriptor's; `index.json` has none.
pub fn index(bytes: &[u8], media_type: Option<&MediaType>) -> Result<ImageIndex, BadDocument> {
    const WHAT: &str = "index";
    check_shape(WHAT, bytes, media_type)?;
    let index: ImageIndex = json(WHAT, bytes)?;
    if let Some(said) = index.media_type().as_ref().filter(|said| !is_index(said)) {
        return Err(BadDocument::NotAnImage(said.to_string(), "index"));
    }
    let count = index.manifests().len();
    if count > MAX_MEMBERS {
        return Err(BadDocument::TooManyManifests(count));
    }
    if index.schema_version() != 2 {
        return Err(BadDocument::Schema(index.schema_version()));
    }
    Ok(index)
}

/// Reads a manifest of the type that its descriptor says.
pub fn manifest(bytes: &[u8], media_type: &MediaType, limits: &Limits) -> Result<Manifest, BadDocument> {
    const WHAT: &str = "manifest";
    if !is_manifest(media_type) {
        return Err(BadDocument::NotAnImage(media_type.to_string(), WHAT));
    }
    check_shape(WHAT, bytes, Some(media_type))?;
    let manifest: ImageManifest = json(WHAT, bytes)?;
    if manifest.schema_version() != 2 {
        return Err(BadDocument::Schema(manifest.schema_version()));
    }
    let config_type = manifest.config().media_type().to_string();
    if !matches!(manifest.config().media_type(), MediaType::ImageConfig) && config_type != DOCKER_CONFIG {
        return Err(BadDocument::NotAnImage(config_type, "configuration"));
    }
    let layers = manifest.layers();
    if layers.len() > limits.layers {
        return Err(BadDocument::TooManyLayers(layers.len(), limits.layers));
    }
    if let Some(odd) = layers.iter().find(|layer| !is_layer(layer.media_type())) {
        return Err(BadDocument::NotAnImage(odd.media_type().to_string(), "layer"));
    }
    Ok(Manifest {
        config: manifest.config().try_into()?,
        layers: layers.iter().map(Blob::try_from).collect::<Result<_, _>>()?,
    })
}

fn is_layer(media_type: &MediaType) -> bool {
    let text = media_type.to_string();
    let oci = text.strip_prefix("application/vnd.oci.image.layer.v1.tar");
    let docker = text.strip_prefix(DOCKER_LAYER);
    matches!(oci, Some("" | "+gzip" | "+zstd")) || matches!(docker, Some("" | ".gzip" | ".zstd"))
}

/// What runs a container of the image: every byte of it is the author's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub env: Vec<String>,
    /// As written: `uid`, `name`, `uid:gid`, `name:group`; empty is root.
    pub user: String,
    pub working_dir: String,
    pub stop_signal: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub exposed_ports: Vec<String>,
    pub volumes: Vec<String>,
    /// Digests of the uncompressed layers, the lowest first.
    pub diff_ids: Vec<Digest>,
    pub architecture: String,
    pub os: String,
    /// RFC 3339, as the author wrote it.
    pub created: Option<String>,
}

/// Reads a configuration that must fit a manifest of so many layers.
pub fn config(bytes: &[u8], layers: usize) -> Result<Config, BadDocument> {
    let document: ImageConfiguration = json("configuration", bytes)?;
    let diff_ids = document.rootfs().diff_ids();
    if diff_ids.len() != layers {
        return Err(BadDocument::LayerCount { config: diff_ids.len(), manifest: layers });
    }
    let inner = document.config().clone().unwrap_or_default();
    Ok(Config {
        entrypoint: inner.entrypoint().clone().unwrap_or_default(),
        cmd: inner.cmd().clone().unwrap_or_default(),
        env: inner.env().clone().unwrap_or_default(),
        user: inner.user().clone().unwrap_or_default(),
        working_dir: inner.working_dir().clone().unwrap_or_default(),
        stop_signal: inner.stop_signal().clone().filter(|signal| !signal.is_empty()),
        labels: inner.labels().clone().unwrap_or_default().into_iter().collect(),
        exposed_ports: sorted(inner.exposed_ports().clone()),
        volumes: sorted(inner.volumes().clone()),
        diff_ids: diff_ids.iter().map(|id| id.parse()).collect::<Result<_, _>>()?,
        architecture: document.architecture().to_string(),
        os: document.os().to_string(),
        created: document.created().clone(),
    })
}

fn sorted(list: Option<Vec<String>>) -> Vec<String> {
    let mut list = list.unwrap_or_default();
    list.sort();
    list
}

/// One image of docker's `manifest.json`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DockerImage {
    pub config: String,
    #[serde(default)]
    pub repo_tags: Option<Vec<String>>,
    pub layers: Vec<String>,
}

/// Reads `manifest.json` of a docker archive.
pub fn docker_images(bytes: &[u8], limits: &Limits) -> Result<Vec<DockerImage>, BadDocument> {
    let images: Vec<DockerImage> = json("manifest.json", bytes)?;
    match images.iter().find(|image| image.layers.len() > limits.layers) {
        Some(image) => Err(BadDocument::TooManyLayers(image.layers.len(), limits.layers)),
        None => Ok(images),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const OCI: &str = "application/vnd.oci.image.manifest.v1+json";

    fn text(extra: &str, config_type: &str, layer_type: &str, digest: &str) -> String {
        format!(
            r#"{{"schemaVersion":2{extra},"config":{{"mediaType":"{config_type}","digest":"sha256:{HEX}","size":1}},
            "layers":[{{"mediaType":"{layer_type}","digest":"{digest}","size":2}}]}}"#
        )
    }

    // P17
    #[test]
    fn documents_that_can_be_read_in_two_ways_are_refused() {
        let config = "application/vnd.oci.image.config.v1+json";
        let layer = "application/vnd.oci.image.layer.v1.tar+gzip";
        let digest = format!("sha256:{HEX}");
        let media: MediaType = OCI.into();
        let read = |text: &str| manifest(text.as_bytes(), &media, &Limits::default()).map_err(|e| e.to_string());
        assert_eq!(read(&text("", config, layer, &digest)).unwrap().layers.len(), 1);
        for (bad, want) in [
            (text(r#","manifests":[]"#, config, layer, &digest), "both"),
            (text(r#","mediaType":"application/x""#, config, layer, &digest), "its descriptor says"),
            (text(r#","layers":[]"#, config, layer, &digest), "duplicate field"),
            (text("", "application/x", layer, &digest), "no container image's configuration"),
            (text("", config, "application/x", &digest), "no container image's layer"),
            (text("", config, layer, &digest.to_uppercase()), "sha256"),
            (text("", config, layer, "sha256:../../x"), ""),
        ] {
            let err = read(&bad).unwrap_err();
            assert!(err.to_lowercase().contains(want), "want {want:?}, got {err:?}");
        }
    }

    #[test]
    fn a_configuration_must_name_as_many_layers_as_the_manifest() {
        let text = format!(
            r#"{{"architecture":"amd64","os":"linux","config":{{"Cmd":["sh"],"Entrypoint":null,"Volumes":null,
            "ExposedPorts":{{"80/tcp":{{}}}},"Labels":null}},"rootfs":{{"type":"layers","diff_ids":["sha256:{HEX}"]}}}}"#
        );
        let config = config(text.as_bytes(), 1).unwrap();
        assert_eq!((config.cmd, config.exposed_ports), (vec!["sh".to_owned()], vec!["80/tcp".to_owned()]));
        assert!(super::config(text.as_bytes(), 2).is_err());
    }
}
