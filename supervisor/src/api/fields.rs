//! Reading and writing fields of objects that are JSON.

use serde_json::{Map, Value};

/// A text somewhere in an object; empty when it isn't there.
pub(crate) fn text<'v>(value: &'v Value, path: &[&str]) -> &'v str {
    at(value, path).and_then(Value::as_str).unwrap_or_default()
}

/// A value somewhere in an object; `null` counts as absent.
pub(crate) fn at<'v>(value: &'v Value, path: &[&str]) -> Option<&'v Value> {
    path.iter().try_fold(value, |value, key| value.get(key)).filter(|value| !value.is_null())
}

/// Whether a list or an object has something in it.
pub(crate) fn is_filled(value: &Value, path: &[&str]) -> bool {
    match at(value, path) {
        Some(Value::Array(items)) => !items.is_empty(),
        Some(Value::Object(entries)) => !entries.is_empty(),
        Some(_) => true,
        None => false,
    }
}

/// `metadata`, made if it isn't there.
pub(crate) fn metadata(value: &mut Value) -> &mut Map<String, Value> {
    object(value, "metadata")
}

/// An object below an object; whatever else stood there is replaced.
pub(crate) fn object<'v>(value: &'v mut Value, key: &str) -> &'v mut Map<String, Value> {
    let entry = entries(value).entry(key).or_insert_with(|| Value::Object(Map::new()));
    entries(entry)
}

/// The entries of an object; whatever else the value was is replaced.
pub(crate) fn entries(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(entries) => entries,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            unreachable!("it is an object by now")
        }
    }
}

/// Takes a field over from another object: its value, or its absence.
pub(crate) fn copy(from: &Value, to: &mut Map<String, Value>, key: &str) {
    match from.get(key).filter(|value| !value.is_null()) {
        Some(value) => drop(to.insert(key.to_owned(), value.clone())),
        None => drop(to.remove(key)),
    }
}

/// A time as the API writes it.
pub(crate) fn time(now: jiff::Timestamp) -> Value {
    Value::String(now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// The end of a generated name (VA1): 5 characters without vowels and look-alikes.
pub(crate) fn suffix() -> String {
    const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let random = uuid::Uuid::new_v4();
    let letters = random.as_bytes().iter().take(SUFFIX).map(|byte| LETTERS[usize::from(*byte) % LETTERS.len()]);
    letters.map(char::from).collect()
}

/// Characters of [`suffix`].
pub(crate) const SUFFIX: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_are_found_and_made() {
        let mut value = json!({"metadata": null, "spec": {"a": "x", "b": []}});
        assert_eq!(text(&value, &["spec", "a"]), "x");
        assert_eq!(text(&value, &["spec", "c"]), "");
        assert!(!is_filled(&value, &["spec", "b"]));
        metadata(&mut value).insert("name".to_owned(), "n".into());
        assert_eq!(text(&value, &["metadata", "name"]), "n");
    }

    #[test]
    fn suffixes_are_five_letters_and_differ() {
        // VA1
        assert_eq!(suffix().len(), SUFFIX);
        assert_ne!(suffix(), suffix());
    }
}
