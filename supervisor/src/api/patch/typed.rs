//! Objects as server-side apply sees them: which parts have an owner of their own, what differs between two objects, how
//! one is merged into another.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::fields::{Element, Set, show};
use super::schema::{Field, Place};

/// A place in an object.
#[derive(Debug, Clone, Copy)]
pub(super) enum Node {
    Root(Place),
    Field(&'static Field),
    /// An element of a list that this field is.
    Element(&'static Field),
}

impl Node {
    pub(super) fn root(resource: &str) -> Self {
        Self::Root(Place::of_resource(resource))
    }

    /// The place of an object here; none if it is owned as a whole.
    fn object(self) -> Option<Place> {
        let (place, is_atomic) = match self {
            Self::Root(place) => (place, false),
            Self::Field(field) => (Place::within(field), field.is_atomic),
            Self::Element(field) => (Place::within(field), false),
        };
        (!is_atomic && !place.is_atomic()).then_some(place)
    }
}

/// The value's parts that have owners of their own; none if it has no such parts.
fn parts(node: Node, value: &Value) -> Option<Vec<(Element, Node, &Value)>> {
    match (node, value) {
        (_, Value::Object(fields)) => {
            let place = node.object()?;
            let part = |(name, value): (&'_ String, _)| (Element::field(name), Node::Field(place.field(name)), value);
            Some(fields.iter().filter(|(_, value)| !value.is_null()).map(part).collect())
        }
        (Node::Field(field), Value::Array(items)) if is_shared(field) => {
            let mut seen = BTreeSet::new();
            let part = |item| {
                let element = element(field, item)?;
                seen.insert(element.clone()).then_some((element, Node::Element(field), item))
            };
            items.iter().map(part).collect()
        }
        _ => None,
    }
}

fn is_shared(field: &Field) -> bool {
    field.is_set || !field.map_keys.is_empty()
}

/// By what an element of a shared list is known.
fn element(field: &Field, item: &Value) -> Option<Element> {
    if field.is_set {
        return Some(Element::value(item));
    }
    let item = item.as_object()?;
    let mut keys = Map::new();
    for key in &field.map_keys {
        match item.get(*key) {
            Some(value) if !value.is_null() => drop(keys.insert((*key).to_owned(), value.clone())),
            // The one key that has a default.
            _ if *key == "protocol" => drop(keys.insert((*key).to_owned(), "TCP".into())),
            _ => {}
        }
    }
    let is_known = field.map_keys.first().is_some_and(|key| keys.contains_key(*key));
    is_known.then(|| Element::key(keys))
}

/// What is wrong with the lists of an object that is applied: elements without keys, or twice the same.
pub(super) fn faults(node: Node, value: &Value, path: &mut Vec<Element>, out: &mut Vec<String>) {
    if let (Node::Field(field), Value::Array(items)) = (node, value)
        && is_shared(field)
    {
        let mut seen = BTreeSet::new();
        for (index, item) in items.iter().enumerate() {
            match element(field, item) {
                None => {
                    let keys = field.map_keys.join(", ");
                    out.push(format!(
                        "{}: element {index}: associative list with keys has an element that omits key field {keys}",
                        show(path)
                    ));
                }
                Some(element) if seen.insert(element.clone()) => {}
                Some(element) => out.push(format!("{}: duplicate entries for key {}", show(path), show(&[element]))),
            }
        }
    }
    for (element, node, value) in parts(node, value).into_iter().flatten() {
        path.push(element);
        faults(node, value, path, out);
        path.pop();
    }
}

/// The fields that an applied object owns: its leaves, and the elements of its lists.
pub(super) fn field_set(node: Node, value: &Value) -> Set {
    let mut set = Set::default();
    own(node, value, &mut Vec::new(), &mut set);
    set
}

fn own(node: Node, value: &Value, path: &mut Vec<Element>, set: &mut Set) {
    let parts = parts(node, value);
    let is_empty_object = value.as_object().is_some_and(Map::is_empty);
    if (parts.is_none() || is_empty_object || matches!(node, Node::Element(_))) && !path.is_empty() {
        set.insert(path);
    }
    for (element, node, value) in parts.into_iter().flatten() {
        path.push(element);
        own(node, value, path, set);
        path.pop();
    }
}

/// What differs between two objects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) added: Set,
    pub(super) modified: Set,
    pub(super) removed: Set,
}

impl Changes {
    pub(super) fn between(node: Node, old: &Value, new: &Value) -> Self {
        let mut changes = Self::default();
        changes.compare(node, Some(old), Some(new), &mut Vec::new());
        changes
    }

    fn compare(&mut self, node: Node, old: Option<&Value>, new: Option<&Value>, path: &mut Vec<Element>) {
        let inner = |value: Option<&Value>| value.and_then(|value| parts(node, value).map(owned_parts));
        match (old, new, inner(old), inner(new)) {
            (Some(_), Some(_), Some(mut left), Some(right)) => {
                for (element, (node, value)) in right {
                    let was = left.remove(&element);
                    self.step(element, node, was.as_ref().map(|(_, value)| value), Some(&value), path);
                }
                for (element, (node, value)) in left {
                    self.step(element, node, Some(&value), None, path);
                }
            }
            (Some(old), Some(new), _, _) if old == new => {}
            (Some(_), Some(_), _, _) => self.modified.insert(path),
            (None, Some(_), _, parts) => {
                for (element, (node, value)) in parts.into_iter().flatten() {
                    self.step(element, node, None, Some(&value), path);
                }
                self.added.insert(path);
            }
            (Some(_), None, parts, _) => {
                for (element, (node, value)) in parts.into_iter().flatten() {
                    self.step(element, node, Some(&value), None, path);
                }
                self.removed.insert(path);
            }
            (None, None, _, _) => {}
        }
    }

    fn step(
        &mut self,
        element: Element,
        node: Node,
        old: Option<&Value>,
        new: Option<&Value>,
        path: &mut Vec<Element>,
    ) {
        path.push(element);
        self.compare(node, old, new, path);
        path.pop();
    }
}

fn owned_parts(parts: Vec<(Element, Node, &Value)>) -> BTreeMap<Element, (Node, Value)> {
    parts.into_iter().map(|(element, node, value)| (element, (node, value.clone()))).collect()
}

/// Merges what is applied into an object.
pub(super) fn merge(node: Node, live: &Value, applied: &Value) -> Value {
    match (parts(node, live), parts(node, applied), applied) {
        (Some(_), Some(parts), Value::Object(fields)) => {
            let mut out = live.as_object().cloned().unwrap_or_default();
            out.retain(|name, _| fields.get(name).is_none_or(|value| !value.is_null()));
            for ((name, value), (_, node, _)) in fields.iter().filter(|(_, value)| !value.is_null()).zip(parts) {
                let merged = live.get(name).map_or_else(|| value.clone(), |old| merge(node, old, value));
                out.insert(name.clone(), merged);
            }
            Value::Object(out)
        }
        (Some(left), Some(right), Value::Array(_)) => Value::Array(merge_lists(&left, &right)),
        _ => applied.clone(),
    }
}

type Part<'v> = (Element, Node, &'v Value);

/// Elements that both lists have stand as the applied one has them, the others where they stood.
fn merge_lists(live: &[Part<'_>], applied: &[Part<'_>]) -> Vec<Value> {
    let find = |list: &[Part<'_>], element: &Element| list.iter().position(|(other, _, _)| other == element);
    let mut out = Vec::new();
    let mut left = live.iter().peekable();
    for (element, node, value) in applied {
        let Some(place) = find(live, element) else {
            out.push((*value).clone());
            continue;
        };
        // What only the server has and stood before this one stays before it.
        while let Some((other, _, only)) = left.peek() {
            let is_passed = find(live, other).is_some_and(|at| at < place);
            if !is_passed {
                break;
            }
            if find(applied, other).is_none() {
                out.push((*only).clone());
            }
            left.next();
        }
        let old = live.get(place).map_or(&Value::Null, |(_, _, old)| *old);
        out.push(merge(*node, old, value));
    }
    out.extend(left.filter(|(other, _, _)| find(applied, other).is_none()).map(|(_, _, only)| (*only).clone()));
    out
}

/// Removes the members of a set, and what is empty then. None if nothing is left.
pub(super) fn remove(node: Node, value: &Value, gone: &Set) -> Option<Value> {
    let Some(parts) = parts(node, value) else { return Some(value.clone()) };
    let mut kept = Vec::new();
    for (element, node, value) in parts {
        match gone.child(&element) {
            None => kept.push((element, value.clone())),
            Some(below) if below.is_member() => {}
            Some(below) => kept.extend(remove(node, value, below).map(|value| (element, value))),
        }
    }
    if kept.is_empty() {
        return None;
    }
    Some(match value {
        Value::Object(fields) => {
            let is_kept = |name: &str| kept.iter().find(|(element, _)| *element == Element::field(name));
            let rest = fields.keys().filter_map(|name| is_kept(name).map(|(_, value)| (name.clone(), value.clone())));
            Value::Object(rest.collect())
        }
        _ => Value::Array(kept.into_iter().map(|(_, value)| value).collect()),
    })
}
