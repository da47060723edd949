//! One file: from its text to objects with defaults, valid, and named as the kubelet names static pods (ST2, ST6).

use std::path::Path;

use k8s_openapi::api::core::v1::{Pod, Toleration};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::{Value, json};

use super::references;
use crate::admission::{defaults, validate};
use crate::convert::machine::MIRROR;
use crate::manifest::{Manifest, Object, decode, text_of};
use crate::serve::clock;
use crate::serve::host::Host;
use crate::serve::node_object;
use crate::serve::pods::PODS;
use crate::store::{Key, Store};

/// Where a static pod comes from.
const CONFIG_SOURCE: &str = "kubernetes.io/config.source";
const CONFIG_HASH: &str = "kubernetes.io/config.hash";
const CONFIG_SEEN: &str = "kubernetes.io/config.seen";

/// An object that a file wants.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    pub key: Key,
    /// The file's name.
    pub file: String,
    /// Of what the file says of it.
    pub hash: String,
    /// Of a pod: follows from its content, its file and its node, so that a restart finds the same pod.
    pub uid: Option<String>,
    pub value: Value,
}

/// All or nothing: one fault refuses the file.
pub fn read(path: &Path, name: &str, host: &Host, store: &Store) -> Result<Vec<Wanted>, String> {
    let text = text_of(path).map_err(|error| format!("{name}: {error}"))?;
    let manifests = decode(name, &text).map_err(|refused| refused.to_string())?;
    manifests.into_iter().map(|manifest| admit(manifest, name, host, store)).collect()
}

fn admit(mut manifest: Manifest, file: &str, host: &Host, store: &Store) -> Result<Wanted, String> {
    defaults::object(&mut manifest.object);
    let mut uid = None;
    if let Object::Pod(pod) = &mut manifest.object {
        let classes: Vec<PriorityClass> =
            store.list("priorityclasses.scheduling.k8s.io", None).0.iter().filter_map(|own| own.read().ok()).collect();
        if let Some(spec) = pod.spec.as_mut() {
            defaults::set_priority(spec, &classes).map_err(|error| format!("{file}: {error}"))?;
        }
        uid = Some(make_static(pod, file, host));
    }
    if let Err(invalid) = validate::validate(&manifest.object) {
        let faults = invalid.0.iter().map(|error| manifest.fault(&error.path.to_string(), error.body()).to_string());
        return Err(faults.collect::<Vec<_>>().join("; "));
    }
    if let Object::Pod(pod) = &manifest.object
        && let Some((field, resource)) = pod.spec.as_ref().and_then(references::first)
    {
        // As a kubelet with PreventStaticPodAPIReferences (ST5).
        let message = format!("static pods may not reference {resource}");
        return Err(manifest.fault(&field, message).to_string());
    }
    let mut value = to_value(&manifest.object).map_err(|error| format!("{file}: {error}"))?;
    let hash = hash(&[&value.to_string()]);
    if let Object::Pod(pod) = &mut manifest.object {
        show(pod, uid.as_deref().unwrap_or_default(), host, store);
        value = serde_json::to_value(&**pod).map_err(|error| format!("{file}: {error}"))?;
        value["status"] = json!({"phase": "Pending"});
    }
    let metadata = manifest.object.metadata();
    let namespace = if manifest.object.is_namespaced() { metadata.namespace.as_deref() } else { None };
    let key = Key::new(resource(&manifest.object), namespace.unwrap_or_default(), manifest.object.name());
    Ok(Wanted { key, file: file.to_owned(), hash, uid, value })
}

/// Its own uid (rule ST2); the same text in the same file on the same node is the same pod.
fn make_static(pod: &mut Pod, file: &str, host: &Host) -> String {
    let said = serde_json::to_string(pod).unwrap_or_default();
    let uid = pod.metadata.uid.clone().unwrap_or_else(|| hash(&[&host.name, file, &said]));
    let name = format!("{}-{}", pod.metadata.name.as_deref().unwrap_or_default(), host.name.to_lowercase());
    pod.metadata.name = Some(name);
    pod.metadata.uid = Some(uid.clone());
    if let Some(spec) = &mut pod.spec {
        spec.node_name = Some(host.name.clone());
        let toleration = Toleration {
            effect: Some("NoExecute".to_owned()),
            operator: Some("Exists".to_owned()),
            ..Toleration::default()
        };
        let tolerations = spec.tolerations.get_or_insert_default();
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
    uid
}

/// What marks it as the mirror of a static pod.
fn show(pod: &mut Pod, uid: &str, host: &Host, store: &Store) {
    let annotations = pod.metadata.annotations.get_or_insert_default();
    for (key, value) in [(CONFIG_HASH, uid), (CONFIG_SOURCE, "file"), (CONFIG_SEEN, &clock::now()), (MIRROR, uid)] {
        annotations.insert(key.to_owned(), value.to_owned());
    }
    pod.metadata.owner_references = node_object::uid(store, &host.name).map(|node| {
        vec![OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: host.name.clone(),
            uid: node,
            controller: Some(true),
            block_owner_deletion: None,
        }]
    });
}

fn to_value(object: &Object) -> serde_json::Result<Value> {
    match object {
        Object::Pod(own) => serde_json::to_value(own),
        Object::ConfigMap(own) => serde_json::to_value(own),
        Object::Secret(own) => serde_json::to_value(own),
        Object::Namespace(own) => serde_json::to_value(own),
        Object::ServiceAccount(own) => serde_json::to_value(own),
        Object::PriorityClass(own) => serde_json::to_value(own),
        Object::PersistentVolumeClaim(own) => serde_json::to_value(own),
        Object::PersistentVolume(own) => serde_json::to_value(own),
        Object::Service(own) => serde_json::to_value(own),
        Object::LimitRange(own) => serde_json::to_value(own),
    }
}

fn resource(object: &Object) -> &'static str {
    match object {
        Object::Pod(_) => PODS,
        Object::ConfigMap(_) => "configmaps",
        Object::Secret(_) => "secrets",
        Object::Namespace(_) => "namespaces",
        Object::ServiceAccount(_) => "serviceaccounts",
        Object::PriorityClass(_) => "priorityclasses.scheduling.k8s.io",
        Object::PersistentVolumeClaim(_) => "persistentvolumeclaims",
        Object::PersistentVolume(_) => "persistentvolumes",
        Object::Service(_) => "services",
        Object::LimitRange(_) => "limitranges",
    }
}

/// 128-bit FNV-1a, as the kubelet's hash of static pods: it names, it protects nothing.
fn hash(parts: &[&str]) -> String {
    const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
    let sum = bytes.fold(BASIS, |sum, byte| (sum ^ u128::from(byte)).wrapping_mul(PRIME));
    format!("{sum:032x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::host::example;

    fn read_text(text: &str) -> Result<Vec<Wanted>, String> {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(&dir.path().join("store")).unwrap();
        let path = dir.path().join("a.yaml");
        std::fs::write(&path, text).unwrap();
        read(&path, "a.yaml", &example(), &store)
    }

    const POD: &str =
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: c, image: busybox}]}\n";

    /// ST2
    #[test]
    fn a_static_pod_is_named_after_its_node() {
        let all = read_text(POD).unwrap();
        let value = &all[0].value;
        assert_eq!(*all[0].key.name, *"web-n1");
        assert_eq!(value["spec"]["nodeName"], "n1");
        let annotations = &value["metadata"]["annotations"];
        assert_eq!(annotations[CONFIG_SOURCE], "file");
        assert_eq!(annotations[CONFIG_HASH], value["metadata"]["uid"]);
        assert_eq!(annotations[MIRROR], annotations[CONFIG_HASH]);
        assert_eq!(all[0].uid.as_ref().unwrap().len(), 32);
    }

    #[test]
    fn the_same_text_is_the_same_pod_and_another_is_another() {
        let uid = |text: &str| read_text(text).unwrap()[0].uid.clone();
        assert_eq!(uid(POD), uid(POD));
        assert_ne!(uid(POD), uid(&POD.replace("busybox", "nginx")));
    }

    #[test]
    fn a_fault_refuses_the_whole_file() {
        let text = format!("{POD}---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: UPPER}}\n");
        let refused = read_text(&text).unwrap_err();
        assert!(refused.contains("a.yaml:") && refused.contains("UPPER"), "{refused}");
        assert!(read_text("a: [").is_err());
    }

    /// ST5
    #[test]
    fn a_static_pod_that_refers_to_an_object_is_refused_by_its_field() {
        let text = POD.replace("image: busybox", "image: busybox, envFrom: [{configMapRef: {name: m}}]");
        let refused = read_text(&text).unwrap_err();
        let expected = "spec.containers[0].envFrom[0].configMapRef: static pods may not reference configmaps";
        assert!(refused.starts_with("a.yaml:4:") && refused.ends_with(expected), "{refused}");
    }

    #[test]
    fn other_documents_keep_their_names() {
        let all = read_text("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {a: b}\n").unwrap();
        assert_eq!(all[0].key, Key::new("configmaps", "default", "c"));
        assert_eq!((all[0].uid.as_ref(), &all[0].value["kind"]), (None, &json!("ConfigMap")));
    }
}
