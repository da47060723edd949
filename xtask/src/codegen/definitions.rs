//! The definitions of every served kind and of what they refer to, one to a line: name, tab, JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

use super::literal;

const REFERENCE: &str = "#/components/schemas/";
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
/// What clients look up that no kind refers to.
const ALWAYS: [&str; 4] = ["DeleteOptions", "Status", "APIResourceList", "ListMeta"];

const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";

/// The supervisor's table of how lists and objects merge, by type and field.
#[derive(Debug, Default)]
pub(super) struct MergeTable {
    fields: BTreeMap<(String, String), Map<String, Value>>,
    atomic: BTreeSet<String>,
}

impl MergeTable {
    pub(super) fn read(text: &str) -> Self {
        let mut table = Self::default();
        for line in text.lines().filter(|line| !line.starts_with(['#', '@'])) {
            let mut words = line.split_whitespace();
            let Some(of) = words.next() else { continue };
            for word in words {
                if word == "*" {
                    table.atomic.insert(of.to_owned());
                    continue;
                }
                let (name, extensions) = extensions(word);
                table.fields.insert((of.to_owned(), name), extensions);
            }
        }
        table
    }

    /// Adds the values that fields take.
    pub(super) fn with_enums(mut self, text: &str) -> Self {
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let [of, field, values @ ..] = words.as_slice() {
                let entry = self.fields.entry(((*of).to_owned(), (*field).to_owned())).or_default();
                entry.insert("enum".to_owned(), json!(values));
            }
        }
        self
    }
}

/// The vendor extensions of one field.
fn extensions(word: &str) -> (String, Map<String, Value>) {
    let mut out = Map::new();
    let mut put = |key: &str, value: Value| drop(out.insert(format!("x-kubernetes-{key}"), value));
    let retains = word.starts_with('+');
    let strategy = |merges: bool| match (merges, retains) {
        (true, true) => Some("merge,retainKeys"),
        (true, false) => Some("merge"),
        (false, true) => Some("retainKeys"),
        (false, false) => None,
    };
    let word = word.trim_start_matches('+');
    let word = word.split_once(':').map_or(word, |(word, _)| word);
    let mut name = word;
    let mut merges = false;
    if let Some(atomic) = word.strip_suffix('!') {
        name = atomic;
        put("map-type", "atomic".into());
    } else if let Some((list, kinds)) = word.split_once('=') {
        name = list;
        merges = kinds.contains("merge");
        put("list-type", if kinds.contains("set") { "set" } else { "atomic" }.into());
    } else if let Some((list, keys)) = word.strip_suffix(']').and_then(|word| word.split_once('[')) {
        name = list;
        let (merge, apply) = keys.split_once('|').unwrap_or((keys, keys));
        if !merge.is_empty() {
            merges = true;
            put("patch-merge-key", merge.into());
        }
        if apply.is_empty() {
            put("list-type", "atomic".into());
        } else {
            put("list-type", "map".into());
            put("list-map-keys", apply.split(',').collect());
        }
    }
    if let Some(strategy) = strategy(merges) {
        put("patch-strategy", strategy.into());
    }
    (name.to_owned(), out)
}

/// One kind that the API serves.
struct Kind {
    group: String,
    version: String,
    kind: String,
    is_listed: bool,
}

impl Kind {
    fn new(group_version: &str, kind: &str, is_listed: bool) -> Self {
        let (group, version) = group_version.split_once('/').unwrap_or(("", group_version));
        Self { group: group.to_owned(), version: version.to_owned(), kind: kind.to_owned(), is_listed }
    }

    fn definition(&self) -> String {
        let package = if self.group.is_empty() { "core" } else { self.group.split('.').next().unwrap_or_default() };
        format!("io.k8s.api.{package}.{}.{}", self.version, self.kind)
    }

    fn tag(&self, suffix: &str) -> Value {
        json!([{"group": self.group, "kind": format!("{}{suffix}", self.kind), "version": self.version}])
    }
}

fn kinds(resources: &str) -> Vec<Kind> {
    let mut kinds = Vec::new();
    for line in resources.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [group_version, _, kind, scope, subresources @ ..] = words.as_slice() else { continue };
        kinds.push(Kind::new(group_version, kind, *scope != "create"));
        for (_, other) in subresources.iter().filter_map(|word| word.split_once('=')) {
            if let Some((group_version, kind)) = other.rsplit_once('/') {
                kinds.push(Kind::new(group_version, kind, false));
            }
        }
    }
    kinds
}

/// All definitions, sorted by name.
pub(super) fn all(sources: &Path, resources: &str, merge: &MergeTable) -> Result<String> {
    let kinds = kinds(resources);
    let mut out = BTreeMap::new();
    let mut wanted: Vec<String> = ALWAYS.iter().map(|name| format!("{META}{name}")).collect();
    wanted.extend(kinds.iter().map(Kind::definition));
    while let Some(name) = wanted.pop() {
        if out.contains_key(&name) {
            continue;
        }
        let mut schema = read(sources, &name)?;
        correct(&name, &mut schema, merge);
        references(&schema, &mut wanted);
        out.insert(name, schema);
    }
    for kind in &kinds {
        let name = kind.definition();
        if kind.is_listed {
            out.insert(format!("{name}List"), list(kind, &name));
        }
        if let Some(schema) = out.get_mut(&name) {
            tag(schema, kind);
        }
    }
    let mut lines = String::new();
    for (name, schema) in out {
        writeln!(lines, "{name}\t{schema}")?;
    }
    Ok(lines)
}

/// `io.k8s.api.core.v1.PodSpec` is in `api/core/v1/pod_spec.rs`.
fn read(sources: &Path, name: &str) -> Result<Value> {
    let path = name.trim_start_matches("io.k8s.");
    let (module, of) = path.rsplit_once('.').context("a name without module")?;
    let dir = sources.join(module.replace('.', "/").replace('-', "_"));
    let marker = format!("// Generated from definition {name}\n");
    for entry in std::fs::read_dir(&dir).with_context(|| format!("read {}", dir.display()))? {
        let entry = entry?.path();
        let is_named =
            entry.file_stem().is_some_and(|stem| stem.to_string_lossy().replace('_', "").eq_ignore_ascii_case(of));
        if !is_named {
            continue;
        }
        let source = std::fs::read_to_string(&entry)?;
        if source.starts_with(&marker) {
            return literal::schema(&source).with_context(|| format!("read {}", entry.display()));
        }
    }
    anyhow::bail!("{name} is nowhere in {}", dir.display())
}

/// What the crate's schemas say differently from the API's own.
fn correct(name: &str, schema: &mut Value, merge: &MergeTable) {
    match name {
        INT_OR_STRING => {
            schema["oneOf"] = json!([{"type": "integer"}, {"type": "string"}]);
            schema["format"] = "int-or-string".into();
        }
        QUANTITY => schema["oneOf"] = json!([{"type": "string"}, {"type": "number"}]),
        _ => {}
    }
    if let Some(schema) = schema.as_object_mut() {
        schema.remove("x-kubernetes-int-or-string");
    }
    let of = name.rsplit('.').next().unwrap_or_default();
    if merge.atomic.contains(of) {
        schema["x-kubernetes-map-type"] = "atomic".into();
    }
    let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else { return };
    for (field, property) in properties {
        let Some(property) = property.as_object_mut() else { continue };
        if property.get("type").is_some_and(|kind| kind == "array") {
            property.insert("x-kubernetes-list-type".to_owned(), "atomic".into());
        }
        if let Some(extensions) = merge.fields.get(&(of.to_owned(), field.clone())) {
            property.extend(extensions.clone());
        }
    }
}

fn references(schema: &Value, into: &mut Vec<String>) {
    match schema {
        Value::Object(fields) => {
            let own = fields.get("$ref").and_then(Value::as_str).and_then(|name| name.strip_prefix(REFERENCE));
            into.extend(own.map(str::to_owned));
            fields.values().for_each(|value| references(value, into));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, into)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The crate holds that kinds always have metadata; the API doesn't.
fn tag(schema: &mut Value, kind: &Kind) {
    schema["x-kubernetes-group-version-kind"] = kind.tag("");
    if let Some(required) = schema.get_mut("required").and_then(Value::as_array_mut) {
        required.retain(|field| field != "metadata");
    }
    if schema["required"].as_array().is_none_or(Vec::is_empty)
        && let Some(schema) = schema.as_object_mut()
    {
        schema.remove("required");
    }
}

fn list(kind: &Kind, name: &str) -> Value {
    let docs = "https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md";
    json!({
        "description": format!("{0}List is a list of {0} objects.", kind.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {
                "type": "string",
                "description": format!("APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: {docs}#resources"),
            },
            "items": {
                "description": "Items is the list of objects.",
                "type": "array",
                "items": {"$ref": format!("{REFERENCE}{name}")},
            },
            "kind": {
                "type": "string",
                "description": format!("Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: {docs}#types-kinds"),
            },
            "metadata": {
                "description": format!("Standard list metadata. More info: {docs}#types-kinds"),
                "allOf": [{"$ref": format!("{REFERENCE}{META}ListMeta")}],
            },
        },
        "x-kubernetes-group-version-kind": kind.tag("List"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merge_keys_become_extensions() {
        for (word, expected) in [
            (
                "containers[name]:C",
                json!({"x-kubernetes-patch-merge-key": "name", "x-kubernetes-patch-strategy": "merge",
                "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}),
            ),
            (
                "ports[p|p,q]",
                json!({"x-kubernetes-patch-merge-key": "p", "x-kubernetes-patch-strategy": "merge",
                "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["p", "q"]}),
            ),
            (
                "+volumes[name|]",
                json!({"x-kubernetes-patch-merge-key": "name",
                "x-kubernetes-patch-strategy": "merge,retainKeys", "x-kubernetes-list-type": "atomic"}),
            ),
            ("+strategy:S", json!({"x-kubernetes-patch-strategy": "retainKeys"})),
            ("finalizers=merge,set", json!({"x-kubernetes-patch-strategy": "merge", "x-kubernetes-list-type": "set"})),
            ("selector!", json!({"x-kubernetes-map-type": "atomic"})),
            ("spec:S", json!({})),
        ] {
            assert_eq!(Value::Object(extensions(word).1), expected, "{word}");
        }
    }
}
