//! `list`: selectors, pages, versions.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::super::body::Body;
use super::super::call::Call;
use super::super::registry::Class;
use super::super::respond::{Content, Form};
use super::super::select::{Fields, Labels};
use super::super::shape;
use super::super::status::{Reason, Status};
use super::read::{show_text, viewed};
use crate::store::{Key, Object, Version};

/// Which objects are meant.
#[derive(Debug)]
pub(super) struct Selection {
    labels: Labels,
    fields: Fields,
    /// One name in the URL of a watch.
    name: Option<String>,
}

impl Selection {
    /// # Errors
    /// A selector can't be read.
    pub(super) fn of(call: &Call) -> Result<Self, Status> {
        let bad = |error: super::super::select::BadSelector| Status::bad_request(error.to_string());
        let labels = Labels::parse(call.query.get("labelSelector").unwrap_or_default()).map_err(bad)?;
        let text = call.query.get("fieldSelector").unwrap_or_default();
        let fields = Fields::parse(&call.target.resource.qualified(), text).map_err(bad)?;
        Ok(Self { labels, fields, name: call.target.name.clone() })
    }

    pub(super) fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty() && self.name.is_none()
    }

    /// Whether an object, as it is stored, is meant.
    pub(super) fn matches(&self, call: &Call, object: &Object) -> bool {
        if self.is_everything() {
            return true;
        }
        let fits = |wanted: Option<&str>| wanted.is_none_or(|wanted| *wanted == *object.key.name);
        if !fits(self.name.as_deref()) || !fits(self.fields.name()) {
            return false;
        }
        let value = viewed(call, &object.value());
        self.labels.matches(&value) && self.fields.matches(&value)
    }
}

/// The objects that a request means, by namespace and name, and the version of the view.
pub(super) fn selected(call: &Call, selection: &Selection) -> (Vec<Object>, Version) {
    let resource = call.target.resource;
    if resource.class == Class::Workload {
        return (Vec::new(), call.state.store.version());
    }
    let (objects, version) = call.state.store.list(&resource.storage(), call.target.namespace.as_deref());
    (objects.into_iter().filter(|object| selection.matches(call, object)).collect(), version)
}

pub(crate) fn list(call: &Call) -> Result<Response<Body>, Status> {
    let selection = Selection::of(call)?;
    check_version(call)?;
    let limit = call.query.number("limit")?.unwrap_or_default();
    let from = call.query.get("continue").map(Continue::parse).transpose()?;
    let (mut objects, mut version) = selected(call, &selection);
    if let Some(from) = &from {
        objects.retain(|object| from.is_before(&object.key));
        version = from.version;
    }
    let mut page = json!({"resourceVersion": version.to_string()});
    let limit = usize::try_from(limit).unwrap_or_default();
    if limit > 0 && objects.len() > limit {
        let rest = objects.split_off(limit);
        if let Some(last) = objects.last() {
            page["continue"] = Continue::after(version, &last.key).text().into();
        }
        if selection.is_everything() {
            page["remainingItemCount"] = rest.len().into();
        }
    }
    Ok(call.reply(StatusCode::OK, shown(call, &objects, &page)))
}

/// A list in the form that was asked for.
pub(super) fn shown(call: &Call, objects: &[Object], page: &Value) -> Content {
    let resource = call.target.resource;
    match call.accept.form {
        Form::Plain => {
            let items: Vec<_> = objects.iter().map(|object| show_text(call, object)).collect();
            let (kind, version) = (resource.list_kind(), resource.api_version());
            let text = format!(
                "{{\"kind\":\"{kind}\",\"apiVersion\":\"{version}\",\"metadata\":{page},\"items\":[{}]}}",
                items.join(",")
            );
            Content::Text(text.into())
        }
        Form::Table => {
            let values: Vec<Value> = objects.iter().map(|object| viewed(call, &object.value())).collect();
            Content::Value(shape::table(call, &values, page))
        }
        Form::Partial => {
            let items: Vec<Value> = objects.iter().map(|object| shape::partial(&object.value())).collect();
            Content::Value(json!({
                "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": page, "items": items,
            }))
        }
    }
}

/// The version that a client names; none for any.
///
/// # Errors
/// It is no number.
pub(super) fn version(call: &Call) -> Result<Option<Version>, Status> {
    let Some(text) = call.query.get("resourceVersion") else { return Ok(None) };
    let number: u64 = text.parse().map_err(|_| {
        let why = format!("strconv.ParseUint: parsing {text:?}: invalid syntax");
        Status::bad_request(format!("resourceVersion: Invalid value: {text:?}: {why}"))
    })?;
    Ok(Some(Version(number)).filter(|_| number > 0))
}

/// Every list shows the present. That is right for any version that is not newer, unless an exact one is asked for.
fn check_version(call: &Call) -> Result<(), Status> {
    let asked = version(call)?;
    let now = call.state.store.version();
    match (call.query.get("resourceVersionMatch"), asked) {
        (Some("Exact" | "NotOlderThan"), _) if call.query.get("resourceVersion").is_none() => {
            let why = "Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided";
            Err(invalid_options(&format!("resourceVersionMatch: {why}")))
        }
        (Some("Exact"), Some(asked)) if asked < now => {
            Err(Status::expired("The resourceVersion for the provided list is too old."))
        }
        (_, Some(asked)) if asked > now => Err(too_large(asked, now)),
        (None | Some("Exact" | "NotOlderThan"), _) => Ok(()),
        (Some(other), _) => Err(invalid_options(&format!(
            "resourceVersionMatch: Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\""
        ))),
    }
}

fn invalid_options(what: &str) -> Status {
    Status::new(Reason::Invalid, format!("ListOptions.meta.k8s.io \"\" is invalid: {what}"))
        .with_details(json!({"group": "meta.k8s.io", "kind": "ListOptions"}))
}

pub(super) fn too_large(asked: Version, now: Version) -> Status {
    let message = format!("Too large resource version: {asked}, current: {now}");
    Status::new(Reason::Timeout, &*message).with_details(json!({
        "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
        "retryAfterSeconds": 1,
    }))
}

/// Where the next page begins.
#[derive(Debug, PartialEq)]
struct Continue {
    version: Version,
    /// Namespace and name of the last object of the page before.
    namespace: String,
    name: String,
}

impl Continue {
    fn after(version: Version, key: &Key) -> Self {
        Self { version, namespace: (*key.namespace).to_owned(), name: (*key.name).to_owned() }
    }

    fn is_before(&self, key: &Key) -> bool {
        (&*self.namespace, &*self.name) < (&*key.namespace, &*key.name)
    }

    fn text(&self) -> String {
        let token = json!({"v": "meta.k8s.io/v1", "rv": self.version.0, "start": [self.namespace, self.name]});
        URL_SAFE_NO_PAD.encode(token.to_string())
    }

    fn parse(text: &str) -> Result<Self, Status> {
        let read = || {
            let token: Value =
                serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok()?).ok()?;
            Some(Self {
                version: Version(token["rv"].as_u64()?),
                namespace: token["start"][0].as_str()?.to_owned(),
                name: token["start"][1].as_str()?.to_owned(),
            })
        };
        read().ok_or_else(|| Status::bad_request("invalid continue token: continue key is not valid"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_begins_after_the_one_before() {
        let token = Continue::after(Version(7), &Key::new("pods", "b", "m"));
        assert_eq!(Continue::parse(&token.text()).unwrap(), token);
        for (namespace, name, expected) in [("a", "z", false), ("b", "m", false), ("b", "n", true), ("c", "a", true)] {
            assert_eq!(token.is_before(&Key::new("pods", namespace, name)), expected);
        }
        assert!(Continue::parse("broken").is_err());
    }
}
