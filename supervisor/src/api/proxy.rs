//! Where `pods/NAME/proxy` and `services/NAME/proxy` lead: which pod, which of its ports.

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::body::Body;
use super::call::Call;
use super::status::{Reason, Status};
use super::subresource;
use crate::store::{Key, Object};
use crate::stream::{PodPort, ProxyScheme};

/// The pod, and where in it the request goes.
pub(super) fn target(call: &Call, name: &str) -> Result<(Object, PodPort), Status> {
    let (scheme, name, port) = split(name);
    let scheme = match scheme {
        None | Some("" | "http") => ProxyScheme::Http,
        Some("https") => ProxyScheme::Https,
        Some(_) => return Err(Status::new(Reason::BadRequest, format!("invalid request {name:?}: unknown scheme"))),
    };
    let (pod, port) = if call.target.resource.plural == "services" {
        of_service(call, name, port)?
    } else {
        (subresource::pod(call, name)?, port.map(str::to_owned))
    };
    Ok((pod, PodPort { port, scheme }))
}

/// Without a slash after `proxy`, what a page refers to would be looked for beside the pod: the client is sent there. None
/// for the rest, and for those who want another protocol.
pub(super) fn moved<T>(rest: &str, request: &Request<T>) -> Option<Response<Body>> {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    if !rest.is_empty() || !is_read || request.headers().contains_key(header::UPGRADE) {
        return None;
    }
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    let place = HeaderValue::from_str(&format!("{}/{query}", request.uri().path())).ok()?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    response.headers_mut().insert(header::LOCATION, place);
    Some(response)
}

/// `web`, `web:80`, `http:web:80`, `http:web:`.
pub(super) fn split(name: &str) -> (Option<&str>, &str, Option<&str>) {
    let set = |port| Some(port).filter(|port: &&str| !port.is_empty());
    match name.split(':').collect::<Vec<_>>().as_slice() {
        [scheme, name, port] => (Some(*scheme), *name, set(*port)),
        [name, port] => (None, *name, set(*port)),
        _ => (None, name, None),
    }
}

fn of_service(call: &Call, name: &str, port: Option<&str>) -> Result<(Object, Option<String>), Status> {
    let unavailable = |why: String| Status::new(Reason::ServiceUnavailable, why);
    let namespace = call.target.space();
    let stored = call.state.store.get(&Key::new("services", namespace, name));
    let stored = stored.ok_or_else(|| Status::not_found(call.target.resource, name))?;
    let service: Service = stored.read().map_err(Status::internal)?;
    let spec = service.spec.unwrap_or_default();
    let ports = spec.ports.unwrap_or_default();
    let chosen = port_of(&ports, port);
    let chosen = chosen.ok_or_else(|| {
        unavailable(format!("no service port {:?} found for service {name:?}", port.unwrap_or_default()))
    })?;
    let selector = spec.selector.unwrap_or_default();
    let (objects, _) = call.state.store.list("pods", Some(namespace));
    let is_meant = |pod: &Pod| {
        let labels = pod.metadata.labels.clone().unwrap_or_default();
        !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value)) && is_ready(pod)
    };
    let mut found = objects.into_iter().filter(|object| object.read::<Pod>().is_ok_and(|pod| is_meant(&pod)));
    let pod = found.next().ok_or_else(|| unavailable(format!("no endpoints available for service {name:?}")))?;
    let port = match chosen.target_port.clone() {
        Some(IntOrString::Int(number)) if number > 0 => number.to_string(),
        Some(IntOrString::String(name)) => name,
        Some(IntOrString::Int(_)) | None => chosen.port.to_string(),
    };
    Ok((pod, Some(port)))
}

/// By name or number; without either, the only one.
fn port_of<'a>(ports: &'a [ServicePort], wanted: Option<&str>) -> Option<&'a ServicePort> {
    match (wanted, ports) {
        (None, [only]) => Some(only),
        (None, _) => ports.iter().find(|port| port.name.as_deref().unwrap_or_default().is_empty()),
        (Some(wanted), _) => {
            let number = wanted.parse::<i32>().ok();
            ports.iter().find(|port| port.name.as_deref() == Some(wanted) || Some(port.port) == number)
        }
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let is_going = pod.metadata.deletion_timestamp.is_some();
    !is_going && conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_carry_a_scheme_and_a_port() {
        for (name, expected) in [
            ("web", (None, "web", None)),
            ("web:80", (None, "web", Some("80"))),
            ("http:web:80", (Some("http"), "web", Some("80"))),
            ("http:web:", (Some("http"), "web", None)),
        ] {
            assert_eq!(split(name), expected);
        }
    }

    #[test]
    fn a_proxy_without_a_slash_is_elsewhere() {
        let place = |method: &str, uri: &str, rest: &str| {
            let request = Request::builder().method(method).uri(uri).body(()).unwrap();
            moved(rest, &request).map(|response| response.headers()["location"].to_str().unwrap().to_owned())
        };
        assert_eq!(place("GET", "/pods/a/proxy?x=1", "").as_deref(), Some("/pods/a/proxy/?x=1"));
        assert_eq!(place("HEAD", "/pods/a/proxy", "").as_deref(), Some("/pods/a/proxy/"));
        assert_eq!((place("POST", "/pods/a/proxy", ""), place("GET", "/pods/a/proxy/", "/")), (None, None));
    }

    #[test]
    fn a_port_is_named_numbered_or_the_only_one() {
        let ports = |value| serde_json::from_value::<Vec<ServicePort>>(value).unwrap();
        let two = ports(json!([{"name": "a", "port": 80}, {"name": "b", "port": 81}]));
        let number = |ports: &[ServicePort], wanted| port_of(ports, wanted).map(|port| port.port);
        assert_eq!(number(&two, Some("b")), Some(81));
        assert_eq!(number(&two, Some("80")), Some(80));
        assert_eq!((number(&two, None), number(&two, Some("c"))), (None, None));
        assert_eq!(number(&two[..1], None), Some(80));
    }
}
