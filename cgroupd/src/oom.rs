//! `oom_score_adj` of a container (rules OO1-OO6): whom the kernel kills first when the node runs out of memory.

use crate::qos::QosClass;
use crate::resources::{ContainerKind, ContainerResources, PodResources, Resource};

/// Guaranteed and node-critical pods (OO1).
pub const GUARANTEED_ADJ: i32 = -997;
/// BestEffort pods (OO1).
pub const BEST_EFFORT_ADJ: i32 = 1000;
/// The pod's first process, which holds its namespaces (OO5).
pub const SANDBOX_ADJ: i32 = -998;
/// The least a Burstable container has, above every Guaranteed one (OO2).
const BURSTABLE_MIN: i128 = 3;
/// The most a Burstable container has, below every BestEffort one (OO2).
const BURSTABLE_MAX: i128 = 999;

/// `oom_score_adj` of one container of `pod`.
///
/// `node_critical` is `priorityClassName: system-node-critical`; `node_memory` is the node's capacity in bytes.
#[must_use]
pub fn oom_score_adj(
    pod: &PodResources,
    qos: QosClass,
    node_critical: bool,
    container: &ContainerResources,
    node_memory: u64,
) -> i32 {
    match qos {
        _ if node_critical => GUARANTEED_ADJ,
        QosClass::Guaranteed => GUARANTEED_ADJ,
        QosClass::BestEffort => BEST_EFFORT_ADJ,
        QosClass::Burstable => burstable(pod, container, node_memory),
    }
}

/// OO2 and OO3: a sidecar is never killed before the apps that need it.
fn burstable(pod: &PodResources, container: &ContainerResources, node_memory: u64) -> i32 {
    let own = by_request(memory_request(pod, container), node_memory);
    match container.kind {
        ContainerKind::App | ContainerKind::Init => own,
        ContainerKind::Sidecar => {
            let apps = pod.containers.iter().filter(|other| other.kind == ContainerKind::App);
            let least = apps.map(|app| memory_request(pod, app)).min().unwrap_or(0);
            own.min(by_request(least, node_memory))
        }
    }
}

/// OO2.
fn by_request(request: u64, node_memory: u64) -> i32 {
    let share = (1000 * i128::from(request)).checked_div(i128::from(node_memory)).unwrap_or(0);
    i32::try_from((1000 - share).clamp(BURSTABLE_MIN, BURSTABLE_MAX)).unwrap_or(BEST_EFFORT_ADJ)
}

/// The container's request in bytes, with its part of what the pod as a whole asks for on top of its containers (OO4).
fn memory_request(pod: &PodResources, container: &ContainerResources) -> u64 {
    let own = container.resources.requests.amount(&Resource::Memory).units();
    let Some(of_pod) = pod.pod.as_ref().and_then(|pod| pod.requests.get(&Resource::Memory)) else {
        return own;
    };
    let spare = of_pod.units().saturating_sub(pod.aggregate_requests().amount(&Resource::Memory).units());
    let sharers = u64::try_from(pod.containers.len()).unwrap_or(u64::MAX);
    own.saturating_add(spare.checked_div(sharers).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::tests::{app, container, pod, requirements};

    const NODE: u64 = 16 << 30;

    fn adj(pod: &PodResources, index: usize) -> i32 {
        oom_score_adj(pod, QosClass::Burstable, false, &pod.containers[index], NODE)
    }

    /// OO2, OO6.
    #[test]
    fn a_burstable_container_is_safer_the_more_it_asked_for() {
        for (request, expected) in [
            ("memory=256Mi", 985),
            ("memory=4Gi", 750),
            ("cpu=1", 999),
            ("memory=16Gi", 3),
            ("memory=64Gi", 3),
            ("memory=1", 999),
        ] {
            assert_eq!(adj(&pod(vec![app(request, "")]), 0), expected, "{request}");
        }
    }

    /// OO1.
    #[test]
    fn other_classes_and_critical_pods_have_fixed_values() {
        let asked = pod(vec![app("memory=1Gi", "")]);
        let adj = |qos, critical| oom_score_adj(&asked, qos, critical, &asked.containers[0], NODE);
        assert_eq!(adj(QosClass::Guaranteed, false), -997);
        assert_eq!(adj(QosClass::BestEffort, false), 1000);
        assert_eq!(adj(QosClass::BestEffort, true), -997);
        assert_eq!(adj(QosClass::Burstable, true), -997);
    }

    /// OO3.
    #[test]
    fn a_sidecar_is_not_killed_before_the_apps() {
        let sidecar = container(ContainerKind::Sidecar, "memory=256Mi", "");
        let asked = pod(vec![sidecar, app("memory=4Gi", ""), app("memory=8Gi", "")]);
        assert_eq!(adj(&asked, 0), 750);
        let safe = container(ContainerKind::Sidecar, "memory=8Gi", "");
        assert_eq!(adj(&pod(vec![safe, app("memory=4Gi", "")]), 0), 500);
    }

    /// OO4.
    #[test]
    fn what_the_pod_asks_for_beyond_its_containers_is_shared() {
        let mut asked = pod(vec![app("memory=1Gi", ""), app("memory=1Gi", "")]);
        asked.pod = Some(requirements("memory=8Gi", ""));
        assert_eq!(adj(&asked, 0), 750);
    }

    #[test]
    fn an_unknown_node_size_counts_as_no_request() {
        let asked = pod(vec![app("memory=1Gi", "")]);
        assert_eq!(oom_score_adj(&asked, QosClass::Burstable, false, &asked.containers[0], 0), 999);
    }
}
