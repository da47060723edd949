use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::api::patch::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn by(name: &str, second: i64) -> Manager<'_> {
    Manager { name, api_version: "v1", subresource: "", now: at(second) }
}

fn map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ssa"}, "data": data})
}

fn applied(live: Option<&Value>, config: &Value, name: &str, second: i64) -> Value {
    apply("configmaps", live, config, &by(name, second), false).unwrap()
}

fn owners(object: &Value) -> Vec<(String, Value)> {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let show =
        |entry: &Value| format!("{}/{}", entry["manager"].as_str().unwrap(), entry["operation"].as_str().unwrap());
    entries.iter().map(|entry| (show(entry), entry["fieldsV1"].clone())).collect()
}

#[test]
fn a_manager_owns_what_it_applies() {
    let object = applied(None, &map(json!({"k": "one"})), "a", 0);
    assert_eq!(
        object["metadata"]["managedFields"],
        json!([{
            "manager": "a", "operation": "Apply", "apiVersion": "v1", "time": "2027-01-15T08:00:00Z",
            "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {"f:k": {}}},
        }])
    );
}

/// The texts of a recorded server, but for the version that newer ones add for updates.
#[test]
fn a_field_of_another_manager_is_a_conflict() {
    let live = applied(None, &map(json!({"k": "one", "l": "one"})), "a", 0);
    let refuse =
        |live: &Value, data: Value| apply("configmaps", Some(live), &map(data), &by("b", 1), false).unwrap_err();
    let error = refuse(&live, json!({"k": "two"}));
    assert_eq!(error.to_string(), r#"Apply failed with 1 conflict: conflict with "a": .data.k"#);
    assert_eq!((error.code(), error.reason()), (409, "Conflict"));
    let PatchError::Conflict(causes) = &error else { panic!("{error:?}") };
    assert_eq!((causes[0].message(), causes[0].path.as_str()), (r#"conflict with "a""#.to_owned(), ".data.k"));
    let error = refuse(&live, json!({"k": "two", "l": "two"}));
    let expected = "Apply failed with 2 conflicts: conflicts with \"a\":\n- .data.k\n- .data.l";
    assert_eq!(error.to_string(), expected);

    let updated = managed_update(
        "configmaps",
        Some(&live),
        map(json!({"k": "1", "l": "one"})),
        &by("kubectl-client-side-apply", 1),
    );
    let error = refuse(&updated, json!({"k": "two"}));
    let expected = r#"Apply failed with 1 conflict: conflict with "kubectl-client-side-apply" using v1: .data.k"#;
    assert_eq!(error.to_string(), expected);

    let forced = apply("configmaps", Some(&live), &map(json!({"k": "two"})), &by("b", 1), true).unwrap();
    assert_eq!(forced["data"], json!({"k": "two", "l": "one"}));
    let expected = [
        ("a/Apply".to_owned(), json!({"f:data": {"f:l": {}}})),
        ("b/Apply".to_owned(), json!({"f:data": {"f:k": {}}})),
    ];
    assert_eq!(owners(&forced), expected);
}

#[test]
fn equal_values_are_shared_and_live_as_long_as_somebody_applies_them() {
    let one = applied(None, &map(json!({"k": "v", "own": "a"})), "a", 0);
    let two = applied(Some(&one), &map(json!({"k": "v"})), "b", 1);
    assert_eq!(owners(&two).len(), 2);
    let three = applied(Some(&two), &map(json!({})), "a", 2);
    assert_eq!(three["data"], json!({"k": "v"}));
    let four = applied(Some(&three), &map(json!({})), "b", 3);
    assert_eq!(four.get("data"), Some(&json!({})));
}

#[test]
fn the_same_configuration_again_changes_nothing() {
    let one = applied(None, &map(json!({"k": "v"})), "a", 0);
    assert_eq!(applied(Some(&one), &map(json!({"k": "v"})), "a", 100), one);
}

fn pod(spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec})
}

#[test]
fn elements_of_lists_have_owners_of_their_own() {
    let apply = |live: Option<&Value>, spec: Value, name| apply("pods", live, &pod(spec), &by(name, 0), false).unwrap();
    let one = apply(None, json!({"containers": [{"name": "a", "image": "1", "ports": [{"containerPort": 80}]}]}), "a");
    assert_eq!(
        owners(&one)[0].1,
        json!({"f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {".": {}, "f:image": {}, "f:name": {},
               "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}}}}})
    );
    let two =
        apply(Some(&one), json!({"containers": [{"name": "b", "image": "2"}], "tolerations": [{"key": "x"}]}), "b");
    let names = |object: &Value| {
        object["spec"]["containers"].as_array().unwrap().iter().map(|c| c["name"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(&two), ["b", "a"]);
    let three = apply(Some(&two), json!({"containers": [{"name": "c"}]}), "a");
    assert_eq!(names(&three), ["c", "b"]);
    assert_eq!(three["spec"]["tolerations"], json!([{"key": "x"}]));
    let four = apply(Some(&three), json!({"containers": [{"name": "c", "env": [{"name": "X", "value": "1"}]}]}), "a");
    let five = apply(Some(&four), json!({"containers": [{"name": "c"}]}), "a");
    assert_eq!(five["spec"]["containers"][0], json!({"name": "c"}));
}

#[test]
fn what_the_server_set_stays_when_a_manager_leaves() {
    let apply = |live: Option<&Value>, spec: Value| apply("pods", live, &pod(spec), &by("a", 0), false).unwrap();
    let mut one =
        apply(None, json!({"containers": [{"name": "c"}], "securityContext": {"runAsUser": 1}, "hostname": "h"}));
    one["spec"]["dnsPolicy"] = "ClusterFirst".into();
    one["spec"]["containers"][0]["imagePullPolicy"] = "Always".into();
    one["spec"]["securityContext"]["fsGroup"] = 2.into();
    let two = apply(Some(&one), json!({"containers": [{"name": "c"}]}));
    assert_eq!(
        two["spec"],
        json!({"containers": [{"name": "c", "imagePullPolicy": "Always"}], "dnsPolicy": "ClusterFirst",
                                   "securityContext": {"fsGroup": 2}})
    );
}

#[test]
fn malformed_configurations_are_refused() {
    for (config, expected) in [
        (json!({"kind": "Pod"}), "Object 'apiVersion' is missing in the apply patch"),
        (
            json!({"apiVersion": "v2", "kind": "Pod"}),
            "Incorrect version specified in apply patch. Specified patch version: v2, expected: v1",
        ),
        (
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"managedFields": []}}),
            "metadata.managedFields must be nil",
        ),
        (
            pod(json!({"containers": [{"name": "a"}, {"name": "a"}]})),
            "failed to create typed patch object (/p; /v1, Kind=Pod): .spec.containers: duplicate entries for key [name=\"a\"]",
        ),
    ] {
        let error = apply("pods", None, &config, &by("a", 0), true).unwrap_err();
        assert_eq!((error.to_string().as_str(), error.code()), (expected, 400));
    }
    assert!(apply("pods", None, &pod(json!({"containers": [{}]})), &by("a", 0), true).is_err());
}

/// A change from the client's side to the server's: kubectl rewrites the list of managers by a JSON patch first.
#[test]
fn kubectl_takes_over_what_it_applied_from_the_client() {
    let annotated = |data: Value| {
        let mut object = map(data.clone());
        let last = map(data).to_string();
        object["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/last-applied-configuration": last});
        object
    };
    let client = managed_update(
        "configmaps",
        None,
        annotated(json!({"k": "1", "gone": "x"})),
        &by("kubectl-client-side-apply", 0),
    );
    // Without the rewritten list: the conflict is with kubectl's own former self.
    let taken = applied(Some(&client), &map(json!({"k": "2"})), "kubectl", 1);
    assert_eq!(taken["data"], json!({"k": "2", "gone": "x"}));
    let last = taken["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"].as_str().unwrap();
    assert_eq!(serde_json::from_str::<Value>(last).unwrap(), map(json!({"k": "2"})));

    let mut entry = client["metadata"]["managedFields"][0].clone();
    entry["manager"] = "kubectl".into();
    entry["operation"] = "Apply".into();
    let patched =
        json_patch(&client, &json!([{"op": "replace", "path": "/metadata/managedFields", "value": [entry]}])).unwrap();
    let upgraded = managed_update("configmaps", Some(&client), patched, &by("kubectl", 1));
    assert_eq!(owners(&upgraded).iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["kubectl/Apply"]);
    let moved = applied(Some(&upgraded), &map(json!({"k": "2"})), "kubectl", 2);
    assert_eq!(moved["data"], json!({"k": "2"}));
}

#[test]
fn an_object_without_managers_belonged_to_somebody_before() {
    let live = map(json!({"k": "1", "l": "1"}));
    let error = apply("configmaps", Some(&live), &map(json!({"k": "2"})), &by("a", 0), false).unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"Apply failed with 1 conflict: conflict with "before-first-apply" using v1: .data.k"#
    );
    let forced = apply("configmaps", Some(&live), &map(json!({"k": "2"})), &by("a", 0), true).unwrap();
    assert_eq!(owners(&forced)[1], ("before-first-apply/Update".to_owned(), json!({"f:data": {".": {}, "f:l": {}}})));
}

fn some_config() -> impl Strategy<Value = Value> {
    let env = proptest::collection::btree_map("[x-z]", "[12]", 0..3).prop_map(|env| {
        env.into_iter().map(|(name, value)| json!({"name": name, "value": value})).collect::<Vec<Value>>()
    });
    let containers = proptest::collection::btree_map("[a-c]", (proptest::option::of("[12]"), env), 0..3);
    (containers, proptest::collection::btree_map("[k-m]", "[12]", 0..3)).prop_map(|(containers, labels)| {
        let container = |(name, (image, env)): (String, (Option<String>, Vec<Value>))| {
            let mut container = json!({"name": name, "env": env});
            if let Some(image) = image {
                container["image"] = image.into();
            }
            container
        };
        let mut pod = pod(json!({"containers": containers.into_iter().map(container).collect::<Vec<Value>>()}));
        pod["metadata"]["labels"] = json!(labels);
        pod
    })
}

fn contains(object: &Value, config: &Value) -> bool {
    match (object, config) {
        (Value::Object(object), Value::Object(config)) => {
            config.iter().all(|(key, value)| object.get(key).is_some_and(|own| contains(own, value)))
        }
        (Value::Array(object), Value::Array(config)) => {
            config.iter().all(|value| object.iter().any(|own| own["name"] == value["name"] && contains(own, value)))
        }
        (object, config) => object == config,
    }
}

proptest! {
    #[test]
    fn any_configuration_is_applied_once_and_for_all(
        first in some_config(), second in some_config(), third in some_config(), update in some_config(),
    ) {
        let force = |live: Option<&Value>, config: &Value, name, second| {
            apply("pods", live, config, &by(name, second), true).unwrap()
        };
        let one = force(None, &first, "a", 0);
        let two = force(Some(&one), &second, "b", 1);
        let mut changed = update;
        changed["metadata"]["managedFields"] = two["metadata"]["managedFields"].clone();
        let two = managed_update("pods", Some(&two), changed, &by("c", 2));
        let three = force(Some(&two), &third, "a", 3);
        prop_assert!(contains(&three, &third), "{three} {third}");
        prop_assert_eq!(&force(Some(&three), &third, "a", 9), &three);
        // Whoever owns a field agrees with what is stored: applying it without force is no conflict with oneself.
        prop_assert!(apply("pods", Some(&three), &third, &by("d", 10), false).is_ok());
    }
}
