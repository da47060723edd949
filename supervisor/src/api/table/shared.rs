//! What the cells of several resources have in common, and the resources that have little else.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::pod::columns::human_duration;

pub(super) const NONE: &str = "<none>";
pub(super) const UNKNOWN: &str = "<unknown>";
pub(super) const UNSET: &str = "<unset>";

/// The text at a JSON pointer, or nothing.
pub(super) fn text<'v>(object: &'v Value, pointer: &str) -> &'v str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The text at a JSON pointer, or another if there is none.
pub(super) fn text_or<'v>(object: &'v Value, pointer: &str, absent: &'v str) -> &'v str {
    Some(text(object, pointer)).filter(|text| !text.is_empty()).unwrap_or(absent)
}

/// The elements at a JSON pointer, or none.
pub(super) fn list<'v>(object: &'v Value, pointer: &str) -> &'v [Value] {
    object.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

pub(super) fn number(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or_default()
}

/// How many fields an object or elements a list at a JSON pointer has.
pub(super) fn count(object: &Value, pointer: &str) -> usize {
    match object.pointer(pointer) {
        Some(Value::Object(fields)) => fields.len(),
        Some(Value::Array(items)) => items.len(),
        _ => 0,
    }
}

/// `a=1,b=2`, or `<none>`.
pub(super) fn labels(object: &Value, pointer: &str) -> String {
    let Some(labels) = object.pointer(pointer).and_then(Value::as_object).filter(|labels| !labels.is_empty()) else {
        return NONE.to_owned();
    };
    let pairs: Vec<String> =
        labels.iter().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    pairs.join(",")
}

/// Joins at most three texts and says how many more there are.
pub(super) fn first_three(texts: &[String]) -> String {
    const SHOWN: usize = 3;
    let shown = texts[..texts.len().min(SHOWN)].join(",");
    if texts.len() > SHOWN { format!("{shown} + {} more...", texts.len() - SHOWN) } else { shown }
}

/// How long ago a moment was (KC3).
pub(super) fn ago(moment: Option<Timestamp>, now: Timestamp) -> String {
    let Some(moment) = moment else { return UNKNOWN.to_owned() };
    let seconds = now.as_second() - moment.as_second();
    match u64::try_from(seconds) {
        Ok(seconds) => human_duration(Duration::from_secs(seconds)),
        // A clock that is a second ahead is no news.
        Err(_) if seconds >= -1 => "0s".to_owned(),
        Err(_) => "<invalid>".to_owned(),
    }
}

/// The moment at a JSON pointer.
pub(super) fn moment(object: &Value, pointer: &str) -> Option<Timestamp> {
    text(object, pointer).parse().ok()
}

pub(super) fn name(object: &Value) -> Value {
    text(object, "/metadata/name").into()
}

pub(super) fn age(object: &Value, now: Timestamp) -> Value {
    ago(moment(object, "/metadata/creationTimestamp"), now).into()
}

pub(super) fn namespace(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), text(object, "/status/phase").into(), age(object, now)]
}

pub(super) fn config_map(object: &Value, now: Timestamp) -> Vec<Value> {
    let entries = count(object, "/data") + count(object, "/binaryData");
    vec![name(object), entries.into(), age(object, now)]
}

pub(super) fn secret(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), text(object, "/type").into(), count(object, "/data").into(), age(object, now)]
}

pub(super) fn service_account(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), count(object, "/secrets").into(), age(object, now)]
}

pub(super) fn lease(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), text(object, "/spec/holderIdentity").into(), age(object, now)]
}

pub(super) fn priority_class(object: &Value, now: Timestamp) -> Vec<Value> {
    let is_default = object["globalDefault"].as_bool().unwrap_or_default();
    let value = number(object, "/value");
    let preemption = text(object, "/preemptionPolicy").into();
    vec![name(object), value.into(), is_default.into(), age(object, now), preemption]
}

pub(super) fn runtime_class(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), text(object, "/handler").into(), age(object, now)]
}

pub(super) fn quota(object: &Value, now: Timestamp) -> Vec<Value> {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (resource, hard) in object["status"]["hard"].as_object().into_iter().flatten() {
        let used = object["status"]["used"][resource].as_str().unwrap_or("0");
        let shown = format!("{resource}: {used}/{}", hard.as_str().unwrap_or_default());
        if resource.starts_with("limits") { limits.push(shown) } else { requests.push(shown) }
    }
    vec![name(object), requests.join(", ").into(), limits.join(", ").into(), age(object, now)]
}

/// An event of core or of events.k8s.io; both name the same things differently.
pub(super) fn event(object: &Value, now: Timestamp) -> Vec<Value> {
    let either = |one: &'static str, other: &'static str| text_or(object, one, text(object, other));
    let time = |pointers: &[&str]| pointers.iter().find_map(|pointer| moment(object, pointer));
    let first = time(&["/firstTimestamp", "/deprecatedFirstTimestamp", "/eventTime"]);
    let last = time(&["/series/lastObservedTime", "/lastTimestamp", "/deprecatedLastTimestamp"]).or(first);
    let count = ["/series/count", "/count", "/deprecatedCount"].iter().map(|p| number(object, p)).find(|n| *n > 0);
    let kind = either("/involvedObject/kind", "/regarding/kind").to_lowercase();
    let about = match either("/involvedObject/name", "/regarding/name") {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    vec![
        ago(last, now).into(),
        text(object, "/type").into(),
        text(object, "/reason").into(),
        about.into(),
        either("/involvedObject/fieldPath", "/regarding/fieldPath").into(),
        event_source(object).into(),
        either("/message", "/note").trim().into(),
        ago(first, now).into(),
        count.unwrap_or(1).into(),
        name(object),
    ]
}

fn event_source(object: &Value) -> String {
    let of = |pointers: [&str; 2]| pointers.into_iter().map(|p| text(object, p)).find(|t| !t.is_empty());
    let pairs = [
        (of(["/source/component", "/deprecatedSource/component"]), of(["/source/host", "/deprecatedSource/host"])),
        (of(["/reportingComponent", "/reportingController"]), of(["/reportingInstance", "/reportingInstance"])),
    ];
    let found = pairs.into_iter().find(|(component, _)| component.is_some()).unwrap_or_default();
    [found.0, found.1].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// The name and the time of creation, of a resource that has no columns of its own.
pub(super) fn created(object: &Value) -> Vec<Value> {
    vec![name(object), json!(text(object, "/metadata/creationTimestamp"))]
}
