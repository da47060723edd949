//! OpenAPI v2 as the protocol buffer `openapi.v2.Document`. The numbers are those of its published definition.

use serde_json::{Map, Value};

/// A message that is being written.
#[derive(Debug, Default)]
struct Message(Vec<u8>);

/// Wire types of the encoding.
const VARINT: u64 = 0;
const BYTES: u64 = 2;

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            let low = u8::try_from(value & 0x7f).unwrap_or_default();
            self.0.push(low | 0x80);
            value >>= 7;
        }
        self.0.push(u8::try_from(value).unwrap_or_default());
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.varint(field << 3 | BYTES);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, field: u64, text: &str) {
        if !text.is_empty() {
            self.bytes(field, text.as_bytes());
        }
    }

    fn flag(&mut self, field: u64, is_set: bool) {
        if is_set {
            self.varint(field << 3 | VARINT);
            self.varint(1);
        }
    }

    fn message(&mut self, field: u64, message: &Message) {
        self.bytes(field, &message.0);
    }

    /// Every text of a list.
    fn texts(&mut self, field: u64, list: &Value) {
        list.as_array().into_iter().flatten().filter_map(Value::as_str).for_each(|text| self.text(field, text));
    }

    /// The vendor extensions of an object, as YAML, of which JSON is a part.
    fn extensions(&mut self, field: u64, object: &Map<String, Value>) {
        for (name, value) in object.iter().filter(|(name, _)| name.starts_with("x-")) {
            let mut any = Message::default();
            any.text(2, &value.to_string());
            self.message(field, &named(name, &any));
        }
    }
}

/// One message around another: most of this format is that.
fn wrapped(field: u64, inner: &Message) -> Message {
    let mut message = Message::default();
    message.message(field, inner);
    message
}

fn named(name: &str, value: &Message) -> Message {
    let mut message = Message::default();
    message.text(1, name);
    message.message(2, value);
    message
}

fn text<'v>(object: &'v Map<String, Value>, name: &str) -> &'v str {
    object.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn flag(object: &Map<String, Value>, name: &str) -> bool {
    object.get(name).and_then(Value::as_bool).unwrap_or_default()
}

fn fields(value: &Value) -> &Map<String, Value> {
    static EMPTY: std::sync::OnceLock<Map<String, Value>> = std::sync::OnceLock::new();
    value.as_object().unwrap_or_else(|| EMPTY.get_or_init(Map::new))
}

/// The document, path by path and definition by definition: never more than one of them is a JSON value.
#[derive(Debug)]
pub(super) struct Document {
    message: Message,
    paths: Message,
    definitions: Message,
}

impl Document {
    pub(super) fn new(title: &str, version: &str) -> Self {
        let (mut message, mut info) = (Message::default(), Message::default());
        message.text(1, "2.0");
        info.text(1, title);
        info.text(2, version);
        message.message(2, &info);
        Self { message, paths: Message::default(), definitions: Message::default() }
    }

    pub(super) fn path(&mut self, path: &str, item: &Value) {
        self.paths.message(2, &named(path, &path_item(fields(item))));
    }

    pub(super) fn definition(&mut self, name: &str, definition: &Value) {
        self.definitions.message(1, &named(name, &schema(definition)));
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.message.message(8, &self.paths);
        self.message.message(9, &self.definitions);
        self.message.0
    }
}

fn schema(value: &Value) -> Message {
    let object = fields(value);
    let mut message = Message::default();
    for (field, name) in [(1, "$ref"), (2, "format"), (4, "description")] {
        message.text(field, text(object, name));
    }
    message.texts(19, object.get("required").unwrap_or(&Value::Null));
    if let Some(inner) = object.get("additionalProperties") {
        message.message(21, &wrapped(1, &schema(inner)));
    }
    if let Some(Value::String(kind)) = object.get("type") {
        let mut inner = Message::default();
        inner.text(1, kind);
        message.message(22, &inner);
    }
    if let Some(items) = object.get("items") {
        message.message(23, &wrapped(1, &schema(items)));
    }
    if let Some(Value::Object(properties)) = object.get("properties") {
        let mut inner = Message::default();
        properties.iter().for_each(|(name, property)| inner.message(1, &named(name, &schema(property))));
        message.message(25, &inner);
    }
    message.extensions(31, object);
    message
}

fn path_item(item: &Map<String, Value>) -> Message {
    let mut message = Message::default();
    for (field, verb) in [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (8, "patch")] {
        if let Some(Value::Object(found)) = item.get(verb) {
            message.message(field, &operation(found));
        }
    }
    parameters(&mut message, 9, item);
    message
}

fn operation(object: &Map<String, Value>) -> Message {
    let mut message = Message::default();
    for (field, name) in [(1, "tags"), (6, "produces"), (7, "consumes")] {
        message.texts(field, object.get(name).unwrap_or(&Value::Null));
    }
    message.text(5, text(object, "operationId"));
    parameters(&mut message, 8, object);
    let mut responses = Message::default();
    for (code, response) in object.get("responses").map(fields).into_iter().flatten() {
        let response = fields(response);
        let mut inner = Message::default();
        inner.text(1, text(response, "description"));
        if let Some(answer) = response.get("schema") {
            inner.message(2, &wrapped(1, &schema(answer)));
        }
        responses.message(1, &named(code, &wrapped(1, &inner)));
    }
    message.message(9, &responses);
    message.extensions(13, object);
    message
}

fn parameters(message: &mut Message, field: u64, object: &Map<String, Value>) {
    for parameter in object.get("parameters").and_then(Value::as_array).into_iter().flatten() {
        message.message(field, &wrapped(1, &parameter_of(fields(parameter))));
    }
}

fn parameter_of(object: &Map<String, Value>) -> Message {
    let mut message = Message::default();
    if text(object, "in") == "body" {
        message.text(2, text(object, "name"));
        message.text(3, "body");
        message.flag(4, flag(object, "required"));
        message.message(5, &schema(object.get("schema").unwrap_or(&Value::Null)));
        return wrapped(1, &message);
    }
    // The kind of parameter, and the numbers of its type and uniqueItems: a query has one field more before them.
    let (kind, type_, unique) = if text(object, "in") == "path" { (4, 5, 19) } else { (3, 6, 20) };
    message.flag(1, flag(object, "required"));
    for (field, name) in [(2, "in"), (3, "description"), (4, "name"), (type_, "type")] {
        message.text(field, text(object, name));
    }
    message.flag(unique, flag(object, "uniqueItems"));
    wrapped(2, &wrapped(kind, &message))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn messages_are_encoded_as_the_format_says() {
        let mut message = Message::default();
        message.text(1, "2.0");
        message.flag(16, true);
        message.flag(2, false);
        message.text(3, "");
        message.text(2, &"x".repeat(200));
        assert_eq!(message.0[..6], [0x0a, 3, b'2', b'.', b'0', 0x80]);
        assert_eq!(message.0[6..11], [0x01, 1, 0x12, 0xc8, 0x01]);
    }

    #[test]
    fn a_schema_carries_its_type_and_extensions() {
        let got = schema(&json!({"type": "array", "x-a": [1]})).0;
        let expected = [
            &[0xb2, 0x01, 7, 0x0a, 5][..],
            b"array", // type: 22
            &[0xfa, 0x01, 12, 0x0a, 3][..],
            b"x-a",
            &[0x12, 5, 0x12, 3][..],
            b"[1]", // extension: 31
        ]
        .concat();
        assert_eq!(got, expected);
    }
}
