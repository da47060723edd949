//! Which resources are served. Discovery, routes, decoding and `kubectl api-resources` follow from one table.

mod codec;
mod table;

pub use codec::{Problems, decode};
pub use table::RESOURCES;

use codec::Codec;

/// What a resource is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Objects in the store.
    Stored,
    /// The `events.k8s.io` view of stored core events.
    EventView,
    /// Something that Kubernetes makes pods from, or that nothing on one machine acts on. Listed as empty, refused when
    /// written.
    Workload,
    /// A question that is answered and not stored.
    Review,
    /// Usage, from the node.
    Metrics,
}

/// A subresource, as discovery shows it.
#[derive(Debug, Clone, Copy)]
pub struct Subresource {
    pub name: &'static str,
    /// Group and version of its kind, where they are not those of the resource.
    pub of: Option<(&'static str, &'static str)>,
    pub kind: &'static str,
    pub verbs: &'static [&'static str],
}

/// One kind of object that is served.
#[derive(Debug)]
pub struct Resource {
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    pub short: &'static [&'static str],
    pub categories: &'static [&'static str],
    pub is_namespaced: bool,
    pub verbs: &'static [&'static str],
    pub subresources: &'static [Subresource],
    pub class: Class,
    codec: Codec,
}

impl Resource {
    /// `pods`, `leases.coordination.k8s.io`: as messages name it, and the store.
    pub fn qualified(&self) -> String {
        match self.group {
            "" => self.plural.to_owned(),
            group => format!("{}.{group}", self.plural),
        }
    }

    /// The `resource` of its keys in the store.
    pub fn storage(&self) -> String {
        match self.class {
            Class::EventView => "events".to_owned(),
            Class::Stored | Class::Workload | Class::Review | Class::Metrics => self.qualified(),
        }
    }

    /// `v1`, `coordination.k8s.io/v1`.
    pub fn api_version(&self) -> String {
        match self.group {
            "" => self.version.to_owned(),
            group => format!("{group}/{}", self.version),
        }
    }

    pub fn list_kind(&self) -> String {
        format!("{}List", self.kind)
    }

    pub fn allows(&self, verb: &str) -> bool {
        self.verbs.contains(&verb)
    }

    pub fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.subresources.iter().find(|subresource| subresource.name == name)
    }

    /// Whether changes of the specification are counted in `metadata.generation`.
    pub fn has_generation(&self) -> bool {
        matches!((self.group, self.plural), ("", "pods") | ("policy", "poddisruptionbudgets"))
    }

    /// Whether `status` is its own subresource, so that the main one leaves it alone.
    pub fn has_status(&self) -> bool {
        self.subresource("status").is_some()
    }
}

/// The resource of this group, version and plural name.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    RESOURCES.iter().find(|r| r.plural == plural && r.group == group && r.version == version)
}

/// The resource of objects of this `apiVersion` and kind.
pub fn of_kind(api_version: &str, kind: &str) -> Option<&'static Resource> {
    RESOURCES.iter().find(|r| r.kind == kind && r.api_version() == api_version)
}

/// A group and its versions, the preferred one first.
#[derive(Debug)]
pub struct Group {
    pub name: &'static str,
    pub versions: Vec<&'static str>,
}

/// All groups but the core one, in the order of the table.
pub fn groups() -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for resource in RESOURCES.iter().filter(|resource| !resource.group.is_empty()) {
        match groups.iter_mut().find(|group| group.name == resource.group) {
            Some(group) if group.versions.contains(&resource.version) => {}
            Some(group) => group.versions.push(resource.version),
            None => groups.push(Group { name: resource.group, versions: vec![resource.version] }),
        }
    }
    groups
}

/// The resources of a group and version.
pub fn of_version(group: &str, version: &str) -> impl Iterator<Item = &'static Resource> {
    RESOURCES.iter().filter(move |resource| resource.group == group && resource.version == version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        for resource in RESOURCES {
            let found = find(resource.group, resource.version, resource.plural).unwrap();
            assert!(std::ptr::eq(found, resource), "{}", resource.qualified());
            let same = |r: &&Resource| r.group == resource.group && r.version == resource.version;
            assert_eq!(RESOURCES.iter().filter(same).filter(|r| r.kind == resource.kind).count(), 1);
        }
    }

    #[test]
    fn versions_of_a_group_start_with_the_preferred_one() {
        let autoscaling = groups().into_iter().find(|group| group.name == "autoscaling").unwrap();
        assert_eq!(autoscaling.versions, ["v2", "v1"]);
    }
}
