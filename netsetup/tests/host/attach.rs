//! Connecting pods, and what they can and can't do then.

use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::time::Instant;

use netsetup::{NetworkError, RangeChoice, Teardown};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::lab::{
    HOST_ADDRESS, HOST_ADDRESS_V6, Lab, Namespace, OUTSIDE_ADDRESS, OUTSIDE_ADDRESS_V6, PATIENCE, id, tcp, udp_arrives,
};

#[test]
fn two_pods_reach_each_other_and_the_host() {
    let lab = Lab::new();
    let network = lab.open();
    let (one, two) = (Namespace::new(), Namespace::new());
    let first = lab.on_host(network.attach(&id("one"), &one, &[])).unwrap();
    let second = lab.on_host(network.attach(&id("two"), &two, &[])).unwrap();
    assert_eq!(first.addresses.len(), 2);
    assert!(first.addresses[0].is_ipv4() && first.addresses[1].is_ipv6());
    for (index, address) in second.addresses.iter().enumerate() {
        let to = SocketAddr::new(*address, 7000);
        assert_eq!(tcp(&one, to, &two, 7000), Some(first.addresses[index]), "{to}");
        assert_eq!(tcp(&lab.host, to, &two, 7000), Some(first.gateways[index]), "{to}");
        let gateway = SocketAddr::new(first.gateways[index], 7001);
        assert_eq!(tcp(&one, gateway, &lab.host, 7001), Some(first.addresses[index]), "{gateway}");
    }
    let own = SocketAddr::new("127.0.0.1".parse().unwrap(), 7002);
    assert_eq!(tcp(&one, own, &one, 7002), Some(own.ip()));
}

/// The thread that makes the calls goes home after each.
#[test]
fn a_namespace_that_was_made_for_a_pod_is_kept_by_nobody() {
    let lab = Lab::new();
    let network = lab.open();
    let pod = Namespace::new();
    let netns = pod.as_fd().try_clone_to_owned().unwrap();
    let make = move || {
        move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(netns)
    };
    let link = lab.on_host(network.attach_new(&id("one"), &[], make)).unwrap().host_link;
    assert!(lab.host.links().contains(&link));
    drop(pod);
    let deadline = Instant::now() + PATIENCE;
    while lab.host.links().contains(&link) {
        assert!(Instant::now() < deadline, "{link} is still there");
    }
}

#[test]
fn outside_sees_the_hosts_address() {
    let lab = Lab::new();
    let network = lab.open();
    let pod = Namespace::new();
    lab.on_host(network.attach(&id("one"), &pod, &[])).unwrap();
    for (to, seen) in [(OUTSIDE_ADDRESS, HOST_ADDRESS), (OUTSIDE_ADDRESS_V6, HOST_ADDRESS_V6)] {
        let to = SocketAddr::new(to.parse().unwrap(), 7000);
        assert_eq!(tcp(&pod, to, &lab.outside, 7000), Some(seen.parse().unwrap()));
    }
}

/// D24
#[test]
fn the_pods_settings_are_closed() {
    let lab = Lab::new();
    lab.host.run("sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.route_localnet=1");
    let network = lab.open();
    let pod = Namespace::new();
    lab.on_host(network.attach(&id("one"), &pod, &[])).unwrap();
    let values = pod.run(
        "cd /proc/sys/net; cat ipv4/ip_forward ipv4/conf/all/route_localnet ipv4/conf/eth0/route_localnet \
         ipv4/conf/eth0/forwarding ipv6/conf/eth0/forwarding ipv6/conf/eth0/accept_ra",
    );
    assert_eq!(values, "0\n0\n0\n0\n0\n0\n");
    assert_eq!(lab.host.run("cat /proc/sys/net/ipv6/conf/monopod/accept_ra"), "0\n");
    // D24: no IPv6 on the link of a pod without an IPv6 address.
    let lab = Lab::new();
    let config = netsetup::Config { ipv6: false, ..lab.config() };
    let network = lab.on_host(netsetup::Network::open(config)).unwrap();
    let pod = Namespace::new();
    let attachment = lab.on_host(network.attach(&id("one"), &pod, &[])).unwrap();
    assert_eq!(attachment.addresses.len(), 1);
    assert_eq!(pod.run("ip -6 addr show dev eth0"), "");
}

/// D24, P34
#[test]
fn a_spoofed_source_is_dropped() {
    let lab = Lab::new();
    let network = lab.open();
    let (one, two) = (Namespace::new(), Namespace::new());
    let first = lab.on_host(network.attach(&id("one"), &one, &[])).unwrap();
    let second = lab.on_host(network.attach(&id("two"), &two, &[])).unwrap();
    let (own, stolen) = (first.addresses[0].to_string(), "10.187.99.99");
    one.run(&format!("ip addr add {stolen}/32 dev lo; ip -6 addr add 2001:db8:5::5/128 dev lo"));
    let to = SocketAddr::new(second.addresses[0], 7000);
    let to_v6 = SocketAddr::new(second.addresses[1], 7000);
    assert!(udp_arrives(&one, &own, to, &two));
    assert!(!udp_arrives(&one, stolen, to, &two));
    assert!(udp_arrives(&one, &first.addresses[1].to_string(), to_v6, &two));
    assert!(!udp_arrives(&one, "2001:db8:5::5", to_v6, &two));
    // A stolen hardware address: the frame has the pod's own source, but another sender.
    let neighbour = format!("ip neigh replace {} lladdr {} dev eth0 nud permanent", second.addresses[0], second.mac);
    one.run(&neighbour);
    one.run("ip link set eth0 address 02:6d:00:00:00:99");
    one.run(&neighbour);
    assert!(!udp_arrives(&one, &own, to, &two));
    one.run(&format!("ip link set eth0 address {}", first.mac));
    one.run(&neighbour);
    assert!(udp_arrives(&one, &own, to, &two));
}

#[test]
fn a_second_attach_changes_nothing() {
    let lab = Lab::new();
    let network = lab.open();
    let pod = Namespace::new();
    let first = lab.on_host(network.attach(&id("one"), &pod, &[])).unwrap();
    let (host, inside) = (lab.host.snapshot(), pod.snapshot());
    assert_eq!(lab.on_host(network.attach(&id("one"), &pod, &[])).unwrap(), first);
    assert_eq!((lab.host.snapshot(), pod.snapshot()), (host, inside));
    // A new namespace under the old id: the address stays, the old link goes.
    let other = Namespace::new();
    assert_eq!(lab.on_host(network.attach(&id("one"), &other, &[])).unwrap(), first);
    assert_eq!(pod.links(), ["lo"]);
    assert!(tcp(&lab.host, SocketAddr::new(first.addresses[0], 7000), &other, 7000).is_some());
}

#[test]
fn the_hosts_own_namespace_is_refused() {
    let lab = Lab::new();
    let network = lab.open();
    let before = lab.host.snapshot();
    let error = lab.on_host(network.attach(&id("one"), &lab.host, &[])).unwrap_err();
    assert!(matches!(error, NetworkError::HostNamespace { .. }), "{error}");
    assert_eq!(lab.host.snapshot(), before);
}

#[test]
fn a_failed_attach_leaves_nothing() {
    let lab = Lab::new();
    let network = lab.open();
    let before = lab.host.snapshot();
    let pod = Namespace::new();
    pod.run("ip link add eth0 type bridge");
    let error = lab.on_host(network.attach(&id("one"), &pod, &[])).unwrap_err();
    assert!(error.to_string().contains("RTM_NEWLINK(mpod"), "{error}");
    assert_eq!(lab.on_host(network.leases()).unwrap(), []);
    assert_eq!(lab.host.snapshot(), before);
}

#[test]
fn ranges_that_overlap_a_route_and_foreign_bridges_are_refused() {
    let lab = Lab::new();
    let before = lab.host.snapshot();
    let ranges = netsetup::ipam::Ranges::new("192.0.2.128/25".parse().unwrap(), None).unwrap();
    let config = netsetup::Config { ranges: RangeChoice::Given(ranges), ..lab.config() };
    let error = lab.on_host(netsetup::Network::open(config)).unwrap_err();
    assert_eq!(error.to_string(), "range 192.0.2.128/25: overlaps the route to 192.0.2.0/24");
    assert_eq!(lab.host.snapshot(), before);
    lab.host.run("ip link add monopod type bridge");
    let before = lab.host.snapshot();
    let error = lab.on_host(netsetup::Network::open(lab.config())).unwrap_err();
    assert!(matches!(error, NetworkError::BridgeTaken(_)), "{error}");
    assert_eq!(lab.host.snapshot(), before);
}

#[test]
fn a_dry_run_changes_nothing_and_tells_the_truth() {
    let lab = Lab::new();
    let network = lab.open();
    let before = lab.host.snapshot();
    let plan = lab.on_host(network.plan(&id("one"), &[])).unwrap();
    let plan: String = plan.iter().map(|step| format!("{step}\n")).collect();
    assert_eq!(lab.host.snapshot(), before);
    let pod = Namespace::new();
    let attachment = lab.on_host(network.attach(&id("one"), &pod, &[])).unwrap();
    assert!(plan.contains(&format!("address replace {}/16 dev eth0", attachment.addresses[0])), "{plan}");
    assert!(plan.contains(&attachment.host_link), "{plan}");
}

#[test]
fn two_hundred_rounds_leave_nothing() {
    let lab = Lab::new();
    let untouched = lab.host.snapshot();
    let network = lab.open();
    let before = lab.host.snapshot();
    let (mut attaching, mut detaching) = (vec![], vec![]);
    let mut last = None;
    for round in 0..200 {
        let pod = Namespace::new();
        let name = id(&format!("pod-{round}"));
        let (attachment, attach, detach) = lab.on_host(async {
            let start = Instant::now();
            let attachment = network.attach(&name, &pod, &[]).await.unwrap();
            let attach = start.elapsed();
            let start = Instant::now();
            network.detach(&name).await.unwrap();
            (attachment, attach, start.elapsed())
        });
        assert_ne!(last.replace(attachment.addresses.clone()), Some(attachment.addresses));
        attaching.push(attach);
        detaching.push(detach);
    }
    attaching.sort();
    detaching.sort();
    println!("attach: median {:?}, best {:?}; detach: median {:?}", attaching[100], attaching[0], detaching[100]);
    lab.on_host(network.sweep(Vec::new)).unwrap();
    assert_eq!(lab.on_host(network.leases()).unwrap(), []);
    assert_eq!(lab.host.snapshot(), before);
    assert_eq!(std::fs::read_dir(lab.state.path().join("pods")).unwrap().count(), 0);
    assert_eq!(lab.on_host(network.teardown()).unwrap(), Teardown::Removed);
    assert_eq!(lab.host.snapshot(), untouched);
}
