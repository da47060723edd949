//! The defaults of what Pods refer to.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, LimitRange, Namespace, NamespaceSpec, PersistentVolume, PersistentVolumeClaim, PodTemplate,
    Secret, Service,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{normalised, pod_spec, set_number, set_text};

/// The label by which a namespace can be selected by name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// Empty collections are absent ones.
pub fn config_map(config_map: &mut ConfigMap) {
    if config_map.data.as_ref().is_some_and(BTreeMap::is_empty) {
        config_map.data = None;
    }
    if config_map.binary_data.as_ref().is_some_and(BTreeMap::is_empty) {
        config_map.binary_data = None;
    }
}

/// `type: Opaque`.
pub fn secret(secret: &mut Secret) {
    set_text(&mut secret.type_, "Opaque");
}

/// The finalizer `kubernetes` and the label with its own name.
pub fn namespace(namespace: &mut Namespace) {
    let name = namespace.metadata.name.clone().unwrap_or_default();
    namespace.metadata.labels.get_or_insert_default().insert(NAME_LABEL.to_owned(), name);
    let spec = namespace.spec.get_or_insert_with(NamespaceSpec::default);
    if spec.finalizers.as_ref().is_none_or(Vec::is_empty) {
        spec.finalizers = Some(vec!["kubernetes".to_owned()]);
    }
}

/// `volumeMode: Filesystem`; quantities in canonical form.
pub fn persistent_volume_claim(claim: &mut PersistentVolumeClaim) {
    let spec = claim.spec.get_or_insert_default();
    set_text(&mut spec.volume_mode, "Filesystem");
    if let Some(resources) = &mut spec.resources {
        for list in [&mut resources.requests, &mut resources.limits] {
            list.iter_mut().flat_map(BTreeMap::values_mut).for_each(|quantity| quantity.0 = normalised(&quantity.0));
        }
    }
}

/// `Retain`, `Filesystem`; capacity in canonical form.
pub fn persistent_volume(volume: &mut PersistentVolume) {
    let spec = volume.spec.get_or_insert_default();
    set_text(&mut spec.persistent_volume_reclaim_policy, "Retain");
    set_text(&mut spec.volume_mode, "Filesystem");
    spec.capacity.iter_mut().flat_map(BTreeMap::values_mut).for_each(|quantity| quantity.0 = normalised(&quantity.0));
}

/// `Delete`, `Immediate`.
pub fn storage_class(class: &mut StorageClass) {
    set_text(&mut class.reclaim_policy, "Delete");
    set_text(&mut class.volume_binding_mode, "Immediate");
}

/// TCP
pub fn endpoints(endpoints: &mut Endpoints) {
    let ports = endpoints.subsets.iter_mut().flatten().flat_map(|subset| subset.ports.iter_mut().flatten());
    ports.for_each(|port| set_text(&mut port.protocol, "TCP"));
}

/// TCP, and a name for every port, if an empty one.
pub fn endpoint_slice(slice: &mut EndpointSlice) {
    for port in slice.ports.iter_mut().flatten() {
        set_text(&mut port.protocol, "TCP");
        port.name.get_or_insert_default();
    }
}

/// Those of the pods that are made of it.
pub fn pod_template(template: &mut PodTemplate) {
    pod_spec(template.template.get_or_insert_default().spec.get_or_insert_default());
}

/// What containers get follows from what they may have at most and must have at least.
pub fn limit_range(range: &mut LimitRange) {
    let items = range.spec.iter_mut().flat_map(|spec| &mut spec.limits);
    for item in items.filter(|item| item.type_ == "Container") {
        take_over(item.max.as_ref(), &mut item.default);
        take_over(item.default.as_ref(), &mut item.default_request);
        take_over(item.min.as_ref(), &mut item.default_request);
    }
}

fn take_over(from: Option<&BTreeMap<String, Quantity>>, to: &mut Option<BTreeMap<String, Quantity>>) {
    for (name, amount) in from.into_iter().flatten() {
        to.get_or_insert_default().entry(name.clone()).or_insert_with(|| amount.clone());
    }
}

/// `preemptionPolicy: PreemptLowerPriority`.
pub fn priority_class(class: &mut PriorityClass) {
    set_text(&mut class.preemption_policy, "PreemptLowerPriority");
}

/// Type, session affinity, traffic policy, and of each port its protocol and target.
pub fn service(service: &mut Service) {
    let spec = service.spec.get_or_insert_default();
    set_text(&mut spec.type_, "ClusterIP");
    set_text(&mut spec.session_affinity, "None");
    let is_external_name = spec.type_.as_deref() == Some("ExternalName");
    if !is_external_name {
        set_text(&mut spec.internal_traffic_policy, "Cluster");
    }
    if matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer")) {
        set_text(&mut spec.external_traffic_policy, "Cluster");
    }
    if spec.type_.as_deref() == Some("LoadBalancer") {
        spec.allocate_load_balancer_node_ports.get_or_insert(true);
    }
    if let Some(affinity) = &mut spec.session_affinity_config
        && let Some(client_ip) = &mut affinity.client_ip
    {
        set_number(&mut client_ip.timeout_seconds, 10_800);
    }
    for port in spec.ports.iter_mut().flatten() {
        set_text(&mut port.protocol, "TCP");
        let is_unset = match &port.target_port {
            None | Some(IntOrString::Int(0)) => true,
            Some(IntOrString::String(name)) => name.is_empty(),
            Some(IntOrString::Int(_)) => false,
        };
        if is_unset && !is_external_name {
            port.target_port = Some(IntOrString::Int(port.port));
        }
    }
}
