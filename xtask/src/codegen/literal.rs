//! Reads the schemas in k8s-openapi's sources: `json_schema!` literals with references to other types.

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value, json};

/// The schema that a source file gives to its type.
pub(super) fn schema(source: &str) -> Result<Value> {
    let at = source.find("json_schema!(").context("no schema")?;
    let mut reader = Reader { rest: &source[at + "json_schema!(".len()..] };
    reader.value()
}

struct Reader<'t> {
    rest: &'t str,
}

impl<'t> Reader<'t> {
    fn skip(&mut self, token: &str) -> bool {
        self.rest = self.rest.trim_start();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, token: &str) -> Result<()> {
        if self.skip(token) {
            return Ok(());
        }
        bail!("expected {token:?} before {:?}", self.rest.chars().take(60).collect::<String>())
    }

    fn value(&mut self) -> Result<Value> {
        if self.skip("{") {
            return self.object();
        }
        if self.skip("[") {
            return self.array();
        }
        if self.skip("({") {
            return self.described();
        }
        if self.skip("(") {
            let reference = self.reference()?;
            self.expect(")")?;
            return Ok(reference);
        }
        if self.rest.starts_with('"') {
            return Ok(Value::String(self.string()?));
        }
        if self.rest.starts_with("__gen") {
            return self.reference();
        }
        let end = self.rest.find([',', '}', ']', '\n']).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        serde_json::from_str(word.trim()).with_context(|| format!("{word:?} is no value"))
    }

    fn object(&mut self) -> Result<Value> {
        let mut object = Map::new();
        while !self.skip("}") {
            let key = self.string()?;
            self.expect(":")?;
            object.insert(key, self.value()?);
            self.skip(",");
        }
        Ok(Value::Object(object))
    }

    fn array(&mut self) -> Result<Value> {
        let mut items = Vec::new();
        while !self.skip("]") {
            items.push(self.value()?);
            self.skip(",");
        }
        Ok(Value::Array(items))
    }

    /// A reference with a description of its own.
    fn described(&mut self) -> Result<Value> {
        self.expect("let mut schema_obj =")?;
        let reference = self.reference()?;
        self.expect(";")?;
        self.expect("schema_obj.ensure_object().insert(\"description\".into(),")?;
        let description = self.string()?;
        self.expect(".into());")?;
        self.expect("schema_obj")?;
        self.expect("})")?;
        Ok(json!({"allOf": [reference], "description": description}))
    }

    fn reference(&mut self) -> Result<Value> {
        self.expect("__gen.subschema_for::<crate::")?;
        let (path, rest) = self.rest.split_once('>').context("an open reference")?;
        self.rest = rest;
        self.expect("()")?;
        Ok(
            json!({"$ref": format!("#/components/schemas/io.k8s.{}", path.replace("::", ".").replace("kube_", "kube-"))}),
        )
    }

    fn string(&mut self) -> Result<String> {
        self.expect("\"")?;
        let (mut out, mut chars) = (String::new(), self.rest.char_indices());
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.rest = &self.rest[at + 1..];
                    return Ok(out);
                }
                '\\' => match chars.next().context("an open string")?.1 {
                    'n' => out.push('\n'),
                    't' => out.push('\t'),
                    'r' => out.push('\r'),
                    c @ ('"' | '\\' | '\'') => out.push(c),
                    c => bail!("unknown escape {c:?}"),
                },
                c => out.push(c),
            }
        }
        bail!("an open string")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_read_with_their_references() {
        let source = r#"
        crate::schemars::json_schema!({
            "description": "A \"thing\".\n",
            "properties": {
                "a": {"type": "array", "items": (__gen.subschema_for::<crate::api::core::v1::B>()),},
                "c": ({
                    let mut schema_obj = __gen.subschema_for::<crate::api::core::v1::C>();
                    schema_obj.ensure_object().insert("description".into(), "It's c.".into());
                    schema_obj
                }),
            },
            "required": ["a",],
            "x": true,
        })"#;
        let expected = json!({
            "description": "A \"thing\".\n",
            "properties": {
                "a": {"type": "array", "items": {"$ref": "#/components/schemas/io.k8s.api.core.v1.B"}},
                "c": {"allOf": [{"$ref": "#/components/schemas/io.k8s.api.core.v1.C"}], "description": "It's c."},
            },
            "required": ["a"],
            "x": true,
        });
        assert_eq!(schema(source).unwrap(), expected);
        assert!(schema("json_schema!({\"a\": jump})").is_err());
    }
}
