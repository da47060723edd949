//! A published schema (OpenAPI v3), and fields in it.

use std::fmt::Write as _;

use serde_json::Value;

use super::wrap::{indent, wrap};

/// What fits beside four blanks.
const WIDTH: usize = 76;
/// Values that are listed of a field; all where it is asked for alone.
const ENUM_VALUES: usize = 4;

/// The schemas of one version of a group.
#[derive(Debug)]
pub(super) struct Document(Value);

impl Document {
    pub(super) fn new(document: Value) -> Self {
        Self(document)
    }

    /// What kubectl prints of a kind or a field after its heading.
    ///
    /// # Errors
    /// There is no such field.
    pub(super) fn explain(&self, kind: &str, fields: &[&str], recursive: bool) -> Result<String, String> {
        let mut out = String::new();
        let mut schema = self.of_kind(kind).ok_or_else(|| format!("couldn't find a schema of {kind:?}"))?;
        for field in fields {
            schema = self.field(schema, field).ok_or_else(|| format!("field {field:?} does not exist"))?;
        }
        if let Some(last) = fields.last() {
            let values: String = self.values(schema).iter().map(|value| format!("    {value}\n")).collect();
            let values = if values.is_empty() { "\n".to_owned() } else { format!("ENUM:\n{values}") };
            out += &format!("FIELD: {last} <{}>\n{values}\n", self.type_of(schema));
        }
        let description = match self.descriptions(schema) {
            text if text.is_empty() => "<empty>".to_owned(),
            text => text,
        };
        out += &format!("DESCRIPTION:\n{}\n", indent(&wrap(&description, WIDTH), 4));
        let list = self.fields(schema, 1, recursive, &mut Vec::new());
        if !list.is_empty() {
            out += &format!("FIELDS:\n{list}");
        }
        Ok(out)
    }

    fn of_kind(&self, kind: &str) -> Option<&Value> {
        let is_it = |schema: &Value| {
            let of = schema["x-kubernetes-group-version-kind"].as_array().map_or(&[][..], Vec::as_slice);
            of.len() == 1 && of.iter().any(|known| known["kind"] == kind)
        };
        self.0["components"]["schemas"].as_object()?.values().find(|schema| is_it(schema))
    }

    /// What a schema stands for: the element of a list or a map, what a reference leads to.
    fn inner<'d>(&'d self, schema: &'d Value) -> Option<&'d Value> {
        if let Some(name) = name_of(schema) {
            return self.0["components"]["schemas"].get(name);
        }
        let parts = [schema.get("items"), schema.get("additionalProperties"), schema["allOf"].get(0)];
        parts.into_iter().flatten().find(|part| part.is_object())
    }

    fn field<'d>(&'d self, schema: &'d Value, name: &str) -> Option<&'d Value> {
        match schema["properties"].get(name) {
            Some(field) => Some(field),
            None => self.field(self.inner(schema)?, name),
        }
    }

    /// `string`, `[]Container`, `map[string]string`.
    fn type_of(&self, schema: &Value) -> String {
        if let Some(items) = schema.get("items") {
            return format!("[]{}", self.type_of(items));
        }
        if let Some(values) = schema.get("additionalProperties").filter(|values| values.is_object()) {
            return format!("map[string]{}", self.type_of(values));
        }
        if let Some(name) = name_of(schema) {
            let target = &self.0["components"]["schemas"][name];
            return match target["type"].as_str() {
                Some("object") | None => name.rsplit('.').next().unwrap_or(name).to_owned(),
                Some(scalar) => scalar.to_owned(),
            };
        }
        match schema["allOf"].get(0) {
            Some(only) => self.type_of(only),
            None => schema["type"].as_str().unwrap_or("Object").to_owned(),
        }
    }

    /// What a schema says of itself, then what its type says.
    fn descriptions(&self, schema: &Value) -> String {
        let own = schema["description"].as_str().map(|text| format!("{text}\n")).unwrap_or_default();
        own + &self.inner(schema).map(|inner| self.descriptions(inner)).unwrap_or_default()
    }

    fn values<'d>(&'d self, schema: &'d Value) -> Vec<&'d str> {
        let mut values: Vec<&str> = match schema["enum"].as_array() {
            Some(values) => values.iter().filter_map(Value::as_str).collect(),
            None => Vec::new(),
        };
        values.sort_unstable();
        values
    }

    /// The list of fields. `path` holds the types on the way, which are not gone into again.
    fn fields<'d>(&'d self, schema: &'d Value, level: usize, recursive: bool, path: &mut Vec<&'d str>) -> String {
        let Some(properties) = schema["properties"].as_object() else {
            return self.inner_fields(schema, level, recursive, path);
        };
        let required = schema["required"].as_array().map_or(&[][..], Vec::as_slice);
        let mut out = String::new();
        for (name, field) in properties {
            let pad = " ".repeat(level * 2);
            let mark = if required.iter().any(|known| known == name.as_str()) { " -required-" } else { "" };
            // Writing to a String does not fail.
            let _written = writeln!(out, "{pad}{name}\t<{}>{mark}", self.type_of(field));
            match self.values(field).as_slice() {
                [] => {}
                values if values.len() > ENUM_VALUES => {
                    let _written = writeln!(out, "{pad}enum: {}, ....", values[..ENUM_VALUES].join(", "));
                }
                values => {
                    let _written = writeln!(out, "{pad}enum: {}", values.join(", "));
                }
            }
            if recursive {
                out += &self.inner_fields(field, level + 1, recursive, path);
                continue;
            }
            let description = field["description"].as_str().unwrap_or("<no description>");
            let _written = writeln!(out, "{}\n", indent(&wrap(description, WIDTH), 4));
        }
        out
    }

    fn inner_fields<'d>(&'d self, schema: &'d Value, level: usize, recursive: bool, path: &mut Vec<&'d str>) -> String {
        let Some(inner) = self.inner(schema) else { return String::new() };
        let Some(name) = name_of(schema) else { return self.fields(inner, level, recursive, path) };
        if path.contains(&name) {
            return String::new();
        }
        path.push(name);
        let out = self.fields(inner, level, recursive, path);
        path.pop();
        out
    }
}

/// The name of the schema that is referred to.
fn name_of(schema: &Value) -> Option<&str> {
    schema["$ref"].as_str()?.rsplit('/').next()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    fn document() -> Document {
        let part = |name: &str| json!({"$ref": format!("#/components/schemas/io.{name}")});
        Document::new(json!({"components": {"schemas": {
            "io.Pod": {
                "description": "A pod.",
                "x-kubernetes-group-version-kind": [{"group": "", "kind": "Pod", "version": "v1"}],
                "properties": {"spec": {"allOf": [part("PodSpec")], "description": "The wish."}},
            },
            "io.PodSpec": {
                "description": "What a pod is.",
                "required": ["containers"],
                "properties": {
                    "containers": {"type": "array", "items": part("Container"), "description": "Its containers."},
                    "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                },
            },
            "io.Container": {"properties": {
                "again": {"items": part("Container")},
                "policy": {"type": "string", "enum": ["Never", "Always"], "description": "When."},
                "when": {"allOf": [part("Time")]},
            }},
            "io.Time": {"type": "string"},
        }}}))
    }

    #[test]
    fn fields_are_explained_with_their_types() {
        let explain = |fields: &[&str], recursive| document().explain("Pod", fields, recursive);
        expect![[r#"
            FIELD: spec <PodSpec>


            DESCRIPTION:
                The wish.
                What a pod is.
                
            FIELDS:
              containers	<[]Container> -required-
                Its containers.

              labels	<map[string]string>
                <no description>

        "#]]
        .assert_eq(&explain(&["spec"], false).unwrap());
        expect![[r#"
            DESCRIPTION:
                A pod.
                
            FIELDS:
              spec	<PodSpec>
                containers	<[]Container> -required-
                  again	<[]Container>
                  policy	<string>
                  enum: Always, Never
                  when	<string>
                labels	<map[string]string>
        "#]]
        .assert_eq(&explain(&[], true).unwrap());
        expect![[r#"
            FIELD: policy <string>
            ENUM:
                Always
                Never

            DESCRIPTION:
                When.
                
        "#]]
        .assert_eq(&explain(&["spec", "containers", "policy"], false).unwrap());
        assert_eq!(explain(&["spec", "nope"], false), Err("field \"nope\" does not exist".to_owned()));
    }
}
