//! Pulls an image from its registry into the store.
//!
//! The process that runs this, the puller, talks to no one but its own children: the fetcher, which talks to registries and has no
//! rights, and an unpacker for each layer. What comes from the fetcher is hashed here, kept, and handed to the unpacker at the
//! same time; nothing is visible before all of it is verified and durable (D25).

mod layer;
pub mod worker;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use oci_spec::image::{Descriptor, MediaType};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::document::{self, Blob, Manifest};
use super::limits::{MAX_CONFIG_BYTES, MAX_INDEX_DEPTH, MAX_MANIFEST_BYTES};
use super::load::{self, LoadError, document_error, io_error};
use super::reference::{BadReference, Reference};
use super::registry::config::{self, ConfigError, Paths, PullSecret, Source};
use super::registry::wire::{Facts, Question};
use super::registry::{Failure, Fetcher};
use super::store::{Origin, Store, StoreError, Work};

/// Pulls of different names at one time that share a lock wait for each other; the number of files stays bounded.
const LOCKS: u32 = 64;

/// What to pull, and with whose secrets.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    /// As the user wrote it.
    pub name: String,
    pub secrets: Vec<PullSecret>,
}

/// Where the pull's own files and programs are.
#[derive(Debug, Clone)]
pub struct Options {
    /// The program that is run as fetcher and unpacker; none means this one.
    pub program: Option<PathBuf>,
    pub paths: Paths,
}

impl Default for Options {
    fn default() -> Self {
        Self { program: None, paths: Paths::of_this_machine() }
    }
}

/// Why an image was not pulled.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error(transparent)]
    Name(#[from] BadReference),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Registry(#[from] Failure),
    #[error(transparent)]
    Content(#[from] LoadError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the registry gave {what} with digest {actual} for {wanted}")]
    Digest { what: &'static str, wanted: Digest, actual: Digest },
    #[error("{needed} bytes to download, and only {free} are free on the file system of the image store")]
    NoSpace { needed: u64, free: u64 },
    #[error("start the fetcher: {0}")]
    Fetcher(#[source] io::Error),
}

/// What is going on, for people who wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Progress {
    /// Nobody else pulls this name, or not any more.
    Started,
    /// The manifest is here: so many layers, of which so many bytes are to come.
    Layers { count: usize, missing: usize, bytes: u64 },
    /// Bytes of layer `number`, from 1 on, that have come.
    Layer { number: usize, bytes: u64, total: u64 },
    /// Unpacked and verified.
    LayerDone { number: usize },
}

/// An image that is in the store now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pulled {
    pub id: Digest,
    /// What the name stands for in the registry: of a manifest or of an index.
    pub digest: Digest,
    pub reference: Reference,
    /// Bytes of all its blobs.
    pub size: u64,
    /// Bytes that came from the registry for this.
    pub fetched: u64,
    pub took_ms: u64,
    /// How often a broken connection was taken up again.
    pub resumed: u32,
    /// Whose rights were needed; none was anonymous.
    pub rights: Option<Source>,
    /// What was left out of layers: device nodes and the like.
    pub skipped: Vec<String>,
}

/// Pulls; what is there already is not fetched again.
pub fn pull(
    store: &Store,
    request: &Request,
    options: &Options,
    tell: &(dyn Fn(Progress) + Sync),
) -> Result<Pulled, PullError> {
    let reference: Reference = request.name.parse()?;
    let _turn = turn(store, &reference)?;
    tell(Progress::Started);
    let started = Instant::now();
    let plan = config::plan(&request.name, &reference, &request.secrets, &options.paths)?;
    let own = PathBuf::from("/proc/self/exe");
    let program = options.program.as_deref().unwrap_or(&own);
    let fetcher = Fetcher::start(program, &plan.job).map_err(PullError::Fetcher)?;
    let work = store.begin()?;
    let puller = Puller {
        store,
        work: &work,
        fetcher,
        unpacker: load::open_unpacker(options.program.as_deref())?,
        tell,
        state: Mutex::default(),
    };
    let mut pulled = puller.run(&reference)?;
    let state = puller.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    pulled.rights = state.credential.and_then(|number| plan.sources.get(number).cloned());
    pulled.fetched = state.fetched;
    pulled.resumed = state.resumed;
    pulled.skipped = state.skipped;
    pulled.took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(pulled)
}

/// One pull of a name at a time, on the whole machine: the second finds all layers there.
fn turn(store: &Store, reference: &Reference) -> Result<File, PullError> {
    let hash = Digest::of(reference.to_string().as_bytes());
    let number = u32::from_str_radix(hash.hex().get(..8).unwrap_or_default(), 16).unwrap_or_default() % LOCKS;
    let directory = store.root().join("locks");
    super::store::make_directory(&directory)?;
    let path = directory.join(number.to_string());
    let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
    let file = file.map_err(io_error("open", &path))?;
    flock(&file, FlockOperation::LockExclusive).map_err(|errno| io_error("flock", &path)(errno.into()))?;
    Ok(file)
}

/// What several layers' threads add to.
#[derive(Debug, Default)]
struct State {
    /// What stands in the work directory, verified, and where it belongs.
    finished: HashMap<String, PathBuf>,
    skipped: Vec<String>,
    fetched: u64,
    resumed: u32,
    credential: Option<usize>,
}

impl State {
    fn note(&mut self, facts: &Facts) {
        self.resumed += facts.resumed;
        self.credential = self.credential.or(facts.credential);
    }
}

struct Puller<'a> {
    store: &'a Store,
    work: &'a Work<'a>,
    fetcher: Fetcher,
    unpacker: OwnedFd,
    tell: &'a (dyn Fn(Progress) + Sync),
    state: Mutex<State>,
}

/// A manifest for this machine.
struct Chosen {
    bytes: Vec<u8>,
    descriptor: Descriptor,
    origin: Origin,
    /// What the name stands for.
    digest: Digest,
}

impl Puller<'_> {
    fn run(&self, reference: &Reference) -> Result<Pulled, PullError> {
        let chosen = self.choose(reference)?;
        let name = chosen.descriptor.digest().to_string();
        let limits = self.store.limits();
        let manifest =
            document::manifest(&chosen.bytes, chosen.descriptor.media_type(), limits).map_err(document_error(name))?;
        let bytes = self.small(&manifest.config, MAX_CONFIG_BYTES)?;
        let config = document::config(&bytes, manifest.layers.len())
            .map_err(document_error(manifest.config.digest.to_string()))?;
        load::check_platform(&config)?;
        self.check_space(&manifest)?;
        self.layers(&manifest.layers, &config.diff_ids)?;
        let finished = std::mem::take(&mut self.state().finished);
        self.work.publish(&finished)?;
        let reference = reference.decided();
        self.store.name(&chosen.descriptor, std::slice::from_ref(&reference), &chosen.origin)?;
        let blobs = manifest.layers.iter().chain([&manifest.config]);
        Ok(Pulled {
            id: manifest.config.digest.clone(),
            size: blobs.map(|blob| blob.size).sum::<u64>() + chosen.bytes.len() as u64,
            digest: chosen.digest,
            reference,
            fetched: 0,
            took_ms: 0,
            resumed: 0,
            rights: None,
            skipped: Vec::new(),
        })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows indexes to the manifest for this machine.
    fn choose(&self, reference: &Reference) -> Result<Chosen, PullError> {
        let asked = reference.digest().map(ToString::to_string);
        let asked = asked.or_else(|| reference.tag().map(str::to_owned)).unwrap_or_default();
        let (mut bytes, media_type) = self.manifest(&asked, reference.digest())?;
        let digest = Digest::of(&bytes);
        let mut descriptor = Descriptor::new(media_type, bytes.len() as u64, load::oci_digest(&digest)?);
        let mut origin = Origin::Manifest;
        for _ in 0..MAX_INDEX_DEPTH {
            if !document::is_index(descriptor.media_type()) {
                self.keep(&bytes)?;
                return Ok(Chosen { bytes, descriptor, origin, digest });
            }
            self.keep(&bytes)?;
            origin = Origin::Index(digest.clone());
            let name = descriptor.digest().to_string();
            let index = document::index(&bytes, Some(descriptor.media_type())).map_err(document_error(name))?;
            let mine = index.manifests().iter().find(|descriptor| load::is_this_machine(descriptor));
            let mine = mine.ok_or_else(|| LoadError::Platform {
                wanted: load::this_machine(),
                found: load::platforms(index.manifests()),
            })?;
            bytes = self.manifest_of(mine)?;
            descriptor = mine.clone();
        }
        Err(LoadError::TooDeep.into())
    }

    /// The manifest that an index names.
    fn manifest_of(&self, descriptor: &Descriptor) -> Result<Vec<u8>, PullError> {
        let blob = Blob::try_from(descriptor).map_err(document_error("index"))?;
        let name = || blob.digest.to_string();
        if blob.size > MAX_MANIFEST_BYTES {
            return Err(LoadError::TooLarge { name: name(), limit: MAX_MANIFEST_BYTES }.into());
        }
        if self.store.has_blob(&blob.digest) {
            return Ok(self.store.read_blob(&blob.digest, MAX_MANIFEST_BYTES)?);
        }
        let (bytes, _) = self.manifest(&name(), Some(&blob.digest))?;
        if bytes.len() as u64 != blob.size {
            return Err(LoadError::Size { name: name(), wanted: blob.size, actual: bytes.len() as u64 }.into());
        }
        Ok(bytes)
    }

    /// Fetches a manifest or index by tag or digest, and what it says it is.
    fn manifest(&self, asked: &str, wanted: Option<&Digest>) -> Result<(Vec<u8>, MediaType), PullError> {
        let question = Question::Manifest { reference: asked.to_owned(), limit: MAX_MANIFEST_BYTES };
        let mut bytes = Vec::new();
        let facts = self.ask(&question, MAX_MANIFEST_BYTES, &mut bytes)?;
        let actual = Digest::of(&bytes);
        // A registry that names a digest for a tag means these bytes.
        let said = facts.digest.as_deref().and_then(|digest| digest.parse::<Digest>().ok());
        if let Some(wanted) = wanted.or(said.as_ref()).filter(|wanted| **wanted != actual) {
            return Err(PullError::Digest { what: "a manifest", wanted: wanted.clone(), actual });
        }
        let media_type = document::media_type(&bytes, facts.content_type.as_deref());
        Ok((bytes, media_type))
    }

    fn ask(&self, question: &Question, limit: u64, bytes: &mut Vec<u8>) -> Result<Facts, PullError> {
        let mut take = |content: &[u8]| {
            if bytes.len() as u64 + content.len() as u64 > limit {
                return Err(io::Error::other(format!("more than {limit} bytes")));
            }
            bytes.extend_from_slice(content);
            Ok(())
        };
        let facts = self.fetcher.ask(question, &mut take).map_err(|error| ask_error("document", error))?;
        let mut state = self.state();
        state.note(&facts);
        state.fetched += bytes.len() as u64;
        Ok(facts)
    }

    /// A verified small blob, kept for the store.
    fn small(&self, blob: &Blob, limit: u64) -> Result<Vec<u8>, PullError> {
        let name = || blob.digest.to_string();
        if blob.size > limit {
            return Err(LoadError::TooLarge { name: name(), limit }.into());
        }
        if self.store.has_blob(&blob.digest) {
            load::check_size(blob, &self.store.blob_path(&blob.digest))?;
            return Ok(self.store.read_blob(&blob.digest, limit)?);
        }
        let question = Question::Blob { digest: blob.digest.clone(), size: blob.size, offset: 0 };
        let mut bytes = Vec::new();
        self.ask(&question, blob.size, &mut bytes)?;
        let actual = Digest::of(&bytes);
        if actual != blob.digest {
            return Err(PullError::Digest { what: "a blob", wanted: blob.digest.clone(), actual });
        }
        self.keep(&bytes)?;
        Ok(bytes)
    }

    fn keep(&self, bytes: &[u8]) -> Result<(), PullError> {
        let digest = Digest::of(bytes);
        if !self.store.has_blob(&digest) {
            let path = self.work.path.join(digest.hex());
            std::fs::write(&path, bytes).map_err(io_error("write", &path))?;
            self.state().finished.insert(digest.hex().to_owned(), self.store.blob_path(&digest));
        }
        Ok(())
    }

    /// Refuses at once what cannot fit, before an hour of download (D28).
    fn check_space(&self, manifest: &Manifest) -> Result<(), PullError> {
        let missing = manifest.layers.iter().filter(|layer| !self.store.has_blob(&layer.digest));
        let needed = missing.map(|layer| layer.size).fold(0, u64::saturating_add);
        let free = free_bytes(self.store.root())?;
        if needed.saturating_add(self.store.limits().min_free_bytes) > free && needed > 0 {
            return Err(PullError::NoSpace { needed, free });
        }
        Ok(())
    }
}

/// Bytes that are free for us on a directory's file system.
fn free_bytes(path: &Path) -> Result<u64, PullError> {
    let stat = rustix::fs::statvfs(path).map_err(|errno| io_error("statvfs", path)(errno.into()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

fn ask_error(name: &str, error: super::registry::AskError) -> PullError {
    match error {
        super::registry::AskError::Registry(failure) => failure.into(),
        super::registry::AskError::Taker(cause) => io_error("take", name)(cause).into(),
    }
}
