//! Where services lead: Endpoints and EndpointSlices.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, Endpoints};
use k8s_openapi::api::discovery::v1::{self as discovery, EndpointSlice};

use super::error::{Errors, IMMUTABLE, Path};
use super::names;
use super::probes::invalid_port;

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
/// Endpoints, addresses of one of them, and ports of one slice.
const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const PORTS_MAX: usize = 100;

pub(super) fn endpoints(object: &Endpoints, errors: &mut Errors) {
    for (index, subset) in object.subsets.iter().flatten().enumerate() {
        let path = Path::new("subsets").index(index);
        let lists = [("addresses", &subset.addresses), ("notReadyAddresses", &subset.not_ready_addresses)];
        if lists.iter().all(|(_, list)| list.as_ref().is_none_or(Vec::is_empty)) {
            errors.required(&path, "must specify `addresses` or `notReadyAddresses`");
        }
        for (field, list) in lists {
            for (index, one) in list.iter().flatten().enumerate() {
                address(one, &path.field(field).index(index), errors);
            }
        }
        let ports = subset.ports.as_deref().unwrap_or_default();
        for (index, one) in ports.iter().enumerate() {
            port(one, ports.len() > 1, &path.field("ports").index(index), errors);
        }
    }
}

fn address(address: &EndpointAddress, path: &Path, errors: &mut Errors) {
    let ip = path.field("ip");
    errors.invalid_all(&ip, &address.ip, names::ip(&address.ip));
    ordinary(&address.ip, &ip, errors);
    if let Some(name) = address.hostname.as_deref().filter(|name| !name.is_empty()) {
        errors.invalid_all(&path.field("hostname"), name, names::label(name));
    }
}

fn port(port: &EndpointPort, needs_name: bool, path: &Path, errors: &mut Errors) {
    let name = port.name.as_deref().unwrap_or_default();
    if !name.is_empty() {
        errors.invalid_all(&path.field("name"), name, names::label(name));
    } else if needs_name {
        errors.required(&path.field("name"), "");
    }
    invalid_port(port.port, &path.field("port"), errors);
    errors.one_of(&path.field("protocol"), port.protocol.as_ref(), PROTOCOLS);
}

/// Addresses that mean another machine to everybody are no endpoints.
fn ordinary(text: &str, path: &Path, errors: &mut Errors) {
    // An IPv4 address may be written as one of IPv6.
    let Ok(address) = text.parse::<IpAddr>().map(|address| address.to_canonical()) else { return };
    let (is_link_local, is_link_multicast) = match address {
        IpAddr::V4(address) => {
            (address.is_link_local(), address.octets()[..3] == Ipv4Addr::new(224, 0, 0, 0).octets()[..3])
        }
        IpAddr::V6(address) => {
            let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0);
            (address.is_unicast_link_local(), address.segments()[0] == all_nodes.segments()[0])
        }
    };
    for (is_so, detail) in [
        (address.is_unspecified(), "may not be unspecified (0.0.0.0 or ::)"),
        (address.is_loopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
        (is_link_local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
        (is_link_multicast, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"),
    ] {
        if is_so {
            errors.invalid(path, text, detail);
        }
    }
}

pub(super) fn slice(old: Option<&EndpointSlice>, new: &EndpointSlice, errors: &mut Errors) {
    let kind = Path::new("addressType");
    if new.address_type.is_empty() {
        errors.required(&kind, "");
    } else {
        errors.one_of(&kind, Some(&new.address_type), &["FQDN", "IPv4", "IPv6"]);
    }
    if old.is_some_and(|old| old.address_type != new.address_type) {
        errors.invalid(&kind, new.address_type.as_str(), IMMUTABLE);
    }
    let path = Path::new("endpoints");
    let all = new.endpoints.as_deref().unwrap_or_default();
    if all.len() > ENDPOINTS_MAX {
        errors.too_many(&path, all.len(), ENDPOINTS_MAX);
    } else {
        for (index, endpoint) in all.iter().enumerate() {
            self::endpoint(endpoint, &new.address_type, &path.index(index), errors);
        }
    }
    slice_ports(new.ports.as_deref().unwrap_or_default(), &Path::new("ports"), errors);
}

fn endpoint(endpoint: &discovery::Endpoint, kind: &str, path: &Path, errors: &mut Errors) {
    let at = path.field("addresses");
    if endpoint.addresses.is_empty() {
        errors.required(&at, "must contain at least 1 address");
    } else if endpoint.addresses.len() > ADDRESSES_MAX {
        errors.too_many(&at, endpoint.addresses.len(), ADDRESSES_MAX);
    }
    for (index, address) in endpoint.addresses.iter().enumerate() {
        let at = at.index(index);
        match kind {
            "IPv4" if address.parse::<Ipv4Addr>().is_err() => {
                errors.invalid(&at, address.as_str(), "must be a valid IPv4 address");
            }
            "IPv6" if address.parse::<Ipv6Addr>().is_err() => {
                errors.invalid(&at, address.as_str(), "must be a valid IPv6 address");
            }
            "IPv4" | "IPv6" => ordinary(address, &at, errors),
            "FQDN" => errors.invalid_all(&at, address, names::subdomain(address.trim_end_matches('.'))),
            _ => {}
        }
    }
    if let Some(name) = endpoint.hostname.as_deref() {
        errors.invalid_all(&path.field("hostname"), name, names::label(name));
    }
}

fn slice_ports(ports: &[discovery::EndpointPort], path: &Path, errors: &mut Errors) {
    if ports.len() > PORTS_MAX {
        return errors.too_many(path, ports.len(), PORTS_MAX);
    }
    let mut seen = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let at = path.index(index);
        let name = port.name.as_deref().unwrap_or_default();
        if !name.is_empty() {
            errors.invalid_all(&at.field("name"), name, names::label(name));
        }
        if !seen.insert(name) {
            errors.duplicate(&at.field("name"), name);
        }
        errors.one_of(&at.field("protocol"), port.protocol.as_ref(), PROTOCOLS);
        if let Some(number) = port.port {
            invalid_port(number, &at.field("port"), errors);
        }
        if let Some(protocol) = port.app_protocol.as_deref() {
            errors.invalid_all(&at.field("appProtocol"), protocol, names::qualified(protocol));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn endpoints_have_addresses_and_ports() {
        for (subset, expected) in [
            (json!({"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80, "protocol": "TCP"}]}), ""),
            (json!({}), "subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`"),
            (
                json!({"addresses": [{"ip": "x"}]}),
                "subsets[0].addresses[0].ip: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or \
                 2001:db8::ffff)",
            ),
            (
                json!({"notReadyAddresses": [{"ip": "127.0.0.1"}]}),
                "subsets[0].notReadyAddresses[0].ip: Invalid value: \"127.0.0.1\": may not be in the loopback range \
                 (127.0.0.0/8, ::1/128)",
            ),
            (
                json!({"addresses": [{"ip": "::ffff:169.254.169.254"}]}),
                "subsets[0].addresses[0].ip: Invalid value: \"::ffff:169.254.169.254\": may not be in the link-local \
                 range (169.254.0.0/16, fe80::/10)",
            ),
            (
                json!({"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 0, "protocol": "TCP"}]}),
                "subsets[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            ),
        ] {
            let mut errors = Errors::default();
            endpoints(&serde_json::from_value(json!({"subsets": [subset]})).unwrap(), &mut errors);
            assert_eq!(errors.done().err().map(|invalid| invalid.to_string()).unwrap_or_default(), expected);
        }
    }

    #[test]
    fn slices_hold_addresses_of_their_type() {
        for (kind, address, expected) in [
            ("IPv4", "10.0.0.1", ""),
            ("FQDN", "a.example", ""),
            ("IPv4", "::2", "endpoints[0].addresses[0]: Invalid value: \"::2\": must be a valid IPv4 address"),
            ("", "10.0.0.1", "addressType: Required value"),
            (
                "IP",
                "10.0.0.1",
                "addressType: Unsupported value: \"IP\": supported values: \"FQDN\", \"IPv4\", \"IPv6\"",
            ),
        ] {
            let value = json!({"addressType": kind, "endpoints": [{"addresses": [address]}]});
            let new: EndpointSlice = serde_json::from_value(value).unwrap();
            let mut errors = Errors::default();
            slice(None, &new, &mut errors);
            assert_eq!(errors.done().err().map(|invalid| invalid.to_string()).unwrap_or_default(), expected);
        }
        let of = |kind: &str| EndpointSlice { address_type: kind.to_owned(), ..EndpointSlice::default() };
        let mut errors = Errors::default();
        slice(Some(&of("IPv4")), &of("IPv6"), &mut errors);
        assert_eq!(errors.done().unwrap_err().to_string(), "addressType: Invalid value: \"IPv6\": field is immutable");
    }
}
