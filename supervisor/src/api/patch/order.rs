//! The order of lists after a strategic merge.

use std::collections::BTreeMap;

use serde_json::Value;

use super::schema::Field;

/// What makes two elements of a list the same.
#[derive(Debug, Clone, Copy)]
pub(super) enum Identity {
    Key(&'static str),
    Whole,
}

impl Identity {
    pub(super) fn of(field: &Field) -> Self {
        field.merge_key.map_or(Self::Whole, Self::Key)
    }

    /// The text by which an element is found; none for one without its key.
    pub(super) fn of_element(self, item: &Value) -> Option<String> {
        match self {
            Self::Key(key) => item.get(key).map(Value::to_string),
            Self::Whole => Some(item.to_string()),
        }
    }

    pub(super) fn is_same(self, one: &Value, other: &Value) -> bool {
        match self {
            Self::Key(key) => one.get(key).is_some() && one.get(key) == other.get(key),
            Self::Whole => one == other,
        }
    }

    /// Where each element of a list stands first. Lists come from clients and may be long.
    pub(super) fn index(self, list: &[Value]) -> BTreeMap<String, usize> {
        let mut index = BTreeMap::new();
        for (place, item) in list.iter().enumerate() {
            if let Some(text) = self.of_element(item) {
                index.entry(text).or_insert(place);
            }
        }
        index
    }
}

/// Puts the elements that the patch names into its order, and the others between them as they stood on the server. An
/// element that is new comes before those that the patch doesn't name.
pub(super) fn arrange(merged: Vec<Value>, wanted: &[Value], server: &[Value], identity: Identity) -> Vec<Value> {
    let (server, wanted) = (identity.index(server), identity.index(wanted));
    let (mut named, mut others) = (Vec::new(), Vec::new());
    for item in merged {
        let text = identity.of_element(&item).unwrap_or_default();
        let place = server.get(&text).copied();
        match wanted.get(&text).copied() {
            Some(rank) => named.push((rank, place, item)),
            None => others.push((place, item)),
        }
    }
    named.sort_by_key(|(rank, _, _)| *rank);
    others.sort_by_key(|(place, _)| *place);
    let mut others = others.into_iter().peekable();
    let mut out = Vec::new();
    for (_, place, item) in named {
        let is_before = |other: &(Option<usize>, Value)| matches!((other.0, place), (Some(o), Some(p)) if o < p);
        while let Some((_, other)) = others.next_if(is_before) {
            out.push(other);
        }
        out.push(item);
    }
    out.extend(others.map(|(_, other)| other));
    out
}
