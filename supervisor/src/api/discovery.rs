//! What clients learn about the server: groups, versions, resources, in the old form and in the aggregated one.

use serde_json::{Value, json};

use super::registry::{self, Class, Group, Resource, Subresource};

/// What this server calls itself: the API of this Kubernetes release, by Monopod.
const MINOR: &str = "36";

/// `/version`.
pub(crate) fn version() -> Value {
    json!({
        "major": "1",
        "minor": MINOR,
        "gitVersion": format!("v1.{MINOR}.0+monopod.{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none",
        "compiler": "rustc",
        "platform": format!("linux/{}", platform()),
    })
}

/// The name of this processor in images and node labels.
pub(crate) fn platform() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Paths that are no group's.
const PATHS: [&str; 15] = [
    "/.well-known/openid-configuration",
    "/api",
    "/api/v1",
    "/apis",
    "/healthz",
    "/healthz/etcd",
    "/livez",
    "/livez/etcd",
    "/metrics",
    "/openapi/v2",
    "/openapi/v3",
    "/openid/v1/jwks",
    "/readyz",
    "/readyz/etcd",
    "/version",
];

/// `/`: the paths that there are.
pub(crate) fn root() -> Value {
    let mut paths: Vec<String> = PATHS.map(str::to_owned).into();
    for group in registry::groups() {
        paths.push(format!("/apis/{}", group.name));
        paths.extend(group.versions.iter().map(|version| format!("/apis/{}/{version}", group.name)));
    }
    paths.sort();
    json!({"paths": paths})
}

/// `/api`.
pub(crate) fn api_versions(address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    })
}

/// `/apis`.
pub(crate) fn api_groups() -> Value {
    let groups: Vec<Value> = registry::groups().iter().map(group_entry).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/GROUP`.
pub(crate) fn api_group(name: &str) -> Option<Value> {
    let group = registry::groups().into_iter().find(|group| group.name == name)?;
    let mut value = group_entry(&group);
    value["kind"] = "APIGroup".into();
    value["apiVersion"] = "v1".into();
    Some(value)
}

fn group_entry(group: &Group) -> Value {
    let version = |version: &str| json!({"groupVersion": format!("{}/{version}", group.name), "version": version});
    let versions: Vec<Value> = group.versions.iter().map(|name| version(name)).collect();
    json!({"name": group.name, "preferredVersion": versions[0], "versions": versions})
}

/// `/api/v1`, `/apis/GROUP/VERSION`.
pub(crate) fn api_resources(group: &str, version: &str) -> Option<Value> {
    let mut resources = Vec::new();
    for resource in registry::of_version(group, version) {
        resources.push(resource_entry(resource));
        resources.extend(resource.subresources.iter().map(|sub| subresource_entry(resource, sub)));
    }
    if resources.is_empty() {
        return None;
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Some(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources}))
}

fn resource_entry(resource: &Resource) -> Value {
    let mut entry = json!({
        "name": resource.plural,
        "singularName": resource.singular,
        "namespaced": resource.is_namespaced,
        "kind": resource.kind,
        "verbs": resource.verbs,
    });
    if !resource.short.is_empty() {
        entry["shortNames"] = json!(resource.short);
    }
    if !resource.categories.is_empty() {
        entry["categories"] = json!(resource.categories);
    }
    if resource.class == Class::Stored {
        entry["storageVersionHash"] = storage_hash(resource).into();
    }
    entry
}

/// Tells versions of storage apart; ours is the one version that is served.
fn storage_hash(resource: &Resource) -> String {
    use base64::Engine;
    let text = format!("{}/{}/{}", resource.group, resource.version, resource.kind);
    base64::engine::general_purpose::STANDARD.encode(fnv(&text).to_be_bytes())
}

/// Tells documents apart.
pub(crate) fn hash(text: &str) -> String {
    format!("{:016X}", fnv(text))
}

/// FNV-1a: any hash that never changes will do.
fn fnv(text: &str) -> u64 {
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, mix)
}

fn subresource_entry(resource: &Resource, sub: &Subresource) -> Value {
    let mut entry = json!({
        "name": format!("{}/{}", resource.plural, sub.name),
        "singularName": "",
        "namespaced": resource.is_namespaced,
        "kind": sub.kind,
        "verbs": sub.verbs,
    });
    if let Some((group, version)) = sub.of {
        entry["group"] = group.into();
        entry["version"] = version.into();
    }
    entry
}

/// `/api` and `/apis` as `APIGroupDiscoveryList` of `apidiscovery.k8s.io`, in the version that was asked for.
pub(crate) fn aggregated(is_core: bool, version: &str) -> Value {
    let groups = if is_core { vec![Group { name: "", versions: vec!["v1"] }] } else { registry::groups() };
    let items: Vec<Value> = groups.iter().map(aggregated_group).collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {},
        "items": items,
    })
}

fn aggregated_group(group: &Group) -> Value {
    let version = |version: &&str| {
        let resources: Vec<Value> = registry::of_version(group.name, version).map(aggregated_resource).collect();
        json!({"version": version, "freshness": "Current", "resources": resources})
    };
    let versions: Vec<Value> = group.versions.iter().map(version).collect();
    let metadata = if group.name.is_empty() { json!({}) } else { json!({"name": group.name}) };
    json!({"metadata": metadata, "versions": versions})
}

fn aggregated_resource(resource: &Resource) -> Value {
    let kind = |(group, version): (&str, &str), kind: &str| json!({"group": group, "version": version, "kind": kind});
    let own = (resource.group, resource.version);
    let mut entry = json!({
        "resource": resource.plural,
        "responseKind": kind(own, resource.kind),
        "scope": if resource.is_namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": resource.verbs,
    });
    if !resource.short.is_empty() {
        entry["shortNames"] = json!(resource.short);
    }
    if !resource.categories.is_empty() {
        entry["categories"] = json!(resource.categories);
    }
    let subresource = |sub: &Subresource| {
        json!({
            "subresource": sub.name,
            "responseKind": kind(sub.of.unwrap_or(own), sub.kind),
            "verbs": sub.verbs,
        })
    };
    let subresources: Vec<Value> = resource.subresources.iter().map(subresource).collect();
    if !subresources.is_empty() {
        entry["subresources"] = subresources.into();
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_discovery_name_the_same_resources() {
        for (is_core, groups) in [(true, vec![("", "v1")]), (false, all_versions())] {
            let aggregated = aggregated(is_core, "v2");
            let versions: Vec<&Value> = aggregated["items"]
                .as_array()
                .unwrap()
                .iter()
                .flat_map(|group| group["versions"].as_array().unwrap())
                .collect();
            assert_eq!(versions.len(), groups.len());
            for (new, (group, version)) in versions.iter().zip(groups) {
                let old = api_resources(group, version).unwrap();
                let plain = |name: &&str| !name.contains('/');
                let old: Vec<&str> = old["resources"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .filter_map(|resource| resource["name"].as_str())
                    .filter(plain)
                    .collect();
                let new: Vec<&str> =
                    new["resources"].as_array().unwrap().iter().filter_map(|r| r["resource"].as_str()).collect();
                assert_eq!(old, new);
            }
        }
    }

    fn all_versions() -> Vec<(&'static str, &'static str)> {
        let versions = |group: registry::Group| group.versions.into_iter().map(move |version| (group.name, version));
        registry::groups().into_iter().flat_map(versions).collect()
    }

    #[test]
    fn every_client_can_read_the_version() {
        // Semantic version: digits, then what follows a plus sign.
        let version = version();
        let git = version["gitVersion"].as_str().unwrap();
        let (numbers, build) = git.strip_prefix('v').unwrap().split_once('+').unwrap();
        assert!(numbers.split('.').all(|number| number.parse::<u32>().is_ok()));
        assert!(build.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'-'));
    }
}
