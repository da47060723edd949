//! The kinds that a manifest may hold.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{
    ConfigMap, LimitRange, Namespace, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde_json::Value;

use super::typed::{self, Problem};

/// An object out of a manifest.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// `v1 Pod`
    Pod(Box<Pod>),
    /// `v1 ConfigMap`
    ConfigMap(Box<ConfigMap>),
    /// `v1 Secret`, `stringData` merged into `data`.
    Secret(Box<Secret>),
    /// `v1 Namespace`
    Namespace(Box<Namespace>),
    /// `v1 ServiceAccount`
    ServiceAccount(Box<ServiceAccount>),
    /// `scheduling.k8s.io/v1 PriorityClass`
    PriorityClass(Box<PriorityClass>),
    /// `v1 PersistentVolumeClaim`
    PersistentVolumeClaim(Box<PersistentVolumeClaim>),
    /// `v1 PersistentVolume`
    PersistentVolume(Box<PersistentVolume>),
    /// `v1 Service`
    Service(Box<Service>),
    /// `v1 LimitRange`
    LimitRange(Box<LimitRange>),
}

/// Every kind with its `apiVersion`.
const KINDS: &[(&str, &str)] = &[
    ("v1", "Pod"),
    ("v1", "ConfigMap"),
    ("v1", "Secret"),
    ("v1", "Namespace"),
    ("v1", "ServiceAccount"),
    ("scheduling.k8s.io/v1", "PriorityClass"),
    ("v1", "PersistentVolumeClaim"),
    ("v1", "PersistentVolume"),
    ("v1", "Service"),
    ("v1", "LimitRange"),
];
const KIND_NAMES: &[&str] = &[
    "Pod",
    "ConfigMap",
    "Secret",
    "Namespace",
    "ServiceAccount",
    "PriorityClass",
    "PersistentVolumeClaim",
    "PersistentVolume",
    "Service",
    "LimitRange",
];
/// Kinds that make Pods from a template.
pub(crate) const WORKLOADS: &[&str] =
    &["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController", "Job", "CronJob"];

/// Why a document is no [`Object`].
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It can't be told what it is; the field to point at, and why.
    Kind(&'static str, String),
    /// The type refuses it.
    Fields(Vec<Problem>),
}

impl Object {
    /// Decodes one document (not a List).
    pub fn from_value(value: &Value) -> Result<Self, Refusal> {
        let (api_version, kind) = type_of(value)?;
        let object = match (api_version, kind) {
            ("v1", "Pod") => Object::Pod(decode(value)?),
            ("v1", "ConfigMap") => Object::ConfigMap(decode(value)?),
            ("v1", "Secret") => Object::Secret(Box::new(merge_string_data(*decode(value)?))),
            ("v1", "Namespace") => Object::Namespace(decode(value)?),
            ("v1", "ServiceAccount") => Object::ServiceAccount(decode(value)?),
            ("scheduling.k8s.io/v1", "PriorityClass") => Object::PriorityClass(decode(value)?),
            ("v1", "PersistentVolumeClaim") => Object::PersistentVolumeClaim(decode(value)?),
            ("v1", "PersistentVolume") => Object::PersistentVolume(decode(value)?),
            ("v1", "Service") => Object::Service(decode(value)?),
            ("v1", "LimitRange") => Object::LimitRange(decode(value)?),
            _ => return Err(unknown_type(api_version, kind)),
        };
        object.must_have_a_name()?;
        Ok(object)
    }

    /// `Pod`, `ConfigMap`, ...
    pub fn kind(&self) -> &'static str {
        match self {
            Object::Pod(_) => "Pod",
            Object::ConfigMap(_) => "ConfigMap",
            Object::Secret(_) => "Secret",
            Object::Namespace(_) => "Namespace",
            Object::ServiceAccount(_) => "ServiceAccount",
            Object::PriorityClass(_) => "PriorityClass",
            Object::PersistentVolumeClaim(_) => "PersistentVolumeClaim",
            Object::PersistentVolume(_) => "PersistentVolume",
            Object::Service(_) => "Service",
            Object::LimitRange(_) => "LimitRange",
        }
    }

    /// The object's metadata.
    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            Object::Pod(object) => &object.metadata,
            Object::ConfigMap(object) => &object.metadata,
            Object::Secret(object) => &object.metadata,
            Object::Namespace(object) => &object.metadata,
            Object::ServiceAccount(object) => &object.metadata,
            Object::PriorityClass(object) => &object.metadata,
            Object::PersistentVolumeClaim(object) => &object.metadata,
            Object::PersistentVolume(object) => &object.metadata,
            Object::Service(object) => &object.metadata,
            Object::LimitRange(object) => &object.metadata,
        }
    }

    /// Whether objects of this kind belong to a namespace.
    pub fn is_namespaced(&self) -> bool {
        match self {
            Object::Pod(_)
            | Object::ConfigMap(_)
            | Object::Secret(_)
            | Object::ServiceAccount(_)
            | Object::PersistentVolumeClaim(_)
            | Object::Service(_)
            | Object::LimitRange(_) => true,
            Object::Namespace(_) | Object::PriorityClass(_) | Object::PersistentVolume(_) => false,
        }
    }

    /// `metadata.name`, empty if only `generateName` is given.
    pub fn name(&self) -> &str {
        self.metadata().name.as_deref().unwrap_or_default()
    }

    fn must_have_a_name(&self) -> Result<(), Refusal> {
        let metadata = self.metadata();
        let is_set = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
        if is_set(&metadata.name) || is_set(&metadata.generate_name) {
            return Ok(());
        }
        Err(Refusal::Kind("metadata.name", "Required value: name or generateName is required".to_owned()))
    }
}

fn decode<'a, T: Deserialize<'a>>(value: &'a Value) -> Result<Box<T>, Refusal> {
    typed::decode(value).map(Box::new).map_err(Refusal::Fields)
}

fn type_of(value: &Value) -> Result<(&str, &str), Refusal> {
    let Value::Object(entries) = value else {
        return Err(Refusal::Kind("", "a manifest is an object with apiVersion, kind and metadata".to_owned()));
    };
    let required = |field| {
        let text = typed::text(entries, field).filter(|text| !text.is_empty());
        text.ok_or_else(|| Refusal::Kind(field, "Required value: must be a non-empty string".to_owned()))
    };
    Ok((required("apiVersion")?, required("kind")?))
}

fn unknown_type(api_version: &str, kind: &str) -> Refusal {
    if WORKLOADS.contains(&kind) {
        let message = format!(
            "Monopod runs Pods, not {kind}s: write the Pod of its spec.template as a manifest of its own (kind: Pod)"
        );
        return Refusal::Kind("kind", message);
    }
    if let Some((right, _)) = KINDS.iter().find(|(_, known)| *known == kind) {
        let message = format!("no matches for kind {kind:?} in version {api_version:?}, did you mean {right:?}?");
        return Refusal::Kind("apiVersion", message);
    }
    let known = match typed::nearest(kind, KIND_NAMES) {
        Some(nearest) => format!("did you mean {nearest:?}?"),
        None => format!("known are {}", KIND_NAMES.join(", ")),
    };
    Refusal::Kind("kind", format!("no matches for kind {kind:?} in version {api_version:?}, {known}"))
}

/// `stringData` wins over `data`, and is write-only: it is gone afterwards.
fn merge_string_data(mut secret: Secret) -> Secret {
    if let Some(texts) = secret.string_data.take() {
        let data = secret.data.get_or_insert_default();
        data.extend(texts.into_iter().map(|(key, text)| (key, ByteString(text.into_bytes()))));
    }
    secret
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn string_data_wins_over_data_and_is_gone_afterwards() {
        let value = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"},
            "data": {"a": "b2xk", "b": "Yg=="}, "stringData": {"a": "new"}});
        let Ok(Object::Secret(secret)) = Object::from_value(&value) else { panic!("not a secret") };
        let data = secret.data.unwrap();
        assert_eq!((data["a"].0.as_slice(), data["b"].0.as_slice()), (&b"new"[..], &b"b"[..]));
        assert_eq!(secret.string_data, None);
    }

    #[test]
    fn every_kind_decodes_and_knows_its_name() {
        for (api_version, kind) in KINDS {
            let value = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "x"}});
            let object = Object::from_value(&value).unwrap();
            assert_eq!((object.kind(), object.name()), (*kind, "x"));
            assert!(KIND_NAMES.contains(kind));
        }
        assert_eq!(KINDS.len(), KIND_NAMES.len());
    }
}
