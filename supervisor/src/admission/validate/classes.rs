//! Classes: of runtimes and of storage.

use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::storage::v1::StorageClass;

use super::error::{Errors, IMMUTABLE, Path};
use super::names;

pub(super) fn runtime(old: Option<&RuntimeClass>, new: &RuntimeClass, errors: &mut Errors) {
    let path = Path::new("handler");
    errors.invalid_all(&path, &new.handler, names::label(&new.handler));
    if old.is_some_and(|old| old.handler != new.handler) {
        errors.invalid(&path, new.handler.as_str(), IMMUTABLE);
    }
}

pub(super) fn storage(old: Option<&StorageClass>, new: &StorageClass, errors: &mut Errors) {
    let provisioner = Path::new("provisioner");
    if new.provisioner.is_empty() {
        errors.required(&provisioner, "");
    } else {
        errors.invalid_all(&provisioner, &new.provisioner, names::qualified(&new.provisioner.to_ascii_lowercase()));
    }
    errors.one_of(&Path::new("reclaimPolicy"), new.reclaim_policy.as_ref(), &["Delete", "Retain"]);
    let mode = Path::new("volumeBindingMode");
    errors.one_of(&mode, new.volume_binding_mode.as_ref(), &["Immediate", "WaitForFirstConsumer"]);
    let Some(old) = old else { return };
    for (field, differs) in [
        ("parameters", old.parameters != new.parameters),
        ("provisioner", old.provisioner != new.provisioner),
        ("reclaimPolicy", old.reclaim_policy != new.reclaim_policy),
    ] {
        if differs {
            errors.forbidden(&Path::new(field), format!("updates to {field} are forbidden."));
        }
    }
    if old.volume_binding_mode != new.volume_binding_mode {
        errors.invalid(&mode, new.volume_binding_mode.as_deref(), IMMUTABLE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn what_a_class_means_stays() {
        let handler = |name: &str| -> RuntimeClass { serde_json::from_value(json!({"handler": name})).unwrap() };
        let mut errors = Errors::default();
        runtime(Some(&handler("a")), &handler("b"), &mut errors);
        assert_eq!(errors.done().unwrap_err().to_string(), "handler: Invalid value: \"b\": field is immutable");
        let mut errors = Errors::default();
        runtime(None, &handler("A"), &mut errors);
        assert!(errors.done().is_err());
        let full = json!({"provisioner": "a", "reclaimPolicy": "Delete", "volumeBindingMode": "Immediate"});
        for (field, value, expected) in [
            ("provisioner", json!("b"), "provisioner: Forbidden: updates to provisioner are forbidden."),
            ("parameters", json!({"a": "b"}), "parameters: Forbidden: updates to parameters are forbidden."),
            ("reclaimPolicy", json!("Retain"), "reclaimPolicy: Forbidden: updates to reclaimPolicy are forbidden."),
            (
                "volumeBindingMode",
                json!("WaitForFirstConsumer"),
                "volumeBindingMode: Invalid value: \"WaitForFirstConsumer\": field is immutable",
            ),
            ("allowVolumeExpansion", json!(true), ""),
        ] {
            let mut changed = full.clone();
            changed[field] = value;
            let of = |value: &Value| -> StorageClass { serde_json::from_value(value.clone()).unwrap() };
            let mut errors = Errors::default();
            storage(Some(&of(&full)), &of(&changed), &mut errors);
            let message = errors.done().err().map(|invalid| invalid.to_string()).unwrap_or_default();
            assert_eq!(message, expected);
        }
        let mut errors = Errors::default();
        storage(None, &StorageClass::default(), &mut errors);
        assert_eq!(errors.done().unwrap_err().to_string(), "provisioner: Required value");
    }
}
