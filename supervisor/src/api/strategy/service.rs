//! Services: their addresses and node ports.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use serde_json::{Value, json};

use super::super::call::Call;
use super::super::fields;
use super::super::status::Status;
use super::{json as as_json, one_error, typed, valid};
use crate::admission::defaults;
use crate::admission::validate::ErrorKind;

/// Ports of the node that services may have.
const NODE_PORTS: RangeInclusive<i32> = 30_000..=32_767;

/// Addresses and ports that services have, or are about to have.
struct Taken {
    addresses: BTreeSet<Ipv4Addr>,
    ports: BTreeSet<i32>,
}

fn taken(call: &Call, but: Option<&str>) -> Taken {
    let mut taken = Taken { addresses: BTreeSet::new(), ports: BTreeSet::new() };
    for object in call.state.store.list("services", None).0 {
        let Ok(service) = object.read::<Service>() else { continue };
        if but.is_some_and(|uid| service.metadata.uid.as_deref() == Some(uid)) {
            continue;
        }
        let spec = service.spec.unwrap_or_default();
        taken.addresses.extend(spec.cluster_ip.and_then(|text| text.parse::<Ipv4Addr>().ok()));
        taken.ports.extend(spec.ports.into_iter().flatten().filter_map(|port| port.node_port));
        taken.ports.extend(spec.health_check_node_port);
    }
    for reserved in call.state.reserved.borrow().iter() {
        taken.addresses.extend(reserved.parse::<Ipv4Addr>().ok());
        taken.ports.extend(reserved.parse::<i32>().ok());
    }
    taken
}

/// Nothing is about to be stored any more.
pub(super) fn settled(call: &Call) {
    call.state.reserved.borrow_mut().clear();
}

pub(super) fn create(call: &Call, value: Value) -> Result<Value, Status> {
    let mut service: Service = typed(&value)?;
    defaults::service(&mut service);
    service.status = None;
    let name = service.metadata.name.clone().unwrap_or_default();
    let taken = taken(call, None);
    if let Some(spec) = &mut service.spec {
        one_family(call, &name, spec)?;
        address(call, &name, spec, &taken)?;
        ports(call, &name, spec, taken)?;
    }
    let mut value = as_json(&service)?;
    fields::entries(&mut value).insert("status".to_owned(), json!({"loadBalancer": {}}));
    Ok(value)
}

pub(super) fn update(call: &Call, old: &Value, new: Value) -> Result<Value, Status> {
    let (before, mut service): (Service, Service) = (typed(old)?, typed(&new)?);
    let name = before.metadata.name.clone().unwrap_or_default();
    let before = before.spec.unwrap_or_default();
    let spec = service.spec.get_or_insert_default();
    one_family(call, &name, spec)?;
    let is_external = |spec: &ServiceSpec| spec.type_.as_deref() == Some("ExternalName");
    if is_external(spec) {
        (spec.cluster_ip, spec.cluster_ips, spec.ip_families, spec.ip_family_policy) = (None, None, None, None);
    } else if !is_external(&before) {
        keep_address(call, &name, &before, spec)?;
    }
    keep_ports(&before, spec);
    defaults::service(&mut service);
    let own = fields::text(old, &["metadata", "uid"]);
    let taken = taken(call, Some(own));
    if let Some(spec) = &mut service.spec {
        address(call, &name, spec, &taken)?;
        ports(call, &name, spec, taken)?;
    }
    valid(call, Some(old), as_json(&service)?)
}

/// Pods and services have IPv4 alone.
fn one_family(call: &Call, name: &str, spec: &ServiceSpec) -> Result<(), Status> {
    if spec.type_.as_deref() == Some("ExternalName") {
        return Ok(());
    }
    let refused = |field: &str, value: &str, why: &str| {
        Err(one_error(call.target.resource, name, field, ErrorKind::Invalid { value: value.into() }, why))
    };
    for (index, family) in spec.ip_families.iter().flatten().enumerate() {
        let field = format!("spec.ipFamilies[{index}]");
        match family.as_str() {
            "IPv4" => {}
            "IPv6" => return refused(&field, family, "not configured on this cluster"),
            other => {
                let supported = vec!["IPv4".to_owned(), "IPv6".to_owned()];
                let kind = ErrorKind::NotSupported { value: other.to_owned(), supported };
                return Err(one_error(call.target.resource, name, &field, kind, ""));
            }
        }
    }
    match spec.ip_family_policy.as_deref() {
        Some(policy @ "RequireDualStack") => {
            refused("spec.ipFamilyPolicy", policy, "this cluster is not configured for dual-stack services")
        }
        Some(_) | None => Ok(()),
    }
}

/// An address that was given is kept; it can't be changed.
fn keep_address(call: &Call, name: &str, before: &ServiceSpec, spec: &mut ServiceSpec) -> Result<(), Status> {
    if spec.cluster_ip.as_deref().unwrap_or_default().is_empty() {
        spec.cluster_ip.clone_from(&before.cluster_ip);
        spec.cluster_ips.clone_from(&before.cluster_ips);
    }
    if spec.cluster_ip != before.cluster_ip {
        let value = json!(spec.cluster_ip.clone().into_iter().collect::<Vec<_>>());
        let kind = ErrorKind::Invalid { value };
        let field = "spec.clusterIPs[0]";
        return Err(one_error(call.target.resource, name, field, kind, "may not change once set"));
    }
    spec.cluster_ips.clone_from(&before.cluster_ips);
    spec.ip_families.clone_from(&before.ip_families);
    spec.ip_family_policy.clone_from(&before.ip_family_policy);
    Ok(())
}

/// A port that stays keeps its node port.
fn keep_ports(before: &ServiceSpec, spec: &mut ServiceSpec) {
    if !has_node_ports(spec) {
        spec.ports.iter_mut().flatten().for_each(|port| port.node_port = None);
        return;
    }
    for port in spec.ports.iter_mut().flatten().filter(|port| port.node_port.unwrap_or_default() == 0) {
        let same = |old: &&k8s_openapi::api::core::v1::ServicePort| {
            old.port == port.port
                && old.protocol.as_deref().unwrap_or("TCP") == port.protocol.as_deref().unwrap_or("TCP")
        };
        port.node_port = before.ports.iter().flatten().find(same).and_then(|old| old.node_port);
    }
}

fn has_node_ports(spec: &ServiceSpec) -> bool {
    match spec.type_.as_deref() {
        Some("NodePort") => true,
        Some("LoadBalancer") => spec.allocate_load_balancer_node_ports != Some(false),
        Some(_) | None => false,
    }
}

/// Gives an address to a service that has none, unless it wants none.
fn address(call: &Call, name: &str, spec: &mut ServiceSpec, taken: &Taken) -> Result<(), Status> {
    if spec.type_.as_deref() == Some("ExternalName") {
        return Ok(());
    }
    if spec.cluster_ip.as_deref().unwrap_or_default().is_empty() {
        spec.cluster_ip = spec.cluster_ips.as_ref().and_then(|list| list.first().cloned());
    }
    let given = spec.cluster_ip.clone().unwrap_or_default();
    let address = match given.as_str() {
        "None" => given,
        "" => free(call, taken).ok_or_else(|| Status::internal("failed to allocate a serviceIP: range is full"))?,
        text => {
            check_given(call, name, text, taken)?;
            given
        }
    };
    if address != "None" {
        call.state.reserved.borrow_mut().insert(address.clone());
    }
    spec.cluster_ip = Some(address.clone());
    spec.cluster_ips = Some(vec![address]);
    spec.ip_families.get_or_insert_with(|| vec!["IPv4".to_owned()]);
    spec.ip_family_policy.get_or_insert_with(|| "SingleStack".to_owned());
    Ok(())
}

fn check_given(call: &Call, name: &str, text: &str, taken: &Taken) -> Result<(), Status> {
    let range = call.state.config.services;
    let why = match text.parse::<Ipv4Addr>() {
        Err(_) => "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned(),
        Ok(address) if !range.contains(&address) => {
            format!(
                "failed to allocate IP {text}: the provided IP ({text}) is not in the valid range. The range of valid IPs is {range}"
            )
        }
        Ok(address) if taken.addresses.contains(&address) => {
            format!("failed to allocate IP {text}: provided IP is already allocated")
        }
        Ok(_) => return Ok(()),
    };
    let kind = ErrorKind::Invalid { value: json!([text]) };
    Err(one_error(call.target.resource, name, "spec.clusterIPs", kind, &why))
}

/// A free address, from a random place on; the first one is that of the service `kubernetes`.
fn free(call: &Call, taken: &Taken) -> Option<String> {
    let range = call.state.config.services;
    let first = u32::from(range.network()) + 2;
    let last = u32::from(range.broadcast()).checked_sub(1)?;
    let count = last.checked_sub(first)? + 1;
    let start = random() % count;
    let all = (0..count).map(|step| Ipv4Addr::from(first + (start + step) % count));
    all.into_iter().find(|address| !taken.addresses.contains(address)).map(|address| address.to_string())
}

fn random() -> u32 {
    uuid::Uuid::new_v4().as_fields().0
}

/// Gives node ports to ports that need them.
fn ports(call: &Call, name: &str, spec: &mut ServiceSpec, mut taken: Taken) -> Result<(), Status> {
    if !has_node_ports(spec) {
        return Ok(());
    }
    let resource = call.target.resource;
    for (index, port) in spec.ports.iter_mut().flatten().enumerate() {
        let field = format!("spec.ports[{index}].nodePort");
        let invalid =
            |value: i32, why: &str| one_error(resource, name, &field, ErrorKind::Invalid { value: value.into() }, why);
        let chosen = match port.node_port.unwrap_or_default() {
            0 => free_port(&taken).ok_or_else(|| Status::internal("failed to allocate a nodePort: range is full"))?,
            given if !NODE_PORTS.contains(&given) => {
                let why = format!(
                    "provided port is not in the valid range. The range of valid ports is {}-{}",
                    NODE_PORTS.start(),
                    NODE_PORTS.end()
                );
                return Err(invalid(given, &why));
            }
            given if taken.ports.contains(&given) => return Err(invalid(given, "provided port is already allocated")),
            given => given,
        };
        taken.ports.insert(chosen);
        call.state.reserved.borrow_mut().insert(chosen.to_string());
        port.node_port = Some(chosen);
    }
    Ok(())
}

fn free_port(taken: &Taken) -> Option<i32> {
    let count = NODE_PORTS.end() - NODE_PORTS.start() + 1;
    let start = i32::try_from(random() % 0x7fff).ok()? % count;
    let all = (0..count).map(|step| NODE_PORTS.start() + (start + step) % count);
    all.into_iter().find(|port| !taken.ports.contains(port))
}
