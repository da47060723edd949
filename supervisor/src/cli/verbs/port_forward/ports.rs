//! Which ports: `8080:80`, `80`, `:http`.

use std::str::FromStr;

use serde_json::Value;

/// What a user asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// 0 for any free one; none for that of the other end.
    local: Option<u16>,
    remote: Name,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Name {
    Number(u16),
    Text(String),
}

/// A port here, and the pod's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) local: u16,
    pub(super) remote: u16,
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (local, remote) = match text.split(':').collect::<Vec<_>>().as_slice() {
            [both] => (None, *both),
            ["", remote] => (Some(0), *remote),
            [local, remote] => {
                let number = local.parse().map_err(|_| format!("error parsing local port '{local}'"))?;
                (Some(number), *remote)
            }
            _ => return Err(format!("invalid port format '{text}'")),
        };
        let remote = match remote.parse() {
            Ok(0) => return Err("remote port must be > 0".to_owned()),
            Ok(number) => Name::Number(number),
            Err(_) if remote.starts_with(|first: char| first.is_ascii_alphanumeric()) && !is_number(remote) => {
                Name::Text(remote.to_owned())
            }
            Err(_) => return Err(format!("error parsing remote port '{remote}'")),
        };
        Ok(Self { local, remote })
    }
}

fn is_number(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

impl Wanted {
    /// Looks names up, and what a service's ports lead to.
    pub(super) fn resolve(&self, pod: &Value, service: Option<&Value>) -> Result<Pair, String> {
        let (asked, remote) = match service {
            None => {
                let remote = in_pod(pod, &self.remote)?;
                (remote, remote)
            }
            Some(service) => {
                let (asked, target) = in_service(service, &self.remote)?;
                (asked, in_pod(pod, &target)?)
            }
        };
        Ok(Pair { local: self.local.unwrap_or(asked), remote })
    }
}

fn in_pod(pod: &Value, name: &Name) -> Result<u16, String> {
    let text = match name {
        Name::Number(number) => return Ok(*number),
        Name::Text(text) => text,
    };
    let containers = ["containers", "initContainers"].into_iter();
    let mut ports = containers
        .flat_map(|list| pod["spec"][list].as_array().into_iter().flatten())
        .flat_map(|container| container["ports"].as_array().into_iter().flatten());
    let port = ports.find(|port| port["name"] == text.as_str());
    port.and_then(|port| number(&port["containerPort"])).ok_or_else(|| {
        let pod = pod["metadata"]["name"].as_str().unwrap_or_default();
        format!("Pod '{pod}' does not have a named port '{text}'")
    })
}

/// The service's port, and what it leads to in its pods.
fn in_service(service: &Value, name: &Name) -> Result<(u16, Name), String> {
    let title = service["metadata"]["name"].as_str().unwrap_or_default();
    let mut ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let found = match name {
        Name::Number(wanted) => ports.find(|port| number(&port["port"]) == Some(*wanted)),
        Name::Text(wanted) => ports.find(|port| port["name"] == wanted.as_str()),
    };
    // Without an address of its own, a service's names lead to the pods themselves.
    let is_headless = service["spec"]["clusterIP"] == "None";
    let port = match (found, name) {
        (Some(port), _) => port,
        (None, Name::Number(wanted)) => return Err(format!("Service {title} does not have a service port {wanted}")),
        (None, Name::Text(wanted)) => return Err(format!("Service '{title}' does not have a named port '{wanted}'")),
    };
    let own = number(&port["port"]).ok_or_else(|| format!("Service {title} has a port without a number"))?;
    let target = match port["targetPort"].as_str() {
        Some(text) if !is_headless => Name::Text(text.to_owned()),
        None if !is_headless => Name::Number(number(&port["targetPort"]).unwrap_or(own)),
        Some(_) | None => Name::Number(own),
    };
    Ok((own, target))
}

fn number(value: &Value) -> Option<u16> {
    value.as_u64().and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pair(local: u16, remote: u16) -> Pair {
        Pair { local, remote }
    }

    #[test]
    fn ports_are_numbers_or_names_of_the_pod() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [
            {"ports": [{"name": "http", "containerPort": 8080}]}]}});
        let resolve = |text: &str| text.parse::<Wanted>().and_then(|wanted| wanted.resolve(&pod, None));
        for (text, expected) in [
            ("80", pair(80, 80)),
            ("1080:80", pair(1080, 80)),
            (":80", pair(0, 80)),
            ("0:80", pair(0, 80)),
            ("http", pair(8080, 8080)),
            ("90:http", pair(90, 8080)),
        ] {
            assert_eq!(resolve(text), Ok(expected), "{text}");
        }
        for (text, expected) in [
            ("a:80", "error parsing local port 'a'"),
            ("1:2:3", "invalid port format '1:2:3'"),
            ("1:70000", "error parsing remote port '70000'"),
            ("", "error parsing remote port ''"),
            ("0", "remote port must be > 0"),
            ("smtp", "Pod 'p' does not have a named port 'smtp'"),
        ] {
            assert_eq!(resolve(text), Err(expected.to_owned()), "{text}");
        }
    }

    #[test]
    fn ports_of_a_service_lead_to_those_of_its_pods() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [
            {"ports": [{"name": "http", "containerPort": 8080}]}]}});
        let mut service = json!({"metadata": {"name": "s"}, "spec": {"clusterIP": "10.0.0.1", "ports": [
            {"name": "web", "port": 80, "targetPort": "http"}, {"name": "raw", "port": 81, "targetPort": 9000}]}});
        let resolve =
            |service: &Value, text: &str| text.parse::<Wanted>().and_then(|wanted| wanted.resolve(&pod, Some(service)));
        assert_eq!(resolve(&service, "80"), Ok(pair(80, 8080)));
        assert_eq!(resolve(&service, ":web"), Ok(pair(0, 8080)));
        assert_eq!(resolve(&service, "81"), Ok(pair(81, 9000)));
        assert_eq!(resolve(&service, "82"), Err("Service s does not have a service port 82".to_owned()));
        assert_eq!(resolve(&service, "x"), Err("Service 's' does not have a named port 'x'".to_owned()));
        service["spec"]["clusterIP"] = json!("None");
        assert_eq!(resolve(&service, "81"), Ok(pair(81, 81)));
    }
}
