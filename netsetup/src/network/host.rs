//! What all pods of a host share: bridge, settings, rules; and clearing up.

use std::collections::BTreeMap;

use rustix::io::Errno;
use rustix::rand::GetRandomFlags;

use super::{Inner, RangeChoice, Swept, Teardown, as_pod, required};
use crate::error::{Collected, NetworkError};
use crate::ipam::{self, Ranges};
use crate::lease::{Lease, Leases};
use crate::link::{self, Link};
use crate::names::PodId;
use crate::names::{BridgeName, Mac, host_link, is_host_link};
use crate::nft::rules;
use crate::plan::{self, Host, Side, Step, Uplink};
use crate::sysctl;

impl Inner {
    pub(super) fn repair(&self) -> Result<(), NetworkError> {
        self.leases().locked(|leases| self.repair_locked(leases))
    }

    pub(super) fn repair_locked(&self, leases: &mut Leases) -> Result<(), NetworkError> {
        let (bridge, routes) = {
            let mut links = self.links.borrow_mut();
            (links.find(self.config.bridge.as_str())?, links.routes()?)
        };
        let foreign: Vec<_> = routes
            .iter()
            .filter(|route| bridge.as_ref().is_none_or(|bridge| route.link != Some(bridge.index)))
            .collect();
        let destinations: Vec<_> = foreign.iter().map(|route| route.destination).collect();
        let ranges = self.choose(leases, &destinations)?;
        self.make_way(leases, bridge.as_ref(), &ranges)?;
        let changed = leases.network.as_ref().map(|network| network.changed.clone()).unwrap_or_default();
        // The record stands before anything is created (D43).
        leases.put_network(ranges, changed)?;
        let host = self.describe_host(&routes)?;
        let pods: Vec<Lease> = leases.held().cloned().collect();
        let steps = plan::host(&self.setup(&ranges), &host, pods.iter().map(as_pod));
        self.run(&steps, leases)?;
        self.loopback_ports(leases)
    }

    fn choose(&self, leases: &Leases, routes: &[ipnet::IpNet]) -> Result<Ranges, NetworkError> {
        let recorded = leases.network.as_ref().map(|network| network.ranges);
        let busy = leases.held().next().is_some();
        let wanted = match (self.config.ranges, recorded) {
            (RangeChoice::Given(ranges), _) => ranges,
            (RangeChoice::Auto, Some(ranges)) if busy || ranges.check(routes).is_ok() => ranges,
            (RangeChoice::Auto, _) => ipam::choose(routes, self.seed())?,
        };
        match recorded {
            Some(current) if busy && current != wanted => Err(NetworkError::RangesInUse { current, wanted }),
            // With pods on it, a route that came later is the problem of who added it.
            Some(_) if busy => Ok(wanted),
            Some(_) | None => wanted.check(routes).map(|()| wanted).map_err(NetworkError::from),
        }
    }

    /// Random bits for the IPv6 range; none when there is to be none.
    fn seed(&self) -> Option<[u8; 5]> {
        let mut seed = [0; 5];
        let wanted = self.config.ipv6 && sysctl::host_has_ipv6();
        (wanted && rustix::rand::getrandom(&mut seed, GetRandomFlags::empty()).is_ok()).then_some(seed)
    }

    /// A bridge of ours with other addresses goes; one that isn't ours is an error.
    fn make_way(&self, leases: &Leases, bridge: Option<&Link>, ranges: &Ranges) -> Result<(), NetworkError> {
        let Some(bridge) = bridge else { return Ok(()) };
        if bridge.is_bridge && bridge.mac == Some(Mac::of(ranges.gateway_v4())) {
            return Ok(());
        }
        let recorded = leases.network.as_ref().map(|network| Mac::of(network.ranges.gateway_v4()));
        if !bridge.is_bridge || bridge.mac != recorded {
            return Err(NetworkError::BridgeTaken(self.config.bridge.clone()));
        }
        self.links.borrow_mut().delete(&bridge.name)
    }

    fn describe_host(&self, routes: &[link::Route]) -> Result<Host, NetworkError> {
        let ipv6 = sysctl::host_has_ipv6();
        let all = self.links.borrow_mut().all()?;
        let mut ipv6_uplinks: Vec<Uplink> = Vec::new();
        for route in
            routes.iter().filter(|route| route.destination.prefix_len() == 0 && route.destination.addr().is_ipv6())
        {
            let name = all.iter().find(|link| Some(link.index) == route.link).map(|link| link.name.clone());
            if let Some(link) = name.filter(|name| ipv6_uplinks.iter().all(|uplink| &uplink.link != name)) {
                ipv6_uplinks.push(Uplink { link, advertised: route.advertised });
            }
        }
        Ok(Host { ipv6, ipv6_uplinks })
    }

    pub(super) fn sweep(&self, live: impl FnOnce() -> Vec<PodId>) -> Result<Swept, NetworkError> {
        self.leases().locked(|leases| {
            let (mut collected, mut swept) = (Collected::default(), Swept::default());
            let links = collected.take(self.own_links()).unwrap_or_default();
            let live = live();
            let dead: Vec<Lease> =
                leases.held().chain(leases.resting()).filter(|lease| !live.contains(&lease.pod)).cloned().collect();
            let kept: Vec<String> = live.iter().map(|pod| host_link(&self.config.bridge, pod)).collect();
            for name in links {
                if !kept.contains(&name) && collected.take(self.links.borrow_mut().delete(&name)).is_some() {
                    swept.links.push(name);
                }
            }
            for lease in dead {
                if collected.take(leases.remove(&lease.pod)).is_some() && lease.released_at.is_none() {
                    swept.leases.push(lease.pod);
                }
            }
            collected.take(self.repair_locked(leases));
            collected.finish(swept)
        })
    }

    /// Ports of our bridge with names as we make them.
    fn own_links(&self) -> Result<Vec<String>, NetworkError> {
        let mut links = self.links.borrow_mut();
        let Some(bridge) = links.find(self.config.bridge.as_str())? else {
            return Ok(Vec::new());
        };
        let ours = |link: &Link| link.master == Some(bridge.index) && is_host_link(&self.config.bridge, &link.name);
        Ok(links.all()?.into_iter().filter(ours).map(|link| link.name).collect())
    }

    pub(super) fn teardown(&self) -> Result<Teardown, NetworkError> {
        self.leases().locked(|leases| {
            let held = leases.held().count();
            if held > 0 {
                return Ok(Teardown::InUse(held));
            }
            let Some(network) = leases.network.clone() else {
                return Ok(Teardown::Removed);
            };
            let mut collected = Collected::default();
            collected.take(self.rules.borrow_mut().commit(&rules::remove(&self.config.bridge)));
            collected.take(self.links.borrow_mut().delete(self.config.bridge.as_str()));
            for (name, previous) in &network.changed {
                collected.take(sysctl::restore(name, previous));
            }
            for pod in leases.resting().map(|lease| lease.pod.clone()).collect::<Vec<_>>() {
                collected.take(leases.remove(&pod));
            }
            collected.take(leases.remove_network());
            collected.finish(Teardown::Removed)
        })
    }

    /// On while a pod has a host port, off otherwise.
    pub(super) fn loopback_ports(&self, leases: &mut Leases) -> Result<(), NetworkError> {
        let on = leases.held().any(|lease| !lease.ports.is_empty());
        let Step::Sysctl { name, value, .. } = plan::loopback_ports(&self.config.bridge, on) else {
            return Ok(());
        };
        // It is a setting of our own bridge and goes with it.
        sysctl::set(&name, value).map(|_| ())
    }

    /// Runs host steps; the settings that it changes are recorded first.
    fn run(&self, steps: &[Step], leases: &mut Leases) -> Result<(), NetworkError> {
        for step in steps {
            match step {
                Step::Sysctl { side: Side::Host, name, value } => self.change_host(name, value, leases)?,
                Step::Rules(ops) => self.rules.borrow_mut().commit(ops)?,
                Step::Bridge { name, mac } => self.make_bridge(name, *mac)?,
                Step::Address { side: Side::Host, link, address } => {
                    self.on_link(link, |link| link::address(link, *address))?
                }
                Step::Up { side: Side::Host, link } => self.on_link(link, link::up)?,
                Step::Veth { .. }
                | Step::Hairpin { .. }
                | Step::DefaultRoute { .. }
                | Step::Sysctl { side: Side::Pod, .. }
                | Step::Address { side: Side::Pod, .. }
                | Step::Up { side: Side::Pod, .. } => {}
            }
        }
        Ok(())
    }

    fn make_bridge(&self, name: &BridgeName, mac: Mac) -> Result<(), NetworkError> {
        match self.links.borrow_mut().apply(vec![link::bridge(name, mac)]) {
            Err(NetworkError::Kernel { errno: Errno::EXIST, .. }) => Ok(()),
            result => result,
        }
    }

    fn on_link(&self, name: &str, request: impl FnOnce(&Link) -> link::Request) -> Result<(), NetworkError> {
        let mut links = self.links.borrow_mut();
        let link = required(&mut links, name)?;
        links.apply(vec![request(&link)])
    }

    fn change_host(&self, name: &str, value: &'static str, leases: &mut Leases) -> Result<(), NetworkError> {
        let current = sysctl::read(name)?;
        if current == value {
            return Ok(());
        }
        // What belongs to the bridge goes with it.
        let own = name.contains(&format!("/conf/{}/", self.config.bridge));
        if let Some(network) = leases.network.clone().filter(|network| !own && !network.changed.contains_key(name)) {
            let mut changed: BTreeMap<String, String> = network.changed;
            changed.insert(name.to_owned(), current);
            leases.put_network(network.ranges, changed)?;
        }
        sysctl::write(name, value)
    }
}
