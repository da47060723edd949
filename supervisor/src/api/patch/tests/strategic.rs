use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::api::patch::*;

fn pod(spec: Value) -> Value {
    json!({"metadata": {"name": "a"}, "spec": spec})
}

fn patched(live: Value, patch: Value) -> Value {
    strategic("pods", &pod(live), &json!({"spec": patch})).unwrap()["spec"].take()
}

#[test]
fn lists_merge_by_their_keys() {
    let live = json!({"containers": [
        {"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}], "args": ["x"],
         "ports": [{"containerPort": 80, "protocol": "TCP"}], "volumeMounts": [{"mountPath": "/m", "name": "v"}]},
        {"name": "b", "image": "1"},
    ]});
    let patch = json!({"containers": [
        {"name": "a", "image": "2", "args": ["y"], "env": [{"name": "Y", "value": "2"}, {"name": "X", "value": "3"}],
         "ports": [{"containerPort": 80, "name": "web"}], "volumeMounts": [{"mountPath": "/m", "readOnly": true}]},
    ]});
    let expected = json!({"containers": [
        {"name": "a", "image": "2", "env": [{"name": "Y", "value": "2"}, {"name": "X", "value": "3"}], "args": ["y"],
         "ports": [{"containerPort": 80, "protocol": "TCP", "name": "web"}],
         "volumeMounts": [{"mountPath": "/m", "name": "v", "readOnly": true}]},
        {"name": "b", "image": "1"},
    ]});
    assert_eq!(patched(live, patch), expected);
}

#[test]
fn a_new_element_stands_before_those_that_the_patch_does_not_name() {
    let live = json!({"containers": [{"name": "a"}, {"name": "b"}]});
    let got = patched(live.clone(), json!({"containers": [{"name": "new"}]}));
    assert_eq!(got, json!({"containers": [{"name": "new"}, {"name": "a"}, {"name": "b"}]}));
    let order = json!({"$setElementOrder/containers": [{"name": "a"}, {"name": "b"}, {"name": "new"}],
                       "containers": [{"name": "new"}]});
    assert_eq!(patched(live, order), json!({"containers": [{"name": "a"}, {"name": "b"}, {"name": "new"}]}));
}

#[test]
fn directives_delete_replace_and_retain() {
    for (live, patch, expected) in [
        (
            json!({"containers": [{"name": "a"}, {"name": "b"}]}),
            json!({"containers": [{"name": "a", "$patch": "delete"}]}),
            json!({"containers": [{"name": "b"}]}),
        ),
        (
            json!({"containers": [{"name": "a"}, {"name": "b"}]}),
            json!({"containers": [{"$patch": "replace"}, {"name": "c"}]}),
            json!({"containers": [{"name": "c"}]}),
        ),
        (
            json!({"securityContext": {"runAsUser": 1, "fsGroup": 2}}),
            json!({"securityContext": {"$patch": "replace", "runAsUser": 3}}),
            json!({"securityContext": {"runAsUser": 3}}),
        ),
        (
            json!({"securityContext": {"runAsUser": 1}}),
            json!({"securityContext": {"$patch": "delete"}}),
            json!({"securityContext": {}}),
        ),
        (
            json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
            json!({"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]}),
            json!({"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}),
        ),
        (json!({"nodeName": "n", "hostname": "h"}), json!({"nodeName": null}), json!({"hostname": "h"})),
        (
            json!({"tolerations": [{"key": "a"}]}),
            json!({"tolerations": [{"key": "b"}]}),
            json!({"tolerations": [{"key": "b"}]}),
        ),
        (
            json!({}),
            json!({"dnsConfig": {"searches": ["a"], "options": null}}),
            json!({"dnsConfig": {"searches": ["a"]}}),
        ),
    ] {
        assert_eq!(patched(live, patch.clone()), expected, "{patch}");
    }
}

#[test]
fn finalizers_are_added_ordered_and_deleted_one_by_one() {
    let live = json!({"metadata": {"finalizers": ["a", "b"]}});
    let patch =
        |metadata: Value| strategic("configmaps", &live, &json!({"metadata": metadata})).unwrap()["metadata"].take();
    assert_eq!(patch(json!({"finalizers": ["c", "a"]})), json!({"finalizers": ["c", "a", "b"]}));
    assert_eq!(patch(json!({"$deleteFromPrimitiveList/finalizers": ["a"]})), json!({"finalizers": ["b"]}));
    let both = json!({"$setElementOrder/finalizers": ["b", "c"], "finalizers": ["c"],
                      "$deleteFromPrimitiveList/finalizers": ["a"]});
    assert_eq!(patch(both), json!({"finalizers": ["b", "c"]}));
}

#[test]
fn malformed_patches_are_refused() {
    let live = pod(json!({"containers": [{"name": "a"}], "volumes": [{"name": "v"}]}));
    for (spec, code) in [
        (json!({"containers": [{"image": "x"}]}), 400),
        (json!({"containers": ["x"]}), 400),
        (json!({"containers": [{"name": "a", "$patch": "jump"}]}), 422),
        (json!({"$patch": "jump"}), 422),
        (json!({"securityContext": {"$patch": 1}}), 422),
        (json!({"$setElementOrder/containers": "a"}), 400),
        (json!({"$setElementOrder/containers": [{"name": "b"}], "containers": [{"name": "a"}]}), 400),
        (json!({"volumes": [{"name": "v", "$retainKeys": "x"}]}), 400),
        (json!({"volumes": [{"name": "v", "$retainKeys": ["name"], "emptyDir": {}}]}), 400),
    ] {
        let error = strategic("pods", &live, &json!({"spec": spec})).unwrap_err();
        assert_eq!(error.code(), code, "{spec}: {error:?}");
    }
    let error = strategic("pods", &live, &json!({"spec": {"containers": [{"image": "x"}]}})).unwrap_err();
    assert_eq!(error.to_string(), r#"map: {"image":"x"} does not contain declared merge key: name"#);
    assert_eq!(strategic("pods", &live, &json!([])).unwrap_err().code(), 400);
}

/// The patch that kubectl computes: nulls, deletions by key, the order.
fn diff(from: &Value, to: &Value) -> Map<String, Value> {
    let mut patch = Map::new();
    let (Value::Object(from), Value::Object(to)) = (from, to) else { return patch };
    for (name, old) in from {
        match (old, to.get(name)) {
            (_, None) => drop(patch.insert(name.clone(), Value::Null)),
            (Value::Array(old), Some(Value::Array(new))) if name == "containers" || name == "env" => {
                patch.extend(diff_list(name, old, new));
            }
            (Value::Object(_), Some(new @ Value::Object(_))) => drop(patch.insert(name.clone(), diff(old, new).into())),
            (old, Some(new)) if old != new => drop(patch.insert(name.clone(), new.clone())),
            (_, Some(_)) => {}
        }
    }
    for (name, new) in to.iter().filter(|(name, _)| !from.contains_key(*name)) {
        patch.insert(name.clone(), new.clone());
    }
    patch
}

fn diff_list(name: &str, old: &[Value], new: &[Value]) -> Map<String, Value> {
    let find = |list: &[Value], item: &Value| list.iter().find(|other| other["name"] == item["name"]).cloned();
    let mut items = Vec::new();
    for item in new {
        let mut change = find(old, item).map_or_else(|| item.as_object().cloned().unwrap(), |was| diff(&was, item));
        change.insert("name".to_owned(), item["name"].clone());
        items.push(Value::Object(change));
    }
    let gone = old.iter().filter(|item| find(new, item).is_none());
    items.extend(gone.map(|item| json!({"name": item["name"], "$patch": "delete"})));
    let order = new.iter().map(|item| json!({"name": item["name"]})).collect();
    Map::from_iter([(name.to_owned(), Value::Array(items)), (format!("$setElementOrder/{name}"), Value::Array(order))])
}

fn named(item: impl Strategy<Value = Map<String, Value>> + 'static) -> BoxedStrategy<Value> {
    let list = proptest::collection::btree_map("[a-d]", item, 0..4).prop_map(|items| {
        let named = |(name, mut item): (String, Map<String, Value>)| {
            item.insert("name".to_owned(), Value::String(name));
            Value::Object(item)
        };
        items.into_iter().map(named).collect::<Vec<Value>>()
    });
    list.prop_shuffle().prop_map(Value::Array).boxed()
}

fn some_spec() -> impl Strategy<Value = Value> {
    let env = named(
        proptest::option::of("[xy]").prop_map(|value| value.map(|v| ("value".into(), v.into())).into_iter().collect()),
    );
    let container =
        (proptest::option::of("[xy]"), env, proptest::collection::vec("[xy]", 0..3)).prop_map(|(image, env, args)| {
            let mut container = Map::from_iter([("env".to_owned(), env), ("args".to_owned(), json!(args))]);
            container.extend(image.map(|image| ("image".to_owned(), json!(image))));
            container
        });
    let labels = proptest::collection::btree_map("[a-c]", "[xy]", 0..3);
    (named(container), labels)
        .prop_map(|(containers, labels)| json!({"containers": containers, "securityContext": labels}))
}

proptest! {
    #[test]
    fn the_difference_of_two_objects_leads_from_one_to_the_other(from in some_spec(), to in some_spec()) {
        prop_assert_eq!(patched(from.clone(), diff(&from, &to).into()), to);
    }
}
