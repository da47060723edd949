//! What is done, in order, as data: the acting code runs it, a dry run prints it, taking down runs the inverses.

use std::fmt;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::ipam::{HostNumber, Ranges, V6_PREFIX};
use crate::names::{BridgeName, Mac, POD_LINK, PodId, host_link};
use crate::nft::rules::{self, HostPort, Pod, Ruleset, Service};
use crate::nft::{Op, Protocol};

/// Which network namespace a step is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Host,
    Pod,
}

/// One thing to do. Each can be done again without harm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A file below `/proc/sys`.
    Sysctl {
        side: Side,
        name: String,
        value: &'static str,
    },
    Bridge {
        name: BridgeName,
        mac: Mac,
    },
    /// A pair: the host's end a port of the bridge and up, the other made inside the pod's namespace as `eth0`.
    Veth {
        host: String,
        mac: Mac,
        bridge: BridgeName,
    },
    /// What comes in by a port may go out by it. A pod that calls its own host port needs it where the host passes bridged
    /// traffic through the IP rules (`bridge-nf-call-iptables`).
    Hairpin {
        host: String,
    },
    Up {
        side: Side,
        link: String,
    },
    Address {
        side: Side,
        link: String,
        address: IpNet,
    },
    /// In the pod.
    DefaultRoute {
        gateway: IpAddr,
    },
    /// One transaction.
    Rules(Vec<Op>),
}

/// What takes a step back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inverse {
    /// It goes with the link that it is about.
    WithLink,
    /// It goes with the pod's namespace.
    WithNamespace,
    /// The value that was there before, which the state directory keeps.
    Restore {
        name: String,
        ours: &'static str,
    },
    DeleteLink(String),
    Rules(Vec<Op>),
}

impl Step {
    #[must_use]
    pub fn inverse(&self) -> Inverse {
        match self {
            Self::Sysctl { side: Side::Pod, .. }
            | Self::Up { side: Side::Pod, .. }
            | Self::Address { side: Side::Pod, .. } => Inverse::WithNamespace,
            Self::DefaultRoute { .. } => Inverse::WithNamespace,
            Self::Sysctl { side: Side::Host, name, value } => Inverse::Restore { name: name.clone(), ours: value },
            Self::Hairpin { .. } | Self::Up { side: Side::Host, .. } | Self::Address { side: Side::Host, .. } => {
                Inverse::WithLink
            }
            Self::Bridge { name, .. } => Inverse::DeleteLink(name.to_string()),
            Self::Veth { host, .. } => Inverse::DeleteLink(host.clone()),
            Self::Rules(ops) => Inverse::Rules(ops.iter().filter_map(Op::inverse).collect()),
        }
    }
}

/// What is known about the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Host {
    pub ipv6: bool,
    /// Links over which IPv6 leaves the host. Empty: the pods' IPv6 stays on the host, which then needn't forward it.
    pub ipv6_uplinks: Vec<Uplink>,
}

/// A link with an IPv6 default route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    pub link: String,
    /// Whether the route came by a router's advertisement. A host that forwards ignores those unless told otherwise, and
    /// would lose its own way out.
    pub advertised: bool,
}

/// What all pods share.
#[derive(Debug, Clone, Copy)]
pub struct Setup<'a> {
    pub bridge: &'a BridgeName,
    pub ranges: &'a Ranges,
    pub closed: &'a [(Protocol, u16)],
    pub service: Option<Service>,
}

impl Setup<'_> {
    #[must_use]
    pub fn ruleset(&self) -> Ruleset<'_> {
        Ruleset { bridge: self.bridge, ranges: self.ranges, closed: self.closed, service: self.service }
    }
}

/// Bridge, forwarding, rules. The rules stand before the bridge is up.
#[must_use]
pub fn host<'a>(setup: &Setup<'_>, host: &Host, pods: impl Iterator<Item = Pod<'a>>) -> Vec<Step> {
    let name = setup.bridge;
    let on_host = |name: String, value| Step::Sysctl { side: Side::Host, name, value };
    let mut steps = vec![
        Step::Rules(rules::replace(&setup.ruleset(), pods)),
        Step::Bridge { name: name.clone(), mac: Mac::of(setup.ranges.gateway_v4()) },
    ];
    if host.ipv6 {
        // A pod's router advertisement must not change the host's routes (CVE-2020-10749).
        steps.push(on_host(format!("net/ipv6/conf/{name}/accept_ra"), "0"));
        steps.push(on_host(format!("net/ipv6/conf/{name}/accept_dad"), "0"));
    }
    let address = |address| Step::Address { side: Side::Host, link: name.to_string(), address };
    steps.extend(setup.ranges.gateways().into_iter().map(address));
    steps.extend(setup.service.map(|service| address(IpNet::V4(Ipv4Net::from(service.address)))));
    if setup.ranges.v6().is_some() {
        // The kernel makes it too, up to a second after the first pod's link is up; until then it asks no neighbour.
        let link_local = Mac::of(setup.ranges.gateway_v4()).link_local();
        steps.extend(Ipv6Net::new(link_local, V6_PREFIX).ok().map(IpNet::V6).map(address));
    }
    steps.push(Step::Up { side: Side::Host, link: name.to_string() });
    steps.push(on_host("net/ipv4/ip_forward".to_owned(), "1"));
    if setup.ranges.v6().is_some() && !host.ipv6_uplinks.is_empty() {
        let advertised = host.ipv6_uplinks.iter().filter(|uplink| uplink.advertised);
        steps.extend(advertised.map(|uplink| on_host(format!("net/ipv6/conf/{}/accept_ra", uplink.link), "2")));
        steps.push(on_host("net/ipv6/conf/all/forwarding".to_owned(), "1"));
    }
    steps
}

/// A host port on 127.0.0.1 leads into the bridge with a loopback source, which the kernel drops unless this is on. It is
/// on only while a pod has a host port, and the rules keep pods from using it.
#[must_use]
pub fn loopback_ports(bridge: &BridgeName, on: bool) -> Step {
    let name = format!("net/ipv4/conf/{bridge}/route_localnet");
    Step::Sysctl { side: Side::Host, name, value: if on { "1" } else { "0" } }
}

/// One pod. Its rules stand before its link, so that no frame of it passes unchecked.
#[must_use]
pub fn pod(setup: &Setup<'_>, ipv6: bool, id: &PodId, number: HostNumber, ports: &[HostPort]) -> Vec<Step> {
    let mac = Mac::of(setup.ranges.v4_of(number));
    let mut steps = vec![Step::Rules(rules::add_pod(&setup.ruleset(), &Pod { id, number, ports }))];
    steps.extend(pod_sysctls(ipv6, setup.ranges.v6().is_some()));
    steps.push(Step::Veth { host: host_link(setup.bridge, id), mac, bridge: setup.bridge.clone() });
    if !ports.is_empty() {
        let host = host_link(setup.bridge, id);
        steps.push(Step::Hairpin { host });
    }
    // The kernel refuses a veth that is to be up before it has its peer, so the pod's end comes up from inside.
    let up = |link: &str| Step::Up { side: Side::Pod, link: link.to_owned() };
    steps.extend(["lo", POD_LINK].map(up));
    let address = |address| Step::Address { side: Side::Pod, link: POD_LINK.to_owned(), address };
    steps.extend(setup.ranges.addresses(number).into_iter().map(address));
    steps.extend(setup.ranges.gateways().iter().map(|gateway| Step::DefaultRoute { gateway: gateway.addr() }));
    steps
}

/// A new namespace takes over the host's IPv4 settings, so what must be off is turned off (D24). They are set before the
/// link is there and hold for it from its first moment.
fn pod_sysctls(ipv6: bool, address: bool) -> Vec<Step> {
    let mut settings = vec![
        ("net/ipv4/ip_forward", "0"),
        ("net/ipv4/conf/all/route_localnet", "0"),
        ("net/ipv4/conf/default/route_localnet", "0"),
    ];
    match (ipv6, address) {
        (true, true) => {
            settings.extend([("net/ipv6/conf/default/accept_ra", "0"), ("net/ipv6/conf/default/accept_dad", "0")])
        }
        (true, false) => settings.push(("net/ipv6/conf/default/disable_ipv6", "1")),
        (false, _) => {}
    }
    let step = |(name, value): (&str, _)| Step::Sysctl { side: Side::Pod, name: name.to_owned(), value };
    settings.into_iter().map(step).collect()
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sysctl { side, name, value } => write!(f, "{side}: sysctl {name}={value}"),
            Self::Bridge { name, mac } => {
                write!(f, "host: link add {name} address {mac} type bridge")
            }
            Self::Veth { host, mac, bridge } => {
                write!(
                    f,
                    "host: link add {host} up master {bridge} type veth peer {POD_LINK} address {mac} netns <pod>"
                )
            }
            Self::Hairpin { host } => {
                write!(f, "host: link set {host} type bridge_slave hairpin on")
            }
            Self::Up { side, link } => write!(f, "{side}: link set {link} up"),
            Self::Address { side, link, address } => write!(f, "{side}: address replace {address} dev {link}"),
            Self::DefaultRoute { gateway } => {
                write!(f, "pod: route replace default via {gateway} dev {POD_LINK}")
            }
            Self::Rules(ops) => write!(f, "host: nft transaction of {} operations", ops.len()),
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "host",
            Self::Pod => "pod",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn text(steps: &[Step]) -> String {
        steps.iter().map(|step| format!("{step}\n")).collect()
    }

    fn dual() -> Ranges {
        Ranges::new("10.9.0.0/16".parse().unwrap(), Some("fd01::/64".parse().unwrap())).unwrap()
    }

    /// D24
    #[test]
    fn a_pod_with_both_families_has_this_plan() {
        let (bridge, ranges) = (BridgeName::default(), dual());
        let setup = Setup { bridge: &bridge, ranges: &ranges, closed: &[], service: None };
        let steps = pod(&setup, true, &"pod-1".parse().unwrap(), HostNumber(5), &[]);
        expect![[r#"
            host: nft transaction of 2 operations
            pod: sysctl net/ipv4/ip_forward=0
            pod: sysctl net/ipv4/conf/all/route_localnet=0
            pod: sysctl net/ipv4/conf/default/route_localnet=0
            pod: sysctl net/ipv6/conf/default/accept_ra=0
            pod: sysctl net/ipv6/conf/default/accept_dad=0
            host: link add mpod3rrrs4tnopm up master monopod type veth peer eth0 address 02:6d:0a:09:00:05 netns <pod>
            pod: link set lo up
            pod: link set eth0 up
            pod: address replace 10.9.0.5/16 dev eth0
            pod: address replace fd01::5/64 dev eth0
            pod: route replace default via 10.9.0.1 dev eth0
            pod: route replace default via fd01::1 dev eth0
        "#]]
        .assert_eq(&text(&steps));
    }

    /// D24: IPv6 is off on the link of a pod without an IPv6 address
    #[test]
    fn without_an_ipv6_range_the_link_has_no_ipv6() {
        let bridge = BridgeName::default();
        let ranges = Ranges::new("10.9.0.0/16".parse().unwrap(), None).unwrap();
        let setup = Setup { bridge: &bridge, ranges: &ranges, closed: &[], service: None };
        let plan = text(&pod(&setup, true, &"p".parse().unwrap(), HostNumber(5), &[]));
        assert!(plan.contains("pod: sysctl net/ipv6/conf/default/disable_ipv6=1\n"), "{plan}");
        assert!(!plan.contains("fd01"), "{plan}");
        let plan = text(&pod(&setup, false, &"p".parse().unwrap(), HostNumber(5), &[]));
        assert!(!plan.contains("ipv6"), "{plan}");
    }

    #[test]
    fn the_host_forwards_ipv6_only_when_it_has_a_way_out() {
        let (bridge, ranges) = (BridgeName::default(), dual());
        let setup = Setup { bridge: &bridge, ranges: &ranges, closed: &[], service: None };
        let uplink = |advertised| Uplink { link: "ens3".to_owned(), advertised };
        let table = [(vec![], false, false), (vec![uplink(false)], true, false), (vec![uplink(true)], true, true)];
        for (ipv6_uplinks, forwards, accepts) in table {
            let plan = text(&super::host(&setup, &Host { ipv6: true, ipv6_uplinks }, std::iter::empty()));
            assert_eq!(plan.contains("ipv6/conf/all/forwarding=1"), forwards, "{plan}");
            assert_eq!(plan.contains("ens3/accept_ra=2"), accepts, "{plan}");
            assert!(plan.contains("ipv6/conf/monopod/accept_ra=0"), "{plan}");
        }
    }

    #[test]
    fn every_step_on_the_host_has_an_inverse_of_its_own_or_goes_with_its_link() {
        let (bridge, ranges) = (BridgeName::default(), dual());
        let setup = Setup { bridge: &bridge, ranges: &ranges, closed: &[], service: None };
        let id = "pod-1".parse().unwrap();
        let all = [
            super::host(&setup, &Host { ipv6: true, ipv6_uplinks: vec![] }, std::iter::empty()),
            pod(&setup, true, &id, HostNumber(5), &[]),
        ];
        for step in all.concat() {
            let inverse = step.inverse();
            let on_host = text(std::slice::from_ref(&step)).starts_with("host");
            assert_eq!(inverse == Inverse::WithNamespace, !on_host, "{step}");
            if let Inverse::Rules(ops) = inverse {
                assert!(!ops.is_empty());
            }
        }
    }
}
