//! Names of links and tables, and the hardware addresses that go with pod addresses.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Longest name of a link: `IFNAMSIZ` of the kernel less the terminating zero.
pub const LINK_NAME_MAX: usize = 15;
/// Longest pod id: a file name with room for a suffix, well above any UID or digest.
pub const POD_ID_MAX: usize = 200;
/// What the host-side names of all pod links begin with; the anti-spoof chain selects by it.
pub const LINK_PREFIX: &str = "mpod";
/// How many characters after it tell the bridges of one host apart.
const BRIDGE_DIGITS: usize = 2;
/// The link's name inside a pod.
pub const POD_LINK: &str = "eth0";
/// Bridge and tables when nothing else is configured.
pub const DEFAULT_BRIDGE: &str = "monopod";
/// The first two octets of our hardware addresses: locally administered, unicast.
const MAC_PREFIX: [u8; 2] = [0x02, 0x6d];

#[derive(Debug, Error, PartialEq, Eq)]
pub enum NameError {
    #[error("pod id {0:?}: must be 1 to {POD_ID_MAX} of a-z A-Z 0-9 . _ - and must not begin with a dot")]
    PodId(String),
    #[error(
        "bridge name {0:?}: must be 1 to {LINK_NAME_MAX} of a-z A-Z 0-9 _ - and begin with a letter other than {LINK_PREFIX:?}"
    )]
    Bridge(String),
}

/// An opaque id of a pod, chosen by the caller. It becomes a file name, so what could leave a directory is refused (P36).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PodId(String);

impl PodId {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PodId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let good = (1..=POD_ID_MAX).contains(&text.len()) && text.bytes().all(allowed) && !text.starts_with('.');
        if good { Ok(Self(text.to_owned())) } else { Err(NameError::PodId(shortened(text))) }
    }
}

impl TryFrom<String> for PodId {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<PodId> for String {
    fn from(id: PodId) -> Self {
        id.0
    }
}

impl fmt::Display for PodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of the bridge, and of the nftables tables that belong to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BridgeName(String);

impl BridgeName {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for BridgeName {
    fn default() -> Self {
        Self(DEFAULT_BRIDGE.to_owned())
    }
}

impl FromStr for BridgeName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        let good = (1..=LINK_NAME_MAX).contains(&text.len())
            && text.bytes().all(allowed)
            && text.starts_with(|first: char| first.is_ascii_alphabetic())
            && !text.starts_with(LINK_PREFIX);
        if good { Ok(Self(text.to_owned())) } else { Err(NameError::Bridge(shortened(text))) }
    }
}

impl TryFrom<String> for BridgeName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<BridgeName> for String {
    fn from(name: BridgeName) -> Self {
        name.0
    }
}

impl fmt::Display for BridgeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the host-side names of one bridge's pod links begin with, so that the rules of two bridges stay apart.
#[must_use]
pub fn link_prefix(bridge: &BridgeName) -> String {
    format!("{LINK_PREFIX}{}", digits(fnv1a(bridge.as_str().bytes()), BRIDGE_DIGITS))
}

/// The host-side name of a pod's link: the prefix and 45 bits of a hash of the id. The same inputs give the same name on
/// every machine and in every version, so a sweep can tell whose a link is.
#[must_use]
pub fn host_link(bridge: &BridgeName, pod: &PodId) -> String {
    let prefix = link_prefix(bridge);
    let rest = digits(fnv1a(pod.as_str().bytes()), LINK_NAME_MAX - prefix.len());
    prefix + &rest
}

/// Whether a link has a name as [`host_link`] makes them for this bridge.
#[must_use]
pub fn is_host_link(bridge: &BridgeName, name: &str) -> bool {
    let digit = |byte| matches!(byte, b'a'..=b'z' | b'2'..=b'7');
    name.len() == LINK_NAME_MAX && name.strip_prefix(&link_prefix(bridge)).is_some_and(|rest| rest.bytes().all(digit))
}

/// The low bits of a hash, five to a character.
fn digits(mut hash: u64, count: usize) -> String {
    const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut text = String::with_capacity(count);
    for _ in 0..count {
        let digit = usize::try_from(hash & 31).unwrap_or_default();
        text.push(DIGITS.get(digit).copied().map_or('a', char::from));
        hash >>= 5;
    }
    text
}

/// A hardware address, printed as `ip link` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The hardware address that belongs to a pod's IPv4 address. With the one made from the other, a neighbour entry
    /// that outlives a pod is still right for the next owner of the address.
    #[must_use]
    pub fn of(address: Ipv4Addr) -> Self {
        let [a, b, c, d] = address.octets();
        let [p, q] = MAC_PREFIX;
        Self([p, q, a, b, c, d])
    }

    /// The link-local address that the kernel makes from it (RFC 4291, appendix A).
    #[must_use]
    pub fn link_local(self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.0;
        let word = |high: u8, low: u8| u16::from_be_bytes([high, low]);
        Ipv6Addr::new(0xfe80, 0, 0, 0, word(a ^ 2, b), word(c, 0xff), word(0xfe, d), word(e, f))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

/// 64-bit FNV-1a with a final mix, so that the low bits depend on all input. Written here since a name must not change
/// with a library or a compiler.
fn fnv1a(bytes: impl Iterator<Item = u8>) -> u64 {
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let mixed = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed ^ (mixed >> 33)
}

/// An error message doesn't carry 64 KiB of somebody's input.
fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// P36
    #[test]
    fn ids_that_could_leave_a_directory_are_refused() {
        let long = "a".repeat(POD_ID_MAX + 1);
        let huge = "a".repeat(65536);
        for bad in ["", ".", "..", "../x", "a/b", "/", "a\0b", ".hidden", "a b", "ä", &long, &huge] {
            let error = bad.parse::<PodId>().unwrap_err().to_string();
            assert!(error.len() < 300, "{error}");
        }
        for good in ["a", "a.b", "0d9c2f6e-2f3a-4d56-a1c3-90f0d2f1b6aa", &"a".repeat(POD_ID_MAX)] {
            assert_eq!(good.parse::<PodId>().unwrap().as_str(), good);
        }
    }

    #[test]
    fn bridge_names_are_names_of_links() {
        for bad in ["", "a/b", "a b", "sixteen-letters-", "mpodx", "0a", "a.b", "a%d"] {
            assert!(bad.parse::<BridgeName>().is_err(), "{bad}");
        }
        assert_eq!("fifteen-letters".parse::<BridgeName>().unwrap().as_str(), "fifteen-letters");
        assert!(DEFAULT_BRIDGE.parse::<BridgeName>().is_ok());
    }

    /// A change here would orphan the links of running pods at an upgrade.
    #[test]
    fn names_stay_as_they_were_released() {
        let pod = "0d9c2f6e-2f3a-4d56-a1c3-90f0d2f1b6aa".parse().unwrap();
        assert_eq!(host_link(&BridgeName::default(), &pod), "mpod3rxhp32hwck");
    }

    #[test]
    fn hardware_and_link_local_address_come_from_the_address() {
        let mac = Mac::of(Ipv4Addr::new(10, 1, 2, 3));
        assert_eq!(mac.to_string(), "02:6d:0a:01:02:03");
        assert_eq!(mac.link_local().to_string(), "fe80::6d:aff:fe01:203");
    }

    proptest! {
        #[test]
        fn a_link_name_fits_and_is_recognised(id in "[a-z0-9]{1,40}", other in "[a-z0-9]{1,40}") {
            let (bridge, second) = (BridgeName::default(), "b".parse::<BridgeName>().unwrap());
            let (id, other): (PodId, PodId) = (id.parse().unwrap(), other.parse().unwrap());
            let name = host_link(&bridge, &id);
            prop_assert!(is_host_link(&bridge, &name), "{}", name);
            prop_assert!(!is_host_link(&second, &name), "{}", name);
            prop_assert_eq!(&name, &host_link(&bridge, &id));
            prop_assert_ne!(&name, &host_link(&second, &id));
            if id != other {
                prop_assert_ne!(&name, &host_link(&bridge, &other));
            }
        }
    }
}
