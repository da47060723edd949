//! Server-side apply, and who owns what after an update.

use serde_json::Value;

use super::error::{Conflict, PatchError};
use super::fields::{Set, show};
use super::managed::{self, BEFORE_FIRST_APPLY, Entry, Manager, Managers, Operation};
use super::typed::{self, Changes, Node};

/// The manager by which kubectl applies; it inherits what it applied from the client's side.
const KUBECTL: &str = "kubectl";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Bytes of all annotations (`TotalAnnotationSizeLimitB`): a last-applied configuration above it is left out.
const LAST_APPLIED_MAX: usize = 256 * 1024;

/// Applies a configuration to an object of a resource (a key of the store), or makes the object. The answer has not yet
/// been defaulted. Equal to `live` if nothing changes: then there is nothing to write.
///
/// # Errors
/// The configuration is malformed; or others own fields that it changes, and `force` is not set.
pub fn apply(
    resource: &str,
    live: Option<&Value>,
    config: &Value,
    manager: &Manager<'_>,
    force: bool,
) -> Result<Value, PatchError> {
    let node = Node::root(resource);
    check(node, config, manager)?;
    let old = live.map_or_else(|| managed::unset(resource), managed::bare);
    let mut managers = live.map(|live| tracked(resource, live, manager)).unwrap_or_default();
    let before = managers.clone();
    let set = managed::ownable(typed::field_set(node, config), manager.subresource);
    let mut own = Entry::new(manager, Operation::Apply, set);
    let last = managers.take(&own);

    let mut new = typed::merge(node, live.map_or(&Value::Null, |_| &old), config);
    if let Some(last) = &last {
        let claims = managers.owned().union(&own.set);
        let left = typed::remove(node, &new, &last.set.unclaimed(&claims)).unwrap_or_else(|| new.clone());
        // Objects that the configuration has empty are not among what is removed.
        new = typed::merge(node, &left, config);
    }
    let changes = Changes::between(node, &old, &new);
    let conflicts = conflicts(&managers, &changes);
    if !(force || conflicts.is_empty() || manager.name == KUBECTL && inherits(node, &old, &conflicts)) {
        return Err(refusal(conflicts));
    }
    managers.release(&changes);
    if manager.name == KUBECTL {
        remember(&mut new, config);
    }
    if let (Some(last), Some(live)) = (last, live)
        && last.set == own.set
        && last.api_version == own.api_version
    {
        if new == old && managers.entries.len() + 1 == before.entries.len() {
            return Ok(live.clone());
        }
        if new == old {
            own.time = last.time;
        }
    }
    managers.entries.push(own);
    managers.write(&mut new);
    Ok(new)
}

fn check(node: Node, config: &Value, manager: &Manager<'_>) -> Result<(), PatchError> {
    let Some(version) = config.get("apiVersion").and_then(Value::as_str) else {
        return Err(PatchError::Bad("Object 'apiVersion' is missing in the apply patch".to_owned()));
    };
    if version != manager.api_version {
        let expected = manager.api_version;
        let text = "Incorrect version specified in apply patch. Specified patch version:";
        return Err(PatchError::Bad(format!("{text} {version}, expected: {expected}")));
    }
    if !matches!(&config["metadata"]["managedFields"], Value::Null) {
        return Err(PatchError::Bad("metadata.managedFields must be nil".to_owned()));
    }
    let mut faults = Vec::new();
    typed::faults(node, config, &mut Vec::new(), &mut faults);
    if faults.is_empty() {
        return Ok(());
    }
    let kind = config["kind"].as_str().unwrap_or_default();
    let (namespace, name) = (&config["metadata"]["namespace"], &config["metadata"]["name"]);
    let name = format!("{}/{}", namespace.as_str().unwrap_or_default(), name.as_str().unwrap_or_default());
    let group = if version.contains('/') { version.to_owned() } else { format!("/{version}") };
    let what = format!("({name}; {group}, Kind={kind})");
    let text = match faults.as_slice() {
        [fault] => fault.clone(),
        faults => format!("errors:\n  {}", faults.join("\n  ")),
    };
    Err(PatchError::Bad(format!("failed to create typed patch object {what}: {text}")))
}

/// The managers of an object; everything belongs to one that stands for the past if nobody was remembered.
fn tracked(resource: &str, live: &Value, manager: &Manager<'_>) -> Managers {
    let managers = Managers::of(live);
    if !managers.entries.is_empty() {
        return managers;
    }
    let changes = Changes::between(Node::root(resource), &managed::unset(resource), &managed::bare(live));
    let past = Manager { name: BEFORE_FIRST_APPLY, subresource: "", ..*manager };
    let set = managed::ownable(changes.added.union(&changes.modified), "");
    Managers { entries: vec![Entry::new(&past, Operation::Update, set)] }
}

/// What others own and a change touches.
fn conflicts(managers: &Managers, changes: &Changes) -> Vec<(Entry, Set)> {
    let touched = changes.modified.clone().union(&changes.added);
    let hit = |entry: &Entry| (entry.clone(), entry.set.intersection(&touched));
    managers.entries.iter().map(hit).filter(|(_, set)| !set.is_empty()).collect()
}

fn refusal(mut conflicts: Vec<(Entry, Set)>) -> PatchError {
    conflicts.sort_by_key(|(entry, _)| entry.show());
    let one = |entry: &Entry, path: &[_]| Conflict { manager: entry.show(), path: show(path) };
    let all = conflicts.iter().flat_map(|(entry, set)| set.paths().into_iter().map(|path| one(entry, &path)));
    PatchError::Conflict(all.collect())
}

/// Whether kubectl itself applied everything that is in conflict, from the client's side.
fn inherits(node: Node, live: &Value, conflicts: &[(Entry, Set)]) -> bool {
    let text = live["metadata"]["annotations"][LAST_APPLIED].as_str();
    let Some(config) = text.and_then(|text| serde_json::from_str::<Value>(text).ok()) else { return false };
    let applied = typed::field_set(node, &config);
    conflicts.iter().all(|(_, set)| set.difference(&applied).is_empty())
}

/// Keeps the annotation of the client's side in step, if there is one, so that clients may go back to it.
fn remember(object: &mut Value, config: &Value) {
    if !object["metadata"]["annotations"][LAST_APPLIED].is_string() {
        return;
    }
    let mut config = managed::bare(config);
    let annotations = |object: &mut Value| {
        object
            .get_mut("metadata")
            .and_then(|m| m.get_mut("annotations"))
            .and_then(Value::as_object_mut)
            .map(std::mem::take)
    };
    if let Some(mut rest) = annotations(&mut config) {
        rest.remove(LAST_APPLIED);
        config["metadata"]["annotations"] = Value::Object(rest);
    }
    let text = format!("{config}\n");
    if let Some(mut rest) = annotations(object) {
        rest.remove(LAST_APPLIED);
        if text.len() <= LAST_APPLIED_MAX {
            rest.insert(LAST_APPLIED.to_owned(), text.into());
        }
        object["metadata"]["annotations"] = Value::Object(rest);
    }
}

impl Managers {
    /// Managers lose what a change of another touched or removed.
    fn release(&mut self, changes: &Changes) {
        let gone = changes.modified.clone().union(&changes.added).union(&changes.removed);
        for entry in &mut self.entries {
            entry.set = entry.set.difference(&gone);
        }
        self.entries.retain(|entry| !entry.set.is_empty());
    }
}

/// Writes into `new` who owns what, after a create (without `old`), an update or a patch by a manager. Call it when `new`
/// has its defaults and before the server adds what belongs to nobody.
pub fn managed_update(resource: &str, old: Option<&Value>, mut new: Value, manager: &Manager<'_>) -> Value {
    let Some(mut managers) = base(old, &new, manager) else {
        managed::clear(&mut new);
        return new;
    };
    managed::clear(&mut new);
    let node = Node::root(resource);
    let before = old.map_or_else(|| managed::unset(resource), managed::bare);
    let changes = Changes::between(node, &before, &new);
    let taken = managed::ownable(changes.added.clone().union(&changes.modified), manager.subresource);
    managers.release(&changes);
    let mut own = Entry::new(manager, Operation::Update, taken);
    if !own.set.is_empty() {
        if let Some(former) = managers.take(&own) {
            own.set = own.set.union(&former.set);
        }
        managers.entries.push(own);
        managers.cap();
    }
    managers.write(&mut new);
    new
}

/// The managers before an update: those that the client sends, if it sends any, else those that are stored. None for an
/// object whose fields are not tracked.
fn base(old: Option<&Value>, new: &Value, manager: &Manager<'_>) -> Option<Managers> {
    let stored = old.map(Managers::of);
    let managers = match stored {
        Some(stored) if !manager.subresource.is_empty() => stored,
        stored => {
            if managed::is_reset(new) {
                return None;
            }
            let sent = Managers::of(new);
            if sent.entries.is_empty() { stored.unwrap_or_default() } else { sent }
        }
    };
    (old.is_none() || !managers.entries.is_empty()).then_some(managers)
}
