//! Which claim gets which volume.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use cgroupd::quantity::Quantity;
use k8s_openapi::api::core::v1::{
    NodeSelectorRequirement, ObjectReference, PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec,
    PersistentVolumeClaimStatus, PersistentVolumeSpec,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::{
    BIND_COMPLETED, DEFAULT_CLASS, PROVISIONER, Step, VOLUME_PROTECTION, World, consumers, default_class, make, name,
    own_directory, protect, uid,
};

/// What is next for a claim.
pub(super) enum Choice {
    /// It has what it needs, or can't be helped.
    Done,
    Claim(Step),
    /// The volume of that name is its own from now on.
    Volume(String, Step),
    Wait {
        warning: bool,
        reason: &'static str,
        message: String,
    },
}

pub(super) fn choose(world: &World, claim: &PersistentVolumeClaim, taken: &BTreeSet<String>) -> Choice {
    let spec = claim.spec.clone().unwrap_or_default();
    match spec.volume_name.as_deref().filter(|name| !name.is_empty()) {
        Some(volume) => named(world, claim, volume),
        None => unbound(world, claim, &spec, taken),
    }
}

/// By the user, or by an earlier binding.
fn named(world: &World, claim: &PersistentVolumeClaim, wanted: &str) -> Choice {
    let Some(volume) = world.volumes.iter().find(|volume| name(&volume.metadata) == wanted) else {
        let was_bound = claim.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(BIND_COMPLETED));
        return if was_bound { phase(claim, "Lost") } else { phase(claim, "Pending") };
    };
    match claim_ref(volume) {
        Some(reference) if !refers_to(reference, claim) => phase(claim, "Pending"),
        Some(reference) if is_whole(reference, claim) => bind_claim(claim, volume),
        _ => bind_volume(claim, volume),
    }
}

fn unbound(
    world: &World,
    claim: &PersistentVolumeClaim,
    spec: &PersistentVolumeClaimSpec,
    taken: &BTreeSet<String>,
) -> Choice {
    let Some(class_name) = spec.storage_class_name.clone() else {
        return match class_of(&world.classes, None) {
            Some(class) => {
                let mut claim = claim.clone();
                claim.spec.get_or_insert_default().storage_class_name = class.metadata.name;
                Choice::Claim(Step::UpdateClaim(Box::new(claim)))
            }
            None => nothing_available(),
        };
    };
    if let Some(volume) = world.volumes.iter().find(|volume| claim_ref(volume).is_some_and(|own| refers_to(own, claim)))
    {
        let whole = claim_ref(volume).is_some_and(|own| is_whole(own, claim));
        return if whole { bind_claim(claim, volume) } else { bind_volume(claim, volume) };
    }
    let class = class_of(&world.classes, Some(&class_name));
    if class.as_ref().is_some_and(binds_late) && consumers(world, claim).next().is_none() {
        let message = "waiting for first consumer to be created before binding".to_owned();
        return Choice::Wait { warning: false, reason: "WaitForFirstConsumer", message };
    }
    if let Some(volume) = best(world, spec, &class_name, taken) {
        return bind_volume(claim, volume);
    }
    match &class {
        Some(class) if class.provisioner == PROVISIONER => {
            let volume = make::provisioned(world, claim, class);
            Choice::Volume(name(&volume.metadata), Step::CreateVolume(Box::new(volume)))
        }
        Some(class) if class.provisioner != "kubernetes.io/no-provisioner" => Choice::Wait {
            warning: false,
            reason: "ExternalProvisioning",
            message: format!(
                "Waiting for a volume to be created either by the external provisioner '{}' or manually by the \
                 system administrator. If volume creation is delayed, please verify that the provisioner is running \
                 and correctly registered.",
                class.provisioner
            ),
        },
        None if !class_name.is_empty() => Choice::Wait {
            warning: true,
            reason: "ProvisioningFailed",
            message: format!("storageclass.storage.k8s.io {class_name:?} not found"),
        },
        Some(_) | None => nothing_available(),
    }
}

fn nothing_available() -> Choice {
    let message = "no persistent volumes available for this claim and no storage class is set".to_owned();
    Choice::Wait { warning: false, reason: "FailedBinding", message }
}

pub(super) fn binds_late(class: &StorageClass) -> bool {
    class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")
}

/// The class of that name; for a claim that names none, the newest that is marked as the default. The built-in one is there
/// even while its object is not.
pub(super) fn class_of(stored: &[StorageClass], wanted: Option<&str>) -> Option<StorageClass> {
    let builtin = default_class();
    let is_stored = stored.iter().any(|class| class.metadata.name == builtin.metadata.name);
    let own = (!is_stored).then_some(&builtin);
    let found = match wanted {
        Some(wanted) => stored.iter().chain(own).find(|class| name(&class.metadata) == wanted),
        None => stored.iter().filter(|class| is_default(class)).max_by(|a, b| newer(a, b)).or(own),
    };
    found.cloned()
}

/// Of several default classes the newest counts, and of those the first by name.
fn newer(a: &StorageClass, b: &StorageClass) -> Ordering {
    let made = |class: &StorageClass| class.metadata.creation_timestamp.clone();
    made(a).cmp(&made(b)).then_with(|| b.metadata.name.cmp(&a.metadata.name))
}

pub(crate) fn is_default(class: &StorageClass) -> bool {
    class.metadata.annotations.as_ref().and_then(|all| all.get(DEFAULT_CLASS)).is_some_and(|value| value == "true")
}

/// The smallest volume that fits.
fn best<'a>(
    world: &'a World,
    spec: &PersistentVolumeClaimSpec,
    class: &str,
    taken: &BTreeSet<String>,
) -> Option<&'a PersistentVolume> {
    let wanted = size(spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()));
    let fits = |volume: &&PersistentVolume| {
        let own = volume.spec.clone().unwrap_or_default();
        volume.metadata.deletion_timestamp.is_none()
            && own.claim_ref.is_none()
            && !taken.contains(&name(&volume.metadata))
            && own.storage_class_name.as_deref().unwrap_or_default() == class
            && mode(own.volume_mode.as_deref()) == mode(spec.volume_mode.as_deref())
            && spec.access_modes.iter().flatten().all(|mode| own.access_modes.iter().flatten().any(|own| own == mode))
            && size(own.capacity.as_ref()) >= wanted
            && selects(spec.selector.as_ref(), volume.metadata.labels.as_ref())
            && is_on_this_node(world, &own)
    };
    let by_size = |volume: &&PersistentVolume| {
        (size(volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref())), name(&volume.metadata))
    };
    world.volumes.iter().filter(fits).min_by_key(by_size)
}

fn mode(mode: Option<&str>) -> &str {
    mode.unwrap_or("Filesystem")
}

/// `storage` in bytes.
fn size(amounts: Option<&BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>) -> i64 {
    let storage = amounts.and_then(|all| all.get("storage"));
    storage.and_then(|quantity| quantity.0.parse::<Quantity>().ok()).map_or(0, |quantity| quantity.value())
}

/// No selector selects everything.
fn selects(selector: Option<&LabelSelector>, labels: Option<&BTreeMap<String, String>>) -> bool {
    let Some(selector) = selector else { return true };
    let value = |key: &str| labels.and_then(|all| all.get(key)).map(String::as_str);
    let exactly = selector.match_labels.iter().flatten().all(|(key, wanted)| value(key) == Some(wanted));
    exactly
        && selector.match_expressions.iter().flatten().all(|rule| {
            let values = rule.values.as_deref().unwrap_or_default();
            matches(&rule.operator, value(&rule.key), values)
        })
}

/// One requirement of a label or node selector. An operator that is not known never matches.
fn matches(operator: &str, value: Option<&str>, values: &[String]) -> bool {
    let is_listed = value.is_some_and(|value| values.iter().any(|listed| listed == value));
    let number = |text: &str| text.parse::<i64>().ok();
    let compared = || Some((number(value?)?, number(values.first()?)?));
    match operator {
        "In" => is_listed,
        "NotIn" => !is_listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compared().is_some_and(|(own, bound)| own > bound),
        "Lt" => compared().is_some_and(|(own, bound)| own < bound),
        _ => false,
    }
}

fn is_on_this_node(world: &World, volume: &PersistentVolumeSpec) -> bool {
    let Some(required) = volume.node_affinity.as_ref().and_then(|affinity| affinity.required.as_ref()) else {
        return true;
    };
    let node = &world.node;
    let label = |key: &str| match node.labels.get(key) {
        None if key == "kubernetes.io/hostname" => Some(node.name.as_str()),
        found => found.map(String::as_str),
    };
    let holds = |rule: &NodeSelectorRequirement, value: Option<&str>| {
        matches(&rule.operator, value, rule.values.as_deref().unwrap_or_default())
    };
    required.node_selector_terms.iter().any(|term| {
        let fields = |rule: &NodeSelectorRequirement| (rule.key == "metadata.name").then_some(node.name.as_str());
        term.match_expressions.iter().flatten().all(|rule| holds(rule, label(&rule.key)))
            && term.match_fields.iter().flatten().all(|rule| holds(rule, fields(rule)))
    })
}

fn claim_ref(volume: &PersistentVolume) -> Option<&ObjectReference> {
    volume.spec.as_ref()?.claim_ref.as_ref()
}

/// The reference means this claim; one without a uid was written by a user for whatever has the name.
fn refers_to(reference: &ObjectReference, claim: &PersistentVolumeClaim) -> bool {
    let uid_fits = reference.uid.as_deref().is_none_or(|own| own.is_empty() || own == uid(&claim.metadata));
    reference.name == claim.metadata.name && reference.namespace == claim.metadata.namespace && uid_fits
}

fn is_whole(reference: &ObjectReference, claim: &PersistentVolumeClaim) -> bool {
    reference.uid.as_deref().unwrap_or_default() == uid(&claim.metadata)
}

/// The volume first: a crash afterwards finds it by its reference.
fn bind_volume(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Choice {
    let mut bound = volume.clone();
    bound.spec.get_or_insert_default().claim_ref = Some(make::reference(claim));
    set_phase(&mut bound, "Bound", None);
    protect(&mut bound.metadata, VOLUME_PROTECTION);
    Choice::Volume(name(&volume.metadata), Step::UpdateVolume(Box::new(bound)))
}

fn bind_claim(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Choice {
    let bound = make::bound(claim, volume);
    if bound == *claim { Choice::Done } else { Choice::Claim(Step::UpdateClaim(Box::new(bound))) }
}

fn phase(claim: &PersistentVolumeClaim, phase: &str) -> Choice {
    let is = claim.status.as_ref().and_then(|status| status.phase.as_deref());
    if is == Some(phase) || (is.is_none() && phase == "Pending") {
        return Choice::Done;
    }
    let mut claim = claim.clone();
    claim.status.get_or_insert_with(PersistentVolumeClaimStatus::default).phase = Some(phase.to_owned());
    Choice::Claim(Step::UpdateClaim(Box::new(claim)))
}

/// What is next for a volume that no claim takes now.
pub(super) fn volume_step(world: &World, volume: &PersistentVolume) -> Option<Step> {
    let Some(reference) = claim_ref(volume) else { return free(volume) };
    let find = |claim: &&PersistentVolumeClaim| refers_to(reference, claim);
    let reserved = reference.uid.as_deref().is_none_or(str::is_empty);
    match world.claims.iter().find(find) {
        Some(_) => None,
        // Objects that are in no store have no uid; a reference of a user's waits for its claim.
        None if reserved => free(volume),
        None => released(volume),
    }
}

fn free(volume: &PersistentVolume) -> Option<Step> {
    if volume.metadata.deletion_timestamp.is_some() {
        return remove(volume, None);
    }
    let mut available = volume.clone();
    set_phase(&mut available, "Available", None);
    protect(&mut available.metadata, VOLUME_PROTECTION);
    (available != *volume).then(|| Step::UpdateVolume(Box::new(available)))
}

/// DE6: whoever else has put a finalizer on it comes first.
fn remove(volume: &PersistentVolume, directory: Option<&Path>) -> Option<Step> {
    let is_others = |finalizer: &String| finalizer != VOLUME_PROTECTION;
    if volume.metadata.finalizers.iter().flatten().any(is_others) {
        return None;
    }
    Some(Step::RemoveVolume { name: name(&volume.metadata), directory: directory.map(Path::to_owned) })
}

/// The claim is gone: what the volume's policy says. Data of an administrator's is never deleted.
fn released(volume: &PersistentVolume) -> Option<Step> {
    let spec = volume.spec.as_ref();
    let policy = spec.and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    match (policy, own_directory(volume)) {
        (Some("Delete"), Some(directory)) => remove(volume, Some(directory)),
        _ if volume.metadata.deletion_timestamp.is_some() => remove(volume, None),
        (Some("Delete"), None) => {
            let text = format!(
                "error getting deleter volume plugin for volume {:?}: no deletable volume plugin matched",
                name(&volume.metadata)
            );
            with_phase(volume, "Failed", Some(&text))
        }
        (Some("Recycle"), _) => with_phase(volume, "Failed", Some("Recycle is not supported")),
        (None | Some(_), _) => with_phase(volume, "Released", None),
    }
}

fn with_phase(volume: &PersistentVolume, phase: &str, message: Option<&str>) -> Option<Step> {
    let is = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    if is == Some(phase) {
        return None;
    }
    let mut changed = volume.clone();
    set_phase(&mut changed, phase, message);
    Some(Step::UpdateVolume(Box::new(changed)))
}

/// The rest of the status is others'.
fn set_phase(volume: &mut PersistentVolume, phase: &str, message: Option<&str>) {
    let status = volume.status.get_or_insert_default();
    status.phase = Some(phase.to_owned());
    status.message = message.map(str::to_owned);
}
