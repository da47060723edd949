//! Names of links, deterministic and at most 15 bytes long (`IFNAMSIZ`).

/// The bridge that all pods of a host are connected to.
pub const BRIDGE: &str = "mono0";
/// The pod's end of its veth.
pub const POD_LINK: &str = "eth0";
/// Every host-side link of a pod starts like this.
pub const PREFIX: &str = "mp";
/// Digits of the hash in a link's name: 52 bits.
const DIGITS: usize = 13;

/// The host's end of a pod's veth: `mp` and 52 bits of a hash of the pod's opaque id.
pub fn host_link(pod: &str) -> String {
    format!("{PREFIX}{:0DIGITS$x}", fnv1a(pod) >> 12)
}

/// Locally administered and unicast: `0a` and 40 bits of the same hash.
pub fn mac(pod: &str) -> [u8; 6] {
    let [_, _, _, a, b, c, d, e] = fnv1a(pod).to_be_bytes();
    [0x0a, a, b, c, d, e]
}

/// The address that IPv6 makes of a MAC (RFC 4291, appendix A).
pub fn link_local(mac: [u8; 6]) -> std::net::Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    std::net::Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

/// FNV-1a, 64 bit: stable over versions, unlike the standard library's hasher.
fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_fit_and_differ() {
        let names: BTreeSet<String> = (0..10_000).map(|number| host_link(&format!("pod-{number}"))).collect();
        assert_eq!(names.len(), 10_000);
        assert!(names.iter().all(|name| name.len() == 15 && name.starts_with(PREFIX)));
        assert_eq!(host_link("a"), host_link("a"));
    }

    #[test]
    fn a_mac_is_local_and_unicast() {
        assert_eq!(mac("a")[0] & 3, 2);
        let address = link_local([0x0a, 1, 2, 3, 4, 5]);
        assert_eq!(address, "fe80::801:2ff:fe03:405".parse::<std::net::Ipv6Addr>().unwrap());
    }
}
