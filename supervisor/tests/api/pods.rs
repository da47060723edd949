//! Pods: admission, updates, deletion.

use serde_json::{Value, json};

use crate::harness::Api;

const PODS: &str = "/api/v1/namespaces/default/pods";

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "busybox"}]}})
}

#[test]
fn a_pod_gets_what_an_api_server_fills_in() {
    // 10.2, VA14, VA15
    let api = Api::start();
    let answer = api.post(PODS, &pod("h"));
    assert_eq!(answer.code, 201);
    let (spec, metadata) = (&answer.body["spec"], &answer.body["metadata"]);
    assert_eq!(answer.body["status"], json!({"phase": "Pending", "qosClass": "BestEffort"}));
    assert_eq!(metadata["generation"], 1);
    assert_eq!((&spec["serviceAccountName"], &spec["priority"]), (&json!("default"), &json!(0)));
    assert_eq!(spec["tolerations"].as_array().unwrap().len(), 2);
    let volume = spec["volumes"][0]["name"].as_str().unwrap();
    assert!(volume.starts_with("kube-api-access-") && volume.len() == 21);
    assert_eq!(spec["containers"][0]["volumeMounts"][0]["name"], volume);
    let owned = metadata["managedFields"][0]["fieldsV1"]["f:spec"].as_object().unwrap();
    assert!(owned.contains_key("f:dnsPolicy") && !owned.contains_key("f:tolerations"));
}

#[test]
fn refusals_of_admission_are_worded_as_upstream() {
    let api = Api::start();
    let with = |field: &str, value: Value| {
        let mut pod = pod("h");
        pod["spec"][field] = value;
        api.post(PODS, &pod)
    };
    for (answer, message) in [
        (
            with("serviceAccountName", json!("ghost")),
            "pods \"h\" is forbidden: error looking up service account default/ghost: serviceaccount \"ghost\" not found",
        ),
        (
            with("priorityClassName", json!("ghost")),
            "pods \"h\" is forbidden: no PriorityClass with name ghost was found",
        ),
        (
            with("runtimeClassName", json!("ghost")),
            "pods \"h\" is forbidden: pod rejected: RuntimeClass \"ghost\" not found",
        ),
    ] {
        assert_eq!((answer.code, answer.message()), (403, message));
    }
    let invalid = api.post(PODS, &json!({"metadata": {"name": "Bad_"}, "spec": {"containers": [{"name": "c"}]}}));
    assert_eq!(invalid.code, 422);
    let causes = invalid.body["details"]["causes"].as_array().unwrap();
    assert_eq!(
        causes[1],
        json!({"reason": "FieldValueRequired", "message": "Required value", "field": "spec.containers[0].image"})
    );
}

#[test]
fn pod_security_is_enforced_and_warned_of() {
    // PS2, PS6
    let api = Api::start();
    let label = |level: &str, mode: &str| {
        let labels = json!({"metadata": {"labels": {format!("pod-security.kubernetes.io/{mode}"): level}}});
        api.merge("/api/v1/namespaces/default", &labels)
    };
    label("restricted", "warn");
    let warned = api.post(PODS, &pod("nginx"));
    assert!(warned.header("warning")[0].starts_with("299 - \"would violate PodSecurity \\\"restricted:latest\\\": "));
    let existing = label("restricted", "enforce");
    assert_eq!(
        existing.header("warning")[0],
        "299 - \"existing pods in namespace \\\"default\\\" violate the new PodSecurity enforce level \\\"restricted:latest\\\"\""
    );
    let refused = api.post(PODS, &pod("other"));
    assert_eq!(refused.code, 403);
    assert!(refused.message().starts_with(
        "pods \"other\" is forbidden: violates PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false (container \"c\" must set"
    ));
}

#[test]
fn only_some_fields_of_a_pod_change() {
    // UP2, UP3, GE2
    let api = Api::start();
    api.post(PODS, &pod("h"));
    let path = format!("{PODS}/h");
    let image = json!([{"name": "c", "image": "busybox:2"}]);
    let strategic = [("Content-Type", "application/strategic-merge-patch+json")];
    let changed = api.send("PATCH", &path, &strategic, json!({"spec": {"containers": image}}).to_string());
    assert_eq!((changed.code, &changed.body["metadata"]["generation"]), (200, &json!(2)));
    let refused = api.merge(&path, &json!({"spec": {"hostname": "x"}}));
    assert_eq!(refused.code, 422);
    assert!(
        refused
            .message()
            .starts_with("Pod \"h\" is invalid: spec: Forbidden: pod updates may not change fields other than")
    );
    // UP10
    let status =
        api.merge(&format!("{path}/status"), &json!({"status": {"phase": "Running"}, "spec": {"hostname": "x"}}));
    assert_eq!((&status.body["status"]["phase"], status.body["spec"].get("hostname")), (&json!("Running"), None));
    let main = api.merge(&path, &json!({"status": {"phase": "Failed"}, "metadata": {"labels": {"x": "y"}}}));
    assert_eq!((&main.body["status"]["phase"], &main.body["metadata"]["generation"]), (&json!("Running"), &json!(2)));
}

#[test]
fn a_pod_with_a_node_is_deleted_by_its_node() {
    // DE2, DE3
    let api = Api::start();
    for name in ["kept", "forced", "free"] {
        api.post(PODS, &pod(name));
    }
    for name in ["kept", "forced"] {
        let binding = json!({"metadata": {"name": name}, "target": {"kind": "Node", "name": "node1"}});
        assert_eq!(api.post(&format!("{PODS}/{name}/binding"), &binding).code, 201);
        assert_eq!(api.post(&format!("{PODS}/{name}/binding"), &binding).code, 409);
    }
    let kept = api.delete(&format!("{PODS}/kept"));
    assert_eq!((kept.code, &kept.body["metadata"]["deletionGracePeriodSeconds"]), (200, &json!(30)));
    assert_eq!(api.get(&format!("{PODS}/kept")).code, 200);
    let again = api.post(PODS, &pod("kept"));
    assert_eq!(again.message(), "object is being deleted: pods \"kept\" already exists");
    assert_eq!(api.delete(&format!("{PODS}/forced?gracePeriodSeconds=0")).code, 200);
    assert_eq!(api.get(&format!("{PODS}/forced")).code, 404);
    let evicted = api.post(&format!("{PODS}/free/eviction"), &json!({"metadata": {"name": "free"}}));
    assert_eq!((evicted.code, &evicted.body["status"]), (201, &json!("Success")));
    assert_eq!(api.get(&format!("{PODS}/free")).code, 404);
}

#[test]
fn ephemeral_containers_and_sizes_have_doors_of_their_own() {
    // EP1
    let api = Api::start();
    api.post(PODS, &pod("h"));
    let path = format!("{PODS}/h");
    let debugger = json!({"spec": {"ephemeralContainers": [{"name": "d", "image": "busybox"}]}});
    assert_eq!(api.merge(&path, &debugger).code, 422);
    let added = api.merge(&format!("{path}/ephemeralcontainers"), &debugger);
    assert_eq!((added.code, &added.body["metadata"]["generation"]), (200, &json!(2)));
    let removed = api.merge(&format!("{path}/ephemeralcontainers"), &json!({"spec": {"ephemeralContainers": []}}));
    assert!(removed.message().contains("existing ephemeral containers \"d\" may not be removed"));
    let amount =
        json!({"spec": {"containers": [{"name": "c", "image": "x", "resources": {"requests": {"cpu": "1"}}}]}});
    let resized = api.merge(&format!("{path}/resize"), &amount);
    assert!(resized.message().contains("Pod QOS Class may not change as a result of resizing"), "{resized:?}");
}

#[test]
fn limits_and_quotas_of_a_namespace_count() {
    let api = Api::start();
    let range = json!({"metadata": {"name": "r"}, "spec": {"limits": [
        {"type": "Container", "defaultRequest": {"cpu": "100m"}, "max": {"cpu": "1"}, "default": {"cpu": "500m"}}]}});
    assert_eq!(api.post("/api/v1/namespaces/default/limitranges", &range).code, 201);
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "1"}}});
    assert_eq!(api.post("/api/v1/namespaces/default/resourcequotas", &quota).code, 201);
    let first = api.post(PODS, &pod("a")).body;
    assert_eq!(
        first["spec"]["containers"][0]["resources"],
        json!({"limits": {"cpu": "500m"}, "requests": {"cpu": "100m"}})
    );
    let second = api.post(PODS, &pod("b"));
    assert_eq!(
        second.message(),
        "pods \"b\" is forbidden: exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1"
    );
    let mut large = pod("c");
    large["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "2"}});
    let answer = api.post(PODS, &large);
    assert_eq!(answer.message(), "pods \"c\" is forbidden: maximum cpu usage per Container is 1, but limit is 2");
}
