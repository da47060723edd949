use serde_json::{Value, json};

use super::*;

const NOW: &str = "2026-11-21T10:00:00Z";
const CREATED: &str = "2026-11-21T09:58:20Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

fn cells_of(resource: &str, mut object: Value) -> Vec<Value> {
    object["metadata"]["name"] = "a".into();
    object["metadata"]["creationTimestamp"] = CREATED.into();
    let table = table(resource, [&object], json!({}), now(), Include::None);
    let columns = table["columnDefinitions"].as_array().unwrap().len();
    let cells = table["rows"][0]["cells"].as_array().unwrap().clone();
    assert_eq!(cells.len(), columns, "{resource}");
    cells
}

fn pod(containers: usize, init: Value, status: Value) -> [String; 3] {
    let spec = json!({"containers": vec![json!({"name": "c"}); containers], "initContainers": init});
    let cells = cells_of("pods", json!({"metadata": {}, "spec": spec, "status": status}));
    [1, 2, 3].map(|i: usize| cells[i].as_str().unwrap().to_owned())
}

fn waiting(reason: &str) -> Value {
    json!({"waiting": {"reason": reason}})
}

fn ended(reason: &str, code: i32) -> Value {
    json!({"terminated": {"reason": reason, "exitCode": code}})
}

fn running() -> Value {
    json!({"running": {}})
}

/// Section 1.6
#[test]
fn the_status_of_a_pod_is_read_off_its_containers() {
    let plain = json!([{"name": "i"}, {"name": "j"}]);
    let sidecar = json!([{"name": "i", "restartPolicy": "Always"}]);
    let none = json!([]);
    let ready = json!([{"type": "Ready", "status": "True"}]);
    for (containers, init, status, expected) in [
        (1, &none, json!({"phase": "Pending"}), ["0/1", "Pending", "0"]),
        (1, &none, json!({"phase": "Failed", "reason": "Evicted"}), ["0/1", "Evicted", "0"]),
        (
            1,
            &none,
            json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "reason": "SchedulingGated"}]}),
            ["0/1", "SchedulingGated", "0"],
        ),
        (
            2,
            &none,
            json!({"phase": "Running", "containerStatuses": [
                {"state": running(), "ready": true, "restartCount": 0},
                {"state": waiting("CrashLoopBackOff"), "restartCount": 6,
                 "lastState": {"terminated": {"finishedAt": "2026-11-21T09:56:10Z"}}},
            ]}),
            ["1/2", "CrashLoopBackOff", "6 (3m50s ago)"],
        ),
        (
            2,
            &none,
            json!({"phase": "Running", "conditions": ready, "containerStatuses": [
                {"state": ended("Completed", 0)}, {"state": running(), "ready": true}]}),
            ["1/2", "Running", "0"],
        ),
        (
            2,
            &none,
            json!({"phase": "Running", "containerStatuses": [
                {"state": ended("Completed", 0)}, {"state": running(), "ready": true}]}),
            ["1/2", "NotReady", "0"],
        ),
        (
            1,
            &none,
            json!({"containerStatuses": [{"state": {"terminated": {"exitCode": 3}}}]}),
            ["0/1", "ExitCode:3", "0"],
        ),
        (
            1,
            &none,
            json!({"containerStatuses": [{"state": {"terminated": {"exitCode": 137, "signal": 9}}}]}),
            ["0/1", "Signal:9", "0"],
        ),
        (
            1,
            &plain,
            json!({"phase": "Pending", "initContainerStatuses": [
                {"name": "i", "state": ended("Completed", 0), "restartCount": 2}, {"name": "j", "state": running(), "restartCount": 1}]}),
            ["0/1", "Init:1/2", "3"],
        ),
        (
            1,
            &plain,
            json!({"initContainerStatuses": [{"name": "i", "state": waiting("CrashLoopBackOff")}]}),
            ["0/1", "Init:CrashLoopBackOff", "0"],
        ),
        (
            1,
            &plain,
            json!({"initContainerStatuses": [{"name": "i", "state": ended("Error", 1)}]}),
            ["0/1", "Init:Error", "0"],
        ),
        (
            1,
            &sidecar,
            json!({"phase": "Running", "conditions": ready,
                   "initContainerStatuses": [{"name": "i", "started": true, "ready": true, "state": running(), "restartCount": 2}],
                   "containerStatuses": [{"state": running(), "ready": true, "restartCount": 1}]}),
            ["2/2", "Running", "3"],
        ),
    ] {
        assert_eq!(pod(containers, init.clone(), status.clone()), expected, "{status}");
    }
}

#[test]
fn a_pod_that_is_deleted_is_terminating_unless_it_is_over() {
    for (phase, reason, expected) in
        [("Running", "", "Terminating"), ("Running", "NodeLost", "Unknown"), ("Succeeded", "", "Succeeded")]
    {
        let object =
            json!({"metadata": {"deletionTimestamp": NOW}, "spec": {}, "status": {"phase": phase, "reason": reason}});
        assert_eq!(cells_of("pods", object)[2], expected);
    }
}

/// KC5, and what a recorded Table of pods looks like.
#[test]
fn a_row_carries_its_conditions_and_metadata() {
    let pod = json!({
        "metadata": {"name": "h", "creationTimestamp": CREATED, "resourceVersion": "7"},
        "spec": {"nodeName": "node1", "containers": [{}], "readinessGates": [{"conditionType": "x"}]},
        "status": {"phase": "Succeeded", "podIPs": [{"ip": "10.0.0.2"}]},
    });
    let got = table("pods", [&pod], json!({"resourceVersion": "9"}), now(), Include::Metadata);
    assert_eq!(got["kind"], "Table");
    assert_eq!(got["metadata"], json!({"resourceVersion": "9"}));
    assert_eq!(
        got["rows"][0],
        json!({
            "cells": ["h", "0/1", "Succeeded", "0", "100s", "10.0.0.2", "node1", "<none>", "0/1"],
            "conditions": [{"type": "Completed", "status": "True", "reason": "Succeeded", "message": "The pod has completed successfully."}],
            "object": {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": pod["metadata"]},
        })
    );
    let second = watched("pods", &pod, now(), Include::Object, false);
    assert_eq!((&second["columnDefinitions"], &second["rows"][0]["object"]), (&Value::Null, &pod));
    assert_eq!(Include::parse("None"), Ok(Include::None));
    assert!(Include::parse("x").is_err());
}

#[test]
fn events_show_when_what_and_who() {
    let core = json!({
        "involvedObject": {"kind": "Pod", "name": "h", "fieldPath": "spec.containers{c}"}, "reason": "Pulling",
        "type": "Normal", "message": "Pulling image \"busybox\"\n", "source": {"component": "kubelet", "host": "node1"},
        "firstTimestamp": "2026-11-21T09:59:00Z", "lastTimestamp": "2026-11-21T09:59:49Z", "count": 3,
    });
    let expected = json!([
        "11s",
        "Normal",
        "Pulling",
        "pod/h",
        "spec.containers{c}",
        "kubelet, node1",
        "Pulling image \"busybox\"",
        "60s",
        3,
        "a"
    ]);
    assert_eq!(Value::Array(cells_of("events", core)), expected);
    let new = json!({
        "regarding": {"kind": "Pod", "name": "h"}, "reason": "Scheduled", "type": "Normal", "note": "ok",
        "reportingController": "default-scheduler", "reportingInstance": "default-scheduler-node1",
        "eventTime": "2026-11-21T09:59:49.123456Z",
    });
    let expected = json!([
        "11s",
        "Normal",
        "Scheduled",
        "pod/h",
        "",
        "default-scheduler, default-scheduler-node1",
        "ok",
        "11s",
        1,
        "a"
    ]);
    assert_eq!(Value::Array(cells_of("events.events.k8s.io", new)), expected);
}

#[test]
fn every_resource_has_its_cells() {
    for (resource, object, expected) in [
        ("configmaps", json!({"data": {"x": ""}, "binaryData": {"y": ""}}), json!(["a", 2, "100s"])),
        ("secrets", json!({"type": "Opaque", "data": {"x": ""}}), json!(["a", "Opaque", 1, "100s"])),
        ("namespaces", json!({"status": {"phase": "Active"}}), json!(["a", "Active", "100s"])),
        ("serviceaccounts", json!({}), json!(["a", 0, "100s"])),
        (
            "nodes",
            json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "x"}},
                   "spec": {"unschedulable": true},
                   "status": {"conditions": [{"type": "Ready", "status": "True"}],
                              "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
                              "nodeInfo": {"kubeletVersion": "v1.36.0", "osImage": "Debian", "kernelVersion": "6.18"}}}),
            json!([
                "a",
                "Ready,SchedulingDisabled",
                "control-plane,x",
                "100s",
                "v1.36.0",
                "10.0.0.1",
                "<none>",
                "Debian",
                "6.18",
                "<unknown>"
            ]),
        ),
        (
            "services",
            json!({"spec": {"type": "NodePort", "clusterIP": "10.96.0.1", "selector": {"a": "b"},
                            "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}}),
            json!(["a", "NodePort", "10.96.0.1", "<none>", "80:30080/TCP,53/UDP", "100s", "a=b"]),
        ),
        (
            "services",
            json!({"spec": {"type": "LoadBalancer"}}),
            json!(["a", "LoadBalancer", "<none>", "<pending>", "<none>", "100s", "<none>"]),
        ),
        (
            "endpoints",
            json!({"subsets": [{"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}, {"ip": "10.0.0.3"}, {"ip": "10.0.0.4"}], "ports": [{"port": 80}]}]}),
            json!(["a", "10.0.0.1:80,[fd00::1]:80,10.0.0.3:80 + 1 more...", "100s"]),
        ),
        ("endpoints", json!({}), json!(["a", "<none>", "100s"])),
        (
            "endpointslices.discovery.k8s.io",
            json!({"addressType": "IPv4", "ports": [{"port": 80}, {}], "endpoints": [{"addresses": ["10.0.0.1"]}]}),
            json!(["a", "IPv4", "80,*", "10.0.0.1", "100s"]),
        ),
        (
            "persistentvolumes",
            json!({"spec": {"capacity": {"storage": "64Mi"}, "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Retain",
                            "claimRef": {"namespace": "default", "name": "my-pvc"}, "volumeMode": "Filesystem"},
                   "status": {"phase": "Released"}}),
            json!([
                "a",
                "64Mi",
                "RWO",
                "Retain",
                "Released",
                "default/my-pvc",
                "",
                "<unset>",
                "",
                "100s",
                "Filesystem"
            ]),
        ),
        (
            "persistentvolumeclaims",
            json!({"spec": {"volumeName": "pv1", "storageClassName": "x"},
                   "status": {"phase": "Bound", "capacity": {"storage": "64Mi"}, "accessModes": ["ReadWriteMany", "ReadWriteOnce"]}}),
            json!(["a", "Bound", "pv1", "64Mi", "RWO,RWX", "x", "<unset>", "100s", "<unset>"]),
        ),
        (
            "storageclasses.storage.k8s.io",
            json!({"provisioner": "p", "metadata": {"annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}}),
            json!(["a (default)", "p", "Delete", "Immediate", false, "100s"]),
        ),
        (
            "podtemplates",
            json!({"template": {"metadata": {"labels": {"x": "y"}}, "spec": {"containers": [{"name": "c", "image": "i"}, {"name": "d", "image": "j"}]}}}),
            json!(["a", "c,d", "i,j", "x=y"]),
        ),
        ("leases.coordination.k8s.io", json!({"spec": {"holderIdentity": "n"}}), json!(["a", "n", "100s"])),
        (
            "priorityclasses.scheduling.k8s.io",
            json!({"value": 7, "preemptionPolicy": "Never"}),
            json!(["a", 7, false, "100s", "Never"]),
        ),
        ("runtimeclasses.node.k8s.io", json!({"handler": "h"}), json!(["a", "h", "100s"])),
        (
            "resourcequotas",
            json!({"status": {"hard": {"pods": "4", "limits.cpu": "1"}, "used": {"pods": "2"}}}),
            json!(["a", "pods: 2/4", "limits.cpu: 0/1", "100s"]),
        ),
        ("limitranges", json!({}), json!(["a", CREATED])),
        (
            "deployments.apps",
            json!({}),
            json!(["a", "<none>", "<none>", "<none>", "100s", "<none>", "<none>", "<none>"]),
        ),
    ] {
        let got = if resource == "storageclasses.storage.k8s.io" {
            let mut object = object;
            object["metadata"]["name"] = "a".into();
            object["metadata"]["creationTimestamp"] = CREATED.into();
            super::cells(resource, columns::of(resource), &object, now())
        } else {
            cells_of(resource, object)
        };
        assert_eq!(Value::Array(got), expected, "{resource}");
    }
}

/// The columns that a recorded `kubectl get` printed.
#[test]
fn the_columns_are_those_of_the_api_server() {
    let shown = |resource: &str, is_wide: bool| {
        let table = table(resource, [], json!({}), now(), Include::Metadata);
        let columns = table["columnDefinitions"].as_array().unwrap().clone();
        let columns = columns.iter().filter(|column| is_wide || column["priority"] == 0);
        columns.map(|column| column["name"].as_str().unwrap().to_uppercase()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(shown("pods", false), "NAME READY STATUS RESTARTS AGE");
    assert_eq!(shown("pods", true), "NAME READY STATUS RESTARTS AGE IP NODE NOMINATED NODE READINESS GATES");
    assert_eq!(shown("events", false), "LAST SEEN TYPE REASON OBJECT MESSAGE");
    assert_eq!(shown("deployments.apps", false), "NAME READY UP-TO-DATE AVAILABLE AGE");
    assert_eq!(
        shown("nodes", true),
        "NAME STATUS ROLES AGE VERSION INTERNAL-IP EXTERNAL-IP OS-IMAGE KERNEL-VERSION CONTAINER-RUNTIME"
    );
    assert_eq!(shown("services", false), "NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) AGE");
}

#[test]
fn odd_objects_have_rows_all_the_same() {
    for resource in crate::api::patch::schema::resources() {
        for object in [json!({}), json!({"metadata": [], "spec": 1, "status": "x"}), json!(null)] {
            let table = table(resource, [&object], json!({}), now(), Include::Metadata);
            let columns = table["columnDefinitions"].as_array().unwrap().len();
            assert_eq!(table["rows"][0]["cells"].as_array().unwrap().len(), columns, "{resource}");
        }
    }
}
