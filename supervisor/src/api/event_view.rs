//! `events.k8s.io`: another view of the events that are stored as core ones.

use serde_json::{Map, Value};

use super::fields;

/// Fields that have other names in the view: there, and in the store.
const RENAMED: [(&str, &str); 6] = [
    ("note", "message"),
    ("regarding", "involvedObject"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
];
/// A seventh: the number.
const COUNT: (&str, &str) = ("deprecatedCount", "count");

/// From the store to a client.
pub(crate) fn outward(core: &Value) -> Value {
    renamed(core, "events.k8s.io/v1", |(there, here)| (here, there))
}

/// From a client to the store.
pub(crate) fn inward(view: &Value) -> Value {
    renamed(view, "v1", |(there, here)| (there, here))
}

fn renamed<'n>(value: &Value, api_version: &str, order: impl Fn((&'n str, &'n str)) -> (&'n str, &'n str)) -> Value {
    let mut value = value.clone();
    let entries: &mut Map<String, Value> = fields::entries(&mut value);
    for (from, to) in RENAMED.into_iter().chain([COUNT]).map(order) {
        if let Some(field) = entries.remove(from) {
            entries.insert(to.to_owned(), field);
        }
    }
    entries.insert("apiVersion".to_owned(), api_version.into());
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_view_and_back_is_the_same_event() {
        let core = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "message": "m", "count": 2,
            "involvedObject": {"kind": "Pod"}, "source": {"component": "kubelet"}, "reportingComponent": "kubelet",
            "firstTimestamp": "2026-01-01T00:00:00Z", "reason": "Started", "type": "Normal"});
        let view = outward(&core);
        assert_eq!(
            (&view["note"], &view["regarding"]["kind"], &view["deprecatedCount"]),
            (&json!("m"), &json!("Pod"), &json!(2))
        );
        assert_eq!(view["apiVersion"], "events.k8s.io/v1");
        assert!(view.get("message").is_none());
        assert_eq!(inward(&view), core);
    }
}
