//! Links, addresses and routes, in the host's network namespace and in a pod's (rtnetlink(7)).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};

use futures_util::TryStreamExt as _;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressHeaderFlags;
use netlink_packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder};
use rustix::io::Errno;
use rustix::thread::LinkNameSpaceType;

use crate::names;

/// The loopback's index in every namespace.
const LOOPBACK_INDEX: u32 = 1;

/// A netlink request that failed: the call with its arguments.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("{call}: {source}")]
    Netlink { call: String, source: rtnetlink::Error },
    #[error("{call}: {source}")]
    System { call: String, source: io::Error },
}

fn netlink(call: String) -> impl FnOnce(rtnetlink::Error) -> LinkError {
    move |source| LinkError::Netlink { call, source }
}

fn system(call: impl Into<String>) -> impl FnOnce(io::Error) -> LinkError {
    let call = call.into();
    move |source| LinkError::System { call, source }
}

/// A socket in one network namespace.
#[derive(Debug)]
pub(crate) struct Links {
    handle: Handle,
    connection: tokio::task::JoinHandle<()>,
}

impl Drop for Links {
    fn drop(&mut self) {
        // A socket keeps its namespace alive.
        self.connection.abort();
    }
}

type Connected = (rtnetlink::proto::Connection<RouteNetlinkMessage>, Handle);

impl Links {
    /// In the namespace of the calling thread.
    pub(crate) fn here() -> Result<Self, LinkError> {
        Ok(Self::started(connect()?))
    }

    /// In the namespace behind `netns`, whose kernel settings are made safe for a pod on the way (D24).
    pub(crate) fn in_namespace(netns: BorrowedFd<'_>) -> Result<Self, LinkError> {
        let netns = netns.try_clone_to_owned().map_err(system("dup(netns)"))?;
        let runtime = tokio::runtime::Handle::current();
        // A thread enters and ends; the socket stays in its namespace.
        let opened = std::thread::spawn(move || {
            let _runtime = runtime.enter();
            let network = Some(LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(netns.as_fd(), network)
                .map_err(|e| system("setns(netns)")(e.into()))?;
            harden()?;
            connect()
        });
        let connected =
            opened.join().unwrap_or_else(|_| Err(system("setns(netns)")(io::Error::other("the thread panicked"))));
        Ok(Self::started(connected?))
    }

    fn started((connection, handle): Connected) -> Self {
        Self { handle, connection: tokio::spawn(connection) }
    }

    /// Destinations of all routes of the main table, both families.
    pub(crate) async fn routes(&self) -> Result<Vec<IpNet>, LinkError> {
        let mut found = Vec::new();
        for request in [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()]
        {
            let mut routes = self.handle.route().get(request).execute();
            while let Some(route) = routes.try_next().await.map_err(netlink("dump routes".to_owned()))? {
                found.extend(destination(&route));
            }
        }
        Ok(found)
    }

    /// Every link whose name starts with `prefix`: index and name.
    pub(crate) async fn with_prefix(&self, prefix: &str) -> Result<Vec<(u32, String)>, LinkError> {
        let mut found = Vec::new();
        let mut links = self.handle.link().get().execute();
        while let Some(link) = links.try_next().await.map_err(netlink("dump links".to_owned()))? {
            let name = name_of(&link).filter(|name| name.starts_with(prefix));
            found.extend(name.map(|name| (link.header.index, name.to_owned())));
        }
        Ok(found)
    }

    /// None when there is no link of this name.
    pub(crate) async fn index(&self, name: &str) -> Result<Option<u32>, LinkError> {
        let mut links = self.handle.link().get().match_name(name).execute();
        match links.try_next().await {
            Ok(link) => Ok(link.map(|link| link.header.index)),
            Err(error) if is(&error, Errno::NODEV) => Ok(None),
            Err(error) => Err(netlink(format!("get link {name}"))(error)),
        }
    }

    /// The bridge with its addresses, made if it is not there; its index.
    pub(crate) async fn ensure_bridge(&self, name: &str, v4: Ipv4Net, v6: Ipv6Net) -> Result<u32, LinkError> {
        let added = self.handle.link().add(LinkBridge::new(name).up().build()).execute().await;
        there_already(added).map_err(netlink(format!("add bridge {name}")))?;
        let index = self.index(name).await?.unwrap_or_default();
        self.add_address(index, IpNet::V4(v4)).await?;
        self.add_address(index, IpNet::V6(v6)).await?;
        Ok(index)
    }

    /// A veth whose one end is the bridge's port `name` and whose other end is born in the pod's namespace as `eth0`.
    pub(crate) async fn add_veth(
        &self,
        name: &str,
        mac: [u8; 6],
        bridge: u32,
        netns: BorrowedFd<'_>,
    ) -> Result<(), LinkError> {
        let peer = rtnetlink::LinkMessageBuilder::<LinkUnspec>::new()
            .name(names::POD_LINK)
            .address(mac.to_vec())
            .append_extra_attribute(LinkAttribute::NetNsFd(netns.as_raw_fd()))
            .build();
        let link = LinkVeth::new(name, names::POD_LINK)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .controller(bridge)
            .up()
            .build();
        let added = self.handle.link().add(link).execute().await;
        there_already(added).map_err(netlink(format!("add veth {name} with {} in the pod", names::POD_LINK)))
    }

    /// Inside a pod: loopback and `eth0` up, addresses, default routes.
    pub(crate) async fn configure_pod(
        &self,
        v4: Ipv4Net,
        v6: Ipv6Net,
        gateways: (Ipv4Addr, Ipv6Addr),
    ) -> Result<(), LinkError> {
        self.up(LOOPBACK_INDEX).await?;
        let link = self.index(names::POD_LINK).await?.unwrap_or_default();
        self.add_address(link, IpNet::V4(v4)).await?;
        self.add_address(link, IpNet::V6(v6)).await?;
        self.up(link).await?;
        let v4 = RouteMessageBuilder::<Ipv4Addr>::new().output_interface(link).gateway(gateways.0).build();
        let v6 = RouteMessageBuilder::<Ipv6Addr>::new().output_interface(link).gateway(gateways.1).build();
        for (route, gateway) in [(v4, IpAddr::V4(gateways.0)), (v6, IpAddr::V6(gateways.1))] {
            let added = self.handle.route().add(route).execute().await;
            there_already(added).map_err(netlink(format!("add default route via {gateway}")))?;
        }
        Ok(())
    }

    /// Loopback up, and nothing else.
    pub(crate) async fn up(&self, index: u32) -> Result<(), LinkError> {
        let message = LinkUnspec::new_with_index(index).up().build();
        self.handle.link().set(message).execute().await.map_err(netlink(format!("set link {index} up")))
    }

    /// Success when it is gone already.
    pub(crate) async fn delete(&self, index: u32) -> Result<(), LinkError> {
        match self.handle.link().del(index).execute().await {
            Err(error) if is(&error, Errno::NODEV) => Ok(()),
            other => other.map_err(netlink(format!("delete link {index}"))),
        }
    }

    async fn add_address(&self, index: u32, address: IpNet) -> Result<(), LinkError> {
        let mut request = self.handle.address().add(index, address.addr(), address.prefix_len());
        if address.addr().is_ipv6() {
            // Ours is known to be free; waiting for duplicates would cost a second.
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        there_already(request.execute().await).map_err(netlink(format!("add address {address} to link {index}")))
    }
}

fn connect() -> Result<Connected, LinkError> {
    let (connection, handle, _messages) = rtnetlink::new_connection().map_err(system("socket(NETLINK_ROUTE)"))?;
    Ok((connection, handle))
}

/// Settings of a pod's namespace that hold for links to come.
const POD_SETTINGS: &[(&str, &str)] = &[
    ("net/ipv6/conf/all/accept_ra", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv6/conf/all/forwarding", "0"),
    ("net/ipv4/conf/all/route_localnet", "0"),
    ("net/ipv4/conf/default/route_localnet", "0"),
];

/// For the network namespace of the calling thread.
fn harden() -> Result<(), LinkError> {
    for (name, value) in POD_SETTINGS {
        set_sysctl(name, value)?;
    }
    Ok(())
}

/// For the network namespace of the calling thread; a kernel without IPv6 lacks some.
pub(crate) fn set_sysctl(name: &str, value: &str) -> Result<(), LinkError> {
    let path = format!("/proc/sys/{name}");
    match std::fs::write(&path, value) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(system(format!("write {value} to {path}"))(error)),
        _ => Ok(()),
    }
}

fn there_already(result: Result<(), rtnetlink::Error>) -> Result<(), rtnetlink::Error> {
    match result {
        Err(error) if is(&error, Errno::EXIST) => Ok(()),
        other => other,
    }
}

fn is(error: &rtnetlink::Error, errno: Errno) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message)
        if message.code.is_some_and(|code| code.get() == -errno.raw_os_error()))
}

fn name_of(link: &LinkMessage) -> Option<&str> {
    link.attributes
        .iter()
        .find_map(|attribute| if let LinkAttribute::IfName(name) = attribute { Some(name.as_str()) } else { None })
}

fn destination(route: &RouteMessage) -> Option<IpNet> {
    // Local and broadcast entries repeat what the main table's say.
    if route.header.table != RT_TABLE_MAIN {
        return None;
    }
    let address = route.attributes.iter().find_map(|attribute| {
        if let RouteAttribute::Destination(RouteAddress::Inet(address)) = attribute {
            Some(IpAddr::V4(*address))
        } else if let RouteAttribute::Destination(RouteAddress::Inet6(address)) = attribute {
            Some(IpAddr::V6(*address))
        } else {
            None
        }
    });
    IpNet::new(address?, route.header.destination_prefix_length).ok()
}

/// linux/rtnetlink.h
const RT_TABLE_MAIN: u8 = 254;
