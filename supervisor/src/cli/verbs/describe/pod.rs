//! A pod.

use serde_json::Value;

use super::container::{self, Place};
use super::{NONE, Sheet, annotations, date, list, plain, text, title, volume};

pub(super) fn describe(sheet: &mut Sheet, pod: &Value) {
    head(sheet, pod);
    state(sheet, pod);
    addresses(sheet, pod);
    container::describe_all(sheet, pod, Place::Init);
    container::describe_all(sheet, pod, Place::Main);
    container::describe_all(sheet, pod, Place::Ephemeral);
    gates(sheet, pod);
    conditions(sheet, pod);
    volume::describe_all(sheet, pod);
    sheet.field_some(0, "QoS Class", text(pod, "/status/qosClass"));
    sheet.pairs("Node-Selectors", pod.pointer("/spec/nodeSelector"), "=");
    let tolerations: Vec<String> = list(pod, "/spec/tolerations").iter().map(toleration).collect();
    sheet.several("Tolerations", &tolerations);
}

fn head(sheet: &mut Sheet, pod: &Value) {
    sheet.field(0, "Name", text(pod, "/metadata/name"));
    sheet.field(0, "Namespace", text(pod, "/metadata/namespace"));
    if let Some(priority) = pod.pointer("/spec/priority") {
        sheet.field(0, "Priority", plain(priority));
        sheet.field_some(0, "Priority Class Name", text(pod, "/spec/priorityClassName"));
    }
    sheet.field_some(0, "Runtime Class Name", text(pod, "/spec/runtimeClassName"));
    sheet.field_some(0, "Service Account", text(pod, "/spec/serviceAccountName"));
    match text(pod, "/spec/nodeName") {
        "" => sheet.field(0, "Node", NONE),
        node => sheet.field(0, "Node", format_args!("{node}/{}", text(pod, "/status/hostIP"))),
    }
    if !text(pod, "/status/startTime").is_empty() {
        sheet.field(0, "Start Time", date(text(pod, "/status/startTime")));
    }
    sheet.pairs("Labels", pod.pointer("/metadata/labels"), "=");
    sheet.pairs("Annotations", annotations(pod).as_ref(), ": ");
}

fn state(sheet: &mut Sheet, pod: &Value) {
    let deleted = text(pod, "/metadata/deletionTimestamp");
    if deleted.is_empty() {
        sheet.field(0, "Status", text(pod, "/status/phase"));
    } else {
        let ago = super::events::since(deleted.parse().ok(), jiff::Timestamp::now());
        sheet.field(0, "Status", format_args!("Terminating (lasts {ago})"));
        let grace = pod.pointer("/metadata/deletionGracePeriodSeconds").map(plain).unwrap_or_default();
        sheet.field(0, "Termination Grace Period", format_args!("{grace}s"));
    }
    sheet.field_some(0, "Reason", text(pod, "/status/reason"));
    sheet.field_some(0, "Message", text(pod, "/status/message"));
    let seccomp = seccomp(pod.pointer("/spec/securityContext/seccompProfile"));
    sheet.field_some(0, "SeccompProfile", &seccomp);
}

pub(super) fn seccomp(profile: Option<&Value>) -> String {
    profile.map(|profile| text(profile, "/type").to_owned()).unwrap_or_default()
}

fn addresses(sheet: &mut Sheet, pod: &Value) {
    sheet.field(0, "IP", text(pod, "/status/podIP"));
    let all = list(pod, "/status/podIPs");
    if all.is_empty() {
        sheet.field(0, "IPs", NONE);
    } else {
        sheet.line(0, "IPs:");
        all.iter().for_each(|address| sheet.field(1, "IP", text(address, "/ip")));
    }
    if let Some(owner) = list(pod, "/metadata/ownerReferences").iter().find(|owner| owner["controller"] == true) {
        sheet.field(0, "Controlled By", format_args!("{}/{}", text(owner, "/kind"), text(owner, "/name")));
    }
}

fn gates(sheet: &mut Sheet, pod: &Value) {
    let gates = list(pod, "/spec/readinessGates");
    if gates.is_empty() {
        return;
    }
    sheet.line(0, "Readiness Gates:\n  Type\tStatus");
    for gate in gates {
        let kind = text(gate, "/conditionType");
        let found = list(pod, "/status/conditions").iter().find(|condition| condition["type"] == kind);
        sheet.line(1, format_args!("{kind} \t{} ", found.map_or(NONE, |condition| text(condition, "/status"))));
    }
}

fn conditions(sheet: &mut Sheet, pod: &Value) {
    let conditions = list(pod, "/status/conditions");
    if conditions.is_empty() {
        return;
    }
    sheet.line(0, "Conditions:\n  Type\tStatus");
    for condition in conditions {
        sheet.line(1, format_args!("{} \t{} ", text(condition, "/type"), text(condition, "/status")));
    }
}

fn toleration(toleration: &Value) -> String {
    let mut shown = text(toleration, "/key").to_owned();
    if !text(toleration, "/value").is_empty() {
        shown += &format!("={}", text(toleration, "/value"));
    }
    if !text(toleration, "/effect").is_empty() {
        shown += &format!(":{}", text(toleration, "/effect"));
    }
    if text(toleration, "/operator") == "Exists" && text(toleration, "/value").is_empty() {
        shown += if shown.is_empty() { "op=Exists" } else { " op=Exists" };
    }
    if let Some(seconds) = toleration["tolerationSeconds"].as_i64() {
        shown += &format!(" for {seconds}s");
    }
    shown
}

/// Of volumes and sources, whether they may be missing.
pub(super) fn optional(source: &Value) -> &'static str {
    if source["optional"] == true { "true" } else { "false" }
}

pub(super) fn is_ready(status: &Value) -> &'static str {
    title(status["ready"] == true)
}

#[cfg(test)]
mod tests {
    use expect_test::expect_file;
    use serde_json::json;

    use super::super::super::align::{DESCRIPTION, align};
    use super::*;

    fn pod() -> Value {
        json!({
            "kind": "Pod",
            "metadata": {"name": "my-pod", "namespace": "default", "labels": {"app": "my-app", "version": "v1"}},
            "spec": {
                "priority": 0, "serviceAccountName": "default", "nodeName": "node1",
                "initContainers": [{"name": "setup", "image": "busybox", "command": ["sh", "-c", "echo a\necho b"],
                    "restartPolicy": "Always"}],
                "containers": [{
                    "name": "app", "image": "busybox", "args": ["serve"],
                    "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
                    "resources": {"limits": {"cpu": "1", "memory": "512Mi"}, "requests": {"cpu": "250m"}},
                    "livenessProbe": {"httpGet": {"path": "/healthz", "port": 8080, "scheme": "HTTP"},
                        "periodSeconds": 10, "timeoutSeconds": 1, "successThreshold": 1, "failureThreshold": 3},
                    "readinessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 5, "timeoutSeconds": 1,
                        "successThreshold": 1, "failureThreshold": 3},
                    "envFrom": [{"configMapRef": {"name": "app-config"}}, {"prefix": "S_", "secretRef": {"name": "s", "optional": true}}],
                    "env": [
                        {"name": "DB_HOST", "value": "db"},
                        {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "db", "key": "password"}}},
                        {"name": "POD_NAME", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}},
                        {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}],
                    "volumeMounts": [{"name": "data", "mountPath": "/data"},
                        {"name": "config", "mountPath": "/etc/config", "readOnly": true, "subPath": "a"}]}],
                "volumes": [
                    {"name": "data", "emptyDir": {}},
                    {"name": "config", "configMap": {"name": "app-config"}},
                    {"name": "host", "hostPath": {"path": "/x", "type": "Directory"}},
                    {"name": "claim", "persistentVolumeClaim": {"claimName": "c"}},
                    {"name": "token", "projected": {"sources": [
                        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                        {"configMap": {"name": "kube-root-ca.crt"}},
                        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}}]}}],
                "nodeSelector": {"disk": "ssd"},
                "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]},
            "status": {
                "phase": "Running", "hostIP": "10.0.0.1", "podIP": "10.244.0.2", "podIPs": [{"ip": "10.244.0.2"}],
                "startTime": "2026-11-21T03:31:39Z", "qosClass": "Burstable",
                "conditions": [{"type": "Ready", "status": "True"}, {"type": "PodScheduled", "status": "True"}],
                "initContainerStatuses": [{"name": "setup", "ready": true, "restartCount": 0, "state": {"running": {"startedAt": "2026-11-21T03:31:40Z"}}}],
                "containerStatuses": [{
                    "name": "app", "ready": false, "restartCount": 1, "containerID": "monopod://abc", "imageID": "sha256:1",
                    "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}},
                    "lastState": {"terminated": {"reason": "Error", "exitCode": 137, "signal": 9, "message": "why\n",
                        "startedAt": "2026-11-21T03:31:41Z", "finishedAt": "2026-11-21T03:31:42Z"}}}]}})
    }

    #[test]
    fn a_pod_is_described_as_kubectl_describes_it() {
        let mut sheet = Sheet::default();
        describe(&mut sheet, &pod());
        expect_file!["tests/pod.txt"].assert_eq(&align(&sheet.0, DESCRIPTION));
    }
}
