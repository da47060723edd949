//! Which address a pod gets.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// The pods' ranges of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnets {
    pub v4: Ipv4Net,
    pub v6: Ipv6Net,
}

/// Tried in this order; private (RFC 1918) and shared (RFC 6598) ranges that home and cloud networks rarely use.
const V4_CANDIDATES: [Ipv4Net; 6] = [
    Ipv4Net::new_assert(Ipv4Addr::new(10, 88, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(10, 211, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(172, 29, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(10, 177, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(100, 95, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 231, 0), 24),
];

/// Unique local ranges (RFC 4193) with a fixed random global id.
const V6_CANDIDATES: [Ipv6Net; 2] = [
    Ipv6Net::new_assert(Ipv6Addr::new(0xfd6d, 0x6f6e, 0x6f70, 0, 0, 0, 0, 0), 64),
    Ipv6Net::new_assert(Ipv6Addr::new(0xfd6d, 0x6f6e, 0x6f70, 1, 0, 0, 0, 0), 64),
];

/// The first candidates that overlap no route of the host; the default route covers everything and does not count.
pub fn choose(routes: &[IpNet]) -> Option<Subnets> {
    let free = |candidate: IpNet| {
        let mut narrow = routes.iter().filter(|route| route.prefix_len() > 0);
        !narrow.any(|route| route.contains(&candidate.network()) || candidate.contains(&route.network()))
    };
    Some(Subnets {
        v4: V4_CANDIDATES.into_iter().find(|net| free(IpNet::V4(*net)))?,
        v6: V6_CANDIDATES.into_iter().find(|net| free(IpNet::V6(*net)))?,
    })
}

/// The bridge's own addresses: the first of each range.
pub fn gateways(subnets: &Subnets) -> (Ipv4Addr, Ipv6Addr) {
    (v4_at(subnets.v4, 1), v6_at(subnets.v6, 1))
}

/// The next free pair after `last`, going round: an address comes back as late as possible. IPv6 addresses carry the same
/// number as their IPv4 partner. None when all are taken.
pub fn next(subnets: &Subnets, last: u32, taken: &BTreeSet<IpAddr>) -> Option<(u32, Ipv4Addr, Ipv6Addr)> {
    // Without network, gateway and broadcast.
    let count = (1u64 << (32 - subnets.v4.prefix_len())).checked_sub(3)?;
    let start = u64::from(last);
    (0..count).find_map(|step| {
        let number = 2 + u32::try_from((start.saturating_sub(1) + step) % count).ok()?;
        let (v4, v6) = (v4_at(subnets.v4, number), v6_at(subnets.v6, number));
        (!taken.contains(&IpAddr::V4(v4)) && !taken.contains(&IpAddr::V6(v6))).then_some((number, v4, v6))
    })
}

fn v4_at(net: Ipv4Net, number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(net.network()).wrapping_add(number))
}

fn v6_at(net: Ipv6Net, number: u32) -> Ipv6Addr {
    Ipv6Addr::from(u128::from(net.network()).wrapping_add(u128::from(number)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Subnets {
        Subnets { v4: "10.0.0.0/29".parse().unwrap(), v6: "fd00::/64".parse().unwrap() }
    }

    #[test]
    fn the_range_overlaps_no_route_but_the_default_one() {
        let routes = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpNet>>();
        for (taken, expected) in [
            (routes(&["0.0.0.0/0", "::/0"]), Some("10.88.0.0/16")),
            (routes(&["10.88.3.0/24"]), Some("10.211.0.0/16")),
            (routes(&["10.0.0.0/8"]), Some("172.29.0.0/16")),
            (routes(&["10.0.0.0/8", "172.16.0.0/12", "100.64.0.0/10"]), Some("192.168.231.0/24")),
            (routes(&["10.0.0.0/8", "172.16.0.0/12", "100.64.0.0/10", "192.168.0.0/16"]), None),
        ] {
            assert_eq!(choose(&taken).map(|subnets| subnets.v4.to_string()).as_deref(), expected, "{taken:?}");
        }
    }

    #[test]
    fn addresses_go_round_and_skip_what_is_taken() {
        let mut taken = BTreeSet::new();
        let mut last = 0;
        let mut given = Vec::new();
        for _ in 0..5 {
            let (number, v4, v6) = next(&small(), last, &taken).unwrap();
            taken.extend([IpAddr::V4(v4), IpAddr::V6(v6)]);
            given.push(v4.to_string());
            last = number;
        }
        assert_eq!(given, ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]);
        assert_eq!(next(&small(), last, &taken), None);
        taken.remove(&"10.0.0.3".parse::<IpAddr>().unwrap());
        taken.remove(&"fd00::3".parse::<IpAddr>().unwrap());
        assert_eq!(next(&small(), last, &taken).unwrap().1, Ipv4Addr::new(10, 0, 0, 3));
    }

    #[test]
    fn a_released_address_is_not_the_next_one() {
        let (number, ..) = next(&small(), 0, &BTreeSet::new()).unwrap();
        let (_, v4, _) = next(&small(), number, &BTreeSet::new()).unwrap();
        assert_eq!(v4, Ipv4Addr::new(10, 0, 0, 3));
    }

    #[test]
    fn the_gateway_is_the_first_address() {
        let (v4, v6) = gateways(&small());
        assert_eq!((v4.to_string(), v6.to_string()), ("10.0.0.1".into(), "fd00::1".into()));
    }
}
