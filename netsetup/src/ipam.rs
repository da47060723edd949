//! Which addresses there are, and which one comes next. Nothing here asks the kernel: routes and leases come as data.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Ranges that are tried in this order when none is given. None of them is the default of a widespread network tool, so
/// what is installed later on the same machine is unlikely to ask for them.
pub const CANDIDATES: [Ipv4Net; 8] = [
    candidate(10, 187, 0, 0, 16),
    candidate(10, 211, 0, 0, 16),
    candidate(10, 233, 128, 0, 17),
    candidate(172, 29, 0, 0, 16),
    candidate(172, 21, 128, 0, 17),
    candidate(192, 168, 208, 0, 20),
    candidate(192, 168, 176, 0, 20),
    candidate(100, 117, 0, 0, 16),
];

/// Smallest IPv4 range: network, gateway, one pod, broadcast.
pub const V4_PREFIX_MAX: u8 = 30;
/// Largest IPv4 range; more pods than a bridge takes.
pub const V4_PREFIX_MIN: u8 = 8;
/// Prefix of an IPv6 range: what every IPv6 stack expects of a link (RFC 4291).
pub const V6_PREFIX: u8 = 64;
/// The host number of the gateway, which is the bridge.
const GATEWAY: u32 = 1;

const fn candidate(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

#[derive(Debug, Error, PartialEq, Eq)]
pub enum IpamError {
    #[error("range {0}: its prefix must be between {V4_PREFIX_MIN} and {V4_PREFIX_MAX}")]
    V4Prefix(Ipv4Net),
    #[error("range {0}: its prefix must be {V6_PREFIX}")]
    V6Prefix(Ipv6Net),
    #[error("range {range}: overlaps the route to {route}")]
    Overlap { range: IpNet, route: IpNet },
    #[error("no default range is free: each of {} candidates overlaps a route of the host; give one in the configuration", CANDIDATES.len())]
    NoCandidate,
    #[error("range {0}: every address is in use")]
    Exhausted(Ipv4Net),
}

/// The n-th address of every range of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HostNumber(pub u32);

/// The ranges of one bridge. IPv4 is always there; a pod's IPv6 address has the same host number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RangesFile", into = "RangesFile")]
pub struct Ranges {
    v4: Ipv4Net,
    v6: Option<Ipv6Net>,
}

/// How [`Ranges`] stand in a file: checked again on reading.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct RangesFile {
    v4: Ipv4Net,
    v6: Option<Ipv6Net>,
}

impl TryFrom<RangesFile> for Ranges {
    type Error = IpamError;

    fn try_from(file: RangesFile) -> Result<Self, IpamError> {
        Self::new(file.v4, file.v6)
    }
}

impl From<Ranges> for RangesFile {
    fn from(ranges: Ranges) -> Self {
        Self { v4: ranges.v4, v6: ranges.v6 }
    }
}

impl Ranges {
    /// # Errors
    /// A prefix outside the limits.
    pub fn new(v4: Ipv4Net, v6: Option<Ipv6Net>) -> Result<Self, IpamError> {
        if !(V4_PREFIX_MIN..=V4_PREFIX_MAX).contains(&v4.prefix_len()) {
            return Err(IpamError::V4Prefix(v4));
        }
        match v6 {
            Some(v6) if v6.prefix_len() != V6_PREFIX => Err(IpamError::V6Prefix(v6)),
            Some(_) | None => Ok(Self { v4: v4.trunc(), v6: v6.map(|net| net.trunc()) }),
        }
    }

    #[must_use]
    pub fn v4(&self) -> Ipv4Net {
        self.v4
    }

    #[must_use]
    pub fn v6(&self) -> Option<Ipv6Net> {
        self.v6
    }

    /// The addresses of the bridge.
    #[must_use]
    pub fn gateways(&self) -> Vec<IpNet> {
        self.addresses(HostNumber(GATEWAY))
    }

    #[must_use]
    pub fn gateway_v4(&self) -> Ipv4Addr {
        self.v4_of(HostNumber(GATEWAY))
    }

    /// The addresses with this number and the length of their range, IPv4 first.
    #[must_use]
    pub fn addresses(&self, number: HostNumber) -> Vec<IpNet> {
        let v4 = Ipv4Net::new(self.v4_of(number), self.v4.prefix_len()).ok().map(IpNet::V4);
        let v6 = self.v6_of(number).and_then(|address| Ipv6Net::new(address, V6_PREFIX).ok()).map(IpNet::V6);
        v4.into_iter().chain(v6).collect()
    }

    #[must_use]
    pub fn v4_of(&self, number: HostNumber) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.v4.network().to_bits() | number.0)
    }

    #[must_use]
    pub fn v6_of(&self, number: HostNumber) -> Option<Ipv6Addr> {
        self.v6.map(|net| Ipv6Addr::from_bits(net.network().to_bits() | u128::from(number.0)))
    }

    /// Whether a pod may have this number: not the network, the gateway or the broadcast address.
    #[must_use]
    pub fn holds(&self, number: HostNumber) -> bool {
        (GATEWAY + 1..=self.last()).contains(&number.0)
    }

    /// How many pods fit.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.last() - GATEWAY
    }

    /// The number before the broadcast address.
    fn last(&self) -> u32 {
        (u32::MAX >> self.v4.prefix_len()) - 1
    }

    /// The next free number after `previous`, all around the range: what was released last is the last to come back,
    /// so that a late packet of the old owner finds nobody.
    ///
    /// # Errors
    /// All are in use.
    pub fn next(&self, used: &BTreeSet<HostNumber>, previous: Option<HostNumber>) -> Result<HostNumber, IpamError> {
        let first = GATEWAY + 1;
        let start = previous.map_or(first, |number| number.0.saturating_add(1)).clamp(first, self.last() + 1);
        self.free(used, start, self.last())
            .or_else(|| self.free(used, first, start - 1))
            .ok_or(IpamError::Exhausted(self.v4))
    }

    /// The first unused number in `from..=to`; costs as much as the run of used ones at `from` is long.
    fn free(&self, used: &BTreeSet<HostNumber>, from: u32, to: u32) -> Option<HostNumber> {
        if from > to {
            return None;
        }
        let mut next = from;
        for taken in used.range(HostNumber(from)..=HostNumber(to)) {
            if taken.0 > next {
                break;
            }
            next = taken.0 + 1;
        }
        (next <= to).then_some(HostNumber(next))
    }

    /// # Errors
    /// The first route that a range overlaps; a default route overlaps nothing.
    pub fn check(&self, routes: &[IpNet]) -> Result<(), IpamError> {
        let own = [Some(IpNet::V4(self.v4)), self.v6.map(IpNet::V6)];
        for range in own.into_iter().flatten() {
            if let Some(route) = routes.iter().find(|route| overlaps(range, **route)) {
                return Err(IpamError::Overlap { range, route: *route });
            }
        }
        Ok(())
    }
}

/// The first candidate that overlaps no route, and a range of unique local addresses made from `seed` (RFC 4193) when
/// the host speaks IPv6.
///
/// # Errors
/// Every candidate overlaps a route.
pub fn choose(routes: &[IpNet], seed: Option<[u8; 5]>) -> Result<Ranges, IpamError> {
    let free = |range: IpNet| !routes.iter().any(|route| overlaps(range, *route));
    let v4 = CANDIDATES.into_iter().find(|net| free(IpNet::V4(*net))).ok_or(IpamError::NoCandidate)?;
    // 40 random bits meet a route of this host about once in 10^12 times; then the pods go without IPv6.
    let v6 = seed.map(unique_local).filter(|net| free(IpNet::V6(*net)));
    Ranges::new(v4, v6)
}

/// `fd` + 40 bits + subnet 0.
fn unique_local(seed: [u8; 5]) -> Ipv6Net {
    let [a, b, c, d, e] = seed;
    let network = Ipv6Addr::from([0xfd, a, b, c, d, e, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    Ipv6Net::new_assert(network, V6_PREFIX)
}

fn overlaps(range: IpNet, route: IpNet) -> bool {
    route.prefix_len() > 0 && (range.contains(&route) || route.contains(&range))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ranges(v4: &str) -> Ranges {
        Ranges::new(v4.parse().unwrap(), Some("fd01:203:405::/64".parse().unwrap())).unwrap()
    }

    fn set(numbers: impl IntoIterator<Item = u32>) -> BTreeSet<HostNumber> {
        numbers.into_iter().map(HostNumber).collect()
    }

    #[test]
    fn addresses_and_gateway_have_these_values() {
        let ranges = ranges("10.9.8.7/16");
        let text: Vec<String> = ranges.gateways().iter().map(ToString::to_string).collect();
        assert_eq!(text, ["10.9.0.1/16", "fd01:203:405::1/64"]);
        let text: Vec<String> = ranges.addresses(HostNumber(0x1ff)).iter().map(ToString::to_string).collect();
        assert_eq!(text, ["10.9.1.255/16", "fd01:203:405::1ff/64"]);
        assert!(!ranges.holds(HostNumber(0)) && !ranges.holds(HostNumber(1)) && !ranges.holds(HostNumber(0xffff)));
        assert!(ranges.holds(HostNumber(2)) && ranges.holds(HostNumber(0xfffe)));
        assert_eq!(ranges.capacity(), 65533);
    }

    #[test]
    fn prefixes_outside_the_limits_are_refused() {
        let net = |text: &str| text.parse::<Ipv4Net>().unwrap();
        assert!(Ranges::new(net("10.0.0.0/30"), None).is_ok() && Ranges::new(net("10.0.0.0/8"), None).is_ok());
        assert!(Ranges::new(net("10.0.0.0/31"), None).is_err() && Ranges::new(net("0.0.0.0/7"), None).is_err());
        assert!(Ranges::new(net("10.0.0.0/24"), Some("fd00::/80".parse().unwrap())).is_err());
        assert!(serde_json::from_str::<Ranges>(r#"{"v4":"10.0.0.0/32","v6":null}"#).is_err());
    }

    #[test]
    fn the_smallest_range_has_one_pod() {
        let ranges = ranges("10.0.0.0/30");
        assert_eq!(ranges.next(&set([]), None), Ok(HostNumber(2)));
        assert_eq!(ranges.next(&set([]), Some(HostNumber(2))), Ok(HostNumber(2)));
        assert_eq!(ranges.next(&set([2]), None), Err(IpamError::Exhausted(ranges.v4())));
    }

    #[test]
    fn a_released_address_is_the_last_to_come_back() {
        let ranges = ranges("10.0.0.0/29");
        let mut previous = None;
        let mut order = vec![];
        for _ in 0..6 {
            let number = ranges.next(&set([4]), previous).unwrap();
            order.push(number.0);
            previous = Some(number);
        }
        assert_eq!(order, [2, 3, 5, 6, 2, 3]);
    }

    #[test]
    fn a_position_from_another_range_is_harmless() {
        assert_eq!(ranges("10.0.0.0/29").next(&set([]), Some(HostNumber(u32::MAX))), Ok(HostNumber(2)));
        assert_eq!(ranges("10.0.0.0/29").next(&set([]), Some(HostNumber(0))), Ok(HostNumber(2)));
    }

    #[test]
    fn the_default_range_avoids_the_hosts_routes() {
        let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpNet>>();
        let table: &[(&[&str], Option<&str>)] = &[
            (&[], Some("10.187.0.0/16")),
            (&["0.0.0.0/0", "::/0"], Some("10.187.0.0/16")),
            (&["10.187.200.0/24"], Some("10.211.0.0/16")),
            (&["10.0.0.0/8"], Some("172.29.0.0/16")),
            (&["10.0.0.0/8", "172.16.0.0/12"], Some("192.168.208.0/20")),
            (&["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"], Some("100.117.0.0/16")),
            (&["0.0.0.0/1", "128.0.0.0/1"], None),
        ];
        for (routes, expected) in table {
            let got = choose(&nets(routes), Some([1, 2, 3, 4, 5])).map(|ranges| ranges.v4().to_string());
            assert_eq!(got.ok().as_deref(), *expected, "{routes:?}");
        }
        assert_eq!(choose(&nets(&["fd01:203::/32"]), Some([1, 2, 3, 4, 5])).unwrap().v6(), None);
        assert_eq!(choose(&[], Some([1, 2, 3, 4, 5])).unwrap().v6().unwrap().to_string(), "fd01:203:405::/64");
    }

    #[test]
    fn a_given_range_that_overlaps_names_the_route() {
        let error = ranges("10.1.0.0/16").check(&["10.1.2.0/24".parse().unwrap()]).unwrap_err();
        assert_eq!(error.to_string(), "range 10.1.0.0/16: overlaps the route to 10.1.2.0/24");
    }

    proptest! {
        #[test]
        fn what_comes_next_is_free_and_there_is_one_while_any_is_free(used in prop::collection::btree_set(0u32..=15, 0..=16), previous in prop::option::of(0u32..20)) {
            let ranges = ranges("10.0.0.0/28");
            let used = set(used);
            match ranges.next(&used, previous.map(HostNumber)) {
                Ok(number) => {
                    prop_assert!(ranges.holds(number));
                    prop_assert!(!used.contains(&number));
                }
                Err(_) => prop_assert!((2..=14).all(|number| used.contains(&HostNumber(number)))),
            }
        }

        #[test]
        fn no_chosen_range_overlaps_a_route(routes in prop::collection::vec((any::<u32>(), 1u8..=32), 0..6)) {
            let routes: Vec<IpNet> = routes.into_iter().map(|(bits, length)| IpNet::V4(Ipv4Net::new(Ipv4Addr::from_bits(bits), length).unwrap())).collect();
            if let Ok(ranges) = choose(&routes, None) {
                prop_assert_eq!(ranges.check(&routes), Ok(()));
            }
        }
    }
}
