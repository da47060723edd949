//! A pod's volumes through its life: made, kept by the monitor, changed with the objects that they come from, given back.
//!
//! Every kept volume has a mount here that belongs to no namespace: through it files are changed, and with it the content
//! outlives the monitor, so that a new sandbox finds what the old one had.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    ConfigMap, Container, ImageVolumeSource, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service,
    ServiceAccountTokenProjection, Volume,
};

use rustix::fs::{Mode, OFlags};
use tokio::sync::Semaphore;

use super::Input;
use super::clock;
use super::context::{Context, Turn};
use super::images;
use crate::convert::env::Sources;
use crate::convert::facts::{EnvFiles, Objects, PodFacts, PodToken};
use crate::convert::machine;
use crate::convert::mounts::VolumeHome;
use crate::engine::error::EngineError;
use crate::engine::id::{ContainerId, SandboxId};
use crate::identity::{self, Token};
use crate::pod::event::{ImageFailure, VolumeFailure};
use crate::pod::spec::Index;
use crate::volume::payload::{self, Kind, Payload};
use crate::volume::source::{self, Around, GroupPolicy, PersistentPlace, Source};
use crate::volume::usage::{self, Amount, Exceeded, Limits, Taken};
use crate::volume::{self, ReadyVolume, Site, VolumeError, atomic, claims};

/// Readers that are on their way through a directory that was replaced still find it for this long.
const OLD_FILES_STAY: Duration = Duration::from_secs(1);
/// Most of a token's refresh that comes earlier, so that not all come at once (VO29).
const REFRESH_JITTER_SECONDS: u64 = 10;
/// A token that could not be had is asked for again after this time.
const REFRESH_RETRY_SECONDS: u64 = 10;
/// Between two counts of what a pod with limits takes of the disk: as often as the kubelet looks (EV1).
const STORAGE_EVERY: Duration = Duration::from_secs(10);
/// Trees that are counted at the same time: their owners make them as large as they like.
const COUNTED_AT_ONCE: usize = 4;

/// The reason of the events about files that are being given to a group for long (VO53).
const CHANGE_IN_PROGRESS: &str = "VolumePermissionChangeInProgress";
/// The first of them.
const CHANGE_TOLD_AFTER: Duration = Duration::from_secs(30);
/// Between two of them.
const CHANGE_TOLD_EVERY: Duration = Duration::from_secs(60);

/// What a pod's volumes are made from, beside the manifest.
#[derive(Debug, Default)]
pub(super) struct State {
    ready: RefCell<Vec<ReadyVolume>>,
    /// By volume and path.
    tokens: RefCell<BTreeMap<(String, String), Token>>,
    /// Objects that were immutable when they were read first: they are never read again (VO26).
    frozen: Frozen,
    refresher: RefCell<Option<tokio::task::AbortHandle>>,
}

#[derive(Debug, Default)]
struct Frozen {
    config_maps: RefCell<BTreeMap<String, Rc<ConfigMap>>>,
    secrets: RefCell<BTreeMap<String, Rc<Secret>>>,
}

impl State {
    /// Calls `look` with the volumes that are set up.
    pub(super) fn with<T>(&self, look: impl FnOnce(&[ReadyVolume]) -> T) -> T {
        look(&self.ready.borrow())
    }
}

/// Which pod has a claim that only one may use (`ReadWriteOncePod`): its uid, by namespace and claim.
#[derive(Debug, Default)]
pub(super) struct ClaimUsers(RefCell<BTreeMap<(String, String), String>>);

impl ClaimUsers {
    /// False when another pod has it.
    fn take(&self, namespace: &str, claim: &str, uid: &str) -> bool {
        let mut users = self.0.borrow_mut();
        users.entry((namespace.to_owned(), claim.to_owned())).or_insert_with(|| uid.to_owned()) == uid
    }

    /// Whoever waits for one finds it at its next try.
    fn give_back(&self, uid: &str) {
        self.0.borrow_mut().retain(|_, user| user != uid);
    }
}

/// The objects as this pod sees them.
struct PodObjects<'a> {
    all: &'a dyn Objects,
    frozen: &'a Frozen,
}

impl Objects for PodObjects<'_> {
    fn config_map(&self, namespace: &str, name: &str) -> Option<Rc<ConfigMap>> {
        if let Some(known) = self.frozen.config_maps.borrow().get(name) {
            return Some(known.clone());
        }
        let found = self.all.config_map(namespace, name)?;
        if found.immutable == Some(true) {
            self.frozen.config_maps.borrow_mut().insert(name.to_owned(), found.clone());
        }
        Some(found)
    }

    fn secret(&self, namespace: &str, name: &str) -> Option<Rc<Secret>> {
        if let Some(known) = self.frozen.secrets.borrow().get(name) {
            return Some(known.clone());
        }
        let found = self.all.secret(namespace, name)?;
        if found.immutable == Some(true) {
            self.frozen.secrets.borrow_mut().insert(name.to_owned(), found.clone());
        }
        Some(found)
    }

    fn services(&self, namespace: &str) -> Vec<Rc<Service>> {
        self.all.services(namespace)
    }

    fn claim(&self, namespace: &str, name: &str) -> Option<Rc<PersistentVolumeClaim>> {
        self.all.claim(namespace, name)
    }

    fn persistent_volume(&self, name: &str) -> Option<Rc<PersistentVolume>> {
        self.all.persistent_volume(name)
    }

    fn token(&self, request: &PodToken<'_>) -> Result<Token, String> {
        self.all.token(request)
    }
}

/// Files that `fileKeyRef` reads.
impl EnvFiles for Context {
    fn read(&self, volume: &str, path: &str) -> Result<Option<Vec<u8>>, String> {
        self.volumes.with(|ready| {
            let found = ready.iter().find(|known| known.name == volume);
            let found = found.ok_or_else(|| format!("cannot find the volume {volume:?} referenced by FileKeyRef"))?;
            volume::read_file(found.root.as_fd(), path).map_err(|_| "couldn't parse env file".to_owned())
        })
    }
}

/// Makes every volume of the pod (VO1, VO3). What exists already stays as it is, also in the monitor of an earlier daemon.
/// Images come with the containers that mount them: pulling one may take long, and its failure is theirs (VO36).
pub(super) async fn set_up(context: &Rc<Context>) -> Result<(), VolumeFailure> {
    let failed = |volume: &str, message: String| VolumeFailure { volume: volume.to_owned(), message };
    let dir = context.dir();
    context.claim_ids().map_err(|error| failed("", format!("pod {}: {error}", context.description())))?;
    crate::engine::dirs::create_private(&dir).map_err(|error| failed("", error.to_string()))?;
    let pod = context.newest_pod();
    let images: Vec<ReadyVolume> = context.volumes.ready.borrow_mut().extract_if(.., |known| known.is_image).collect();
    let mut kept = kept_mounts(context).await;
    let mut ready = images;
    for volume in volumes(&pod).filter(|volume| volume.image.is_none()) {
        let source = decide(context, &pod, volume).map_err(|error| failed(&volume.name, error.to_string()))?;
        take_claim(context, &pod, volume).map_err(|message| failed(&volume.name, message))?;
        let mount = kept.remove(&volume.name);
        let made = make(context, &volume.name, source, payload::fs_group(&pod), mount).await;
        ready.push(made.map_err(|error| failed(&volume.name, error.to_string()))?);
    }
    *context.volumes.ready.borrow_mut() = ready;
    refresh_tokens(context);
    Ok(())
}

fn volumes(pod: &Pod) -> impl Iterator<Item = &Volume> {
    pod.spec.iter().filter_map(|spec| spec.volumes.as_ref()).flatten()
}

fn take_claim(context: &Context, pod: &Pod, volume: &Volume) -> Result<(), String> {
    let Some(claim) = claims::claim_of(pod, volume) else { return Ok(()) };
    let found = context.settings.objects.claim(&context.reference.namespace, &claim);
    let modes = found.and_then(|claim| claim.spec.as_ref()?.access_modes.clone()).unwrap_or_default();
    let alone = modes.iter().any(|mode| mode == "ReadWriteOncePod");
    if !alone || context.claims.take(&context.reference.namespace, &claim, &context.reference.uid) {
        return Ok(());
    }
    Err("volume uses the ReadWriteOncePod access mode and is already in use by another pod".to_owned())
}

/// Mounts that are there already: of an earlier set-up, or in the monitor.
async fn kept_mounts(context: &Rc<Context>) -> BTreeMap<String, OwnedFd> {
    let before = std::mem::take(&mut *context.volumes.ready.borrow_mut()).into_iter();
    let is_kept = |volume: &ReadyVolume| volume.place.home == VolumeHome::Kept;
    let mut all: BTreeMap<String, OwnedFd> = before.filter(is_kept).map(|volume| (volume.name, volume.root)).collect();
    let Some(sandbox) = context.newest_sandbox() else { return all };
    for volume in volumes(&context.newest_pod()) {
        if !all.contains_key(&volume.name)
            && let Ok(mount) = context.engine.clone_volume(&sandbox, &volume.name).await
        {
            all.insert(volume.name.clone(), mount);
        }
    }
    all
}

fn decide(context: &Context, pod: &Pod, volume: &Volume) -> Result<Source, VolumeError> {
    let Some(spec) = pod.spec.as_ref() else { return Ok(Source::Disk { limit_bytes: None }) };
    let facts = context.facts();
    let objects = PodObjects { all: &*context.settings.objects, frozen: &context.volumes.frozen };
    let mut token = |source: &ServiceAccountTokenProjection| token(context, pod, &volume.name, source);
    let image = |source: &ImageVolumeSource| image_layers(context, source);
    let mut around = Around { sources: sources(context, pod, &facts, &objects), token: &mut token, image: &image };
    source::of(volume, spec, &mut around)
}

fn sources<'a>(context: &'a Context, pod: &'a Pod, facts: &'a PodFacts, objects: &'a dyn Objects) -> Sources<'a> {
    Sources { pod, pod_facts: facts, node: &context.settings.node, objects, files: context }
}

/// The image volumes that a container mounts.
fn mounted_images<'a>(
    pod: &'a Pod,
    container: &'a Container,
) -> impl Iterator<Item = (&'a Volume, &'a ImageVolumeSource)> {
    let mounted = |volume: &Volume| container.volume_mounts.iter().flatten().any(|mount| mount.name == volume.name);
    volumes(pod).filter(move |volume| mounted(volume)).filter_map(|volume| Some((volume, volume.image.as_ref()?)))
}

/// Finds or pulls the images that a container mounts, as their policies say; what fails is told as of its own image, with
/// the volume's name (VO36).
pub(super) async fn ensure_images(context: &Context, index: Index) -> Result<(), ImageFailure> {
    let Some(container) = context.container(index) else { return Ok(()) };
    let pod = context.newest_pod();
    for (volume, source) in mounted_images(&pod, &container) {
        let name = source.reference.as_deref().unwrap_or_default();
        let policy = crate::convert::machine::pull_policy(source.pull_policy.as_deref());
        let told = |text: String| format!("image {name:?} of volume {:?}: {text}", volume.name);
        images::ensure(context, name, policy, &|| {}).await.map_err(|failure| match failure {
            ImageFailure::Pull(text) => ImageFailure::Pull(told(text)),
            ImageFailure::Inspect(text) => ImageFailure::Inspect(told(text)),
            ImageFailure::RegistryUnavailable(text) => ImageFailure::RegistryUnavailable(format!("; {}", told(text))),
            ImageFailure::NeverPull | ImageFailure::InvalidName | ImageFailure::SignatureValidationFailed(_) => failure,
        })?;
    }
    Ok(())
}

/// Makes the image volumes of a container that is about to be created. Its record keeps their images from being removed.
pub(super) async fn set_up_images(
    context: &Context,
    container: &Container,
    sandbox: &SandboxId,
    id: &ContainerId,
) -> Result<(), String> {
    let pod = context.newest_pod();
    if mounted_images(&pod, container).next().is_none() {
        return Ok(());
    }
    // Containers that are created at the same time share what the first of them makes.
    let turn = context.turn(Turn::Pod);
    let _turn = turn.lock().await;
    for (volume, source) in mounted_images(&pod, container) {
        let store = &context.settings.images;
        let gone = |_| format!("image {:?} of volume {:?} is gone from the store", source.reference, volume.name);
        let image = images::stored(store, source.reference.as_deref().unwrap_or_default()).map_err(gone)?;
        let record = context.engine.dirs().container(sandbox, id);
        store.hold(&format!("{id}-{}", volume.name), &image, &record).map_err(|error| error.to_string())?;
        if context.volumes.with(|ready| ready.iter().any(|known| known.name == volume.name)) {
            continue;
        }
        // An earlier daemon may have made it.
        let kept = context.engine.clone_volume(sandbox, &volume.name).await.ok();
        let is_kept = kept.is_some();
        let namespace = context.engine.user_namespace(sandbox).map_err(|error| error.to_string())?;
        let site = Site {
            pod_dir: &context.dir(),
            group: None,
            given: &AtomicU64::new(0),
            ids: context.ids.get(),
            user_namespace: namespace.as_ref().map(|namespace| namespace.as_fd()),
        };
        let made = volume::make(&volume.name, &Source::Image(image.layers), &site, kept);
        context.volumes.ready.borrow_mut().push(made.map_err(|error| error.to_string())?);
        if !is_kept {
            keep(context, sandbox, Some(&volume.name)).await.map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

/// Rule VO36.
fn image_layers(context: &Context, source: &ImageVolumeSource) -> Result<Vec<PathBuf>, String> {
    let name = source.reference.as_deref().unwrap_or_default();
    match images::stored(&context.settings.images, name) {
        Ok(image) => Ok(image.layers),
        Err(_) => Err(format!("image {name:?} is not in the image store")),
    }
}

/// Files that may be many are given to a group off the loop, and it is told when that takes long (VO53).
async fn make(
    context: &Context,
    name: &str,
    source: Source,
    group: Option<u32>,
    kept: Option<OwnedFd>,
) -> Result<ReadyVolume, VolumeError> {
    let may_be_long = group.is_some() && is_walked(&source);
    let (given, counted) = (Arc::new(AtomicU64::new(0)), name.to_owned());
    let (counter, pod_dir, ids) = (given.clone(), context.dir(), context.ids.get());
    let site = move || {
        let site = Site { pod_dir: &pod_dir, group, given: &counter, ids, user_namespace: None };
        volume::make(&counted, &source, &site, kept)
    };
    if !may_be_long {
        return site();
    }
    let dir = format!("{}/volumes/kubernetes.io~local-volume/{name}", context.reference.uid);
    let tell =
        |again| context.warning_event(CHANGE_IN_PROGRESS, in_progress(&dir, again, given.load(Ordering::Relaxed)));
    match patiently(tokio::task::spawn_blocking(site), [CHANGE_TOLD_AFTER, CHANGE_TOLD_EVERY], tell).await {
        Ok(made) => made,
        Err(error) => Err(VolumeError::Content(error.to_string())),
    }
}

/// Waits, and tells after a while and from then on every so often that it does.
async fn patiently<T>(work: impl Future<Output = T>, [first, every]: [Duration; 2], tell: impl Fn(Told)) -> T {
    let mut work = std::pin::pin!(work);
    let (mut wait, mut told) = (first, Told::First);
    loop {
        if let Ok(done) = tokio::time::timeout(wait, &mut work).await {
            return done;
        }
        tell(told);
        (wait, told) = (every, Told::Again);
    }
}

/// Which of the events about a slow change it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    First,
    Again,
}

/// In the kubelet's words.
fn in_progress(dir: &str, told: Told, files: u64) -> String {
    match told {
        Told::First => format!(
            "Setting volume ownership for {dir} is taking longer than expected, consider using OnRootMismatch - \
             https://kubernetes.io/docs/tasks/configure-pod-container/security-context/\
             #configure-volume-permission-and-ownership-change-policy-for-pods"
        ),
        Told::Again => format!("Setting volume ownership for {dir}, processed {files} files."),
    }
}

fn is_walked(source: &Source) -> bool {
    match source {
        Source::Persistent(volume) => match volume.place {
            PersistentPlace::Claim(_) | PersistentPlace::Local(_) => match volume.group_policy {
                GroupPolicy::Always | GroupPolicy::OnRootMismatch => !volume.read_only,
            },
            PersistentPlace::HostPath(_) => false,
        },
        Source::Disk { .. }
        | Source::Memory { .. }
        | Source::HugePages { .. }
        | Source::HostPath(_)
        | Source::Content(_)
        | Source::Image(_) => false,
    }
}

/// The token of the time before, unless it is to be replaced.
fn token(context: &Context, pod: &Pod, volume: &str, source: &ServiceAccountTokenProjection) -> Result<String, String> {
    let key = (volume.to_owned(), source.path.clone());
    let now = identity::now();
    if let Some(known) = context.volumes.tokens.borrow().get(&key).filter(|known| !is_due(context, known, now)) {
        return Ok(known.text.clone());
    }
    let life = source.expiration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    let life = life.map_or(identity::DEFAULT_LIFE, Duration::from_secs);
    let audience = source.audience.as_deref().filter(|audience| !audience.is_empty());
    let token = context.settings.objects.token(&PodToken { pod, audience, life })?;
    let text = token.text.clone();
    context.volumes.tokens.borrow_mut().insert(key, token);
    Ok(text)
}

fn is_due(context: &Context, token: &Token, now: u64) -> bool {
    refresh_at(context, token) <= now || token.is_not_yet_valid(now)
}

/// The same pod always comes as much earlier.
fn refresh_at(context: &Context, token: &Token) -> u64 {
    let jitter = context.reference.uid.bytes().map(u64::from).sum::<u64>() % REFRESH_JITTER_SECONDS;
    token.refresh_at().saturating_sub(jitter)
}

/// Hands every kept volume, or one, to the pod's monitor, and gets a mount back that outlives it.
pub(super) async fn keep(context: &Context, sandbox: &SandboxId, only: Option<&str>) -> Result<(), EngineError> {
    let duplicate = |volume: &ReadyVolume| {
        let mount = volume.root.try_clone().map_err(EngineError::io("duplicate mount of volume", &volume.name))?;
        Ok::<_, EngineError>((volume.name.clone(), mount))
    };
    let kept: Vec<_> = context.volumes.with(|ready| {
        let asked = |volume: &&ReadyVolume| only.is_none_or(|name| volume.name == name);
        let kept = ready.iter().filter(|volume| volume.place.home == VolumeHome::Kept).filter(asked);
        kept.map(duplicate).collect::<Result<_, _>>()
    })?;
    for (name, mount) in kept {
        context.engine.keep_volume(sandbox, &name, mount).await?;
        let spare = context.engine.clone_volume(sandbox, &name).await?;
        if let Some(volume) = context.volumes.ready.borrow_mut().iter_mut().find(|volume| volume.name == name) {
            volume.root = spare;
        }
    }
    Ok(())
}

/// An object changed: files that come from it change, too (VO26).
pub(super) fn object_changed(context: &Rc<Context>, kind: Kind, name: &str) {
    let pod = context.newest_pod();
    for volume in volumes(&pod).filter(|volume| payload::refers_to(volume, kind, name)) {
        rewrite(context, &pod, volume);
    }
}

/// What is missing now leaves the files as they are, and is told.
fn rewrite(context: &Rc<Context>, pod: &Pod, volume: &Volume) {
    let is_ready =
        context.volumes.with(|ready| ready.iter().any(|known| known.name == volume.name && known.is_content));
    if !is_ready {
        return;
    }
    let written = decide(context, pod, volume).and_then(|source| match source {
        Source::Content(payload) => write(context, pod, &volume.name, &payload),
        Source::Disk { .. }
        | Source::Memory { .. }
        | Source::HugePages { .. }
        | Source::HostPath(_)
        | Source::Persistent(_)
        | Source::Image(_) => Ok(()),
    });
    if let Err(error) = written {
        context.warn(format!("MountVolume.SetUp failed for volume {:?} : {error}", volume.name));
    }
}

fn write(context: &Rc<Context>, pod: &Pod, name: &str, payload: &Payload) -> Result<(), VolumeError> {
    let written = context.volumes.with(|ready| match ready.iter().find(|known| known.name == name) {
        Some(volume) => atomic::write(volume.root.as_fd(), payload, payload::fs_group(pod), context.ids.get()),
        None => Ok(atomic::Written::Unchanged),
    })?;
    if let atomic::Written::Changed { old: Some(old) } = written {
        remove_later(context, name.to_owned(), old);
    }
    Ok(())
}

fn remove_later(context: &Rc<Context>, name: String, old: String) {
    let context = Rc::downgrade(context);
    tokio::task::spawn_local(async move {
        tokio::time::sleep(OLD_FILES_STAY).await;
        let Some(context) = context.upgrade() else { return };
        let removed = context.volumes.with(|ready| match ready.iter().find(|known| known.name == name) {
            Some(volume) => atomic::remove_old(volume.root.as_fd(), &old),
            None => Ok(()),
        });
        if let Err(error) = removed {
            tracing::warn!(volume = name, "remove files that were replaced: {error}");
        }
    });
}

/// Writes new tokens when the old ones have lived long enough or the clock was set, as long as the pod's volumes exist.
pub(super) fn refresh_tokens(context: &Rc<Context>) {
    if context.volumes.tokens.borrow().is_empty() {
        return;
    }
    let weak = Rc::downgrade(context);
    let task = tokio::task::spawn_local(async move {
        loop {
            let Some(context) = weak.upgrade() else { return };
            let due = context.volumes.tokens.borrow().values().map(|token| refresh_at(&context, token)).min();
            let Some(due) = due else { return };
            drop(context);
            clock::wall_reaches(due).await;
            let Some(context) = weak.upgrade() else { return };
            let pod = context.newest_pod();
            for volume in volumes(&pod).filter(|volume| volume.projected.is_some()) {
                rewrite(&context, &pod, volume);
            }
            let now = identity::now();
            let still_due = context.volumes.tokens.borrow().values().any(|token| is_due(&context, token, now));
            drop(context);
            if still_due {
                tokio::time::sleep(Duration::from_secs(REFRESH_RETRY_SECONDS)).await;
            }
        }
    });
    if let Some(old) = context.volumes.refresher.borrow_mut().replace(task.abort_handle()) {
        old.abort();
    }
}

/// Counts every so often what a pod takes of the disk, when that is limited (EV1): other pods wake nobody. Critical ones are
/// never evicted (EV6).
pub(super) fn count_storage(
    context: &Rc<Context>,
    inbox: &tokio::sync::mpsc::UnboundedSender<Input>,
) -> Option<tokio::task::AbortHandle> {
    let limited = storage_limits(&context.newest_pod()).is_some();
    limited.then(|| tokio::task::spawn_local(count(context.clone(), inbox.clone())).abort_handle())
}

fn storage_limits(pod: &Pod) -> Option<Limits> {
    let limits = Limits::of(pod.spec.as_ref()?);
    (!limits.is_none() && !machine::is_critical(pod)).then_some(limits)
}

/// Until it is too much, or the pod is gone.
async fn count(context: Rc<Context>, inbox: tokio::sync::mpsc::UnboundedSender<Input>) {
    loop {
        tokio::time::sleep(STORAGE_EVERY).await;
        if let Some(exceeded) = exceeded(&context).await {
            let uid = context.reference.uid.clone();
            // Fails only when the driver is gone.
            let _ending = inbox.send(Input::StorageExceeded { uid, message: exceeded.to_string() });
            return;
        }
    }
}

/// The first limit that a pod has grown beyond (EV1).
pub(super) async fn exceeded(context: &Rc<Context>) -> Option<Exceeded> {
    let pod = context.newest_pod();
    let limits = storage_limits(&pod)?;
    let is_counted = |known: &ReadyVolume| limits.is_of_all() || limits.is_of_volume(&known.name) && !known.has_quota;
    let mut taken = Taken::default();
    for (name, amount) in volumes_taken(context, &pod, is_counted).await {
        taken.volumes.insert(name, amount.bytes);
    }
    if limits.is_of_all() {
        let containers = containers_taken(context).await;
        taken.containers.extend(containers.into_iter().map(|(name, amount)| (name, amount.bytes)));
    }
    limits.exceeded(&taken)
}

/// What a pod has of the disk, as a whole and by its running containers (EV6).
pub(super) async fn taken(context: &Rc<Context>, of: fn(&Amount) -> u64) -> (u64, Vec<(String, u64)>) {
    let volumes = volumes_taken(context, &context.newest_pod(), |_| true).await;
    let containers = containers_taken(context).await;
    let all = volumes.iter().chain(&containers).map(|(_, amount)| of(amount)).fold(0, u64::saturating_add);
    (all, containers.iter().map(|(name, amount)| (name.clone(), of(amount))).collect())
}

/// Volumes on the node's own disk.
async fn volumes_taken(
    context: &Context,
    pod: &Pod,
    is_counted: impl Fn(&ReadyVolume) -> bool,
) -> Vec<(String, Amount)> {
    let mut all = Vec::new();
    for volume in volumes(pod).filter(|volume| usage::is_on_disk(volume)) {
        let root = context.volumes.with(|ready| {
            let found = ready.iter().find(|known| known.name == volume.name && is_counted(known));
            found.and_then(|known| known.root.try_clone().ok())
        });
        let amount = counted_below(root.into_iter().collect(), &volume.name).await;
        all.extend(amount.map(|amount| (volume.name.clone(), amount)));
    }
    all
}

/// Writable layers and logs of what runs.
async fn containers_taken(context: &Context) -> Vec<(String, Amount)> {
    let mut all = Vec::new();
    for (instance, name, known) in context.running() {
        let layer = context.engine.dirs().scratch(&known.id).join("upper");
        let roots = [layer, context.container_log_dir(instance)].iter().filter_map(|dir| open(dir)).collect();
        all.extend(counted_below(roots, &name).await.map(|amount| (name, amount)));
    }
    all
}

fn open(dir: &Path) -> Option<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(dir, flags, Mode::empty()).ok()
}

/// Counted off the loop; no more than a few trees at a time, however many pods there are.
async fn counted_below(roots: Vec<OwnedFd>, of: &str) -> Option<Amount> {
    static TURNS: Semaphore = Semaphore::const_new(COUNTED_AT_ONCE);
    if roots.is_empty() {
        return None;
    }
    let turn = TURNS.acquire().await.ok()?;
    let counting = tokio::task::spawn_blocking(move || {
        // Whoever gives up waiting does not end the walk.
        let _turn = turn;
        roots.iter().map(|root| usage::amount(root.as_fd())).sum::<Result<Amount, VolumeError>>()
    });
    match counting.await {
        Ok(Ok(amount)) => Some(amount),
        Ok(Err(error)) => {
            tracing::warn!("count what {of} takes: {error}");
            None
        }
        Err(_) => None,
    }
}

/// Lets go of everything. Data of claims and of the host is not touched: only the pod's own directory goes.
pub(super) fn tear_down(context: &Context) -> Result<(), EngineError> {
    if let Some(task) = context.volumes.refresher.borrow_mut().take() {
        task.abort();
    }
    context.volumes.tokens.borrow_mut().clear();
    for volume in context.volumes.ready.borrow_mut().drain(..).filter(|volume| volume.has_quota) {
        volume::quota::release(volume.root.as_fd());
    }
    context.claims.give_back(&context.reference.uid);
    context.engine.discard(&context.dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// VO53
    #[tokio::test]
    async fn a_slow_change_of_owners_is_told_in_the_kubelets_words() {
        let (told, spans) = (RefCell::new(Vec::new()), [Duration::from_millis(1), Duration::from_millis(2)]);
        let tell = |what| told.borrow_mut().push(what);
        assert_eq!(patiently(async { 7 }, spans, tell).await, 7);
        assert_eq!(*told.borrow(), []);
        let until_told_thrice = async {
            while told.borrow().len() < 3 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        patiently(until_told_thrice, spans, tell).await;
        assert_eq!(*told.borrow(), [Told::First, Told::Again, Told::Again]);
        assert_eq!(
            in_progress("uid/volumes/v", Told::Again, 65_414),
            "Setting volume ownership for uid/volumes/v, processed 65414 files."
        );
        let first = in_progress("uid/volumes/v", Told::First, 0);
        assert!(first.starts_with("Setting volume ownership for uid/volumes/v is taking longer than expected, "));
        assert!(first.ends_with("OnRootMismatch - https://kubernetes.io/docs/tasks/configure-pod-container/security-context/#configure-volume-permission-and-ownership-change-policy-for-pods"));
    }
}
