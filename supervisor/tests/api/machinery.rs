//! Verbs on objects that nobody runs.

use serde_json::{Value, json};

use crate::harness::Api;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "b"}})
}

#[test]
fn errors_are_told_as_the_api_server_tells_them() {
    let api = Api::start();
    api.post(MAPS, &map("h"));
    let get = |path: &str| api.get(path);
    let post = |body: Value| api.post(MAPS, &body);
    let media = |media: &str, body: &str| api.send("POST", MAPS, &[("Content-Type", media)], body);
    for (answer, code, message) in [
        (get(&format!("{MAPS}/nope")), 404, "configmaps \"nope\" not found"),
        (get("/api/v1/namespaces/default/poods"), 404, "the server could not find the requested resource"),
        (api.post("/apis/nope/v1/x", &json!({})), 404, "the server could not find the requested resource"),
        (get("/apis/nope/v1"), 404, "the server could not find the requested resource"),
        (post(map("h")), 409, "configmaps \"h\" already exists"),
        (
            post(json!({"metadata": {"name": "x", "namespace": "other"}})),
            400,
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        (media("text/plain", "x"), 415, "the body of the request was in an unknown format"),
        (media("application/json", ""), 400, "the object provided is unrecognized (must be of type ConfigMap)"),
        (api.put(MAPS, &json!({})), 405, "the server does not allow this method on the requested resource"),
        (api.post(&format!("{MAPS}/h"), &json!({})), 405, "the server does not allow this method"),
        (
            api.put(&format!("{MAPS}/h"), &map("other")),
            400,
            "the name of the object (other) does not match the name on the URL (h)",
        ),
        (get(&format!("{MAPS}?limit=x")), 400, "strconv.ParseInt: parsing \"x\": invalid syntax"),
        (get(&format!("{MAPS}?continue=broken")), 400, "invalid continue token"),
        (get("/version?timeout=invalid"), 400, "invalid timeout specified in the request URL"),
        (get(&format!("{MAPS}/h?resourceVersion=999999")), 504, "Too large resource version: 999999, current: "),
        (
            api.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &json!({"spec": {}})),
            422,
            "SelfSubjectAccessReview.authorization.k8s.io \"\" is invalid: spec.resourceAttributes: Invalid value: null: exactly",
        ),
        (get(&format!("{MAPS}?resourceVersion=999999")), 504, "Too large resource version: 999999, current: "),
        (
            get(&format!("{MAPS}?resourceVersion=0&resourceVersionMatch=Exact")),
            422,
            "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is",
        ),
        (api.post("/api/v1/namespaces/nope/configmaps", &map("x")), 404, "namespaces \"nope\" not found"),
        (
            api.post("/apis/apps/v1/namespaces/default/deployments", &json!({"metadata": {"name": "d"}})),
            403,
            "deployments.apps \"d\" is forbidden: Monopod runs Pods",
        ),
        (api.delete("/api/v1/namespaces/default"), 403, "namespaces \"default\" is forbidden: this namespace may not"),
    ] {
        assert_eq!((answer.code, answer.message().starts_with(message)), (code, true), "{answer:?}");
    }
}

#[test]
fn versions_guard_updates() {
    // UP6, UP9
    let api = Api::start();
    let first = api.post(MAPS, &map("h")).body;
    let changed = api.merge(&format!("{MAPS}/h"), &json!({"data": {"a": "c"}})).body;
    assert_ne!(first["metadata"]["resourceVersion"], changed["metadata"]["resourceVersion"]);
    let stale = api.put(&format!("{MAPS}/h"), &first);
    let expected = "Operation cannot be fulfilled on configmaps \"h\": the object has been modified; please apply your changes to the latest version and try again";
    assert_eq!((stale.code, stale.message()), (409, expected));
    assert_eq!(api.put(&format!("{MAPS}/h"), &map("h")).body["data"], json!({"a": "b"}));
    assert_eq!(api.put(&format!("{MAPS}/x"), &map("x")).code, 404);
}

#[test]
fn a_change_that_changes_nothing_has_no_new_version() {
    let api = Api::start();
    let first = api.post(MAPS, &map("h")).body;
    let again = api.merge(&format!("{MAPS}/h"), &json!({"data": {"a": "b"}})).body;
    assert_eq!(first["metadata"]["resourceVersion"], again["metadata"]["resourceVersion"]);
}

#[test]
fn dry_runs_store_nothing() {
    let api = Api::start();
    assert_eq!(api.post(&format!("{MAPS}?dryRun=All"), &map("h")).code, 201);
    assert_eq!(api.get(&format!("{MAPS}/h")).code, 404);
    api.post(MAPS, &map("h"));
    let path = format!("{MAPS}/h?dryRun=All");
    assert_eq!(api.merge(&path, &json!({"data": {"a": "c"}})).body["data"]["a"], "c");
    assert_eq!(api.delete(&path).code, 200);
    assert_eq!(api.get(&format!("{MAPS}/h")).body["data"]["a"], "b");
    assert_eq!(api.delete(&format!("{MAPS}/h?dryRun=Some")).code, 400);
}

#[test]
fn pages_hold_everything_once() {
    let api = Api::start();
    for index in 0..7 {
        api.post(MAPS, &map(&format!("m{index}")));
    }
    let mut names = Vec::new();
    let mut next = String::new();
    loop {
        let page = api.get(&format!("{MAPS}?limit=3&continue={next}")).body;
        let items = page["items"].as_array().unwrap().clone();
        assert!(items.len() <= 3);
        names.extend(items.iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()));
        match page["metadata"]["continue"].as_str() {
            Some(token) => next = token.to_owned(),
            None => break,
        }
    }
    assert_eq!(names, ["kube-root-ca.crt", "m0", "m1", "m2", "m3", "m4", "m5", "m6"]);
}

#[test]
fn generated_names_differ() {
    // VA1
    let api = Api::start();
    let body = json!({"metadata": {"generateName": "job-"}});
    let name = || api.post(MAPS, &body).body["metadata"]["name"].as_str().unwrap().to_owned();
    let (one, other) = (name(), name());
    assert!(one.starts_with("job-") && one.len() == 9 && one != other);
}

#[test]
fn finalizers_keep_an_object_until_they_are_gone() {
    // DE4, DE6
    let api = Api::start();
    let path = format!("{MAPS}/h");
    let mut held = map("h");
    held["metadata"]["finalizers"] = json!(["a.b/c"]);
    api.post(MAPS, &held);
    let marked = api.delete(&path);
    assert!(marked.body["metadata"]["deletionTimestamp"].is_string());
    let more = api.merge(&path, &json!({"metadata": {"finalizers": ["a.b/c", "d.e/f"]}}));
    assert_eq!((more.code, more.message().contains("no new finalizers can be added")), (422, true));
    assert_eq!(api.merge(&path, &json!({"metadata": {"finalizers": null}})).code, 200);
    assert_eq!(api.get(&path).code, 404);
}

#[test]
fn preconditions_hold_or_nothing_is_deleted() {
    // DE5
    let api = Api::start();
    api.post(MAPS, &map("h"));
    let path = format!("{MAPS}/h");
    let json_body = [("Content-Type", "application/json")];
    let answer = api.send("DELETE", &path, &json_body, r#"{"preconditions":{"uid":"x"}}"#);
    assert_eq!(answer.code, 409);
    assert!(answer.message().starts_with(
        "Operation cannot be fulfilled on ConfigMap \"h\": the UID in the precondition (x) does not match the UID in record ("
    ));
    assert_eq!(api.get(&path).code, 200);
    let gone = api.delete(&path).body;
    assert_eq!((&gone["status"], &gone["details"]["kind"]), (&json!("Success"), &json!("configmaps")));
}

#[test]
fn field_validation_is_the_clients_choice() {
    // VA12
    let api = Api::start();
    let body = json!({"metadata": {"name": "h"}, "nope": 1});
    let strict = api.post(&format!("{MAPS}?fieldValidation=Strict"), &body);
    let expected =
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown field \"nope\"";
    assert_eq!((strict.code, strict.message()), (400, expected));
    let warned = api.post(MAPS, &body);
    assert_eq!((warned.code, warned.header("warning")), (201, vec!["299 - \"unknown field \\\"nope\\\"\""]));
    assert!(warned.body.get("nope").is_none());
    let wrong = api.post(MAPS, &json!({"metadata": {"name": 5}}));
    assert_eq!(
        wrong.message(),
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal number into Go struct field ConfigMap.metadata.name of type string"
    );
}

#[test]
fn hostile_names_and_labels_are_refused() {
    let api = Api::start();
    for name in ["../x", "a/b", "A", &"a".repeat(254), "x\u{0}y", "-"] {
        assert_eq!(api.post(MAPS, &map(name)).code, 422, "{name:?}");
    }
    let mut labelled = map("h");
    labelled["metadata"]["labels"] = json!({"a b": "c"});
    assert_eq!(api.post(MAPS, &labelled).code, 422);
    let deep = format!("{}{}", "{\"data\":".repeat(2000), "}".repeat(2000));
    assert_eq!(api.send("POST", MAPS, &[("Content-Type", "application/json")], deep).code, 400);
    assert_eq!(api.get(MAPS).body["items"].as_array().unwrap().len(), 1);
}

#[test]
fn a_deleted_namespace_is_emptied_and_goes() {
    let api = Api::start();
    api.post("/api/v1/namespaces", &json!({"metadata": {"name": "demo"}}));
    let maps = "/api/v1/namespaces/demo/configmaps";
    let mut held = map("held");
    held["metadata"]["finalizers"] = json!(["a.b/c"]);
    assert_eq!(api.post(maps, &held).code, 201);
    assert_eq!(api.post(maps, &map("free")).code, 201);
    let mut feed = api.watch("/api/v1/namespaces?watch=1&fieldSelector=metadata.name%3Ddemo");
    assert_eq!(feed.next().unwrap()["type"], "ADDED");
    assert_eq!(api.delete("/api/v1/namespaces/demo").body["status"]["phase"], "Terminating");
    let late = api.post(maps, &map("late"));
    let expected = "configmaps \"late\" is forbidden: unable to create new content in namespace demo because it is being terminated";
    assert_eq!((late.code, late.message()), (403, expected));
    assert_eq!(late.body["details"]["causes"][0]["reason"], "NamespaceTerminating");
    api.merge(&format!("{maps}/held"), &json!({"metadata": {"finalizers": null}}));
    assert!(feed.any(|event| event["type"] == "DELETED"));
    assert_eq!(api.get("/api/v1/namespaces/demo").code, 404);
    assert_eq!(api.get(maps).body["items"], json!([]));
}

#[test]
fn an_account_and_the_ca_are_in_every_namespace() {
    let api = Api::start();
    let account = "/api/v1/namespaces/kube-system/serviceaccounts/default";
    let mut feed = api.watch("/api/v1/namespaces/kube-system/serviceaccounts?watch=1");
    assert_eq!(feed.next().unwrap()["object"]["metadata"]["name"], "default");
    api.delete(account);
    assert!(feed.any(|event| event["type"] == "DELETED"));
    assert_eq!(feed.next().unwrap()["type"], "ADDED");
    let ca = api.get("/api/v1/namespaces/default/configmaps/kube-root-ca.crt").body;
    assert!(ca["data"]["ca.crt"].as_str().unwrap().starts_with("-----BEGIN CERTIFICATE-----"));
}

#[test]
fn services_get_addresses_that_nobody_else_has() {
    let api = Api::start();
    let services = "/api/v1/namespaces/default/services";
    let service = |name: &str, spec: Value| api.post(services, &json!({"metadata": {"name": name}, "spec": spec}));
    let port = json!([{"port": 80}]);
    let one = service("one", json!({"ports": port, "type": "NodePort"})).body;
    let address = one["spec"]["clusterIP"].as_str().unwrap();
    assert!(address.starts_with("10.43."));
    assert!((30_000..=32_767).contains(&one["spec"]["ports"][0]["nodePort"].as_i64().unwrap()));
    let taken = service("two", json!({"ports": port, "clusterIP": address}));
    assert!(taken.message().ends_with("provided IP is already allocated"), "{taken:?}");
    assert_eq!(service("head", json!({"ports": port, "clusterIP": "None"})).body["spec"]["clusterIP"], "None");
    let moved = api.merge(&format!("{services}/one"), &json!({"spec": {"clusterIP": "10.43.0.99"}}));
    assert!(moved.message().contains("may not change once set"), "{moved:?}");
    let kept = api.merge(&format!("{services}/one"), &json!({"spec": {"ports": [{"port": 80, "name": "x"}]}})).body;
    assert_eq!(kept["spec"]["clusterIP"], address);
}

#[test]
fn events_have_two_views() {
    let api = Api::start();
    let event = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "namespace": "default"},
        "message": "m", "reason": "R", "type": "Normal", "count": 3});
    assert_eq!(api.post("/api/v1/namespaces/default/events", &event).code, 201);
    let view = api.get("/apis/events.k8s.io/v1/namespaces/default/events/e").body;
    assert_eq!((&view["note"], &view["deprecatedCount"]), (&json!("m"), &json!(3)));
    let other = json!({"metadata": {"name": "f"}, "note": "n", "reason": "R", "type": "Normal", "action": "a",
        "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "c", "reportingInstance": "i"});
    assert_eq!(api.post("/apis/events.k8s.io/v1/namespaces/default/events", &other).code, 201);
    assert_eq!(api.get("/api/v1/namespaces/default/events/f").body["message"], "n");
}

#[test]
fn objects_outlive_the_server() {
    let api = Api::start();
    let before = api.post(MAPS, &map("h")).body;
    let api = api.restart();
    assert_eq!(api.get(&format!("{MAPS}/h")).body, before);
}

#[test]
fn server_side_apply_makes_changes_and_finds_conflicts() {
    let api = Api::start();
    let path = format!("{MAPS}/h");
    let apply = |manager: &str, value: &str, force: &str| {
        let body = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: h}}\ndata: {{a: {value}}}\n");
        let query = format!("{path}?fieldManager={manager}{force}");
        api.send("PATCH", &query, &[("Content-Type", "application/apply-patch+yaml")], body)
    };
    assert_eq!(apply("one", "x", "").code, 201);
    assert_eq!(apply("one", "w", "").body["data"]["a"], "w");
    let conflict = apply("two", "z", "");
    assert_eq!(
        (conflict.code, conflict.message()),
        (409, "Apply failed with 1 conflict: conflict with \"one\": .data.a")
    );
    assert_eq!(apply("two", "z", "&force=true").body["data"]["a"], "z");
    let nobody = api.send("PATCH", &path, &[("Content-Type", "application/apply-patch+yaml")], "{}");
    assert_eq!(nobody.code, 422);
}

/// Neither `create` nor server-side apply stores what nothing acts on; mistakes in fields are told first.
#[test]
fn what_nothing_acts_on_is_refused_in_every_way() {
    let api = Api::start();
    for (place, kind, refusal) in [
        (
            "/apis/apps/v1/namespaces/default/deployments",
            "Deployment",
            "Monopod runs Pods, not Deployments: create the",
        ),
        ("/apis/batch/v1/namespaces/default/jobs", "Job", "Monopod runs Pods, not Jobs: create the Pod"),
        (
            "/apis/policy/v1/namespaces/default/poddisruptionbudgets",
            "PodDisruptionBudget",
            "Monopod runs Pods, not Pod",
        ),
        (
            "/apis/networking.k8s.io/v1/namespaces/default/ingresses",
            "Ingress",
            "Monopod runs Pods, not Ingresses: noth",
        ),
    ] {
        let version = place.strip_prefix("/apis/").unwrap().split("/namespaces").next().unwrap();
        let object = json!({"apiVersion": version, "kind": kind, "metadata": {"name": "x"}});
        let wrong = json!({"apiVersion": version, "kind": kind, "metadata": {"name": "x", "nope": 1}}).to_string();
        let apply = |body: &str, query: &str| {
            let path = format!("{place}/x?fieldManager=m{query}");
            api.send("PATCH", &path, &[("Content-Type", "application/apply-patch+yaml")], body)
        };
        for answer in [api.post(place, &object), apply(&object.to_string(), "")] {
            assert_eq!((answer.code, answer.message().contains(refusal)), (403, true), "{answer:?}");
        }
        assert_eq!(apply(&wrong, "&fieldValidation=Strict").code, 400);
        assert_eq!(api.put(&format!("{place}/x"), &object).code, 404);
        assert_eq!(api.get(place).body["items"], json!([]));
    }
}

#[test]
fn a_condition_without_a_time_is_stored_with_null() {
    let api = Api::start();
    let services = "/api/v1/namespaces/default/services";
    api.post(services, &json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}}));
    let condition = json!({"type": "T", "status": "True", "reason": "R", "message": "", "lastTransitionTime": null});
    let patch = json!({"status": {"conditions": [condition]}});
    let answer = api.merge(&format!("{services}/s/status"), &patch);
    assert_eq!(answer.body["status"]["conditions"][0], condition, "{answer:?}");
    let answer = api.merge(&format!("{services}/s"), &json!({"metadata": {"labels": {"a": null, "b": ""}}}));
    assert_eq!((answer.code, &answer.body["status"]["conditions"][0]), (200, &condition), "{answer:?}");
}

#[test]
fn priority_classes_of_the_system_stay_and_one_is_the_default() {
    let api = Api::start();
    let classes = "/apis/scheduling.k8s.io/v1/priorityclasses";
    let class = |name: &str| json!({"metadata": {"name": name}, "value": 5, "globalDefault": true});
    assert_eq!(api.post(classes, &class("a")).code, 201);
    let one = |name: &str| format!("{classes}/{name}");
    let marked = "is forbidden: PriorityClass a is already marked as default. Only one default can exist";
    for (answer, code, text) in [
        (api.post(classes, &class("b")), 403, marked),
        (api.merge(&one("a"), &json!({"value": 6})), 422, "value: Forbidden: may not be changed in an update."),
        (
            api.merge(&one("a"), &json!({"preemptionPolicy": "Never"})),
            422,
            "preemptionPolicy: Invalid value: \"Never\": field is immutable",
        ),
        (api.delete(&one("system-node-critical")), 403, "this is a system priority class and cannot be deleted"),
        (api.merge(&one("a"), &json!({"description": "d"})), 200, ""),
        (api.merge(&one("system-node-critical"), &json!({"metadata": {"labels": {"a": "b"}}})), 200, ""),
    ] {
        assert!(answer.code == code && (text.is_empty() || answer.message().contains(text)), "{answer:?}");
    }
}

#[test]
fn the_default_storage_class_is_there_and_storage_is_kept_while_it_is_used() {
    let api = Api::start();
    let class = api.get("/apis/storage.k8s.io/v1/storageclasses/local").body;
    assert_eq!(class["metadata"]["annotations"]["storageclass.kubernetes.io/is-default-class"], "true");
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    let claim = api.post(claims, &json!({"metadata": {"name": "c"}, "spec": spec})).body;
    assert_eq!(claim["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
}

/// Each kind's rules hold, whichever way an object is written; defaults are there when it is read.
#[test]
fn objects_of_other_kinds_are_checked_and_defaulted() {
    let api = Api::start();
    let space = |plural: &str| format!("/api/v1/namespaces/default/{plural}");
    let named = |more: Value| {
        let mut object = json!({"metadata": {"name": "x"}});
        object.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        object
    };
    let classes = "/apis/storage.k8s.io/v1/storageclasses";
    for (path, object, pointer, value) in [
        (classes, json!({"provisioner": "a/b"}), "/volumeBindingMode", "Immediate"),
        (
            "/api/v1/persistentvolumes",
            json!({"spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"}}}),
            "/spec/persistentVolumeReclaimPolicy",
            "Retain",
        ),
        (
            &space("podtemplates"),
            json!({"template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}}),
            "/template/spec/restartPolicy",
            "Always",
        ),
        (
            &space("endpoints"),
            json!({"subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]}]}),
            "/subsets/0/ports/0/protocol",
            "TCP",
        ),
    ] {
        let answer = api.post(path, &named(object));
        assert_eq!((answer.code, answer.body.pointer(pointer)), (201, Some(&json!(value))), "{answer:?}");
    }
    let owner = json!([{"apiVersion": "v1", "kind": "", "name": "a", "uid": "u"}]);
    for (answer, text) in [
        (
            api.post(&space("podtemplates"), &json!({"metadata": {"name": "y"}, "template": {"spec": {}}})),
            "template.spec.containers: Required value",
        ),
        (
            api.post(&space("configmaps"), &json!({"metadata": {"name": "y", "ownerReferences": owner}})),
            "metadata.ownerReferences.kind: Invalid value: \"\": must not be empty",
        ),
        (
            api.merge(&format!("{classes}/x"), &json!({"provisioner": "c"})),
            "provisioner: Forbidden: updates to provisioner are forbidden.",
        ),
        (
            api.merge(&format!("{classes}/x?force=true"), &json!({"metadata": {"labels": {"a": "b"}}})),
            "PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for non-apply patch",
        ),
        (
            api.post(&space("services"), &named(json!({"spec": {"ports": [{"port": 1}], "ipFamilies": ["IPv6"]}}))),
            "spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster",
        ),
        (
            api.post(
                "/apis/coordination.k8s.io/v1/namespaces/default/leases",
                &named(json!({"spec": {"leaseDurationSeconds": 0}})),
            ),
            "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
        ),
        (
            api.post(&space("limitranges"), &named(json!({"spec": {"limits": [{"type": "Odd"}]}}))),
            "spec.limits[0].type: Invalid value: \"Odd\": must be a standard limit type or fully qualified",
        ),
    ] {
        assert_eq!((answer.code, answer.message().contains(text)), (422, true), "{answer:?}");
    }
}
