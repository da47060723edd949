//! What is served, as far as the schema tells it.

pub(super) const TABLE: &str = include_str!("resources.txt");

/// Whose a resource's objects are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    Namespace,
    Cluster,
    /// Nobody's: an answer to a question.
    CreateOnly,
}

/// A group, a version, and a kind in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) group: &'static str,
    pub(super) version: &'static str,
    pub(super) kind: &'static str,
}

impl Kind {
    fn new(group_version: &'static str, kind: &'static str) -> Self {
        let (group, version) = group_version.split_once('/').unwrap_or(("", group_version));
        Self { group, version, kind }
    }

    /// The group as definitions are named by it.
    fn package(self) -> &'static str {
        if self.group.is_empty() { "core" } else { self.group.split('.').next().unwrap_or_default() }
    }

    /// `io.k8s.api.core.v1.Pod`
    pub(super) fn definition(self) -> String {
        format!("io.k8s.api.{}.{}.{}", self.package(), self.version, self.kind)
    }

    /// `CoreV1`, as operations are named.
    pub(super) fn operation(self) -> String {
        format!("{}{}", capital(self.package()), capital(self.version))
    }
}

pub(super) fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(chars).collect()
}

/// One resource.
#[derive(Debug, Clone)]
pub(super) struct Resource {
    pub(super) kind: Kind,
    pub(super) plural: &'static str,
    pub(super) scope: Scope,
    /// The subresources, with the kind that is posted to those that take another.
    pub(super) subresources: Vec<(&'static str, Option<Kind>)>,
}

impl Resource {
    pub(super) fn all() -> impl Iterator<Item = Self> {
        TABLE.lines().filter(|line| !line.starts_with('#')).filter_map(Self::read)
    }

    fn read(line: &'static str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let (group_version, plural, kind) = (words.next()?, words.next()?, words.next()?);
        let scope = match words.next()? {
            "n" => Scope::Namespace,
            "c" => Scope::Cluster,
            _ => Scope::CreateOnly,
        };
        let subresource = |word: &'static str| match word.split_once('=') {
            None => (word, None),
            Some((name, other)) => (name, other.rsplit_once('/').map(|(version, kind)| Kind::new(version, kind))),
        };
        let subresources = words.map(subresource).collect();
        Some(Self { kind: Kind::new(group_version, kind), plural, scope, subresources })
    }

    /// `api/v1` or `apis/apps/v1`.
    pub(super) fn root(&self) -> String {
        let Kind { group, version, .. } = self.kind;
        if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
    }
}
