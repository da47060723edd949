//! Events: loosely as they always were, strictly where they come as `events.k8s.io`.

use k8s_openapi::api::core::v1::Event;
use serde_json::{Value, json};

use super::error::{Errors, IMMUTABLE, Path};
use super::names;

/// Bytes of a reporting instance, an action, a reason.
const TEXT_MAX: usize = 128;
/// Bytes of the note.
const NOTE_MAX: usize = 1024;
/// Repetitions that make a series.
const SERIES_MIN: i32 = 2;

/// A core event's field for who reports it.
pub(super) const CORE_REPORTER: &str = "reportingComponent";

/// What holds for every event. Those with a time are told by newer clients, and say more.
/// `controller` is what the API that they come by calls their reporter.
pub(super) fn event(event: &Event, controller: &str, errors: &mut Errors) {
    let own = event.metadata.namespace.as_deref().unwrap_or_default();
    let about = event.involved_object.namespace.as_deref().unwrap_or_default();
    let is_new = event.event_time.is_some();
    let fits = match about {
        "" => own == "default" || (is_new && own == "kube-system"),
        about => is_new || about == own,
    };
    if !fits {
        let path = Path::new("involvedObject").field("namespace");
        errors.invalid(&path, about, "does not match event.namespace");
    }
    if !is_new {
        return;
    }
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let (path, reporter) = (Path::new(controller), text(&event.reporting_component));
    if reporter.is_empty() {
        errors.required(&path, "");
    }
    errors.invalid_all(&path, &reporter, names::qualified(&reporter));
    for (field, value) in [
        ("reportingInstance", text(&event.reporting_instance)),
        ("action", text(&event.action)),
        ("reason", text(&event.reason)),
    ] {
        if value.is_empty() {
            errors.required(&Path::new(field), "");
        }
        limited(field, &value, TEXT_MAX, errors);
    }
    limited("message", &text(&event.message), NOTE_MAX, errors);
}

fn limited(field: &str, text: &str, max: usize, errors: &mut Errors) {
    if text.len() > max {
        errors.invalid(&Path::new(field), "", format!("can have at most {max} characters"));
    }
}

/// What holds for events of `events.k8s.io`, as they are stored.
pub(super) fn viewed(old: Option<&Event>, new: &Event, errors: &mut Errors) {
    event(new, "reportingController", errors);
    match old {
        Some(old) => changed(old, new, errors),
        None => created(new, errors),
    }
}

fn created(event: &Event, errors: &mut Errors) {
    series(event, errors);
    if event.event_time.is_none() {
        errors.required(&Path::new("eventTime"), "");
    }
    let kind = event.type_.as_deref().unwrap_or_default();
    if !matches!(kind, "Normal" | "Warning") {
        errors.invalid(&Path::new("type"), "", format!("has invalid value: {kind}"));
    }
    let source = event.source.as_ref();
    for (field, is_set) in [
        ("firstTimestamp", event.first_timestamp.is_some()),
        ("lastTimestamp", event.last_timestamp.is_some()),
        ("count", event.count.unwrap_or_default() != 0),
        ("source", source.is_some_and(|source| source.component.is_some() || source.host.is_some())),
    ] {
        if is_set {
            errors.invalid(&Path::new(field), "", "needs to be unset");
        }
    }
}

fn series(event: &Event, errors: &mut Errors) {
    let Some(series) = &event.series else { return };
    let path = Path::new("series");
    if series.count.unwrap_or_default() < SERIES_MIN {
        errors.invalid(&path.field("count"), "", format!("should be at least {SERIES_MIN}"));
    }
    if series.last_observed_time.is_none() {
        errors.required(&path.field("lastObservedTime"), "");
    }
}

/// Only the series of an event goes on.
fn changed(old: &Event, new: &Event, errors: &mut Errors) {
    if old.series != new.series {
        series(new, errors);
    }
    let fields = |event: &Event| -> [(&'static str, Value); 13] {
        [
            ("involvedObject", json!(event.involved_object)),
            ("reason", json!(event.reason)),
            ("message", json!(event.message)),
            ("source", json!(event.source.clone().unwrap_or_default())),
            ("firstTimestamp", json!(event.first_timestamp)),
            ("lastTimestamp", json!(event.last_timestamp)),
            ("count", json!(event.count)),
            ("type", json!(event.type_)),
            ("eventTime", json!(event.event_time)),
            ("action", json!(event.action)),
            ("related", json!(event.related)),
            ("reportingController", json!(event.reporting_component)),
            ("reportingInstance", json!(event.reporting_instance)),
        ]
    };
    for ((field, before), (_, after)) in fields(old).into_iter().zip(fields(new)) {
        if before != after {
            errors.invalid(&Path::new(field), after, IMMUTABLE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(check: impl FnOnce(&mut Errors)) -> String {
        let mut errors = Errors::default();
        check(&mut errors);
        errors.done().err().map(|invalid| invalid.to_string()).unwrap_or_default()
    }

    fn of(value: &Value) -> Event {
        serde_json::from_value(value.clone()).unwrap()
    }

    #[test]
    fn a_core_event_stands_beside_what_it_is_about() {
        for (own, about, fits) in [("a", "a", true), ("default", "", true), ("a", "b", false), ("a", "", false)] {
            let value = json!({"metadata": {"namespace": own}, "involvedObject": {"namespace": about}});
            let expected =
                format!("involvedObject.namespace: Invalid value: {about:?}: does not match event.namespace");
            assert_eq!(
                shown(|errors| event(&of(&value), CORE_REPORTER, errors)),
                if fits { String::new() } else { expected }
            );
        }
    }

    #[test]
    fn a_new_event_says_who_did_what_when() {
        let full = json!({"metadata": {"namespace": "a"}, "involvedObject": {"namespace": "a"}, "type": "Normal",
            "eventTime": "2030-01-02T03:04:05.000006Z", "reportingComponent": "test/c", "reportingInstance": "i",
            "action": "Do", "reason": "Test", "message": "one"});
        assert_eq!(shown(|errors| viewed(None, &of(&full), errors)), "");
        for (field, value, expected) in [
            ("eventTime", Value::Null, "eventTime: Required value"),
            ("reportingInstance", json!(""), "reportingInstance: Required value"),
            ("action", json!(""), "action: Required value"),
            ("reason", json!(""), "reason: Required value"),
            ("type", json!("Odd"), "type: Invalid value: \"\": has invalid value: Odd"),
            (
                "message",
                json!("x".repeat(NOTE_MAX + 1)),
                "message: Invalid value: \"\": can have at most 1024 characters",
            ),
            (
                "series",
                json!({"count": 1, "lastObservedTime": full["eventTime"]}),
                "series.count: Invalid value: \"\": should be at least 2",
            ),
        ] {
            let mut changed = full.clone();
            changed[field] = value;
            assert_eq!(shown(|errors| viewed(None, &of(&changed), errors)), expected);
        }
        let mut nobodys = full.clone();
        nobodys["reportingComponent"] = Value::Null;
        for (controller, expected) in
            [(CORE_REPORTER, "[reportingComponent: R"), ("reportingController", "[reportingController: R")]
        {
            let message = shown(|errors| event(&of(&nobodys), controller, errors));
            assert!(message.starts_with(expected), "{message}");
        }
        let mut changed = full.clone();
        changed["reason"] = json!("Other");
        let message = shown(|errors| viewed(Some(&of(&full)), &of(&changed), errors));
        assert_eq!(message, "reason: Invalid value: \"Other\": field is immutable");
    }
}
