//! The order of lists after a strategic merge.

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

    pub(super) fn is_same(self, one: &Value, other: &Value) -> bool {
        match self {
            Self::Key(key) => one.get(key).is_some() && one.get(key) == other.get(key),
            Self::Whole => one == other,
        }
    }

    fn position(self, item: &Value, list: &[Value]) -> Option<usize> {
        list.iter().position(|other| self.is_same(item, other))
    }
}

/// Puts the elements that the patch names into its order, and the others between them as they stood on the server. An
/// element that is new comes before those that the patch doesn't name.
pub(super) fn arrange(merged: Vec<Value>, wanted: &[Value], server: &[Value], identity: Identity) -> Vec<Value> {
    let (mut named, mut others) = (Vec::new(), Vec::new());
    for item in merged {
        let place = identity.position(&item, server);
        match identity.position(&item, wanted) {
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
