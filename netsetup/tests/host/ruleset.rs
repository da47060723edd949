//! Our rules as `nft` reads them back.

use expect_test::expect;
use netsetup::ipam::Ranges;
use netsetup::{Config, HostPort, Network, Protocol, RangeChoice};

use crate::lab::{Lab, Namespace, id};

#[test]
fn the_ruleset_reads_as_written_down_here() {
    let lab = Lab::new();
    let ranges = Ranges::new("10.9.0.0/16".parse().unwrap(), Some("fd01::/64".parse().unwrap())).unwrap();
    let config =
        Config { ranges: RangeChoice::Given(ranges), closed_ports: vec![(Protocol::Tcp, 6443)], ..lab.config() };
    let network = lab.on_host(Network::open(config)).unwrap();
    let pod = Namespace::new();
    let port = |host_ip: Option<&str>, host_port| HostPort {
        protocol: Protocol::Tcp,
        host_ip: host_ip.map(|ip| ip.parse().unwrap()),
        host_port,
        container_port: 80,
    };
    let ports = [port(None, 8080), port(Some("192.0.2.1"), 8081), port(Some("2001:db8::1"), 8082)];
    lab.on_host(network.attach(&id("pod-1"), &pod, &ports)).unwrap();
    expect![[r#"
        table inet monopod {
        	set closed {
        		type inet_proto . inet_service
        		elements = { tcp . 6443 }
        	}

        	map ports4 {
        		type inet_proto . inet_service : ipv4_addr . inet_service
        		elements = { tcp . 8080 : 10.9.0.2 . 80 }
        	}

        	map ports6 {
        		type inet_proto . inet_service : ipv6_addr . inet_service
        		elements = { tcp . 8080 : fd01::2 . 80 }
        	}

        	map ports4on {
        		type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service
        		elements = { 192.0.2.1 . tcp . 8081 : 10.9.0.2 . 80 }
        	}

        	map ports6on {
        		type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service
        		elements = { 2001:db8::1 . tcp . 8082 : fd01::2 . 80 }
        	}

        	chain hostports {
        		fib daddr type != local return
        		dnat ip to ip daddr . meta l4proto . th dport map @ports4on
        		meta nfproto ipv4 dnat ip to meta l4proto . th dport map @ports4
        		dnat ip6 to ip6 daddr . meta l4proto . th dport map @ports6on
        		meta nfproto ipv6 dnat ip6 to meta l4proto . th dport map @ports6
        	}

        	chain guard {
        		type filter hook prerouting priority raw; policy accept;
        		iifname "monopod" ip daddr 127.0.0.0/8 drop
        	}

        	chain prerouting {
        		type nat hook prerouting priority dstnat; policy accept;
        		jump hostports
        	}

        	chain input {
        		type filter hook input priority filter; policy accept;
        		iifname "monopod" meta l4proto . th dport @closed drop
        	}

        	chain output {
        		type nat hook output priority -100; policy accept;
        		jump hostports
        	}

        	chain postrouting {
        		type nat hook postrouting priority srcnat; policy accept;
        		oifname != "monopod" ip saddr 10.9.0.0/16 masquerade
        		oifname "monopod" ip saddr 10.9.0.0/16 ct status dnat masquerade
        		oifname "monopod" ip saddr 127.0.0.0/8 ct status dnat masquerade
        		oifname != "monopod" ip6 saddr fd01::/64 masquerade
        		oifname "monopod" ip6 saddr fd01::/64 ct status dnat masquerade
        	}
        }
        table bridge monopod {
        	set sources4 {
        		type ifname . ether_addr . ipv4_addr
        		elements = { "mpod3rrrs4tnopm" . 02:6d:0a:09:00:02 . 10.9.0.2 }
        	}

        	set sources6 {
        		type ifname . ether_addr . ipv6_addr
        		elements = { "mpod3rrrs4tnopm" . 02:6d:0a:09:00:02 . fd01::2,
        			     "mpod3rrrs4tnopm" . 02:6d:0a:09:00:02 . fe80::6d:aff:fe09:2 }
        	}

        	chain spoof {
        		type filter hook prerouting priority dstnat; policy accept;
        		iifname != "mpod3r*" accept
        		iifname . ether saddr . ip saddr @sources4 accept
        		arp htype 1 arp ptype ip arp hlen 6 arp plen 4 iifname . ether saddr . arp saddr ip @sources4 iifname . arp saddr ether . arp saddr ip @sources4 accept
        		icmpv6 type nd-router-advert drop
        		icmpv6 type nd-redirect drop
        		icmpv6 type nd-neighbor-advert iifname . ether saddr . @th,64,128 != @sources6 drop
        		iifname . ether saddr . ip6 saddr @sources6 accept
        		drop
        	}
        }
    "#]].assert_eq(&lab.host.rules());
}
