//! Whether an ended container starts again, and when.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::spec::{ContainerSpec, PodSpec, RestartPolicy, Role, RuleAction, RuleOperator};
use super::timer::{
    CRASH_BACK_OFF_FIRST, CRASH_BACK_OFF_RESET, IMAGE_BACK_OFF_FIRST, IMAGE_BACK_OFF_MAX, IMAGE_BACK_OFF_RESET, Instant,
};

/// The policy in force: a sidecar's is always `Always` (IN6), an ephemeral container's `Never` (CB5), `Always` of the pod
/// means `OnFailure` for a regular init container (IN3).
pub(super) fn policy(pod: &PodSpec, container: &ContainerSpec) -> RestartPolicy {
    let written = container.restart_policy.unwrap_or(pod.restart_policy);
    match (container.role, written) {
        (Role::Sidecar, _) => RestartPolicy::Always,
        (Role::Ephemeral, _) => RestartPolicy::Never,
        (Role::Init, RestartPolicy::Always | RestartPolicy::OnFailure) => RestartPolicy::OnFailure,
        (Role::Init, RestartPolicy::Never) => RestartPolicy::Never,
        (Role::App, policy) => policy,
    }
}

/// The first rule that matches the exit code decides (RR2). Rules count only beside a container-level policy.
pub(super) fn matching_rule(container: &ContainerSpec, exit_code: i32) -> Option<RuleAction> {
    container.restart_policy?;
    let matches = |operator, values: &[i32]| match operator {
        RuleOperator::In => values.contains(&exit_code),
        RuleOperator::NotIn => !values.contains(&exit_code),
    };
    let rule = container.rules.iter().find(|rule| matches(rule.operator, &rule.values))?;
    Some(rule.action)
}

/// `shouldRestart` of section 1.1, for a container that ended by itself.
pub(super) fn should_restart(pod: &PodSpec, container: &ContainerSpec, exit_code: i32, success: bool) -> bool {
    match matching_rule(container, exit_code) {
        Some(RuleAction::Restart | RuleAction::RestartAllContainers) => return true,
        None => {}
    }
    match policy(pod, container) {
        RestartPolicy::Always => true,
        RestartPolicy::OnFailure => !success,
        RestartPolicy::Never => false,
    }
}

/// A container killed because of a probe restarts unless its policy is `Never`; rules are not asked (RR3).
pub(super) fn restarts_after_probe(pod: &PodSpec, container: &ContainerSpec) -> bool {
    match policy(pod, container) {
        RestartPolicy::Always | RestartPolicy::OnFailure => true,
        RestartPolicy::Never => false,
    }
}

/// Crash back-off of one container. Lost with the daemon (CB9).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CrashBackOff {
    /// Image and resources: another key starts anew (CB1).
    key: String,
    delay: Duration,
    updated: Instant,
}

/// What the back-off says about a start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Turn {
    /// Start, and keep this for the next time; none: nothing crashed, nothing changes.
    Now(Option<CrashBackOff>),
    /// `CrashLoopBackOff` with this delay, until this instant.
    Wait(Duration, Instant),
}

/// Rules CB2-CB6: `exited` is the end of the newest instance.
pub(super) fn crash_turn(
    entry: Option<&CrashBackOff>,
    key: &str,
    exited: Option<Instant>,
    now: Instant,
    max: Duration,
) -> Turn {
    let first = CRASH_BACK_OFF_FIRST.min(max);
    let fresh = |delay| Turn::Now(Some(CrashBackOff { key: key.to_owned(), delay, updated: now }));
    let Some(exited) = exited else {
        return Turn::Now(None);
    };
    let Some(entry) = entry.filter(|entry| entry.key == key) else {
        return fresh(first);
    };
    if exited.since(entry.updated) > CRASH_BACK_OFF_RESET {
        return fresh(first);
    }
    if now < exited.after(entry.delay) {
        return Turn::Wait(entry.delay, exited.after(entry.delay));
    }
    fresh((entry.delay * 2).min(max))
}

/// Back-off of one image (IP5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ImageBackOff {
    delay: Duration,
    updated: Instant,
    /// Shown in `Back-off pulling image`.
    pub(super) error: String,
}

impl ImageBackOff {
    /// The step after one more failure at `now`.
    pub(super) fn next(entry: Option<&Self>, now: Instant, error: String) -> Self {
        let delay = match entry {
            Some(entry) if now.since(entry.updated) <= IMAGE_BACK_OFF_RESET => {
                (entry.delay * 2).min(IMAGE_BACK_OFF_MAX)
            }
            Some(_) | None => IMAGE_BACK_OFF_FIRST,
        };
        Self { delay, updated: now, error }
    }

    /// When the image may be asked for again.
    pub(super) fn until(&self) -> Instant {
        self.updated.after(self.delay)
    }
}

/// A duration as Go prints it, whole seconds: `10s`, `1m20s`, `5m0s`, `1h0m0s`.
pub(super) fn go_duration(span: Duration) -> String {
    let seconds = span.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}

/// A duration as Go prints it, rounded down to milliseconds: `5ms`, `1.234s`, `1m2.5s` (IP6).
pub(super) fn go_duration_ms(span: Duration) -> String {
    let ms = span.as_millis();
    if ms < 1000 {
        return if ms == 0 { "0s".to_owned() } else { format!("{ms}ms") };
    }
    let (minutes, rest) = (ms / 60_000, ms % 60_000);
    let seconds = match rest % 1000 {
        0 => format!("{}s", rest / 1000),
        part => format!("{}.{}s", rest / 1000, format!("{part:03}").trim_end_matches('0')),
    };
    match (minutes / 60, minutes % 60) {
        (0, 0) => seconds,
        (0, m) => format!("{m}m{seconds}"),
        (h, m) => format!("{h}h{m}m{seconds}"),
    }
}
