//! JSON as it comes from clients: limited in depth, and with an eye on keys that stand twice.

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// D34: levels of nesting.
const DEPTH_MAX: usize = 64;

/// A document, and the paths of keys that stood twice in it (the last one counts).
#[derive(Debug, PartialEq)]
pub(crate) struct Document {
    pub value: Value,
    pub duplicates: Vec<String>,
}

/// # Errors
/// It is no JSON, or nested too deeply.
pub(crate) fn parse(bytes: &[u8]) -> Result<Document, serde_json::Error> {
    let duplicates = RefCell::new(Vec::new());
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Node { at: At::Top, depth: 0, duplicates: &duplicates }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(Document { value, duplicates: duplicates.into_inner() })
}

#[derive(Clone, Copy)]
enum At<'a> {
    Top,
    Key(&'a At<'a>, &'a str),
    Index(&'a At<'a>, usize),
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            At::Top => Ok(()),
            At::Key(At::Top, key) => f.write_str(key),
            At::Key(up, key) => write!(f, "{up}.{key}"),
            At::Index(up, index) => write!(f, "{up}[{index}]"),
        }
    }
}

struct Node<'a> {
    at: At<'a>,
    depth: usize,
    duplicates: &'a RefCell<Vec<String>>,
}

impl Node<'_> {
    fn below<E: serde::de::Error>(&self) -> Result<usize, E> {
        let depth = self.depth + 1;
        if depth > DEPTH_MAX { Err(E::custom(format_args!("exceeded max depth of {DEPTH_MAX}"))) } else { Ok(depth) }
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let depth = self.below()?;
        let mut list = Vec::new();
        while let Some(item) =
            items.next_element_seed(Node { at: At::Index(&self.at, list.len()), depth, duplicates: self.duplicates })?
        {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let depth = self.below()?;
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let at = At::Key(&self.at, &key);
            let value = entries.next_value_seed(Node { at, depth, duplicates: self.duplicates })?;
            if map.contains_key(&key) {
                self.duplicates.borrow_mut().push(at.to_string());
            }
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_stand_twice_are_named() {
        let document = parse(br#"{"a": [{"b": 1, "b": 2}], "c": null, "c": 1.5}"#).unwrap();
        assert_eq!(document.duplicates, ["a[0].b", "c"]);
        assert_eq!(document.value, serde_json::json!({"a": [{"b": 2}], "c": 1.5}));
    }

    #[test]
    fn depth_is_limited() {
        // D34
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse(nested(DEPTH_MAX).as_bytes()).is_ok());
        assert!(parse(nested(DEPTH_MAX + 1).as_bytes()).unwrap_err().to_string().contains("max depth"));
        assert!(parse(nested(100_000).as_bytes()).is_err());
    }

    #[test]
    fn what_follows_a_document_is_an_error() {
        assert!(parse(b"{} {}").is_err());
        assert!(parse(b"").is_err());
    }
}
