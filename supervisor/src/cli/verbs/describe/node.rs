//! A node.

use cgroupd::Quantity as Amount;
use jiff::Timestamp;
use serde_json::Value;

use super::super::events::since;
use super::{NONE, Sheet, annotations, date, list, text};

/// Resources whose sums are shown.
const SUMMED: &[&str] = &["cpu", "memory", "ephemeral-storage"];
/// What the node says of itself, by field.
const SYSTEM_INFO: &[(&str, &str)] = &[
    ("Machine ID", "machineID"),
    ("System UUID", "systemUUID"),
    ("Boot ID", "bootID"),
    ("Kernel Version", "kernelVersion"),
    ("OS Image", "osImage"),
    ("Operating System", "operatingSystem"),
    ("Architecture", "architecture"),
    ("Container Runtime Version", "containerRuntimeVersion"),
    ("Kubelet Version", "kubeletVersion"),
    ("Kube-Proxy Version", "kubeProxyVersion"),
];

pub(super) fn describe(sheet: &mut Sheet, node: &Value, pods: &[Value], now: Timestamp) {
    sheet.field(0, "Name", text(node, "/metadata/name"));
    sheet.field(0, "Roles", NONE);
    sheet.pairs("Labels", node.pointer("/metadata/labels"), "=");
    sheet.pairs("Annotations", annotations(node).as_ref(), ": ");
    sheet.field(0, "CreationTimestamp", date(text(node, "/metadata/creationTimestamp")));
    let taints: Vec<String> = list(node, "/spec/taints").iter().map(taint).collect();
    sheet.several("Taints", &taints);
    sheet.field(0, "Unschedulable", node["spec"]["unschedulable"] == true);
    conditions(sheet, node);
    sheet.line(0, "Addresses:");
    list(node, "/status/addresses").iter().for_each(|one| sheet.field(1, text(one, "/type"), text(one, "/address")));
    sheet.resources(0, "Capacity", &node["status"]["capacity"]);
    sheet.resources(0, "Allocatable", &node["status"]["allocatable"]);
    sheet.line(0, "System Info:");
    for (name, field) in SYSTEM_INFO {
        let value = text(&node["status"]["nodeInfo"], &format!("/{field}"));
        // Newer nodes say nothing of a proxy.
        if !value.is_empty() || *field != "kubeProxyVersion" {
            sheet.field(1, name, value);
        }
    }
    describe_pods(sheet, node, pods, now);
    sums(sheet, node, pods);
}

fn taint(taint: &Value) -> String {
    let value = match text(taint, "/value") {
        "" => String::new(),
        value => format!("={value}"),
    };
    format!("{}{value}:{}", text(taint, "/key"), text(taint, "/effect"))
}

fn conditions(sheet: &mut Sheet, node: &Value) {
    sheet.line(0, "Conditions:\n  Type\tStatus\tLastHeartbeatTime\tLastTransitionTime\tReason\tMessage");
    sheet.line(1, "----\t------\t-----------------\t------------------\t------\t-------");
    for condition in list(node, "/status/conditions") {
        let cells = [
            text(condition, "/type").to_owned(),
            text(condition, "/status").to_owned(),
            date(text(condition, "/lastHeartbeatTime")),
            date(text(condition, "/lastTransitionTime")),
            text(condition, "/reason").to_owned(),
            text(condition, "/message").to_owned(),
        ];
        sheet.line(1, cells.join(" \t"));
    }
}

/// What a pod asks for, or may have at most: its containers together, or the peak while init containers run.
fn total(pod: &Value, field: &str, resource: &str) -> Amount {
    let own = |container: &Value| {
        let quantity = container["resources"][field][resource].as_str();
        quantity.and_then(|text| text.parse::<Amount>().ok()).unwrap_or(Amount::ZERO)
    };
    let (mut sidecars, mut peak) = (Amount::ZERO, Amount::ZERO);
    for container in list(pod, "/spec/initContainers") {
        let with = own(container).plus(sidecars);
        peak = peak.max(with);
        if container["restartPolicy"] == "Always" {
            sidecars = with;
        }
    }
    let apps = list(pod, "/spec/containers").iter().map(own).fold(sidecars, |sum, own| own.plus(sum));
    apps.max(peak)
}

fn allocatable(node: &Value, resource: &str) -> Amount {
    let quantity = node["status"]["allocatable"][resource].as_str();
    quantity.and_then(|text| text.parse::<Amount>().ok()).unwrap_or(Amount::ZERO)
}

/// `250m (12%)`
fn share(amount: Amount, whole: Amount) -> String {
    format!("{} ({}%)", amount, amount.percent_of(whole))
}

fn describe_pods(sheet: &mut Sheet, node: &Value, pods: &[Value], now: Timestamp) {
    sheet.field(0, "Non-terminated Pods", format_args!("({} in total)", pods.len()));
    // kubectl, too, has an empty column.
    let names = ["Namespace", "Name", "", "CPU Requests", "CPU Limits", "Memory Requests", "Memory Limits", "Age"];
    sheet.line(1, names.join("\t"));
    sheet.line(1, names.map(|name| "-".repeat(name.len())).join("\t"));
    for pod in pods {
        let part = |field, resource| share(total(pod, field, resource), allocatable(node, resource));
        let cells = [
            text(pod, "/metadata/namespace").to_owned(),
            text(pod, "/metadata/name").to_owned(),
            String::new(),
            part("requests", "cpu"),
            part("limits", "cpu"),
            part("requests", "memory"),
            part("limits", "memory"),
            since(text(pod, "/metadata/creationTimestamp").parse().ok(), now),
        ];
        sheet.line(1, cells.join("\t"));
    }
}

fn sums(sheet: &mut Sheet, node: &Value, pods: &[Value]) {
    sheet.line(0, "Allocated resources:\n  (Total limits may be over 100 percent, i.e., overcommitted.)");
    sheet.line(1, "Resource\tRequests\tLimits\n  --------\t--------\t------");
    let extended = node["status"]["allocatable"].as_object().into_iter().flatten().map(|(name, _)| name.as_str());
    let extended = extended.filter(|name| name.contains('/') || name.starts_with("hugepages-"));
    for resource in SUMMED.iter().copied().chain(extended) {
        let sum = |field| {
            let all = pods.iter().map(|pod| total(pod, field, resource));
            share(all.fold(Amount::ZERO, |sum, one| one.plus(sum)), allocatable(node, resource))
        };
        sheet.line(1, format_args!("{resource}\t{}\t{}", sum("requests"), sum("limits")));
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect_file;
    use serde_json::json;

    use super::super::super::align::{DESCRIPTION, align};
    use super::*;

    #[test]
    fn a_node_is_described_with_its_pods() {
        let node = json!({"metadata": {"name": "node1", "labels": {"a": "b", "c": "d"}, "creationTimestamp": "2026-11-21T03:25:51Z"},
            "status": {
                "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-11-21T03:37:21Z",
                    "lastTransitionTime": "2026-11-21T03:26:01Z", "reason": "KubeletReady", "message": "ready"}],
                "addresses": [{"type": "InternalIP", "address": "10.11.0.1"}],
                "capacity": {"cpu": "2", "memory": "4Gi", "pods": "110"},
                "allocatable": {"cpu": "2", "memory": "4Gi", "pods": "110"},
                "nodeInfo": {"kernelVersion": "6.18"}}});
        let pod = json!({"metadata": {"namespace": "default", "name": "one", "creationTimestamp": "2026-11-21T03:37:00Z"},
            "spec": {
                "initContainers": [{"resources": {"requests": {"cpu": "1"}}}],
                "containers": [{"resources": {"requests": {"cpu": "250m", "memory": "1Gi"}, "limits": {"cpu": "3"}}}]}});
        let mut sheet = Sheet::default();
        describe(&mut sheet, &node, &[pod], "2026-11-21T03:37:30Z".parse().unwrap());
        expect_file!["tests/node.txt"].assert_eq(&align(&sheet.0, DESCRIPTION));
    }
}
