//! What is particular to a kind: defaults, admission, validation, what may change. Everything here is synchronous, so that
//! what is checked is still so when the change is queued.

mod namespace;
mod pod;
mod priority;
mod quota;
mod rules;
mod service;

pub(crate) use quota::usage;

use k8s_openapi::api::core::v1::{
    ConfigMap, LimitRange, Namespace, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::call::Call;
use super::fields;
use super::registry::{Class, Resource};
use super::status::Status;
use super::verbs::Part;
use crate::admission::defaults;
use crate::admission::validate::{self, ErrorKind, FieldError, Invalid};
use crate::manifest::{self, Object};
use crate::volume::claims;

/// An object that was decoded, as its type.
fn typed<T: DeserializeOwned>(value: &Value) -> Result<T, Status> {
    manifest::typed::read(value).map_err(Status::internal)
}

/// An object as JSON.
fn json(object: &impl Serialize) -> Result<Value, Status> {
    let mut value = serde_json::to_value(object).map_err(Status::internal)?;
    manifest::typed::mark_unset_times(&mut value);
    Ok(value)
}

/// What a client meant that left fields out. The status of a new object is not the client's.
///
/// # Errors
/// It can't be read as its type.
pub(crate) fn defaulted(call: &Call, mut value: Value) -> Result<Value, Status> {
    let resource = call.target.resource;
    if resource.has_status() {
        fields::entries(&mut value).remove("status");
    }
    match known(resource, &value)? {
        Some(mut object) => {
            defaults::object(&mut object);
            back(&object)
        }
        None => rules::defaulted(resource, value),
    }
}

/// Admits an object that is to be created, named and with its uid, and answers it as it is to be stored.
///
/// # Errors
/// It may not be stored.
pub(crate) fn create(call: &Call, value: Value) -> Result<Value, Status> {
    let resource = call.target.resource;
    namespace::must_take(call, &value)?;
    let value = match (resource.group, resource.plural) {
        ("", "pods") => {
            let value = pod::create(call, value)?;
            quota::check(call, &value, None)?;
            return Ok(value);
        }
        ("", "services") => service::create(call, value)?,
        ("", "namespaces") => namespace::create(value)?,
        ("", "persistentvolumeclaims") => pending(value, claims::CLAIM_PROTECTION),
        ("", "persistentvolumes") => pending(value, claims::VOLUME_PROTECTION),
        ("scheduling.k8s.io", "priorityclasses") => {
            priority::only_default(call, &value)?;
            value
        }
        _ => value,
    };
    let value = valid(call, None, value)?;
    quota::check(call, &value, None)?;
    Ok(value)
}

/// Admits a change.
///
/// # Errors
/// It may not be made.
pub(crate) fn update(call: &Call, part: Part, old: &Value, new: Value) -> Result<Value, Status> {
    let resource = call.target.resource;
    match (resource.group, resource.plural, part) {
        ("", "pods", _) => pod::update(call, part, old, new),
        // The node and other controllers write it; a type is all it needs.
        (_, _, Part::Status) => Ok(new),
        ("", "namespaces", Part::Finalize) => Ok(new),
        ("", "namespaces", _) => namespace::update(call, old, new),
        ("", "services", _) => {
            let new = service::update(call, old, new)?;
            quota::check(call, &new, Some(old))?;
            Ok(new)
        }
        ("", "secrets" | "configmaps", _) => {
            immutable(resource, old, &new)?;
            valid(call, Some(old), new)
        }
        ("scheduling.k8s.io", "priorityclasses", _) => {
            let new = valid(call, Some(old), new)?;
            priority::only_default(call, &new)?;
            Ok(new)
        }
        _ => valid(call, Some(old), new),
    }
}

/// What was reserved for a change is stored, or free again.
pub(crate) fn settled(call: &Call) {
    if call.target.resource.plural == "services" {
        service::settled(call);
    }
}

/// Whether an object may be deleted at all.
///
/// # Errors
/// It must stay.
pub(crate) fn may_delete(call: &Call, name: &str) -> Result<(), Status> {
    namespace::may_delete(call.target.resource, name)?;
    priority::may_delete(call.target.resource, name)
}

/// Defaults and validation of the kinds that the node knows; metadata for the rest.
fn valid(call: &Call, old: Option<&Value>, value: Value) -> Result<Value, Status> {
    let resource = call.target.resource;
    let name = fields::text(&value, &["metadata", "name"]).to_owned();
    let refused = |invalid: &Invalid| Status::invalid(resource, &name, invalid);
    let Some(mut object) = known(resource, &value)? else {
        let metadata = typed(&value["metadata"])?;
        // Names of events are made of what they are about, and need not be pretty.
        validate::validate_metadata(&metadata, resource.is_namespaced).map_err(|invalid| refused(&invalid))?;
        let value = rules::defaulted(resource, value)?;
        let old = old.map(|old| rules::defaulted(resource, old.clone())).transpose()?;
        rules::check(resource, old.as_ref(), &value)?.map_err(|invalid| refused(&invalid))?;
        return Ok(value);
    };
    defaults::object(&mut object);
    match old.map(|old| known(resource, old)).transpose()?.flatten() {
        Some(mut before) => {
            defaults::object(&mut before);
            validate::validate_change(&before, &object)
        }
        None => validate::validate(&object),
    }
    .map_err(|invalid| refused(&invalid))?;
    back(&object)
}

/// The object as one of the kinds that have rules.
fn known(resource: &Resource, value: &Value) -> Result<Option<Object>, Status> {
    if resource.class != Class::Stored {
        return Ok(None);
    }
    fn boxed<T: DeserializeOwned>(value: &Value) -> Result<Box<T>, Status> {
        typed(value).map(Box::new)
    }
    Ok(Some(match (resource.group, resource.plural) {
        ("", "configmaps") => Object::ConfigMap(boxed::<ConfigMap>(value)?),
        ("", "secrets") => Object::Secret(Box::new(merged(typed(value)?))),
        ("", "namespaces") => Object::Namespace(boxed::<Namespace>(value)?),
        ("", "serviceaccounts") => Object::ServiceAccount(boxed::<ServiceAccount>(value)?),
        ("", "persistentvolumes") => Object::PersistentVolume(boxed::<PersistentVolume>(value)?),
        ("", "persistentvolumeclaims") => Object::PersistentVolumeClaim(boxed::<PersistentVolumeClaim>(value)?),
        ("", "services") => Object::Service(boxed::<Service>(value)?),
        ("", "limitranges") => Object::LimitRange(boxed::<LimitRange>(value)?),
        ("", "pods") => Object::Pod(boxed::<Pod>(value)?),
        ("scheduling.k8s.io", "priorityclasses") => Object::PriorityClass(boxed::<PriorityClass>(value)?),
        _ => return Ok(None),
    }))
}

fn back(object: &Object) -> Result<Value, Status> {
    match object {
        Object::Pod(object) => json(object),
        Object::ConfigMap(object) => json(object),
        Object::Secret(object) => json(object),
        Object::Namespace(object) => json(object),
        Object::ServiceAccount(object) => json(object),
        Object::PriorityClass(object) => json(object),
        Object::PersistentVolumeClaim(object) => json(object),
        Object::PersistentVolume(object) => json(object),
        Object::Service(object) => json(object),
        Object::LimitRange(object) => json(object),
    }
}

/// `stringData` is for writing only; it wins over `data`.
fn merged(mut secret: Secret) -> Secret {
    if let Some(texts) = secret.string_data.take() {
        let bytes = texts.into_iter().map(|(key, text)| (key, k8s_openapi::ByteString(text.into_bytes())));
        secret.data.get_or_insert_default().extend(bytes);
    }
    secret
}

/// A ConfigMap or Secret that was made immutable stays so.
fn immutable(resource: &Resource, old: &Value, new: &Value) -> Result<(), Status> {
    let flag = |value: &Value| fields::at(value, &["immutable"]).and_then(Value::as_bool) == Some(true);
    if resource.plural == "secrets" && old.get("type") != new.get("type") && new.get("type").is_some() {
        let name = fields::text(old, &["metadata", "name"]);
        let value = fields::text(new, &["type"]).into();
        return Err(one_error(resource, name, "type", ErrorKind::Invalid { value }, "field is immutable"));
    }
    if !flag(old) {
        return Ok(());
    }
    if !flag(new) {
        return Err(forbidden_field(resource, old, "immutable", "field is immutable when `immutable` is set"));
    }
    for key in ["data", "binaryData"] {
        let differs = fields::at(old, &[key]) != fields::at(new, &[key]);
        if differs || (key == "data" && fields::is_filled(new, &["stringData"])) {
            return Err(forbidden_field(resource, old, key, "field is immutable when `immutable` is set"));
        }
    }
    Ok(())
}

/// Storage that nobody has looked at yet, with what keeps it while it is used.
fn pending(mut value: Value, finalizer: &str) -> Value {
    fields::entries(&mut value).insert("status".to_owned(), serde_json::json!({"phase": "Pending"}));
    let finalizers = fields::metadata(&mut value).entry("finalizers").or_insert(Value::Null);
    if finalizers.is_null() {
        *finalizers = Value::Array(Vec::new());
    }
    if let Some(finalizers) = finalizers.as_array_mut()
        && !finalizers.iter().any(|name| name == finalizer)
    {
        finalizers.push(finalizer.into());
    }
    value
}

/// One field that may not be changed so.
pub(crate) fn forbidden_field(resource: &Resource, object: &Value, field: &str, detail: &str) -> Status {
    one_error(resource, fields::text(object, &["metadata", "name"]), field, ErrorKind::Forbidden, detail)
}

/// One field that is missing.
pub(crate) fn required(resource: &Resource, field: &str, detail: &str) -> Status {
    one_error(resource, "", field, ErrorKind::Required, detail)
}

fn one_error(resource: &Resource, name: &str, field: &str, kind: ErrorKind, detail: &str) -> Status {
    let error = FieldError { path: field.to_owned(), kind, detail: detail.to_owned() };
    Status::invalid(resource, name, &Invalid(vec![error]))
}

/// A request that admission refuses.
fn forbidden(call: &Call, name: &str, why: impl std::fmt::Display) -> Status {
    Status::forbidden(call.target.resource, name, why)
}
