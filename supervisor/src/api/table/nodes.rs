//! The cells of a node.

use jiff::Timestamp;
use serde_json::Value;

use super::shared::{NONE, UNKNOWN, age, list, name, text, text_or};

/// A label of this prefix names a role.
const ROLE_PREFIX: &str = "node-role.kubernetes.io/";
/// A label whose value is a role.
const ROLE: &str = "kubernetes.io/role";

pub(super) fn cells(node: &Value, now: Timestamp) -> Vec<Value> {
    let info = &node["status"]["nodeInfo"];
    vec![
        name(node),
        status(node).into(),
        roles(node).into(),
        age(node, now),
        text(info, "/kubeletVersion").into(),
        address(node, "InternalIP").into(),
        address(node, "ExternalIP").into(),
        text_or(info, "/osImage", UNKNOWN).into(),
        text_or(info, "/kernelVersion", UNKNOWN).into(),
        text_or(info, "/containerRuntimeVersion", UNKNOWN).into(),
    ]
}

fn status(node: &Value) -> String {
    let ready = list(node, "/status/conditions").iter().find(|condition| text(condition, "/type") == "Ready");
    let mut shown = match ready.map(|condition| text(condition, "/status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if node["spec"]["unschedulable"] == true {
        shown.push_str(",SchedulingDisabled");
    }
    shown
}

fn roles(node: &Value) -> String {
    let labels = node["metadata"]["labels"].as_object();
    let mut roles: Vec<&str> = Vec::new();
    for (key, value) in labels.into_iter().flatten() {
        let role = if key == ROLE { value.as_str() } else { key.strip_prefix(ROLE_PREFIX) };
        roles.extend(role.filter(|role| !role.is_empty()));
    }
    roles.sort_unstable();
    roles.dedup();
    if roles.is_empty() { NONE.to_owned() } else { roles.join(",") }
}

fn address<'v>(node: &'v Value, kind: &str) -> &'v str {
    let found = list(node, "/status/addresses").iter().find(|address| text(address, "/type") == kind);
    found.map_or(NONE, |address| text(address, "/address"))
}
