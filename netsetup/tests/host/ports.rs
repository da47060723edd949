//! Host ports (rules PO2, PO3) and what pods can't reach on the host (D24).

use std::net::{IpAddr, SocketAddr};

use netsetup::{Config, HostPort, Network, NetworkError, Protocol};

use crate::lab::{
    HOST_ADDRESS, HOST_ADDRESS_V6, Lab, Namespace, OUTSIDE_ADDRESS, OUTSIDE_ADDRESS_V6, id, tcp, udp_arrives,
};

fn port(host_ip: Option<&str>, host_port: u16) -> HostPort {
    HostPort { protocol: Protocol::Tcp, host_ip: host_ip.map(|ip| ip.parse().unwrap()), host_port, container_port: 80 }
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

/// PO2, P34 "source IP kept"
#[test]
fn a_host_port_is_reached_from_everywhere() {
    let lab = Lab::new();
    let network = lab.open();
    let (pod, other) = (Namespace::new(), Namespace::new());
    let attachment = lab.on_host(network.attach(&id("one"), &pod, &[port(None, 8080)])).unwrap();
    lab.on_host(network.attach(&id("two"), &other, &[])).unwrap();
    let gateway: IpAddr = attachment.gateways[0];
    let seen = |address: &str| Some(address.parse().unwrap());
    assert_eq!(tcp(&lab.outside, at(HOST_ADDRESS, 8080), &pod, 80), seen(OUTSIDE_ADDRESS));
    assert_eq!(tcp(&lab.outside, at(HOST_ADDRESS_V6, 8080), &pod, 80), seen(OUTSIDE_ADDRESS_V6));
    assert_eq!(tcp(&lab.host, at(HOST_ADDRESS, 8080), &pod, 80), seen(HOST_ADDRESS));
    assert_eq!(tcp(&lab.host, at("127.0.0.1", 8080), &pod, 80), Some(gateway));
    assert_eq!(tcp(&other, at(HOST_ADDRESS, 8080), &pod, 80), Some(gateway));
    assert_eq!(tcp(&pod, at(HOST_ADDRESS, 8080), &pod, 80), Some(gateway));
    assert_eq!(tcp(&other, at(HOST_ADDRESS_V6, 8080), &pod, 80), Some(attachment.gateways[1]));
    lab.on_host(network.detach(&id("one"))).unwrap();
    assert_eq!(tcp(&lab.outside, at(HOST_ADDRESS, 8080), &pod, 80), None);
}

/// PO2: `hostIP`
#[test]
fn a_host_port_on_one_address_is_reached_there_alone() {
    let lab = Lab::new();
    let network = lab.open();
    let pod = Namespace::new();
    let ports = [port(Some("127.0.0.1"), 8080), port(Some(HOST_ADDRESS), 8081), port(Some("::"), 8082)];
    lab.on_host(network.attach(&id("one"), &pod, &ports)).unwrap();
    for (from, to, reached) in [
        (&lab.host, at("127.0.0.1", 8080), true),
        (&lab.host, at(HOST_ADDRESS, 8080), false),
        (&lab.outside, at(HOST_ADDRESS, 8080), false),
        (&lab.outside, at(HOST_ADDRESS, 8081), true),
        (&lab.host, at("127.0.0.1", 8081), false),
        (&lab.outside, at(HOST_ADDRESS_V6, 8082), true),
        (&lab.outside, at(HOST_ADDRESS, 8082), false),
    ] {
        assert_eq!(tcp(from, to, &pod, 80).is_some(), reached, "{to}");
    }
}

/// P34: "hostPort for a non-local dst"
#[test]
fn traffic_through_the_host_keeps_its_destination() {
    let lab = Lab::new();
    let network = lab.open();
    let (pod, client) = (Namespace::new(), Namespace::new());
    lab.on_host(network.attach(&id("one"), &pod, &[port(None, 8080)])).unwrap();
    lab.on_host(network.attach(&id("two"), &client, &[])).unwrap();
    assert_eq!(tcp(&client, at(OUTSIDE_ADDRESS, 8080), &lab.outside, 8080), Some(HOST_ADDRESS.parse().unwrap()));
}

/// D24
#[test]
fn pods_reach_neither_the_hosts_loopback_nor_closed_ports() {
    let lab = Lab::new();
    let config = Config { closed_ports: vec![(Protocol::Udp, 6443)], ..lab.config() };
    let network = lab.on_host(Network::open(config)).unwrap();
    let pod = Namespace::new();
    let attachment = lab.on_host(network.attach(&id("one"), &pod, &[port(None, 8080)])).unwrap();
    let own = attachment.addresses[0].to_string();
    let gateway = attachment.gateways[0].to_string();
    assert_eq!(lab.host.run("cat /proc/sys/net/ipv4/conf/monopod/route_localnet"), "1\n");
    // A hostile pod: root with every capability in its own namespace.
    pod.run(&format!("ip addr del 127.0.0.1/8 dev lo; ip route add 127.0.0.1/32 via {gateway} dev eth0; sysctl -qw net.ipv4.conf.all.route_localnet=1"));
    pod.run("ip route del table local 127.0.0.0/8 dev lo || true");
    assert!(!udp_arrives(&pod, &own, at("127.0.0.1", 7000), &lab.host));
    // Without the rule it would arrive.
    lab.host.run("nft flush chain inet monopod guard");
    assert!(udp_arrives(&pod, &own, at("127.0.0.1", 7000), &lab.host));
    lab.on_host(network.repair()).unwrap();
    assert!(!udp_arrives(&pod, &own, at("127.0.0.1", 7000), &lab.host));
    assert!(udp_arrives(&pod, &own, at(&gateway, 7000), &lab.host));
    assert!(!udp_arrives(&pod, &own, at(&gateway, 6443), &lab.host));
    assert!(!udp_arrives(&pod, &own, at(HOST_ADDRESS, 6443), &lab.host));
    lab.on_host(network.detach(&id("one"))).unwrap();
    assert_eq!(lab.host.run("cat /proc/sys/net/ipv4/conf/monopod/route_localnet"), "0\n");
}

/// D24: the API's own address for pods. Its port there is nobody else's business: a pod may have it as a host port.
#[test]
fn pods_reach_a_service_of_the_host_at_its_address_alone() {
    let lab = Lab::new();
    let service = netsetup::Service { address: [10, 43, 0, 1].into(), port: 443, listens_at: 6443 };
    let config = Config { closed_ports: vec![(Protocol::Tcp, 6443)], service: Some(service), ..lab.config() };
    let network = lab.on_host(Network::open(config)).unwrap();
    let (pod, other) = (Namespace::new(), Namespace::new());
    let attachment = lab.on_host(network.attach(&id("one"), &pod, &[])).unwrap();
    let gateway = attachment.gateways[0].to_string();
    let own = Some(attachment.addresses[0]);
    let with_port = port(None, 443);
    lab.on_host(network.attach(&id("two"), &other, &[with_port])).unwrap();
    assert_eq!(tcp(&pod, at("10.43.0.1", 443), &lab.host, 6443), own);
    assert_eq!(tcp(&lab.host, at("10.43.0.1", 443), &lab.host, 6443), Some([10, 43, 0, 1].into()));
    assert_eq!(tcp(&pod, at(&gateway, 6443), &lab.host, 6443), None);
    assert!(tcp(&lab.outside, at(HOST_ADDRESS, 443), &other, 80).is_some());
    // A firewall that was reloaded, a daemon that comes back.
    lab.on_host(network.repair()).unwrap();
    assert_eq!(tcp(&pod, at("10.43.0.1", 443), &lab.host, 6443), own);
}

/// PO3
#[test]
fn a_taken_host_port_names_its_owner() {
    let lab = Lab::new();
    let network = lab.open();
    let (one, two) = (Namespace::new(), Namespace::new());
    lab.on_host(network.attach(&id("one"), &one, &[port(None, 8080)])).unwrap();
    let before = lab.host.snapshot();
    let error = lab.on_host(network.attach(&id("two"), &two, &[port(Some(HOST_ADDRESS), 8080)])).unwrap_err();
    assert!(matches!(error, NetworkError::PortTaken { .. }));
    assert_eq!(error.to_string(), format!("host port TCP/{HOST_ADDRESS}:8080: taken by pod one"));
    assert_eq!(lab.host.snapshot(), before);
    lab.on_host(network.detach(&id("one"))).unwrap();
    lab.on_host(network.attach(&id("two"), &two, &[port(Some(HOST_ADDRESS), 8080)])).unwrap();
}
