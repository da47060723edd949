//! The cells of persistent volumes, claims and classes.

use jiff::Timestamp;
use serde_json::Value;

use super::shared::{UNSET, age, list, name, text, text_or};

const CLASS_ANNOTATION: &str = "/metadata/annotations/volume.beta.kubernetes.io~1storage-class";
const DEFAULT_CLASS: [&str; 2] = [
    "/metadata/annotations/storageclass.kubernetes.io~1is-default-class",
    "/metadata/annotations/storageclass.beta.kubernetes.io~1is-default-class",
];

pub(super) fn volume(object: &Value, now: Timestamp) -> Vec<Value> {
    let claim = match (text(object, "/spec/claimRef/namespace"), text(object, "/spec/claimRef/name")) {
        ("", "") => String::new(),
        (namespace, name) => format!("{namespace}/{name}"),
    };
    vec![
        name(object),
        text(object, "/spec/capacity/storage").into(),
        modes(object, "/spec/accessModes").into(),
        text(object, "/spec/persistentVolumeReclaimPolicy").into(),
        phase(object).into(),
        claim.into(),
        text_or(object, CLASS_ANNOTATION, text(object, "/spec/storageClassName")).into(),
        text_or(object, "/spec/volumeAttributesClassName", UNSET).into(),
        text(object, "/status/reason").into(),
        age(object, now),
        text_or(object, "/spec/volumeMode", UNSET).into(),
    ]
}

pub(super) fn claim(object: &Value, now: Timestamp) -> Vec<Value> {
    let volume = text(object, "/spec/volumeName");
    let (capacity, access) = match volume {
        "" => ("", String::new()),
        _ => (text(object, "/status/capacity/storage"), modes(object, "/status/accessModes")),
    };
    vec![
        name(object),
        phase(object).into(),
        volume.into(),
        capacity.into(),
        access.into(),
        text_or(object, CLASS_ANNOTATION, text(object, "/spec/storageClassName")).into(),
        text_or(object, "/spec/volumeAttributesClassName", UNSET).into(),
        age(object, now),
        text_or(object, "/spec/volumeMode", UNSET).into(),
    ]
}

pub(super) fn class(object: &Value, now: Timestamp) -> Vec<Value> {
    let is_default = DEFAULT_CLASS.iter().any(|pointer| text(object, pointer) == "true");
    let mut shown = text(object, "/metadata/name").to_owned();
    if is_default {
        shown.push_str(" (default)");
    }
    vec![
        shown.into(),
        text(object, "/provisioner").into(),
        text_or(object, "/reclaimPolicy", "Delete").into(),
        text_or(object, "/volumeBindingMode", "Immediate").into(),
        object["allowVolumeExpansion"].as_bool().unwrap_or_default().into(),
        age(object, now),
    ]
}

fn phase(object: &Value) -> &str {
    if object["metadata"]["deletionTimestamp"].is_string() { "Terminating" } else { text(object, "/status/phase") }
}

/// `RWO,ROX`, each once, in a fixed order.
fn modes(object: &Value, pointer: &str) -> String {
    const SHORT: [(&str, &str); 4] =
        [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    let has = |mode: &str| list(object, pointer).iter().any(|other| other == mode);
    let shown: Vec<&str> = SHORT.iter().filter(|(mode, _)| has(mode)).map(|(_, short)| *short).collect();
    shown.join(",")
}
