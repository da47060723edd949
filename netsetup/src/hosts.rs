//! A pod's names: hostname and `/etc/hosts` (sections 8.1, 8.2).

use std::net::IpAddr;

/// Longest node name that the kernel takes (sethostname(2)).
pub const NODE_NAME_MAX: usize = 64;
/// A DNS label (RFC 1123).
const LABEL_MAX: usize = 63;

/// The host part of a pod's name: at most 63 characters, no trailing `-` or `.` (rule HN1).
pub fn hostname(wanted: &str) -> String {
    let cut: String = wanted.chars().take(LABEL_MAX).collect();
    cut.trim_end_matches(['-', '.']).to_owned()
}

/// The UTS node name when the FQDN is asked for (rule HN3).
pub fn fqdn(hostname: &str, domain: &str) -> Result<String, String> {
    let fqdn = format!("{hostname}.{domain}");
    if fqdn.len() <= NODE_NAME_MAX {
        return Ok(fqdn);
    }
    Err(format!(
        "failed to construct FQDN from pod hostname and cluster domain, FQDN {fqdn} is too long \
         ({NODE_NAME_MAX} characters is the max, {} characters requested)",
        fqdn.len()
    ))
}

/// An entry of `hostAliases`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alias {
    pub ip: String,
    pub hostnames: Vec<String>,
}

/// The file of a pod with a network of its own.
pub fn render(addresses: &[IpAddr], hostname: &str, domain: Option<&str>, aliases: &[Alias]) -> String {
    let mut out = String::from(
        "# Kubernetes-managed hosts file.\n\
         127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\n\
         fe00::1\tip6-allnodes\n\
         fe00::2\tip6-allrouters\n",
    );
    for address in addresses {
        match domain {
            Some(domain) => out.push_str(&format!("{address}\t{hostname}.{domain}\t{hostname}\n")),
            None => out.push_str(&format!("{address}\t{hostname}\n")),
        }
    }
    out + &render_aliases(aliases)
}

/// The file of a pod with the host's network (rule HS3).
pub fn render_host_network(node: &str, aliases: &[Alias]) -> String {
    format!("# Kubernetes-managed hosts file (host network).\n{node}{}", render_aliases(aliases))
}

/// Rule HS2.
fn render_aliases(aliases: &[Alias]) -> String {
    if aliases.is_empty() {
        return String::new();
    }
    let lines = aliases.iter().map(|alias| format!("{}\t{}\n", alias.ip, alias.hostnames.join("\t")));
    format!("\n# Entries added by HostAliases.\n{}", lines.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// HN1
    #[test]
    fn a_hostname_is_cut_and_trimmed() {
        assert_eq!(hostname("web"), "web");
        assert_eq!(hostname(&"a".repeat(70)), "a".repeat(63));
        assert_eq!(hostname(&format!("{}-.-rest", "a".repeat(60))), "a".repeat(60));
    }

    /// HN3
    #[test]
    fn a_long_fqdn_is_refused_with_its_length() {
        assert_eq!(fqdn("a", "b.c").unwrap(), "a.b.c");
        let error = fqdn(&"a".repeat(60), "b.svc").unwrap_err();
        assert!(error.ends_with("is too long (64 characters is the max, 66 characters requested)"), "{error}");
    }

    /// Section 8.2, HS1, HS2
    #[test]
    fn the_file_is_kubernetes_own_byte_for_byte() {
        let addresses = ["10.0.0.5".parse().unwrap(), "fd00::5".parse().unwrap()];
        let aliases = [Alias { ip: "1.2.3.4".into(), hostnames: vec!["a".into(), "b.c".into()] }];
        let got = render(&addresses, "web", Some("sub.ns.svc.cluster.local"), &aliases);
        assert_eq!(
            got,
            "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n\
             10.0.0.5\tweb.sub.ns.svc.cluster.local\tweb\nfd00::5\tweb.sub.ns.svc.cluster.local\tweb\n\
             \n# Entries added by HostAliases.\n1.2.3.4\ta\tb.c\n"
        );
        assert!(render(&addresses[..1], "web", None, &[]).ends_with("10.0.0.5\tweb\n"));
    }

    /// HS3
    #[test]
    fn with_the_host_s_network_the_node_s_file_follows() {
        let got = render_host_network("127.0.0.1\tnode\n", &[]);
        assert_eq!(got, "# Kubernetes-managed hosts file (host network).\n127.0.0.1\tnode\n");
    }
}
