//! The one table of how the API's lists and objects merge: strategic merge patches, server-side apply and the published
//! OpenAPI schema all follow `schema.txt`.

use std::collections::BTreeMap;
use std::sync::OnceLock;

const TABLE: &str = include_str!("schema.txt");

/// What is special about a field.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Field {
    /// The type of the field, or of its elements.
    pub of: Option<&'static str>,
    /// `x-kubernetes-patch-merge-key`: a strategic merge merges the list by this key.
    pub merge_key: Option<&'static str>,
    /// A strategic merge adds to this list of scalars.
    pub merges_scalars: bool,
    /// `patchStrategy: retainKeys`
    pub retains_keys: bool,
    /// `x-kubernetes-list-map-keys`
    pub map_keys: Vec<&'static str>,
    /// `x-kubernetes-list-type: set`
    pub is_set: bool,
    /// `x-kubernetes-map-type: atomic`
    pub is_atomic: bool,
}

/// The special fields of one type.
#[derive(Debug, Default)]
pub struct Type {
    fields: BTreeMap<&'static str, Field>,
    is_atomic: bool,
}

#[derive(Debug, Default)]
struct Schema {
    types: BTreeMap<&'static str, Type>,
    resources: BTreeMap<&'static str, &'static str>,
}

/// Where a value stands in the schema; values that the table doesn't know merge field by field.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    of: Option<&'static Type>,
}

impl Place {
    /// The top of an object.
    pub(super) fn of_resource(resource: &str) -> Self {
        Self { of: schema().resources.get(resource).and_then(|name| schema().types.get(name)) }
    }

    /// What is special about a field of the object here.
    pub(super) fn field(self, name: &str) -> &'static Field {
        static ORDINARY: OnceLock<Field> = OnceLock::new();
        let found = self.of.and_then(|of| of.fields.get(name));
        found.unwrap_or_else(|| ORDINARY.get_or_init(Field::default))
    }

    /// The place of a field's value, or of the elements of a list that merges.
    pub(super) fn within(field: &Field) -> Self {
        Self { of: field.of.and_then(|name| schema().types.get(name)) }
    }

    /// Whether objects here are replaced as a whole by server-side apply.
    pub(super) fn is_atomic(self) -> bool {
        self.of.is_some_and(|of| of.is_atomic)
    }
}

/// The type of a resource (a key of the store), as its kind is called.
pub fn kind(resource: &str) -> Option<&'static str> {
    schema().resources.get(resource).copied()
}

/// Every resource of the table.
pub fn resources() -> impl Iterator<Item = &'static str> {
    schema().resources.keys().copied()
}

/// Every type and field of the table.
pub fn fields() -> impl Iterator<Item = (&'static str, &'static str)> {
    schema().types.iter().flat_map(|(of, kind)| kind.fields.keys().map(|field| (*of, *field)))
}

fn schema() -> &'static Schema {
    static SCHEMA: OnceLock<Schema> = OnceLock::new();
    SCHEMA.get_or_init(|| read(TABLE))
}

fn read(table: &'static str) -> Schema {
    let mut schema = Schema::default();
    for line in table.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split_whitespace();
        let Some(first) = words.next() else { continue };
        if let Some(resource) = first.strip_prefix('@') {
            schema.resources.insert(resource, words.next().unwrap_or_default());
            continue;
        }
        let of = schema.types.entry(first).or_default();
        for word in words {
            match word {
                "*" => of.is_atomic = true,
                word => {
                    let (name, field) = field(word);
                    of.fields.insert(name, field);
                }
            }
        }
    }
    schema
}

fn field(word: &'static str) -> (&'static str, Field) {
    let mut field = Field { retains_keys: word.starts_with('+'), ..Field::default() };
    let word = word.trim_start_matches('+');
    let (word, of) = word.split_once(':').map_or((word, None), |(word, of)| (word, Some(of)));
    field.of = of;
    if let Some(name) = word.strip_suffix('!') {
        field.is_atomic = true;
        return (name, field);
    }
    if let Some((name, kinds)) = word.split_once('=') {
        field.merges_scalars = kinds.contains("merge");
        field.is_set = kinds.contains("set");
        return (name, field);
    }
    if let Some((name, keys)) = word.strip_suffix(']').and_then(|word| word.split_once('[')) {
        let (merge, apply) = keys.split_once('|').unwrap_or((keys, keys));
        field.merge_key = Some(merge).filter(|key| !key.is_empty());
        field.map_keys = apply.split(',').filter(|key| !key.is_empty()).collect();
        return (name, field);
    }
    (word, field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_closed() {
        for (name, of) in &schema().types {
            assert!(!of.fields.contains_key(""), "{name}");
        }
        for (resource, kind) in &schema().resources {
            assert!(schema().types.contains_key(kind), "{resource}");
        }
    }

    #[test]
    fn ports_have_one_key_for_each_kind_of_merge() {
        let spec = Place::within(Place::of_resource("pods").field("spec"));
        let containers = spec.field("containers");
        let ports = Place::within(containers).field("ports");
        assert_eq!(ports.merge_key, Some("containerPort"));
        assert_eq!(ports.map_keys, ["containerPort", "protocol"]);
        assert!(spec.field("volumes").retains_keys);
        assert_eq!(*spec.field("tolerations"), Field::default());
        assert!(spec.field("nodeSelector").is_atomic);
        assert!(Place::of_resource("pods").field("metadata").of.is_some());
    }
}
