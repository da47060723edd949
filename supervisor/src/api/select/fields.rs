//! Field selectors (KC6): a fixed set of fields for each resource.

use std::borrow::Cow;

use serde_json::Value;

use super::{BadSelector, check_length};

/// What fields of an object must be. The default selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields {
    terms: Vec<Term>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Term {
    field: String,
    is_equal: bool,
    value: String,
}

const META: &[&str] = &["metadata.name", "metadata.namespace"];

const POD: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.hostNetwork",
    "status.phase",
    "status.podIP",
    "status.podIPs",
    "status.nominatedNodeName",
];

const EVENT: &[&str] = &[
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
    "metadata.name",
    "metadata.namespace",
];

/// The names of events.k8s.io and those of core, which are stored.
const NEW_EVENT: &[(&str, &str)] = &[
    ("regarding.kind", "involvedObject.kind"),
    ("regarding.namespace", "involvedObject.namespace"),
    ("regarding.name", "involvedObject.name"),
    ("regarding.uid", "involvedObject.uid"),
    ("regarding.apiVersion", "involvedObject.apiVersion"),
    ("regarding.resourceVersion", "involvedObject.resourceVersion"),
    ("regarding.fieldPath", "involvedObject.fieldPath"),
    ("reason", "reason"),
    ("reportingController", "reportingComponent"),
    ("type", "type"),
    ("metadata.name", "metadata.name"),
    ("metadata.namespace", "metadata.namespace"),
];

/// The fields of a resource, or none if it has only its metadata.
fn own_fields(resource: &str) -> Option<&'static [&'static str]> {
    Some(match resource {
        "pods" => POD,
        "events" => EVENT,
        "nodes" => &["metadata.name", "spec.unschedulable"],
        "namespaces" => &["metadata.name", "status.phase"],
        "secrets" => &["metadata.name", "metadata.namespace", "type"],
        "services" => &["metadata.name", "metadata.namespace", "spec.clusterIP", "spec.type"],
        "replicationcontrollers" => &["metadata.name", "metadata.namespace", "status.replicas"],
        "jobs.batch" => &["metadata.name", "metadata.namespace", "status.successful"],
        _ => return None,
    })
}

/// The stored name of a field that a client named.
fn known(resource: &str, field: &str) -> Result<String, BadSelector> {
    if resource == "events.events.k8s.io" {
        let found = NEW_EVENT.iter().find(|(name, _)| *name == field);
        return found.map(|(_, stored)| (*stored).to_owned()).ok_or_else(|| unsupported(field));
    }
    match own_fields(resource) {
        Some(fields) if fields.contains(&field) => Ok(field.to_owned()),
        Some(_) if resource == "jobs.batch" => {
            Err(BadSelector::new(format!("field label {field:?} not supported for Job")))
        }
        Some(_) => Err(unsupported(field)),
        None if META.contains(&field) => Ok(field.to_owned()),
        None => {
            let known = r#"only "metadata.name", "metadata.namespace""#;
            Err(BadSelector::new(format!("{field:?} is not a known field selector: {known}")))
        }
    }
}

fn unsupported(field: &str) -> BadSelector {
    BadSelector::new(format!("field label not supported: {field}"))
}

impl Fields {
    /// Reads what a client wrote after `fieldSelector=`. The resource is a key of the store: the plural, with its group
    /// for all but core.
    ///
    /// # Errors
    /// The selector is malformed, or names a field that can't be selected by.
    pub fn parse(resource: &str, text: &str) -> Result<Self, BadSelector> {
        check_length(text)?;
        let mut parts = split(text);
        parts.sort_unstable();
        let mut terms = Vec::new();
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            let Some((field, is_equal, value)) = term(part) else {
                return Err(BadSelector::new(format!("invalid selector: '{text}'; can't understand '{part}'")));
            };
            let value = unescape(value)?;
            terms.push(Term { field: known(resource, field)?, is_equal, value });
        }
        Ok(Self { terms })
    }

    /// True if everything is selected.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// The one name that can match, if the selector asks for one: a list is then a look-up, and `watch` of one object
    /// is this selector.
    pub fn name(&self) -> Option<&str> {
        self.terms.iter().find(|t| t.is_equal && t.field == "metadata.name").map(|t| t.value.as_str())
    }

    /// Whether the fields of an object are what is asked for. A field that the object doesn't have is empty.
    pub fn matches(&self, object: &Value) -> bool {
        self.terms.iter().all(|term| (field(object, &term.field) == term.value) == term.is_equal)
    }
}

fn field<'v>(object: &'v Value, name: &str) -> Cow<'v, str> {
    match name {
        "source" => first(object, &[&["source", "component"], &["reportingComponent"], &["reportingController"]]),
        "reportingComponent" => first(object, &[&["reportingComponent"], &["reportingController"]]),
        "status.successful" => text(&object["status"]["succeeded"], "0"),
        "status.replicas" => text(&object["status"]["replicas"], "0"),
        "spec.unschedulable" => text(&object["spec"]["unschedulable"], "false"),
        "spec.hostNetwork" => text(&object["spec"]["hostNetwork"], "false"),
        "status.podIPs" => text(&object["status"]["podIPs"][0]["ip"], ""),
        _ => text(name.split('.').fold(object, |value, step| &value[step]), ""),
    }
}

fn first<'v>(object: &'v Value, paths: &[&[&str]]) -> Cow<'v, str> {
    let found = paths.iter().map(|path| text(path.iter().fold(object, |value, step| &value[*step]), ""));
    found.into_iter().find(|text| !text.is_empty()).unwrap_or_default()
}

fn text<'v>(value: &'v Value, absent: &'static str) -> Cow<'v, str> {
    match value {
        Value::Null => Cow::Borrowed(absent),
        Value::String(text) => Cow::Borrowed(text),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => Cow::Owned(value.to_string()),
    }
}

/// Splits at the commas that are not escaped.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut is_escaped) = (Vec::new(), 0, false);
    for (index, c) in text.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            ',' => {
                parts.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

/// Field, whether it must be equal, value.
fn term(part: &str) -> Option<(&str, bool, &str)> {
    let at = part.find(['=', '!']).filter(|at| part[*at..].starts_with('=') || part[*at..].starts_with("!="));
    let at = at.or_else(|| part.find('='))?;
    let (field, rest) = part.split_at(at);
    for (operator, is_equal) in [("!=", false), ("==", true), ("=", true)] {
        if let Some(value) = rest.strip_prefix(operator) {
            return Some((field, is_equal, value));
        }
    }
    None
}

fn unescape(value: &str) -> Result<String, BadSelector> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(escaped @ ('\\' | ',' | '=')) => out.push(escaped),
                next => {
                    let sequence: String = std::iter::once('\\').chain(next).collect();
                    return Err(BadSelector::new(format!(
                        "invalid field selector: invalid escape sequence: {sequence}"
                    )));
                }
            },
            ',' | '=' => {
                let code = u32::from(c);
                return Err(BadSelector::new(format!("invalid field selector: unescaped character in value: {code}")));
            }
            _ => out.push(c),
        }
    }
    Ok(out)
}
