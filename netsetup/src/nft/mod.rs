//! Packet rules as data: tables of our own, rebuilt whole or changed element by element, each in one transaction.
//!
//! No rule belongs to a pod. Pods are elements of sets that fixed rules look up, so adding or removing one costs the same
//! however many there are, and what exists can be compared with the leases by key.

mod encode;
pub(crate) mod transaction;

use std::net::IpAddr;

use crate::ipam::Subnets;
use crate::names;
pub(crate) use encode::encode;

/// Name of our tables; nobody else's are ever touched.
pub const TABLE: &str = "monopod";
/// Bridge family: who may send from which port.
pub const KNOWN_V4: &str = "known_v4";
/// See [`KNOWN_V4`].
pub const KNOWN_V6: &str = "known_v6";
/// `hostIP . protocol . hostPort : podIP . containerPort`
pub const PORTS_V4: &str = "host_ports_v4";
/// See [`PORTS_V4`].
pub const PORTS_V6: &str = "host_ports_v6";

/// Address family of a table (`enum nf_inet_hooks`, linux/netfilter.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Inet,
    Bridge,
}

/// A change of the rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    AddTable(Family),
    DeleteTable(Family),
    AddChain { family: Family, name: &'static str, hook: Hook },
    AddSet { family: Family, set: Set },
    AddRule { family: Family, chain: &'static str, rule: Vec<Expression> },
    AddElement { family: Family, set: &'static str, element: Element },
    DeleteElement { family: Family, set: &'static str, element: Element },
}

/// Where a chain hooks in (linux/netfilter.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hook {
    pub kind: &'static str,
    pub number: u32,
    pub priority: i32,
}

/// A set, or a map when it has data. Types are nft's numbers and only decide how `nft` prints it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Set {
    pub name: &'static str,
    pub key_type: u32,
    pub key_len: u32,
    pub data: Option<(u32, u32)>,
    pub id: u32,
}

/// One element: each part padded to four bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    pub key: Vec<u8>,
    pub data: Option<Vec<u8>>,
}

/// What a rule is made of (linux/netfilter/nf_tables.h); registers are 4 bytes wide, numbered from 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expression {
    Meta {
        key: MetaKey,
        to: u32,
    },
    Payload {
        base: Base,
        offset: u32,
        len: u32,
        to: u32,
    },
    Compare {
        register: u32,
        equal: bool,
        value: Vec<u8>,
    },
    Mask {
        register: u32,
        mask: Vec<u8>,
    },
    Load {
        to: u32,
        value: Vec<u8>,
    },
    Lookup {
        set: &'static str,
        set_id: u32,
        register: u32,
        to: Option<u32>,
        inverted: bool,
    },
    /// The kind of the destination address: local or not.
    FibDestinationType {
        to: u32,
    },
    DestinationNat {
        v6: bool,
        address: u32,
        port: u32,
    },
    Masquerade,
    Drop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetaKey {
    Protocol,
    InputName,
    OutputName,
    NetworkProtocol,
    TransportProtocol,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    Link,
    Network,
    Transport,
}

const PRE_ROUTING: u32 = 0;
const OUTPUT: u32 = 3;
const POST_ROUTING: u32 = 4;
const PRIORITY_RAW: i32 = -300;
const PRIORITY_DESTINATION_NAT: i32 = -100;
const PRIORITY_SOURCE_NAT: i32 = 100;

const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
const RTN_LOCAL: u32 = 2;

/// nft's data types: 7 ipv4_addr, 8 ipv6_addr, 9 ether_addr, 12 inet_proto, 13 inet_service, 41 ifname; concatenations
/// shift each by six bits.
const fn concatenated(types: &[u32]) -> u32 {
    let (mut all, mut at) = (0, 0);
    while at < types.len() {
        all = all << 6 | types[at];
        at += 1;
    }
    all
}

const KNOWN_V4_SET: Set = Set { name: KNOWN_V4, key_type: concatenated(&[41, 9, 7]), key_len: 28, data: None, id: 1 };
const KNOWN_V6_SET: Set = Set { name: KNOWN_V6, key_type: concatenated(&[41, 9, 8]), key_len: 40, data: None, id: 2 };
const PORTS_V4_SET: Set = Set {
    name: PORTS_V4,
    key_type: concatenated(&[7, 12, 13]),
    key_len: 12,
    data: Some((concatenated(&[7, 13]), 8)),
    id: 3,
};
const PORTS_V6_SET: Set = Set {
    name: PORTS_V6,
    key_type: concatenated(&[8, 12, 13]),
    key_len: 24,
    data: Some((concatenated(&[8, 13]), 20)),
    id: 4,
};

/// All tables anew, with the elements that exist; atomic, so that no packet sees them half.
pub fn rebuild(subnets: &Subnets, elements: &[(Family, &'static str, Element)]) -> Vec<Change> {
    let mut changes = Vec::new();
    for family in [Family::Inet, Family::Bridge] {
        // Deleting what does not exist fails, adding what exists does not.
        changes.extend([Change::AddTable(family), Change::DeleteTable(family), Change::AddTable(family)]);
    }
    for set in [PORTS_V4_SET, PORTS_V6_SET] {
        changes.push(Change::AddSet { family: Family::Inet, set });
    }
    for set in [KNOWN_V4_SET, KNOWN_V6_SET] {
        changes.push(Change::AddSet { family: Family::Bridge, set });
    }
    changes.extend(address_translation(subnets));
    changes.extend(guards());
    changes.extend(elements.iter().map(|(family, set, element)| Change::AddElement {
        family: *family,
        set,
        element: element.clone(),
    }));
    changes
}

/// Our tables away.
pub fn remove() -> Vec<Change> {
    let families = [Family::Inet, Family::Bridge];
    families.into_iter().flat_map(|family| [Change::AddTable(family), Change::DeleteTable(family)]).collect()
}

fn address_translation(subnets: &Subnets) -> Vec<Change> {
    let chain = |name, kind, number, priority| Change::AddChain {
        family: Family::Inet,
        name,
        hook: Hook { kind, number, priority },
    };
    let rule = |chain, rule| Change::AddRule { family: Family::Inet, chain, rule };
    let mut changes = vec![
        chain("prerouting", "nat", PRE_ROUTING, PRIORITY_DESTINATION_NAT),
        chain("output", "nat", OUTPUT, PRIORITY_DESTINATION_NAT),
        chain("postrouting", "nat", POST_ROUTING, PRIORITY_SOURCE_NAT),
    ];
    for name in ["prerouting", "output"] {
        for v6 in [false, true] {
            changes.extend([rule(name, host_port(v6, true)), rule(name, host_port(v6, false))]);
        }
    }
    changes.push(rule("postrouting", masquerade_v4(subnets, false)));
    changes.push(rule("postrouting", masquerade_v6(subnets)));
    // A host port reached over the host's loopback: the pod could not answer to 127.0.0.1.
    changes.push(rule("postrouting", masquerade_v4(subnets, true)));
    changes
}

/// Only for local destination addresses: a packet on its way through the host is left alone (D24, rule PO2).
fn host_port(v6: bool, exact_address: bool) -> Vec<Expression> {
    let (set, width) = if v6 { (PORTS_V6_SET, 16) } else { (PORTS_V4_SET, 4) };
    let registers = width / 4;
    let address = if exact_address {
        Expression::Payload { base: Base::Network, offset: if v6 { 24 } else { 16 }, len: width, to: 0 }
    } else {
        Expression::Load { to: 0, value: vec![0; width as usize] }
    };
    vec![
        Expression::Meta { key: MetaKey::NetworkProtocol, to: 0 },
        Expression::Compare { register: 0, equal: true, value: vec![if v6 { NFPROTO_IPV6 } else { NFPROTO_IPV4 }] },
        Expression::FibDestinationType { to: 0 },
        Expression::Compare { register: 0, equal: true, value: RTN_LOCAL.to_ne_bytes().to_vec() },
        address,
        Expression::Meta { key: MetaKey::TransportProtocol, to: registers },
        Expression::Payload { base: Base::Transport, offset: 2, len: 2, to: registers + 1 },
        Expression::Lookup { set: set.name, set_id: set.id, register: 0, to: Some(0), inverted: false },
        Expression::DestinationNat { v6, address: 0, port: registers },
    ]
}

/// What pods send beyond the bridge carries the host's address; with `loopback`, what 127.0.0.0/8 sends to pods.
fn masquerade_v4(subnets: &Subnets, loopback: bool) -> Vec<Expression> {
    let (network, mask) = if loopback {
        ([127, 0, 0, 0], [255, 0, 0, 0])
    } else {
        (subnets.v4.network().octets(), subnets.v4.netmask().octets())
    };
    vec![
        Expression::Meta { key: MetaKey::NetworkProtocol, to: 0 },
        Expression::Compare { register: 0, equal: true, value: vec![NFPROTO_IPV4] },
        Expression::Payload { base: Base::Network, offset: 12, len: 4, to: 0 },
        Expression::Mask { register: 0, mask: mask.to_vec() },
        Expression::Compare { register: 0, equal: true, value: network.to_vec() },
        Expression::Meta { key: MetaKey::OutputName, to: 0 },
        Expression::Compare { register: 0, equal: loopback, value: interface(names::BRIDGE) },
        Expression::Masquerade,
    ]
}

fn masquerade_v6(subnets: &Subnets) -> Vec<Expression> {
    vec![
        Expression::Meta { key: MetaKey::NetworkProtocol, to: 0 },
        Expression::Compare { register: 0, equal: true, value: vec![NFPROTO_IPV6] },
        Expression::Payload { base: Base::Network, offset: 8, len: 16, to: 0 },
        Expression::Mask { register: 0, mask: subnets.v6.netmask().octets().to_vec() },
        Expression::Compare { register: 0, equal: true, value: subnets.v6.network().octets().to_vec() },
        Expression::Meta { key: MetaKey::OutputName, to: 0 },
        Expression::Compare { register: 0, equal: false, value: interface(names::BRIDGE) },
        Expression::Masquerade,
    ]
}

/// Who sends what it must not is not heard (D24): a port's packets carry the addresses that were given to its pod, and
/// nothing from a pod reaches the host's loopback.
fn guards() -> Vec<Change> {
    let rule = |family, chain, rule| Change::AddRule { family, chain, rule };
    let hook = Hook { kind: "filter", number: PRE_ROUTING, priority: PRIORITY_RAW };
    let chain = |family| Change::AddChain { family, name: "guard", hook };
    vec![
        chain(Family::Bridge),
        rule(Family::Bridge, "guard", unknown_sender(0x0800, Some(12), KNOWN_V4_SET, 4)),
        rule(Family::Bridge, "guard", unknown_sender(0x0806, Some(14), KNOWN_V4_SET, 4)),
        rule(Family::Bridge, "guard", unknown_sender(0x86dd, Some(8), KNOWN_V6_SET, 16)),
        chain(Family::Inet),
        rule(Family::Inet, "guard", loopback_from_pod()),
    ]
}

/// Packets of one EtherType whose port, MAC and sender address (at `offset`) do not belong together.
fn unknown_sender(ether_type: u16, offset: Option<u32>, set: Set, width: u32) -> Vec<Expression> {
    let prefix = names::PREFIX.as_bytes().to_vec();
    let mut rule = vec![
        Expression::Meta { key: MetaKey::InputName, to: 0 },
        Expression::Compare { register: 0, equal: true, value: prefix },
        Expression::Meta { key: MetaKey::Protocol, to: 0 },
        Expression::Compare { register: 0, equal: true, value: ether_type.to_be_bytes().to_vec() },
        Expression::Meta { key: MetaKey::InputName, to: 0 },
        Expression::Payload { base: Base::Link, offset: 6, len: 6, to: 4 },
    ];
    if let Some(offset) = offset {
        rule.push(Expression::Payload { base: Base::Network, offset, len: width, to: 6 });
    }
    rule.push(Expression::Lookup { set: set.name, set_id: set.id, register: 0, to: None, inverted: true });
    rule.push(Expression::Drop);
    rule
}

fn loopback_from_pod() -> Vec<Expression> {
    vec![
        Expression::Meta { key: MetaKey::InputName, to: 0 },
        Expression::Compare { register: 0, equal: true, value: interface(names::BRIDGE) },
        Expression::Meta { key: MetaKey::NetworkProtocol, to: 0 },
        Expression::Compare { register: 0, equal: true, value: vec![NFPROTO_IPV4] },
        Expression::Payload { base: Base::Network, offset: 16, len: 1, to: 0 },
        Expression::Compare { register: 0, equal: true, value: vec![127] },
        Expression::Drop,
    ]
}

/// A name as the kernel compares it: all 16 bytes.
fn interface(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(16, 0);
    bytes
}

/// The elements by which a pod's packets are let through.
pub fn known(host_link: &str, mac: [u8; 6], address: IpAddr) -> Vec<(Family, &'static str, Element)> {
    let prefix = [interface(host_link), padded(&mac)].concat();
    let element = |address: Vec<u8>| Element { key: [prefix.clone(), address].concat(), data: None };
    match address {
        IpAddr::V4(address) => vec![(Family::Bridge, KNOWN_V4, element(address.octets().to_vec()))],
        // Neighbour discovery uses the link-local address, and none at all while it looks for duplicates.
        IpAddr::V6(address) => [address, names::link_local(mac), std::net::Ipv6Addr::UNSPECIFIED]
            .map(|address| (Family::Bridge, KNOWN_V6, element(address.octets().to_vec())))
            .into(),
    }
}

/// The element that leads a host port to a pod.
pub fn forward(
    host_ip: Option<IpAddr>,
    protocol: u8,
    host_port: u16,
    to: IpAddr,
    port: u16,
) -> Option<(Family, &'static str, Element)> {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let any = vec![0; if to.is_ipv4() { 4 } else { 16 }];
    let from = match host_ip {
        Some(address) if address.is_unspecified() => any,
        Some(address) if address.is_ipv4() == to.is_ipv4() => octets(address),
        Some(_) => return None,
        None => any,
    };
    let key = [from, padded(&[protocol]), padded(&host_port.to_be_bytes())].concat();
    let data = [octets(to), padded(&port.to_be_bytes())].concat();
    let set = if to.is_ipv4() { PORTS_V4 } else { PORTS_V6 };
    Some((Family::Inet, set, Element { key, data: Some(data) }))
}

fn padded(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_as_long_as_their_sets() {
        let mac = [2, 0, 0, 0, 0, 1];
        for (address, set, count) in [("10.0.0.2", KNOWN_V4_SET, 1), ("fd00::2", KNOWN_V6_SET, 3)] {
            let elements = known("mp0", mac, address.parse().unwrap());
            assert_eq!(elements.len(), count);
            assert!(elements.iter().all(|(_, _, element)| element.key.len() == set.key_len as usize), "{address}");
        }
        for (address, set) in [("10.0.0.2", PORTS_V4_SET), ("fd00::2", PORTS_V6_SET)] {
            let (_, name, element) = forward(None, 6, 80, address.parse().unwrap(), 8080).unwrap();
            assert_eq!(name, set.name);
            assert_eq!(element.key.len(), set.key_len as usize);
            assert_eq!(element.data.unwrap().len(), set.data.unwrap().1 as usize);
        }
    }

    /// PO2
    #[test]
    fn a_host_ip_forwards_only_to_addresses_of_its_family() {
        let host = Some("192.0.2.1".parse().unwrap());
        assert!(forward(host, 6, 80, "fd00::2".parse().unwrap(), 80).is_none());
        let (_, _, element) = forward(host, 17, 53, "10.0.0.2".parse().unwrap(), 5353).unwrap();
        assert_eq!(element.key, [192, 0, 2, 1, 17, 0, 0, 0, 0, 53, 0, 0]);
        assert_eq!(element.data.unwrap(), [10, 0, 0, 2, 0x14, 0xe9, 0, 0]);
    }

    #[test]
    fn a_rebuild_deletes_and_adds_only_our_tables() {
        let subnets = Subnets { v4: "10.88.0.0/16".parse().unwrap(), v6: "fd00::/64".parse().unwrap() };
        let changes = rebuild(&subnets, &[]);
        let tables = changes.iter().filter(|change| matches!(change, Change::AddTable(_) | Change::DeleteTable(_)));
        assert_eq!(tables.count(), 6);
    }
}
