//! Takes images from OCI layouts, OCI archives and docker archives into the store.
//!
//! Every blob is hashed while it is copied, and unpacked only when its size and digest are what its manifest says; nothing is
//! visible before all of it is verified and durable (D25).

mod source;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};

use oci_spec::image::{Descriptor, ImageManifestBuilder, MediaType};

use self::source::Content;
use super::digest::Digest;
use super::document::{self, BadDocument, Blob, Config, DockerImage};
use super::limits::{MAX_CONFIG_BYTES, MAX_INDEX_DEPTH, MAX_MANIFEST_BYTES, MAX_MEMBERS};
use super::reference::{BadReference, Reference};
use super::store::{At as _, Origin, Store, StoreError, Work};
use super::tar::TarError;
use super::unpack::{self, Job, UnpackError};
use crate::sys;

pub use source::Source;

/// Why nothing was loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{call} {}: {cause}", .path.display())]
    Io { call: &'static str, path: PathBuf, cause: io::Error },
    #[error("{0}")]
    Archive(#[from] TarError),
    #[error("neither an OCI layout (index.json) nor a docker archive (manifest.json)")]
    NoImage,
    #[error("{name}: {cause}")]
    Document { name: String, cause: BadDocument },
    #[error("{0} is missing")]
    Missing(String),
    #[error("{0} is in it twice")]
    Twice(String),
    #[error("more than {MAX_MEMBERS} files")]
    TooManyMembers,
    #[error("{name} is larger than {limit} bytes")]
    TooLarge { name: String, limit: u64 },
    #[error("{name}: has {actual} bytes, its descriptor says {wanted}")]
    Size { name: String, wanted: u64, actual: u64 },
    #[error("{name}: content has digest {actual}")]
    Digest { name: String, actual: Digest },
    #[error("layer {layer}: uncompressed content has digest {actual}, the configuration says {wanted}")]
    DiffId { layer: Digest, wanted: Digest, actual: Digest },
    #[error("layer {number} of {count} ({digest}): {cause}")]
    Unpack { number: usize, count: usize, digest: Digest, cause: UnpackError },
    #[error("indexes name each other more than {MAX_INDEX_DEPTH} deep")]
    TooDeep,
    #[error("no image for {wanted}; there is {found}")]
    Platform { wanted: String, found: String },
    #[error("the name in the archive: {0}")]
    Reference(#[from] BadReference),
    #[error("{0} images cannot all have the name that was given")]
    OneName(usize),
}

/// What is going on, for people who wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Bytes read from an archive.
    Read { bytes: u64 },
    /// Stored bytes of layer `number` of `count` that are unpacked.
    Unpack { number: usize, count: usize, bytes: u64, total: u64 },
}

/// How to load.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Instead of the names in the archive.
    pub name: Option<Reference>,
    /// The program that is run as the unpacker; none means this one.
    pub unpacker: Option<PathBuf>,
}

/// An image that is in the store now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    pub id: Digest,
    pub manifest: Digest,
    pub references: Vec<Reference>,
    /// What was left out of layers: device nodes and the like; up to 20 texts a layer.
    pub skipped: Vec<String>,
}

/// Loads every image that `source` holds for this machine.
pub fn load(
    store: &Store,
    source: Source,
    options: &Options,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<Loaded>, LoadError> {
    let work = store.begin()?;
    let content = Content::read(source, &work, progress)?;
    let unpacker = open_unpacker(options.unpacker.as_deref())?;
    let mut loader = Loader {
        store,
        work: &work,
        content: &content,
        unpacker: unpacker.as_fd(),
        progress,
        finished: HashMap::new(),
        chosen: HashMap::new(),
        skipped: Vec::new(),
    };
    let mut found = loader.found()?;
    if let Some(name) = &options.name {
        if found.len() > 1 {
            return Err(LoadError::OneName(found.len()));
        }
        for image in &mut found {
            image.references = vec![name.clone()];
        }
    }
    found.into_iter().map(|image| loader.import(image)).collect()
}

pub(super) fn open_unpacker(program: Option<&Path>) -> Result<std::os::fd::OwnedFd, LoadError> {
    match program {
        Some(path) => File::open(path).map(Into::into).map_err(io_error("open", path)),
        None => sys::unpack::own_program().map_err(io_error("open", "/proc/self/exe")),
    }
}

pub(super) fn io_error(call: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> LoadError {
    move |cause| LoadError::Io { call, path: path.into(), cause }
}

pub(super) fn document_error(name: impl Into<String>) -> impl FnOnce(BadDocument) -> LoadError {
    move |cause| LoadError::Document { name: name.into(), cause }
}

/// An image that an archive names.
struct Found {
    manifest: Vec<u8>,
    descriptor: Descriptor,
    references: Vec<Reference>,
    made_here: bool,
}

struct Loader<'a> {
    store: &'a Store,
    work: &'a Work<'a>,
    content: &'a Content,
    unpacker: BorrowedFd<'a>,
    progress: &'a mut dyn FnMut(Progress),
    /// What stands in the work directory, verified, and where it belongs.
    finished: HashMap<String, PathBuf>,
    /// What indexes led to, by their digest and type.
    chosen: HashMap<(String, String), Descriptor>,
    skipped: Vec<String>,
}

impl Loader<'_> {
    fn found(&mut self) -> Result<Vec<Found>, LoadError> {
        if let Some(index) = self.content.document("index.json")? {
            let index = document::index(&index, None).map_err(document_error("index.json"))?;
            let mut found = Vec::new();
            for descriptor in index.manifests() {
                let image = self.choose(descriptor, MAX_INDEX_DEPTH)?;
                self.add_found(&mut found, image, names_of(descriptor)?)?;
            }
            return Ok(found);
        }
        let manifest = self.content.document("manifest.json")?.ok_or(LoadError::NoImage)?;
        let images =
            document::docker_images(&manifest, self.store.limits()).map_err(document_error("manifest.json"))?;
        images.iter().map(|image| self.docker_image(image)).collect()
    }

    /// Follows indexes to the manifest for this machine. Each is read once, however many name it: thousands may.
    fn choose(&mut self, descriptor: &Descriptor, depth: usize) -> Result<Descriptor, LoadError> {
        if !document::is_index(descriptor.media_type()) {
            return Ok(descriptor.clone());
        }
        let name = descriptor.digest().to_string();
        let key = (name.clone(), descriptor.media_type().to_string());
        if let Some(known) = self.chosen.get(&key) {
            return Ok(known.clone());
        }
        let bytes = self.small(descriptor, MAX_MANIFEST_BYTES)?;
        let index = document::index(&bytes, Some(descriptor.media_type())).map_err(document_error(name))?;
        let depth = depth.checked_sub(1).ok_or(LoadError::TooDeep)?;
        let mine = index.manifests().iter().find(|d| is_this_machine(d));
        let chosen = match mine {
            Some(descriptor) => self.choose(descriptor, depth)?,
            None => return Err(LoadError::Platform { wanted: this_machine(), found: platforms(index.manifests()) }),
        };
        self.chosen.insert(key, chosen.clone());
        Ok(chosen)
    }

    /// One manifest under several names is one image.
    fn add_found(
        &mut self,
        found: &mut Vec<Found>,
        descriptor: Descriptor,
        references: Vec<Reference>,
    ) -> Result<(), LoadError> {
        if let Some(known) = found.iter_mut().find(|known| known.descriptor.digest() == descriptor.digest()) {
            known.references.extend(references);
            return Ok(());
        }
        let manifest = self.small(&descriptor, MAX_MANIFEST_BYTES)?;
        found.push(Found { manifest, descriptor, references, made_here: false });
        Ok(())
    }

    /// A docker archive has no manifest; one is made, the same for the same archive.
    fn docker_image(&mut self, image: &DockerImage) -> Result<Found, LoadError> {
        let config = self.content.named(&image.config)?;
        let layers = image.layers.iter().map(|name| {
            let blob = self.content.named(name)?;
            Ok(Descriptor::new(MediaType::ImageLayer, blob.size, oci_digest(&blob.digest)?))
        });
        let manifest = ImageManifestBuilder::default()
            .schema_version(2u32)
            .media_type(MediaType::ImageManifest)
            .config(Descriptor::new(MediaType::ImageConfig, config.size, oci_digest(&config.digest)?))
            .layers(layers.collect::<Result<Vec<_>, LoadError>>()?)
            .build()
            .map_err(|err| io_error("make manifest", &image.config)(io::Error::other(err)))?;
        let bytes =
            serde_json::to_vec(&manifest).map_err(|err| io_error("make manifest", &image.config)(err.into()))?;
        let digest = Digest::of(&bytes);
        let tags = image.repo_tags.iter().flatten();
        Ok(Found {
            descriptor: Descriptor::new(MediaType::ImageManifest, bytes.len() as u64, oci_digest(&digest)?),
            manifest: bytes,
            references: tags.map(|tag| tag.parse()).collect::<Result<_, _>>()?,
            made_here: true,
        })
    }

    /// A verified document.
    fn small(&mut self, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>, LoadError> {
        let blob = Blob::try_from(descriptor).map_err(document_error("descriptor"))?;
        self.small_blob(&blob, limit)
    }

    fn small_blob(&mut self, blob: &Blob, limit: u64) -> Result<Vec<u8>, LoadError> {
        if blob.size > limit {
            return Err(LoadError::TooLarge { name: blob.digest.to_string(), limit });
        }
        let path = self.blob(blob)?;
        std::fs::read(&path).map_err(io_error("read", path))
    }

    /// A verified blob: in the store already, or in the work directory now.
    fn blob(&mut self, blob: &Blob) -> Result<PathBuf, LoadError> {
        let name = blob.digest.hex().to_owned();
        let ready = self.work.path.join(&name);
        if self.finished.contains_key(&name) {
            check_size(blob, &ready)?;
            return Ok(ready);
        }
        if self.store.has_blob(&blob.digest) {
            let path = self.store.blob_path(&blob.digest);
            check_size(blob, &path)?;
            return Ok(path);
        }
        self.content.fetch(blob, &self.work.path, self.store.limits().blob_bytes)?;
        self.finished.insert(name, self.store.blob_path(&blob.digest));
        Ok(ready)
    }

    fn import(&mut self, image: Found) -> Result<Loaded, LoadError> {
        let name = image.descriptor.digest().to_string();
        let manifest = document::manifest(&image.manifest, image.descriptor.media_type(), self.store.limits())
            .map_err(document_error(name))?;
        let bytes = self.small_blob(&manifest.config, MAX_CONFIG_BYTES)?;
        let config = document::config(&bytes, manifest.layers.len())
            .map_err(document_error(manifest.config.digest.to_string()))?;
        check_platform(&config)?;
        for (i, layer) in manifest.layers.iter().enumerate() {
            let wanted = config.diff_ids.get(i).ok_or_else(|| LoadError::Missing(format!("diff_id {i}")))?;
            self.layer(layer, wanted, (i + 1, manifest.layers.len()))?;
        }
        let manifest_digest = self.keep_manifest(&image)?;
        self.work.publish(&std::mem::take(&mut self.finished))?;
        let origin = if image.made_here { Origin::MadeHere } else { Origin::Manifest };
        self.store.name(&image.descriptor, &image.references, &origin)?;
        Ok(Loaded {
            id: manifest.config.digest,
            manifest: manifest_digest,
            references: image.references,
            skipped: std::mem::take(&mut self.skipped),
        })
    }

    fn keep_manifest(&mut self, image: &Found) -> Result<Digest, LoadError> {
        let digest = Digest::of(&image.manifest);
        let path = self.work.path.join(digest.hex());
        if !path.exists() && !self.store.has_blob(&digest) {
            std::fs::write(&path, &image.manifest).map_err(io_error("write", &path))?;
            self.finished.insert(digest.hex().to_owned(), self.store.blob_path(&digest));
        }
        Ok(digest)
    }

    fn layer(&mut self, layer: &Blob, wanted: &Digest, (number, count): (usize, usize)) -> Result<(), LoadError> {
        let stored = self.blob(layer)?;
        let name = format!("layer-{}", layer.digest.hex());
        let directory = self.work.path.join(&name);
        let actual = match self.store.layer_diff_id(&layer.digest) {
            Some(known) => known,
            None if self.finished.contains_key(&name) => read_digest(&directory.join("diff_id"))?,
            None => {
                let actual = self.unpack(layer, &stored, &directory, (number, count))?;
                self.finished.insert(name, self.store.layer_path(&layer.digest));
                actual
            }
        };
        if actual != *wanted {
            return Err(LoadError::DiffId { layer: layer.digest.clone(), wanted: wanted.clone(), actual });
        }
        Ok(())
    }

    fn unpack(
        &mut self,
        layer: &Blob,
        stored: &Path,
        directory: &Path,
        (number, count): (usize, usize),
    ) -> Result<Digest, LoadError> {
        let file = File::open(stored).map_err(io_error("open", stored))?;
        let progress = &mut *self.progress;
        let total = layer.size;
        let mut tell = |bytes| progress(Progress::Unpack { number, count, bytes, total });
        tell(0);
        let place = Place { work: self.work, program: self.unpacker, directory, digest: &layer.digest, number, count };
        let (diff_id, skipped) = place.unpack(file.as_fd(), &mut tell)?;
        self.skipped.extend(skipped);
        Ok(diff_id)
    }
}

/// Where a layer is unpacked, and what it is called in errors.
pub(super) struct Place<'a> {
    pub(super) work: &'a Work<'a>,
    /// The program that is run as the unpacker.
    pub(super) program: BorrowedFd<'a>,
    /// Becomes the layer's directory in the store.
    pub(super) directory: &'a Path,
    pub(super) digest: &'a Digest,
    pub(super) number: usize,
    pub(super) count: usize,
}

impl Place<'_> {
    /// Unpacks the layer that `stored` gives, a file or a pipe: its diff id, and what was left out.
    pub(super) fn unpack(
        &self,
        stored: BorrowedFd<'_>,
        tell: &mut dyn FnMut(u64),
    ) -> Result<(Digest, Vec<String>), LoadError> {
        super::store::make_directory(self.directory)?;
        let target = self.directory.join("fs");
        super::store::make_directory(&target)?;
        // What a container sees as the mode of `/` when the layer does not say.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&target, mode).map_err(io_error("chmod", &target))?;
        let target = super::store::open_directory(&target)?;
        let job = Job {
            program: self.program,
            layer: stored,
            target: target.as_fd(),
            lock: self.work.lock_file().as_fd(),
            limits: self.work.store.limits(),
        };
        let (number, count, digest) = (self.number, self.count, self.digest.clone());
        let unpacked =
            unpack::unpack(&job, tell).map_err(|cause| LoadError::Unpack { number, count, digest, cause })?;
        let diff_id = unpacked.summary.diff_id;
        let path = self.directory.join("diff_id");
        std::fs::write(&path, diff_id.to_string()).at("write", path)?;
        Ok((diff_id, unpacked.skipped))
    }
}

/// `io.containerd.image.name` is a whole name; `org.opencontainers.image.ref.name` may be a tag alone, which names nothing.
fn names_of(descriptor: &Descriptor) -> Result<Vec<Reference>, LoadError> {
    let Some(annotations) = descriptor.annotations() else {
        return Ok(Vec::new());
    };
    if let Some(name) = annotations.get("io.containerd.image.name") {
        return Ok(vec![name.parse()?]);
    }
    match annotations.get("org.opencontainers.image.ref.name") {
        Some(name) if name.contains([':', '/', '@']) => Ok(vec![name.parse()?]),
        Some(_) | None => Ok(Vec::new()),
    }
}

pub(super) fn check_size(blob: &Blob, path: &Path) -> Result<(), LoadError> {
    let actual = std::fs::metadata(path).map_err(io_error("stat", path))?.len();
    if actual != blob.size {
        return Err(LoadError::Size { name: blob.digest.to_string(), wanted: blob.size, actual });
    }
    Ok(())
}

fn read_digest(path: &Path) -> Result<Digest, LoadError> {
    let text = std::fs::read_to_string(path).map_err(io_error("read", path))?;
    text.parse().map_err(|err| io_error("read", path)(io::Error::other(err)))
}

pub(super) fn oci_digest(digest: &Digest) -> Result<oci_spec::image::Digest, LoadError> {
    digest.to_string().parse().map_err(|err| io_error("digest", digest.hex())(io::Error::other(err)))
}

/// GOARCH of this machine.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

pub(super) fn this_machine() -> String {
    format!("linux/{}", architecture())
}

pub(super) fn is_this_machine(descriptor: &Descriptor) -> bool {
    descriptor.platform().as_ref().is_none_or(|platform| {
        platform.os().to_string() == "linux" && platform.architecture().to_string() == architecture()
    })
}

pub(super) fn platforms(descriptors: &[Descriptor]) -> String {
    let all = descriptors.iter().filter_map(|d| d.platform().as_ref());
    let names = all.map(|p| format!("{}/{}", p.os(), p.architecture()));
    names.take(20).collect::<Vec<_>>().join(", ")
}

pub(super) fn check_platform(config: &Config) -> Result<(), LoadError> {
    // Old tools left both empty.
    let os = config.os.is_empty() || config.os == "linux";
    let arch = config.architecture.is_empty() || config.architecture == architecture();
    if os && arch {
        return Ok(());
    }
    Err(LoadError::Platform { wanted: this_machine(), found: format!("{}/{}", config.os, config.architecture) })
}
