//! The Node object and its Lease.
//!
//! They are written when something of them changes; the API renews the Lease for those who look at it
//! ([`crate::api::keep::heartbeat`]).

use cgroupd::Resource;
use k8s_openapi::api::core::v1::{Node, Taint};
use serde_json::{Value, json};

use super::clock;
use super::host::Host;
use super::pressure::{Pressure, Pressures};
use crate::api::keep::heartbeat;
use crate::convert::sandbox::HANDLERS;
use crate::image;
use crate::store::{Change, Durability, Key, Store, StoreError};

/// The resource.
pub const NODES: &str = "nodes";
/// The version of Kubernetes whose behaviour this is.
pub const KUBELET_VERSION: &str = concat!("v1.36.0-monopod.", env!("CARGO_PKG_VERSION"));
/// `nodeStatusMaxImages` of the kubelet.
const IMAGES_MAX: usize = 50;

/// The node's uid, when the object is there.
pub fn uid(store: &Store, name: &str) -> Option<String> {
    super::pods::uid_of(&store.get(&Key::new(NODES, "", name))?)
}

/// Brings Node and Lease up to date. What users wrote of it (labels, annotations, taints, `unschedulable`) stays.
///
/// # Errors
/// The store refuses.
pub async fn publish(store: &Store, host: &Host, images: &image::Store) -> Result<(), StoreError> {
    let key = Key::new(NODES, "", &host.name);
    let stored = store.get(&key);
    let old = stored.as_ref().map(|object| object.value());
    let value = object(host, images, old.as_ref());
    let uid = value["metadata"]["uid"].clone();
    put(store, key, old.is_some(), value).await?;
    let key = heartbeat::key(&host.name);
    let old = store.get(&key).map(|object| object.value());
    let value = lease(host, &uid, old.as_ref());
    put(store, key, old.is_some(), value).await
}

async fn put(store: &Store, key: Key, is_there: bool, value: Value) -> Result<(), StoreError> {
    let change = if is_there { Change::Update { key, expected: None, value } } else { Change::Create { key, value } };
    store.commit(change, Durability::Kernel).await.map(drop)
}

/// What users wrote of the node, for the scheduler.
pub fn adopt_spec(host: &mut Host, node: &Node) {
    let spec = node.spec.clone().unwrap_or_default();
    host.cordoned = spec.unschedulable.unwrap_or(false);
    host.taints = spec.taints.unwrap_or_default();
    // The object may not have been written: the disk is full.
    host.pressure.taint(&mut host.taints);
    host.labels.extend(node.metadata.labels.clone().unwrap_or_default());
    let status = node.status.clone().unwrap_or_default();
    // As with a kubelet, what is only in the capacity can be had, too.
    let written = status.capacity.into_iter().chain(status.allocatable).flatten();
    host.extended = cgroupd::ResourceList::default();
    for (name, amount) in written {
        if let (Some(resource), Ok(amount)) = (extended(&name), amount.0.parse()) {
            host.extended.set(resource, amount);
        }
    }
}

/// The resource of this name, when it is none of the node's own.
fn extended(name: &str) -> Option<Resource> {
    match name.parse::<Resource>().ok()? {
        Resource::Cpu | Resource::Memory | Resource::EphemeralStorage | Resource::HugePages(_) => None,
        resource @ Resource::Extended(_) => Some(resource),
    }
}

fn object(host: &Host, images: &image::Store, old: Option<&Value>) -> Value {
    let mut metadata = old.map_or_else(
        || json!({"uid": uuid::Uuid::new_v4().to_string(), "creationTimestamp": clock::now()}),
        |old| old["metadata"].clone(),
    );
    metadata["name"] = json!(host.name);
    if !metadata["labels"].is_object() {
        metadata["labels"] = json!({});
    }
    for (key, value) in &host.labels {
        metadata["labels"][key] = json!(value);
    }
    let mut spec = old.map_or_else(|| json!({}), |old| old["spec"].clone());
    // As with a kubelet, those of the configuration are only registered: users may remove them.
    let known = spec.get("taints").and_then(|taints| serde_json::from_value(taints.clone()).ok()).unwrap_or_default();
    let mut taints: Vec<Taint> = if old.is_none() { host.taints.clone() } else { known };
    host.pressure.taint(&mut taints);
    if taints.is_empty() {
        spec.as_object_mut().map(|spec| spec.remove("taints"));
    } else {
        spec["taints"] = json!(taints);
    }
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": spec,
        "status": status(host, images, old.map(|old| &old["status"])),
    })
}

fn status(host: &Host, images: &image::Store, old: Option<&Value>) -> Value {
    let list = |field: &str, resources: &cgroupd::ResourceList| {
        let written = old.and_then(|old| old[field].as_object()).into_iter().flatten();
        let mut all: serde_json::Map<String, Value> = written
            .filter(|(name, _)| extended(name).is_some())
            .map(|(name, amount)| (name.clone(), amount.clone()))
            .collect();
        all.extend(resources.iter().map(|(resource, amount)| (resource.to_string(), json!(amount.to_string()))));
        all.insert("pods".to_owned(), json!(host.max_pods.to_string()));
        Value::Object(all)
    };
    let mut addresses: Vec<Value> =
        host.ips.iter().map(|ip| json!({"type": "InternalIP", "address": ip.to_string()})).collect();
    addresses.push(json!({"type": "Hostname", "address": host.name}));
    let conditions = conditions(&host.pressure, old);
    json!({
        "capacity": list("capacity", &host.capacity),
        "allocatable": list("allocatable", &host.allocatable),
        "conditions": conditions,
        "addresses": addresses,
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 0}},
        "nodeInfo": info(),
        "images": image_list(images),
        "runtimeHandlers": runtime_handlers(host),
        "features": {"supplementalGroupsPolicy": true},
    })
}

/// The default one has no name.
fn runtime_handlers(host: &Host) -> Vec<Value> {
    let features = json!({"recursiveReadOnlyMounts": true, "userNamespaces": host.user_namespaces});
    [""].iter().chain(&HANDLERS).map(|name| json!({"name": name, "features": features})).collect()
}

/// In the kubelet's words.
fn conditions(pressures: &Pressures, old: Option<&Value>) -> Vec<Value> {
    let pressure = |own: Pressure| {
        let holds = pressures.contains(own);
        let truth = if holds { "True" } else { "False" };
        condition(own.kind(), truth, &own.reason(holds), own.message(holds), old)
    };
    let ready = condition("Ready", "True", "KubeletReady", "kubelet is posting ready status", old);
    Pressure::ALL.map(pressure).into_iter().chain([ready]).collect()
}

fn condition(kind: &str, truth: &str, reason: &str, message: &str, old: Option<&Value>) -> Value {
    let known = old.and_then(|old| old["conditions"].as_array()?.iter().find(|own| own["type"] == kind));
    let same = known.filter(|known| known["status"] == truth);
    let since = same.map_or_else(|| json!(clock::now()), |known| known["lastTransitionTime"].clone());
    json!({
        "type": kind, "status": truth, "reason": reason, "message": message,
        "lastHeartbeatTime": clock::now(), "lastTransitionTime": since,
    })
}

fn info() -> Value {
    let uname = rustix::system::uname();
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    json!({
        "machineID": read("/etc/machine-id"),
        "systemUUID": read("/sys/class/dmi/id/product_uuid"),
        "bootID": crate::engine::record::boot_id(),
        "kernelVersion": uname.release().to_string_lossy(),
        "osImage": os_image(&read("/etc/os-release")),
        "containerRuntimeVersion": concat!("monopod://", env!("CARGO_PKG_VERSION")),
        "kubeletVersion": KUBELET_VERSION,
        "kubeProxyVersion": "",
        "operatingSystem": "linux",
        "architecture": super::host::architecture(),
    })
}

/// `PRETTY_NAME` of os-release(5).
fn os_image(text: &str) -> String {
    let line = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    line.unwrap_or("Linux").trim_matches(['"', '\'']).to_owned()
}

fn image_list(images: &image::Store) -> Vec<Value> {
    let all = images.images().unwrap_or_default().into_iter().flatten();
    let mut all: Vec<(u64, Vec<String>)> = all.map(|image| (image.size, names(&image))).collect();
    all.sort_by_key(|(size, _)| std::cmp::Reverse(*size));
    all.truncate(IMAGES_MAX);
    all.into_iter().map(|(size, names)| json!({"names": names, "sizeBytes": size})).collect()
}

fn names(image: &image::Image) -> Vec<String> {
    image.repo_digests.iter().cloned().chain(image.references.iter().map(ToString::to_string)).collect()
}

/// It goes with the Node of this uid.
fn lease(host: &Host, uid: &Value, old: Option<&Value>) -> Value {
    let mut metadata = old.map_or_else(
        || {
            json!({"name": host.name, "namespace": heartbeat::NAMESPACE, "uid": uuid::Uuid::new_v4().to_string(),
                "creationTimestamp": clock::now()})
        },
        |old| old["metadata"].clone(),
    );
    metadata["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "Node", "name": host.name, "uid": uid}]);
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata,
        "spec": {
            "holderIdentity": host.name,
            "leaseDurationSeconds": heartbeat::DURATION.as_secs(),
            "renewTime": heartbeat::time(jiff::Timestamp::now()),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::host::example;

    fn rendered(old: Option<&Value>) -> Value {
        let dir = tempfile::tempdir().unwrap();
        let images = image::Store::open(dir.path(), image::Limits::default()).unwrap();
        object(&example(), &images, old)
    }

    #[test]
    fn a_node_has_what_a_kubelet_shows() {
        let node: Node = serde_json::from_value(rendered(None)).unwrap();
        let status = node.status.unwrap();
        let capacity = status.capacity.unwrap();
        let text = |name: &str| capacity[name].0.clone();
        assert_eq!((text("cpu"), text("memory"), text("pods")), ("2".into(), "1Gi".into(), "110".into()));
        let ready = status.conditions.unwrap().into_iter().find(|own| own.type_ == "Ready").unwrap();
        assert_eq!(ready.status, "True");
        assert_eq!(node.metadata.labels.unwrap()["kubernetes.io/hostname"], "n1");
        assert!(status.node_info.unwrap().container_runtime_version.starts_with("monopod://"));
    }

    /// KEP-127, KEP-3857
    #[test]
    fn handlers_tell_what_they_can_do() {
        let features = |able| {
            let dir = tempfile::tempdir().unwrap();
            let images = image::Store::open(dir.path(), image::Limits::default()).unwrap();
            let node = object(&Host { user_namespaces: able, ..example() }, &images, None);
            let node: Node = serde_json::from_value(node).unwrap();
            let all = node.status.unwrap().runtime_handlers.unwrap().into_iter();
            let seen = |own: k8s_openapi::api::core::v1::NodeRuntimeHandler| {
                let features = own.features.unwrap();
                (own.name.unwrap(), features.recursive_read_only_mounts, features.user_namespaces)
            };
            all.map(seen).collect::<Vec<_>>()
        };
        for able in [false, true] {
            assert_eq!(features(able), ["", "runc"].map(|name| (name.to_owned(), Some(true), Some(able))));
        }
    }

    #[test]
    fn what_users_wrote_stays() {
        let mut old = rendered(None);
        old["metadata"]["labels"]["mine"] = json!("x");
        old["spec"]["unschedulable"] = json!(true);
        old["status"]["conditions"][3]["lastTransitionTime"] = json!("2026-01-01T00:00:00Z");
        let new = rendered(Some(&old));
        assert_eq!(new["metadata"]["labels"]["mine"], "x");
        assert_eq!(new["metadata"]["uid"], old["metadata"]["uid"]);
        assert_eq!(new["spec"]["unschedulable"], true);
        assert_eq!(new["status"]["conditions"][3]["lastTransitionTime"], "2026-01-01T00:00:00Z");
    }

    /// RL6: the node gives what somebody says it has, until nobody says so any more.
    #[test]
    fn extended_resources_of_the_status_stay_and_count() {
        let thing: Resource = "dummy.com/dummy".parse().unwrap();
        let mut old = rendered(None);
        old["status"]["capacity"]["dummy.com/dummy"] = json!("3");
        let shown = rendered(Some(&old));
        assert_eq!(shown["status"]["capacity"]["dummy.com/dummy"], "3");
        let gives = |node: &Value| {
            let mut host = example();
            adopt_spec(&mut host, &serde_json::from_value(node.clone()).unwrap());
            (host.gives(&thing).units(), host.gives(&Resource::Cpu).millis())
        };
        assert_eq!(gives(&shown), (3, 2000));
        old["status"]["allocatable"]["dummy.com/dummy"] = json!("2");
        assert_eq!(gives(&rendered(Some(&old))), (2, 2000));
        assert_eq!(gives(&rendered(None)), (0, 2000));
    }

    /// EV5: a node that has too little takes nothing, and what users wrote stays.
    #[test]
    fn pressure_is_a_condition_and_a_taint() {
        let dir = tempfile::tempdir().unwrap();
        let images = image::Store::open(dir.path(), image::Limits::default()).unwrap();
        let mut old = rendered(None);
        old["spec"]["taints"] = json!([{"key": "mine", "effect": "NoExecute"}]);
        for (pressure, index, key, reason) in [
            (Pressure::Memory, 0, "node.kubernetes.io/memory-pressure", "KubeletHasInsufficientMemory"),
            (Pressure::Disk, 1, "node.kubernetes.io/disk-pressure", "KubeletHasDiskPressure"),
            (Pressure::Pid, 2, "node.kubernetes.io/pid-pressure", "KubeletHasInsufficientPID"),
        ] {
            let full = Host { pressure: [pressure].into_iter().collect(), ..example() };
            let shown = object(&full, &images, Some(&old));
            let condition = &shown["status"]["conditions"][index];
            assert_eq!((&condition["status"], &condition["reason"]), (&json!("True"), &json!(reason)));
            let taint = json!({"key": key, "effect": "NoSchedule"});
            assert_eq!(shown["spec"]["taints"], json!([{"key": "mine", "effect": "NoExecute"}, taint]));
            let after = object(&example(), &images, Some(&shown));
            assert_eq!(
                (&after["spec"], &after["status"]["conditions"][index]["status"]),
                (&old["spec"], &json!("False"))
            );
            let mut read = full.clone();
            adopt_spec(&mut read, &serde_json::from_value(rendered(None)).unwrap());
            assert_eq!(read.taints[0].key, key);
        }
    }

    #[test]
    fn the_lease_belongs_to_the_node() {
        let lease = lease(&example(), &json!("u1"), None);
        let owner = json!({"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "u1"});
        assert_eq!(lease["metadata"]["ownerReferences"], json!([owner]));
        assert_eq!(lease["spec"]["holderIdentity"], "n1");
    }

    #[test]
    fn the_system_is_called_as_it_calls_itself() {
        assert_eq!(os_image("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n"), "Debian GNU/Linux 12");
        assert_eq!(os_image(""), "Linux");
    }
}
