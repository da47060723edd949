//! Pod Security Standards (semantics 9.5): what a level of a version forbids, and the messages about it. Pure.

mod baseline;
mod restricted;

use std::fmt;

use k8s_openapi::api::core::v1::{Container, ContainerPort, Pod, PodSpec, SecurityContext};

/// A level of the standards, from nothing forbidden to most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Everything is allowed.
    Privileged,
    /// Known ways out of a container are closed.
    Baseline,
    /// What hardening guides ask for.
    Restricted,
}

impl Level {
    /// Reads the value of a namespace label.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "privileged" => Some(Level::Privileged),
            "baseline" => Some(Level::Baseline),
            "restricted" => Some(Level::Restricted),
            _ => None,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        })
    }
}

/// A version of the standards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// `v1.<n>`
    Minor(u32),
    /// `latest`
    Latest,
}

/// The minor version that `latest` means here.
const LATEST_MINOR: u32 = 36;

impl Version {
    /// Reads `latest` or `v1.<n>`.
    pub fn parse(text: &str) -> Option<Self> {
        if text == "latest" {
            return Some(Version::Latest);
        }
        text.strip_prefix("v1.")?.parse().ok().map(Version::Minor)
    }

    fn minor(self) -> u32 {
        match self {
            Version::Minor(minor) => minor,
            Version::Latest => LATEST_MINOR,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Version::Minor(minor) => write!(f, "v1.{minor}"),
            Version::Latest => f.write_str("latest"),
        }
    }
}

/// One check that a pod fails. Displays as `<reason> (<detail>)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// What is forbidden.
    pub reason: String,
    /// Which part of the pod does it.
    pub detail: String,
}

impl Violation {
    fn new(reason: impl Into<String>, detail: impl Into<String>) -> Self {
        Violation { reason: reason.into(), detail: detail.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.detail.is_empty() { f.write_str(&self.reason) } else { write!(f, "{} ({})", self.reason, self.detail) }
    }
}

/// Every check of `level` that the pod fails, in the order of the messages (PS3): baseline checks by id, then restricted
/// ones, which replace the baseline checks that they are stricter than.
pub fn evaluate(level: Level, version: Version, pod: &Pod) -> Vec<Violation> {
    let Some(spec) = &pod.spec else {
        return Vec::new();
    };
    let subject = Subject { pod, spec, containers: containers(spec), minor: version.minor() };
    match level {
        Level::Privileged => Vec::new(),
        Level::Baseline => baseline::checks(&subject, false),
        Level::Restricted => {
            let mut violations = baseline::checks(&subject, true);
            violations.extend(restricted::checks(&subject));
            violations
        }
    }
}

/// `<details>` of PS3.
pub fn details(violations: &[Violation]) -> String {
    let texts: Vec<String> = violations.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

/// The message of the 403 that `enforce` answers (PS2): `pods "x" is forbidden: ...`.
pub fn forbidden(pod: &str, level: Level, version: Version, violations: &[Violation]) -> String {
    format!("pods {pod:?} is forbidden: violates PodSecurity \"{level}:{version}\": {}", details(violations))
}

/// The text of the `Warning` header and of the audit annotation (PS2).
pub fn would_violate(level: Level, version: Version, violations: &[Violation]) -> String {
    format!("would violate PodSecurity \"{level}:{version}\": {}", details(violations))
}

/// A level with its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The level.
    pub level: Level,
    /// The version.
    pub version: Version,
}

/// What the labels of a namespace ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Violations are refused.
    pub enforce: Rule,
    /// Violations are written down.
    pub audit: Rule,
    /// Violations are answered with a warning.
    pub warn: Rule,
}

impl Policy {
    /// Reads a namespace's labels. A stored bad level counts as restricted for enforce and privileged otherwise; with only
    /// `enforce` set, `warn` is the same.
    pub fn of_labels(labels: &std::collections::BTreeMap<String, String>) -> Self {
        let label = |name: &str| labels.get(&format!("pod-security.kubernetes.io/{name}")).map(String::as_str);
        let version = |mode: &str| {
            let text = label(&format!("{mode}-version"));
            text.and_then(Version::parse).unwrap_or(Version::Latest)
        };
        let rule = |mode: &str, bad: Level| Rule {
            level: label(mode).map_or(Level::Privileged, |text| Level::parse(text).unwrap_or(bad)),
            version: version(mode),
        };
        let enforce = rule("enforce", Level::Restricted);
        let warn = if label("warn").is_none() { enforce } else { rule("warn", Level::Privileged) };
        Policy { enforce, audit: rule("audit", Level::Privileged), warn }
    }
}

/// What a check looks at.
struct Subject<'a> {
    pod: &'a Pod,
    spec: &'a PodSpec,
    containers: Vec<Parts<'a>>,
    minor: u32,
}

/// The part of a container of any kind that checks look at.
struct Parts<'a> {
    name: &'a str,
    security: Option<&'a SecurityContext>,
    ports: &'a [ContainerPort],
    /// `host` of httpGet and tcpSocket in probes and hooks.
    hosts: Vec<&'a str>,
}

/// PS4: all containers, init ones first as they start.
fn containers(spec: &PodSpec) -> Vec<Parts<'_>> {
    let plain = spec.init_containers.iter().flatten().chain(&spec.containers).map(|container| Parts {
        name: &container.name,
        security: container.security_context.as_ref(),
        ports: container.ports.as_deref().unwrap_or_default(),
        hosts: hosts(container),
    });
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|container| Parts {
        name: &container.name,
        security: container.security_context.as_ref(),
        ports: container.ports.as_deref().unwrap_or_default(),
        hosts: Vec::new(),
    });
    plain.chain(ephemeral).collect()
}

fn hosts(container: &Container) -> Vec<&str> {
    let probes = [&container.liveness_probe, &container.readiness_probe, &container.startup_probe];
    let mut hosts: Vec<&str> = Vec::new();
    for probe in probes.into_iter().flatten() {
        hosts.extend(probe.http_get.iter().filter_map(|action| action.host.as_deref()));
        hosts.extend(probe.tcp_socket.iter().filter_map(|action| action.host.as_deref()));
    }
    if let Some(lifecycle) = &container.lifecycle {
        for hook in [&lifecycle.post_start, &lifecycle.pre_stop].into_iter().flatten() {
            hosts.extend(hook.http_get.iter().filter_map(|action| action.host.as_deref()));
            hosts.extend(hook.tcp_socket.iter().filter_map(|action| action.host.as_deref()));
        }
    }
    hosts.retain(|host| !host.is_empty());
    hosts
}

impl<'a> Subject<'a> {
    /// Names of the containers that are so.
    fn named(&self, is_so: impl Fn(&Parts<'a>) -> bool) -> Vec<&'a str> {
        self.containers.iter().filter(|container| is_so(container)).map(|container| container.name).collect()
    }

    /// Whether the pod has a user namespace of its own, which 1.35 takes into account.
    fn relaxes_users(&self) -> bool {
        self.minor >= 35 && self.spec.host_users == Some(false)
    }
}

/// `"a", "b"`
fn quoted<T: fmt::Debug>(names: &[T]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    names.join(", ")
}

/// `container "a"`, `containers "a", "b"`.
fn containers_text(names: &[&str]) -> String {
    format!("container{} {}", plural(names.len()), quoted(names))
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// `pod and containers "a", "b"`: who sets something, pod or containers or both.
fn setters(pod: bool, names: &[&str]) -> Option<String> {
    match (pod, names.is_empty()) {
        (false, true) => None,
        (true, true) => Some("pod".to_owned()),
        (false, false) => Some(containers_text(names)),
        (true, false) => Some(format!("pod and {}", containers_text(names))),
    }
}

/// The sorted set of some texts.
fn sorted(texts: impl IntoIterator<Item = String>) -> Vec<String> {
    texts.into_iter().collect::<std::collections::BTreeSet<_>>().into_iter().collect()
}

#[cfg(test)]
mod tests;
