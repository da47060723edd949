//! Which kinds the server has, as it says itself.

use serde_json::Value;

use super::error::VerbError;
use super::{Call, Client, segment};

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

/// A resource that is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kind {
    pub group: String,
    pub version: String,
    pub kind: String,
    pub plural: String,
    pub singular: String,
    pub is_namespaced: bool,
    pub short: Vec<String>,
    pub categories: Vec<String>,
    pub verbs: Vec<String>,
}

impl Kind {
    /// `v1`, `apps/v1`
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// Where its objects are, or one of them. Without a namespace, those of all.
    pub fn path(&self, namespace: Option<&str>, name: Option<&str>) -> String {
        let mut path = if self.group.is_empty() { "/api/".to_owned() } else { "/apis/".to_owned() };
        path += &self.api_version();
        if let Some(namespace) = namespace.filter(|_| self.is_namespaced) {
            path = format!("{path}/namespaces/{}", segment(namespace));
        }
        path = format!("{path}/{}", self.plural);
        match name {
            Some(name) => format!("{path}/{}", segment(name)),
            None => path,
        }
    }

    /// `pod`, `deployment.apps`: how messages name it.
    pub fn label(&self) -> String {
        let kind = self.kind.to_lowercase();
        if self.group.is_empty() { kind } else { format!("{kind}.{}", self.group) }
    }

    /// `pods`, `deployments.apps`
    pub fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }

    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|known| known == verb)
    }

    fn answers_to(&self, name: &str) -> bool {
        let (name, group) = match name.split_once('.') {
            Some((name, group)) => (name, Some(group)),
            None => (name, None),
        };
        let of_group =
            group.is_none_or(|group| group == self.group || group == format!("{}.{}", self.version, self.group));
        let short = self.short.iter().map(String::as_str);
        of_group && [self.plural.as_str(), &self.singular].into_iter().chain(short).any(|known| known == name)
    }
}

/// All kinds, the core ones first.
#[derive(Debug, Clone)]
pub struct Kinds(Vec<Kind>);

impl Kinds {
    /// Asks the server.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn ask(client: &Client) -> Result<Self, VerbError> {
        let mut kinds = Vec::new();
        for path in ["/api", "/apis"] {
            kinds.extend(read(&client.json(Call::get(path).accept(AGGREGATED)).await?));
        }
        Ok(Self(kinds))
    }

    /// The kind that a user means with `po`, `pod`, `pods`, `events.events.k8s.io`.
    ///
    /// # Errors
    /// There is none.
    pub fn named(&self, name: &str) -> Result<&Kind, VerbError> {
        let wanted = name.to_ascii_lowercase();
        let found = self.0.iter().find(|kind| kind.answers_to(&wanted) && kind.can("get"));
        found.ok_or_else(|| VerbError::usage(format!("the server doesn't have a resource type {name:?}")))
    }

    /// As [`Kinds::named`], of one version: `v1`, `events.k8s.io/v1`.
    pub fn of_version(&self, name: &str, api_version: &str) -> Option<&Kind> {
        let wanted = name.to_ascii_lowercase();
        self.0.iter().find(|kind| kind.answers_to(&wanted) && kind.api_version() == api_version)
    }

    /// As [`Kinds::named`], of what can only be created, too; none when there is none.
    pub fn known(&self, name: &str) -> Option<&Kind> {
        let wanted = name.to_ascii_lowercase();
        self.0.iter().find(|kind| kind.answers_to(&wanted))
    }

    pub fn iter(&self) -> impl Iterator<Item = &Kind> {
        self.0.iter()
    }

    /// Every kind once: of several versions, the one that the server prefers.
    pub fn preferred(&self) -> Vec<&Kind> {
        let mut found: Vec<&Kind> = Vec::new();
        for kind in &self.0 {
            if !found.iter().any(|known| known.plural == kind.plural && known.group == kind.group) {
                found.push(kind);
            }
        }
        found
    }

    /// The kinds of a category such as `all`.
    pub fn of_category<'k>(&'k self, category: &str) -> Vec<&'k Kind> {
        self.preferred().into_iter().filter(|kind| kind.categories.iter().any(|known| known == category)).collect()
    }

    /// The kind of a manifest.
    pub fn of_object(&self, api_version: &str, kind: &str) -> Option<&Kind> {
        self.0.iter().find(|known| known.kind == kind && known.api_version() == api_version)
    }
}

fn read(list: &Value) -> Vec<Kind> {
    let items = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    let mut kinds = Vec::new();
    for group in items(list, "items") {
        for version in items(&group, "versions") {
            let names = (text(&group["metadata"], "name"), text(&version, "version"));
            kinds.extend(items(&version, "resources").iter().map(|resource| kind(&names.0, &names.1, resource)));
        }
    }
    kinds
}

fn kind(group: &str, version: &str, resource: &Value) -> Kind {
    let texts = |key: &str| {
        let items = resource[key].as_array().map_or(&[][..], Vec::as_slice);
        items.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    Kind {
        group: group.to_owned(),
        version: version.to_owned(),
        kind: text(&resource["responseKind"], "kind"),
        plural: text(resource, "resource"),
        singular: text(resource, "singularResource"),
        is_namespaced: resource["scope"] == "Namespaced",
        short: texts("shortNames"),
        categories: texts("categories"),
        verbs: texts("verbs"),
    }
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
pub(in crate::cli::verbs) mod tests {
    use serde_json::json;

    use super::*;

    pub(in crate::cli::verbs) fn some() -> Kinds {
        let pods = json!({"resource": "pods", "responseKind": {"kind": "Pod"}, "scope": "Namespaced",
            "singularResource": "pod", "shortNames": ["po"], "categories": ["all"], "verbs": ["get", "list"]});
        let nodes = json!({"resource": "nodes", "responseKind": {"kind": "Node"}, "scope": "Cluster",
            "singularResource": "node", "shortNames": ["no"], "verbs": ["get", "list"]});
        let deployments = json!({"resource": "deployments", "responseKind": {"kind": "Deployment"},
            "scope": "Namespaced", "singularResource": "deployment", "categories": ["all"], "verbs": ["get", "list"]});
        let group = |name: &str, resources: Value| {
            json!({"metadata": {"name": name}, "versions": [
            {"version": "v1", "resources": resources}]})
        };
        let list = json!({"items": [group("", json!([pods, nodes])), group("apps", json!([deployments]))]});
        Kinds(read(&list))
    }

    #[test]
    fn a_kind_is_found_by_any_of_its_names() {
        let kinds = some();
        for name in ["po", "pod", "pods", "Pod"] {
            assert_eq!(kinds.named(name).unwrap().kind, "Pod", "{name}");
        }
        for name in ["deployments.apps", "deployment", "deployments.v1.apps"] {
            assert_eq!(kinds.named(name).unwrap().label(), "deployment.apps", "{name}");
        }
        let error = kinds.named("pods.apps").unwrap_err().to_string();
        assert_eq!(error, "error: the server doesn't have a resource type \"pods.apps\"");
        assert_eq!(kinds.of_category("all").len(), 2);
        assert_eq!(kinds.of_object("apps/v1", "Deployment").unwrap().qualified(), "deployments.apps");
    }

    #[test]
    fn paths_are_those_of_the_api() {
        let kinds = some();
        let path = |kind: &str, namespace, name| kinds.named(kind).unwrap().path(namespace, name);
        assert_eq!(path("po", Some("a"), Some("b")), "/api/v1/namespaces/a/pods/b");
        assert_eq!(path("po", None, None), "/api/v1/pods");
        assert_eq!(path("no", Some("a"), Some("b")), "/api/v1/nodes/b");
        assert_eq!(path("deployment", Some("a"), None), "/apis/apps/v1/namespaces/a/deployments");
    }
}
