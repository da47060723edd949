//! What the server keeps up by itself: owners, endpoints, namespaces that end.

use serde_json::{Value, json};

use crate::harness::{Api, NODE};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const SERVICES: &str = "/api/v1/namespaces/default/services";
const ENDPOINTS: &str = "/api/v1/namespaces/default/endpoints";
const NAMESPACES: &str = "/api/v1/namespaces";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
/// Changes that a keeper may take until all is as it should be.
const CHANGES_MAX: usize = 50;

/// Asks after every change of a collection until the answer is as it should be.
fn until<T: std::fmt::Debug>(api: &Api, path: &str, ask: impl Fn() -> T, is_good: impl Fn(&T) -> bool) -> T {
    for _ in 0..CHANGES_MAX {
        let version = api.get(path).body["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
        let answer = ask();
        if is_good(&answer) {
            return answer;
        }
        let next = format!("{path}?watch=1&timeoutSeconds=1&resourceVersion={version}");
        drop(api.watch(&next).next());
    }
    let last = ask();
    assert!(is_good(&last), "still {last:?}");
    last
}

fn slices(api: &Api, service: &str) -> Vec<Value> {
    let path = format!("{SLICES}?labelSelector=kubernetes.io%2Fservice-name%3D{service}");
    api.get(&path).body["items"].as_array().unwrap().clone()
}

#[test]
fn a_circle_of_owners_ends() {
    let api = Api::start();
    let names = ["one", "two", "three"];
    let map = |name: &str| api.post(MAPS, &json!({"metadata": {"name": name}})).body;
    let uids = names.map(|name| map(name)["metadata"]["uid"].as_str().unwrap().to_owned());
    for (at, name) in names.iter().enumerate() {
        let before = (at + 2) % 3;
        let owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": names[before], "uid": uids[before],
            "controller": true, "blockOwnerDeletion": true});
        assert_eq!(api.merge(&format!("{MAPS}/{name}"), &json!({"metadata": {"ownerReferences": [owner]}})).code, 200);
    }
    api.delete(&format!("{MAPS}/one?propagationPolicy=Foreground"));
    for name in names {
        until(&api, MAPS, || api.get(&format!("{MAPS}/{name}")).code, |code| *code == 404);
    }
}

#[test]
fn services_have_endpoints_as_long_as_they_are_there() {
    let api = Api::start();
    let service = json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
    assert_eq!(api.post(SERVICES, &service).code, 201);
    let path = format!("{ENDPOINTS}/web");
    until(&api, ENDPOINTS, || api.get(&path).code, |code| *code == 200);
    let slice = until(&api, SLICES, || slices(&api, "web"), |slices| slices.len() == 1).remove(0);
    let labels = &slice["metadata"]["labels"];
    assert_eq!(labels["endpointslice.kubernetes.io/managed-by"], "endpointslice-controller.k8s.io");
    assert_eq!(slice["metadata"]["ownerReferences"][0]["kind"], "Service");
    assert_eq!(slice["endpoints"], json!([]));
    // Whoever removes what is made gets it anew.
    let name = slice["metadata"]["name"].as_str().unwrap().to_owned();
    api.delete(&format!("{SLICES}/{name}"));
    until(&api, SLICES, || slices(&api, "web"), |slices| slices.len() == 1 && slices[0]["metadata"]["name"] != name);
    // Its slices go first, and are not made anew meanwhile.
    api.delete(&format!("{SERVICES}/web?propagationPolicy=Foreground"));
    until(&api, ENDPOINTS, || api.get(&path).code, |code| *code == 404);
    until(&api, SLICES, || slices(&api, "web").len(), |count| *count == 0);
}

#[test]
fn endpoints_that_a_user_writes_are_mirrored() {
    let api = Api::start();
    api.post(SERVICES, &json!({"metadata": {"name": "own"}, "spec": {"ports": [{"name": "p", "port": 80}]}}));
    let ports = json!([{"port": 80}]);
    let endpoints = |ip: &str| {
        let subset = json!({"addresses": [{"ip": ip}], "ports": ports});
        json!({"metadata": {"name": "own"}, "subsets": [subset]})
    };
    assert_eq!(api.post(ENDPOINTS, &endpoints("10.1.2.3")).code, 201);
    let has = |ip: &'static str| {
        move |slices: &Vec<Value>| slices.len() == 1 && slices[0]["endpoints"][0]["addresses"] == json!([ip])
    };
    let slice = until(&api, SLICES, || slices(&api, "own"), has("10.1.2.3")).remove(0);
    assert_eq!(slice["ports"][0]["port"], 80);
    let keeper = &slice["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"];
    assert_eq!(keeper, "endpointslicemirroring-controller.k8s.io");
    let path = format!("{ENDPOINTS}/own");
    assert_eq!(api.put(&path, &endpoints("10.2.3.4")).code, 200);
    until(&api, SLICES, || slices(&api, "own"), has("10.2.3.4"));
    api.delete(&path);
    until(&api, SLICES, || slices(&api, "own").len(), |count| *count == 0);
    // Without a service they are a user's alone, also once the keeper has looked around.
    assert_eq!(api.post(ENDPOINTS, &json!({"metadata": {"name": "lone"}})).code, 201);
    let other = json!({"metadata": {"name": "other"}, "spec": {"selector": {"a": "b"}, "ports": [{"port": 80}]}});
    assert_eq!(api.post(SERVICES, &other).code, 201);
    until(&api, SLICES, || slices(&api, "other").len(), |count| *count == 1);
    assert_eq!(api.get(&format!("{ENDPOINTS}/lone")).code, 200);
}

#[test]
fn a_namespace_waits_for_the_finalizers_of_others() {
    let api = Api::start();
    let path = "/api/v1/namespaces/demo";
    api.post("/api/v1/namespaces", &json!({"metadata": {"name": "demo"}}));
    let held = json!({"metadata": {"name": "held", "finalizers": ["a.b/c"]}});
    assert_eq!(api.post(&format!("{path}/configmaps"), &held).code, 201);
    let finalizers = |names: Value| {
        let mut namespace = api.get(path).body;
        namespace["spec"] = json!({"finalizers": names});
        api.put(&format!("{path}/finalize"), &namespace).code
    };
    assert_eq!(finalizers(json!(["kubernetes", "d.e/f"])), 200);
    api.delete(path);
    let condition = |kind: &str| {
        let all = api.get(path).body["status"]["conditions"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|own| own["type"] == kind).map(|own| own["status"].as_str().unwrap().to_owned())
    };
    let is = |wanted: &'static str| move |status: &Option<String>| status.as_deref() == Some(wanted);
    until(&api, NAMESPACES, || condition("NamespaceFinalizersRemaining"), is("True"));
    until(&api, NAMESPACES, || condition("NamespaceContentRemaining"), is("True"));
    api.merge(&format!("{path}/configmaps/held"), &json!({"metadata": {"finalizers": null}}));
    until(&api, NAMESPACES, || condition("NamespaceContentRemaining"), is("False"));
    until(&api, NAMESPACES, || api.get(path).body["spec"]["finalizers"].clone(), |names| *names == json!(["d.e/f"]));
    assert_eq!(finalizers(json!([])), 200);
    until(&api, NAMESPACES, || api.get(path).code, |code| *code == 404);
}

/// DE1, GE2: as if its user had deleted it.
#[test]
fn a_pod_of_a_namespace_that_ends_is_deleted_with_its_grace() {
    let api = Api::start();
    api.post(NAMESPACES, &json!({"metadata": {"name": "demo"}}));
    let path = format!("{NAMESPACES}/demo/pods");
    let spec = json!({"nodeName": "elsewhere", "terminationGracePeriodSeconds": 9,
        "containers": [{"name": "c", "image": "i"}]});
    assert_eq!(api.post(&path, &json!({"metadata": {"name": "p"}, "spec": spec})).code, 201);
    api.delete(&format!("{NAMESPACES}/demo"));
    let metadata = || api.get(&format!("{path}/p")).body["metadata"].clone();
    let pod = until(&api, NAMESPACES, metadata, |own| own["deletionTimestamp"].is_string());
    assert_eq!((&pod["deletionGracePeriodSeconds"], &pod["generation"]), (&json!(9), &json!(2)));
}

/// The kubelet renews its Lease every ten seconds; here it is as young as that for whoever looks.
#[test]
fn the_nodes_lease_is_never_seen_old() {
    const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    const OLD: &str = "2026-01-01T00:00:00.000000Z";
    let api = Api::start();
    let lease =
        |name: &str| json!({"metadata": {"name": name}, "spec": {"renewTime": OLD, "leaseDurationSeconds": 40}});
    let grow_old = || api.merge(&format!("{LEASES}/{NODE}"), &json!({"spec": {"renewTime": OLD}}));
    assert_eq!(api.post(LEASES, &lease(NODE)).code, 201);
    assert_eq!(api.post(LEASES, &lease("another")).code, 201);
    let got = api.get(&format!("{LEASES}/{NODE}")).body;
    assert!(got["spec"]["renewTime"].as_str().unwrap() > OLD, "{got}");
    // A young one is left alone.
    assert_eq!(api.get(&format!("{LEASES}/{NODE}")).body, got);
    assert_eq!(api.get(&format!("{LEASES}/another")).body["spec"]["renewTime"], OLD);
    grow_old();
    let listed = api.get(LEASES).body["items"].as_array().unwrap().clone();
    let mine = listed.iter().find(|lease| lease["metadata"]["name"] == NODE).unwrap();
    assert!(mine["spec"]["renewTime"].as_str().unwrap() > OLD, "{mine}");
    let version = grow_old().body["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let mut feed = api.watch(&format!("{LEASES}?watch=1&resourceVersion={version}"));
    let event = feed.next().unwrap();
    assert_eq!((&event["type"], &event["object"]["metadata"]["name"]), (&json!("MODIFIED"), &json!(NODE)));
    assert!(event["object"]["spec"]["renewTime"].as_str().unwrap() > OLD, "{event}");
}
