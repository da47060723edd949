//! The shape of validation errors: what users and clients see word for word (semantics 10.1).

use std::fmt;

use serde_json::Value;

/// A path under construction; Kubernetes' notation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Path(String);

impl Path {
    pub(super) fn new(first: &str) -> Self {
        Path(first.to_owned())
    }

    pub(super) fn field(&self, name: &str) -> Self {
        if self.0.is_empty() { Path(name.to_owned()) } else { Path(format!("{}.{name}", self.0)) }
    }

    pub(super) fn index(&self, index: usize) -> Self {
        Path(format!("{}[{index}]", self.0))
    }

    pub(super) fn key(&self, key: &str) -> Self {
        Path(format!("{}[{key}]", self.0))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is wrong with a field.
#[derive(Clone, Debug, PartialEq)]
pub enum ErrorKind {
    /// It is missing.
    Required,
    /// Its value is not allowed.
    Invalid {
        /// The value.
        value: Value,
    },
    /// Its value is not one of a list.
    NotSupported {
        /// The value.
        value: String,
        /// The list, in the order in which it is shown.
        supported: Vec<String>,
    },
    /// A value that must be unique is not.
    Duplicate {
        /// The value.
        value: Value,
    },
    /// It may not be set, or not to this value, here.
    Forbidden,
    /// It names something that is not there.
    NotFound {
        /// The name.
        value: Value,
    },
    /// It has too many bytes.
    TooLong {
        /// The limit.
        max: usize,
    },
    /// It has too many items.
    TooMany {
        /// How many.
        actual: usize,
        /// The limit.
        max: usize,
    },
}

/// One wrong field. Displays as `<path>: <body>`.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// Where: `spec.containers[0].image`.
    pub path: String,
    /// What.
    pub kind: ErrorKind,
    /// The rest of the sentence; may be empty.
    pub detail: String,
}

impl FieldError {
    /// The body: the message of a `causes` entry.
    pub fn body(&self) -> String {
        let head = match &self.kind {
            ErrorKind::Required => "Required value".to_owned(),
            ErrorKind::Invalid { value } => format!("Invalid value: {}", shown(value)),
            ErrorKind::NotSupported { value, supported } => {
                let list: Vec<String> = supported.iter().map(|text| format!("{text:?}")).collect();
                format!("Unsupported value: {value:?}: supported values: {}", list.join(", "))
            }
            ErrorKind::Duplicate { value } => format!("Duplicate value: {}", shown(value)),
            ErrorKind::Forbidden => "Forbidden".to_owned(),
            ErrorKind::NotFound { value } => format!("Not found: {}", shown(value)),
            ErrorKind::TooLong { max } => format!("Too long: may not be more than {max} bytes"),
            ErrorKind::TooMany { actual, max } => {
                format!("Too many: {actual}: must have at most {max} items")
            }
        };
        if self.detail.is_empty() { head } else { format!("{head}: {}", self.detail) }
    }

    /// The reason of a `causes` entry of a Status object.
    pub fn reason(&self) -> &'static str {
        match self.kind {
            ErrorKind::Required => "FieldValueRequired",
            ErrorKind::Invalid { .. } => "FieldValueInvalid",
            ErrorKind::NotSupported { .. } => "FieldValueNotSupported",
            ErrorKind::Duplicate { .. } => "FieldValueDuplicate",
            ErrorKind::Forbidden => "FieldValueForbidden",
            ErrorKind::NotFound { .. } => "FieldValueNotFound",
            ErrorKind::TooLong { .. } => "FieldValueTooLong",
            ErrorKind::TooMany { .. } => "FieldValueTooMany",
        }
    }
}

/// Strings quoted, numbers and booleans bare, the rest as JSON.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text:?}"),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.body())
    }
}

/// Everything that is wrong with an object, each message once, at least one. Displays as Kubernetes writes it: one error
/// bare, several as `[e1, e2]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Invalid(pub Vec<FieldError>);

/// One entry of `details.causes` of a Status object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// `FieldValueRequired`, ...
    pub reason: &'static str,
    /// The body without the path.
    pub message: String,
    /// The path.
    pub field: String,
}

impl Invalid {
    /// The entries of `details.causes`.
    pub fn causes(&self) -> Vec<Cause> {
        let cause = |e: &FieldError| Cause { reason: e.reason(), message: e.body(), field: e.path.clone() };
        self.0.iter().map(cause).collect()
    }

    /// The message of the Status object: `Pod "web" is invalid: ...`.
    pub fn message(&self, kind: &str, name: &str) -> String {
        format!("{kind} {name:?} is invalid: {self}")
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [only] => write!(f, "{only}"),
            several => {
                let texts: Vec<String> = several.iter().map(ToString::to_string).collect();
                write!(f, "[{}]", texts.join(", "))
            }
        }
    }
}

impl std::error::Error for Invalid {}

/// The errors found so far.
#[derive(Debug, Default)]
pub(super) struct Errors(Vec<FieldError>);

impl Errors {
    fn push(&mut self, path: &Path, kind: ErrorKind, detail: impl Into<String>) {
        let error = FieldError { path: path.to_string(), kind, detail: detail.into() };
        if !self.0.contains(&error) {
            self.0.push(error);
        }
    }

    pub(super) fn required(&mut self, path: &Path, detail: &str) {
        self.push(path, ErrorKind::Required, detail);
    }

    pub(super) fn invalid(&mut self, path: &Path, value: impl Into<Value>, detail: impl Into<String>) {
        self.push(path, ErrorKind::Invalid { value: value.into() }, detail);
    }

    /// One error for each of the messages that a name check returned.
    pub(super) fn invalid_all(&mut self, path: &Path, value: &str, details: Vec<String>) {
        for detail in details {
            self.invalid(path, value, detail);
        }
    }

    pub(super) fn not_supported(&mut self, path: &Path, value: &str, supported: &[&str]) {
        let supported = supported.iter().map(|text| (*text).to_owned()).collect();
        self.push(path, ErrorKind::NotSupported { value: value.to_owned(), supported }, "");
    }

    pub(super) fn duplicate(&mut self, path: &Path, value: impl Into<Value>) {
        self.push(path, ErrorKind::Duplicate { value: value.into() }, "");
    }

    pub(super) fn forbidden(&mut self, path: &Path, detail: impl Into<String>) {
        self.push(path, ErrorKind::Forbidden, detail);
    }

    pub(super) fn not_found(&mut self, path: &Path, value: &str) {
        self.push(path, ErrorKind::NotFound { value: value.into() }, "");
    }

    pub(super) fn too_long(&mut self, path: &Path, max: usize) {
        self.push(path, ErrorKind::TooLong { max }, "");
    }

    pub(super) fn too_many(&mut self, path: &Path, actual: usize, max: usize) {
        self.push(path, ErrorKind::TooMany { actual, max }, "");
    }

    /// An enum whose empty value is allowed (or was defaulted).
    pub(super) fn one_of(&mut self, path: &Path, value: Option<&String>, supported: &[&str]) {
        if let Some(value) = value
            && !supported.contains(&value.as_str())
        {
            self.not_supported(path, value, supported);
        }
    }

    pub(super) fn not_negative(&mut self, path: &Path, value: Option<i64>) {
        if let Some(value) = value
            && value < 0
        {
            self.invalid(path, value, NOT_NEGATIVE);
        }
    }

    pub(super) fn done(self) -> Result<(), Invalid> {
        if self.0.is_empty() { Ok(()) } else { Err(Invalid(self.0)) }
    }
}

impl From<Invalid> for Errors {
    fn from(invalid: Invalid) -> Self {
        Self(invalid.0)
    }
}

impl From<Errors> for Invalid {
    fn from(errors: Errors) -> Self {
        Self(errors.0)
    }
}

/// QT6, VA6
pub(super) const NOT_NEGATIVE: &str = "must be greater than or equal to 0";

/// UP1
pub(super) const IMMUTABLE: &str = "field is immutable";

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn bodies_are_those_of_the_api() {
        // 10.1
        let path = Path::new("a").field("b").index(1).key("c/d");
        let mut errors = Errors::default();
        errors.required(&path, "");
        errors.required(&path, "say why");
        errors.invalid(&path, "x\"y", "bad");
        errors.invalid(&path, -1, "");
        errors.invalid(&path, json!({"a": true}), "no");
        errors.not_supported(&path, "x", &["A", "B"]);
        errors.duplicate(&path, "x");
        errors.forbidden(&path, "not here");
        errors.not_found(&path, "v");
        errors.too_long(&path, 63);
        errors.too_many(&path, 4, 3);
        errors.too_many(&path, 4, 3);
        let bodies: Vec<String> = errors.0.iter().map(FieldError::body).collect();
        assert_eq!(
            bodies,
            [
                "Required value",
                "Required value: say why",
                "Invalid value: \"x\\\"y\": bad",
                "Invalid value: -1",
                "Invalid value: {\"a\":true}: no",
                "Unsupported value: \"x\": supported values: \"A\", \"B\"",
                "Duplicate value: \"x\"",
                "Forbidden: not here",
                "Not found: \"v\"",
                "Too long: may not be more than 63 bytes",
                "Too many: 4: must have at most 3 items",
            ]
        );
        assert_eq!(errors.0[0].to_string(), "a.b[1][c/d]: Required value");
    }

    #[test]
    fn one_error_is_bare_and_several_are_a_list() {
        let error = |path: &str| FieldError { path: path.to_owned(), kind: ErrorKind::Required, detail: String::new() };
        assert_eq!(Invalid(vec![error("a")]).message("Pod", "x"), "Pod \"x\" is invalid: a: Required value");
        let two = Invalid(vec![error("a"), error("b")]);
        assert_eq!(two.to_string(), "[a: Required value, b: Required value]");
        assert_eq!(
            two.causes()[1],
            Cause { reason: "FieldValueRequired", message: "Required value".to_owned(), field: "b".to_owned() }
        );
    }
}
