//! Every other object: its metadata, then its fields by name.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::{Sheet, annotations, plain, text};

/// Told elsewhere, or of no interest.
const LEFT_OUT: &[&str] = &["apiVersion", "kind", "metadata", "data", "binaryData"];

pub(super) fn describe(sheet: &mut Sheet, object: &Value) {
    sheet.field(0, "Name", text(object, "/metadata/name"));
    sheet.field_some(0, "Namespace", text(object, "/metadata/namespace"));
    sheet.pairs("Labels", object.pointer("/metadata/labels"), "=");
    sheet.pairs("Annotations", annotations(object).as_ref(), ": ");
    for (key, value) in object.as_object().into_iter().flatten().filter(|(key, _)| !LEFT_OUT.contains(&key.as_str())) {
        field(sheet, 0, key, value);
    }
    data(sheet, object);
}

/// What a ConfigMap holds, and of a Secret only how much.
fn data(sheet: &mut Sheet, object: &Value) {
    let is_secret = object["kind"] == "Secret";
    if !is_secret && object["kind"] != "ConfigMap" {
        return;
    }
    sheet.line(0, "\nData\n====");
    for (key, value) in object["data"].as_object().into_iter().flatten() {
        if is_secret {
            sheet.field(0, key, format_args!("{} bytes", bytes_of(value)));
        } else {
            sheet.line(0, format_args!("{key}:\n----\n{}\n", plain(value)));
        }
    }
    if is_secret {
        return;
    }
    sheet.line(0, "\nBinaryData\n====");
    for (key, value) in object["binaryData"].as_object().into_iter().flatten() {
        sheet.line(0, format_args!("{key}: {} bytes", bytes_of(value)));
    }
    sheet.line(0, "");
}

fn bytes_of(value: &Value) -> usize {
    STANDARD.decode(value.as_str().unwrap_or_default()).map_or(0, |bytes| bytes.len())
}

fn field(sheet: &mut Sheet, level: usize, key: &str, value: &Value) {
    let name = words(key);
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            sheet.line(level, format_args!("{name}:"));
            fields.iter().for_each(|(key, value)| field(sheet, level + 1, key, value));
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            sheet.line(level, format_args!("{name}:"));
            for fields in items.iter().filter_map(Value::as_object) {
                fields.iter().for_each(|(key, value)| field(sheet, level + 1, key, value));
            }
        }
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(plain).collect();
            sheet.field(level, &name, items.join(", "));
        }
        Value::Object(_) | Value::Null => sheet.field(level, &name, super::NONE),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => sheet.field(level, &name, plain(value)),
    }
}

/// `clusterIP` as `Cluster IP`.
fn words(key: &str) -> String {
    // Names of resources and other keys are no camel case.
    if key.contains(['-', '.', '/']) {
        return key.to_owned();
    }
    let mut out = String::new();
    let mut before_is_lower = false;
    for character in key.chars() {
        if character.is_uppercase() && before_is_lower {
            out.push(' ');
        }
        before_is_lower = character.is_lowercase();
        if out.is_empty() { out.extend(character.to_uppercase()) } else { out.push(character) }
    }
    out
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::super::super::align::{DESCRIPTION, align};
    use super::*;

    fn shown(object: Value) -> String {
        let mut sheet = Sheet::default();
        describe(&mut sheet, &object);
        align(&sheet.0, DESCRIPTION)
    }

    #[test]
    fn fields_are_told_by_their_names() {
        let object = json!({"kind": "Service", "metadata": {"name": "s", "namespace": "d"}, "spec": {
            "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "selector": {}, "ports": [{"port": 80}]}});
        expect![[r#"
            Name:         s
            Namespace:    d
            Labels:       <none>
            Annotations:  <none>
            Spec:
              Cluster IP:   10.0.0.1
              Cluster IPs:  10.0.0.1
              Ports:
                Port:    80
              Selector:  <none>
        "#]]
        .assert_eq(&shown(object));
    }

    #[test]
    fn a_secret_tells_only_how_much_it_holds() {
        let text =
            shown(json!({"kind": "Secret", "metadata": {"name": "s"}, "type": "Opaque", "data": {"k": "aGVsbG8="}}));
        assert!(text.contains("k:  5 bytes") && !text.contains("aGVsbG8"), "{text}");
    }
}
