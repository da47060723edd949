//! Our ruleset: two tables named as the bridge. `inet` does masquerade, host ports and what pods may reach on the host;
//! `bridge` lets nothing out of a pod's link that doesn't carry the pod's own addresses. Chains are fixed; a pod is
//! elements of sets, so that attaching one costs a few elements and needs no rule handle (D24).

use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use super::tables::{self, PORTS4, PORTS4_ON, PORTS6, PORTS6_ON, SOURCES4, SOURCES6};
use super::{Element, Elements, Family, Op, Protocol, Set, Table, Value};
use crate::ipam::{HostNumber, Ranges};
use crate::names::{BridgeName, Mac, PodId, host_link};

/// A port of the host that leads to a pod (PO2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostPort {
    pub protocol: Protocol,
    /// None: every local address. `0.0.0.0` and `::` are every one of their family.
    pub host_ip: Option<IpAddr>,
    pub host_port: u16,
    pub container_port: u16,
}

impl HostPort {
    /// Whether a connection could belong to both (PO3).
    #[must_use]
    pub fn conflicts(&self, other: &Self) -> bool {
        let any = |port: &Self| port.host_ip.is_none();
        let address = match (self.host_ip, other.host_ip) {
            (Some(a), Some(b)) => a == b || (a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified())),
            (None, _) | (_, None) => any(self) || any(other),
        };
        self.protocol == other.protocol && self.host_port == other.host_port && address
    }
}

/// What all rules depend on.
#[derive(Debug, Clone, Copy)]
pub struct Ruleset<'a> {
    pub bridge: &'a BridgeName,
    pub ranges: &'a Ranges,
    /// Ports of the host that pods can't reach, such as the API's.
    pub closed: &'a [(Protocol, u16)],
    pub service: Option<Service>,
}

/// A TCP service of the host with an address of its own, such as the API's: the one port that clients ask for, and the one
/// at the same address where it listens, so that it takes the first from nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Service {
    pub address: Ipv4Addr,
    pub port: u16,
    pub listens_at: u16,
}

/// A pod as the rules see it.
#[derive(Debug, Clone, Copy)]
pub struct Pod<'a> {
    pub id: &'a PodId,
    pub number: HostNumber,
    pub ports: &'a [HostPort],
}

#[must_use]
pub fn inet(bridge: &BridgeName) -> Table {
    Table { family: Family::Inet, name: bridge.as_str().to_owned() }
}

#[must_use]
pub fn bridge(bridge: &BridgeName) -> Table {
    Table { family: Family::Bridge, name: bridge.as_str().to_owned() }
}

/// Everything, replacing what is there, for one transaction: between old and new no packet sees less.
#[must_use]
pub fn replace<'a>(base: &Ruleset<'_>, pods: impl Iterator<Item = Pod<'a>>) -> Vec<Op> {
    let (inet, bridge) = (inet(base.bridge), bridge(base.bridge));
    let mut ops = Vec::new();
    for table in [&inet, &bridge] {
        // Deleting a table that isn't there is an error, adding one that is there is none.
        ops.extend([Op::AddTable(table.clone()), Op::DeleteTable(table.clone()), Op::AddTable(table.clone())]);
    }
    ops.extend(tables::inet_table(base, &inet));
    ops.extend(tables::bridge_table(base, &bridge));
    let service = base.service.map(|service| service_elements(&inet, service));
    ops.extend(merged(service.into_iter().chain(pods.flat_map(|pod| elements(base, &pod)))));
    ops
}

/// The tables and all in them.
#[must_use]
pub fn remove(name: &BridgeName) -> Vec<Op> {
    let (inet, bridge) = (inet(name), bridge(name));
    [inet, bridge].into_iter().flat_map(|table| [Op::AddTable(table.clone()), Op::DeleteTable(table)]).collect()
}

/// The elements of one pod.
#[must_use]
pub fn add_pod(base: &Ruleset<'_>, pod: &Pod<'_>) -> Vec<Op> {
    merged(elements(base, pod).into_iter())
}

/// Takes the elements of one pod away.
#[must_use]
pub fn remove_pod(base: &Ruleset<'_>, pod: &Pod<'_>) -> Vec<Op> {
    add_pod(base, pod).iter().filter_map(Op::inverse).collect()
}

fn elements(base: &Ruleset<'_>, pod: &Pod<'_>) -> Vec<Elements> {
    let (v4, v6) = (base.ranges.v4_of(pod.number), base.ranges.v6_of(pod.number));
    let link = Value::Ifname(host_link(base.bridge, pod.id));
    let mac = Mac::of(v4);
    let source = |address| Element { key: vec![link.clone(), Value::Ether(mac), address], data: vec![] };
    let table = bridge(base.bridge);
    let mut found = vec![of_set(&table, &SOURCES4, vec![source(Value::Ipv4(v4))])];
    if let Some(v6) = v6 {
        let both = vec![source(Value::Ipv6(v6)), source(Value::Ipv6(mac.link_local()))];
        found.push(of_set(&table, &SOURCES6, both));
    }
    let table = inet(base.bridge);
    for port in pod.ports {
        let both = port_elements(port, Value::Ipv4(v4), v6.map(Value::Ipv6));
        found.extend(both.map(|(set, element)| of_set(&table, set, vec![element])));
    }
    found
}

/// Its port is a host port that leads to the host itself.
fn service_elements(table: &Table, service: Service) -> Elements {
    let address = Value::Ipv4(service.address);
    let key = vec![address.clone(), Value::Protocol(Protocol::Tcp), Value::Service(service.port)];
    let element = Element { key, data: vec![address, Value::Service(service.listens_at)] };
    of_set(table, &PORTS4_ON, vec![element])
}

pub(super) fn of_set(table: &Table, set: &Set, elements: Vec<Element>) -> Elements {
    Elements { table: table.clone(), set: set.name, elements }
}

/// One operation per set instead of one per pod.
fn merged(all: impl Iterator<Item = Elements>) -> Vec<Op> {
    let mut merged: Vec<Elements> = Vec::new();
    for new in all {
        match merged.iter_mut().find(|old| old.set == new.set && old.table == new.table) {
            Some(old) => old.elements.extend(new.elements),
            None => merged.push(new),
        }
    }
    merged.into_iter().map(Op::AddElements).collect()
}

fn port_elements(port: &HostPort, v4: Value, v6: Option<Value>) -> impl Iterator<Item = (&'static Set, Element)> {
    let end = [Value::Protocol(port.protocol), Value::Service(port.host_port)];
    let on = |address: Value| [vec![address], end.to_vec()].concat();
    let (key4, key6) = match port.host_ip {
        None => (Some((&PORTS4, end.to_vec())), Some((&PORTS6, end.to_vec()))),
        Some(IpAddr::V4(ip)) if ip.is_unspecified() => (Some((&PORTS4, end.to_vec())), None),
        Some(IpAddr::V6(ip)) if ip.is_unspecified() => (None, Some((&PORTS6, end.to_vec()))),
        Some(IpAddr::V4(ip)) => (Some((&PORTS4_ON, on(Value::Ipv4(ip)))), None),
        Some(IpAddr::V6(ip)) => (None, Some((&PORTS6_ON, on(Value::Ipv6(ip))))),
    };
    let target = Value::Service(port.container_port);
    let element = move |key, address| Element { key, data: vec![address, target.clone()] };
    let first = key4.map(|(set, key)| (set, element(key, v4)));
    let second = key6
        .zip(v6)
        .map(|((set, key), v6)| (set, Element { key, data: vec![v6, Value::Service(port.container_port)] }));
    first.into_iter().chain(second)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(protocol: Protocol, ip: Option<&str>, host_port: u16) -> HostPort {
        HostPort { protocol, host_ip: ip.map(|ip| ip.parse().unwrap()), host_port, container_port: 80 }
    }

    /// PO3
    #[test]
    fn host_ports_conflict_when_a_connection_could_belong_to_both() {
        use Protocol::{Sctp, Tcp, Udp};
        let table = [
            (port(Tcp, None, 1), port(Tcp, None, 1), true),
            (port(Tcp, None, 1), port(Tcp, None, 2), false),
            (port(Tcp, None, 1), port(Udp, None, 1), false),
            (port(Sctp, None, 1), port(Sctp, Some("1.2.3.4"), 1), true),
            (port(Tcp, Some("1.2.3.4"), 1), port(Tcp, Some("1.2.3.4"), 1), true),
            (port(Tcp, Some("1.2.3.4"), 1), port(Tcp, Some("1.2.3.5"), 1), false),
            (port(Tcp, Some("1.2.3.4"), 1), port(Tcp, Some("0.0.0.0"), 1), true),
            (port(Tcp, Some("1.2.3.4"), 1), port(Tcp, Some("::"), 1), false),
            (port(Tcp, Some("::1"), 1), port(Tcp, Some("::"), 1), true),
        ];
        for (one, other, expected) in table {
            assert_eq!(one.conflicts(&other), expected, "{one:?} {other:?}");
            assert_eq!(other.conflicts(&one), expected, "{other:?} {one:?}");
        }
    }

    #[test]
    fn what_a_pod_adds_is_exactly_what_its_end_removes() {
        let bridge = BridgeName::default();
        let ranges = Ranges::new("10.9.0.0/16".parse().unwrap(), Some("fd01::/64".parse().unwrap())).unwrap();
        let base = Ruleset { bridge: &bridge, ranges: &ranges, closed: &[], service: None };
        let id = "pod".parse().unwrap();
        let ports =
            [port(Protocol::Tcp, None, 1), port(Protocol::Udp, Some("::"), 2), port(Protocol::Tcp, Some("1.2.3.4"), 3)];
        let pod = Pod { id: &id, number: HostNumber(5), ports: &ports };
        let sets = |ops: Vec<Op>| -> Vec<Elements> {
            ops.into_iter()
                .map(|op| match op {
                    Op::AddElements(elements) | Op::DeleteElements(elements) => elements,
                    Op::AddTable(_) | Op::DeleteTable(_) | Op::AddSet(..) | Op::AddChain(..) | Op::AddRule(..) => {
                        panic!("{op:?}")
                    }
                })
                .collect()
        };
        let (added, removed) = (sets(add_pod(&base, &pod)), sets(remove_pod(&base, &pod)));
        assert_eq!(added, removed);
        let count: Vec<(&str, usize)> = added.iter().map(|elements| (elements.set, elements.elements.len())).collect();
        assert_eq!(count, [("sources4", 1), ("sources6", 2), ("ports4", 1), ("ports6", 2), ("ports4on", 1)]);
    }

    /// P34: no foreign table is ever named
    #[test]
    fn every_operation_names_a_table_of_ours() {
        let bridge = BridgeName::default();
        let ranges = Ranges::new("10.9.0.0/16".parse().unwrap(), None).unwrap();
        let base = Ruleset { bridge: &bridge, ranges: &ranges, closed: &[(Protocol::Tcp, 1)], service: None };
        let id = "pod".parse().unwrap();
        let pod = Pod { id: &id, number: HostNumber(5), ports: &[] };
        for op in [replace(&base, [pod].into_iter()), remove(&bridge), remove_pod(&base, &pod)].concat() {
            let (Op::AddTable(table)
            | Op::DeleteTable(table)
            | Op::AddSet(table, _)
            | Op::AddChain(table, _)
            | Op::AddRule(table, ..)
            | Op::AddElements(Elements { table, .. })
            | Op::DeleteElements(Elements { table, .. })) = op;
            assert_eq!(table.name, "monopod");
        }
    }
}
