//! `update` and `patch`, of objects and of their parts.

use std::sync::Arc;

use http::{Response, StatusCode};
use hyper::Request;
use serde_json::Value;

use super::super::body::Body;
use super::super::call::Call;
use super::super::receive;
use super::super::registry::{Class, Resource};
use super::super::respond::{Content, Form};
use super::super::status::{Reason, Status};
use super::super::{event_view, fields, json, patch as patches, shape, strategy};
use super::create::{decoded, document, durability, match_namespace};
use super::read::{show, stored, viewed};
use crate::store::{self, Object, StoreError};
use crate::stream::received::Received;

/// How often a change is made anew because somebody else was faster.
const ATTEMPTS_MAX: usize = 16;

/// The part of an object that a change is allowed to touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// All but the status.
    Main,
    Status,
    /// `pods/ephemeralcontainers`
    EphemeralContainers,
    /// `pods/resize`
    Resize,
    /// `namespaces/finalize`
    Finalize,
    /// `pods/binding`
    Binding,
}

impl Part {
    /// By the name of the subresource.
    pub(crate) fn of(subresource: Option<&str>) -> Option<Self> {
        match subresource {
            None => Some(Self::Main),
            Some("status") => Some(Self::Status),
            Some("ephemeralcontainers") => Some(Self::EphemeralContainers),
            Some("resize") => Some(Self::Resize),
            Some("finalize") => Some(Self::Finalize),
            Some(_) => None,
        }
    }

    /// The name of the subresource, by which changes are remembered; empty for the object itself.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Main => "",
            Self::Status => "status",
            Self::EphemeralContainers => "ephemeralcontainers",
            Self::Resize => "resize",
            Self::Finalize => "finalize",
            Self::Binding => "binding",
        }
    }
}

/// How the fields that a request sets come to be owned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Who changes a field owns it.
    Update,
    /// The owners are settled already.
    Apply,
}

fn part(call: &Call) -> Result<Part, Status> {
    Part::of(call.target.subresource.as_deref()).ok_or_else(Status::method_not_allowed)
}

pub(crate) async fn update(call: &Call, request: Request<Received>) -> Result<Response<Body>, Status> {
    let name = call.target.object()?.to_owned();
    let part = part(call)?;
    let document = document(call, request).await?;
    let mut value = decoded(call, document)?;
    match_namespace(call, &mut value)?;
    let own = fields::text(&value, &["metadata", "name"]);
    if own != name {
        let message = match own {
            "" => format!("the name of the object (based on URL) was undeterminable: name must be provided ({name})"),
            own => format!("the name of the object ({own}) does not match the name on the URL ({name})"),
        };
        return Err(Status::bad_request(message));
    }
    let changed = change(call, &name, part, Origin::Update, |_| Ok(value.clone())).await?;
    Ok(call.reply(StatusCode::OK, content(call, &changed)))
}

pub(crate) async fn patch(call: &Call, request: Request<Received>) -> Result<Response<Body>, Status> {
    let name = call.target.object()?.to_owned();
    let part = part(call)?;
    let media = receive::media(request.headers()).to_owned();
    let body = receive::read(request.into_body()).await?;
    if media == "application/apply-patch+yaml" {
        return shape::apply(call, &name, part, &body).await;
    }
    let kind = Kind::of(&media)?;
    if call.query.get("force").is_some() {
        return Err(shape::no_force());
    }
    let patch =
        json::parse(&body).map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))?.value;
    let resource = call.target.resource.qualified();
    let make = |live: &Value| {
        let patched = match kind {
            Kind::Json => patches::json_patch(live, &patch),
            Kind::Merge => patches::merge_patch(live, &patch),
            Kind::Strategic => patches::strategic(&resource, live, &patch),
        };
        let value = patched.map_err(|error| shape::refused(&error))?;
        decoded(call, json::Document { value, duplicates: Vec::new() })
    };
    let changed = change(call, &name, part, Origin::Update, make).await?;
    Ok(call.reply(StatusCode::OK, content(call, &changed)))
}

#[derive(Clone, Copy)]
enum Kind {
    Json,
    Merge,
    Strategic,
}

impl Kind {
    fn of(media: &str) -> Result<Self, Status> {
        match media {
            "application/json-patch+json" => Ok(Self::Json),
            "application/merge-patch+json" => Ok(Self::Merge),
            "application/strategic-merge-patch+json" => Ok(Self::Strategic),
            _ => Err(Status::new(
                Reason::UnsupportedMediaType,
                "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml, application/strategic-merge-patch+json",
            )),
        }
    }
}

pub(crate) fn content(call: &Call, text: &Arc<str>) -> Content {
    let is_plain = call.accept.form == Form::Plain && call.target.resource.class == Class::Stored;
    if is_plain {
        return Content::Text(Arc::clone(text));
    }
    Content::Value(show(call, &serde_json::from_str(text).unwrap_or_default()))
}

/// Changes a stored object to what `make` makes of it, and answers what is stored then. `make` is asked again when
/// somebody else changed the object meanwhile.
///
/// # Errors
/// It isn't there, the client's version is not the stored one, or the change is not allowed.
pub(crate) async fn change(
    call: &Call,
    name: &str,
    part: Part,
    origin: Origin,
    make: impl Fn(&Value) -> Result<Value, Status>,
) -> Result<Arc<str>, Status> {
    let resource = call.target.resource;
    let is_dry = call.query.is_dry_run()?;
    for _ in 0..ATTEMPTS_MAX {
        let live = stored(call, name)?;
        let old = live.value();
        let mut new = make(&viewed(call, &old))?;
        if resource.class == Class::EventView {
            new = event_view::inward(&new);
        }
        check_identity(call, name, &live, &old, &new)?;
        let new = prepare(call, part, origin, &old, new)?;
        if is_same(&old, &new) {
            return Ok(live.text);
        }
        if is_dry {
            return Ok(new.to_string().into());
        }
        let (key, expected) = (live.key.clone(), Some(live.version));
        let change = if is_over(resource, &new) {
            store::Change::Delete { key, expected }
        } else {
            store::Change::Update { key, expected, value: new }
        };
        let result = call.state.store.commit(change, durability(resource.plural)).await;
        strategy::settled(call);
        match result {
            Ok(object) => return Ok(object.text),
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(Status::of_store(resource, name, &error)),
        }
    }
    Err(Status::modified(resource, name))
}

/// UP6: the version and the uid that the client names, if it does.
fn check_identity(call: &Call, name: &str, live: &Object, old: &Value, new: &Value) -> Result<(), Status> {
    let version = fields::text(new, &["metadata", "resourceVersion"]);
    if !version.is_empty() && version != live.version.to_string() {
        return Err(Status::modified(call.target.resource, name));
    }
    let (uid, own) = (fields::text(new, &["metadata", "uid"]), fields::text(old, &["metadata", "uid"]));
    if !uid.is_empty() && uid != own {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {own}");
        return Err(Status::conflict(call.target.resource, name, &why));
    }
    Ok(())
}

/// The new object with what a client may not change as it was; admitted and valid.
fn prepare(call: &Call, part: Part, origin: Origin, old: &Value, mut new: Value) -> Result<Value, Status> {
    let metadata = fields::metadata(&mut new);
    let before = &old["metadata"];
    for key in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "resourceVersion",
    ] {
        fields::copy(before, metadata, key);
    }
    check_finalizers(call, old, &new)?;
    keep_other_parts(call, part, old, &mut new);
    let mut new = strategy::update(call, part, old, new)?;
    count_generation(call, part, old, &mut new);
    match origin {
        Origin::Update => shape::own(call, part, Some(old), new),
        Origin::Apply => Ok(new),
    }
}

/// UP10: `status` and the rest are changed apart.
fn keep_other_parts(call: &Call, part: Part, old: &Value, new: &mut Value) {
    let resource = call.target.resource;
    match part {
        Part::Main if resource.has_status() => fields::copy(old, fields::entries(new), "status"),
        Part::Main | Part::Resize | Part::EphemeralContainers | Part::Finalize | Part::Binding => {}
        Part::Status => {
            let status = new.get("status").cloned();
            let metadata = new.get("metadata").cloned();
            *new = old.clone();
            let entries = fields::entries(new);
            let parts = [("status", status), ("metadata", metadata)];
            entries.extend(parts.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
        }
    }
}

/// DE6
fn check_finalizers(call: &Call, old: &Value, new: &Value) -> Result<(), Status> {
    if fields::text(old, &["metadata", "deletionTimestamp"]).is_empty() {
        return Ok(());
    }
    let list = |value: &Value| fields::at(value, &["metadata", "finalizers"]).and_then(Value::as_array).cloned();
    let before = list(old).unwrap_or_default();
    let added: Vec<Value> = list(new).unwrap_or_default().into_iter().filter(|name| !before.contains(name)).collect();
    if added.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = added.iter().filter_map(Value::as_str).collect();
    let detail =
        format!("no new finalizers can be added if the object is being deleted, found new finalizers {names:?}");
    Err(strategy::forbidden_field(call.target.resource, old, "metadata.finalizers", &detail))
}

/// GE2: a binding says where, it changes nothing of what is wanted.
fn count_generation(call: &Call, part: Part, old: &Value, new: &mut Value) {
    let counts = part != Part::Binding && call.target.resource.has_generation();
    if counts && old.get("spec") != new.get("spec") {
        let generation = fields::at(old, &["metadata", "generation"]).and_then(Value::as_i64).unwrap_or_default();
        fields::metadata(new).insert("generation".to_owned(), (generation + 1).into());
    }
}

/// Whether two objects differ in nothing but who wrote what when.
fn is_same(old: &Value, new: &Value) -> bool {
    let bare = |value: &Value| {
        let mut value = value.clone();
        fields::metadata(&mut value).remove("managedFields");
        value
    };
    old == new || bare(old) == bare(new) && !shape::has_new_owners(old, new)
}

/// Whether the last reason to keep a deleted object is gone. Pods and namespaces go when they are empty.
pub(crate) fn is_over(resource: &Resource, new: &Value) -> bool {
    let is_deleted = !fields::text(new, &["metadata", "deletionTimestamp"]).is_empty();
    let has_finalizers = fields::is_filled(new, &["metadata", "finalizers"]);
    let grace = fields::at(new, &["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64);
    let is_ready = match resource.plural {
        "namespaces" => !fields::is_filled(new, &["spec", "finalizers"]),
        "pods" => grace == Some(0),
        _ => true,
    };
    is_deleted && !has_finalizers && is_ready
}
