//! `create`.

use http::{Response, StatusCode};
use hyper::Request;
use serde_json::Value;

use super::super::body::Body;
use super::super::call::Call;
use super::super::receive::{self, FieldValidation};
use super::super::registry::Class;
use super::super::respond::Content;
use super::super::status::Status;
use super::super::{event_view, fields, json, keep, shape, strategy};
use super::change::{Origin, Part};
use super::read::show;
use crate::manifest;
use crate::store::{self, Durability, Key, StoreError};
use crate::stream::received::Received;

/// Names that are tried for one `generateName`.
const NAMES_MAX: usize = 8;
/// Characters of a `generateName` that are used (VA1).
const BASE_MAX: usize = 58;

/// Reads the object in a request.
pub(super) async fn document(call: &Call, request: Request<Received>) -> Result<json::Document, Status> {
    let media = receive::media(request.headers()).to_owned();
    let body = receive::read(request.into_body()).await?;
    receive::document(&media, &body, call.target.resource.kind)
}

/// An object out of a document, as strictly as the client wants.
pub(crate) fn decoded(call: &Call, document: json::Document) -> Result<Value, Status> {
    let validation = FieldValidation::parse(call.query.get("fieldValidation"))?;
    let mut warnings = Vec::new();
    let value = receive::object(call.target.resource, document, validation, &mut warnings);
    warnings.into_iter().for_each(|text| call.warn(text));
    value
}

pub(crate) async fn create(call: &Call, request: Request<Received>) -> Result<Response<Body>, Status> {
    let document = document(call, request).await?;
    let value = decoded(call, document)?;
    let stored = store_new(call, value, Origin::Update).await?;
    Ok(call.reply(StatusCode::CREATED, Content::Value(show(call, &stored))))
}

/// What nothing here acts on is not stored, in whichever way it is written.
fn must_be_kept(call: &Call, value: &Value) -> Result<(), Status> {
    let resource = call.target.resource;
    if resource.class != Class::Workload {
        return Ok(());
    }
    Err(Status::forbidden(resource, fields::text(value, &["metadata", "name"]), unkept(resource.kind)))
}

/// Only some of these kinds say what pods they would make.
fn unkept(kind: &str) -> String {
    if manifest::WORKLOADS.contains(&kind) {
        return format!("Monopod runs Pods, not {kind}s: create the Pod of its spec.template instead (kind: Pod)");
    }
    let plural = match kind.strip_suffix('y') {
        Some(stem) => format!("{stem}ies"),
        None if kind.ends_with('s') => format!("{kind}es"),
        None => format!("{kind}s"),
    };
    format!("Monopod runs Pods, not {plural}: nothing here would act on it")
}

/// Stores an object that passed its type: fills in what the server decides, admits, validates, writes.
pub(crate) async fn store_new(call: &Call, mut value: Value, origin: Origin) -> Result<Value, Status> {
    let resource = call.target.resource;
    must_be_kept(call, &value)?;
    identify(call, &mut value)?;
    if resource.class == Class::EventView {
        value = event_view::inward(&value);
    }
    let is_dry = call.query.is_dry_run()?;
    let is_generated = fields::text(&value, &["metadata", "name"]).is_empty();
    for attempt in 1.. {
        let named = with_name(value.clone(), is_generated);
        let named = strategy::defaulted(call, named)?;
        // What admission adds belongs to nobody.
        let owned = match origin {
            Origin::Update => shape::own(call, Part::Main, None, named)?,
            Origin::Apply => named,
        };
        let prepared = strategy::create(call, owned)?;
        let name = fields::text(&prepared, &["metadata", "name"]).to_owned();
        let key = Key::new(&resource.storage(), call.target.space(), &name);
        let existing = call.state.store.get(&key);
        let result = match (is_dry, existing) {
            (true, None) => return Ok(prepared),
            (_, Some(_)) => Err(StoreError::Exists(key)),
            (false, None) => {
                let change = store::Change::Create { key, value: prepared };
                call.state.store.commit(change, durability(resource.plural)).await
            }
        };
        strategy::settled(call);
        match result {
            Ok(object) => {
                furnish(call, &object).await;
                return Ok(object.value());
            }
            Err(StoreError::Exists(_)) if is_generated && attempt < NAMES_MAX => {}
            Err(StoreError::Exists(key)) => return Err(exists(call, &key)),
            Err(error) => return Err(Status::of_store(resource, &name, &error)),
        }
    }
    Err(Status::internal("no name was free"))
}

/// Whoever was told that there is a namespace can create pods in it.
async fn furnish(call: &Call, object: &store::Object) {
    if call.target.resource.plural == "namespaces"
        && let Err(error) = keep::furnish(&call.state, &object.key.name).await
    {
        tracing::warn!("namespace {}: {error}, ignoring: it is tried again", object.key.name);
    }
}

/// VA16
fn exists(call: &Call, key: &Key) -> Status {
    let object = call.state.store.get(key).map(|object| object.value()).unwrap_or_default();
    let is_terminating = !fields::text(&object, &["metadata", "deletionTimestamp"]).is_empty();
    Status::already_exists(call.target.resource, &key.name, is_terminating)
}

/// Events come again; all else was promised to somebody.
pub(super) fn durability(plural: &str) -> Durability {
    if plural == "events" { Durability::Kernel } else { Durability::Disk }
}

/// Fills in what the server decides: namespace, uid, time of creation.
fn identify(call: &Call, value: &mut Value) -> Result<(), Status> {
    match_namespace(call, value)?;
    if !fields::text(value, &["metadata", "resourceVersion"]).is_empty() {
        return Err(Status::bad_request("resourceVersion should not be set on objects to be created"));
    }
    let (name, prefix) =
        (fields::text(value, &["metadata", "name"]), fields::text(value, &["metadata", "generateName"]));
    if name.is_empty() && prefix.is_empty() {
        return Err(strategy::required(call.target.resource, "metadata.name", "name or generateName is required"));
    }
    let metadata = fields::metadata(value);
    for key in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion"] {
        metadata.remove(key);
    }
    metadata.insert("uid".to_owned(), uuid::Uuid::new_v4().to_string().into());
    metadata.insert("creationTimestamp".to_owned(), fields::time(call.now));
    if call.target.resource.has_generation() {
        metadata.insert("generation".to_owned(), 1.into());
    } else {
        metadata.remove("generation");
    }
    Ok(())
}

/// The namespace of an object is that of the URL.
pub(super) fn match_namespace(call: &Call, value: &mut Value) -> Result<(), Status> {
    let own = fields::text(value, &["metadata", "namespace"]).to_owned();
    if !call.target.resource.is_namespaced {
        fields::metadata(value).remove("namespace");
        return Ok(());
    }
    let Some(namespace) = &call.target.namespace else {
        return Err(Status::bad_request("an empty namespace may not be set during creation"));
    };
    if !own.is_empty() && own != *namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    fields::metadata(value).insert("namespace".to_owned(), namespace.as_str().into());
    Ok(())
}

fn with_name(mut value: Value, is_generated: bool) -> Value {
    if is_generated {
        let base: String = fields::text(&value, &["metadata", "generateName"]).chars().take(BASE_MAX).collect();
        let name = format!("{base}{}", fields::suffix());
        fields::metadata(&mut value).insert("name".to_owned(), name.into());
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_a_template_where_there_is_one() {
        let expected = "Monopod runs Pods, not Jobs: create the Pod of its spec.template instead (kind: Pod)";
        assert_eq!(unkept("Job"), expected);
        for (kind, plural) in [
            ("PodDisruptionBudget", "PodDisruptionBudgets"),
            ("Ingress", "Ingresses"),
            ("NetworkPolicy", "NetworkPolicies"),
        ] {
            assert_eq!(unkept(kind), format!("Monopod runs Pods, not {plural}: nothing here would act on it"));
        }
    }
}
