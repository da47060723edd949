//! Events live for an hour, and there are never more than so many.

use std::rc::Rc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::super::fields;
use super::super::server::State;
use crate::store::{Change, Durability, Object};

/// Life of an event after it was last written (10.8).
const LIFE_SECONDS: i64 = 3600;
/// Events that are kept; the oldest go first.
const EVENTS_MAX: usize = 4096;
/// How often the store is looked through.
const EVERY: Duration = Duration::from_secs(60);

/// Removes events that are old or too many.
pub(crate) async fn events(state: Rc<State>) {
    loop {
        tokio::time::sleep(EVERY).await;
        let (objects, _) = state.store.list("events", None);
        for object in over(objects, Timestamp::now()) {
            let change = Change::Delete { key: object.key, expected: Some(object.version) };
            // It was seen again meanwhile, or is gone.
            drop(state.store.commit(change, Durability::Kernel).await);
        }
    }
}

/// Those that go.
fn over(mut events: Vec<Object>, now: Timestamp) -> Vec<Object> {
    events.sort_by_key(|event| std::cmp::Reverse(event.version));
    let too_many = events.split_off(events.len().min(EVENTS_MAX));
    let is_old = |event: &Object| now.as_second() - last_written(&event.value(), now).as_second() > LIFE_SECONDS;
    events.into_iter().filter(is_old).chain(too_many).collect()
}

/// The newest of its times, those of its writers among them; what an event says of itself may be long ago, or of a clock
/// that is ahead.
fn last_written(event: &Value, now: Timestamp) -> Timestamp {
    let paths: [&[&str]; 4] =
        [&["series", "lastObservedTime"], &["lastTimestamp"], &["eventTime"], &["metadata", "creationTimestamp"]];
    let writers = fields::at(event, &["metadata", "managedFields"]).and_then(Value::as_array).into_iter().flatten();
    let times =
        paths.iter().map(|path| fields::text(event, path)).chain(writers.map(|own| fields::text(own, &["time"])));
    let times: Vec<Timestamp> = times.filter_map(|text| text.parse().ok()).collect();
    let past = times.iter().filter(|time| **time <= now).max().copied();
    // All are ahead when the clock was set back: the event is new.
    past.unwrap_or(if times.is_empty() { Timestamp::UNIX_EPOCH } else { now })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Key, Version};
    use serde_json::json;

    fn event(version: u64, seen: i64) -> Object {
        let seen = Timestamp::from_second(seen).unwrap();
        let value = json!({"metadata": {"name": "e"}, "lastTimestamp": fields::time(seen)});
        let key = Key::new("events", "default", &format!("e{version}"));
        Object { key, version: Version(version), text: value.to_string().into() }
    }

    #[test]
    fn an_event_of_long_ago_lives_from_when_it_was_written() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let time = |ago: i64| fields::time(Timestamp::from_second(now.as_second() - ago).unwrap());
        let mut event = json!({"eventTime": "2017-09-19T13:49:16Z", "metadata": {"creationTimestamp": time(50)}});
        let ago = |event: &Value| now.as_second() - last_written(event, now).as_second();
        assert_eq!(ago(&event), 50);
        event["metadata"]["managedFields"] = json!([{"time": time(40)}, {"time": time(20)}]);
        event["lastTimestamp"] = "2099-01-01T00:00:00Z".into();
        assert_eq!(ago(&event), 20);
    }

    #[test]
    fn events_outlive_a_clock_that_is_set_back() {
        let (before, now) = (Timestamp::from_second(20_000).unwrap(), Timestamp::from_second(10_000).unwrap());
        let event =
            json!({"metadata": {"creationTimestamp": fields::time(before)}, "lastTimestamp": fields::time(before)});
        assert_eq!(last_written(&event, now), now);
        assert_eq!(last_written(&json!({}), now), Timestamp::UNIX_EPOCH);
    }

    #[test]
    fn old_events_go_and_the_oldest_of_too_many() {
        let now = Timestamp::from_second(10_000).unwrap();
        let gone = |events| over(events, now).iter().map(|event| event.version.0).collect::<Vec<_>>();
        assert_eq!(gone(vec![event(1, 6399), event(2, 6400), event(3, 10_000)]), [1]);
        let many: Vec<Object> = (1..=EVENTS_MAX as u64 + 2).map(|version| event(version, 10_000)).collect();
        assert_eq!(gone(many), [2, 1]);
    }
}
