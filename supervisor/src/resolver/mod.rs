//! Names to addresses, as the host resolves them: `/etc/hosts`, then the servers of `/etc/resolv.conf` with its search
//! domains. The C library's static form has no name service switch, so hickory asks.

mod runtime;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::config::{NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::proto::rr::Name;
use hickory_resolver::{Hosts, Resolver};

use self::runtime::OneThread;

/// How long one server is waited for (resolv.conf(5) `timeout`).
const TIMEOUT: Duration = Duration::from_secs(5);
/// resolv.conf(5) `attempts`.
const ATTEMPTS: usize = 2;
/// Addresses of one name that are tried.
pub const MAX_ADDRESSES: usize = 16;

/// The resolver of this machine.
pub struct Names {
    resolver: Resolver<OneThread>,
}

impl std::fmt::Debug for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Names").finish_non_exhaustive()
    }
}

/// Why a name has no address; prints as Go does.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    #[error("lookup {host}: no such host")]
    NoSuchHost { host: String },
    #[error("lookup {host}: {cause}")]
    Server { host: String, cause: String },
    #[error("/etc/hosts or /etc/resolv.conf: {0}")]
    Files(String),
}

impl Names {
    /// From the text of `/etc/resolv.conf` and `/etc/hosts`.
    ///
    /// # Errors
    /// When the files hold something that can't be used at all.
    pub fn new(resolv: &str, hosts: &str) -> Result<Self, LookupError> {
        let mut table = Hosts::default();
        table.read_hosts_conf(hosts.as_bytes()).map_err(|error| LookupError::Files(error.to_string()))?;
        let resolv = netsetup::resolv::parse(resolv);
        let mut servers: Vec<IpAddr> = resolv.nameservers.iter().filter_map(|text| text.parse().ok()).collect();
        if servers.is_empty() {
            // As the C library does (resolv.conf(5)).
            servers.push(Ipv4Addr::LOCALHOST.into());
        }
        let servers = servers.into_iter().map(NameServerConfig::udp_and_tcp).collect();
        let search = resolv.searches.iter().filter_map(|domain| Name::from_utf8(domain).ok()).collect();
        let config = ResolverConfig::from_parts(None, search, servers);
        let mut builder = Resolver::builder_with_config(config, OneThread::default());
        set_options(builder.options_mut(), &resolv.options);
        let mut resolver = builder.build().map_err(|error| LookupError::Files(error.to_string()))?;
        resolver.set_hosts(Arc::new(table));
        Ok(Self { resolver })
    }

    /// All addresses of a host, IPv4 first; a literal address is itself.
    ///
    /// # Errors
    /// When there is none, or no server says so.
    pub async fn lookup(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, LookupError> {
        let literal = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(host);
        let found = match literal.parse::<IpAddr>() {
            Ok(address) => vec![address],
            Err(_) => self.named(host).await?,
        };
        Ok(found.into_iter().take(MAX_ADDRESSES).map(|address| SocketAddr::new(address, port)).collect())
    }

    async fn named(&self, host: &str) -> Result<Vec<IpAddr>, LookupError> {
        let missing = || LookupError::NoSuchHost { host: host.to_owned() };
        if host.trim_end_matches('.').eq_ignore_ascii_case("localhost") {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        let found = self.resolver.lookup_ip(host).await.map_err(|error| failed(host, &error))?;
        let mut found: Vec<IpAddr> = found.iter().collect();
        found.sort_by_key(IpAddr::is_ipv6);
        if found.is_empty() { Err(missing()) } else { Ok(found) }
    }
}

fn failed(host: &str, error: &NetError) -> LookupError {
    let host = host.to_owned();
    if error.is_nx_domain() || error.is_no_records_found() {
        return LookupError::NoSuchHost { host };
    }
    LookupError::Server { host, cause: error.to_string() }
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
mod tests;
