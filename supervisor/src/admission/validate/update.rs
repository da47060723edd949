//! What may change in a Pod that exists (UP1-UP5, EP1).

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Toleration};
use serde_json::Value;

use super::error::{Errors, IMMUTABLE, Invalid, Path};
use super::{container, metadata, names, pod};

/// UP3, word for word.
const ONLY: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Checks an update of `old` to `new` through the main resource; both defaulted.
pub fn validate_update(old: &Pod, new: &Pod) -> Result<(), Invalid> {
    let mut errors = Errors::default();
    metadata::metadata(&new.metadata, true, names::subdomain, &mut errors);
    identity(old, new, &mut errors);
    let path = Path::new("spec");
    let (Some(before), Some(after)) = (&old.spec, &new.spec) else {
        errors.required(&path, "");
        return errors.done();
    };
    if counts_differ(before, after) {
        errors.forbidden(&path.field("containers"), "pod updates may not add or remove containers");
        return errors.done();
    }
    images(after, &path, &mut errors);
    deadline(before, after, &path, &mut errors);
    tolerations(before, after, &path.field("tolerations"), &mut errors);
    rest(before, after, &path, &mut errors);
    errors.done()
}

/// Checks an update through the subresource `ephemeralcontainers`: existing ones stay as they are (EP1).
pub fn validate_ephemeral_containers(old: &Pod, new: &Pod) -> Result<(), Invalid> {
    let mut errors = Errors::default();
    let path = Path::new("spec").field("ephemeralContainers");
    let list = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.ephemeral_containers.clone()).unwrap_or_default();
    let (before, after) = (list(old), list(new));
    for existing in &before {
        match after.iter().find(|container| container.name == existing.name) {
            None => errors
                .forbidden(&path, format!("existing ephemeral containers {:?} may not be removed\n", existing.name)),
            Some(kept) if kept != existing => {
                let detail = format!("existing ephemeral containers {:?} may not be changed\n", existing.name);
                errors.forbidden(&path, detail);
            }
            Some(_) => {}
        }
    }
    if let Some(spec) = &new.spec {
        container::ephemeral(spec, &path, &mut errors);
    }
    errors.done()
}

/// UP1
fn identity(old: &Pod, new: &Pod, errors: &mut Errors) {
    let path = Path::new("metadata");
    let (before, after) = (&old.metadata, &new.metadata);
    for (field, old, new) in [
        ("name", &before.name, &after.name),
        ("namespace", &before.namespace, &after.namespace),
        ("uid", &before.uid, &after.uid),
    ] {
        if old != new {
            errors.invalid(&path.field(field), new.as_deref(), IMMUTABLE);
        }
    }
    let old_finalizers = before.finalizers.as_deref().unwrap_or_default();
    let added: Vec<&String> =
        after.finalizers.iter().flatten().filter(|finalizer| !old_finalizers.contains(finalizer)).collect();
    if before.deletion_timestamp.is_some() && !added.is_empty() {
        let detail =
            format!("no new finalizers can be added if the object is being deleted, found new finalizers {added:?}");
        errors.forbidden(&path.field("finalizers"), detail);
    }
}

fn counts_differ(before: &PodSpec, after: &PodSpec) -> bool {
    let inits = |spec: &PodSpec| spec.init_containers.as_ref().map_or(0, Vec::len);
    before.containers.len() != after.containers.len() || inits(before) != inits(after)
}

fn images(spec: &PodSpec, path: &Path, errors: &mut Errors) {
    let apps = spec.containers.iter().enumerate().map(|(index, c)| (path.field("containers").index(index), c));
    let inits = spec.init_containers.iter().flatten().enumerate();
    for (path, container) in apps.chain(inits.map(|(index, c)| (path.field("initContainers").index(index), c))) {
        let image = container.image.as_deref().unwrap_or_default();
        if image.is_empty() {
            errors.required(&path.field("image"), "");
        } else if image.trim() != image {
            errors.invalid(&path.field("image"), image, "must not have leading or trailing whitespace");
        }
    }
}

/// DL2: it may be set and lowered.
fn deadline(before: &PodSpec, after: &PodSpec, path: &Path, errors: &mut Errors) {
    let path = path.field("activeDeadlineSeconds");
    match (before.active_deadline_seconds, after.active_deadline_seconds) {
        (_, Some(new)) if !(1..=i64::from(i32::MAX)).contains(&new) => {
            errors.invalid(&path, new, "must be between 1 and 2147483647, inclusive");
        }
        (Some(old), Some(new)) if new > old => {
            errors.invalid(&path, new, "must be less than or equal to previous value");
        }
        (Some(_), None) => errors.invalid(&path, Value::Null, "must not update from a positive integer to nil value"),
        (Some(_) | None, Some(_)) | (None, None) => {}
    }
}

fn tolerations(before: &PodSpec, after: &PodSpec, path: &Path, errors: &mut Errors) {
    let without_time = |t: &Toleration| Toleration { toleration_seconds: None, ..t.clone() };
    let new: Vec<Toleration> = after.tolerations.iter().flatten().map(without_time).collect();
    if before.tolerations.iter().flatten().any(|old| !new.contains(&without_time(old))) {
        errors.forbidden(path, "existing toleration can not be modified except its tolerationSeconds");
    }
    pod::tolerations(after, path, errors);
}

/// UP3: what is left after all that may change was made equal.
fn rest(before: &PodSpec, after: &PodSpec, path: &Path, errors: &mut Errors) {
    let mut allowed = after.clone();
    copy_images(&before.containers, &mut allowed.containers);
    if let (Some(old), Some(new)) = (&before.init_containers, &mut allowed.init_containers) {
        copy_images(old, new);
    }
    allowed.active_deadline_seconds = before.active_deadline_seconds;
    allowed.tolerations.clone_from(&before.tolerations);
    let was_negative = before.termination_grace_period_seconds.is_some_and(|seconds| seconds < 0);
    if was_negative && after.termination_grace_period_seconds == Some(1) {
        allowed.termination_grace_period_seconds = before.termination_grace_period_seconds;
    }
    if only_removes_gates(before, after) {
        allowed.scheduling_gates.clone_from(&before.scheduling_gates);
    }
    if allowed != *before {
        let (old, new) = (json(before), json(&allowed));
        let mut changes = String::new();
        diff(&Path::new("spec"), Some(&old), Some(&new), &mut changes);
        errors.forbidden(path, format!("{ONLY}\n{changes}"));
    }
}

fn only_removes_gates(before: &PodSpec, after: &PodSpec) -> bool {
    let old = before.scheduling_gates.as_deref().unwrap_or_default();
    after.scheduling_gates.iter().flatten().all(|gate| old.contains(gate))
}

fn copy_images(from: &[Container], to: &mut [Container]) {
    for (from, to) in from.iter().zip(to) {
        to.image.clone_from(&from.image);
    }
}

fn json(spec: &PodSpec) -> Value {
    serde_json::to_value(spec).unwrap_or_default()
}

/// UP4: each field that differs with its old (`-`) and new (`+`) value.
fn diff(path: &Path, old: Option<&Value>, new: Option<&Value>, out: &mut String) {
    match (old, new) {
        (old, new) if old == new => {}
        (Some(Value::Object(before)), Some(Value::Object(after))) => {
            let added = after.keys().filter(|key| !before.contains_key(*key));
            for key in before.keys().chain(added) {
                diff(&path.field(key), before.get(key), after.get(key), out);
            }
        }
        (Some(Value::Array(before)), Some(Value::Array(after))) => {
            for index in 0..before.len().max(after.len()) {
                diff(&path.index(index), before.get(index), after.get(index), out);
            }
        }
        (old, new) => {
            for (sign, value) in [('-', old), ('+', new)] {
                if let Some(value) = value {
                    out.push_str(&format!("{sign} {path}: {value}\n"));
                }
            }
        }
    }
}
