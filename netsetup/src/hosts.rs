//! `/etc/hosts` of a pod (section 8.2, rules HS1-HS4), byte for byte.

use std::net::IpAddr;

/// The first line of a pod with its own network.
const HEADER: &str = "# Kubernetes-managed hosts file.\n";
/// The first line of a pod with the host's network (HS3).
const HEADER_HOST_NETWORK: &str = "# Kubernetes-managed hosts file (host network).\n";
const LOCAL: &str = "127.0.0.1\tlocalhost\n\
    ::1\tlocalhost ip6-localhost ip6-loopback\n\
    fe00::0\tip6-localnet\n\
    fe00::0\tip6-mcastprefix\n\
    fe00::1\tip6-allnodes\n\
    fe00::2\tip6-allrouters\n";

/// One entry of `spec.hostAliases`; the caller has validated it (HS4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostAlias {
    /// As the manifest writes it.
    pub ip: String,
    pub hostnames: Vec<String>,
}

/// The file of a pod with its own network: one line per pod address (HS1), then the aliases (HS2).
#[must_use]
pub fn pod(addresses: &[IpAddr], hostname: &str, domain: Option<&str>, aliases: &[HostAlias]) -> String {
    let mut file = format!("{HEADER}{LOCAL}");
    for address in addresses {
        let names = match domain {
            Some(domain) if !domain.is_empty() => format!("{hostname}.{domain}\t{hostname}"),
            Some(_) | None => hostname.to_owned(),
        };
        file.push_str(&format!("{address}\t{names}\n"));
    }
    append(&mut file, aliases);
    file
}

/// The file of a pod with the host's network: the node's file verbatim, then the aliases (HS3).
#[must_use]
pub fn host_network(node: &str, aliases: &[HostAlias]) -> String {
    let mut file = format!("{HEADER_HOST_NETWORK}{node}");
    append(&mut file, aliases);
    file
}

fn append(file: &mut String, aliases: &[HostAlias]) {
    if aliases.is_empty() {
        return;
    }
    file.push_str("\n# Entries added by HostAliases.\n");
    for alias in aliases {
        file.push_str(&format!("{}\t{}\n", alias.ip, alias.hostnames.join("\t")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alias(ip: &str, names: &[&str]) -> HostAlias {
        HostAlias { ip: ip.to_owned(), hostnames: names.iter().map(|name| (*name).to_owned()).collect() }
    }

    /// Section 8.2
    #[test]
    fn a_plain_pod_has_exactly_these_bytes() {
        let file = pod(&["10.0.0.5".parse().unwrap()], "web", None, &[]);
        assert_eq!(
            file.as_bytes(),
            b"# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
              fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n\
              10.0.0.5\tweb\n"
        );
    }

    /// HS1, HS2
    #[test]
    fn domain_two_addresses_and_aliases_are_added() {
        let addresses = ["10.0.0.5".parse().unwrap(), "fd00::5".parse().unwrap()];
        let aliases = [alias("127.0.0.1", &["foo.local", "bar"]), alias("::2", &["x"])];
        let file = pod(&addresses, "web", Some("db.ns.svc.cluster.local"), &aliases);
        assert_eq!(
            file.strip_prefix(HEADER).unwrap().strip_prefix(LOCAL).unwrap(),
            "10.0.0.5\tweb.db.ns.svc.cluster.local\tweb\nfd00::5\tweb.db.ns.svc.cluster.local\tweb\n\
             \n# Entries added by HostAliases.\n127.0.0.1\tfoo.local\tbar\n::2\tx\n"
        );
    }

    /// HS3
    #[test]
    fn the_hosts_network_keeps_the_nodes_file_verbatim() {
        assert_eq!(
            host_network("127.0.0.1 localhost # mine\n", &[alias("1.2.3.4", &["a"])]),
            "# Kubernetes-managed hosts file (host network).\n127.0.0.1 localhost # mine\n\
             \n# Entries added by HostAliases.\n1.2.3.4\ta\n"
        );
    }
}
