//! The cells of services and of what stands behind them.

use jiff::Timestamp;
use serde_json::Value;

use super::shared::{NONE, UNKNOWN, UNSET, age, first_three, labels, list, name, number, text, text_or};

pub(super) fn service(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        text(object, "/spec/type").into(),
        text_or(object, "/spec/clusterIP", NONE).into(),
        external(object).into(),
        ports(object).into(),
        age(object, now),
        labels(object, "/spec/selector").into(),
    ]
}

fn external(object: &Value) -> String {
    let mut addresses: Vec<&str> = list(object, "/spec/externalIPs").iter().filter_map(Value::as_str).collect();
    let absent = match text(object, "/spec/type") {
        "ExternalName" => return text(object, "/spec/externalName").to_owned(),
        "ClusterIP" | "NodePort" => NONE,
        "LoadBalancer" => {
            let ingress = list(object, "/status/loadBalancer/ingress").iter();
            let mut given: Vec<&str> = ingress.map(|i| text_or(i, "/ip", text(i, "/hostname"))).collect();
            given.append(&mut addresses);
            addresses = given;
            "<pending>"
        }
        _ => UNKNOWN,
    };
    if addresses.is_empty() { absent.to_owned() } else { addresses.join(",") }
}

fn ports(object: &Value) -> String {
    let show = |port: &Value| {
        let (number_, node) = (number(port, "/port"), number(port, "/nodePort"));
        let protocol = text(port, "/protocol");
        if node > 0 { format!("{number_}:{node}/{protocol}") } else { format!("{number_}/{protocol}") }
    };
    let ports: Vec<String> = list(object, "/spec/ports").iter().map(show).collect();
    if ports.is_empty() { NONE.to_owned() } else { ports.join(",") }
}

pub(super) fn endpoints(object: &Value, now: Timestamp) -> Vec<Value> {
    let mut all = Vec::new();
    for subset in list(object, "/subsets") {
        let addresses = || list(subset, "/addresses").iter().map(|address| text(address, "/ip"));
        let ports = list(subset, "/ports");
        if ports.is_empty() {
            all.extend(addresses().map(str::to_owned));
        }
        for port in ports {
            all.extend(addresses().map(|address| joined(address, number(port, "/port"))));
        }
    }
    let shown = if all.is_empty() { NONE.to_owned() } else { first_three(&all) };
    vec![name(object), shown.into(), age(object, now)]
}

/// An address and a port; an IPv6 address stands in brackets.
fn joined(address: &str, port: i64) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

pub(super) fn slice(object: &Value, now: Timestamp) -> Vec<Value> {
    let port = |port: &Value| match port.get("port").and_then(Value::as_i64) {
        Some(number) => number.to_string(),
        None => "*".to_owned(),
    };
    let or_unset = |texts: Vec<String>| if texts.is_empty() { UNSET.to_owned() } else { first_three(&texts) };
    let ports = list(object, "/ports").iter().map(port).collect();
    let addresses = list(object, "/endpoints").iter().flat_map(|endpoint| list(endpoint, "/addresses"));
    let addresses = addresses.filter_map(Value::as_str).map(str::to_owned).collect();
    vec![
        name(object),
        text(object, "/addressType").into(),
        or_unset(ports).into(),
        or_unset(addresses).into(),
        age(object, now),
    ]
}
