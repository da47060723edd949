//! Where images are kept.
//!
//! ```text
//! ROOT/                   0700
//!   oci-layout index.json an OCI image layout; one descriptor per name, `org.opencontainers.image.ref.name` is the whole name
//!   index.copy.json       the index again
//!   blobs/sha256/HEX      manifests, configurations, layers as they came
//!   layers/HEX/fs         the layer with this *blob's* digest, in overlayfs's form
//!   layers/HEX/diff_id    digest of its uncompressed archive
//!   tmp/                  work that is not finished
//!   holds/ used/          who uses which image, and when each was used last
//!   access/HEX            with whose rights the image with this id was pulled
//!   lock                  shared: somebody is at work. Exclusive: nobody is, so what nothing names or holds may go
//!   index.lock            held while `index.json` is replaced
//! ```
//!
//! A layer is named by its stored bytes, which this process has hashed, and not by its diff id, which the unpacker reports:
//! a layer that got the better of the unpacker must not become the layer of another image.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use k8s_openapi::api::core::v1::ContainerImage;
use oci_spec::image::{Descriptor, ImageIndex};
use rustix::fs::{FlockOperation, Mode, OFlags, flock};

use super::access::{self, AccessPolicy};
use super::digest::Digest;
use super::document::{self, BadDocument, Config};
use super::holds::Holds;
use super::index::Index;
use super::limits::{Limits, MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES};
use super::pull::Progress;
use super::reference::Reference;
use super::registry::config::{PullSecret, Source};
use super::tree;

/// Where the node keeps its images.
pub const DEFAULT_ROOT: &str = "/var/lib/monopod/images";
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Marks a manifest that was made here for a docker archive: no registry knows its digest.
const MADE_HERE: &str = "io.monopod.made-here";
/// The index through which a registry gave the manifest: what its repository digest is.
const INDEX_DIGEST: &str = "io.monopod.index";
/// The kubelet's default.
const NODE_STATUS_MAX_IMAGES: usize = 50;
/// Names of one image in a Node's status.
const MAX_NAMES: usize = 5;
const OCI_LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
const BLOBS: &str = "blobs/sha256";
const LAYERS: &str = "layers";
const TMP: &str = "tmp";
const LOCK: &str = "lock";
/// Images that are never removed to make room.
const PINNED: &str = "io.monopod.pinned";

/// What went wrong with the store itself.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("image store: {call} {}: {cause}", .path.display())]
    Io { call: &'static str, path: PathBuf, cause: io::Error },
    #[error("image {image} is in use by a container")]
    InUse { image: String },
    #[error("image store: {} is damaged ({cause}); remove it, and load again what it had", .path.display())]
    Damaged { path: PathBuf, cause: String },
}

type Result<T> = std::result::Result<T, StoreError>;

pub(super) trait At<T> {
    fn at(self, call: &'static str, path: impl Into<PathBuf>) -> Result<T>;
}

impl<T, E: Into<io::Error>> At<T> for std::result::Result<T, E> {
    fn at(self, call: &'static str, path: impl Into<PathBuf>) -> Result<T> {
        self.map_err(|cause| StoreError::Io { call, path: path.into(), cause: cause.into() })
    }
}

/// An image that is in the store whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Digest of the configuration.
    pub id: Digest,
    /// Digest of the manifest.
    pub manifest: Digest,
    pub references: Vec<Reference>,
    /// `REPOSITORY@DIGEST`: what a container's `imageID` shows. Empty when the manifest was made here.
    pub repo_digests: Vec<String>,
    /// Bytes of all its blobs.
    pub size: u64,
    /// Never removed to make room.
    pub pinned: bool,
    pub config: Config,
    /// Directories of the unpacked layers, the uppermost first, as `lowerdir+` wants them.
    pub layers: Vec<PathBuf>,
}

impl Image {
    /// What kubelet shows as `imageID`: a repository digest when there is one, else the image's id.
    pub fn image_id(&self) -> String {
        let first = self.repo_digests.first();
        first.cloned().unwrap_or_else(|| self.id.to_string())
    }

    /// What people know it as: its first name, or its id.
    pub fn shown(&self) -> String {
        self.references.first().map_or_else(|| self.id.to_string(), Reference::familiar)
    }
}

/// Where a manifest's name comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// Made here for a docker archive.
    MadeHere,
    /// What the name stands for is the manifest itself.
    Manifest,
    /// The name stands for an index, which names the manifest for this machine.
    Index(Digest),
}

/// What [`Store::remove`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    pub reference: Reference,
    /// Whether the space was given back. If not, the store is in use elsewhere, and it is at the next opening.
    pub collected: bool,
}

/// Who wants to know how pulls go on: the name of the image, and what happened.
pub type Watcher = Box<dyn Fn(&str, Progress) + Send + Sync>;

/// An image store. Many processes may have one open.
pub struct Store {
    root: PathBuf,
    limits: Limits,
    watcher: Option<Watcher>,
    access: AccessPolicy,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("root", &self.root).finish_non_exhaustive()
    }
}

/// Unfinished work: a directory in `tmp` that goes with it.
#[derive(Debug)]
pub struct Work<'a> {
    pub(super) path: PathBuf,
    pub(super) store: &'a Store,
    /// Locked, shared.
    lock: File,
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        // What stays is removed at the next opening.
        self.store.remove_tree(&self.path).unwrap_or_default();
    }
}

impl Store {
    /// Opens the store, makes it if it is not there, and removes what a killed process left.
    pub fn open(root: impl Into<PathBuf>, limits: Limits) -> Result<Self> {
        let root = root.into();
        for dir in ["", BLOBS, LAYERS, TMP] {
            make_directory(&root.join(dir))?;
        }
        let layout = root.join("oci-layout");
        match fs::read(&layout) {
            Ok(content) if content == OCI_LAYOUT => {}
            Ok(_) => {
                tracing::error!("{} is damaged; made anew", layout.display());
                write_file(&layout, OCI_LAYOUT)?;
            }
            Err(_) => write_file(&layout, OCI_LAYOUT)?,
        }
        let store = Self { root, limits, watcher: None, access: AccessPolicy::default() };
        store.collect()?;
        Ok(store)
    }

    /// The same store, whose pulls somebody watches.
    pub fn watched(self, watcher: Watcher) -> Self {
        Self { watcher: Some(watcher), ..self }
    }

    /// The same store, in which pods have to prove what this policy says.
    pub fn verifying(self, access: AccessPolicy) -> Self {
        Self { access, ..self }
    }

    /// Passes the progress of a pull on to whoever watches.
    pub fn tell(&self, name: &str, progress: Progress) {
        if let Some(watcher) = &self.watcher {
            watcher(name, progress);
        }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Removes unfinished work, blobs and layers that nothing names or holds, unless somebody is at work.
    pub fn collect(&self) -> Result<bool> {
        let lock = open_lock(&self.root.join(LOCK))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(false);
        }
        self.sweep().map(|()| true)
    }

    fn sweep(&self) -> Result<()> {
        for left in list(&self.root.join(TMP))? {
            self.remove_tree(&left)?;
        }
        Index { root: &self.root }.mend_copy()?;
        // With a damaged index nobody knows what is in use: everything stays.
        let live = self.live_blobs()?;
        for kind in [BLOBS, LAYERS] {
            for path in list(&self.root.join(kind))? {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                if !live.contains(name.as_ref()) {
                    self.remove_tree(&path)?;
                }
            }
        }
        let records = access::directory(&self.root);
        for path in if records.exists() { list(&records)? } else { Vec::new() } {
            if !live.contains(path.file_name().unwrap_or_default().to_string_lossy().as_ref()) {
                self.remove_tree(&path)?;
            }
        }
        self.holds().sweep(|name| live.contains(name))
    }

    pub(super) fn holds(&self) -> Holds<'_> {
        Holds { root: &self.root }
    }

    /// Keeps an image from being removed until `release`, or until the user's own record `while_exists` is gone.
    pub fn hold(&self, user: &str, image: &Image, while_exists: &Path) -> Result<()> {
        self.holds().take(user, &image.manifest, while_exists)
    }

    /// Ends a hold; none is no error.
    pub fn release(&self, user: &str) -> Result<()> {
        self.holds().release(user)
    }

    /// Manifests of images that somebody holds.
    pub fn in_use(&self) -> Result<BTreeSet<Digest>> {
        self.holds().in_use()
    }

    /// When an image was used last.
    pub fn last_used(&self, manifest: &Digest) -> SystemTime {
        self.holds().last_used(manifest)
    }

    /// Whether a pod with these secrets may have the image under this name without asking the registry (IP4).
    pub fn allows(&self, image: &Image, reference: &Reference, secrets: &[PullSecret]) -> bool {
        access::allows(&self.root, &image.id, &reference.repository(), secrets, &self.access)
    }

    /// Whether the image was loaded from a file, and no registry has given it since.
    pub fn is_loaded(&self, image: &Image) -> bool {
        access::is_loaded(&self.root, &image.id)
    }

    /// Remembers with whose rights an image was pulled; before it has a name that others see.
    pub(super) fn remember(&self, id: &Digest, reference: &Reference, rights: Option<&Source>) -> Result<()> {
        access::remember(&self.root, id, &reference.repository(), rights)
    }

    pub(super) fn io_error(&self, call: &'static str, cause: io::Error) -> StoreError {
        StoreError::Io { call, path: self.root.clone(), cause }
    }

    fn live_blobs(&self) -> Result<HashSet<String>> {
        let mut live = HashSet::new();
        for descriptor in self.index()?.manifests() {
            let digest = descriptor.digest().digest();
            // A damaged manifest keeps nothing but itself, so that it can be named in an error.
            if let Ok(manifest) = self.manifest(descriptor) {
                let blobs = manifest.layers.iter().chain([&manifest.config]);
                live.extend(blobs.map(|blob| blob.digest.hex().to_owned()));
            }
            live.insert(digest.to_owned());
            let index = annotation(descriptor, INDEX_DIGEST).and_then(|index| index.parse::<Digest>().ok());
            live.extend(index.map(|index| index.hex().to_owned()));
        }
        for manifest in self.in_use()? {
            live.extend(self.blobs_of(&manifest));
        }
        Ok(live)
    }

    /// What a manifest that has lost its names keeps.
    fn blobs_of(&self, digest: &Digest) -> Vec<String> {
        let bytes = self.read_blob(digest, MAX_MANIFEST_BYTES).unwrap_or_default();
        let media_type = document::media_type(&bytes, None);
        let manifest = document::manifest(&bytes, &media_type, &self.limits);
        let blobs = manifest.map(|manifest| manifest.layers.into_iter().chain([manifest.config]).collect::<Vec<_>>());
        let names = blobs.unwrap_or_default().into_iter().map(|blob| blob.digest.hex().to_owned());
        names.chain([digest.hex().to_owned()]).collect()
    }

    pub(super) fn remove_tree(&self, path: &Path) -> Result<()> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(());
        };
        let dir = open_directory(parent)?;
        tree::remove(&dir, name).at("remove", path)
    }

    /// Starts work that is invisible until it is published.
    pub fn begin(&self) -> Result<Work<'_>> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let lock_path = self.root.join(LOCK);
        let lock = open_lock(&lock_path)?;
        flock(&lock, FlockOperation::LockShared).at("flock", lock_path)?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{number}", std::process::id());
        let path = self.root.join(TMP).join(name);
        // A pid comes again: what stands there belongs to a dead process, since this one counts.
        self.remove_tree(&path)?;
        make_directory(&path)?;
        Ok(Work { path, store: self, lock })
    }

    /// The digest of the uncompressed archive of an unpacked layer, if it is there.
    pub(super) fn layer_diff_id(&self, layer: &Digest) -> Option<Digest> {
        let path = self.root.join(LAYERS).join(layer.hex()).join("diff_id");
        fs::read_to_string(path).ok()?.parse().ok()
    }

    pub(super) fn has_blob(&self, digest: &Digest) -> bool {
        self.blob_path(digest).exists()
    }

    pub(super) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join(BLOBS).join(digest.hex())
    }

    pub(super) fn layer_path(&self, digest: &Digest) -> PathBuf {
        self.root.join(LAYERS).join(digest.hex())
    }

    fn index(&self) -> Result<ImageIndex> {
        Index { root: &self.root }.read()
    }

    fn change_index(&self, change: impl FnOnce(&mut Vec<Descriptor>)) -> Result<()> {
        let lock_path = self.root.join("index.lock");
        let lock = open_lock(&lock_path)?;
        flock(&lock, FlockOperation::LockExclusive).at("flock", lock_path)?;
        let mut descriptors = self.index()?.manifests().clone();
        change(&mut descriptors);
        Index { root: &self.root }.write(descriptors)
    }

    /// Gives an image its names; each name leaves the image that had it.
    pub(super) fn name(&self, descriptor: &Descriptor, references: &[Reference], origin: &Origin) -> Result<()> {
        self.change_index(|descriptors| {
            let named =
                |d: &Descriptor| ref_name(d).is_some_and(|name| references.iter().any(|r| r.to_string() == name));
            let same = |d: &Descriptor| d.digest() == descriptor.digest() && ref_name(d).is_none();
            descriptors.retain(|d| !named(d) && !same(d));
            let names: Vec<_> = references.iter().map(Some).collect();
            let nameless = names.is_empty() && !descriptors.iter().any(|d| d.digest() == descriptor.digest());
            let names = if nameless { vec![None] } else { names };
            descriptors.extend(names.into_iter().map(|name| described(descriptor, name, origin)));
        })
    }

    fn manifest(&self, descriptor: &Descriptor) -> Result<document::Manifest> {
        let digest = own_digest(descriptor, &Index { root: &self.root }.path())?;
        let bytes = self.read_blob(&digest, MAX_MANIFEST_BYTES)?;
        document::manifest(&bytes, descriptor.media_type(), &self.limits)
            .map_err(|err| damaged(&self.blob_path(&digest), err))
    }

    /// A small blob; its digest is checked again, since disks lie.
    pub(super) fn read_blob(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>> {
        let path = self.blob_path(digest);
        let bytes = read_bounded(&path, limit)?;
        if Digest::of(&bytes) == *digest { Ok(bytes) } else { Err(damaged(&path, "its content does not fit its name")) }
    }

    /// All images, each once, in the order of their first name. A damaged one is an error in its place.
    pub fn images(&self) -> Result<Vec<Result<Image>>> {
        let index = self.index()?;
        let mut groups: BTreeMap<String, Vec<&Descriptor>> = BTreeMap::new();
        for descriptor in index.manifests() {
            groups.entry(descriptor.digest().to_string()).or_default().push(descriptor);
        }
        let mut images: Vec<_> = groups.into_values().map(|group| self.image(&group)).collect();
        images.sort_by_key(|image| image.as_ref().ok().map(|i| i.references.first().map(Reference::to_string)));
        Ok(images)
    }

    fn image(&self, descriptors: &[&Descriptor]) -> Result<Image> {
        let first = descriptors.first().ok_or_else(|| damaged(&Index { root: &self.root }.path(), "empty group"))?;
        let digest = own_digest(first, &Index { root: &self.root }.path())?;
        let manifest = self.manifest(first)?;
        let bytes = self.read_blob(&manifest.config.digest, MAX_CONFIG_BYTES)?;
        let config = document::config(&bytes, manifest.layers.len())
            .map_err(|err| damaged(&self.blob_path(&manifest.config.digest), err))?;
        let names = descriptors
            .iter()
            .filter_map(|d| Some((ref_name(d)?.parse::<Reference>().ok()?, registry_digest(d, &digest))));
        let names: BTreeMap<Reference, Option<Digest>> = names.collect();
        let repo_digests = names.iter().filter_map(|(name, known)| Some(name.with_digest(known.as_ref()?)));
        let mut repo_digests: Vec<String> = repo_digests.collect();
        repo_digests.dedup();
        let blobs = manifest.layers.iter().chain([&manifest.config]);
        Ok(Image {
            id: manifest.config.digest.clone(),
            size: blobs.map(|blob| blob.size).sum::<u64>() + first.size(),
            manifest: digest,
            repo_digests,
            pinned: descriptors.iter().any(|d| annotation(d, PINNED).is_some()),
            references: names.into_keys().collect(),
            layers: self.layer_directories(&manifest)?,
            config,
        })
    }

    fn layer_directories(&self, manifest: &document::Manifest) -> Result<Vec<PathBuf>> {
        let directories = manifest.layers.iter().rev().map(|layer| {
            let path = self.layer_path(&layer.digest).join("fs");
            fs::metadata(&path).at("stat", &path).map(|_| path)
        });
        directories.collect()
    }

    /// The image with this name. With a digest, that manifest of that repository, whatever its tag.
    pub fn resolve(&self, reference: &Reference) -> Result<Option<Image>> {
        let fits = |descriptor: &Descriptor| {
            let name = ref_name(descriptor).and_then(|name| name.parse::<Reference>().ok());
            name.is_some_and(|name| match reference.digest() {
                Some(digest) => {
                    let digest = digest.to_string();
                    let same = descriptor.digest().to_string() == digest
                        || annotation(descriptor, INDEX_DIGEST) == Some(&digest);
                    name.repository() == reference.repository() && same
                }
                None => name == *reference,
            })
        };
        self.image_where(fits)
    }

    /// The image with this id (the digest of its configuration).
    pub fn resolve_id(&self, id: &Digest) -> Result<Option<Image>> {
        let images = self.images()?;
        Ok(images.into_iter().flatten().find(|image| image.id == *id))
    }

    fn image_where(&self, fits: impl Fn(&Descriptor) -> bool) -> Result<Option<Image>> {
        let index = self.index()?;
        let all = index.manifests();
        let Some(found) = all.iter().find(|descriptor| fits(descriptor)) else {
            return Ok(None);
        };
        let group: Vec<_> = all.iter().filter(|d| d.digest() == found.digest()).collect();
        self.image(&group).map(Some)
    }

    /// Takes a name away, and the image with its last name. Gives nothing when there is no such name. An image that is in use
    /// keeps its last name.
    pub fn remove(&self, reference: &Reference) -> Result<Option<Removed>> {
        let full = reference.to_string();
        let in_use = self.in_use()?;
        let (mut found, mut used) = (false, false);
        self.change_index(|descriptors| {
            let Some(at) = descriptors.iter().position(|d| ref_name(d) == Some(&full)) else { return };
            let digest = descriptors.get(at).map(|d| d.digest().to_string()).unwrap_or_default();
            let names = descriptors.iter().filter(|d| d.digest().to_string() == digest).count();
            used = names == 1 && in_use.iter().any(|used| used.to_string() == digest);
            found = true;
            if !used {
                descriptors.remove(at);
            }
        })?;
        if used {
            return Err(StoreError::InUse { image: reference.familiar() });
        }
        if !found {
            return Ok(None);
        }
        Ok(Some(Removed { reference: reference.clone(), collected: self.collect()? }))
    }

    /// Removes an image with all its names, unless somebody uses it.
    pub fn remove_image(&self, manifest: &Digest) -> Result<bool> {
        if self.in_use()?.contains(manifest) {
            return Err(StoreError::InUse { image: manifest.to_string() });
        }
        self.change_index(|descriptors| descriptors.retain(|d| d.digest().to_string() != manifest.to_string()))?;
        self.collect()
    }

    /// Gives an image one more name, which leaves the image that had it.
    pub fn tag(&self, image: &Image, reference: &Reference) -> Result<()> {
        let full = reference.to_string();
        self.change_index(|descriptors| {
            let same = |d: &&Descriptor| d.digest().to_string() == image.manifest.to_string();
            let Some(mut named) = descriptors.iter().find(same).cloned() else { return };
            descriptors.retain(|d| ref_name(d) != Some(&full));
            annotate(&mut named, REF_NAME, Some(full));
            // No registry knows it by this name.
            annotate(&mut named, MADE_HERE, Some("true".to_owned()));
            let digest = named.digest().clone();
            descriptors.retain(|d| d.digest() != &digest || ref_name(d).is_some());
            descriptors.push(named);
        })
    }

    /// Keeps an image from being removed to make room, or lets it go again.
    pub fn pin(&self, image: &Image, pinned: bool) -> Result<()> {
        self.change_index(|descriptors| {
            for descriptor in descriptors.iter_mut().filter(|d| d.digest().to_string() == image.manifest.to_string()) {
                annotate(descriptor, PINNED, pinned.then(|| "true".to_owned()));
            }
        })
    }

    /// The bytes of an image's documents and where its layers are: manifest, configuration, layers.
    pub(super) fn blobs(&self, image: &Image) -> Result<(Descriptor, Vec<Digest>)> {
        let index = self.index()?;
        let found = index.manifests().iter().find(|d| d.digest().to_string() == image.manifest.to_string());
        let descriptor = found.ok_or_else(|| damaged(&Index { root: &self.root }.path(), "the image is gone"))?;
        let manifest = self.manifest(descriptor)?;
        let layers = manifest.layers.into_iter().map(|blob| blob.digest);
        Ok((descriptor.clone(), layers.chain([manifest.config.digest, image.manifest.clone()]).collect()))
    }

    /// `status.images` of a Node: names and sizes, the largest first (`nodeStatusMaxImages`).
    pub fn node_images(&self) -> Result<Vec<ContainerImage>> {
        let mut images: Vec<Image> = self.images()?.into_iter().flatten().collect();
        images.sort_by_key(|image| std::cmp::Reverse(image.size));
        let shown = images.into_iter().take(NODE_STATUS_MAX_IMAGES).map(|image| {
            let names = image.repo_digests.into_iter().chain(image.references.iter().map(Reference::to_string));
            ContainerImage { names: Some(names.take(MAX_NAMES).collect()), size_bytes: i64::try_from(image.size).ok() }
        });
        Ok(shown.collect())
    }
}

impl Work<'_> {
    /// For children whose files nobody may sweep while they live.
    pub(super) fn lock_file(&self) -> &File {
        &self.lock
    }

    /// Makes everything durable, then moves it to where it is found: `(name in this directory, place)`.
    pub(super) fn publish(&self, finished: &HashMap<String, PathBuf>) -> Result<()> {
        let dir = open_directory(&self.path)?;
        // One call for the thousands of files of all layers; a call for each costs seconds.
        rustix::fs::syncfs(&dir).at("syncfs", &self.path)?;
        for (name, place) in finished {
            let from = self.path.join(name);
            match fs::rename(&from, place) {
                // Another process was faster; content of one name is one content.
                Err(err) if matches!(err.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists) => {}
                result => result.at("rename", place)?,
            }
        }
        for parent in [BLOBS, LAYERS] {
            let path = self.store.root.join(parent);
            rustix::fs::fsync(open_directory(&path)?).at("fsync", path)?;
        }
        Ok(())
    }
}

fn described(descriptor: &Descriptor, name: Option<&Reference>, origin: &Origin) -> Descriptor {
    let name = name.map(|name| (REF_NAME.to_owned(), name.to_string()));
    let mark = match origin {
        Origin::MadeHere => Some((MADE_HERE.to_owned(), "true".to_owned())),
        Origin::Manifest => None,
        Origin::Index(digest) => Some((INDEX_DIGEST.to_owned(), digest.to_string())),
    };
    let annotations: HashMap<_, _> = name.into_iter().chain(mark).collect();
    let mut descriptor = descriptor.clone();
    descriptor.set_annotations((!annotations.is_empty()).then_some(annotations));
    descriptor
}

fn annotate(descriptor: &mut Descriptor, key: &str, value: Option<String>) {
    let mut annotations = descriptor.annotations().clone().unwrap_or_default();
    match value {
        Some(value) => drop(annotations.insert(key.to_owned(), value)),
        None => drop(annotations.remove(key)),
    }
    descriptor.set_annotations((!annotations.is_empty()).then_some(annotations));
}

fn annotation<'a>(descriptor: &'a Descriptor, key: &str) -> Option<&'a str> {
    let annotations = descriptor.annotations().as_ref()?;
    annotations.get(key).map(String::as_str)
}

fn ref_name(descriptor: &Descriptor) -> Option<&str> {
    annotation(descriptor, REF_NAME)
}

/// By which digest the registry knows a manifest of ours, if it does.
fn registry_digest(descriptor: &Descriptor, manifest: &Digest) -> Option<Digest> {
    match (annotation(descriptor, MADE_HERE), annotation(descriptor, INDEX_DIGEST)) {
        (Some(_), _) => None,
        (None, None) => Some(manifest.clone()),
        (None, Some(index)) => index.parse().ok(),
    }
}

fn own_digest(descriptor: &Descriptor, path: &Path) -> Result<Digest> {
    let digest = descriptor.digest().to_string().parse();
    digest.map_err(|err: super::digest::BadDigest| damaged(path, err))
}

pub(super) fn damaged(path: &Path, cause: impl std::fmt::Display) -> StoreError {
    StoreError::Damaged { path: path.to_owned(), cause: cause.to_string() }
}

impl From<(PathBuf, BadDocument)> for StoreError {
    fn from((path, cause): (PathBuf, BadDocument)) -> Self {
        damaged(&path, cause)
    }
}

pub(super) fn make_directory(path: &Path) -> Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(path).at("mkdir", path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).at("chmod", path)
}

pub(super) fn open_directory(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).at("open", path)
}

fn open_lock(path: &Path) -> Result<File> {
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.open(path).at("open", path)
}

pub(super) fn list(path: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(path).at("readdir", path)?;
    entries.map(|entry| entry.map(|entry| entry.path()).at("readdir", path)).collect()
}

pub(super) fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let file = File::open(path).at("open", path)?;
    let size = file.metadata().at("fstat", path)?.len();
    // Without its size a small file is read in as many calls as a large one.
    let mut bytes = Vec::with_capacity(usize::try_from(size.min(limit)).unwrap_or(0) + 1);
    file.take(limit + 1).read_to_end(&mut bytes).at("read", path)?;
    if bytes.len() as u64 > limit {
        return Err(damaged(path, format!("larger than {limit} bytes")));
    }
    Ok(bytes)
}

/// Replaces a file so that a crash leaves the old or the new one.
pub(super) fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    replace(path, bytes, true)?;
    let parent = path.parent().unwrap_or(Path::new("/"));
    rustix::fs::fsync(open_directory(parent)?).at("fsync", parent)
}

/// The same without a promise for a power cut.
pub(super) fn write_passing_file(path: &Path, bytes: &[u8]) -> Result<()> {
    replace(path, bytes, false)
}

fn replace(path: &Path, bytes: &[u8], durable: bool) -> Result<()> {
    let temporary = path.with_extension(format!("{}.new", std::process::id()));
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&temporary).at("open", &temporary)?;
    file.write_all(bytes).at("write", &temporary)?;
    if durable {
        file.sync_all().at("fsync", &temporary)?;
    }
    fs::rename(&temporary, path).at("rename", path)
}
