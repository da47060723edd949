//! The checks that the restricted level adds, by id.

use k8s_openapi::api::core::v1::Volume;

use super::baseline::{added_capabilities, any_proc_mount, unconfined};
use super::{Subject, Violation, containers_text, plural, quoted, setters, sorted};

/// Volume types that a pod may use, in the API's words.
const VOLUMES: &[&str] = &[
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

pub(super) fn checks(subject: &Subject<'_>) -> Vec<Violation> {
    [
        escalation(subject),
        capabilities(subject),
        if subject.minor >= 35 { any_proc_mount(subject) } else { None },
        volumes(subject),
        run_as_non_root(subject),
        run_as_user(subject),
        seccomp(subject),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Since 1.25 these checks are not for pods of another operating system.
fn is_windows(subject: &Subject<'_>) -> bool {
    subject.minor >= 25 && subject.spec.os.as_ref().is_some_and(|os| os.name == "windows")
}

fn escalation(subject: &Subject<'_>) -> Option<Violation> {
    if is_windows(subject) || subject.minor < 8 {
        return None;
    }
    let named = subject.named(|c| c.security.and_then(|context| context.allow_privilege_escalation) != Some(false));
    let detail = format!("{} must set securityContext.allowPrivilegeEscalation=false", containers_text(&named));
    (!named.is_empty()).then(|| Violation::new("allowPrivilegeEscalation != false", detail))
}

fn capabilities(subject: &Subject<'_>) -> Option<Violation> {
    if is_windows(subject) || subject.minor < 22 {
        return None;
    }
    let drops_all = |c: &super::Parts<'_>| {
        let dropped = c.security.and_then(|context| context.capabilities.as_ref()?.drop.as_ref());
        dropped.is_some_and(|names| names.iter().any(|name| name == "ALL"))
    };
    let missing = subject.named(|container| !drops_all(container));
    let (adding, added) = added_capabilities(subject, &["NET_BIND_SERVICE"]);
    let mut details = Vec::new();
    if !missing.is_empty() {
        details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", containers_text(&missing)));
    }
    if !adding.is_empty() {
        let text = containers_text(&adding);
        details.push(format!("{text} must not include {} in securityContext.capabilities.add", quoted(&added)));
    }
    (!details.is_empty()).then(|| Violation::new("unrestricted capabilities", details.join("; ")))
}

fn volumes(subject: &Subject<'_>) -> Option<Violation> {
    let mut named = Vec::new();
    let mut types = Vec::new();
    for volume in subject.spec.volumes.iter().flatten() {
        if let Some(kind) = restricted_type(volume) {
            named.push(volume.name.as_str());
            types.push(kind);
        }
    }
    let types = sorted(types);
    let verb = if named.len() == 1 { "uses" } else { "use" };
    let detail = format!(
        "volume{} {} {verb} restricted volume type{} {}",
        plural(named.len()),
        quoted(&named),
        plural(types.len()),
        quoted(&types)
    );
    (!named.is_empty()).then(|| Violation::new("restricted volume types", detail))
}

fn restricted_type(volume: &Volume) -> Option<String> {
    let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(volume) else {
        return None;
    };
    fields.into_iter().map(|(name, _)| name).find(|name| name != "name" && !VOLUMES.contains(&name.as_str()))
}

fn run_as_non_root(subject: &Subject<'_>) -> Option<Violation> {
    if subject.relaxes_users() {
        return None;
    }
    let of_pod = subject.spec.security_context.as_ref().and_then(|context| context.run_as_non_root);
    let of = |c: &super::Parts<'_>| c.security.and_then(|context| context.run_as_non_root);
    let explicit = subject.named(|container| of(container) == Some(false));
    let implicit = subject.named(|container| of(container).is_none());
    let is_covered = of_pod == Some(true);
    // A pod-level false is forgiven when every container overrides it.
    let is_pod_bad = of_pod == Some(false) && !implicit.is_empty();
    let detail = if let Some(setters) = setters(is_pod_bad, &explicit) {
        format!("{setters} must not set securityContext.runAsNonRoot=false")
    } else if !is_covered && !implicit.is_empty() {
        format!("pod or {} must set securityContext.runAsNonRoot=true", containers_text(&implicit))
    } else {
        return None;
    };
    Some(Violation::new("runAsNonRoot != true", detail))
}

fn run_as_user(subject: &Subject<'_>) -> Option<Violation> {
    if subject.relaxes_users() || subject.minor < 23 {
        return None;
    }
    let is_pod = subject.spec.security_context.as_ref().is_some_and(|context| context.run_as_user == Some(0));
    let named = subject.named(|c| c.security.is_some_and(|context| context.run_as_user == Some(0)));
    let setters = setters(is_pod, &named)?;
    Some(Violation::new("runAsUser=0", format!("{setters} must not set runAsUser=0")))
}

fn seccomp(subject: &Subject<'_>) -> Option<Violation> {
    if is_windows(subject) || subject.minor < 19 {
        return None;
    }
    if let Some(detail) = unconfined(subject) {
        return Some(Violation::new("seccompProfile", detail));
    }
    let is_pod_set = subject.spec.security_context.as_ref().is_some_and(|context| context.seccomp_profile.is_some());
    let implicit = subject.named(|c| c.security.and_then(|context| context.seccomp_profile.as_ref()).is_none());
    if is_pod_set || implicit.is_empty() {
        return None;
    }
    let detail = format!(
        "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
        containers_text(&implicit)
    );
    Some(Violation::new("seccompProfile", detail))
}
