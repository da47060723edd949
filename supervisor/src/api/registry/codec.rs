//! From what a client sent to what is stored: through the kind's type, strictly.

use k8s_openapi::Resource as Kind;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Resource;
use crate::manifest::path::{FieldPath, Segment};
use crate::manifest::typed::{self, Problem};

/// Checks a value against a type and answers it as the type writes it.
pub(super) type Codec = fn(&Value) -> Result<Value, Vec<Problem>>;

/// The codec of a type.
pub(super) fn of<T: Kind + DeserializeOwned + Serialize>(value: &Value) -> Result<Value, Vec<Problem>> {
    let object: T = typed::decode(value)?;
    let failed =
        |error: serde_json::Error| vec![Problem::Mismatch { path: FieldPath::default(), message: error.to_string() }];
    let mut value = serde_json::to_value(&object).map_err(failed)?;
    typed::mark_unset_times(&mut value);
    Ok(value)
}

/// Takes what comes, for kinds that are answered and not stored.
pub(super) fn untyped(value: &Value) -> Result<Value, Vec<Problem>> {
    Ok(value.clone())
}

/// What is wrong with a body, in the API server's words.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Problems {
    /// `unknown field "spec.x"`: refused, warned of or ignored, as the client chose.
    pub lenient: Vec<String>,
}

/// Decodes an object of a resource; unknown fields are dropped and reported.
///
/// # Errors
/// A field is of another type; in the words of the API server.
pub fn decode(resource: &Resource, mut value: Value) -> Result<(Value, Problems), String> {
    let mut problems = Problems::default();
    loop {
        let found = match (resource.codec)(&value) {
            Ok(typed) => return Ok((typed, problems)),
            Err(found) => found,
        };
        let mismatch = found.iter().find_map(|problem| match problem {
            Problem::Mismatch { path, message } => Some(mismatch_text(resource, path, message)),
            Problem::UnknownField { .. } => None,
        });
        if let Some(message) = mismatch {
            return Err(message);
        }
        let before = problems.lenient.len();
        for problem in found {
            if let Problem::UnknownField { path, .. } = problem
                && remove(&mut value, &path)
            {
                problems.lenient.push(format!("unknown field {:?}", path.to_string()));
            }
        }
        if problems.lenient.len() == before {
            return Err("a field can't be read".to_owned());
        }
    }
}

/// `json: cannot unmarshal string into Go struct field Pod.spec.hostNetwork of type bool`, as close as our decoder knows.
fn mismatch_text(resource: &Resource, path: &FieldPath, message: &str) -> String {
    let keys: Vec<&str> = path.0.iter().filter_map(key_of).collect();
    let (found, wanted) = message.split_once(", expected ").unwrap_or((message, ""));
    let found = found.strip_prefix("got ").unwrap_or(found);
    let Some(found) = json_type(found).filter(|_| !wanted.is_empty()) else {
        return format!("json: field {}.{}: {message}", resource.kind, keys.join("."));
    };
    let wanted = go_type(wanted);
    format!("json: cannot unmarshal {found} into Go struct field {}.{} of type {wanted}", resource.kind, keys.join("."))
}

fn key_of(segment: &Segment) -> Option<&str> {
    match segment {
        Segment::Key(key) => Some(key),
        Segment::Index(_) => None,
    }
}

fn json_type(found: &str) -> Option<&'static str> {
    let kinds = [
        ("the string", "string"),
        ("the integer", "number"),
        ("the number", "number"),
        ("the boolean", "bool"),
        ("a list", "array"),
        ("an object", "object"),
    ];
    kinds.iter().find(|(start, _)| found.starts_with(start)).map(|(_, name)| *name)
}

fn go_type(wanted: &str) -> String {
    match wanted {
        "an integer" => "int32".to_owned(),
        "a number" => "float64".to_owned(),
        "a string" => "string".to_owned(),
        "a boolean" => "bool".to_owned(),
        "a list" => "[]interface {}".to_owned(),
        "an object" => "map[string]string".to_owned(),
        other => match other.strip_prefix("an object (").and_then(|rest| rest.strip_suffix(')')) {
            Some(name) => format!("v1.{name}"),
            None => other.to_owned(),
        },
    }
}

/// Removes a field; false when it isn't there.
fn remove(value: &mut Value, path: &FieldPath) -> bool {
    let Some((Segment::Key(last), parents)) = path.0.split_last() else { return false };
    let mut at = value;
    for segment in parents {
        let next = match segment {
            Segment::Key(key) => at.get_mut(key),
            Segment::Index(index) => at.get_mut(*index),
        };
        let Some(next) = next else { return false };
        at = next;
    }
    at.as_object_mut().is_some_and(|entries| entries.remove(last).is_some())
}

#[cfg(test)]
mod tests {
    use super::super::find;
    use super::*;
    use serde_json::json;

    #[test]
    fn unknown_fields_are_dropped_and_named() {
        let pods = find("", "v1", "pods").unwrap();
        let value = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "x": 1},
            "spec": {"containers": [{"name": "c", "imagee": "i"}], "nope": {}}});
        let (value, problems) = decode(pods, value).unwrap();
        let expected = [
            "unknown field \"metadata.x\"",
            "unknown field \"spec.containers[0].imagee\"",
            "unknown field \"spec.nope\"",
        ];
        assert_eq!(problems.lenient, expected);
        assert_eq!(value["spec"], json!({"containers": [{"name": "c"}]}));
    }

    #[test]
    fn another_type_is_an_error_in_the_servers_words() {
        let pods = find("", "v1", "pods").unwrap();
        let value = json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [], "hostNetwork": "yes"}});
        let text = decode(pods, value).unwrap_err();
        assert_eq!(text, "json: cannot unmarshal string into Go struct field Pod.spec.hostNetwork of type bool");
    }
}
