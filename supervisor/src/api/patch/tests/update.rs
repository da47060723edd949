use jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::patch::*;

fn by(name: &str, second: i64) -> Manager<'_> {
    let now = Timestamp::from_second(1_800_000_000 + second).unwrap();
    Manager { name, api_version: "v1", subresource: "", now }
}

fn fields(object: &Value, index: usize) -> &Value {
    &object["metadata"]["managedFields"][index]["fieldsV1"]
}

/// A recorded pod: who creates it owns its defaults, too.
#[test]
fn the_creator_owns_what_is_set() {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "h", "namespace": "web", "labels": {"app": "h"}},
        "spec": {
            "containers": [{"name": "c", "image": "busybox", "command": ["sh"], "resources": {}, "imagePullPolicy": "Always",
                            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}],
            "restartPolicy": "Always", "terminationGracePeriodSeconds": 1, "dnsPolicy": "ClusterFirst",
            "securityContext": {}, "schedulerName": "default-scheduler", "enableServiceLinks": true,
        },
        "status": {"phase": "Pending"},
    });
    let created = managed_update("pods", None, pod, &by("curl", 0));
    assert_eq!(
        created["metadata"]["managedFields"],
        json!([{
            "manager": "curl", "operation": "Update", "apiVersion": "v1", "time": "2027-01-15T08:00:00Z", "fieldsType": "FieldsV1",
            "fieldsV1": {"f:metadata": {"f:labels": {".": {}, "f:app": {}}}, "f:spec": {"f:containers": {"k:{\"name\":\"c\"}":
                {".": {}, "f:command": {}, "f:image": {}, "f:imagePullPolicy": {}, "f:name": {}, "f:resources": {},
                 "f:terminationMessagePath": {}, "f:terminationMessagePolicy": {}}}, "f:dnsPolicy": {}, "f:enableServiceLinks": {},
                 "f:restartPolicy": {}, "f:schedulerName": {}, "f:securityContext": {}, "f:terminationGracePeriodSeconds": {}}},
        }])
    );
}

#[test]
fn an_update_takes_what_it_changes_and_nothing_else() {
    let map = |data: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": data});
    let one = managed_update("configmaps", None, map(json!({"a": "1", "b": "1"})), &by("x", 0));
    let two = managed_update("configmaps", Some(&one), map(json!({"a": "2", "c": "1"})), &by("y", 1));
    assert_eq!(fields(&two, 0), &json!({"f:data": {}}));
    assert_eq!(fields(&two, 1), &json!({"f:data": {"f:a": {}, "f:c": {}}}));
    let three = managed_update("configmaps", Some(&two), map(json!({"a": "2", "c": "1"})), &by("z", 2));
    assert_eq!(three["metadata"]["managedFields"], two["metadata"]["managedFields"]);
    // The client sends back what it was given.
    let mut same = two.clone();
    same["data"]["a"] = "3".into();
    let four = managed_update("configmaps", Some(&two), same, &by("y", 9));
    assert_eq!(four["metadata"]["managedFields"][1]["time"], "2027-01-15T08:00:09Z");
    assert_eq!(fields(&four, 1), fields(&two, 1));
}

#[test]
fn a_status_has_an_entry_of_its_own() {
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n"}, "status": {}});
    let one = managed_update("pods", None, pod, &by("x", 0));
    let mut changed = one.clone();
    changed["status"] = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
    changed["spec"]["nodeName"] = "ignored".into();
    let status = Manager { subresource: "status", ..by("kubelet", 1) };
    let two = managed_update("pods", Some(&one), changed, &status);
    let entry = &two["metadata"]["managedFields"][0];
    assert_eq!((&entry["manager"], &entry["subresource"]), (&json!("kubelet"), &json!("status")));
    let expected = json!({"f:status": {"f:conditions": {".": {}, "k:{\"type\":\"Ready\"}": {".": {}, "f:status": {}, "f:type": {}}},
                                       "f:phase": {}}});
    assert_eq!(entry["fieldsV1"], expected);
}

#[test]
fn the_oldest_updates_are_put_together() {
    let map = |n: usize| {
        let data: serde_json::Map<String, Value> = (0..n).map(|i| (format!("k{i}"), json!("v"))).collect();
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": data})
    };
    let mut live = managed_update("configmaps", None, map(1), &by("m0", 0));
    for i in 1..15 {
        let name = format!("m{i}");
        live = managed_update("configmaps", Some(&live), map(i + 1), &by(&name, i64::try_from(i).unwrap()));
    }
    let entries = live["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(entries.len(), UPDATE_MANAGERS_MAX);
    assert_eq!(entries[0]["manager"], ANCIENT);
    assert_eq!(entries[0]["fieldsV1"]["f:data"].as_object().unwrap().len(), 7);
    assert_eq!(entries[0]["time"], "2027-01-15T08:00:05Z");
}

#[test]
fn one_empty_entry_forgets_all_managers() {
    let map = |managed: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "managedFields": managed}, "data": {"a": "1"}});
    let one = managed_update("configmaps", None, map(json!([])), &by("x", 0));
    assert!(one["metadata"]["managedFields"].is_array());
    let kept = managed_update("configmaps", Some(&one), map(json!([])), &by("x", 1));
    assert_eq!(kept["metadata"]["managedFields"], one["metadata"]["managedFields"]);
    let reset = managed_update("configmaps", Some(&one), map(json!([{}])), &by("x", 1));
    assert_eq!(reset["metadata"].get("managedFields"), None);
    // Nobody is remembered until somebody applies.
    let mut changed = reset.clone();
    changed["data"]["a"] = "2".into();
    assert_eq!(managed_update("configmaps", Some(&reset), changed.clone(), &by("x", 2)), changed);
}

#[test]
fn malformed_entries_lock_nothing() {
    for broken in [
        json!([{"manager": "x"}]),
        json!([{"manager": "x", "operation": "Update", "fieldsV1": {"data": {}}}]),
        json!([{"manager": "x", "operation": "Update", "fieldsV1": {"k:{": {}}}]),
        json!([{"manager": 1, "operation": "Update"}]),
        json!(["x"]),
    ] {
        let live = json!({"apiVersion": "v1", "metadata": {"name": "m", "managedFields": broken}, "data": {"a": "1"}});
        let applied =
            apply("configmaps", Some(&live), &json!({"apiVersion": "v1", "data": {"b": "1"}}), &by("a", 0), false);
        assert_eq!(applied.unwrap()["data"], json!({"a": "1", "b": "1"}));
    }
}
