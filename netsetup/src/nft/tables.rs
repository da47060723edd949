//! The fixed part of the two tables: sets, chains and their rules. A pod adds elements, never a rule.

use ipnet::Ipv6Net;

use super::rules::{Ruleset, of_set};
use super::{
    Base, Chain, Element, Expr, Hook, Kind, Meta, Op, PayloadBase, Protocol, Reg, Set, Table, Type, Value, Verdict,
};
use crate::names::link_prefix;

/// Before connection tracking (`NF_IP_PRI_RAW`).
const PRIORITY_RAW: i32 = -300;
/// `NF_IP_PRI_NAT_DST`
const PRIORITY_DSTNAT: i32 = -100;
/// `NF_IP_PRI_FILTER`
const PRIORITY_FILTER: i32 = 0;
/// `NF_IP_PRI_NAT_SRC`
const PRIORITY_SRCNAT: i32 = 100;
/// `NFPROTO_IPV4`, `NFPROTO_IPV6`
const IPV4: u8 = 2;
const IPV6: u8 = 10;
/// `RTN_LOCAL` of rtnetlink
const RTN_LOCAL: u32 = 2;
/// `IPS_DST_NAT` of a connection's status
const DST_NAT: u32 = 1 << 5;
/// Ethernet types
const ETHER_IPV4: [u8; 2] = [0x08, 0x00];
const ETHER_ARP: [u8; 2] = [0x08, 0x06];
const ETHER_IPV6: [u8; 2] = [0x86, 0xdd];
/// ARP over Ethernet for IPv4: hardware and protocol type, and their lengths.
const ARP_FIXED: [u8; 6] = [0, 1, 8, 0, 6, 4];
const ICMPV6: u8 = 58;
const ROUTER_ADVERT: u8 = 134;
const NEIGHBOUR_ADVERT: u8 = 136;
const REDIRECT: u8 = 137;

pub(super) const SOURCES4: Set = Set { name: "sources4", key: &[Type::Ifname, Type::Ether, Type::Ipv4], data: &[] };
pub(super) const SOURCES6: Set = Set { name: "sources6", key: &[Type::Ifname, Type::Ether, Type::Ipv6], data: &[] };
/// Ports of the host that pods can't reach.
pub(super) const CLOSED: Set = Set { name: "closed", key: &[Type::Protocol, Type::Service], data: &[] };
/// Host ports on every local address, and on one.
pub(super) const PORTS4: Set =
    Set { name: "ports4", key: &[Type::Protocol, Type::Service], data: &[Type::Ipv4, Type::Service] };
pub(super) const PORTS6: Set =
    Set { name: "ports6", key: &[Type::Protocol, Type::Service], data: &[Type::Ipv6, Type::Service] };
pub(super) const PORTS4_ON: Set =
    Set { name: "ports4on", key: &[Type::Ipv4, Type::Protocol, Type::Service], data: &[Type::Ipv4, Type::Service] };
pub(super) const PORTS6_ON: Set =
    Set { name: "ports6on", key: &[Type::Ipv6, Type::Protocol, Type::Service], data: &[Type::Ipv6, Type::Service] };

pub(super) fn inet_table(base: &Ruleset<'_>, table: &Table) -> Vec<Op> {
    let mut ops: Vec<Op> =
        [CLOSED, PORTS4, PORTS6, PORTS4_ON, PORTS6_ON].into_iter().map(|set| Op::AddSet(table.clone(), set)).collect();
    if !base.closed.is_empty() {
        let element = |(protocol, port): &(Protocol, u16)| Element {
            key: vec![Value::Protocol(*protocol), Value::Service(*port)],
            data: vec![],
        };
        ops.push(Op::AddElements(of_set(table, &CLOSED, base.closed.iter().map(element).collect())));
    }
    // A chain must be there before a jump to it.
    ops.extend(chain(table, "hostports", None, host_ports()));
    ops.extend(chain(table, "guard", Some((Kind::Filter, Hook::Prerouting, PRIORITY_RAW)), guard(base)));
    ops.extend(chain(
        table,
        "prerouting",
        Some((Kind::Nat, Hook::Prerouting, PRIORITY_DSTNAT)),
        vec![vec![Expr::Verdict(Verdict::Jump("hostports"))]],
    ));
    ops.extend(chain(table, "input", Some((Kind::Filter, Hook::Input, PRIORITY_FILTER)), input(base)));
    ops.extend(chain(
        table,
        "output",
        Some((Kind::Nat, Hook::Output, PRIORITY_DSTNAT)),
        vec![vec![Expr::Verdict(Verdict::Jump("hostports"))]],
    ));
    ops.extend(chain(table, "postrouting", Some((Kind::Nat, Hook::Postrouting, PRIORITY_SRCNAT)), postrouting(base)));
    ops
}

fn chain(table: &Table, name: &'static str, base: Option<(Kind, Hook, i32)>, rules: Vec<Vec<Expr>>) -> Vec<Op> {
    let base = base.map(|(kind, hook, priority)| Base { kind, hook, priority });
    let mut ops = vec![Op::AddChain(table.clone(), Chain { name, base })];
    ops.extend(rules.into_iter().map(|rule| Op::AddRule(table.clone(), name, rule)));
    ops
}

/// Destination NAT for local destinations only: traffic that this host merely forwards keeps its way (P34).
fn host_ports() -> Vec<Vec<Expr>> {
    let not_local =
        vec![Expr::FibDaddrType(Reg(0)), differs(Reg(0), &RTN_LOCAL.to_ne_bytes()), Expr::Verdict(Verdict::Return)];
    let all = |family: u8, set: &Set, v6: bool| {
        let mut rule = vec![
            Expr::Meta(Meta::Nfproto, Reg(0)),
            equals(Reg(0), &[family]),
            Expr::Meta(Meta::L4proto, Reg(0)),
            destination_port(Reg(1)),
        ];
        rule.extend(dnat(set, v6));
        rule
    };
    let on = |family: u8, set: &Set, v6: bool| {
        let words = if v6 { 4 } else { 1 };
        let mut rule = vec![
            Expr::Meta(Meta::Nfproto, Reg(0)),
            equals(Reg(0), &[family]),
            destination(v6, Reg(0)),
            Expr::Meta(Meta::L4proto, Reg(words)),
            destination_port(Reg(words + 1)),
        ];
        rule.extend(dnat(set, v6));
        rule
    };
    vec![
        not_local,
        on(IPV4, &PORTS4_ON, false),
        all(IPV4, &PORTS4, false),
        on(IPV6, &PORTS6_ON, true),
        all(IPV6, &PORTS6, true),
    ]
}

fn dnat(set: &Set, v6: bool) -> [Expr; 2] {
    let port = Reg(if v6 { 4 } else { 1 });
    [
        Expr::Lookup { set: set.name, from: Reg(0), to: Some(Reg(0)), found: true },
        Expr::Dnat { v6, address: Reg(0), port },
    ]
}

/// A host port on 127.0.0.1 needs `route_localnet` on the bridge for its answers; this keeps pods from using it.
fn guard(base: &Ruleset<'_>) -> Vec<Vec<Expr>> {
    let mut rule = from_bridge(base);
    rule.extend(ipv4());
    rule.extend([
        destination(false, Reg(0)),
        Expr::Mask { register: Reg(0), mask: vec![255, 0, 0, 0] },
        equals(Reg(0), &[127, 0, 0, 0]),
        Expr::Verdict(Verdict::Drop),
    ]);
    vec![rule]
}

/// What has an address of its own is there for pods; its port elsewhere may be closed to them.
fn input(base: &Ruleset<'_>) -> Vec<Vec<Expr>> {
    let open = base.service.map(|service| {
        let mut rule = [from_bridge(base), ipv4().to_vec()].concat();
        rule.extend([
            destination(false, Reg(0)),
            equals(Reg(0), &service.address.octets()),
            Expr::Verdict(Verdict::Accept),
        ]);
        rule
    });
    let mut rule = from_bridge(base);
    rule.extend([
        Expr::Meta(Meta::L4proto, Reg(0)),
        destination_port(Reg(1)),
        Expr::Lookup { set: CLOSED.name, from: Reg(0), to: None, found: true },
        Expr::Verdict(Verdict::Drop),
    ]);
    open.into_iter().chain([rule]).collect()
}

/// What leaves a pod range over another link gets the host's address. What comes back into the bridge after a host port
/// does so only when the answer would otherwise miss the host: from loopback, and from another pod.
fn postrouting(base: &Ruleset<'_>) -> Vec<Vec<Expr>> {
    let bridge = ifname(base.bridge.as_str());
    let network = base.ranges.v4();
    let (v4, mask4) = (network.network().octets().to_vec(), network.netmask().octets().to_vec());
    let leaving = [Expr::Meta(Meta::Oifname, Reg(0)), differs(Reg(0), &bridge)];
    let entering = [Expr::Meta(Meta::Oifname, Reg(0)), equals(Reg(0), &bridge)];
    let translated = [
        Expr::CtStatus(Reg(0)),
        Expr::Mask { register: Reg(0), mask: DST_NAT.to_ne_bytes().to_vec() },
        differs(Reg(0), &[0; 4]),
    ];
    let rule = |parts: &[&[Expr]]| [parts.concat(), vec![Expr::Masquerade]].concat();
    let pods4 = [ipv4().to_vec(), source(false, &v4, &mask4)].concat();
    let loopback = [ipv4().to_vec(), source(false, &[127, 0, 0, 0], &[255, 0, 0, 0])].concat();
    let mut rules = vec![
        rule(&[&leaving, &pods4]),
        rule(&[&entering, &pods4, &translated]),
        rule(&[&entering, &loopback, &translated]),
    ];
    if let Some(pods6) = base.ranges.v6().map(pods6) {
        rules.extend([rule(&[&leaving, &pods6]), rule(&[&entering, &pods6, &translated])]);
    }
    rules
}

fn pods6(net: Ipv6Net) -> Vec<Expr> {
    [ipv6().to_vec(), source(true, &net.network().octets(), &net.netmask().octets())].concat()
}

/// Nothing but IPv4, ARP and IPv6 with the pod's own addresses passes; router advertisements, redirects and answers for
/// other neighbours don't (P34). It stands before the bridge learns, so a stolen hardware address moves no traffic.
pub(super) fn bridge_table(base: &Ruleset<'_>, table: &Table) -> Vec<Op> {
    let mut ops = vec![Op::AddSet(table.clone(), SOURCES4), Op::AddSet(table.clone(), SOURCES6)];
    let prefix = link_prefix(base.bridge).into_bytes();
    let rules = vec![
        vec![Expr::Meta(Meta::Iifname, Reg(0)), differs(Reg(0), &prefix), Expr::Verdict(Verdict::Accept)],
        [ether(ETHER_IPV4), known(&SOURCES4, link_source(), network(12, 4, Reg(6)))].concat(),
        arp(),
        icmpv6(ROUTER_ADVERT),
        icmpv6(REDIRECT),
        foreign_advert(),
        [ether(ETHER_IPV6), known(&SOURCES6, link_source(), network(8, 16, Reg(6)))].concat(),
        vec![Expr::Verdict(Verdict::Drop)],
    ];
    ops.extend(chain(table, "spoof", Some((Kind::Filter, Hook::Prerouting, PRIORITY_RAW)), rules));
    ops
}

/// `ifname . ether . address` in registers 0, 4 and 6.
fn known(set: &Set, hardware: Expr, address: Expr) -> Vec<Expr> {
    [sources(set, hardware, address, true), vec![Expr::Verdict(Verdict::Accept)]].concat()
}

fn sources(set: &Set, hardware: Expr, address: Expr, found: bool) -> Vec<Expr> {
    vec![
        Expr::Meta(Meta::Iifname, Reg(0)),
        hardware,
        address,
        Expr::Lookup { set: set.name, from: Reg(0), to: None, found },
    ]
}

/// Both the frame's sender and the one that the message claims.
fn arp() -> Vec<Expr> {
    let fixed = vec![network(0, 6, Reg(0)), equals(Reg(0), &ARP_FIXED)];
    let frame = sources(&SOURCES4, link_source(), network(14, 4, Reg(6)), true);
    [ether(ETHER_ARP), fixed, frame, known(&SOURCES4, network(8, 6, Reg(4)), network(14, 4, Reg(6)))].concat()
}

fn icmpv6(kind: u8) -> Vec<Expr> {
    [icmpv6_type(kind), vec![Expr::Verdict(Verdict::Drop)]].concat()
}

fn foreign_advert() -> Vec<Expr> {
    let target = Expr::Payload { base: PayloadBase::Transport, offset: 8, length: 16, to: Reg(6) };
    [
        icmpv6_type(NEIGHBOUR_ADVERT),
        sources(&SOURCES6, link_source(), target, false),
        vec![Expr::Verdict(Verdict::Drop)],
    ]
    .concat()
}

fn icmpv6_type(kind: u8) -> Vec<Expr> {
    let load = Expr::Payload { base: PayloadBase::Transport, offset: 0, length: 1, to: Reg(0) };
    [
        ether(ETHER_IPV6),
        vec![Expr::Meta(Meta::L4proto, Reg(0)), equals(Reg(0), &[ICMPV6]), load, equals(Reg(0), &[kind])],
    ]
    .concat()
}

fn ether(kind: [u8; 2]) -> Vec<Expr> {
    vec![Expr::Payload { base: PayloadBase::Link, offset: 12, length: 2, to: Reg(0) }, equals(Reg(0), &kind)]
}

fn link_source() -> Expr {
    Expr::Payload { base: PayloadBase::Link, offset: 6, length: 6, to: Reg(4) }
}

fn network(offset: u32, length: u32, to: Reg) -> Expr {
    Expr::Payload { base: PayloadBase::Network, offset, length, to }
}

fn destination(v6: bool, to: Reg) -> Expr {
    if v6 { network(24, 16, to) } else { network(16, 4, to) }
}

fn source(v6: bool, address: &[u8], mask: &[u8]) -> Vec<Expr> {
    let load = if v6 { network(8, 16, Reg(0)) } else { network(12, 4, Reg(0)) };
    vec![load, Expr::Mask { register: Reg(0), mask: mask.to_vec() }, equals(Reg(0), address)]
}

fn destination_port(to: Reg) -> Expr {
    Expr::Payload { base: PayloadBase::Transport, offset: 2, length: 2, to }
}

fn from_bridge(base: &Ruleset<'_>) -> Vec<Expr> {
    vec![Expr::Meta(Meta::Iifname, Reg(0)), equals(Reg(0), &ifname(base.bridge.as_str()))]
}

fn ipv4() -> [Expr; 2] {
    [Expr::Meta(Meta::Nfproto, Reg(0)), equals(Reg(0), &[IPV4])]
}

fn ipv6() -> [Expr; 2] {
    [Expr::Meta(Meta::Nfproto, Reg(0)), equals(Reg(0), &[IPV6])]
}

fn equals(register: Reg, value: &[u8]) -> Expr {
    Expr::Compare { register, equal: true, value: value.to_vec() }
}

fn differs(register: Reg, value: &[u8]) -> Expr {
    Expr::Compare { register, equal: false, value: value.to_vec() }
}

/// A link's name filled up with zeros, as the kernel loads it; without them it is a prefix.
fn ifname(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(16, 0);
    bytes
}
