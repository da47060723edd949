//! Ports, DNS, host aliases, host names (PO1-PO4, DN4, HS4, HN4).

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, PodDNSConfig, PodSpec};

use super::error::{Errors, Path};
use super::names;
use super::probes::invalid_port;

/// DN3
const NAMESERVERS_MAX: usize = 3;
/// DN3
const SEARCHES_MAX: usize = 32;
/// DN3
const SEARCH_CHARACTERS_MAX: usize = 2048;
/// HN4
const HOSTNAME_OVERRIDE_MAX: usize = 64;

pub(super) fn ports(container: &Container, spec: &PodSpec, path: &Path, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (index, port) in container.ports.iter().flatten().enumerate() {
        let path = path.index(index);
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            let at = path.field("name");
            let messages = names::port_name(name);
            if messages.is_empty() && !seen.insert(name) {
                errors.duplicate(&at, name);
            }
            errors.invalid_all(&at, name, messages);
        }
        if port.container_port == 0 {
            errors.required(&path.field("containerPort"), "");
        } else {
            invalid_port(port.container_port, &path.field("containerPort"), errors);
        }
        if let Some(host_port) = port.host_port.filter(|port| *port != 0) {
            let at = path.field("hostPort");
            invalid_port(host_port, &at, errors);
            if spec.host_network == Some(true) && host_port != port.container_port {
                errors.invalid(&at, host_port, "must match `containerPort` when `hostNetwork` is true");
            }
        }
        match port.protocol.as_deref().unwrap_or_default() {
            "" => errors.required(&path.field("protocol"), ""),
            _ => errors.one_of(&path.field("protocol"), port.protocol.as_ref(), &["SCTP", "TCP", "UDP"]),
        }
        if let Some(ip) = port.host_ip.as_deref().filter(|ip| !ip.is_empty()) {
            errors.invalid_all(&path.field("hostIP"), ip, names::ip(ip));
        }
    }
}

/// PO3: a host port may be asked for once in a pod.
pub(super) fn host_ports(spec: &PodSpec, path: &Path, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (container, value) in spec.containers.iter().enumerate() {
        for (index, port) in value.ports.iter().flatten().enumerate() {
            let Some(host_port) = port.host_port.filter(|port| *port != 0) else {
                continue;
            };
            let protocol = port.protocol.as_deref().unwrap_or_default();
            let key = format!("{protocol}/{}/{host_port}", port.host_ip.as_deref().unwrap_or_default());
            if !seen.insert(key.clone()) {
                errors.duplicate(&path.index(container).field("ports").index(index).field("hostPort"), key);
            }
        }
    }
}

/// DN4
pub(super) fn dns(spec: &PodSpec, path: &Path, errors: &mut Errors) {
    let policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    errors.one_of(&path.field("dnsPolicy"), spec.dns_policy.as_ref(), &policies);
    let at = path.field("dnsConfig");
    if spec.dns_policy.as_deref() == Some("None") {
        match &spec.dns_config {
            None => errors.required(&at, "must provide `dnsConfig` when `dnsPolicy` is None"),
            Some(config) if config.nameservers.as_ref().is_none_or(Vec::is_empty) => {
                let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
                errors.required(&at.field("nameservers"), detail);
            }
            Some(_) => {}
        }
    }
    if let Some(config) = &spec.dns_config {
        dns_config(config, &at, errors);
    }
}

fn dns_config(config: &PodDNSConfig, path: &Path, errors: &mut Errors) {
    let servers = config.nameservers.as_deref().unwrap_or_default();
    let at = path.field("nameservers");
    if servers.len() > NAMESERVERS_MAX {
        let detail = format!("must not have more than {NAMESERVERS_MAX} nameservers");
        errors.invalid(&at, servers.to_vec(), detail);
    }
    for (index, server) in servers.iter().enumerate() {
        errors.invalid_all(&at.index(index), server, names::ip(server));
    }
    let searches = config.searches.as_deref().unwrap_or_default();
    let at = path.field("searches");
    if searches.len() > SEARCHES_MAX {
        errors.invalid(&at, searches.to_vec(), format!("must not have more than {SEARCHES_MAX} search paths"));
    }
    if searches.join(" ").chars().count() > SEARCH_CHARACTERS_MAX {
        let detail =
            format!("must not have more than {SEARCH_CHARACTERS_MAX} characters (including spaces) in the search list");
        errors.invalid(&at, searches.to_vec(), detail);
    }
    for (index, search) in searches.iter().enumerate() {
        errors.invalid_all(&at.index(index), search, names::search(search));
    }
    for (index, option) in config.options.iter().flatten().enumerate() {
        if option.name.as_deref().unwrap_or_default().is_empty() {
            errors.required(&path.field("options").index(index), "must not be empty");
        }
        // A line break would be a line of its own in resolv.conf (D17).
        let is_line = |text: &Option<String>| text.as_deref().unwrap_or_default().contains(['\n', '\r', '\0']);
        if is_line(&option.name) || is_line(&option.value) {
            errors.invalid(&path.field("options").index(index), "", "must be one line");
        }
    }
}

/// HS4
pub(super) fn host_aliases(spec: &PodSpec, path: &Path, errors: &mut Errors) {
    for (index, alias) in spec.host_aliases.iter().flatten().enumerate() {
        let path = path.index(index);
        errors.invalid_all(&path.field("ip"), &alias.ip, names::ip(&alias.ip));
        for (index, name) in alias.hostnames.iter().flatten().enumerate() {
            errors.invalid_all(&path.field("hostnames").index(index), name, names::subdomain(name));
        }
    }
}

pub(super) fn host_names(spec: &PodSpec, path: &Path, errors: &mut Errors) {
    for (field, value) in [("hostname", &spec.hostname), ("subdomain", &spec.subdomain)] {
        if let Some(name) = value.as_deref().filter(|name| !name.is_empty()) {
            errors.invalid_all(&path.field(field), name, names::label(name));
        }
    }
    let Some(name) = spec.hostname_override.as_deref() else {
        return;
    };
    let at = path.field("hostnameOverride");
    if spec.host_network == Some(true) {
        errors.invalid(&at, name, "may not be specified when hostNetwork is true");
    }
    if spec.set_hostname_as_fqdn == Some(true) {
        errors.forbidden(&at, "may not be specified when setHostnameAsFQDN is true");
    }
    if name.len() > HOSTNAME_OVERRIDE_MAX {
        errors.too_long(&at, HOSTNAME_OVERRIDE_MAX);
    }
    errors.invalid_all(&at, name, names::subdomain(name));
}

/// 8.4: namespaces that exclude each other.
pub(super) fn namespaces(spec: &PodSpec, path: &Path, errors: &mut Errors) {
    if spec.share_process_namespace == Some(true) && spec.host_pid == Some(true) {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.invalid(&path.field("shareProcessNamespace"), true, detail);
    }
    if spec.host_users == Some(false) {
        for (field, value) in
            [("hostNetwork", spec.host_network), ("hostPID", spec.host_pid), ("hostIPC", spec.host_ipc)]
        {
            if value == Some(true) {
                errors.forbidden(&path.field(field), "when `hostUsers` is false");
            }
        }
    }
}
