//! `list`: selectors, pages, versions.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::body::Body;
use super::super::call::Call;
use super::super::registry::Class;
use super::super::respond::{Content, Form};
use super::super::select::{Fields, Labels};
use super::super::shape;
use super::super::status::{Reason, Status};
use super::read::{show_text, viewed};
use crate::store::{Key, Object, StoreError, Version};

/// How long a `continue` token may be used: the time between two compactions of a cluster's storage.
const CONTINUE_SECONDS: i64 = 300;

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
    pub(super) fn matches(&self, object: &Object) -> bool {
        if self.is_everything() {
            return true;
        }
        let fits = |wanted: Option<&str>| wanted.is_none_or(|wanted| *wanted == *object.key.name);
        if !fits(self.name.as_deref()) || !fits(self.fields.name()) {
            return false;
        }
        let value = object.value();
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
    (objects.into_iter().filter(|object| selection.matches(object)).collect(), version)
}

/// [`selected`] as it was at a version.
fn selected_at(call: &Call, selection: &Selection, version: Version) -> Result<Vec<Object>, StoreError> {
    let resource = call.target.resource;
    if resource.class == Class::Workload {
        return Ok(Vec::new());
    }
    let objects = call.state.store.list_at(&resource.storage(), call.target.namespace.as_deref(), version)?;
    Ok(objects.into_iter().filter(|object| selection.matches(object)).collect())
}

pub(crate) fn list(call: &Call) -> Result<Response<Body>, Status> {
    let selection = Selection::of(call)?;
    let limit = usize::try_from(call.query.number("limit")?.unwrap_or_default()).unwrap_or_default();
    let (mut objects, version) = match call.query.get("continue") {
        Some(token) => go_on(call, &selection, &Continue::parse(token)?)?,
        None => begin(call, &selection)?,
    };
    let mut page = json!({"resourceVersion": version.to_string()});
    if limit > 0 && objects.len() > limit {
        let rest = objects.split_off(limit);
        if let Some(last) = objects.last() {
            page["continue"] = Continue::after(Some(version), &last.key, call.now).text().into();
        }
        if selection.is_everything() {
            page["remainingItemCount"] = rest.len().into();
        }
    }
    Ok(call.reply(StatusCode::OK, shown(call, &objects, &page)))
}

/// The first page, or the whole list.
fn begin(call: &Call, selection: &Selection) -> Result<(Vec<Object>, Version), Status> {
    let Some(exact) = exact_version(call)? else { return Ok(selected(call, selection)) };
    let too_old = |_| Status::expired("The resourceVersion for the provided list is too old.");
    Ok((selected_at(call, selection, exact).map_err(too_old)?, exact))
}

/// A further page shows what the first one would have shown.
fn go_on(call: &Call, selection: &Selection, from: &Continue) -> Result<(Vec<Object>, Version), Status> {
    if call.query.get("resourceVersionMatch").is_some() {
        return Err(invalid_options("resourceVersionMatch", &forbidden("is forbidden when continue is provided")));
    }
    if version(call)?.is_some() {
        return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
    }
    if from.is_stale(call.now) {
        return Err(too_old_to_go_on(from));
    }
    let (objects, version) = match from.version {
        None => selected(call, selection),
        Some(version) => (selected_at(call, selection, version).map_err(|_| too_old_to_go_on(from))?, version),
    };
    Ok((objects.into_iter().filter(|object| from.is_before(&object.key)).collect(), version))
}

/// With a token that goes on in the present, for clients that can live with that.
fn too_old_to_go_on(from: &Continue) -> Status {
    let mut status = Status::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    );
    let anew = Continue { version: None, given: 0, namespace: from.namespace.clone(), name: from.name.clone() };
    status.next = Some(anew.text().into());
    status
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
            let items: Vec<Value> = objects.iter().map(|object| shape::partial(call, &object.value())).collect();
            Content::Value(json!({
                "kind": "PartialObjectMetadataList", "apiVersion": call.accept.meta, "metadata": page, "items": items,
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

/// The version that a list has to be of; none when the present will do, as it does for any version that is not newer.
fn exact_version(call: &Call) -> Result<Option<Version>, Status> {
    let asked = version(call)?;
    let given = call.query.get("resourceVersion");
    if call.query.get("sendInitialEvents").is_some() {
        return Err(invalid_options("sendInitialEvents", "Forbidden: sendInitialEvents is forbidden for list"));
    }
    let is_exact = match (call.query.get("resourceVersionMatch"), given) {
        (Some(_), None) => {
            return Err(invalid_options(
                "resourceVersionMatch",
                &forbidden("is forbidden unless resourceVersion is provided"),
            ));
        }
        (Some("Exact"), Some("0")) => {
            let why = "Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
            return Err(invalid_options("resourceVersionMatch", why));
        }
        (Some("Exact"), Some(_)) => true,
        (None | Some("NotOlderThan"), _) => false,
        (Some(other), _) => {
            let why = format!("Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\"");
            return Err(invalid_options("resourceVersionMatch", &why));
        }
    };
    reached(call)?;
    Ok(asked.filter(|_| is_exact))
}

/// What a rule about `resourceVersionMatch` says.
pub(super) fn forbidden(rule: &str) -> String {
    format!("Forbidden: resourceVersionMatch {rule}")
}

/// Options of a list or a watch that don't go together.
pub(super) fn invalid_options(field: &str, why: &str) -> Status {
    Status::new(Reason::Invalid, format!("ListOptions.meta.k8s.io \"\" is invalid: {field}: {why}"))
        .with_details(json!({"group": "meta.k8s.io", "kind": "ListOptions"}))
}

/// That there is such a version already.
///
/// # Errors
/// There isn't.
pub(super) fn reached(call: &Call) -> Result<(), Status> {
    let now = call.state.store.version();
    match version(call)? {
        Some(asked) if asked > now => Err(too_large(asked, now)),
        Some(_) | None => Ok(()),
    }
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
    /// Of the first page; none to go on in the present.
    version: Option<Version>,
    /// Seconds since 1970.
    given: i64,
    /// Namespace and name of the last object of the page before.
    namespace: String,
    name: String,
}

impl Continue {
    fn after(version: Option<Version>, key: &Key, now: Timestamp) -> Self {
        let (namespace, name) = ((*key.namespace).to_owned(), (*key.name).to_owned());
        Self { version, given: now.as_second(), namespace, name }
    }

    /// Whether a cluster would have forgotten the version meanwhile. The present never is.
    fn is_stale(&self, now: Timestamp) -> bool {
        self.version.is_some() && now.as_second().saturating_sub(self.given) > CONTINUE_SECONDS
    }

    fn is_before(&self, key: &Key) -> bool {
        (&*self.namespace, &*self.name) < (&*key.namespace, &*key.name)
    }

    fn text(&self) -> String {
        let token = json!({"v": "meta.k8s.io/v1", "rv": self.version.map_or(json!(-1), |version| json!(version.0)), "t": self.given, "start": [self.namespace, self.name]});
        URL_SAFE_NO_PAD.encode(token.to_string())
    }

    fn parse(text: &str) -> Result<Self, Status> {
        let read = || {
            let token: Value =
                serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok()?).ok()?;
            Some(Self {
                version: match token["rv"].as_i64()? {
                    -1 => None,
                    version => Some(Version(u64::try_from(version).ok()?)),
                },
                given: token["t"].as_i64().unwrap_or_default(),
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

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_token_that_nobody_uses_ends() {
        let token = |version| Continue::after(version, &Key::new("pods", "b", "m"), at(1000));
        let end = 1000 + CONTINUE_SECONDS;
        assert!(!token(Some(Version(7))).is_stale(at(end)) && token(Some(Version(7))).is_stale(at(end + 1)));
        assert!(!token(None).is_stale(at(end + 1)));
        let anew = Continue::parse(&too_old_to_go_on(&token(Some(Version(7)))).next.unwrap()).unwrap();
        assert_eq!((anew.version, anew.is_stale(at(end + 1))), (None, false));
    }

    #[test]
    fn a_page_begins_after_the_one_before() {
        let token = Continue::after(Some(Version(7)), &Key::new("pods", "b", "m"), at(1000));
        assert_eq!(Continue::parse(&token.text()).unwrap(), token);
        for (namespace, name, expected) in [("a", "z", false), ("b", "m", false), ("b", "n", true), ("c", "a", true)] {
            assert_eq!(token.is_before(&Key::new("pods", namespace, name)), expected);
        }
        assert!(Continue::parse("broken").is_err());
    }
}
