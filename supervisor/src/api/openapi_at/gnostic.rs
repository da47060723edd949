//! `/openapi/v2` as protobuf, the only form in which kubectl up to 1.30 reads it. The messages are those of
//! `openapi.v2.Document` (gnostic), as far as our document uses them.

use serde_json::{Map, Value};

/// Turns the JSON document into the message.
///
/// # Errors
/// It is no JSON.
pub(super) fn encode(document: &[u8]) -> serde_json::Result<Vec<u8>> {
    let document: Value = serde_json::from_slice(document)?;
    let mut out = Vec::new();
    text(&mut out, 1, &document["swagger"]);
    message(&mut out, 2, |out| {
        text(out, 1, &document["info"]["title"]);
        text(out, 2, &document["info"]["version"]);
    });
    message(&mut out, 8, |out| named(out, 2, &document["paths"], path));
    message(&mut out, 9, |out| named(out, 1, &document["definitions"], schema));
    Ok(out)
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

fn bytes(out: &mut Vec<u8>, number: u64, content: &[u8]) {
    varint(out, number << 3 | 2);
    varint(out, content.len() as u64);
    out.extend_from_slice(content);
}

fn message(out: &mut Vec<u8>, number: u64, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    fill(&mut inner);
    bytes(out, number, &inner);
}

fn text(out: &mut Vec<u8>, number: u64, value: &Value) {
    if let Some(text) = value.as_str().filter(|text| !text.is_empty()) {
        bytes(out, number, text.as_bytes());
    }
}

fn truth(out: &mut Vec<u8>, number: u64, value: &Value) {
    if value.as_bool() == Some(true) {
        varint(out, number << 3);
        varint(out, 1);
    }
}

fn texts(out: &mut Vec<u8>, number: u64, value: &Value) {
    value
        .as_array()
        .into_iter()
        .flatten()
        .for_each(|item| bytes(out, number, item.as_str().unwrap_or_default().as_bytes()));
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

/// A list of names with values: field 1 is the name, field 2 the value.
fn named(out: &mut Vec<u8>, number: u64, value: &Value, fill: impl Fn(&mut Vec<u8>, &Value)) {
    for (name, value) in entries(value) {
        message(out, number, |out| {
            bytes(out, 1, name.as_bytes());
            message(out, 2, |out| fill(out, value));
        });
    }
}

/// `x-...`: each with its value as YAML, which JSON is.
fn extensions(out: &mut Vec<u8>, number: u64, value: &Value) {
    for (name, value) in entries(value).filter(|(name, _)| name.starts_with("x-")) {
        message(out, number, |out| {
            bytes(out, 1, name.as_bytes());
            message(out, 2, |out| bytes(out, 2, value.to_string().as_bytes()));
        });
    }
}

const METHODS: [(&str, u64); 7] =
    [("get", 2), ("put", 3), ("post", 4), ("delete", 5), ("options", 6), ("head", 7), ("patch", 8)];

fn path(out: &mut Vec<u8>, value: &Value) {
    for (method, number) in METHODS {
        if let Some(found) = value.get(method) {
            message(out, number, |out| operation(out, found));
        }
    }
    parameters(out, 9, &value["parameters"]);
}

fn operation(out: &mut Vec<u8>, value: &Value) {
    texts(out, 1, &value["tags"]);
    text(out, 3, &value["description"]);
    text(out, 5, &value["operationId"]);
    texts(out, 6, &value["produces"]);
    texts(out, 7, &value["consumes"]);
    parameters(out, 8, &value["parameters"]);
    extensions(out, 13, value);
}

fn parameters(out: &mut Vec<u8>, number: u64, value: &Value) {
    for value in value.as_array().into_iter().flatten() {
        message(out, number, |out| message(out, 1, |out| parameter(out, value)));
    }
}

fn parameter(out: &mut Vec<u8>, value: &Value) {
    let kind = match value["in"].as_str() {
        Some("body") => return message(out, 1, |out| body_parameter(out, value)),
        Some("path") => 4,
        Some(_) | None => 3,
    };
    // The type of a query's parameter stands one further, behind a field that nobody sets.
    let number_of_type = if kind == 4 { 5 } else { 6 };
    message(out, 2, |out| {
        message(out, kind, |out| {
            truth(out, 1, &value["required"]);
            text(out, 2, &value["in"]);
            text(out, 3, &value["description"]);
            text(out, 4, &value["name"]);
            text(out, number_of_type, &value["type"]);
        });
    });
}

fn body_parameter(out: &mut Vec<u8>, value: &Value) {
    text(out, 2, &value["name"]);
    text(out, 3, &value["in"]);
    truth(out, 4, &value["required"]);
    message(out, 5, |out| schema(out, &value["schema"]));
}

fn schema(out: &mut Vec<u8>, value: &Value) {
    text(out, 1, &value["$ref"]);
    text(out, 2, &value["format"]);
    text(out, 4, &value["description"]);
    texts(out, 19, &value["required"]);
    match &value["additionalProperties"] {
        Value::Object(_) => {
            message(out, 21, |out| message(out, 1, |out| schema(out, &value["additionalProperties"])));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {}
    }
    if value["type"].is_string() {
        message(out, 22, |out| text(out, 1, &value["type"]));
    }
    if value["items"].is_object() {
        message(out, 23, |out| message(out, 1, |out| schema(out, &value["items"])));
    }
    if value["properties"].is_object() {
        message(out, 25, |out| named(out, 1, &value["properties"], schema));
    }
    extensions(out, 31, value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_document_is_written_by_hand() {
        let document = br##"{"swagger":"2.0","info":{"title":"K","version":"v"},"paths":{},
            "definitions":{"A":{"type":"object","x-y":[1]}}}"##;
        let schema = b"\xb2\x01\x08\x0a\x06object\xfa\x01\x0c\x0a\x03x-y\x12\x05\x12\x03[1]";
        let mut expected = b"\x0a\x032.0\x12\x06\x0a\x01K\x12\x01v\x42\x00\x4a\x21\x0a\x1f\x0a\x01A\x12\x1a".to_vec();
        expected.extend_from_slice(schema);
        assert_eq!(encode(document).unwrap(), expected);
    }

    #[test]
    fn the_whole_document_can_be_written() {
        let json = crate::api::openapi::v2().unwrap();
        assert!(encode(&json).unwrap().len() > 100_000);
    }
}
