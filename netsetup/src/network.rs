//! Connecting pods and letting them go.

use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::ipam::{self, Subnets};
use crate::lease::{Lease, Leases, Shared};
use crate::link::{LinkError, Links, set_sysctl};
use crate::names;
use crate::nft::transaction::{TransactionError, apply, table_exists};
use crate::nft::{self, Change, Element, Family};

/// How a host's pods are connected.
#[derive(Debug, Clone)]
pub struct Config {
    pub ranges: Ranges,
    /// Leases lie here; shared by all processes of a host, emptied by a reboot.
    pub state_dir: PathBuf,
}

/// The pods' addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ranges {
    /// The first of a list that overlaps no route of the host; stays until no pod is left.
    Auto,
    Given(Subnets),
}

/// A pod by an opaque name that is fit for a file: letters, digits, `-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodId(String);

impl PodId {
    /// None when the name could lead out of a directory or is longer than 128 bytes (P36).
    pub fn parse(text: &str) -> Option<Self> {
        let valid =
            (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        valid.then(|| Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A port of the host that leads to a pod (rule PO2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPort {
    /// All local addresses when None.
    pub host_ip: Option<IpAddr>,
    pub host_port: u16,
    pub container_port: u16,
    pub protocol: Protocol,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// Its number in an IP header.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

/// What a connected pod has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// IPv4 first.
    pub addresses: Vec<IpAddr>,
    pub host_link: String,
    pub mac: [u8; 6],
}

/// What a sweep removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Swept {
    pub leases: Vec<String>,
    pub links: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{operation} {}: {source}", path.display())]
    State { operation: &'static str, path: PathBuf, source: io::Error },
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Rules(#[from] TransactionError),
    #[error("every range that could be chosen for pods overlaps a route of this host: configure one")]
    NoRange,
    #[error("no address is left in {0}")]
    NoAddress(Ipv4Net),
}

/// The host's side of all pods' networks.
#[derive(Debug)]
pub struct Network {
    config: Config,
    host: Links,
}

impl Network {
    /// Takes the host to be the network namespace of the calling thread. Changes nothing yet.
    pub async fn open(config: Config) -> Result<Self, Error> {
        Ok(Self { host: Links::here()?, config })
    }

    /// Connects a pod; repeating it finds what is there.
    pub async fn attach(&self, pod: &PodId, netns: BorrowedFd<'_>, ports: &[HostPort]) -> Result<Attachment, Error> {
        let (lease, subnets) = self.take_lease(pod, ports).await?;
        let (v4_gateway, v6_gateway) = ipam::gateways(&subnets);
        let (v4, v6) = (net4(lease.v4, &subnets), net6(lease.v6, &subnets));
        let bridge = self.host_side(&subnets, net4(v4_gateway, &subnets), net6(v6_gateway, &subnets)).await?;
        self.host.add_veth(&lease.link, lease.mac, bridge, netns).await?;
        apply(&elements(&lease).into_iter().map(added).collect::<Vec<_>>())?;
        if !lease.ports.is_empty() {
            // A host port reached over loopback leaves through the bridge with that source address.
            set_sysctl(&format!("net/ipv4/conf/{}/route_localnet", names::BRIDGE), "1")?;
        }
        let inside = Links::in_namespace(netns)?;
        inside.configure_pod(v4, v6, (v4_gateway, v6_gateway)).await?;
        Ok(Attachment { addresses: lease.addresses().to_vec(), host_link: lease.link, mac: lease.mac })
    }

    /// Lets a pod go. Its link goes with its namespace, which the kernel destroys later; the address is kept back until
    /// then. Success when it is gone already.
    pub async fn detach(&self, pod: &PodId) -> Result<(), Error> {
        let leases = self.lock()?;
        let Some(lease) = leases.find(pod.as_str()) else { return Ok(()) };
        remove_elements(&lease)?;
        leases.release(&lease).map_err(self.state("write lease in"))
    }

    /// Pods that have a lease.
    pub fn leases(&self) -> Result<Vec<PodId>, Error> {
        let all = self.lock()?.all();
        Ok(all.into_iter().filter(|lease| !lease.released).map(|lease| PodId(lease.pod)).collect())
    }

    /// Removes everything of ours whose pod is not `live`, and the bridge and tables when nobody is left.
    pub async fn sweep(&self, live: &[PodId]) -> Result<Swept, Error> {
        let leases = self.lock()?;
        let mut swept = Swept::default();
        let all = leases.all();
        let is_live = |lease: &Lease| !lease.released && live.iter().any(|pod| pod.as_str() == lease.pod);
        for lease in all.iter().filter(|lease| !is_live(lease)) {
            remove_elements(lease)?;
            leases.forget(&lease.pod).map_err(self.state("remove lease in"))?;
            swept.leases.push(lease.pod.clone());
        }
        let kept: Vec<&Lease> = all.iter().filter(|lease| is_live(lease)).collect();
        for (index, name) in self.host.with_prefix(names::PREFIX).await? {
            if !kept.iter().any(|lease| lease.link == name) && is_ours(&name) {
                self.host.delete(index).await?;
                swept.links.push(name);
            }
        }
        if kept.is_empty() {
            self.remove_host_side(&leases).await?;
        }
        Ok(swept)
    }

    async fn remove_host_side(&self, leases: &Leases) -> Result<(), Error> {
        if leases.shared().is_none() {
            return Ok(());
        }
        apply(&nft::remove())?;
        if let Some(bridge) = self.host.index(names::BRIDGE).await? {
            self.host.delete(bridge).await?;
        }
        leases.forget_shared().map_err(self.state("remove network state in"))
    }

    /// The lock is never held over an await of somebody else's work: only dumps of links and routes.
    async fn take_lease(&self, pod: &PodId, ports: &[HostPort]) -> Result<(Lease, Subnets), Error> {
        let leases = self.lock()?;
        self.forget_destroyed(&leases).await?;
        let mut shared = match leases.shared() {
            Some(shared) => shared,
            None => Shared { subnets: self.choose().await?, last: 0 },
        };
        let lease = leases.take(pod.as_str(), ports, &mut shared).map_err(self.state("write lease in"))?;
        Ok((lease.ok_or(Error::NoAddress(shared.subnets.v4))?, shared.subnets))
    }

    /// Released addresses whose link is gone are free again.
    async fn forget_destroyed(&self, leases: &Leases) -> Result<(), Error> {
        let released: Vec<Lease> = leases.all().into_iter().filter(|lease| lease.released).collect();
        if released.is_empty() {
            return Ok(());
        }
        let links = self.host.with_prefix(names::PREFIX).await?;
        for lease in released.iter().filter(|lease| !links.iter().any(|(_, name)| *name == lease.link)) {
            leases.forget(&lease.pod).map_err(self.state("remove lease in"))?;
        }
        Ok(())
    }

    async fn choose(&self) -> Result<Subnets, Error> {
        match self.config.ranges {
            Ranges::Given(subnets) => Ok(subnets),
            Ranges::Auto => ipam::choose(&self.host.routes().await?).ok_or(Error::NoRange),
        }
    }

    /// Bridge, forwarding and tables, made when they are not there; the bridge's index.
    async fn host_side(&self, subnets: &Subnets, v4: Ipv4Net, v6: Ipv6Net) -> Result<u32, Error> {
        if let (Some(bridge), true) = (self.host.index(names::BRIDGE).await?, tables_exist()) {
            return Ok(bridge);
        }
        let bridge = self.host.ensure_bridge(names::BRIDGE, v4, v6).await?;
        enable_forwarding()?;
        let live = self.lock()?.all();
        let live = live.iter().filter(|lease| !lease.released).flat_map(elements).collect::<Vec<_>>();
        apply(&nft::rebuild(subnets, &live))?;
        Ok(bridge)
    }

    fn lock(&self) -> Result<Leases, Error> {
        Leases::lock(&self.config.state_dir).map_err(self.state("lock"))
    }

    fn state(&self, operation: &'static str) -> impl FnOnce(io::Error) -> Error {
        let path = self.config.state_dir.clone();
        move |source| Error::State { operation, path, source }
    }
}

fn tables_exist() -> bool {
    table_exists(Family::Inet) && table_exists(Family::Bridge)
}

/// A prefix alone is not proof: our names have a fixed length and hexadecimal digits.
fn is_ours(name: &str) -> bool {
    name.len() == names::host_link("").len()
        && name.strip_prefix(names::PREFIX).is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Packets between pods and the world pass through the host. With forwarding on, IPv6 hosts stop listening to router
/// advertisements unless told to go on (`accept_ra=2`), which would cut off a host that lives on them.
fn enable_forwarding() -> Result<(), LinkError> {
    for entry in std::fs::read_dir("/proc/sys/net/ipv6/conf").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let accepts = std::fs::read_to_string(entry.path().join("accept_ra")).unwrap_or_default();
        if accepts.trim() == "1" && name != "all" && !name.starts_with(names::PREFIX) {
            set_sysctl(&format!("net/ipv6/conf/{name}/accept_ra"), "2")?;
        }
    }
    set_sysctl("net/ipv4/ip_forward", "1")?;
    set_sysctl("net/ipv6/conf/all/forwarding", "1")
}

fn net4(address: std::net::Ipv4Addr, subnets: &Subnets) -> Ipv4Net {
    Ipv4Net::new(address, subnets.v4.prefix_len()).unwrap_or(subnets.v4)
}

fn net6(address: std::net::Ipv6Addr, subnets: &Subnets) -> Ipv6Net {
    Ipv6Net::new(address, subnets.v6.prefix_len()).unwrap_or(subnets.v6)
}

type SetElement = (Family, &'static str, Element);

/// Everything in our tables that belongs to a pod.
fn elements(lease: &Lease) -> Vec<SetElement> {
    let mut all = Vec::new();
    for address in lease.addresses() {
        all.extend(nft::known(&lease.link, lease.mac, address));
        for port in &lease.ports {
            all.extend(nft::forward(
                port.host_ip,
                port.protocol.number(),
                port.host_port,
                address,
                port.container_port,
            ));
        }
    }
    all
}

fn added((family, set, element): SetElement) -> Change {
    Change::AddElement { family, set, element }
}

fn deleted((family, set, element): SetElement) -> Change {
    Change::DeleteElement { family, set, element }
}

fn remove_elements(lease: &Lease) -> Result<(), TransactionError> {
    let changes: Vec<Change> = elements(lease).into_iter().map(deleted).collect();
    match apply(&changes) {
        Err(error) if error.is_not_found() => {
            changes.iter().try_for_each(|change| match apply(std::slice::from_ref(change)) {
                Err(error) if error.is_not_found() => Ok(()),
                other => other,
            })
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// P36
    #[test]
    fn a_pod_id_can_not_lead_anywhere() {
        for text in ["", "..", "a/b", "a\0", "a b", &"a".repeat(129)] {
            assert_eq!(PodId::parse(text), None, "{text:?}");
        }
        assert!(PodId::parse("0123abc-def").is_some());
    }

    #[test]
    fn only_names_of_our_making_are_ours() {
        assert!(is_ours(&names::host_link("x")));
        for name in ["mp0", "mplink", "mpzzzzzzzzzzzzz", "eth0"] {
            assert!(!is_ours(name), "{name}");
        }
    }
}
