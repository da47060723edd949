//! What a crash leaves, and that a sweep removes it and nothing else (D43, P34).

use std::net::SocketAddr;

use netsetup::{HostPort, Protocol, Teardown};

use crate::lab::{Lab, Namespace, OUTSIDE_ADDRESS, PATIENCE, id, tcp};

const FOREIGN: &str = "nft add table inet other; nft add chain inet other c '{ type filter hook input priority 5; }'; nft add rule inet other c tcp dport 1 drop; \
    nft add table bridge other; ip link add foreign type bridge; ip addr add 10.187.0.1/24 dev foreign; ip link set foreign up; \
    ip link add mpodzzzzzzzzzzz type veth peer name mpodyyyyyyyyyyy; ip link set mpodzzzzzzzzzzz master foreign";

#[test]
fn a_sweep_removes_what_is_ours_and_not_live() {
    let lab = Lab::new();
    lab.host.run(FOREIGN);
    let foreign = lab.host.snapshot();
    let network = lab.open();
    // The foreign bridge has the first candidate.
    let (live, dead, gone) = (Namespace::new(), Namespace::new(), Namespace::new());
    let kept = lab.on_host(network.attach(&id("live"), &live, &[])).unwrap();
    assert!(!kept.addresses[0].to_string().starts_with("10.187."), "{kept:?}");
    let port = HostPort { protocol: Protocol::Tcp, host_ip: None, host_port: 8080, container_port: 80 };
    let before = lab.host.snapshot();
    lab.on_host(network.attach(&id("dead"), &dead, &[port])).unwrap();
    lab.on_host(network.attach(&id("gone"), &gone, &[])).unwrap();
    drop(gone);
    // A record that was lost, a record without anything, and a damaged one.
    let pods = lab.state.path().join("pods");
    std::fs::remove_file(pods.join("gone.json")).unwrap();
    std::fs::write(pods.join("damaged.json"), "{").unwrap();
    drop(network);

    let network = lab.open();
    let swept = lab.on_host(network.sweep(|| vec![id("live")])).unwrap();
    assert_eq!(swept.leases, [id("dead")]);
    assert_eq!(dead.links(), ["lo"]);
    assert_eq!(lab.host.snapshot(), before);
    assert!(tcp(&live, SocketAddr::new(OUTSIDE_ADDRESS.parse().unwrap(), 7000), &lab.outside, 7000).is_some());
    assert_eq!(lab.on_host(network.teardown()).unwrap(), Teardown::InUse(1));
    assert_eq!(lab.host.snapshot(), before);
    lab.on_host(network.sweep(Vec::new)).unwrap();
    assert_eq!(lab.on_host(network.teardown()).unwrap(), Teardown::Removed);
    assert_eq!(lab.host.snapshot(), foreign);
}

/// A bridge of the kernel takes 1024 ports; all their rules go in one transaction.
#[test]
fn the_rules_of_a_full_bridge_are_loaded_at_once() {
    const PORTS: u32 = 1024;
    let lab = Lab::new();
    let network = lab.open();
    let pod = Namespace::new();
    let port = HostPort { protocol: Protocol::Udp, host_ip: None, host_port: 1, container_port: 80 };
    lab.on_host(network.attach(&id("one"), &pod, &[port])).unwrap();
    let pods = lab.state.path().join("pods");
    let record = std::fs::read_to_string(pods.join("one.json")).unwrap();
    for number in 3..PORTS + 2 {
        let record = record
            .replace("\"one\"", &format!("\"pod-{number}\""))
            .replace("\"number\":2", &format!("\"number\":{number}"))
            .replace("\"hostPort\":1,", &format!("\"hostPort\":{number},"));
        std::fs::write(pods.join(format!("pod-{number}.json")), record).unwrap();
    }
    let network = lab.open();
    assert_eq!(lab.on_host(network.leases()).unwrap().len(), PORTS as usize);
    for (set, elements) in
        [("bridge monopod sources4", 1024), ("bridge monopod sources6", 2048), ("inet monopod ports6", 1024)]
    {
        let kind = if set.contains("ports") { "map" } else { "set" };
        let text = lab.host.run(&format!("nft -j list {kind} {set}"));
        let found: serde_json::Value = serde_json::from_str(&text).unwrap();
        let list = found["nftables"][1][kind]["elem"].as_array().unwrap();
        assert_eq!(list.len(), elements, "{set}");
    }
    lab.on_host(network.detach(&id("pod-1000"))).unwrap();
    assert!(!lab.host.rules().contains("udp . 1000 "));
}

#[test]
fn two_processes_at_once_give_different_addresses() {
    const EACH: usize = 8;
    let lab = Lab::new();
    let pods: Vec<Namespace> = (0..2 * EACH).map(|_| Namespace::new()).collect();
    let networks = [lab.open(), lab.open()];
    let addresses = std::sync::Mutex::new(std::collections::BTreeSet::new());
    std::thread::scope(|scope| {
        for (index, pod) in pods.iter().enumerate() {
            let (network, lab, addresses) = (&networks[index % 2], &lab, &addresses);
            scope.spawn(move || {
                let attachment = lab.on_host(network.attach(&id(&format!("pod-{index}")), pod, &[])).unwrap();
                assert!(addresses.lock().unwrap().insert(attachment.addresses));
            });
        }
    });
    assert_eq!(addresses.lock().unwrap().len(), 2 * EACH);
    let swept = lab.on_host(networks[0].sweep(Vec::new)).unwrap();
    assert_eq!((swept.leases.len(), swept.links.len()), (2 * EACH, 2 * EACH));
    assert_eq!(lab.on_host(networks[1].leases()).unwrap(), []);
}

/// D24: "rebuilt after a firewall reload"
#[test]
fn a_flushed_firewall_is_mended() {
    let lab = Lab::new();
    let network = lab.open();
    let (one, two) = (Namespace::new(), Namespace::new());
    lab.on_host(network.attach(&id("one"), &one, &[])).unwrap();
    let before = lab.host.rules();
    lab.host.run("nft flush ruleset");
    lab.on_host(network.repair()).unwrap();
    assert_eq!(lab.host.rules(), before);
    // An attach finds it out by itself, also when the bridge is gone.
    lab.host.run("nft flush ruleset; ip link del monopod");
    lab.on_host(network.attach(&id("two"), &two, &[])).unwrap();
    lab.on_host(network.detach(&id("two"))).unwrap();
    assert_eq!(lab.host.rules(), before);
}

#[test]
fn a_cut_short_attach_is_finished_by_the_next() {
    let lab = Lab::new();
    let network = lab.open();
    let pod = Namespace::new();
    let first = lab.on_host(network.attach(&id("one"), &pod, &[])).unwrap();
    let inside = pod.snapshot();
    pod.run("ip addr flush dev eth0; ip link set lo down");
    let again = lab.open();
    assert_eq!(lab.on_host(again.attach(&id("one"), &pod, &[])).unwrap(), first);
    assert!(tcp(&pod, SocketAddr::new(OUTSIDE_ADDRESS.parse().unwrap(), 7000), &lab.outside, 7000).is_some());
    drop(inside);
}

#[test]
fn detach_is_idempotent_and_the_link_goes_with_the_namespace() {
    let lab = Lab::new();
    let network = lab.open();
    let before = lab.host.rules();
    let pod = Namespace::new();
    let attachment = lab.on_host(network.attach(&id("one"), &pod, &[])).unwrap();
    lab.on_host(network.detach(&id("one"))).unwrap();
    lab.on_host(network.detach(&id("one"))).unwrap();
    lab.on_host(network.detach(&id("never"))).unwrap();
    assert_eq!(lab.host.rules(), before);
    assert!(lab.host.links().contains(&attachment.host_link));
    let name = attachment.host_link.clone();
    lab.host.inside(|| {
        let deleted = LinkEvents::listen();
        drop(pod);
        deleted.wait_for_deletion_of(&name);
    });
    assert!(!lab.host.links().contains(&name));
}

/// The kernel's notices about links.
struct LinkEvents(std::os::fd::OwnedFd);

impl LinkEvents {
    fn listen() -> Self {
        use rustix::net::{AddressFamily, SocketType, netlink};
        // No protocol is NETLINK_ROUTE.
        let socket = rustix::net::socket(AddressFamily::NETLINK, SocketType::RAW, None).unwrap();
        // RTNLGRP_LINK is the first group.
        rustix::net::bind(&socket, &netlink::SocketAddrNetlink::new(0, 1)).unwrap();
        rustix::net::sockopt::set_socket_timeout(&socket, rustix::net::sockopt::Timeout::Recv, Some(PATIENCE)).unwrap();
        Self(socket)
    }

    fn wait_for_deletion_of(&self, name: &str) {
        const RTM_DELLINK: [u8; 2] = 17_u16.to_ne_bytes();
        let mut bytes = [0; 16384];
        loop {
            let (length, _) = rustix::net::recv(&self.0, &mut bytes[..], rustix::net::RecvFlags::empty())
                .expect("the link must go in time");
            let message = &bytes[..length];
            if message[4..6] == RTM_DELLINK && message.windows(name.len()).any(|part| part == name.as_bytes()) {
                return;
            }
        }
    }
}
