//! Names to addresses without the C library, whose static form has no name service switch.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::config::{NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::Name;
use hickory_resolver::{Hosts, Resolver};

/// Wait for one answer of a name server (resolv.conf(5) `timeout`).
const TIMEOUT: Duration = Duration::from_secs(5);
/// resolv.conf(5) `attempts`.
const ATTEMPTS: usize = 2;
/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 16;

/// The resolver of this machine: `/etc/hosts`, then the name servers of `/etc/resolv.conf` with its search domains.
pub(super) struct Names {
    resolver: Resolver<TokioRuntimeProvider>,
}

impl Names {
    /// From the text of both files.
    pub(super) fn new(resolv: &str, hosts: &str) -> Result<Self, String> {
        let resolv = netsetup::resolv::parse(resolv);
        let mut servers: Vec<IpAddr> = resolv.nameservers.iter().filter_map(|text| text.parse().ok()).collect();
        if servers.is_empty() {
            // As the C library does (resolv.conf(5)).
            servers.push(Ipv4Addr::LOCALHOST.into());
        }
        let servers = servers.into_iter().map(NameServerConfig::udp_and_tcp).collect();
        let search = resolv.searches.iter().filter_map(|domain| Name::from_utf8(domain).ok()).collect();
        let config = ResolverConfig::from_parts(None, search, servers);
        let mut builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
        set_options(builder.options_mut(), &resolv.options);
        let mut resolver = builder.build().map_err(|error| error.to_string())?;
        let mut table = Hosts::default();
        table.read_hosts_conf(hosts.as_bytes()).map_err(|error| format!("/etc/hosts: {error}"))?;
        resolver.set_hosts(Arc::new(table));
        Ok(Self { resolver })
    }

    /// All addresses of a host; a literal address is itself.
    pub(super) async fn lookup(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
        let literal = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(host);
        if let Ok(address) = literal.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        if host.eq_ignore_ascii_case("localhost") {
            let both = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
            return Ok(both.map(|address| SocketAddr::new(address, port)).to_vec());
        }
        let found = self.resolver.lookup_ip(host).await.map_err(|error| text(host, &error))?;
        let found: Vec<_> = found.iter().map(|address| SocketAddr::new(address, port)).take(MAX_ADDRESSES).collect();
        if found.is_empty() { Err(format!("lookup {host}: no such host")) } else { Ok(found) }
    }
}

fn text(host: &str, error: &hickory_resolver::net::NetError) -> String {
    if error.is_nx_domain() || error.is_no_records_found() {
        return format!("lookup {host}: no such host");
    }
    format!("lookup {host}: {error}")
}

fn set_options(options: &mut ResolverOpts, given: &[netsetup::resolv::DnsOption]) {
    let number = |name: &str| {
        let option = given.iter().find(|option| option.name == name)?;
        option.value.as_deref()?.parse::<u64>().ok()
    };
    options.timeout = number("timeout").map_or(TIMEOUT, |seconds| Duration::from_secs(seconds.clamp(1, 30)));
    options.attempts = number("attempts").and_then(|n| usize::try_from(n.clamp(1, 5)).ok()).unwrap_or(ATTEMPTS);
    options.ndots = number("ndots").and_then(|n| usize::try_from(n.min(15)).ok()).unwrap_or(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_no_server_is_answered_without_one() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let names = Names::new("nameserver 192.0.2.1\n", "10.1.2.3 registry.test # ours\n").unwrap();
            for (host, address) in [
                ("10.0.0.1", "10.0.0.1:5000"),
                ("[fd00::1]", "[fd00::1]:5000"),
                ("localhost", "127.0.0.1:5000"),
                ("registry.test", "10.1.2.3:5000"),
            ] {
                let found = names.lookup(host, 5000).await.unwrap();
                assert_eq!(found.first().map(ToString::to_string).as_deref(), Some(address), "{host}");
            }
        });
    }
}
