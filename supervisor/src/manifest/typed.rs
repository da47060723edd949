//! From a `serde_json::Value` to a Kubernetes type, with all that is wrong and where.
//!
//! One `Deserializer` for every type: it knows the path it is at, hears from the type which fields it has (so that no list
//! is kept by hand), and leaves out what it noted as wrong, so that the next attempt finds the next mistake.

use std::cell::RefCell;
use std::fmt;
use std::sync::LazyLock;

use serde::de::value::StrDeserializer;
use serde::de::{DeserializeSeed, Deserializer, Expected, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, forward_to_deserialize_any};
use serde_json::{Map, Value};

use super::path::{FieldPath, Segment};
use super::yaml::MAX_FAULTS;

/// Smallest likeness (0 to 1) at which a known field is offered for an unknown one.
const MIN_LIKENESS: f64 = 0.7;

/// What Go writes as `null`: a time that was never set.
const ZERO_TIME: &str = "0001-01-01T00:00:00Z";
/// Fields that our types require, by type; Go's have a zero value for them.
const NEEDED: [(&str, &str); 2] = [("Condition", "lastTransitionTime"), ("EventSeries", "lastObservedTime")];
static NULL: Value = Value::Null;
static FALSE: Value = Value::Bool(false);
static EMPTY_TEXT: Value = Value::String(String::new());
static EMPTY_LIST: Value = Value::Array(Vec::new());
static EMPTY_OBJECT: LazyLock<Value> = LazyLock::new(|| Value::Object(Map::new()));
static ZERO: LazyLock<Value> = LazyLock::new(|| 0.into());

/// What a type does not accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The type has no such field; the path includes it.
    UnknownField {
        /// The field.
        path: FieldPath,
        /// Its last part, as written.
        name: String,
        /// The most similar field that the type has.
        nearest: Option<&'static str>,
    },
    /// The value is of another type.
    Mismatch {
        /// The field.
        path: FieldPath,
        /// What was found and what was expected.
        message: String,
    },
}

/// Decodes `value`; `Err` holds every problem, not only the first.
pub(crate) fn decode<'a, T: Deserialize<'a>>(value: &'a Value) -> Result<T, Vec<Problem>> {
    let mut sink = Sink::default();
    let mut mismatches = Vec::new();
    loop {
        sink.unknown.get_mut().clear();
        match T::deserialize(Node { value, at: At::Top, fields: &sink }) {
            Ok(object) if mismatches.is_empty() && sink.unknown.get_mut().is_empty() => {
                return Ok(object);
            }
            Ok(_) => break,
            Err(Mismatch { at, message }) => {
                let path = at.unwrap_or_default();
                let stuck = path.0.is_empty() || sink.skip.contains(&path);
                sink.skip.push(path.clone());
                mismatches.push(Problem::Mismatch { path, message });
                if stuck || mismatches.len() >= MAX_FAULTS {
                    break;
                }
            }
        }
    }
    mismatches.append(sink.unknown.get_mut());
    Err(mismatches)
}

/// Reads what was checked before; unknown fields are left out.
///
/// # Errors
/// A field is of another type.
pub(crate) fn read<'a, T: Deserialize<'a>>(value: &'a Value) -> Result<T, impl std::error::Error + use<T>> {
    T::deserialize(Node { value, at: At::Top, fields: &Sink::default() })
}

/// Writes times that were never set as `null`, where a type can't leave them out.
pub(crate) fn mark_unset_times(object: &mut Value) {
    let conditions = object.pointer_mut("/status/conditions").and_then(Value::as_array_mut).into_iter().flatten();
    conditions.filter_map(|condition| condition.get_mut("lastTransitionTime")).for_each(unset);
    object.pointer_mut("/series/lastObservedTime").into_iter().for_each(unset);
}

fn unset(time: &mut Value) {
    // Microseconds may stand between the seconds and the zone.
    if time.as_str().is_some_and(|text| text.starts_with(ZERO_TIME.trim_end_matches('Z'))) {
        *time = Value::Null;
    }
}

#[derive(Default)]
struct Sink {
    unknown: RefCell<Vec<Problem>>,
    /// What is known to be wrong and is left out.
    skip: Vec<FieldPath>,
}

#[derive(Clone, Copy)]
enum At<'p> {
    Top,
    Key(&'p At<'p>, &'p str),
    Index(&'p At<'p>, usize),
}

impl At<'_> {
    fn path(&self) -> FieldPath {
        let mut segments = Vec::new();
        let mut at = self;
        loop {
            match at {
                At::Top => break,
                At::Key(up, key) => {
                    segments.push(Segment::Key((*key).to_owned()));
                    at = up;
                }
                At::Index(up, index) => {
                    segments.push(Segment::Index(*index));
                    at = up;
                }
            }
        }
        segments.reverse();
        FieldPath(segments)
    }
}

/// Why a type refused a value. `at` is filled in by the innermost [`Node`].
#[derive(Debug)]
struct Mismatch {
    at: Option<FieldPath>,
    message: String,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Mismatch {}

impl serde::de::Error for Mismatch {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Mismatch { at: None, message: message.to_string() }
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::custom(format_args!("got {}, expected {}", describe(found), expectation(&expected.to_string())))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let expected = expected.to_string();
        match expected.as_str() {
            "i32" => Self::custom(format_args!("{} is out of the range of a 32-bit integer", describe(found))),
            "i64" => Self::custom(format_args!("{} is out of the range of a 64-bit integer", describe(found))),
            _ => Self::custom(format_args!("got {}, expected {}", describe(found), expectation(&expected))),
        }
    }
}

fn describe(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Bool(value) => format!("the boolean {value}"),
        Unexpected::Unsigned(value) => format!("the integer {value}"),
        Unexpected::Signed(value) => format!("the integer {value}"),
        Unexpected::Float(value) => format!("the number {value}"),
        Unexpected::Char(value) => format!("the string {value:?}"),
        Unexpected::Str(value) => format!("the string {value:?}"),
        Unexpected::Unit | Unexpected::Option => "nothing (null)".to_owned(),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map => "an object".to_owned(),
        Unexpected::Bytes(_)
        | Unexpected::NewtypeStruct
        | Unexpected::Enum
        | Unexpected::UnitVariant
        | Unexpected::NewtypeVariant
        | Unexpected::TupleVariant
        | Unexpected::StructVariant
        | Unexpected::Other(_) => found.to_string(),
    }
}

/// Rust's names of types in a user's words.
fn expectation(expected: &str) -> String {
    match expected {
        "i8" | "i16" | "i32" | "i64" | "u8" | "u16" | "u32" | "u64" => "an integer".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "an object".to_owned(),
        "Quantity" => "a quantity such as 250m or 64Mi".to_owned(),
        "IntOrString" => "an integer or a string".to_owned(),
        name if name.starts_with(|c: char| c.is_ascii_uppercase()) => format!("an object ({name})"),
        other => other.to_owned(),
    }
}

struct Node<'de, 'p> {
    value: &'de Value,
    at: At<'p>,
    fields: &'p Sink,
}

/// A type that is an object: its fields, and the one that must not be missing.
#[derive(Clone, Copy)]
struct Shape {
    fields: &'static [&'static str],
    needed: Option<&'static str>,
}

impl<'de, 'p> Node<'de, 'p> {
    fn visit<V: Visitor<'de>>(&self, known: Option<Shape>, visitor: V) -> Result<V::Value, Mismatch> {
        let result = match self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Number(number) => visit_number(number, visitor),
            Value::String(text) => visitor.visit_borrowed_str(text),
            Value::Array(items) => visitor.visit_seq(Items { items: items.iter().enumerate(), up: self }),
            Value::Object(entries) => {
                let missing = known.and_then(|shape| shape.needed).filter(|field| !entries.contains_key(*field));
                let known = known.map(|shape| shape.fields);
                visitor.visit_map(Entries { entries: entries.iter(), current: None, known, missing, up: self })
            }
        };
        self.placed(result)
    }

    fn placed<T>(&self, result: Result<T, Mismatch>) -> Result<T, Mismatch> {
        result.map_err(|mismatch| Mismatch { at: mismatch.at.or_else(|| Some(self.at.path())), ..mismatch })
    }

    /// A null in a list or a map is the zero value, as Go's decoder has it; types leave absent fields to themselves.
    fn or(self, zero: &'static Value) -> Self {
        if self.value.is_null() { Node { value: zero, ..self } } else { self }
    }

    fn is_skipped(&self, at: At<'_>) -> bool {
        !self.fields.skip.is_empty() && self.fields.skip.contains(&at.path())
    }
}

fn visit_number<'de, V: Visitor<'de>>(number: &serde_json::Number, visitor: V) -> Result<V::Value, Mismatch> {
    if let Some(value) = number.as_i64() {
        visitor.visit_i64(value)
    } else if let Some(value) = number.as_u64() {
        visitor.visit_u64(value)
    } else {
        visitor.visit_f64(number.as_f64().unwrap_or(f64::NAN))
    }
}

impl<'de> Deserializer<'de> for Node<'de, '_> {
    type Error = Mismatch;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        self.visit(None, visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        if self.value.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Mismatch> {
        let zero = match name {
            "Quantity" => "0",
            "Time" | "MicroTime" => ZERO_TIME,
            _ => return visitor.visit_newtype_struct(self),
        };
        if self.value.is_null() {
            return self.placed(visitor.visit_newtype_struct(StrDeserializer::new(zero)));
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        let needed = NEEDED.iter().find(|(of, _)| *of == name).map(|(_, field)| *field);
        self.or(&EMPTY_OBJECT).visit(Some(Shape { fields, needed }), visitor)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        self.or(&FALSE).visit(None, visitor)
    }

    fn deserialize_i32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        self.or(&ZERO).visit(None, visitor)
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        self.or(&ZERO).visit(None, visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        self.or(&EMPTY_TEXT).visit(None, visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        self.or(&EMPTY_TEXT).visit(None, visitor)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        self.or(&EMPTY_LIST).visit(None, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        self.or(&EMPTY_OBJECT).visit(None, visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        i8 i16 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct enum identifier
    }
}

struct Items<'de, 'u, 'p> {
    items: std::iter::Enumerate<std::slice::Iter<'de, Value>>,
    up: &'u Node<'de, 'p>,
}

impl<'de> SeqAccess<'de> for Items<'de, '_, '_> {
    type Error = Mismatch;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Mismatch> {
        for (index, value) in self.items.by_ref() {
            let at = At::Index(&self.up.at, index);
            if !self.up.is_skipped(at) {
                return seed.deserialize(Node { value, at, fields: self.up.fields }).map(Some);
            }
        }
        Ok(None)
    }
}

struct Entries<'de, 'u, 'p> {
    entries: serde_json::map::Iter<'de>,
    current: Option<(&'de str, &'de Value)>,
    /// The fields of the type; `None` where any key may stand.
    known: Option<&'static [&'static str]>,
    /// A field that must come and doesn't: it comes as null.
    missing: Option<&'static str>,
    up: &'u Node<'de, 'p>,
}

impl<'de> MapAccess<'de> for Entries<'de, '_, '_> {
    type Error = Mismatch;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Mismatch> {
        for (key, value) in self.entries.by_ref() {
            let at = At::Key(&self.up.at, key);
            match self.known {
                _ if self.up.is_skipped(at) => {}
                Some(known) if !known.contains(&key.as_str()) => {
                    let nearest = nearest(key, known);
                    let unknown = Problem::UnknownField { path: at.path(), name: key.clone(), nearest };
                    self.up.fields.unknown.borrow_mut().push(unknown);
                }
                Some(_) | None => {
                    self.current = Some((key, value));
                    return seed.deserialize(StrDeserializer::new(key)).map(Some);
                }
            }
        }
        let Some(field) = self.missing.take() else { return Ok(None) };
        self.current = Some((field, &NULL));
        seed.deserialize(StrDeserializer::new(field)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Mismatch> {
        match self.current.take() {
            Some((key, value)) => {
                seed.deserialize(Node { value, at: At::Key(&self.up.at, key), fields: self.up.fields })
            }
            None => Err(serde::de::Error::custom("a value without a key")),
        }
    }
}

/// The name that was probably meant.
pub(crate) fn nearest(name: &str, known: &'static [&'static str]) -> Option<&'static str> {
    let lower = name.to_ascii_lowercase();
    let likeness =
        |candidate: &&&'static str| strsim::normalized_damerau_levenshtein(&lower, &candidate.to_ascii_lowercase());
    let best = known.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(&best) >= MIN_LIKENESS || is_plural(&lower, &best.to_ascii_lowercase())).then_some(best)
}

fn is_plural(one: &str, other: &str) -> bool {
    one.strip_suffix('s') == Some(other) || other.strip_suffix('s') == Some(one)
}

/// The values of `entries` that hold an object, for callers that look into a document before its type is known.
pub(crate) fn text<'a>(entries: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    entries.get(key).and_then(Value::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{Pod, Secret, Service};
    use serde_json::json;

    fn shown(value: &Value) -> Vec<String> {
        decode::<Pod>(value)
            .err()
            .unwrap_or_default()
            .into_iter()
            .map(|problem| match problem {
                Problem::UnknownField { path, nearest, .. } => format!("{path}? {nearest:?}"),
                Problem::Mismatch { path, message } => format!("{path}: {message}"),
            })
            .collect()
    }

    #[test]
    fn every_problem_is_found_with_its_path() {
        let value = json!({"apiVersion": "v1", "kind": "Pod", "metdata": {}, "metadata": {"labels": {"a": 1}}, "spec": {
            "hostNetwork": "maybe",
            "containers": [
                {"name": "a", "imagePullPolcy": "Always", "ports": [{"containerPort": "eighty"}, {"containerPort": 3e9}]},
                {"name": 5, "resources": {"limits": {"cpu": true}}, "nonsense": 1},
                7,
            ],
        }});
        assert_eq!(
            shown(&value),
            [
                "metadata.labels.a: got the integer 1, expected a string",
                "spec.containers[0].ports[0].containerPort: got the string \"eighty\", expected an integer",
                "spec.containers[0].ports[1].containerPort: got the number 3000000000, expected an integer",
                "spec.containers[1].name: got the integer 5, expected a string",
                "spec.containers[1].resources.limits.cpu: got the boolean true, expected a quantity such as 250m or 64Mi",
                "spec.containers[2]: got the integer 7, expected an object (Container)",
                "spec.hostNetwork: got the string \"maybe\", expected a boolean",
                "metdata? Some(\"metadata\")",
                "spec.containers[0].imagePullPolcy? Some(\"imagePullPolicy\")",
                "spec.containers[1].nonsense? None",
            ]
        );
    }

    #[test]
    fn integers_are_range_checked() {
        let value =
            json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [], "priority": 3_000_000_000_i64}});
        assert_eq!(shown(&value), ["spec.priority: the integer 3000000000 is out of the range of a 32-bit integer"]);
    }

    #[test]
    fn null_is_absence() {
        let value = json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": null, "hostNetwork": null}});
        assert_eq!(shown(&value), [""; 0]);
    }

    #[test]
    fn null_in_a_list_or_a_map_is_the_zero_value() {
        let value = json!({"metadata": {"labels": {"a": null}}, "spec": {"nodeSelector": {"b": null}, "containers": [
            null,
            {"name": "c", "args": [null], "env": [null], "resources": {"limits": {"cpu": null}}},
        ]}});
        let pod: Pod = decode(&value).unwrap();
        let expected = json!({"metadata": {"labels": {"a": ""}}, "spec": {"nodeSelector": {"b": ""}, "containers": [
            {"name": ""},
            {"name": "c", "args": [""], "env": [{"name": ""}], "resources": {"limits": {"cpu": "0"}}},
        ]}});
        let written = serde_json::to_value(&pod).unwrap();
        assert_eq!((&written["metadata"], &written["spec"]), (&expected["metadata"], &expected["spec"]));
        let secret: Secret = decode(&json!({"data": {"a": null}, "stringData": {"b": null}})).unwrap();
        assert!(secret.data.unwrap()["a"].0.is_empty() && secret.string_data.unwrap()["b"].is_empty());
    }

    #[test]
    fn a_time_that_was_never_set_is_null() {
        for time in [json!({}), json!({"lastTransitionTime": null}), json!({"lastTransitionTime": ZERO_TIME})] {
            let mut condition = json!({"type": "T", "status": "True", "reason": "R", "message": ""});
            condition.as_object_mut().unwrap().extend(time.as_object().unwrap().clone());
            let service: Service = decode(&json!({"status": {"conditions": [condition, null]}})).unwrap();
            let mut written = serde_json::to_value(&service).unwrap();
            mark_unset_times(&mut written);
            for condition in written["status"]["conditions"].as_array().unwrap() {
                assert_eq!(condition.get("lastTransitionTime"), Some(&Value::Null));
            }
            assert_eq!(read::<Service>(&written).unwrap(), service);
        }
    }
}
