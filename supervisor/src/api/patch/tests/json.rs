use serde_json::{Value, json};

use crate::api::patch::*;

#[test]
fn json_patches_apply_or_change_nothing() {
    let live = json!({"metadata": {"name": "a"}, "spec": {"list": [1, 2]}});
    let patched = json_patch(
        &live,
        &json!([
            {"op": "test", "path": "/metadata/name", "value": "a"},
            {"op": "add", "path": "/metadata/labels", "value": {"x": "y"}},
            {"op": "remove", "path": "/spec/list/0"},
        ]),
    );
    assert_eq!(patched, Ok(json!({"metadata": {"name": "a", "labels": {"x": "y"}}, "spec": {"list": [2]}})));
    for (patch, code, reason) in [
        (json!([{"op": "test", "path": "/metadata/name", "value": "b"}]), 422, "Invalid"),
        (json!([{"op": "remove", "path": "/spec/none"}]), 422, "Invalid"),
        (json!([{"op": "replace", "path": "/none/x", "value": 1}]), 422, "Invalid"),
        (json!([{"op": "add", "path": "/spec/list/9", "value": 1}]), 422, "Invalid"),
        (json!([{"op": "jump", "path": "/spec"}]), 400, "BadRequest"),
        (json!({"op": "add"}), 400, "BadRequest"),
        (json!("x"), 400, "BadRequest"),
    ] {
        let error = json_patch(&live, &patch).unwrap_err();
        assert_eq!((error.code(), error.reason()), (code, reason), "{patch}");
    }
    let error = json_patch(&live, &json!([{"op": "remove", "path": "/x"}])).unwrap_err();
    assert_eq!(error.to_string(), "the server rejected our request due to an error in our request");
}

#[test]
fn a_small_json_patch_makes_no_large_object() {
    let operations = vec![json!({"op": "remove", "path": "/x"}); OPERATIONS_MAX + 1];
    let error = json_patch(&json!({}), &Value::Array(operations)).unwrap_err();
    assert_eq!(error.to_string(), "The allowed maximum operations in a JSON patch is 10000, got 10001");
    assert_eq!(error.code(), 413);

    let bomb: Vec<Value> = (0..64).map(|i| json!({"op": "copy", "from": "", "path": format!("/a{i}")})).collect();
    let error = json_patch(&json!({"data": "x".repeat(1000)}), &Value::Array(bomb)).unwrap_err();
    assert_eq!(error.reason(), "RequestEntityTooLarge");

    let shifts = vec![json!({"op": "add", "path": "/list/0", "value": 0}); OPERATIONS_MAX];
    let error =
        json_patch(&json!({"list": vec![0; 2 * MOVES_MAX / OPERATIONS_MAX]}), &Value::Array(shifts)).unwrap_err();
    assert_eq!(error.reason(), "RequestEntityTooLarge");
}

/// Comparing each element with each of another list would take minutes in a debug build.
#[test]
fn long_lists_merge_in_a_moment() {
    let list = |from: usize| -> Vec<Value> { (from..from + 5_000).map(|i| json!({"name": format!("c{i}")})).collect() };
    let pod = |from: usize| json!({"apiVersion": "v1", "spec": {"containers": list(from)}});
    let start = std::time::Instant::now();
    let merged = strategic("pods", &pod(0), &pod(2_500)).unwrap();
    assert_eq!(merged["spec"]["containers"].as_array().unwrap().len(), 7_500);
    let manager = Manager { name: "a", api_version: "v1", subresource: "", now: jiff::Timestamp::UNIX_EPOCH };
    let applied = apply("pods", Some(&merged), &pod(5_000), &manager, true).unwrap();
    let updated = managed_update("pods", Some(&merged), applied, &manager);
    assert_eq!(updated["spec"]["containers"].as_array().unwrap().len(), 10_000);
    assert!(start.elapsed() < std::time::Duration::from_secs(10), "{:?}", start.elapsed());
}

#[test]
fn merge_patches_remove_by_null_and_replace_lists() {
    let live = json!({"a": {"b": 1, "c": [1, 2]}, "d": 1});
    let patch = json!({"a": {"b": null, "c": [3]}, "d": {"e": null, "f": 2}});
    assert_eq!(merge_patch(&live, &patch), Ok(json!({"a": {"c": [3]}, "d": {"f": 2}})));
    assert_eq!(merge_patch(&live, &json!([])).unwrap_err().code(), 400);
}
