//! The checks of the baseline level, by id.

use k8s_openapi::api::core::v1::SELinuxOptions;

use super::{Subject, Violation, containers_text, plural, quoted, setters, sorted};

/// Capabilities that a container may add.
const CAPABILITIES: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
/// Sysctls that a pod may set, with the minor version that allowed each.
const SYSCTLS: &[(u32, &str)] = &[
    (0, "kernel.shm_rmid_forced"),
    (0, "net.ipv4.ip_local_port_range"),
    (0, "net.ipv4.tcp_syncookies"),
    (0, "net.ipv4.ping_group_range"),
    (0, "net.ipv4.ip_unprivileged_port_start"),
    (27, "net.ipv4.ip_local_reserved_ports"),
    (29, "net.ipv4.tcp_keepalive_time"),
    (29, "net.ipv4.tcp_fin_timeout"),
    (29, "net.ipv4.tcp_keepalive_intvl"),
    (29, "net.ipv4.tcp_keepalive_probes"),
    (32, "net.ipv4.tcp_rmem"),
    (32, "net.ipv4.tcp_wmem"),
    (37, "net.ipv4.tcp_slow_start_after_idle"),
    (37, "net.ipv4.tcp_notsent_lowat"),
];
const APPARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

/// All checks; those that the restricted level is stricter in are left out of a `restricted` evaluation.
pub(super) fn checks(subject: &Subject<'_>, is_restricted: bool) -> Vec<Violation> {
    let unless_restricted = |check: fn(&Subject<'_>) -> Option<Violation>| {
        if is_restricted { None } else { check(subject) }
    };
    let proc_mount_moved = is_restricted && subject.minor >= 35;
    [
        app_armor(subject),
        unless_restricted(capabilities),
        host_namespaces(subject),
        unless_restricted(host_path_volumes),
        host_ports(subject),
        probe_hosts(subject),
        privileged(subject),
        if proc_mount_moved { None } else { proc_mount(subject) },
        se_linux(subject),
        unless_restricted(seccomp),
        sysctls(subject),
        windows_host_process(subject),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn app_armor(subject: &Subject<'_>) -> Option<Violation> {
    let is_bad = |kind: &str| !matches!(kind, "RuntimeDefault" | "Localhost");
    let pod_type = subject.spec.security_context.as_ref().and_then(|c| c.app_armor_profile.as_ref()).map(|p| &p.type_);
    let type_of = |security: &Option<&k8s_openapi::api::core::v1::SecurityContext>| {
        security.and_then(|context| context.app_armor_profile.as_ref()).map(|profile| profile.type_.clone())
    };
    let is_pod = pod_type.is_some_and(|kind| is_bad(kind));
    let named = subject.named(|container| type_of(&container.security).is_some_and(|kind| is_bad(&kind)));
    let kinds = pod_type.cloned().into_iter().chain(subject.containers.iter().filter_map(|c| type_of(&c.security)));
    let bad = sorted(kinds.filter(|kind| is_bad(kind)));
    let mut details: Vec<String> = Vec::new();
    if let Some(setters) = setters(is_pod, &named) {
        details.push(format!("{setters} must not set AppArmor profile type to {}", quoted(&bad)));
    }
    let annotations = subject.pod.metadata.annotations.iter().flatten();
    let forbidden: Vec<String> = annotations
        .filter(|(key, value)| {
            let is_ok = value.is_empty() || *value == "runtime/default" || value.starts_with("localhost/");
            key.starts_with(APPARMOR_ANNOTATION) && !is_ok
        })
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    if !forbidden.is_empty() {
        details.push(format!("annotation{} {}", plural(forbidden.len()), forbidden.join(", ")));
    }
    let count = bad.len() + forbidden.len();
    (!details.is_empty())
        .then(|| Violation::new(format!("forbidden AppArmor profile{}", plural(count)), details.join(" and ")))
}

fn capabilities(subject: &Subject<'_>) -> Option<Violation> {
    let (named, added) = added_capabilities(subject, CAPABILITIES);
    let detail =
        format!("{} must not include {} in securityContext.capabilities.add", containers_text(&named), quoted(&added));
    (!named.is_empty()).then(|| Violation::new("non-default capabilities", detail))
}

/// The containers that add other capabilities, and these.
pub(super) fn added_capabilities<'a>(subject: &Subject<'a>, allowed: &[&str]) -> (Vec<&'a str>, Vec<String>) {
    let mut named = Vec::new();
    let mut added = Vec::new();
    for container in &subject.containers {
        let capabilities = container.security.and_then(|context| context.capabilities.as_ref());
        let bad =
            capabilities.and_then(|c| c.add.as_ref()).into_iter().flatten().filter(|n| !allowed.contains(&n.as_str()));
        let bad: Vec<String> = bad.cloned().collect();
        if !bad.is_empty() {
            named.push(container.name);
            added.extend(bad);
        }
    }
    (named, sorted(added))
}

fn host_namespaces(subject: &Subject<'_>) -> Option<Violation> {
    let spec = subject.spec;
    let fields =
        [(spec.host_network, "hostNetwork=true"), (spec.host_pid, "hostPID=true"), (spec.host_ipc, "hostIPC=true")];
    let set: Vec<&str> = fields.into_iter().filter(|(value, _)| *value == Some(true)).map(|(_, text)| text).collect();
    (!set.is_empty()).then(|| Violation::new("host namespaces", set.join(", ")))
}

fn host_path_volumes(subject: &Subject<'_>) -> Option<Violation> {
    let volumes = subject.spec.volumes.iter().flatten();
    let named: Vec<&str> = volumes.filter(|v| v.host_path.is_some()).map(|v| v.name.as_str()).collect();
    let detail = format!("volume{} {}", plural(named.len()), quoted(&named));
    (!named.is_empty()).then(|| Violation::new("hostPath volumes", detail))
}

fn host_ports(subject: &Subject<'_>) -> Option<Violation> {
    let mut named = Vec::new();
    let mut ports = std::collections::BTreeSet::new();
    for container in &subject.containers {
        let used: Vec<i32> = container.ports.iter().filter_map(|p| p.host_port).filter(|port| *port != 0).collect();
        if !used.is_empty() {
            named.push(container.name);
            ports.extend(used);
        }
    }
    let verb = if named.len() == 1 { "uses" } else { "use" };
    let list: Vec<String> = ports.iter().map(ToString::to_string).collect();
    let detail = format!("{} {verb} hostPort{} {}", containers_text(&named), plural(list.len()), list.join(", "));
    (!named.is_empty()).then(|| Violation::new("hostPort", detail))
}

/// 1.34: a probe that reaches elsewhere is a way to make requests from the node.
fn probe_hosts(subject: &Subject<'_>) -> Option<Violation> {
    if subject.minor < 34 {
        return None;
    }
    let named = subject.named(|container| !container.hosts.is_empty());
    let hosts = sorted(subject.containers.iter().flat_map(|container| &container.hosts).map(|host| (*host).to_owned()));
    let verb = if named.len() == 1 { "uses" } else { "use" };
    let detail =
        format!("{} {verb} probe or lifecycle host{} {}", containers_text(&named), plural(hosts.len()), quoted(&hosts));
    (!named.is_empty()).then(|| Violation::new("probe or lifecycle host", detail))
}

fn privileged(subject: &Subject<'_>) -> Option<Violation> {
    let named = subject.named(|c| c.security.is_some_and(|context| context.privileged == Some(true)));
    let detail = format!("{} must not set securityContext.privileged=true", containers_text(&named));
    (!named.is_empty()).then(|| Violation::new("privileged", detail))
}

/// Since 1.35 allowed in a user namespace.
fn proc_mount(subject: &Subject<'_>) -> Option<Violation> {
    if subject.relaxes_users() { None } else { any_proc_mount(subject) }
}

pub(super) fn any_proc_mount(subject: &Subject<'_>) -> Option<Violation> {
    let value = |c: &super::Parts<'_>| {
        let mount = c.security.and_then(|context| context.proc_mount.as_deref());
        mount.filter(|mount| *mount != "Default").map(str::to_owned)
    };
    let named = subject.named(|container| value(container).is_some());
    let values = sorted(subject.containers.iter().filter_map(value));
    let detail = format!("{} must not set securityContext.procMount to {}", containers_text(&named), quoted(&values));
    (!named.is_empty()).then(|| Violation::new("procMount", detail))
}

fn se_linux(subject: &Subject<'_>) -> Option<Violation> {
    let is_ok = |kind: &str| {
        matches!(kind, "" | "container_t" | "container_init_t" | "container_kvm_t")
            || (kind == "container_engine_t" && subject.minor >= 31)
    };
    let is_set = |field: &Option<String>| field.as_deref().is_some_and(|text| !text.is_empty());
    let kind = |options: &SELinuxOptions| options.type_.clone().unwrap_or_default();
    let is_bad = |options: &SELinuxOptions| !is_ok(&kind(options)) || is_set(&options.user) || is_set(&options.role);
    let of_pod = subject.spec.security_context.as_ref().and_then(|context| context.se_linux_options.as_ref());
    let of_containers = subject.containers.iter().filter_map(|c| c.security?.se_linux_options.as_ref());
    let all: Vec<&SELinuxOptions> = of_pod.into_iter().chain(of_containers).collect();
    let named = subject.named(|c| c.security.and_then(|context| context.se_linux_options.as_ref()).is_some_and(is_bad));
    let setters = setters(of_pod.is_some_and(is_bad), &named)?;
    let types = sorted(all.iter().map(|options| kind(options)).filter(|kind| !is_ok(kind)));
    let mut parts = Vec::new();
    if !types.is_empty() {
        parts.push(format!("type{} {}", plural(types.len()), quoted(&types)));
    }
    if all.iter().any(|options| is_set(&options.user)) {
        parts.push("user may not be set".to_owned());
    }
    if all.iter().any(|options| is_set(&options.role)) {
        parts.push("role may not be set".to_owned());
    }
    let detail = format!("{setters} set forbidden securityContext.seLinuxOptions: {}", parts.join("; "));
    Some(Violation::new("seLinuxOptions", detail))
}

fn seccomp(subject: &Subject<'_>) -> Option<Violation> {
    unconfined(subject).map(|detail| Violation::new("seccompProfile", detail))
}

/// Who sets `Unconfined`.
pub(super) fn unconfined(subject: &Subject<'_>) -> Option<String> {
    let is_bad = |kind: &str| !matches!(kind, "RuntimeDefault" | "Localhost");
    let of_pod = subject.spec.security_context.as_ref().and_then(|context| context.seccomp_profile.as_ref());
    let of = |c: &super::Parts<'_>| Some(c.security?.seccomp_profile.as_ref()?.type_.clone());
    let named = subject.named(|container| of(container).is_some_and(|kind| is_bad(&kind)));
    let setters = setters(of_pod.is_some_and(|profile| is_bad(&profile.type_)), &named)?;
    let kinds = of_pod.map(|profile| profile.type_.clone()).into_iter().chain(subject.containers.iter().filter_map(of));
    let kinds = sorted(kinds.filter(|kind| is_bad(kind)));
    Some(format!("{setters} must not set securityContext.seccompProfile.type to {}", quoted(&kinds)))
}

fn sysctls(subject: &Subject<'_>) -> Option<Violation> {
    let set = subject.spec.security_context.as_ref().and_then(|context| context.sysctls.as_ref());
    let is_allowed = |name: &str| SYSCTLS.iter().any(|(since, known)| *known == name && *since <= subject.minor);
    let names = set.into_iter().flatten().map(|sysctl| sysctl.name.as_str());
    let forbidden: Vec<&str> = names.filter(|name| !is_allowed(name)).collect();
    (!forbidden.is_empty()).then(|| Violation::new("forbidden sysctls", forbidden.join(", ")))
}

fn windows_host_process(subject: &Subject<'_>) -> Option<Violation> {
    let of_pod = subject.spec.security_context.as_ref().and_then(|context| context.windows_options.as_ref());
    let is_pod = of_pod.is_some_and(|options| options.host_process == Some(true));
    let named = subject.named(|c| {
        let options = c.security.and_then(|context| context.windows_options.as_ref());
        options.is_some_and(|options| options.host_process == Some(true))
    });
    let setters = setters(is_pod, &named)?;
    let detail = format!("{setters} must not set securityContext.windowsOptions.hostProcess=true");
    Some(Violation::new("hostProcess", detail))
}
