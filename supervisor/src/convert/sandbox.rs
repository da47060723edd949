//! What a pod's spec says of its sandbox: namespaces, ports, names (sections 8.3 to 8.5).

use k8s_openapi::api::core::v1::{ContainerPort, PodSpec};
use netsetup::hosts::HostAlias;
use netsetup::resolv::{DnsOption, DnsPolicy, Resolv};
use netsetup::{HostPort, Protocol};

use crate::monitor::protocol::{HostNamespaces, PidNamespace};

/// The runtime's handlers: what a runtime class may name. There is one way to run a pod, by the name that everybody's
/// default has.
pub const HANDLERS: [&str; 1] = ["runc"];

/// Whether this node can make a sandbox that isolates the pod as its spec asks; less than that is none. `handler_of` gives
/// the handler of a runtime class.
///
/// # Errors
/// It can't, in words.
pub fn possible(
    spec: &PodSpec,
    user_namespaces: impl FnOnce() -> Result<(), String>,
    handler_of: impl Fn(&str) -> Option<String>,
) -> Result<(), String> {
    if spec.host_users == Some(false) {
        let told = |cause| format!("this node has no user namespaces for pods (hostUsers: false): {cause}");
        user_namespaces().map_err(told)?;
    }
    let Some(class) = spec.runtime_class_name.as_deref().filter(|class| !class.is_empty()) else { return Ok(()) };
    let handler = handler_of(class).ok_or_else(|| format!("RuntimeClass {class:?} not found"))?;
    if handler.is_empty() || HANDLERS.contains(&handler.as_str()) {
        return Ok(());
    }
    Err(format!("no runtime for {handler:?} is configured (RuntimeClass {class:?})"))
}

/// Whose users a pod has (section 8.4, D22).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Users {
    Host,
    /// Its own, or it does not run.
    Own,
    /// What the node says, where it can.
    Unsaid {
        host: bool,
    },
}

/// `by_default` is the node's word: true gives pods that don't say the host's users. Host namespaces go with no others.
pub fn users(spec: &PodSpec, by_default: bool) -> Users {
    let host = host_namespaces(spec);
    match spec.host_users {
        Some(false) => Users::Own,
        Some(true) => Users::Host,
        None if host.network || host.pid || host.ipc => Users::Host,
        None => Users::Unsaid { host: by_default },
    }
}

/// The namespaces that the pod shares with the host.
pub fn host_namespaces(spec: &PodSpec) -> HostNamespaces {
    HostNamespaces {
        network: spec.host_network.unwrap_or(false),
        pid: spec.host_pid.unwrap_or(false),
        ipc: spec.host_ipc.unwrap_or(false),
    }
}

/// The PID namespace of one of its containers. `target` is the engine's id of the container that an ephemeral one looks
/// at; where processes are shared anyway, it sees that one already (EP5).
pub fn pid_namespace(spec: &PodSpec, target: Option<String>) -> PidNamespace {
    let shared = spec.share_process_namespace.unwrap_or(false);
    match (spec.host_pid.unwrap_or(false), shared, target) {
        (true, _, _) => PidNamespace::Host,
        (false, true, _) => PidNamespace::Sandbox,
        (false, false, Some(id)) => PidNamespace::Container(id),
        (false, false, None) => PidNamespace::Own,
    }
}

/// Names and values.
pub fn sysctls(spec: &PodSpec) -> Vec<(String, String)> {
    let given = spec.security_context.as_ref().and_then(|security| security.sysctls.as_ref());
    given.into_iter().flatten().map(|sysctl| (sysctl.name.clone(), sysctl.value.clone())).collect()
}

/// Rule PO2: only those of app containers are mapped, and none on the host's own network.
pub fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    if spec.host_network.unwrap_or(false) {
        return Vec::new();
    }
    let ports = spec.containers.iter().flat_map(|container| container.ports.iter().flatten());
    ports.filter_map(host_port).collect()
}

/// What a port of a container asks of the node; none for one that asks for nothing.
pub fn host_port(port: &ContainerPort) -> Option<HostPort> {
    Some(HostPort {
        host_ip: port.host_ip.as_deref().and_then(|ip| ip.parse().ok()),
        host_port: u16::try_from(port.host_port?).ok().filter(|port| *port > 0)?,
        container_port: u16::try_from(port.container_port).ok()?,
        protocol: match port.protocol.as_deref() {
            Some("UDP") => Protocol::Udp,
            Some("SCTP") => Protocol::Sctp,
            Some(_) | None => Protocol::Tcp,
        },
    })
}

/// Rule HS2.
pub fn host_aliases(spec: &PodSpec) -> Vec<HostAlias> {
    let aliases = spec.host_aliases.iter().flatten();
    aliases
        .map(|alias| HostAlias { ip: alias.ip.clone(), hostnames: alias.hostnames.clone().unwrap_or_default() })
        .collect()
}

pub fn dns_policy(spec: &PodSpec) -> DnsPolicy {
    match spec.dns_policy.as_deref() {
        Some("None") => DnsPolicy::None,
        Some("Default") => DnsPolicy::Default,
        Some("ClusterFirstWithHostNet") => DnsPolicy::ClusterFirstWithHostNet,
        Some(_) | None => DnsPolicy::ClusterFirst,
    }
}

/// Rule DN1.
pub fn dns_config(spec: &PodSpec) -> Resolv {
    let config = spec.dns_config.clone().unwrap_or_default();
    let options = config.options.into_iter().flatten();
    Resolv {
        nameservers: config.nameservers.unwrap_or_default(),
        searches: config.searches.unwrap_or_default(),
        options: options.map(|o| DnsOption { name: o.name.unwrap_or_default(), value: o.value }).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> PodSpec {
        serde_json::from_str(text).unwrap()
    }

    /// Section 8.4: what can't be isolated as asked does not run.
    #[test]
    fn a_sandbox_isolates_as_asked_or_is_not_made() {
        let handler_of = |class: &str| match class {
            "plain" => Some("runc".to_owned()),
            "vm" => Some("kata".to_owned()),
            _ => None,
        };
        let refused_by = |users: Result<(), String>, rest: &str| {
            possible(&spec(&format!(r#"{{"containers":[]{rest}}}"#)), || users, handler_of).err()
        };
        let refused = |rest: &str| refused_by(Err("too old".to_owned()), rest);
        for fine in ["", r#","hostUsers":true"#, r#","runtimeClassName":"plain""#] {
            assert_eq!(refused(fine), None, "{fine}");
        }
        assert_eq!(refused_by(Ok(()), r#","hostUsers":false"#), None);
        for (rest, said) in [
            (r#","hostUsers":false"#, "this node has no user namespaces for pods (hostUsers: false): too old"),
            (r#","runtimeClassName":"vm""#, r#"no runtime for "kata" is configured (RuntimeClass "vm")"#),
            (r#","runtimeClassName":"none""#, r#"RuntimeClass "none" not found"#),
        ] {
            assert_eq!(refused(rest).as_deref(), Some(said), "{rest}");
        }
    }

    /// Section 8.4, D22: the pod's own word and host namespaces win over the node's.
    #[test]
    fn whose_users_a_pod_has() {
        for (rest, expected) in [
            ("", Users::Unsaid { host: false }),
            (r#","hostUsers":true"#, Users::Host),
            (r#","hostUsers":false"#, Users::Own),
            (r#","hostNetwork":true"#, Users::Host),
            (r#","hostPID":true"#, Users::Host),
            (r#","hostIPC":true"#, Users::Host),
        ] {
            assert_eq!(users(&spec(&format!(r#"{{"containers":[]{rest}}}"#)), false), expected, "{rest}");
        }
        assert_eq!(users(&spec(r#"{"containers":[]}"#), true), Users::Unsaid { host: true });
    }

    /// Section 8.4, EP5
    #[test]
    fn who_sees_whose_processes() {
        let target = || Some("id".to_owned());
        for (text, target, expected) in [
            (r#"{"containers":[]}"#, None, PidNamespace::Own),
            (r#"{"containers":[]}"#, target(), PidNamespace::Container("id".to_owned())),
            (r#"{"containers":[],"shareProcessNamespace":true}"#, target(), PidNamespace::Sandbox),
            (r#"{"containers":[],"hostPID":true}"#, target(), PidNamespace::Host),
        ] {
            assert_eq!(pid_namespace(&spec(text), target), expected, "{text}");
        }
    }

    /// PO2
    #[test]
    fn ports_of_apps_are_mapped_and_no_others() {
        let ports = r#"{"name":"c","ports":[{"containerPort":80,"hostPort":8080,"hostIP":"127.0.0.1"},{"containerPort":53,
            "hostPort":5353,"protocol":"UDP"},{"containerPort":81},{"containerPort":82,"hostPort":0}]}"#;
        let pod = format!(r#"{{"containers":[{ports}],"initContainers":[{ports}]}}"#);
        let mapped = host_ports(&spec(&pod));
        let shown: Vec<_> = mapped.iter().map(|port| (port.host_port, port.container_port, port.protocol)).collect();
        assert_eq!(shown, [(8080, 80, Protocol::Tcp), (5353, 53, Protocol::Udp)]);
        assert_eq!(mapped.first().and_then(|port| port.host_ip), Some([127, 0, 0, 1].into()));
        let host = format!(r#"{{"hostNetwork":true,"containers":[{ports}]}}"#);
        assert!(host_ports(&spec(&host)).is_empty());
    }

    /// Section 8.3
    #[test]
    fn a_dns_policy_that_is_not_written_is_the_cluster_s() {
        for (text, expected) in [
            (r#"{"containers":[]}"#, DnsPolicy::ClusterFirst),
            (r#"{"containers":[],"dnsPolicy":"ClusterFirst"}"#, DnsPolicy::ClusterFirst),
            (r#"{"containers":[],"dnsPolicy":"Default"}"#, DnsPolicy::Default),
            (r#"{"containers":[],"dnsPolicy":"None"}"#, DnsPolicy::None),
            (r#"{"containers":[],"dnsPolicy":"ClusterFirstWithHostNet"}"#, DnsPolicy::ClusterFirstWithHostNet),
        ] {
            assert_eq!(dns_policy(&spec(text)), expected, "{text}");
        }
    }

    /// DN1, HS2
    #[test]
    fn names_are_taken_over_as_written() {
        let spec = spec(
            r#"{"containers":[],"hostAliases":[{"ip":"10.0.0.1","hostnames":["a","b"]}],
                "dnsConfig":{"nameservers":["10.0.0.2"],"options":[{"name":"ndots","value":"2"},{"name":"edns0"}]}}"#,
        );
        assert_eq!(host_aliases(&spec).first().map(|alias| alias.hostnames.len()), Some(2));
        let config = dns_config(&spec);
        assert_eq!(config.nameservers, ["10.0.0.2"]);
        let options: Vec<_> = config.options.iter().map(|o| (o.name.as_str(), o.value.as_deref())).collect();
        assert_eq!(options, [("ndots", Some("2")), ("edns0", None)]);
    }
}
