//! How objects are shown that are not in a table.

use std::str::FromStr;

use serde_json::{Value, json};

use super::client::discovery::Kind;
use super::client::error::VerbError;
use super::columns::Columns;
use super::jsonpath::Template;

/// `-o`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    Wide,
    Json,
    Yaml,
    Name,
    /// `jsonpath=TEMPLATE`
    JsonPath(Template),
    /// `custom-columns=NAME:PATH,...`
    Columns(Columns),
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "wide" => Ok(Self::Wide),
            "json" => Ok(Self::Json),
            "yaml" => Ok(Self::Yaml),
            "name" => Ok(Self::Name),
            other => Self::of_template(other),
        }
    }
}

impl Format {
    fn of_template(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some(("jsonpath", template)) => template.parse().map(Self::JsonPath),
            Some(("custom-columns", columns)) => columns.parse().map(Self::Columns),
            None | Some(_) => Err(format!(
                "unable to match a printer suitable for the output format {text:?}, allowed formats are: custom-columns,json,jsonpath,name,wide,yaml"
            )),
        }
    }
}

/// An object without what only machines read.
pub fn without_managers(mut object: Value) -> Value {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    object
}

/// Several objects as one.
pub fn list_of(items: Vec<Value>) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": items})
}

/// `pod/NAME`
pub fn name_of(kind: &Kind, object: &Value) -> String {
    format!("{}/{}", kind.label(), object["metadata"]["name"].as_str().unwrap_or_default())
}

/// # Errors
/// The object can't be written, which no object of a server is.
pub fn yaml(object: &Value) -> Result<String, VerbError> {
    // Long texts stay on one line.
    let options = serde_saphyr::ser_options! { folded_wrap_chars: usize::MAX };
    serde_saphyr::to_string_with_options(object, options)
        .map_err(|error| VerbError::usage(format!("write YAML: {error}")))
}

/// As kubectl indents it: four blanks.
///
/// # Errors
/// The object can't be written, which no object of a server is.
pub fn json(object: &Value) -> Result<String, VerbError> {
    use serde::Serialize as _;
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    object.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, formatter)).map_err(VerbError::Json)?;
    bytes.push(b'\n');
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn objects_are_written_as_kubectl_writes_them() {
        let object = json!({"kind": "Pod", "metadata": {"name": "a", "managedFields": []}, "spec": {
            "containers": [{"name": "c", "command": ["sh", "-c", "a\nb\n"], "resources": {}}], "a": "yes", "b": "1"}});
        let object = without_managers(object);
        expect![[r#"
            kind: Pod
            metadata:
              name: a
            spec:
              a: "yes"
              b: "1"
              containers:
              - command:
                - sh
                - -c
                - |
                  a
                  b
                name: c
                resources: {}
        "#]]
        .assert_eq(&yaml(&object).unwrap());
        let long = "word ".repeat(40) + "end";
        assert_eq!(yaml(&json!({"a": long})).unwrap(), format!("a: {long}\n"));
        assert_eq!(json(&json!({"a": [1]})).unwrap(), "{\n    \"a\": [\n        1\n    ]\n}\n");
    }
}
