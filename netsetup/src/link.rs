//! Links, addresses and routes: renders steps as rtnetlink messages and sends what belongs together in one call.

use std::net::IpAddr;
use std::os::fd::RawFd;

use ipnet::IpNet;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{
    InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, LinkAttribute,
    LinkExtentMask, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use rtnetlink::{AddressMessageBuilder, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use rustix::io::Errno;

use crate::error::NetworkError;
use crate::names::{BridgeName, Mac, POD_LINK};
use crate::netlink::Conversation;

/// `RT_TABLE_LOCAL`: the host's own addresses, each of which has a route in another table too.
const TABLE_LOCAL: u8 = 255;

/// `LOOPBACK_IFINDEX`: every namespace is born with it.
const LOOPBACK_INDEX: u32 = 1;

/// A link as far as we look at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mac: Option<Mac>,
    pub(crate) master: Option<u32>,
    pub(crate) is_bridge: bool,
}

/// A route as far as we look at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) destination: IpNet,
    pub(crate) link: Option<u32>,
    pub(crate) advertised: bool,
}

/// One request, and how it prints when it fails.
#[derive(Debug)]
pub(crate) struct Request {
    message: RouteNetlinkMessage,
    flags: u16,
    call: String,
}

/// The links of the network namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct Links(Conversation);

impl Links {
    pub(crate) fn open() -> Result<Self, NetworkError> {
        let source = |source| NetworkError::Netlink { call: "socket(NETLINK_ROUTE)", source };
        Conversation::open(NETLINK_ROUTE).map(Self).map_err(source)
    }

    /// Sends all in one call; the first that failed is the error.
    pub(crate) fn apply(&mut self, requests: Vec<Request>) -> Result<(), NetworkError> {
        let first = self.0.numbers(requests.len());
        let (messages, calls): (Vec<_>, Vec<_>) = requests
            .into_iter()
            .zip(first..)
            .map(|(request, sequence)| {
                (envelope(request.message, request.flags | NLM_F_ACK, sequence), (sequence, request.call))
            })
            .unzip();
        let answers = self.0.transact(&messages).map_err(|source| NetworkError::Netlink { call: "send", source })?;
        for (sequence, call) in calls {
            match answers.iter().find(|answer| answer.sequence == sequence).map(|answer| answer.result) {
                Some(Ok(())) => {}
                Some(Err(errno)) => return Err(NetworkError::Kernel { call, errno }),
                None => return Err(NetworkError::NoAnswer { call }),
            }
        }
        Ok(())
    }

    /// None when there is no such link.
    pub(crate) fn find(&mut self, name: &str) -> Result<Option<Link>, NetworkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        // Counters are two thirds of the answer and of its cost.
        message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let found = match self.ask(RouteNetlinkMessage::GetLink(message), 0) {
            Err(source) if source.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => {
                return Ok(None);
            }
            found => found.map_err(|source| NetworkError::Netlink { call: "RTM_GETLINK", source })?,
        };
        Ok(found.into_iter().find_map(link))
    }

    pub(crate) fn all(&mut self) -> Result<Vec<Link>, NetworkError> {
        let found = self.ask(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP);
        let found = found.map_err(|source| NetworkError::Netlink { call: "RTM_GETLINK", source })?;
        Ok(found.into_iter().filter_map(link).collect())
    }

    /// The unicast routes of both families, but for those of the local table.
    pub(crate) fn routes(&mut self) -> Result<Vec<Route>, NetworkError> {
        let found = self.ask(RouteNetlinkMessage::GetRoute(RouteMessage::default()), NLM_F_DUMP);
        let found = found.map_err(|source| NetworkError::Netlink { call: "RTM_GETROUTE", source })?;
        Ok(found.into_iter().filter_map(route).collect())
    }

    /// Deletes a link at once, which takes some 20 ms; gone already is good.
    pub(crate) fn delete(&mut self, name: &str) -> Result<(), NetworkError> {
        let Some(link) = self.find(name)? else {
            return Ok(());
        };
        match self.apply(vec![delete(&link)]) {
            Err(NetworkError::Kernel { errno: Errno::NODEV, .. }) => Ok(()),
            result => result,
        }
    }

    fn ask(&mut self, message: RouteNetlinkMessage, flags: u16) -> std::io::Result<Vec<RouteNetlinkMessage>> {
        let sequence = self.0.numbers(1);
        self.0.ask(&envelope(message, flags, sequence))
    }
}

/// Down, with its own hardware address: a bridge without one takes over its ports', which come and go.
pub(crate) fn bridge(name: &BridgeName, mac: Mac) -> Request {
    let mut message = LinkBridge::new(name.as_str())
        .address(mac.0.to_vec())
        // Without a querier, snooping only loses neighbour discovery.
        .append_info_data(InfoBridge::MulticastSnooping(false))
        .down()
        .build();
    message.header.change_mask = message.header.flags;
    Request {
        message: RouteNetlinkMessage::NewLink(message),
        flags: NLM_F_CREATE | NLM_F_EXCL,
        call: format!("RTM_NEWLINK({name}, bridge, {mac})"),
    }
}

pub(crate) fn veth(host: &str, mac: Mac, bridge: &Link, netns: RawFd) -> Request {
    let peer =
        LinkMessageBuilder::<LinkUnspec>::new().name(POD_LINK).address(mac.0.to_vec()).setns_by_fd(netns).build();
    let message = LinkVeth::new(host, POD_LINK)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .controller(bridge.index)
        .up()
        .build();
    let call = format!("RTM_NEWLINK({host}, veth, master {}, peer {POD_LINK} {mac})", bridge.name);
    Request { message: RouteNetlinkMessage::NewLink(message), flags: NLM_F_CREATE | NLM_F_EXCL, call }
}

pub(crate) fn hairpin(host: &str) -> Request {
    let message = LinkMessageBuilder::<LinkUnspec>::new()
        .name(host)
        .set_port_kind(InfoPortKind::Bridge)
        .set_port_data(InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(true)]))
        .build();
    Request {
        message: RouteNetlinkMessage::NewLink(message),
        flags: 0,
        call: format!("RTM_NEWLINK({host}, bridge port, hairpin)"),
    }
}

/// The loopback link of the namespace.
pub(crate) fn loopback() -> Link {
    Link { index: LOOPBACK_INDEX, name: "lo".to_owned(), mac: None, master: None, is_bridge: false }
}

pub(crate) fn up(link: &Link) -> Request {
    let message = LinkUnspec::new_with_index(link.index).up().build();
    Request {
        message: RouteNetlinkMessage::SetLink(message),
        flags: 0,
        call: format!("RTM_SETLINK({}, up)", link.name),
    }
}

fn delete(link: &Link) -> Request {
    let message = LinkUnspec::new_with_index(link.index).build();
    Request { message: RouteNetlinkMessage::DelLink(message), flags: 0, call: format!("RTM_DELLINK({})", link.name) }
}

pub(crate) fn address(link: &Link, net: IpNet) -> Request {
    let message: AddressMessage = match net {
        IpNet::V4(net) => AddressMessageBuilder::<std::net::Ipv4Addr>::new()
            .index(link.index)
            .address(net.addr(), net.prefix_len())
            .build(),
        IpNet::V6(net) => {
            let mut message = AddressMessageBuilder::<std::net::Ipv6Addr>::new()
                .index(link.index)
                .address(net.addr(), net.prefix_len())
                .build();
            // We hand addresses out; nobody else has it, so it is usable at once.
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            message
        }
    };
    let call = format!("RTM_NEWADDR({}, {net})", link.name);
    Request { message: RouteNetlinkMessage::NewAddress(message), flags: NLM_F_CREATE | NLM_F_REPLACE, call }
}

pub(crate) fn default_route(link: &Link, gateway: IpAddr) -> Request {
    let message = match gateway {
        IpAddr::V4(gateway) => {
            RouteMessageBuilder::<std::net::Ipv4Addr>::new().gateway(gateway).output_interface(link.index).build()
        }
        IpAddr::V6(gateway) => {
            RouteMessageBuilder::<std::net::Ipv6Addr>::new().gateway(gateway).output_interface(link.index).build()
        }
    };
    let call = format!("RTM_NEWROUTE(default, via {gateway}, dev {})", link.name);
    Request { message: RouteNetlinkMessage::NewRoute(message), flags: NLM_F_CREATE | NLM_F_REPLACE, call }
}

fn envelope(message: RouteNetlinkMessage, flags: u16, sequence: u32) -> NetlinkMessage<RouteNetlinkMessage> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
    message.finalize();
    message
}

#[expect(clippy::wildcard_enum_match_arm, reason = "foreign enums with dozens of kinds that are nothing to us")]
fn link(message: RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = message else {
        return None;
    };
    let mut found =
        Link { index: message.header.index, name: String::new(), mac: None, master: None, is_bridge: false };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => found.name = name,
            LinkAttribute::Address(bytes) => found.mac = <[u8; 6]>::try_from(bytes).ok().map(Mac),
            LinkAttribute::Controller(index) => found.master = Some(index),
            LinkAttribute::LinkInfo(infos) => found.is_bridge = infos.contains(&LinkInfo::Kind(InfoKind::Bridge)),
            _ => {}
        }
    }
    Some(found)
}

#[expect(clippy::wildcard_enum_match_arm, reason = "foreign enums with dozens of kinds that are nothing to us")]
fn route(message: RouteNetlinkMessage) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(RouteMessage { header, attributes, .. }) = message else {
        return None;
    };
    let RouteHeader { address_family, destination_prefix_length: length, table, protocol, kind, .. } = header;
    if table == TABLE_LOCAL || kind != RouteType::Unicast {
        return None;
    }
    let mut to: Option<IpAddr> = match address_family {
        AddressFamily::Inet => Some(std::net::Ipv4Addr::UNSPECIFIED.into()),
        AddressFamily::Inet6 => Some(std::net::Ipv6Addr::UNSPECIFIED.into()),
        _ => None,
    };
    let mut link = None;
    for attribute in attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => to = Some(address.into()),
            RouteAttribute::Destination(RouteAddress::Inet6(address)) => to = Some(address.into()),
            RouteAttribute::Oif(index) => link = Some(index),
            _ => {}
        }
    }
    let destination = IpNet::new(to?, length).ok()?;
    Some(Route { destination, link, advertised: protocol == RouteProtocol::Ra })
}
