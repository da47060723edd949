//! Bodies that come as protobuf: kubectl's own `create` commands and many controllers send nothing else. They are turned
//! into the JSON that the same client would have sent; answers are JSON, which every client takes.
//!
//! `messages.txt` says what the messages look like, one to a line: number, JSON name and type of each field, as the
//! descriptors in Kubernetes 1.33 have them. A type is a letter: `s`tring, `b`ytes, `i`nteger, `t`ruth, `d`ouble, or
//! `T`ime, `U` (time with microseconds), `Q`uantity, `I`nt-or-string, `J`SON, `L`ist of strings, or `m` with the name of a
//! message. Before it `*` is a list, `%` a map, `?` a value that counts when it is zero, `<` a message whose fields belong
//! to the one around it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

const MESSAGES: &str = include_str!("messages.txt");
/// What a body starts with.
const MAGIC: &[u8] = b"k8s\0";
/// D34: levels of nesting.
const DEPTH_MAX: usize = 64;
/// What stands in for a kind that is not in the table: all have their metadata at the same place.
const METADATA_ONLY: &str = "metadata";

/// Why a body can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WireError {
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    Magic,
    #[error("unexpected end of the message")]
    Short,
    #[error("a field of {0} has wire type {1}")]
    Type(String, u8),
    #[error("a text is not UTF-8")]
    Text,
    #[error("exceeded max depth of {DEPTH_MAX}")]
    Depth,
    #[error("a field of raw JSON is not JSON: {0}")]
    Json(String),
}

/// Reads a body with its envelope; the object says what it is.
///
/// # Errors
/// It is no protobuf, or not of the kind that its envelope names.
pub(crate) fn decode(body: &[u8]) -> Result<Value, WireError> {
    let mut rest = body.strip_prefix(MAGIC).ok_or(WireError::Magic)?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    while !rest.is_empty() {
        match field(&mut rest)? {
            (1, Item::Bytes(mut meta)) => {
                while !meta.is_empty() {
                    match field(&mut meta)? {
                        (1, Item::Bytes(bytes)) => api_version = text(bytes)?.to_owned(),
                        (2, Item::Bytes(bytes)) => kind = text(bytes)?.to_owned(),
                        _ => {}
                    }
                }
            }
            (2, Item::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let mut object = message(&name_of(&api_version, &kind), raw, 0)?;
    object.insert("apiVersion".to_owned(), api_version.into());
    object.insert("kind".to_owned(), kind.into());
    Ok(Value::Object(object))
}

/// `core.v1.Pod`; of kinds that are not in the table, only the metadata is read.
fn name_of(api_version: &str, kind: &str) -> String {
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("core", api_version));
    let group = group.split('.').next().unwrap_or_default();
    let name = format!("{group}.{version}.{kind}");
    match kind {
        // Everybody's, whatever group it is sent with.
        "DeleteOptions" => "meta.v1.DeleteOptions".to_owned(),
        _ if fields_of(&name).is_some() => name,
        _ => METADATA_ONLY.to_owned(),
    }
}

/// The fields of a message, as they stand in the table.
fn fields_of(name: &str) -> Option<&'static str> {
    if name == METADATA_ONLY {
        return Some("1:metadata:mmeta.v1.ObjectMeta");
    }
    MESSAGES.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
}

/// A field as it is on the wire.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Item<'b> {
    Number(u64),
    Bytes(&'b [u8]),
}

fn varint(rest: &mut &[u8]) -> Result<u64, WireError> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, after) = rest.split_first().ok_or(WireError::Short)?;
        *rest = after;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(WireError::Short)
}

fn take<'b>(rest: &mut &'b [u8], count: u64) -> Result<&'b [u8], WireError> {
    let count = usize::try_from(count).map_err(|_| WireError::Short)?;
    let (taken, after) = rest.split_at_checked(count).ok_or(WireError::Short)?;
    *rest = after;
    Ok(taken)
}

fn field<'b>(rest: &mut &'b [u8]) -> Result<(u64, Item<'b>), WireError> {
    let key = varint(rest)?;
    let item = match key & 7 {
        0 => Item::Number(varint(rest)?),
        1 => Item::Number(little(take(rest, 8)?)),
        2 => {
            let count = varint(rest)?;
            Item::Bytes(take(rest, count)?)
        }
        5 => Item::Number(little(take(rest, 4)?)),
        other => return Err(WireError::Type("a message".to_owned(), other.to_le_bytes()[0])),
    };
    Ok((key >> 3, item))
}

fn little(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn text(bytes: &[u8]) -> Result<&str, WireError> {
    std::str::from_utf8(bytes).map_err(|_| WireError::Text)
}

/// One field of the table.
#[derive(Clone, Copy)]
struct Spec {
    name: &'static str,
    /// `*`, `%`, `?`, `<`
    mark: Option<char>,
    /// The letter, and the name of a message behind it.
    kind: &'static str,
}

fn spec(fields: &'static str, number: u64) -> Option<Spec> {
    let wanted = |entry: &&str| entry.split(':').next().and_then(|text| text.parse().ok()) == Some(number);
    let entry = fields.split(' ').find(wanted)?;
    let mut parts = entry.splitn(3, ':').skip(1);
    let (name, kind) = (parts.next()?, parts.next()?);
    let mark = kind.chars().next().filter(|first| "*%?<".contains(*first));
    Some(Spec { name, mark, kind: kind.trim_start_matches(['*', '%', '?', '<']) })
}

fn message(name: &str, mut rest: &[u8], depth: usize) -> Result<Map<String, Value>, WireError> {
    if depth > DEPTH_MAX {
        return Err(WireError::Depth);
    }
    let mut object = Map::new();
    let Some(fields) = fields_of(name) else { return Ok(object) };
    while !rest.is_empty() {
        let (number, item) = field(&mut rest)?;
        // A newer client's field: unknown fields of messages are left out, as everywhere.
        let Some(spec) = spec(fields, number) else { continue };
        match spec.mark {
            Some('%') => {
                let entries = object.entry(spec.name).or_insert_with(|| Value::Object(Map::new()));
                if let (Some(entries), Some((key, value))) = (entries.as_object_mut(), pair(spec, item, depth)?) {
                    entries.insert(key, value);
                }
            }
            Some('*') => {
                let list = object.entry(spec.name).or_insert_with(|| Value::Array(Vec::new()));
                let value = value(spec, item, depth)?.unwrap_or_default();
                if let Some(list) = list.as_array_mut() {
                    list.push(value);
                }
            }
            Some('<') => {
                if let Some(Value::Object(inner)) = value(spec, item, depth)? {
                    object.extend(inner);
                }
            }
            Some(_) | None => {
                let value = value(spec, item, depth)?;
                object.extend(
                    value.filter(|value| spec.mark == Some('?') || counts(value)).map(|v| (spec.name.to_owned(), v)),
                );
            }
        }
    }
    Ok(object)
}

/// Zero is nothing, for values that are always sent.
fn counts(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(_) | Value::Object(_) => true,
    }
}

/// An entry of a map.
fn pair(spec: Spec, item: Item<'_>, depth: usize) -> Result<Option<(String, Value)>, WireError> {
    let Item::Bytes(mut rest) = item else { return Err(wrong(spec, 0)) };
    let (mut key, mut found) = (String::new(), None);
    while !rest.is_empty() {
        match field(&mut rest)? {
            (1, Item::Bytes(bytes)) => key = text(bytes)?.to_owned(),
            (2, item) => found = value(spec, item, depth)?,
            _ => {}
        }
    }
    let empty = if spec.kind.starts_with('m') { Value::Object(Map::new()) } else { Value::String(String::new()) };
    Ok(Some((key, found.unwrap_or(empty))))
}

fn wrong(spec: Spec, wire: u8) -> WireError {
    WireError::Type(spec.name.to_owned(), wire)
}

/// A value; none for what is the absence of one.
fn value(spec: Spec, item: Item<'_>, depth: usize) -> Result<Option<Value>, WireError> {
    let (letter, name) = spec.kind.split_at(1);
    Ok(Some(match (letter, item) {
        ("i", Item::Number(number)) => number.cast_signed().into(),
        ("t", Item::Number(number)) => Value::Bool(number != 0),
        ("d", Item::Number(number)) => f64::from_bits(number).into(),
        ("s", Item::Bytes(bytes)) => text(bytes)?.into(),
        ("b", Item::Bytes(bytes)) => STANDARD.encode(bytes).into(),
        ("m", Item::Bytes(bytes)) => Value::Object(message(name, bytes, depth + 1)?),
        ("T" | "U", Item::Bytes(bytes)) => return time(bytes, letter == "U"),
        ("Q", Item::Bytes(bytes)) => one_text(bytes)?.unwrap_or_else(|| "0".to_owned()).into(),
        ("I", Item::Bytes(bytes)) => int_or_string(bytes)?,
        ("J", Item::Bytes(bytes)) => return raw(bytes),
        ("L", Item::Bytes(bytes)) => list(bytes)?,
        (_, Item::Number(_)) => return Err(wrong(spec, 0)),
        (_, Item::Bytes(_)) => return Err(wrong(spec, 2)),
    }))
}

/// Seconds and nanoseconds since 1970; an empty message is no time.
fn time(mut rest: &[u8], is_fine: bool) -> Result<Option<Value>, WireError> {
    if rest.is_empty() {
        return Ok(None);
    }
    let (mut seconds, mut nanos) = (0, 0);
    while !rest.is_empty() {
        match field(&mut rest)? {
            (1, Item::Number(number)) => seconds = number.cast_signed(),
            (2, Item::Number(number)) => nanos = number.cast_signed(),
            _ => {}
        }
    }
    let nanos = i32::try_from(nanos).unwrap_or_default();
    let Ok(time) = jiff::Timestamp::new(seconds, nanos) else { return Ok(None) };
    let format = if is_fine { "%Y-%m-%dT%H:%M:%S%.6fZ" } else { "%Y-%m-%dT%H:%M:%SZ" };
    Ok(Some(time.strftime(format).to_string().into()))
}

fn one_text(mut rest: &[u8]) -> Result<Option<String>, WireError> {
    while !rest.is_empty() {
        if let (1, Item::Bytes(bytes)) = field(&mut rest)? {
            return Ok(Some(text(bytes)?.to_owned()));
        }
    }
    Ok(None)
}

fn int_or_string(mut rest: &[u8]) -> Result<Value, WireError> {
    let (mut is_text, mut number, mut string) = (false, 0, String::new());
    while !rest.is_empty() {
        match field(&mut rest)? {
            (1, Item::Number(kind)) => is_text = kind == 1,
            (2, Item::Number(value)) => number = value.cast_signed(),
            (3, Item::Bytes(bytes)) => string = text(bytes)?.to_owned(),
            _ => {}
        }
    }
    Ok(if is_text { string.into() } else { number.into() })
}

fn raw(bytes: &[u8]) -> Result<Option<Value>, WireError> {
    let mut rest = bytes;
    while !rest.is_empty() {
        if let (1, Item::Bytes(json)) = field(&mut rest)? {
            let document = super::json::parse(json).map_err(|error| WireError::Json(error.to_string()))?;
            return Ok(Some(document.value));
        }
    }
    Ok(None)
}

fn list(mut rest: &[u8]) -> Result<Value, WireError> {
    let mut items = Vec::new();
    while !rest.is_empty() {
        if let (1, Item::Bytes(bytes)) = field(&mut rest)? {
            items.push(text(bytes)?.into());
        }
    }
    Ok(Value::Array(items))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    /// A field with a length.
    fn bytes(number: u8, content: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, u8::try_from(content.len()).unwrap()], content].concat()
    }

    fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let meta = [bytes(1, api_version.as_bytes()), bytes(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), bytes(1, &meta), bytes(2, raw)].concat()
    }

    #[test]
    fn a_config_map_comes_out_as_json() {
        let metadata = [bytes(1, b"cm"), bytes(2, b""), bytes(8, b"")].concat();
        let entry = [bytes(1, b"key"), bytes(2, b"value")].concat();
        let raw = [bytes(1, &metadata), bytes(2, &entry)].concat();
        let expected =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cm"}, "data": {"key": "value"}});
        assert_eq!(decode(&envelope("v1", "ConfigMap", &raw)).unwrap(), expected);
    }

    #[test]
    fn zero_counts_where_it_is_a_pointer() {
        // gracePeriodSeconds is field 1, a number.
        let body = envelope("v1", "DeleteOptions", &[0x08, 0]);
        assert_eq!(decode(&body).unwrap()["gracePeriodSeconds"], 0);
    }

    #[test]
    fn fields_of_inner_structs_belong_to_the_outer_one() {
        let empty_dir = bytes(2, &bytes(2, b""));
        let volume = [bytes(1, b"v"), empty_dir].concat();
        let raw = bytes(2, &bytes(1, &volume));
        let pod = decode(&envelope("v1", "Pod", &raw)).unwrap();
        assert_eq!(pod["spec"]["volumes"], json!([{"name": "v", "emptyDir": {}}]));
    }

    #[test]
    fn of_an_unknown_kind_the_metadata_is_read() {
        let raw = [bytes(1, &bytes(1, b"web")), bytes(2, b"whatever")].concat();
        let value = decode(&envelope("apps/v1", "Deployment", &raw)).unwrap();
        assert_eq!(value["metadata"]["name"], "web");
    }

    #[test]
    fn every_message_that_is_named_is_there() {
        for line in MESSAGES.lines() {
            for entry in line.split(' ').skip(1) {
                let kind = entry.splitn(3, ':').nth(2).unwrap().trim_start_matches(['*', '%', '?', '<']);
                if let Some(name) = kind.strip_prefix('m') {
                    assert!(fields_of(name).is_some() || MESSAGES.lines().any(|line| line.trim() == name), "{name}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_or_refused(content: Vec<u8>) {
            for kind in ["Pod", "ConfigMap", "Event", "Service"] {
                let meta = [bytes(1, b"v1"), bytes(2, kind.as_bytes())].concat();
                let length = u8::try_from(content.len().min(100)).unwrap();
                let body = [MAGIC, &bytes(1, &meta), &[2 << 3 | 2, length], &content[..usize::from(length)]].concat();
                drop(decode(&body));
            }
            drop(decode(&content));
        }
    }
}
