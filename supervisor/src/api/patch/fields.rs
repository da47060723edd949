//! Sets of field paths, as `FieldsV1` writes them: `f:` a field, `k:` an element by its keys, `v:` an element by its
//! value, `.` the node itself.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Map, Value, json};

/// How deep a set may be: deeper than any object that is read.
const DEPTH_MAX: usize = 256;

/// One step of a path, as it is written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Element(String);

impl Element {
    pub(super) fn field(name: &str) -> Self {
        Self(format!("f:{name}"))
    }

    /// An element of a list, by its key fields.
    pub(super) fn key(keys: Map<String, Value>) -> Self {
        Self(format!("k:{}", Value::Object(keys)))
    }

    /// An element of a set.
    pub(super) fn value(value: &Value) -> Self {
        Self(format!("v:{value}"))
    }

    /// Reads what a client wrote; keys are put into our order.
    fn read(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        match kind {
            "f" => Some(Self(text.to_owned())),
            "i" => rest.parse::<i64>().is_ok().then(|| Self(text.to_owned())),
            "k" => serde_json::from_str::<Map<String, Value>>(rest).ok().map(Self::key),
            "v" => serde_json::from_str::<Value>(rest).ok().map(|value| Self::value(&value)),
            _ => None,
        }
    }

    pub(super) fn is_field(&self) -> bool {
        self.0.starts_with("f:")
    }

    /// `.name`, `[name="a"]`, `[="x"]`: as conflicts name it.
    fn show(&self, out: &mut String) {
        let shown = match self.0.split_once(':') {
            Some(("f", name)) => write!(out, ".{name}"),
            Some(("i", index)) => write!(out, "[{index}]"),
            Some(("v", value)) => write!(out, "[={value}]"),
            Some((_, keys)) => {
                let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
                let keys: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
                write!(out, "[{}]", keys.join(","))
            }
            None => Ok(()),
        };
        debug_assert!(shown.is_ok(), "a string takes any text");
    }
}

/// A path as conflicts name it: `.spec.containers[name="a"].image`.
pub(super) fn show(path: &[Element]) -> String {
    path.iter().fold(String::new(), |mut out, element| {
        element.show(&mut out);
        out
    })
}

/// A set of paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Set {
    is_member: bool,
    children: BTreeMap<Element, Set>,
}

impl Set {
    /// Reads `fieldsV1`. None if it is malformed.
    pub(super) fn read(value: &Value) -> Option<Self> {
        let mut set = Self::read_node(value, DEPTH_MAX)?;
        set.is_member = false;
        Some(set)
    }

    fn read_node(value: &Value, depth: usize) -> Option<Self> {
        let fields = value.as_object()?;
        let mut set = Self { is_member: fields.is_empty() || fields.contains_key("."), children: BTreeMap::new() };
        for (key, child) in fields.iter().filter(|(key, _)| *key != ".") {
            set.children.insert(Element::read(key)?, Self::read_node(child, depth.checked_sub(1)?)?);
        }
        Some(set)
    }

    /// As `fieldsV1`.
    pub(super) fn write(&self) -> Value {
        let mut fields: Map<String, Value> =
            self.children.iter().map(|(element, child)| (element.0.clone(), child.write())).collect();
        if self.is_member && !fields.is_empty() {
            fields.insert(".".to_owned(), json!({}));
        }
        Value::Object(fields)
    }

    pub(super) fn insert(&mut self, path: &[Element]) {
        let node = path.iter().fold(self, |node, element| node.children.entry(element.clone()).or_default());
        node.is_member = true;
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.is_member && self.children.is_empty()
    }

    pub(super) fn is_member(&self) -> bool {
        self.is_member
    }

    pub(super) fn child(&self, element: &Element) -> Option<&Self> {
        self.children.get(element)
    }

    pub(super) fn union(mut self, other: &Self) -> Self {
        self.is_member |= other.is_member;
        for (element, child) in &other.children {
            let own = self.children.remove(element).unwrap_or_default();
            self.children.insert(element.clone(), own.union(child));
        }
        self
    }

    pub(super) fn intersection(&self, other: &Self) -> Self {
        self.combine(other, |own, other| own && other)
    }

    pub(super) fn difference(&self, other: &Self) -> Self {
        self.combine(other, |own, other| own && !other)
    }

    /// What of this set the other, as a claim, doesn't hold: a field below which something is claimed is claimed, too.
    pub(super) fn unclaimed(&self, claims: &Self) -> Self {
        let empty = Self::default();
        let mut out = Self::default();
        for (element, child) in &self.children {
            let claim = claims.child(element).unwrap_or(&empty);
            let is_claimed = claim.is_member || element.is_field() && !claim.children.is_empty();
            let mut rest = child.unclaimed(claim);
            rest.is_member = child.is_member && !is_claimed;
            if !rest.is_empty() {
                out.children.insert(element.clone(), rest);
            }
        }
        out
    }

    /// Without a field and all below it.
    pub(super) fn without(mut self, field: &str) -> Self {
        self.children.remove(&Element::field(field));
        self
    }

    fn combine(&self, other: &Self, keep: fn(bool, bool) -> bool) -> Self {
        let empty = Self::default();
        let mut out = Self { is_member: keep(self.is_member, other.is_member), children: BTreeMap::new() };
        for (element, child) in &self.children {
            let rest = child.combine(other.child(element).unwrap_or(&empty), keep);
            if !rest.is_empty() {
                out.children.insert(element.clone(), rest);
            }
        }
        out
    }

    /// Every path of the set, in order.
    pub(super) fn paths(&self) -> Vec<Vec<Element>> {
        let mut out = Vec::new();
        self.collect(&mut Vec::new(), &mut out);
        out
    }

    fn collect(&self, path: &mut Vec<Element>, out: &mut Vec<Vec<Element>>) {
        if self.is_member {
            out.push(path.clone());
        }
        for (element, child) in &self.children {
            path.push(element.clone());
            child.collect(path, out);
            path.pop();
        }
    }
}
