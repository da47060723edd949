//! One pod: attach and detach.

use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};

use rustix::io::Errno;
use rustix::time::ClockId;

use super::{Attachment, Inner, as_pod, enter, required};
use crate::error::{Collected, NetworkError};
use crate::ipam::{HostNumber, Ranges};
use crate::lease::{Lease, Leases, QUARANTINE_MS};
use crate::link::{self, Link, Links};
use crate::names::{BridgeName, Mac, POD_LINK, PodId, host_link};
use crate::nft::rules::{self, HostPort};
use crate::plan::{self, Inverse, Side, Step};
use crate::sysctl;

/// Resting addresses that one call looks at, so that a call costs the same however many rest.
const EXPIRED_PER_CALL: usize = 4;

impl Inner {
    pub(super) fn attach(&self, pod: &PodId, netns: &OwnedFd, ports: &[HostPort]) -> Result<Attachment, NetworkError> {
        if same_file(netns, &self.host)? {
            return Err(NetworkError::HostNamespace { pod: pod.clone() });
        }
        // Who made the namespace may have left the thread in it.
        self.enter_host()?;
        match self.try_attach(pod, netns, ports) {
            // Somebody flushed the rules or deleted the bridge: mend them once.
            Err(NetworkError::Kernel { errno: Errno::NOENT | Errno::NODEV, .. }) => {
                self.repair()?;
                self.try_attach(pod, netns, ports)
            }
            result => result,
        }
    }

    fn try_attach(&self, pod: &PodId, netns: &OwnedFd, ports: &[HostPort]) -> Result<Attachment, NetworkError> {
        let (ranges, lease) = self.leases().locked(|leases| {
            self.expire(leases)?;
            let lease = self.claim(leases, pod, ports)?;
            if !ports.is_empty() {
                self.loopback_ports(leases)?;
            }
            Ok((self.ranges(leases)?, lease))
        })?;
        let steps = plan::pod(&self.setup(&ranges), sysctl::host_has_ipv6(), pod, lease.number, &lease.ports);
        let mut side = PodSide { netns, links: None };
        match self.run_pod(&steps, &mut side) {
            Ok(()) => Ok(attachment(&ranges, &lease)),
            Err(error) => {
                self.enter_host()?;
                // The first error is the one to report; what can't be undone now goes with the next sweep.
                drop(self.undo(&steps).and_then(|()| self.release(pod)));
                Err(error)
            }
        }
    }

    /// The pod's lease: the one it has, the one that it had a moment ago, or a new one.
    fn claim(&self, leases: &mut Leases, pod: &PodId, ports: &[HostPort]) -> Result<Lease, NetworkError> {
        for port in ports {
            let conflict =
                leases.held().find(|lease| &lease.pod != pod && lease.ports.iter().any(|other| other.conflicts(port)));
            if let Some(owner) = conflict.map(|lease| lease.pod.clone()) {
                return Err(NetworkError::PortTaken {
                    protocol: port.protocol,
                    address: port.host_ip,
                    port: port.host_port,
                    owner,
                });
            }
        }
        match leases.get(pod).cloned() {
            Some(lease) if lease.released_at.is_none() && lease.ports == ports => Ok(lease),
            Some(lease) => {
                let ranges = self.ranges(leases)?;
                if lease.released_at.is_none() {
                    self.rules
                        .borrow_mut()
                        .commit_each(&rules::remove_pod(&self.setup(&ranges).ruleset(), &as_pod(&lease)))?;
                }
                let lease = Lease { ports: ports.to_vec(), released_at: None, ..lease };
                leases.put(lease.clone())?;
                Ok(lease)
            }
            None => {
                let ranges = self.ranges(leases)?;
                leases.claim(&ranges, pod, host_link(&self.config.bridge, pod), ports)
            }
        }
    }

    pub(super) fn plan(&self, pod: &PodId, ports: &[HostPort]) -> Result<Vec<Step>, NetworkError> {
        self.leases().locked(|leases| {
            let ranges = self.ranges(leases)?;
            let number = match leases.get(pod) {
                Some(lease) => lease.number,
                None => leases.peek(&ranges)?,
            };
            Ok(plan::pod(&self.setup(&ranges), sysctl::host_has_ipv6(), pod, number, ports))
        })
    }

    pub(super) fn detach(&self, pod: &PodId) -> Result<(), NetworkError> {
        let mut collected = Collected::default();
        let released = collected.take(self.leases().locked(|leases| {
            let Some(lease) = leases.get(pod).filter(|lease| lease.released_at.is_none()).cloned() else {
                return Ok(None);
            };
            leases.put(Lease { released_at: Some(now()), ..lease.clone() })?;
            let ranges = self.ranges(leases)?;
            Ok(Some((ranges, lease)))
        }));
        if let Some((ranges, lease)) = released.flatten() {
            let ops = rules::remove_pod(&self.setup(&ranges).ruleset(), &as_pod(&lease));
            collected.take(self.rules.borrow_mut().commit_each(&ops));
            if !lease.ports.is_empty() {
                collected.take(self.leases().locked(|leases| self.loopback_ports(leases)));
            }
        }
        collected.take(self.leases().locked(|leases| self.expire(leases)));
        collected.finish(())
    }

    fn release(&self, pod: &PodId) -> Result<(), NetworkError> {
        self.leases().locked(|leases| match leases.get(pod).cloned() {
            Some(lease) => leases.put(Lease { released_at: Some(now()), ..lease }),
            None => Ok(()),
        })
    }

    /// Frees addresses that have rested long enough and whose links are gone.
    fn expire(&self, leases: &mut Leases) -> Result<(), NetworkError> {
        let now = now();
        let rested = |lease: &&Lease| lease.released_at.is_some_and(|at| at.saturating_add(QUARANTINE_MS) <= now);
        let due: Vec<(PodId, String)> = leases
            .resting()
            .filter(rested)
            .take(EXPIRED_PER_CALL)
            .map(|lease| (lease.pod.clone(), lease.host_link.clone()))
            .collect();
        for (pod, name) in due {
            if self.links.borrow_mut().find(&name)?.is_none() {
                leases.remove(&pod)?;
            }
        }
        Ok(())
    }

    /// Runs the steps of one pod: rules, settings, the pair in one request, all else in the pod in one call.
    fn run_pod(&self, steps: &[Step], side: &mut PodSide<'_>) -> Result<(), NetworkError> {
        enter(side.netns)?;
        let mut inside = Vec::new();
        for step in steps {
            match step {
                Step::Rules(ops) => self.rules.borrow_mut().commit(ops)?,
                Step::Sysctl { side: Side::Pod, name, value } => sysctl::write(name, value)?,
                Step::Veth { host, mac, bridge } => self.make_veth(host, *mac, bridge, side)?,
                Step::Hairpin { host } => self.links.borrow_mut().apply(vec![link::hairpin(host)])?,
                Step::Up { side: Side::Pod, .. }
                | Step::Address { side: Side::Pod, .. }
                | Step::DefaultRoute { .. } => inside.push(step),
                Step::Sysctl { side: Side::Host, .. }
                | Step::Bridge { .. }
                | Step::Up { side: Side::Host, .. }
                | Step::Address { side: Side::Host, .. } => {}
            }
        }
        let links = side.links()?;
        let (eth0, lo) = (required(links, POD_LINK)?, link::loopback());
        let requests = inside.into_iter().filter_map(|step| inside_request(step, &eth0, &lo)).collect();
        links.apply(requests)?;
        self.settle(steps, links)
    }

    /// A link that came up carries packets only when a worker of the kernel has seen to it, and first packets that are
    /// lost come back after a second. Asking about a link makes the kernel do it at once (since 6.8; before, it still
    /// comes by itself): the host's end, which then opens its port, the bridge, whose carrier that is, the pod's end.
    fn settle(&self, steps: &[Step], pod: &mut Links) -> Result<(), NetworkError> {
        for step in steps {
            if let Step::Veth { host, bridge, .. } = step {
                let mut links = self.links.borrow_mut();
                links.find(host)?;
                links.find(bridge.as_str())?;
            }
        }
        pod.find(POD_LINK).map(|_| ())
    }

    fn make_veth(&self, host: &str, mac: Mac, bridge: &BridgeName, side: &mut PodSide<'_>) -> Result<(), NetworkError> {
        let netns = side.netns.as_raw_fd();
        let make = |links: &mut Links| {
            let bridge = required(links, bridge.as_str())?;
            links.apply(vec![link::veth(host, mac, &bridge, netns)])
        };
        match make(&mut self.links.borrow_mut()) {
            Err(NetworkError::Kernel { errno: Errno::EXIST, .. }) => {}
            result => return result,
        }
        // Made by an earlier call that was cut short, or left over from a namespace of before.
        if side.links()?.find(POD_LINK)?.is_some_and(|link| link.mac == Some(mac)) {
            return Ok(());
        }
        let mut links = self.links.borrow_mut();
        links.delete(host)?;
        make(&mut links)
    }

    fn undo(&self, steps: &[Step]) -> Result<(), NetworkError> {
        let mut collected = Collected::default();
        for step in steps.iter().rev() {
            match step.inverse() {
                Inverse::DeleteLink(name) => collected.take(self.links.borrow_mut().delete(&name)),
                Inverse::Rules(ops) => collected.take(self.rules.borrow_mut().commit_each(&ops)),
                Inverse::WithLink | Inverse::WithNamespace | Inverse::Restore { .. } => None,
            };
        }
        collected.finish(())
    }
}

/// A pod's namespace; the calling thread is inside.
struct PodSide<'a> {
    netns: &'a OwnedFd,
    links: Option<Links>,
}

impl PodSide<'_> {
    fn links(&mut self) -> Result<&mut Links, NetworkError> {
        match &mut self.links {
            Some(links) => Ok(links),
            none => Ok(none.insert(Links::open()?)),
        }
    }
}

fn inside_request(step: &Step, eth0: &Link, lo: &Link) -> Option<link::Request> {
    match step {
        Step::Up { link, .. } if link == POD_LINK => Some(link::up(eth0)),
        Step::Up { .. } => Some(link::up(lo)),
        Step::Address { address, .. } => Some(link::address(eth0, *address)),
        Step::DefaultRoute { gateway } => Some(link::default_route(eth0, *gateway)),
        Step::Sysctl { .. } | Step::Bridge { .. } | Step::Veth { .. } | Step::Hairpin { .. } | Step::Rules(_) => None,
    }
}

fn attachment(ranges: &Ranges, lease: &Lease) -> Attachment {
    Attachment {
        addresses: addresses(ranges, lease.number),
        gateways: ranges.gateways().iter().map(ipnet::IpNet::addr).collect(),
        host_link: lease.host_link.clone(),
        mac: Mac::of(ranges.v4_of(lease.number)),
    }
}

fn addresses(ranges: &Ranges, number: HostNumber) -> Vec<IpAddr> {
    ranges.addresses(number).iter().map(ipnet::IpNet::addr).collect()
}

/// Milliseconds since boot, suspended time included.
fn now() -> u64 {
    let time = rustix::time::clock_gettime(ClockId::Boottime);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1000 + u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000_000
}

fn same_file(one: &OwnedFd, other: &OwnedFd) -> Result<bool, NetworkError> {
    let stat =
        |fd| rustix::fs::fstat(fd).map_err(|errno| NetworkError::Kernel { call: "fstat(netns)".to_owned(), errno });
    let (one, other) = (stat(one)?, stat(other)?);
    Ok((one.st_dev, one.st_ino) == (other.st_dev, other.st_ino))
}
