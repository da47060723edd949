//! `metadata.managedFields`: who owns which field.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::fields::{Element, Set};

/// How many managers that update are remembered; the changes of older ones are put together.
pub const UPDATE_MANAGERS_MAX: usize = 10;
/// The manager that stands for those.
pub const ANCIENT: &str = "ancient-changes";
/// The manager of everything that an object had before fields were tracked.
pub const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// Fields of the metadata that the server sets: nobody owns them.
const SERVER_METADATA: [&str; 8] =
    ["name", "namespace", "creationTimestamp", "selfLink", "uid", "generation", "managedFields", "resourceVersion"];

/// Who makes a change.
#[derive(Debug, Clone, Copy)]
pub struct Manager<'m> {
    /// The request's `fieldManager`, or the first word of its user agent.
    pub name: &'m str,
    /// The version in which the fields are named: `v1`, `apps/v1`.
    pub api_version: &'m str,
    /// `status` and its like, or empty.
    pub subresource: &'m str,
    pub now: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    Apply,
    Update,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// One entry of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) manager: String,
    pub(super) operation: Operation,
    pub(super) api_version: String,
    pub(super) subresource: String,
    /// RFC 3339, or empty.
    pub(super) time: String,
    pub(super) set: Set,
}

impl Entry {
    pub(super) fn new(manager: &Manager<'_>, operation: Operation, set: Set) -> Self {
        Self {
            manager: manager.name.to_owned(),
            operation,
            api_version: manager.api_version.to_owned(),
            subresource: manager.subresource.to_owned(),
            time: manager.now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            set,
        }
    }

    /// Whether two entries are of one manager. What is applied is applied in one version at a time.
    pub(super) fn is_of(&self, other: &Self) -> bool {
        self.manager == other.manager
            && self.operation == other.operation
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }

    /// `"kubectl" with subresource "status" using v1`
    pub(super) fn show(&self) -> String {
        let mut shown = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            shown.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == Operation::Update {
            shown.push_str(&format!(" using {}", self.api_version));
        }
        shown
    }

    fn read(value: &Value) -> Option<Self> {
        let text = |name: &str| value.get(name).map_or(Some(""), Value::as_str).map(str::to_owned);
        let operation = match text("operation")?.as_str() {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return None,
        };
        let set = match value.get("fieldsV1") {
            Some(fields) => Set::read(fields)?,
            None => Set::default(),
        };
        let (manager, api_version) = (text("manager")?, text("apiVersion")?);
        Some(Self { manager, operation, api_version, subresource: text("subresource")?, time: text("time")?, set })
    }

    fn write(&self) -> Value {
        let mut out = json!({
            "manager": self.manager, "operation": self.operation.name(), "apiVersion": self.api_version,
            "fieldsType": "FieldsV1", "fieldsV1": self.set.write(),
        });
        for (name, text) in [("time", &self.time), ("subresource", &self.subresource)] {
            if !text.is_empty() {
                out[name] = text.as_str().into();
            }
        }
        out
    }
}

/// The list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Managers {
    pub(super) entries: Vec<Entry>,
}

impl Managers {
    /// Reads an object's list. A malformed one counts as none, as upstream: it may not lock an object.
    pub(super) fn of(object: &Value) -> Self {
        let list = object["metadata"]["managedFields"].as_array().map_or(&[][..], Vec::as_slice);
        let entries: Option<Vec<Entry>> = list.iter().map(Entry::read).collect();
        Self { entries: entries.unwrap_or_default() }
    }

    /// The entry of a manager, taken out.
    pub(super) fn take(&mut self, like: &Entry) -> Option<Entry> {
        let at = self.entries.iter().position(|entry| entry.is_of(like))?;
        Some(self.entries.remove(at))
    }

    /// Everything that anybody owns.
    pub(super) fn owned(&self) -> Set {
        self.entries.iter().fold(Set::default(), |all, entry| all.union(&entry.set))
    }

    /// Puts the oldest updates together until there are few enough.
    pub(super) fn cap(&mut self) {
        let is_counted = |entry: &Entry| entry.operation == Operation::Update && entry.subresource.is_empty();
        let mut updates: Vec<Entry> = self.entries.iter().filter(|entry| is_counted(entry)).cloned().collect();
        if updates.len() <= UPDATE_MANAGERS_MAX {
            return;
        }
        updates.sort_by(|one, other| one.time.cmp(&other.time));
        self.entries.retain(|entry| !is_counted(entry));
        let mut at = 0;
        while updates.len() > UPDATE_MANAGERS_MAX && at < updates.len() {
            let version = updates[at].api_version.clone();
            let Some(next) = (at + 1..updates.len()).find(|i| updates[*i].api_version == version) else {
                at += 1;
                continue;
            };
            let merged = updates.remove(next);
            let bucket = &mut updates[at];
            bucket.manager = ANCIENT.to_owned();
            bucket.set = std::mem::take(&mut bucket.set).union(&merged.set);
            bucket.time = merged.time;
        }
        self.entries.append(&mut updates);
    }

    /// Writes the list into an object, in the order of the API server.
    pub(super) fn write(mut self, object: &mut Value) {
        self.entries.retain(|entry| !entry.set.is_empty());
        self.entries.sort_by(|a, b| {
            let key = |e: &Entry| {
                (e.operation, e.time.clone(), e.manager.clone(), e.api_version.clone(), e.subresource.clone())
            };
            key(a).cmp(&key(b))
        });
        clear(object);
        if self.entries.is_empty() {
            return;
        }
        if let Some(object) = object.as_object_mut()
            && let Some(metadata) = object.entry("metadata").or_insert_with(|| json!({})).as_object_mut()
        {
            metadata.insert("managedFields".to_owned(), self.entries.iter().map(Entry::write).collect());
        }
    }
}

/// Takes the list off an object.
pub(super) fn clear(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
}

/// Whether a client asks to forget who owns what: the list is one empty entry.
pub(super) fn is_reset(object: &Value) -> bool {
    let list = object["metadata"]["managedFields"].as_array().map_or(&[][..], Vec::as_slice);
    matches!(list, [Value::Object(entry)] if entry.is_empty())
}

/// Without what nobody owns, and without what this endpoint doesn't change: a status through the main one, the rest
/// through `status`.
pub(super) fn ownable(set: Set, subresource: &str) -> Set {
    let mut nobodys = Set::default();
    for field in ["apiVersion", "kind", "metadata"] {
        nobodys.insert(&[Element::field(field)]);
    }
    for field in SERVER_METADATA {
        nobodys.insert(&[Element::field("metadata"), Element::field(field)]);
    }
    let set = set.difference(&nobodys);
    match subresource {
        "" => set.without("status"),
        "status" => set.without("spec"),
        _ => set,
    }
}

/// What the API's types have before anybody sets anything: fields that are never left out. A manager that fills them does
/// not own the node, only what is in it.
pub(super) fn unset(resource: &str) -> Value {
    let mut born = json!({"metadata": {}});
    let template = || json!({"metadata": {}, "spec": {"containers": []}});
    let mut put = |name: &str, value: Value| born[name] = value;
    match resource {
        "pods" => {
            put("spec", json!({"containers": []}));
            put("status", json!({}));
        }
        "podtemplates" => put("template", template()),
        "persistentvolumeclaims" => {
            put("spec", json!({"resources": {}}));
            put("status", json!({}));
        }
        "services" => {
            put("spec", json!({}));
            put("status", json!({"loadBalancer": {}}));
        }
        "nodes" => {
            put("spec", json!({}));
            put("status", json!({"daemonEndpoints": {"kubeletEndpoint": {}}, "nodeInfo": {}}));
        }
        "events" => {
            put("involvedObject", json!({}));
            put("source", json!({}));
        }
        "namespaces" | "persistentvolumes" | "resourcequotas" | "poddisruptionbudgets.policy" => {
            put("spec", json!({}));
            put("status", json!({}));
        }
        "limitranges" | "leases.coordination.k8s.io" => put("spec", json!({})),
        _ => {}
    }
    born
}

/// An object without its list of managers.
pub(super) fn bare(object: &Value) -> Value {
    let mut bare = match object {
        Value::Object(fields) => Value::Object(fields.clone()),
        _ => Value::Object(Map::new()),
    };
    clear(&mut bare);
    bare
}
