use std::collections::BTreeSet;

use serde_json::Value;

use super::*;

fn document(path: &str) -> Value {
    serde_json::from_slice(&v3(path).unwrap().unwrap()).unwrap()
}

fn targets(value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            into.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
            fields.values().for_each(|value| targets(value, into));
        }
        Value::Array(items) => items.iter().for_each(|value| targets(value, into)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn every_reference_is_defined() {
    let index = v3_index();
    for path in index["paths"].as_object().unwrap().keys() {
        let document = document(path);
        let mut found = BTreeSet::new();
        targets(&document, &mut found);
        assert!(!found.is_empty());
        for target in found {
            let name = target.strip_prefix(REFERENCE_V3).unwrap();
            assert!(document["components"]["schemas"][name].is_object(), "{path}: {name}");
        }
    }
    let document: Value = serde_json::from_slice(&v2().unwrap()).unwrap();
    let mut found = BTreeSet::new();
    targets(&document, &mut found);
    for target in found {
        let name = target.strip_prefix(REFERENCE_V2).unwrap();
        assert!(document["definitions"][name].is_object(), "{name}");
    }
}

#[test]
fn the_index_names_every_group_with_its_hash() {
    let index = v3_index();
    let place = index["paths"]["api/v1"]["serverRelativeURL"].as_str().unwrap();
    assert_eq!(place, format!("/openapi/v3/api/v1?hash={}", hash("api/v1")));
    assert_ne!(hash("api/v1"), hash("apis/apps/v1"));
    assert!(index["paths"]["apis/apps/v1"].is_object());
    assert!(v3("apis/none/v1").unwrap().is_none());
    assert!(v3("").unwrap().is_none());
}

/// What kubectl looks for to decide whether the server validates fields and knows dry runs.
#[test]
fn operations_name_their_kind_and_parameters() {
    let documents = [document("api/v1"), serde_json::from_slice(&v2().unwrap()).unwrap()];
    for document in &documents {
        let patch = &document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["patch"];
        assert_eq!(patch["x-kubernetes-action"], "patch");
        assert_eq!(patch["x-kubernetes-group-version-kind"], json!({"group": "", "kind": "Pod", "version": "v1"}));
        let names: Vec<&str> =
            patch["parameters"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
        for name in ["dryRun", "fieldManager", "fieldValidation", "force"] {
            assert!(names.contains(&name), "{name}");
        }
        let list = &document["paths"]["/api/v1/pods"]["get"];
        assert_eq!(list["operationId"], "listCoreV1PodForAllNamespaces");
        assert!(document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}/eviction"]["post"].is_object());
    }
}

#[test]
fn definitions_are_those_of_the_api() {
    let document = document("api/v1");
    let schemas = &document["components"]["schemas"];
    let pod = &schemas["io.k8s.api.core.v1.Pod"];
    assert_eq!(pod["x-kubernetes-group-version-kind"], json!([{"group": "", "kind": "Pod", "version": "v1"}]));
    assert_eq!(pod["required"], Value::Null);
    assert_eq!(schemas["io.k8s.api.core.v1.Container"]["required"], json!(["name"]));
    let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
    assert_eq!(schemas[INT_OR_STRING]["format"], "int-or-string");
    assert!(schemas["io.k8s.api.core.v1.PodList"].is_object());
    assert!(schemas["io.k8s.api.apps.v1.Deployment"].is_null());
    let v2: Value = serde_json::from_slice(&v2().unwrap()).unwrap();
    assert_eq!(v2["definitions"][QUANTITY], json!({"type": "string"}));
    let metadata = &v2["definitions"]["io.k8s.api.core.v1.Pod"]["properties"]["metadata"];
    assert_eq!(metadata["$ref"], "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta");
    assert!(metadata["description"].is_string() && metadata["allOf"].is_null());
}

/// The merge table and the definitions are about the same types.
#[test]
fn the_merge_table_names_types_and_fields_that_exist() {
    let text = definitions().unwrap();
    let types: Vec<(&str, Value)> = lines(&text)
        .map(|(name, schema)| (name.rsplit('.').next().unwrap(), serde_json::from_str(schema).unwrap()))
        .collect();
    for (of, field) in crate::api::patch::schema::fields() {
        let mut candidates = types.iter().filter(|(name, _)| *name == of).peekable();
        assert!(candidates.peek().is_some(), "{of}");
        assert!(candidates.any(|(_, schema)| schema["properties"][field].is_object()), "{of}.{field}");
    }
}

/// The fields of a protocol buffer: number and bytes.
fn decoded(mut bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let varint = |bytes: &mut &[u8]| {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let (first, rest) = bytes.split_first().unwrap();
            *bytes = rest;
            value |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                break;
            }
        }
        value
    };
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        assert_eq!(tag & 7, 2, "only texts and messages are read here");
        let length = usize::try_from(varint(&mut bytes)).unwrap();
        out.push((tag >> 3, bytes[..length].to_vec()));
        bytes = &bytes[length..];
    }
    out
}

#[test]
fn the_protocol_buffer_says_what_the_json_says() {
    let json: Value = serde_json::from_slice(&v2().unwrap()).unwrap();
    let document = decoded(&v2_protobuf().unwrap());
    assert_eq!(document[0], (1, b"2.0".to_vec()));
    for (number, inner, name) in [(8, 2, "paths"), (9, 1, "definitions")] {
        let (_, bytes) = document.iter().find(|(field, _)| *field == number).unwrap();
        let entries = decoded(bytes);
        assert!(entries.iter().all(|(field, _)| *field == inner));
        let names: BTreeSet<String> =
            entries.iter().map(|(_, entry)| String::from_utf8(decoded(entry)[0].1.clone()).unwrap()).collect();
        assert_eq!(names, json[name].as_object().unwrap().keys().cloned().collect(), "{name}");
    }
}
