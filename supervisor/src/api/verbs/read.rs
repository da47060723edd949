//! `get`, and the forms in which objects are shown.

use std::sync::Arc;

use http::{Response, StatusCode};
use serde_json::Value;

use super::super::body::Body;
use super::super::call::Call;
use super::super::registry::Class;
use super::super::respond::{Content, Form};
use super::super::status::Status;
use super::super::{event_view, shape};
use super::list::reached;
use crate::store::{Key, Object};

/// The key of an object of the resource that a request is for.
pub(super) fn key(call: &Call, name: &str) -> Key {
    Key::new(&call.target.resource.storage(), call.target.space(), name)
}

/// The stored object that a request is for.
pub(super) fn stored(call: &Call, name: &str) -> Result<Object, Status> {
    call.state.store.get(&key(call, name)).ok_or_else(|| Status::not_found(call.target.resource, name))
}

/// Whether there is such an object.
pub(crate) fn is_stored(call: &Call, name: &str) -> bool {
    call.state.store.get(&key(call, name)).is_some()
}

pub(crate) fn get(call: &Call) -> Result<Response<Body>, Status> {
    let name = call.target.object()?;
    reached(call)?;
    let object = stored(call, name)?;
    let content = match call.accept.form {
        Form::Plain => Content::Text(show_text(call, &object)),
        Form::Table | Form::Partial => Content::Value(show(call, &object.value())),
    };
    Ok(call.reply(StatusCode::OK, content))
}

/// A stored object's JSON as the resource of the request shows it.
pub(crate) fn show_text(call: &Call, object: &Object) -> Arc<str> {
    match call.target.resource.class {
        Class::EventView => event_view::outward(&object.value()).to_string().into(),
        Class::Stored | Class::Workload | Class::Review | Class::Metrics => Arc::clone(&object.text),
    }
}

/// One object in the form that was asked for.
pub(crate) fn show(call: &Call, value: &Value) -> Value {
    match call.accept.form {
        Form::Plain => viewed(call, value),
        Form::Table => shape::table_of_one(call, value),
        Form::Partial => shape::partial(call, value),
    }
}

pub(super) fn viewed(call: &Call, value: &Value) -> Value {
    match call.target.resource.class {
        Class::EventView => event_view::outward(value),
        Class::Stored | Class::Workload | Class::Review | Class::Metrics => value.clone(),
    }
}
