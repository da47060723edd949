//! `fieldRef` and `resourceFieldRef`: what a container may ask about itself (section 6).

use std::collections::BTreeMap;
use std::net::IpAddr;

use cgroupd::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};

use super::ConfigError;
use super::facts::{NodeFacts, PodFacts};

/// The value of a `fieldRef` path.
pub fn field(pod: &Pod, path: &str, pod_facts: &PodFacts, node: &NodeFacts) -> Result<String, ConfigError> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    if let Some(key) = subscript(path, "metadata.labels") {
        return Ok(entry(meta.labels.as_ref(), key));
    }
    if let Some(key) = subscript(path, "metadata.annotations") {
        return Ok(entry(meta.annotations.as_ref(), key));
    }
    match path {
        "metadata.name" => Ok(meta.name.clone().unwrap_or_default()),
        "metadata.namespace" => Ok(meta.namespace.clone().unwrap_or_default()),
        "metadata.uid" => Ok(meta.uid.clone().unwrap_or_default()),
        "metadata.labels" => Ok(lines(meta.labels.as_ref())),
        "metadata.annotations" => Ok(lines(meta.annotations.as_ref())),
        "spec.nodeName" | "spec.host" => Ok(node.name.clone()),
        "spec.serviceAccountName" => Ok(spec.and_then(|s| s.service_account_name.clone()).unwrap_or_default()),
        "status.hostIP" => Ok(first(&node.ips)),
        "status.hostIPs" => Ok(joined(&node.ips)),
        "status.podIP" => Ok(first(&pod_facts.ips)),
        "status.podIPs" => Ok(joined(&pod_facts.ips)),
        other => Err(ConfigError::new(format!("unsupported fieldPath: {other}"))),
    }
}

/// The value of a `resourceFieldRef`; `own` is the container that asks (rules RF1, RF2).
pub fn resource(
    pod: &Pod,
    own: &Container,
    selector: &ResourceFieldSelector,
    node: &NodeFacts,
) -> Result<String, ConfigError> {
    let container = match selector.container_name.as_deref() {
        None | Some("") => own,
        Some(name) => {
            container_named(pod, name).ok_or_else(|| ConfigError::new(format!("container {name} not found")))?
        }
    };
    let (side, resource) = selector
        .resource
        .split_once('.')
        .ok_or_else(|| ConfigError::new(format!("unsupported container resource : {}", selector.resource)))?;
    let amount = match side {
        "limits" => limit(pod, container, resource, node)?,
        "requests" => requested(container, resource)?,
        _ => return Err(ConfigError::new(format!("unsupported container resource : {}", selector.resource))),
    };
    let divisor = match selector.divisor.as_ref().map(|q| q.0.as_str()) {
        None | Some("" | "0") => "1",
        Some(text) => text,
    };
    divided(&amount, &parse(divisor)?, resource)
}

/// `ceil(quantity / divisor)`; cpu is computed in milli units.
fn divided(amount: &Quantity, divisor: &Quantity, resource: &str) -> Result<String, ConfigError> {
    let (amount, divisor) = if resource == "cpu" {
        (i128::from(amount.milli_value()), i128::from(divisor.milli_value()))
    } else {
        (i128::from(amount.value()), i128::from(divisor.value()))
    };
    if divisor <= 0 {
        return Err(ConfigError::new("divisor must be greater than zero"));
    }
    Ok(((amount + divisor - 1) / divisor).to_string())
}

fn limit(pod: &Pod, container: &Container, resource: &str, node: &NodeFacts) -> Result<Quantity, ConfigError> {
    let own = container.resources.as_ref().and_then(|r| r.limits.as_ref()).and_then(|l| l.get(resource));
    let pod_level = || {
        let resources = pod.spec.as_ref()?.resources.as_ref()?;
        resources.limits.as_ref()?.get(resource)
    };
    match own.or_else(pod_level) {
        Some(quantity) => parse(&quantity.0),
        None => parse(&match resource {
            "cpu" => format!("{}m", node.allocatable_cpu_milli),
            "memory" => node.allocatable_memory_bytes.to_string(),
            "ephemeral-storage" => node.allocatable_ephemeral_bytes.to_string(),
            _ => "0".to_owned(),
        }),
    }
}

fn requested(container: &Container, resource: &str) -> Result<Quantity, ConfigError> {
    let own = container.resources.as_ref().and_then(|r| r.requests.as_ref()).and_then(|l| l.get(resource));
    own.map_or_else(|| parse("0"), |quantity| parse(&quantity.0))
}

fn parse(text: &str) -> Result<Quantity, ConfigError> {
    text.parse().map_err(|error| ConfigError::new(format!("quantity {text:?}: {error}")))
}

fn container_named<'a>(pod: &'a Pod, name: &str) -> Option<&'a Container> {
    let spec = pod.spec.as_ref()?;
    spec.containers.iter().chain(spec.init_containers.iter().flatten()).find(|c| c.name == name)
}

/// The key in `metadata.labels['key']`.
fn subscript<'a>(path: &'a str, map: &str) -> Option<&'a str> {
    path.strip_prefix(map)?.strip_prefix("['")?.strip_suffix("']")
}

fn entry(map: Option<&BTreeMap<String, String>>, key: &str) -> String {
    map.and_then(|m| m.get(key)).cloned().unwrap_or_default()
}

/// One `key="value"` line per entry, sorted, without a last newline (rule VO31).
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<_> = map.into_iter().flatten().map(|(key, value)| format!("{key}={}", go_quoted(value))).collect();
    lines.join("\n")
}

/// As Go's `%q` writes a string.
pub fn go_quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn first(ips: &[IpAddr]) -> String {
    ips.first().map(ToString::to_string).unwrap_or_default()
}

fn joined(ips: &[IpAddr]) -> String {
    ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RF1, RF3
    #[test]
    fn quantities_are_divided_and_rounded_up() {
        for (amount, divisor, resource, expected) in [
            ("250m", "1", "cpu", "1"),
            ("250m", "1m", "cpu", "250"),
            ("512Mi", "1Mi", "memory", "512"),
            ("500M", "1Mi", "memory", "477"),
            ("100", "1Ki", "memory", "1"),
            ("0", "1", "cpu", "0"),
        ] {
            let (amount, divisor) = (parse(amount).unwrap(), parse(divisor).unwrap());
            assert_eq!(divided(&amount, &divisor, resource).unwrap(), expected);
        }
    }

    /// RF2: its own limit, else the pod's, else the node's; a request that is missing is nothing.
    #[test]
    fn what_is_missing_comes_from_the_pod_or_the_node() {
        let node = NodeFacts {
            name: "n".into(),
            ips: Vec::new(),
            allocatable_cpu_milli: 1500,
            allocatable_memory_bytes: 3 << 20,
            allocatable_ephemeral_bytes: 5 << 20,
            cpus: 2,
            nofile: (1, 1),
            apparmor: false,
            capabilities: 0,
        };
        let of = |of_pod: &str, own: &str, resource: &str, divisor: &str| {
            let text = format!(r#"{{"metadata":{{}},"spec":{{"resources":{of_pod},"containers":[]}}}}"#);
            let pod: Pod = serde_json::from_str(&text).unwrap();
            let container: Container = serde_json::from_str(&format!(r#"{{"name":"c","resources":{own}}}"#)).unwrap();
            let text = format!(r#"{{"resource":"{resource}","divisor":"{divisor}"}}"#);
            super::resource(&pod, &container, &serde_json::from_str(&text).unwrap(), &node).unwrap()
        };
        let (one, two) = (r#"{"limits":{"cpu":"1","memory":"1Mi"}}"#, r#"{"limits":{"cpu":"2","memory":"2Mi"}}"#);
        for (of_pod, own, resource, divisor, expected) in [
            (two, one, "limits.cpu", "1m", "1000"),
            (two, "{}", "limits.cpu", "1", "2"),
            ("{}", "{}", "limits.cpu", "1", "2"),
            ("{}", "{}", "limits.cpu", "1m", "1500"),
            (two, "{}", "limits.memory", "1Mi", "2"),
            ("{}", "{}", "limits.memory", "1Mi", "3"),
            ("{}", "{}", "limits.ephemeral-storage", "1Mi", "5"),
            ("{}", "{}", "requests.cpu", "1m", "0"),
            ("{}", "{}", "requests.ephemeral-storage", "1", "0"),
            ("{}", "{}", "limits.hugepages-2Mi", "1Mi", "0"),
            (
                "{}",
                r#"{"limits":{"hugepages-2Mi":"4Mi"},"requests":{"hugepages-2Mi":"4Mi"}}"#,
                "requests.hugepages-2Mi",
                "1Mi",
                "4",
            ),
        ] {
            assert_eq!(of(of_pod, own, resource, divisor), expected, "{of_pod} {own} {resource} {divisor}");
        }
    }

    #[test]
    fn labels_are_written_as_sorted_quoted_lines() {
        let labels = BTreeMap::from([("b".to_owned(), "x\"y".to_owned()), ("a".to_owned(), "1\n".to_owned())]);
        assert_eq!(lines(Some(&labels)), "a=\"1\\n\"\nb=\"x\\\"y\"");
    }

    #[test]
    fn a_subscript_names_one_key() {
        assert_eq!(subscript("metadata.labels['app.io/x']", "metadata.labels"), Some("app.io/x"));
        assert_eq!(subscript("metadata.labels", "metadata.labels"), None);
    }
}
