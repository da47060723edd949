//! Which file a pod's log is in, and what of it is asked for.

use std::path::PathBuf;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod};

use super::query::Query;
use super::{Found, Sessions};
use crate::logs::record::Stream;
use crate::logs::serve::Options;

/// What `pods/log` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) previous: bool,
    pub(super) options: Options,
}

/// Why parameters are refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wrong {
    /// They can't be read.
    Unreadable(String),
    /// They can, and are invalid: what `PodLogOptions "x" is invalid` goes on with.
    Invalid(Vec<String>),
}

impl Asked {
    pub(super) fn of(query: &Query, now: Timestamp) -> Result<Self, Wrong> {
        let number = |name| query.number(name).map_err(Wrong::Unreadable);
        let (tail, limit, seconds) = (number("tailLines")?, number("limitBytes")?, number("sinceSeconds")?);
        let since_time = query.get("sinceTime").filter(|text| !text.is_empty());
        let since_time = since_time.map(str::parse::<Timestamp>).transpose();
        let since_time = since_time.map_err(|error| Wrong::Unreadable(error.to_string()))?;
        let mut wrong = Vec::new();
        let mut refuse = |refused: bool, text: String| {
            if refused {
                wrong.push(text);
            }
        };
        let below = |value: Option<i64>, least| value.is_some_and(|value| value < least);
        let shown = |value: Option<i64>| value.unwrap_or_default();
        refuse(
            below(tail, 0),
            format!("tailLines: Invalid value: {}: must be greater than or equal to 0", shown(tail)),
        );
        refuse(below(limit, 1), format!("limitBytes: Invalid value: {}: must be greater than 0", shown(limit)));
        refuse(
            seconds.is_some() && since_time.is_some(),
            "<nil>: Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified".to_owned(),
        );
        refuse(below(seconds, 1), format!("sinceSeconds: Invalid value: {}: must be greater than 0", shown(seconds)));
        let stream = match query.get("stream") {
            None | Some("" | "All") => None,
            Some("Stdout") => Some(Stream::Stdout),
            Some("Stderr") => Some(Stream::Stderr),
            Some(other) => {
                refuse(
                    true,
                    format!("stream: Unsupported value: {other:?}: supported values: \"All\", \"Stderr\", \"Stdout\""),
                );
                None
            }
        };
        refuse(
            tail.is_some() && stream.is_some(),
            "<nil>: Forbidden: `tailLines` and specific `stream` are mutually exclusive for now".to_owned(),
        );
        if !wrong.is_empty() {
            return Err(Wrong::Invalid(wrong));
        }
        let positive = |value: Option<i64>| value.and_then(|value| u64::try_from(value).ok());
        let ago = seconds.and_then(|seconds| now.checked_sub(SignedDuration::from_secs(seconds)).ok());
        Ok(Self {
            previous: query.flag("previous"),
            options: Options {
                follow: query.flag("follow"),
                since: since_time.or(ago),
                timestamps: query.flag("timestamps"),
                tail: positive(tail),
                limit_bytes: positive(limit),
                stream,
            },
        })
    }
}

/// `restartCount` of the instance whose log is asked for (rule LG2).
pub(super) fn instance_of(pod: &Pod, container: &str, previous: bool) -> Result<u32, String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let status = status_of(pod, container);
    let status = status.ok_or_else(|| format!("container {container:?} in pod {name:?} is not available"))?;
    let count = u32::try_from(status.restart_count).unwrap_or(0);
    let state = status.state.clone().unwrap_or_default();
    let current = has_instance(&state);
    let last = status.last_state.as_ref().and_then(|last| last.terminated.as_ref());
    let last_has_id = last.is_some_and(|last| last.container_id.as_deref().is_some_and(|id| !id.is_empty()));
    // The last instance is the newest while the next one has not been made.
    let last_count = if current { count.saturating_sub(1) } else { count };
    let ended = || format!("container {container:?} in pod {name:?} is terminated");
    if previous {
        let missing = || format!("previous terminated container {container:?} in pod {name:?} not found");
        return last_has_id.then_some(last_count).ok_or_else(missing);
    }
    match (current, last.is_some(), state.terminated.is_some()) {
        (true, _, _) => Ok(count),
        (false, true, _) => last_has_id.then_some(last_count).ok_or_else(ended),
        (false, false, true) => Err(ended()),
        (false, false, false) => {
            let reason = state.waiting.and_then(|waiting| waiting.reason);
            let reason = match reason.as_deref() {
                Some("ErrImagePull") => "image can't be pulled".to_owned(),
                Some("ImagePullBackOff") => "trying and failing to pull image".to_owned(),
                Some(reason) => reason.to_owned(),
                None => "ContainerCreating".to_owned(),
            };
            Err(format!("container {container:?} in pod {name:?} is waiting to start: {reason}"))
        }
    }
}

fn has_instance(state: &ContainerState) -> bool {
    let terminated = state.terminated.as_ref().and_then(|terminated| terminated.container_id.as_deref());
    state.running.is_some() || terminated.is_some_and(|id| !id.is_empty())
}

pub(super) fn status_of<'a>(pod: &'a Pod, container: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let lists = [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    lists.into_iter().flatten().flatten().find(|status| status.name == container)
}

impl Sessions {
    /// The file of an instance's log, and the instance while it lives.
    pub(super) fn log_of(&self, uid: &str, container: &str, count: u32) -> Option<(PathBuf, Option<Found>)> {
        let context = self.context(uid).ok()?;
        let path = context.log_dir().join(container).join(format!("{count}.log"));
        let found = self.running(uid, container).ok().filter(|found| found.instance.attempt == count);
        Some((path, found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(state: Value, last: Value, count: i32) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "y"},
            "status": {"containerStatuses": [
                {"name": "x", "image": "i", "imageID": "", "ready": false, "restartCount": count, "state": state, "lastState": last},
            ]},
        }))
        .unwrap()
    }

    /// LG2
    #[test]
    fn the_instance_is_the_one_that_upstream_shows() {
        let running = json!({"running": {}});
        let ended = json!({"terminated": {"exitCode": 1, "containerID": "m://a"}});
        let never = json!({"terminated": {"exitCode": 1}});
        let waiting = |reason: &str| json!({"waiting": {"reason": reason}});
        let none = json!({});
        let text = |text: &str| Err(format!("container \"x\" in pod \"y\" is {text}"));
        for (state, last, count, previous, expected) in [
            (&running, &none, 0, false, Ok(0)),
            (&running, &ended, 3, false, Ok(3)),
            (&running, &ended, 3, true, Ok(2)),
            (&ended, &none, 0, false, Ok(0)),
            (&waiting("CrashLoopBackOff"), &ended, 2, false, Ok(2)),
            (&waiting("CrashLoopBackOff"), &ended, 2, true, Ok(2)),
            (&waiting("CrashLoopBackOff"), &never, 2, false, text("terminated")),
            (&never, &none, 0, false, text("terminated")),
            (&waiting("ContainerCreating"), &none, 0, false, text("waiting to start: ContainerCreating")),
            (&waiting("ErrImagePull"), &none, 0, false, text("waiting to start: image can't be pulled")),
            (&waiting("ImagePullBackOff"), &none, 0, false, text("waiting to start: trying and failing to pull image")),
            (&running, &none, 0, true, Err("previous terminated container \"x\" in pod \"y\" not found".to_owned())),
        ] {
            assert_eq!(instance_of(&pod(state.clone(), last.clone(), count), "x", previous), expected);
        }
        assert_eq!(
            instance_of(&Pod::default(), "x", false).unwrap_err(),
            "container \"x\" in pod \"\" is not available"
        );
    }

    #[test]
    fn parameters_are_validated_as_upstream_does() {
        let now = "2026-01-02T03:04:05Z".parse().unwrap();
        let asked = |query: &str| Asked::of(&Query::of(&format!("/x?{query}").parse().unwrap()), now);
        let all = asked("follow=true&previous=1&sinceSeconds=5&timestamps=true&tailLines=3&limitBytes=9").unwrap();
        assert!(all.previous && all.options.follow && all.options.timestamps);
        assert_eq!(all.options.since, "2026-01-02T03:04:00Z".parse().ok());
        assert_eq!((all.options.tail, all.options.limit_bytes), (Some(3), Some(9)));
        for (query, expected) in [
            ("tailLines=-1", "tailLines: Invalid value: -1: must be greater than or equal to 0"),
            ("limitBytes=0", "limitBytes: Invalid value: 0: must be greater than 0"),
            ("sinceSeconds=0", "sinceSeconds: Invalid value: 0: must be greater than 0"),
            ("stream=x", "stream: Unsupported value: \"x\": supported values: \"All\", \"Stderr\", \"Stdout\""),
        ] {
            assert_eq!(asked(query), Err(Wrong::Invalid(vec![expected.to_owned()])), "{query}");
        }
        assert!(matches!(asked("sinceSeconds=1&sinceTime=2026-01-02T03:04:05Z"), Err(Wrong::Invalid(_))));
        assert!(matches!(asked("tailLines=x"), Err(Wrong::Unreadable(_))));
    }
}
