//! What an API server keeps up by itself: the objects that every cluster has, the account and the CA of each namespace, the
//! end of namespaces and of events, owners, quotas, and the endpoints of services.

mod endpoints;
mod events;
pub(crate) mod heartbeat;
mod namespaces;
mod owners;
mod quotas;

use std::rc::Rc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::fields;
use super::registry::{Class, RESOURCES};
use super::server::State;
use crate::admission::defaults;
use crate::store::{Change, Durability, Key, StoreError};
use crate::volume::claims;

pub(crate) use endpoints::endpoints;
pub(crate) use events::events;
pub(crate) use namespaces::{accounts, furnish, namespaces};
pub(crate) use owners::owners;
pub(crate) use quotas::quotas;

/// Wait before a feed that broke off is taken up again.
const RESUME: Duration = Duration::from_millis(100);
/// Namespaces that are always there.
const NAMESPACES: [&str; 4] = ["default", heartbeat::NAMESPACE, "kube-public", "kube-system"];

/// Stores what is missing of the objects that every cluster has.
///
/// # Errors
/// They can't be stored.
pub(crate) async fn bootstrap(state: &Rc<State>) -> Result<(), StoreError> {
    drop_unkept(state).await?;
    for name in NAMESPACES {
        let value = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
            "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"},
        });
        ensure(state, &Key::new("namespaces", "", name), value).await?;
        furnish(state, name).await?;
    }
    // Described as Kubernetes does.
    for (name, value) in defaults::BUILT_IN {
        let value = json!({
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name, "generation": 1},
            "value": value, "preemptionPolicy": "PreemptLowerPriority",
            "description": format!("Used for system critical pods that must {} moved from their current node.",
                if name == defaults::NODE_CRITICAL { "not be" } else { "run in the cluster, but can be" }),
        });
        ensure(state, &Key::new("priorityclasses.scheduling.k8s.io", "", name), value).await?;
    }
    default_class(state).await?;
    kubernetes(state).await
}

/// The class of claims that name none, for everybody to see; another one that is marked stays the only one.
async fn default_class(state: &Rc<State>) -> Result<(), StoreError> {
    let classes = "storageclasses.storage.k8s.io";
    if state
        .store
        .list(classes, None)
        .0
        .iter()
        .any(|object| object.read().is_ok_and(|class| claims::is_default(&class)))
    {
        return Ok(());
    }
    let value = serde_json::to_value(claims::default_class()).unwrap_or_default();
    ensure(state, &Key::new(classes, "", claims::CLASS), value).await
}

/// Removes objects of kinds that are listed as empty: earlier versions stored some.
async fn drop_unkept(state: &State) -> Result<(), StoreError> {
    for resource in RESOURCES.iter().filter(|resource| resource.class == Class::Workload) {
        for object in state.store.list(&resource.storage(), None).0 {
            tracing::warn!("{}: removed, nothing acts on it", object.key);
            state.store.commit(Change::Delete { key: object.key, expected: None }, Durability::Disk).await?;
        }
    }
    Ok(())
}

/// The service by which pods find this server, with its endpoints.
async fn kubernetes(state: &Rc<State>) -> Result<(), StoreError> {
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let address = std::net::Ipv4Addr::from(u32::from(state.config.services.network()) + 1).to_string();
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": labels},
        "spec": {
            "type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack", "internalTrafficPolicy": "Cluster", "sessionAffinity": "None",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port(state)}],
        },
        "status": {"loadBalancer": {}},
    });
    ensure(state, &Key::new("services", "default", "kubernetes"), service).await?;
    let Some(node) = state.config.addresses.iter().find(|address| address.is_ipv4()) else { return Ok(()) };
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": "kubernetes", "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{"addresses": [{"ip": node}], "ports": [{"name": "https", "port": port(state), "protocol": "TCP"}]}],
    });
    ensure(state, &Key::new("endpoints", "default", "kubernetes"), endpoints).await?;
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": "IPv4", "endpoints": [{"addresses": [node], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": port(state), "protocol": "TCP"}],
    });
    ensure(state, &Key::new("endpointslices.discovery.k8s.io", "default", "kubernetes"), slice).await
}

fn port(state: &State) -> u16 {
    state.address.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(6443)
}

/// Stores an object unless it is there.
async fn ensure(state: &State, key: &Key, mut value: Value) -> Result<(), StoreError> {
    if state.store.get(key).is_some() {
        return Ok(());
    }
    let metadata = fields::metadata(&mut value);
    metadata.insert("uid".to_owned(), uuid::Uuid::new_v4().to_string().into());
    metadata.insert("creationTimestamp".to_owned(), fields::time(Timestamp::now()));
    match state.store.commit(Change::Create { key: key.clone(), value }, Durability::Disk).await {
        Ok(_) | Err(StoreError::Exists(_)) => Ok(()),
        Err(error) => Err(error),
    }
}
