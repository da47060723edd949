//! Which pod goes, and with which message (EV5, EV6). Pure.

use std::cmp::Reverse;

use cgroupd::{Quantity, Resource};
use k8s_openapi::api::core::v1::Pod;

use super::signal::Met;
use crate::convert::{machine, resources};
use crate::node::{PodStats, Scarce};

/// The pod that is evicted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Victim {
    pub uid: String,
    pub message: String,
}

/// The first in the order of EV6; none when only critical and static pods are here.
pub fn choose(met: &Met, pods: &[PodStats]) -> Option<Victim> {
    let scarce = met.signal.scarce();
    let candidates = pods.iter().filter(|own| !machine::is_critical(&own.pod));
    let first = candidates.min_by_key(|own| rank(scarce, own))?;
    Some(Victim { uid: first.uid.clone(), message: message(met, first) })
}

/// Who is small goes first: beyond its request, then of low priority, then by how far it is beyond. Processes nobody
/// requests. The uid only makes it one order.
fn rank(scarce: Scarce, own: &PodStats) -> (bool, i32, Reverse<i128>, &str) {
    let excess = i128::from(own.used) - i128::from(requested(scarce, &own.pod).units());
    let within = match scarce {
        Scarce::Memory | Scarce::Storage | Scarce::Inodes => excess <= 0,
        Scarce::Pids => true,
    };
    let priority = own.pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0);
    (within, priority, Reverse(excess), &own.uid)
}

/// What a pod asks for as a whole (5.4).
fn requested(scarce: Scarce, pod: &Pod) -> Quantity {
    let asked = |resource: &Resource| {
        let all = pod.spec.as_ref().and_then(|spec| resources::pod(spec).ok());
        all.map_or(Quantity::ZERO, |all| all.requests().amount(resource))
    };
    match scarce {
        Scarce::Memory => asked(&Resource::Memory),
        Scarce::Storage => asked(&Resource::EphemeralStorage),
        Scarce::Inodes | Scarce::Pids => Quantity::ZERO,
    }
}

/// The message of the eviction (EV5), its last blank included.
fn message(met: &Met, own: &PodStats) -> String {
    let scarce = met.signal.scarce();
    let mut text = format!(
        "The node was low on resource: {scarce}. Threshold quantity: {}, available: {}. ",
        met.threshold, met.available
    );
    let resource = match scarce {
        Scarce::Memory => Resource::Memory,
        Scarce::Storage => Resource::EphemeralStorage,
        // Those are not told of containers.
        Scarce::Inodes | Scarce::Pids => return text,
    };
    for (name, used) in &own.containers {
        let asked = container_request(&own.pod, name, &resource);
        let used = Quantity::from_bytes(*used);
        // Ephemeral containers ask for nothing, so they are not blamed.
        if let Some(asked) = asked.filter(|asked| used > *asked) {
            text +=
                &format!("Container {name} was using {used}, request is {asked}, has larger consumption of {scarce}. ");
        }
    }
    text
}

/// None for a container that is not of the spec.
fn container_request(pod: &Pod, name: &str, resource: &Resource) -> Option<Quantity> {
    let spec = pod.spec.as_ref()?;
    let mut all = spec.init_containers.iter().flatten().chain(&spec.containers);
    let own = all.find(|container| container.name == name)?;
    Some(resources::container(own).ok()?.requests.amount(resource))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::pressure::signal::Signal;
    use serde_json::json;

    const MI: u64 = 1 << 20;

    fn pod(uid: &str, priority: i32, resource: &str, request: &str, used: u64) -> PodStats {
        let container = json!({"name": "c", "resources": {"requests": {resource: request}}});
        let pod = json!({"metadata": {"uid": uid}, "spec": {"priority": priority, "containers": [container]}});
        let pod = serde_json::from_value(pod).unwrap();
        PodStats { uid: uid.to_owned(), pod, used, containers: vec![("c".to_owned(), used)] }
    }

    fn met(signal: Signal) -> Met {
        Met { signal, threshold: Quantity::from_bytes(100 * MI), available: Quantity::from_bytes(52 * MI) }
    }

    fn goes(signal: Signal, pods: &[PodStats]) -> String {
        choose(&met(signal), pods).map(|victim| victim.uid).unwrap_or_default()
    }

    /// EV6
    #[test]
    fn who_is_beyond_the_request_goes_first_then_the_lower_priority_then_the_larger_excess() {
        let memory = |uid, priority, request, used| pod(uid, priority, "memory", request, used);
        let within = memory("within", -5, "500Mi", 400 * MI);
        let high = memory("high", 10, "0", 300 * MI);
        let small = memory("small", 0, "90Mi", 100 * MI);
        let large = memory("large", 0, "10Mi", 50 * MI);
        let all = [within.clone(), high.clone(), small.clone(), large];
        assert_eq!(goes(Signal::MemoryAvailable, &all), "large");
        assert_eq!(goes(Signal::MemoryAvailable, &[within.clone(), high.clone(), small]), "small");
        assert_eq!(goes(Signal::MemoryAvailable, &[within.clone(), high]), "high");
        assert_eq!(goes(Signal::MemoryAvailable, &[within]), "within");
        let disk = |uid, request, used| pod(uid, 0, "ephemeral-storage", request, used);
        let disks = [disk("a", "2Gi", 1 << 30), disk("b", "1Mi", 2 * MI), disk("c", "1Mi", 3 * MI)];
        assert_eq!(goes(Signal::NodefsAvailable, &disks), "c");
    }

    /// EV6: inodes and processes are requested by nobody.
    #[test]
    fn processes_go_by_priority_and_number() {
        let with = |uid, priority, used| pod(uid, priority, "memory", "1Gi", used);
        let all = [with("few", 0, 3), with("many", 0, 300), with("high", 5, 4000)];
        assert_eq!(goes(Signal::PidAvailable, &all), "many");
        assert_eq!(goes(Signal::ImagefsInodesFree, &all), "many");
        let message = choose(&met(Signal::PidAvailable), &all).unwrap().message;
        assert_eq!(message, "The node was low on resource: pids. Threshold quantity: 100Mi, available: 52Mi. ");
        assert!(choose(&met(Signal::NodefsInodesFree), &all).unwrap().message.contains("resource: inodes. "));
    }

    /// EV6
    #[test]
    fn critical_and_static_pods_stay() {
        let critical = pod("critical", 2_000_000_000, "memory", "0", 1 << 30);
        let mut own = pod("static", 0, "memory", "0", 1 << 30);
        own.pod.metadata.annotations = Some([(machine::MIRROR.to_owned(), "hash".to_owned())].into());
        assert_eq!(choose(&met(Signal::MemoryAvailable), &[critical.clone(), own.clone()]), None);
        let last = pod("last", 1_999_999_999, "memory", "1Gi", 1);
        assert_eq!(goes(Signal::MemoryAvailable, &[critical, own, last]), "last");
    }

    /// EV5
    #[test]
    fn the_message_names_the_containers_beyond_their_requests() {
        let spec = json!({"metadata": {"uid": "u"}, "spec": {
            "initContainers": [{"name": "i", "restartPolicy": "Always"}],
            "containers": [{"name": "a", "resources": {"requests": {"memory": "64Mi"}}},
                {"name": "b", "resources": {"limits": {"memory": "1Gi"}}}]}});
        let pod: Pod = serde_json::from_value(spec).unwrap();
        let containers = [("i", 5 * MI + 1024), ("a", 300 * MI), ("b", 200 * MI), ("debugger", 9)];
        let containers = containers.map(|(name, used)| (name.to_owned(), used)).to_vec();
        let own = PodStats { uid: "u".to_owned(), pod, used: 505 * MI, containers };
        assert_eq!(
            choose(&met(Signal::MemoryAvailable), &[own]).unwrap().message,
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 52Mi. Container i was using \
             5121Ki, request is 0, has larger consumption of memory. Container a was using 300Mi, request is 64Mi, has \
             larger consumption of memory. "
        );
    }
}
