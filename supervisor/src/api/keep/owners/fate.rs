//! What becomes of an object, from what is known of its owners. Pure.

use serde_json::Value;

use super::super::super::fields;
use super::super::super::verbs::Policy;

/// One entry of `metadata.ownerReferences`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reference {
    pub api_version: String,
    pub kind: String,
    pub name: String,
    pub uid: String,
    /// `blockOwnerDeletion`
    pub blocks: bool,
}

impl Reference {
    fn of(value: &Value) -> Self {
        let text = |key: &str| fields::text(value, &[key]).to_owned();
        Self {
            api_version: text("apiVersion"),
            kind: text("kind"),
            name: text("name"),
            uid: text("uid"),
            blocks: value.get("blockOwnerDeletion") == Some(&Value::Bool(true)),
        }
    }

    pub(super) fn all(object: &Value) -> Vec<Self> {
        let list = fields::at(object, &["metadata", "ownerReferences"]).and_then(Value::as_array);
        list.into_iter().flatten().map(Self::of).collect()
    }

    /// Takes references out of an object.
    pub(super) fn drop_those(object: &mut Value, is_meant: impl Fn(&Self) -> bool) {
        let metadata = fields::metadata(object);
        let Some(list) = metadata.get_mut("ownerReferences").and_then(Value::as_array_mut) else { return };
        list.retain(|entry| !is_meant(&Self::of(entry)));
        if list.is_empty() {
            metadata.remove("ownerReferences");
        }
    }

    /// Lets the owners of an object go without it.
    pub(super) fn unblock(object: &mut Value) {
        let list = fields::metadata(object).get_mut("ownerReferences").and_then(Value::as_array_mut);
        for entry in list.into_iter().flatten().filter(|entry| Self::of(entry).blocks) {
            fields::entries(entry).insert("blockOwnerDeletion".to_owned(), false.into());
        }
    }
}

/// What is known of an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    Present,
    /// It waits for its dependents to go first.
    Leaving,
    /// It is not there, or another one has its name.
    Gone,
    /// Of a kind that is not kept here.
    Unknown,
}

/// The dependents of a dependent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Below {
    Nobody,
    Some,
    /// One of them waits for its own dependents: this may be a circle.
    Leaving,
}

/// What becomes of a dependent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Stays,
    /// It keeps an owner, and loses the references to those that go.
    Loses,
    Goes(Policy),
    /// It goes in the foreground, and no longer holds its owners up: in a circle, each would wait for the next for ever.
    GoesUnblocking,
}

/// One owner is enough to stay: then nobody looks at what is `below`.
pub(super) fn fate(owners: &[Owner], below: impl FnOnce() -> Below) -> Fate {
    let has = |wanted: &[Owner]| owners.iter().any(|owner| wanted.contains(owner));
    let is_kept = owners.is_empty() || has(&[Owner::Present, Owner::Unknown]);
    match (is_kept, has(&[Owner::Gone, Owner::Leaving])) {
        (true, false) => Fate::Stays,
        (true, true) => Fate::Loses,
        // Its own dependents go before it, as it goes before its owner.
        (false, _) if has(&[Owner::Leaving]) => match below() {
            Below::Nobody => Fate::Goes(Policy::Background),
            Below::Some => Fate::Goes(Policy::Foreground),
            Below::Leaving => Fate::GoesUnblocking,
        },
        (false, _) => Fate::Goes(Policy::Background),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn one_owner_is_enough_to_stay() {
        use Owner::{Gone, Leaving, Present, Unknown};
        for (owners, below, expected) in [
            (&[][..], Below::Nobody, Fate::Stays),
            (&[Present], Below::Leaving, Fate::Stays),
            (&[Unknown], Below::Nobody, Fate::Stays),
            (&[Present, Gone], Below::Nobody, Fate::Loses),
            (&[Unknown, Leaving], Below::Nobody, Fate::Loses),
            (&[Gone], Below::Leaving, Fate::Goes(Policy::Background)),
            (&[Gone, Leaving], Below::Nobody, Fate::Goes(Policy::Background)),
            (&[Leaving], Below::Some, Fate::Goes(Policy::Foreground)),
            (&[Leaving], Below::Leaving, Fate::GoesUnblocking),
        ] {
            assert_eq!(fate(owners, || below), expected, "{owners:?}");
        }
    }

    #[test]
    fn references_are_read_and_taken_out() {
        let entry =
            |uid: &str| json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid, "blockOwnerDeletion": true});
        let mut object = json!({"metadata": {"ownerReferences": [entry("a"), entry("b")]}});
        assert!(Reference::all(&object).iter().all(|reference| reference.blocks && reference.kind == "Pod"));
        Reference::unblock(&mut object);
        assert!(Reference::all(&object).iter().all(|reference| !reference.blocks));
        Reference::drop_those(&mut object, |reference| reference.uid == "a");
        assert_eq!(object["metadata"]["ownerReferences"][0]["uid"], "b");
        Reference::drop_those(&mut object, |_| true);
        assert_eq!(object, json!({"metadata": {}}));
    }
}
