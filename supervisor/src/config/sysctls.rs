//! Which sysctls a pod may set (SY1, SY2). Pure.

use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize;

/// SY1: those that neither reach out of the pod nor let it take more of the machine.
const SAFE: &[&str] = &[
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_notsent_lowat",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_slow_start_after_idle",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];
/// SY2: what a namespace of the pod holds, exactly or up to here. Others would be the machine's.
const NAMESPACED: &[&str] = &["kernel.sem"];
const NAMESPACED_PREFIXES: &[&str] = &["kernel.shm", "kernel.msg", "fs.mqueue.", "net."];

/// What `allowedUnsafeSysctls` allows besides [`SAFE`]: a name, or a prefix with `*` behind it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Allowed {
    name: String,
    is_prefix: bool,
}

impl Allowed {
    /// Refuses what is no pattern, or names what no namespace of a pod holds.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, is_prefix) = text.strip_suffix('*').map_or((text, false), |prefix| (prefix, true));
        let name = dotted(name);
        let is_word = |part: &str| part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        if name.is_empty() || !name.split('.').all(is_word) {
            return Err(format!("{text:?} is neither a sysctl's name nor a prefix of names with * behind it"));
        }
        let is_whole_name = !is_prefix && NAMESPACED.contains(&name.as_str());
        if !is_whole_name && !NAMESPACED_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
            let groups = NAMESPACED_PREFIXES.join("*, ");
            return Err(format!("{text:?} is not a pod's own: only {}, {groups}* are", NAMESPACED.join(", ")));
        }
        Ok(Self { name, is_prefix })
    }

    fn allows(&self, name: &str) -> bool {
        if self.is_prefix { name.starts_with(&self.name) } else { self.name == name }
    }
}

impl TryFrom<String> for Allowed {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

/// The first sysctl of the pod that the node does not allow.
pub fn forbidden<'a>(pod: &'a Pod, allowed: &[Allowed]) -> Option<&'a str> {
    let security = pod.spec.as_ref()?.security_context.as_ref()?;
    let mut names = security.sysctls.iter().flatten().map(|sysctl| sysctl.name.as_str());
    names.find(|name| {
        let name = dotted(name);
        !SAFE.contains(&name.as_str()) && !allowed.iter().any(|pattern| pattern.allows(&name))
    })
}

/// sysctl(8): when the first separator is a slash, dots and slashes change places.
fn dotted(name: &str) -> String {
    let swaps = name.find(['.', '/']).is_some_and(|at| name.as_bytes().get(at) == Some(&b'/'));
    if !swaps {
        return name.to_owned();
    }
    name.chars()
        .map(|letter| match letter {
            '/' => '.',
            '.' => '/',
            other => other,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(names: &[&str]) -> Pod {
        let sysctls: Vec<_> = names.iter().map(|name| json!({"name": name, "value": "1"})).collect();
        serde_json::from_value(json!({"spec": {"containers": [], "securityContext": {"sysctls": sysctls}}})).unwrap()
    }

    /// SY1, SY2.
    #[test]
    fn unsafe_sysctls_need_the_node_s_word() {
        let allowed = [Allowed::parse("kernel.msg*").unwrap(), Allowed::parse("net/core/somaxconn").unwrap()];
        for (names, refused) in [
            (&[][..], None),
            (SAFE, None),
            (&["net/ipv4/tcp_syncookies"], None),
            (&["kernel.shm_rmid_forced", "kernel.shmmax"], Some("kernel.shmmax")),
            (&["kernel.msgmax", "kernel/msgmnb", "net.core.somaxconn"], None),
            (&["net.core.somaxconn2"], Some("net.core.somaxconn2")),
            (&["kernel.pid_max"], Some("kernel.pid_max")),
        ] {
            assert_eq!(forbidden(&pod(names), &allowed), refused, "{names:?}");
        }
        assert_eq!(forbidden(&pod(&["kernel.msgmax"]), &[]), Some("kernel.msgmax"));
    }

    /// SY2: nothing that is the machine's can be allowed.
    #[test]
    fn only_what_is_a_pod_s_own_can_be_allowed() {
        for text in ["", "*", "k*", "kernel.pid_max", "vm.*", "kernel.sem*", "net.*x", "net. x", "fs.mqueue"] {
            assert!(Allowed::parse(text).is_err(), "{text}");
        }
        for text in ["net.*", "kernel.sem", "kernel.msg*", "fs.mqueue.msg_max", "net/ipv4/*"] {
            assert!(Allowed::parse(text).is_ok(), "{text}");
        }
    }
}
