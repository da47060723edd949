//! Where requests meet the pure parts: tables, field owners, server-side apply.

use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::body::Body;
use super::call::Call;
use super::fields;
use super::patch::{self, Manager, PatchError};
use super::receive::{self, FieldValidation};
use super::respond::{Accept, Content};
use super::status::{Reason, Status};
use super::table::{self, Include};
use super::verbs::{self, Origin, Part};

fn include(call: &Call) -> Include {
    Include::parse(call.query.get("includeObject").unwrap_or_default()).unwrap_or_default()
}

/// The Table of a list.
pub(crate) fn table(call: &Call, objects: &[Value], page: &Value) -> Value {
    let value = table::table(&call.target.resource.qualified(), objects, page.clone(), call.now, include(call));
    versioned(call, value)
}

/// The Table of one object.
pub(crate) fn table_of_one(call: &Call, object: &Value) -> Value {
    let metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
    versioned(call, table::table(&call.target.resource.qualified(), [object], metadata, call.now, include(call)))
}

/// The Table of one change in a watch.
pub(crate) fn row(call: &Call, object: &Value, is_first: bool) -> Value {
    versioned(call, table::watched(&call.target.resource.qualified(), object, call.now, include(call), is_first))
}

/// A Table in the version that the client asked for, with what is in its rows.
fn versioned(call: &Call, mut table: Value) -> Value {
    let is_old = call.accept.meta != Accept::plain().meta;
    let rows = table.get_mut("rows").and_then(Value::as_array_mut).filter(|_| is_old);
    for row in rows.into_iter().flatten() {
        if fields::text(row, &["object", "kind"]) == "PartialObjectMetadata" {
            row["object"]["apiVersion"] = call.accept.meta.into();
        }
    }
    table["apiVersion"] = call.accept.meta.into();
    table
}

/// A patch that can't be applied.
pub(crate) fn refused(error: &PatchError) -> Status {
    let reason = match error {
        PatchError::Bad(_) => Reason::BadRequest,
        PatchError::Unprocessable { .. } => Reason::Invalid,
        PatchError::TooLarge(_) => Reason::TooLarge,
        PatchError::Conflict(_) => Reason::Conflict,
    };
    let status = Status::new(reason, error.to_string());
    match error {
        PatchError::Conflict(conflicts) => {
            let causes: Vec<Value> = conflicts
                .iter()
                .map(|c| json!({"reason": "FieldManagerConflict", "message": c.message(), "field": c.path}))
                .collect();
            status.with_details(json!({"causes": causes}))
        }
        PatchError::Bad(_) | PatchError::Unprocessable { .. } | PatchError::TooLarge(_) => status,
    }
}

/// Bytes of a field manager's name.
const MANAGER_MAX: usize = 128;

/// The name by which the client's changes are remembered.
fn manager(call: &Call) -> Result<&str, Status> {
    let name = call.query.get("fieldManager").unwrap_or(&call.agent);
    if name.len() > MANAGER_MAX || name.chars().any(char::is_control) {
        let message = format!("fieldManager: Invalid value: {name:?}: must have at most {MANAGER_MAX} printable bytes");
        return Err(Status::new(Reason::Invalid, message));
    }
    Ok(name)
}

/// Writes down in `managedFields` what the request sets, that part of an object that `before` had otherwise.
///
/// # Errors
/// The client's name for itself can't be used.
pub(crate) fn own(call: &Call, part: Part, before: Option<&Value>, new: Value) -> Result<Value, Status> {
    let resource = call.target.resource;
    let api_version = resource.api_version();
    let manager = Manager { name: manager(call)?, api_version: &api_version, subresource: part.text(), now: call.now };
    Ok(patch::managed_update(&resource.qualified(), before, new, &manager))
}

/// Whether other managers own other fields than before; the time counts for nothing.
pub(crate) fn has_new_owners(old: &Value, new: &Value) -> bool {
    let owners = |value: &Value| {
        let mut list = fields::at(value, &["metadata", "managedFields"]).cloned().unwrap_or_default();
        for entry in list.as_array_mut().into_iter().flatten() {
            fields::entries(entry).remove("time");
        }
        list
    };
    owners(old) != owners(new)
}

/// Server-side apply: what a client sends is what it wants to own.
///
/// # Errors
/// The configuration is malformed, or others own what it changes.
pub(crate) async fn apply(call: &Call, name: &str, part: Part, body: &[u8]) -> Result<Response<Body>, Status> {
    if call.query.get("fieldManager").is_none() {
        return Err(no_manager());
    }
    let config = configuration(call, name, body)?;
    let api_version = call.target.resource.api_version();
    let manager = Manager { name: manager(call)?, api_version: &api_version, subresource: part.text(), now: call.now };
    let resource = call.target.resource.qualified();
    let is_forced = call.query.flag("force");
    let applied = |live: Option<&Value>| {
        patch::apply(&resource, live, &config, &manager, is_forced).map_err(|error| refused(&error))
    };
    let is_there = verbs::is_stored(call, name);
    if part == Part::Main && !is_there {
        let mut value = applied(None)?;
        fields::metadata(&mut value).insert("name".to_owned(), name.into());
        let stored = verbs::store_new(call, decoded(call, value)?, Origin::Apply).await?;
        return Ok(call.reply(StatusCode::CREATED, Content::Value(verbs::show(call, &stored))));
    }
    let make = |live: &Value| decoded(call, applied(Some(live))?);
    let changed = verbs::change(call, name, part, Origin::Apply, make).await?;
    Ok(call.reply(StatusCode::OK, verbs::content(call, &changed)))
}

fn no_manager() -> Status {
    bad_option("fieldManager", "FieldValueRequired", "Required value: is required for apply patch")
}

/// Only server-side apply takes fields from others.
pub(crate) fn no_force() -> Status {
    bad_option("force", "FieldValueForbidden", "Forbidden: may not be specified for non-apply patch")
}

fn bad_option(field: &str, reason: &str, why: &str) -> Status {
    let cause = json!({"reason": reason, "message": why, "field": field});
    let message = format!("PatchOptions.meta.k8s.io \"\" is invalid: {field}: {why}");
    let details = json!({"group": "meta.k8s.io", "kind": "PatchOptions", "causes": [cause]});
    Status::new(Reason::Invalid, message).with_details(details)
}

/// The object that a client applies, as it wrote it: what it leaves out must stay out.
fn configuration(call: &Call, name: &str, body: &[u8]) -> Result<Value, Status> {
    let document = receive::from_yaml(body, call.target.resource.kind)?;
    let config = document.value.clone();
    verbs::decoded(call, document)?;
    let own = fields::text(&config, &["metadata", "name"]);
    if !own.is_empty() && own != name {
        let message = format!("the name of the object ({own}) does not match the name on the URL ({name})");
        return Err(Status::bad_request(message));
    }
    let namespace = fields::text(&config, &["metadata", "namespace"]);
    if !namespace.is_empty() && namespace != call.target.space() {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(config)
}

/// An object that was put together from parts that were checked.
fn decoded(call: &Call, value: Value) -> Result<Value, Status> {
    let document = super::json::Document { value, duplicates: Vec::new() };
    receive::object(call.target.resource, document, FieldValidation::Ignore, &mut Vec::new())
}

/// Metadata alone.
pub(crate) fn partial(call: &Call, object: &Value) -> Value {
    let metadata = fields::at(object, &["metadata"]).cloned().unwrap_or_else(|| json!({}));
    json!({"kind": "PartialObjectMetadata", "apiVersion": call.accept.meta, "metadata": metadata})
}
