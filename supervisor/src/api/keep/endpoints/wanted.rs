//! What the Endpoints and the EndpointSlices of a service say, from the service and the pods of its namespace. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Map, Value, json};

use super::super::super::fields;

/// Endpoints of one slice, as the controllers of a cluster fill it.
const ENDPOINTS_MAX: usize = 100;
/// Endpoints of a mirrored subset; further ones are left out.
const MIRRORED_MAX: usize = 1000;

const SERVICE_NAME: &str = "kubernetes.io/service-name";
const SLICE_MANAGER: &str = "endpointslice.kubernetes.io/managed-by";
const HEADLESS: &str = "service.kubernetes.io/headless";
/// Endpoints with this label are not mirrored.
const SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Endpoints that are the lock of an election are not mirrored.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// By this, made Endpoints are told from those that users write.
const ENDPOINTS_MANAGER: (&str, &str) = ("endpoints.kubernetes.io/managed-by", "endpoint-controller");

/// Who keeps a slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keeper {
    /// It follows the pods.
    Pods,
    /// It follows the Endpoints that a user wrote.
    Mirror,
}

impl Keeper {
    fn name(self) -> &'static str {
        match self {
            Self::Pods => "endpointslice-controller.k8s.io",
            Self::Mirror => "endpointslicemirroring-controller.k8s.io",
        }
    }

    /// The keeper of a stored slice; none for somebody else's.
    pub(super) fn of(slice: &Value) -> Option<Self> {
        let name = fields::text(slice, &["metadata", "labels", SLICE_MANAGER]);
        [Self::Pods, Self::Mirror].into_iter().find(|keeper| keeper.name() == name)
    }
}

/// The service that a stored slice belongs to.
pub(super) fn service_of(slice: &Value) -> &str {
    fields::text(slice, &["metadata", "labels", SERVICE_NAME])
}

/// Whether somebody else than the user wrote these Endpoints.
pub(super) fn is_made(endpoints: &Value) -> bool {
    fields::text(endpoints, &["metadata", "labels", ENDPOINTS_MANAGER.0]) == ENDPOINTS_MANAGER.1
}

/// Whether a service says which pods are meant.
pub(super) fn has_selector(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| spec.selector.as_ref().is_some_and(|selector| !selector.is_empty()))
}

/// A family of addresses, as slices name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn of(ip: &str) -> Option<Self> {
        Some(match ip.parse().ok()? {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        })
    }

    fn text(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// Those of a service, the first one first.
    fn all(service: &Service) -> Vec<Self> {
        let names = service.spec.as_ref().and_then(|spec| spec.ip_families.clone()).unwrap_or_default();
        let families: Vec<Self> = names.iter().map(|name| if name == "IPv6" { Self::V6 } else { Self::V4 }).collect();
        if families.is_empty() { vec![Self::V4] } else { families }
    }
}

/// A pod of a service.
struct Member<'a> {
    pod: &'a Pod,
    is_ready: bool,
    is_going: bool,
    ports: Vec<Value>,
}

/// The pods that a service means, and that have an address and have not ended.
fn members<'a>(service: &Service, pods: &'a [Pod]) -> Vec<Member<'a>> {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.clone()).unwrap_or_default();
    let is_meant = |pod: &&Pod| {
        let labels = pod.metadata.labels.as_ref();
        let has = |(key, value)| labels.is_some_and(|labels| labels.get(key) == Some(value));
        !selector.is_empty() && selector.iter().all(has)
    };
    let is_over = |pod: &&Pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    };
    let found = pods.iter().filter(is_meant).filter(|pod| !is_over(pod) && !addresses(pod).is_empty());
    let member = |pod: &'a Pod| Member {
        pod,
        is_ready: is_ready(pod),
        is_going: pod.metadata.deletion_timestamp.is_some(),
        ports: ports(service, pod),
    };
    found.map(member).collect()
}

fn addresses(pod: &Pod) -> Vec<&str> {
    let Some(status) = &pod.status else { return Vec::new() };
    let all: Vec<&str> = status.pod_ips.iter().flatten().map(|own| own.ip.as_str()).collect();
    if all.is_empty() { status.pod_ip.iter().map(String::as_str).collect() } else { all }
}

/// Whether the readiness of a pod says so, whatever else becomes of it.
fn is_ready(pod: &Pod) -> bool {
    let mut conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// The ports of a service in a pod; those that the pod doesn't name are left out.
fn ports(service: &Service, pod: &Pod) -> Vec<Value> {
    let all = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    all.filter_map(|port| {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let mut entry = json!({
            "name": port.name.as_deref().unwrap_or_default(), "port": number(port, protocol, pod)?, "protocol": protocol,
        });
        if let Some(application) = &port.app_protocol {
            entry["appProtocol"] = application.as_str().into();
        }
        Some(entry)
    })
    .collect()
}

fn number(port: &ServicePort, protocol: &str, pod: &Pod) -> Option<i32> {
    let name = match &port.target_port {
        Some(IntOrString::Int(number)) if *number > 0 => return Some(*number),
        Some(IntOrString::Int(_)) | None => return Some(port.port),
        Some(IntOrString::String(name)) => name,
    };
    let spec = pod.spec.as_ref()?;
    // An init container that goes on running serves, too.
    let sidecars = spec.init_containers.iter().flatten().filter(|own| own.restart_policy.as_deref() == Some("Always"));
    let mut known = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    let is_meant = |own: &k8s_openapi::api::core::v1::ContainerPort| {
        own.name.as_ref() == Some(name) && own.protocol.as_deref().unwrap_or("TCP") == protocol
    };
    known.find(|own| is_meant(own)).map(|own| own.container_port)
}

fn target(pod: &Pod) -> Value {
    let meta = &pod.metadata;
    json!({"kind": "Pod", "namespace": meta.namespace, "name": meta.name, "uid": meta.uid})
}

fn node(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref())
}

/// The name that a pod has below its service.
fn hostname<'a>(service: &Service, pod: &'a Pod) -> Option<&'a str> {
    let spec = pod.spec.as_ref()?;
    spec.hostname.as_deref().filter(|name| !name.is_empty() && spec.subdomain == service.metadata.name)
}

fn is_published(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses).unwrap_or_default()
}

fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
}

/// The labels of a service, as what is made for it has them.
fn labels(service: &Service) -> Map<String, Value> {
    let own = service.metadata.labels.iter().flatten();
    let mut labels: Map<String, Value> = own.map(|(key, value)| (key.clone(), value.as_str().into())).collect();
    labels.remove(HEADLESS);
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), "".into());
    }
    labels
}

/// `metadata.labels` and `subsets` of the Endpoints of a service.
pub(super) fn endpoints(service: &Service, pods: &[Pod]) -> (Value, Value) {
    let mut labels = labels(service);
    labels.insert(ENDPOINTS_MANAGER.0.to_owned(), ENDPOINTS_MANAGER.1.into());
    let is_published = is_published(service);
    let has_no_ports = service.spec.as_ref().is_none_or(|spec| spec.ports.as_ref().is_none_or(Vec::is_empty));
    // Ports with the same addresses stand together.
    let mut by_port = BTreeMap::<String, (Value, BTreeMap<IpAddr, (bool, Value)>)>::new();
    for member in members(service, pods).iter().filter(|member| is_published || !member.is_going) {
        let ip = addresses(member.pod).first().and_then(|ip| ip.parse().ok());
        let Some(ip) = ip else { continue };
        let bare = (has_no_ports && is_headless(service)).then_some(Value::Null);
        for port in member.ports.iter().cloned().chain(bare) {
            let (_, known) = by_port.entry(port.to_string()).or_insert_with(|| (port, BTreeMap::new()));
            known.insert(ip, (is_published || member.is_ready, address(service, member.pod, ip)));
        }
    }
    let mut subsets = Vec::<(BTreeMap<IpAddr, (bool, Value)>, Vec<Value>)>::new();
    for (port, addresses) in by_port.into_values() {
        match subsets.iter_mut().find(|(known, _)| *known == addresses) {
            Some((_, ports)) => ports.push(port),
            None => subsets.push((addresses, vec![port])),
        }
    }
    (Value::Object(labels), subsets.into_iter().map(|(addresses, ports)| subset(&addresses, ports)).collect())
}

fn address(service: &Service, pod: &Pod, ip: IpAddr) -> Value {
    let mut entry = json!({"ip": ip.to_string(), "targetRef": target(pod)});
    if let Some(node) = node(pod) {
        entry["nodeName"] = node.into();
    }
    if let Some(name) = hostname(service, pod) {
        entry["hostname"] = name.into();
    }
    entry
}

fn subset(addresses: &BTreeMap<IpAddr, (bool, Value)>, ports: Vec<Value>) -> Value {
    let mut subset = json!({});
    for (key, wanted) in [("addresses", true), ("notReadyAddresses", false)] {
        let these = addresses.values().filter(|(is_ready, _)| *is_ready == wanted);
        let these: Vec<Value> = these.map(|(_, address)| address.clone()).collect();
        if !these.is_empty() {
            subset[key] = these.into();
        }
    }
    let ports: Vec<Value> = ports.into_iter().filter(|port| !port.is_null()).map(unnamed).collect();
    if !ports.is_empty() {
        subset["ports"] = ports.into();
    }
    subset
}

/// In Endpoints, a port without a name has none.
fn unnamed(mut port: Value) -> Value {
    if fields::text(&port, &["name"]).is_empty() {
        fields::entries(&mut port).remove("name");
    }
    port
}

/// A slice as it should be; its name is whatever it is stored under.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Slice {
    pub keeper: Keeper,
    /// What its name begins with.
    pub owner: String,
    pub labels: Value,
    pub owners: Value,
    pub family: &'static str,
    pub ports: Value,
    pub endpoints: Value,
}

impl Slice {
    /// Puts what it says into a stored object, or a new one.
    pub(super) fn write(&self, value: &mut Value) {
        let metadata = fields::metadata(value);
        metadata.insert("labels".to_owned(), self.labels.clone());
        metadata.insert("ownerReferences".to_owned(), self.owners.clone());
        value["addressType"] = self.family.into();
        value["endpoints"] = self.endpoints.clone();
        value["ports"] = self.ports.clone();
    }

    /// How well a stored slice serves for it: with the same ports, nobody who follows them has to look anew.
    pub(super) fn is_near(&self, stored: &Value) -> bool {
        stored["addressType"] == self.family && stored["ports"] == self.ports
    }
}

fn owner(kind: &str, name: &str, uid: &str) -> Value {
    json!([{"apiVersion": "v1", "kind": kind, "name": name, "uid": uid, "controller": true, "blockOwnerDeletion": true}])
}

fn slice_labels(mut labels: Map<String, Value>, service: &str, keeper: Keeper) -> Value {
    labels.insert(SERVICE_NAME.to_owned(), service.into());
    labels.insert(SLICE_MANAGER.to_owned(), keeper.name().into());
    Value::Object(labels)
}

/// The slices of a service: one for each family and each way in which pods number its ports; an empty one without pods.
pub(super) fn slices(service: &Service, pods: &[Pod]) -> Vec<Slice> {
    let name = service.metadata.name.as_deref().unwrap_or_default();
    let members = members(service, pods);
    let slice = |family: Family, ports: &[Value], endpoints: &[Value]| Slice {
        keeper: Keeper::Pods,
        owner: name.to_owned(),
        labels: slice_labels(labels(service), name, Keeper::Pods),
        owners: owner("Service", name, service.metadata.uid.as_deref().unwrap_or_default()),
        family: family.text(),
        ports: ports.into(),
        endpoints: endpoints.into(),
    };
    let mut slices = Vec::new();
    for family in Family::all(service) {
        let mut by_ports: Vec<(&[Value], Vec<Value>)> = Vec::new();
        for member in &members {
            let own = addresses(member.pod).into_iter().filter(|ip| Family::of(ip) == Some(family)).collect::<Vec<_>>();
            let Some(ip) = own.first() else { continue };
            let entry = endpoint(service, member, ip);
            match by_ports.iter_mut().find(|(ports, _)| *ports == member.ports.as_slice()) {
                Some((_, entries)) => entries.push(entry),
                None => by_ports.push((&member.ports, vec![entry])),
            }
        }
        if by_ports.is_empty() {
            slices.push(slice(family, &[], &[]));
        }
        for (ports, entries) in by_ports {
            slices.extend(entries.chunks(ENDPOINTS_MAX).map(|entries| slice(family, ports, entries)));
        }
    }
    slices
}

fn endpoint(service: &Service, member: &Member<'_>, ip: &str) -> Value {
    let (is_ready, is_going) = (member.is_ready, member.is_going);
    let counts = is_published(service) || is_ready && !is_going;
    let mut entry = json!({
        "addresses": [ip], "targetRef": target(member.pod),
        "conditions": {"ready": counts, "serving": is_ready, "terminating": is_going},
    });
    if let Some(node) = node(member.pod) {
        entry["nodeName"] = node.into();
    }
    if let Some(name) = hostname(service, member.pod) {
        entry["hostname"] = name.into();
    }
    entry
}

/// The slices that say what the Endpoints say which a user wrote for a service without a selector.
pub(super) fn mirrored(endpoints: &Value) -> Vec<Slice> {
    let text = |path: &[&str]| fields::text(endpoints, path);
    let is_left_out = text(&["metadata", "labels", SKIP_MIRROR]) == "true"
        || !text(&["metadata", "deletionTimestamp"]).is_empty()
        || fields::at(endpoints, &["metadata", "annotations", LEADER]).is_some();
    if is_left_out || is_made(endpoints) {
        return Vec::new();
    }
    let name = text(&["metadata", "name"]);
    let own = fields::at(endpoints, &["metadata", "labels"]).and_then(Value::as_object).cloned().unwrap_or_default();
    let slice = |family: Family, ports: &[Value], entries: &[Value]| Slice {
        keeper: Keeper::Mirror,
        owner: name.to_owned(),
        labels: slice_labels(own.clone(), name, Keeper::Mirror),
        owners: owner("Endpoints", name, text(&["metadata", "uid"])),
        family: family.text(),
        ports: ports.into(),
        endpoints: entries.into(),
    };
    let mut slices = Vec::new();
    for subset in fields::at(endpoints, &["subsets"]).and_then(Value::as_array).into_iter().flatten() {
        let list = |key: &str| fields::at(subset, &[key]).and_then(Value::as_array).into_iter().flatten();
        let ports: Vec<Value> = list("ports").map(mirrored_port).collect();
        let all = list("addresses").map(|own| (own, true)).chain(list("notReadyAddresses").map(|own| (own, false)));
        let all: Vec<(&Value, bool)> = all.take(MIRRORED_MAX).collect();
        for family in [Family::V4, Family::V6] {
            let these = all.iter().filter(|(own, _)| Family::of(fields::text(own, &["ip"])) == Some(family));
            let entries: Vec<Value> = these.map(|(own, is_ready)| mirrored_endpoint(own, *is_ready)).collect();
            slices.extend(entries.chunks(ENDPOINTS_MAX).map(|entries| slice(family, &ports, entries)));
        }
    }
    slices
}

fn mirrored_port(port: &Value) -> Value {
    let mut entry = port.clone();
    let entries = fields::entries(&mut entry);
    entries.entry("name").or_insert_with(|| "".into());
    entries.entry("protocol").or_insert_with(|| "TCP".into());
    entry
}

fn mirrored_endpoint(address: &Value, is_ready: bool) -> Value {
    let mut entry = json!({"addresses": [fields::text(address, &["ip"])], "conditions": {"ready": is_ready}});
    for key in ["hostname", "nodeName", "targetRef"] {
        fields::copy(address, fields::entries(&mut entry), key);
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(spec: Value) -> Service {
        let labels = json!({"team": "a"});
        let meta = json!({"name": "web", "namespace": "d", "uid": "s1", "labels": labels});
        serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap()
    }

    fn pod(name: &str, ip: &str, port: u16, more: Value) -> Pod {
        let mut value = json!({
            "metadata": {"name": name, "namespace": "d", "uid": name, "labels": {"app": "web"}},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": port}]}]},
            "status": {"phase": "Running", "podIP": ip, "conditions": [{"type": "Ready", "status": "True"}]},
        });
        for (pointer, new) in more.as_object().unwrap() {
            *value.pointer_mut(pointer).unwrap() = new.clone();
        }
        serde_json::from_value(value).unwrap()
    }

    fn web() -> Value {
        json!({"selector": {"app": "web"}, "ports": [{"name": "p", "port": 80, "targetPort": "http"}]})
    }

    #[test]
    fn pods_stand_in_endpoints_by_readiness_and_port() {
        let not_ready = json!({"/status/conditions/0/status": "False"});
        let pods = [
            pod("a", "10.0.0.1", 3000, json!({})),
            pod("b", "10.0.0.2", 3000, not_ready),
            pod("c", "10.0.0.3", 3001, json!({})),
            pod("over", "10.0.0.4", 3000, json!({"/status/phase": "Failed"})),
            pod("other", "10.0.0.5", 3000, json!({"/metadata/labels/app": "db"})),
        ];
        let (labels, subsets) = endpoints(&service(web()), &pods);
        assert_eq!(labels, json!({"team": "a", "endpoints.kubernetes.io/managed-by": "endpoint-controller"}));
        let ips = |list: &Value| -> Vec<String> {
            list.as_array().into_iter().flatten().map(|own| own["ip"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(subsets.as_array().unwrap().len(), 2);
        assert_eq!(ips(&subsets[0]["addresses"]), ["10.0.0.1"]);
        assert_eq!(ips(&subsets[0]["notReadyAddresses"]), ["10.0.0.2"]);
        assert_eq!(subsets[0]["ports"], json!([{"name": "p", "port": 3000, "protocol": "TCP"}]));
        assert_eq!(subsets[1]["ports"][0]["port"], 3001);
        let address = &subsets[0]["addresses"][0];
        assert_eq!((&address["nodeName"], &address["targetRef"]["uid"]), (&json!("n1"), &json!("a")));
        let mut published = web();
        published["publishNotReadyAddresses"] = true.into();
        assert_eq!(ips(&endpoints(&service(published), &pods).1[0]["addresses"]), ["10.0.0.1", "10.0.0.2"]);
    }

    #[test]
    fn a_slice_says_of_each_pod_whether_it_serves() {
        let mut going = pod("b", "10.0.0.2", 3000, json!({}));
        going.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        let pods = [pod("a", "10.0.0.1", 3000, json!({})), going, pod("c", "10.0.0.3", 3001, json!({}))];
        let slices = slices(&service(web()), &pods);
        assert_eq!(slices.len(), 2);
        let conditions = |at: usize| slices[0].endpoints[at]["conditions"].clone();
        assert_eq!(conditions(0), json!({"ready": true, "serving": true, "terminating": false}));
        assert_eq!(conditions(1), json!({"ready": false, "serving": true, "terminating": true}));
        assert_eq!((&slices[0].owners[0]["kind"], &slices[0].owners[0]["uid"]), (&json!("Service"), &json!("s1")));
        assert_eq!(slices[0].labels["kubernetes.io/service-name"], "web");
        let mut stored = json!({"metadata": {"name": "web-x"}});
        slices[0].write(&mut stored);
        assert!(slices[0].is_near(&stored) && !slices[1].is_near(&stored));
        assert_eq!((Keeper::of(&stored), service_of(&stored)), (Some(Keeper::Pods), "web"));
        // Who is going is in no Endpoints.
        assert_eq!(endpoints(&service(web()), &pods[1..2]).1, json!([]));
    }

    #[test]
    fn without_pods_there_is_an_empty_slice() {
        let slices = slices(&service(web()), &[]);
        assert_eq!((slices.len(), &slices[0].endpoints, &slices[0].ports), (1, &json!([]), &json!([])));
        assert_eq!(endpoints(&service(web()), &[]).1, json!([]));
        assert!(has_selector(&service(web())) && !has_selector(&service(json!({}))));
    }

    #[test]
    fn a_headless_service_needs_no_ports() {
        let headless = service(json!({"selector": {"app": "web"}, "clusterIP": "None"}));
        let mut named = pod("a", "10.0.0.1", 3000, json!({}));
        let spec = named.spec.as_mut().unwrap();
        (spec.hostname, spec.subdomain) = (Some("db-0".to_owned()), Some("web".to_owned()));
        let (labels, subsets) = endpoints(&headless, std::slice::from_ref(&named));
        assert_eq!(labels["service.kubernetes.io/headless"], "");
        assert_eq!((&subsets[0]["addresses"][0]["hostname"], &subsets[0]["ports"]), (&json!("db-0"), &Value::Null));
        assert_eq!(slices(&headless, &[named])[0].endpoints[0]["hostname"], "db-0");
    }

    #[test]
    fn what_users_write_is_mirrored_unless_they_say_no() {
        let mut own = json!({"metadata": {"name": "web", "uid": "e1", "labels": {"x": "y"}}, "subsets": [{
            "ports": [{"port": 80}], "addresses": [{"ip": "10.1.2.3"}, {"ip": "fd00::1"}],
            "notReadyAddresses": [{"ip": "10.1.2.4", "hostname": "h"}],
        }]});
        let slices = mirrored(&own);
        assert_eq!(slices.iter().map(|slice| slice.family).collect::<Vec<_>>(), ["IPv4", "IPv6"]);
        assert_eq!(slices[0].ports, json!([{"name": "", "port": 80, "protocol": "TCP"}]));
        let entries = json!([
            {"addresses": ["10.1.2.3"], "conditions": {"ready": true}},
            {"addresses": ["10.1.2.4"], "conditions": {"ready": false}, "hostname": "h"},
        ]);
        assert_eq!(slices[0].endpoints, entries);
        assert_eq!(slices[0].owners[0]["kind"], "Endpoints");
        let mut going = own.clone();
        going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        assert!(mirrored(&going).is_empty());
        own["metadata"]["labels"] = json!({SKIP_MIRROR: "true"});
        assert!(mirrored(&own).is_empty());
    }
}
