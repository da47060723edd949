//! A pod's requests and limits, as `cgroupd` takes them (section 5).

use std::collections::BTreeMap;

use cgroupd::{ContainerKind, ContainerResources, PodResources, Requirements, ResourceList};
use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::ConfigError;

/// Init containers and sidecars in the order of the spec, then app containers.
pub fn pod(spec: &PodSpec) -> Result<PodResources, ConfigError> {
    let mut containers = Vec::new();
    for own in spec.init_containers.iter().flatten() {
        let sidecar = own.restart_policy.as_deref() == Some("Always");
        let kind = if sidecar { ContainerKind::Sidecar } else { ContainerKind::Init };
        containers.push(ContainerResources { kind, resources: container(own)? });
    }
    for own in &spec.containers {
        containers.push(ContainerResources { kind: ContainerKind::App, resources: container(own)? });
    }
    let mut pod = PodResources {
        containers,
        pod: spec.resources.as_ref().map(requirements).transpose()?,
        overhead: list(spec.overhead.as_ref())?,
    };
    pod.set_defaults();
    Ok(pod)
}

/// One container's own.
pub fn container(container: &Container) -> Result<Requirements, ConfigError> {
    let mut own = container.resources.as_ref().map(requirements).transpose()?.unwrap_or_default();
    own.set_defaults();
    Ok(own)
}

/// Rule OO2: how readily the kernel takes this container when a node with so much memory has none left. Ephemeral
/// containers ask for nothing.
pub fn oom_score_adj(spec: &PodSpec, name: &str, pod: &PodResources, memory_bytes: u64) -> i32 {
    let init = spec.init_containers.iter().flatten();
    let position = init.chain(&spec.containers).position(|other| other.name == name);
    let nothing = ContainerResources { kind: ContainerKind::App, resources: Requirements::default() };
    let own = position.and_then(|position| pod.containers.get(position)).unwrap_or(&nothing);
    let critical = spec.priority_class_name.as_deref() == Some("system-node-critical");
    cgroupd::oom::oom_score_adj(pod, cgroupd::qos::qos_class(pod), critical, own, memory_bytes)
}

fn requirements(resources: &ResourceRequirements) -> Result<Requirements, ConfigError> {
    Ok(Requirements { requests: list(resources.requests.as_ref())?, limits: list(resources.limits.as_ref())? })
}

fn list(amounts: Option<&BTreeMap<String, Quantity>>) -> Result<ResourceList, ConfigError> {
    let one = |(name, amount): (&String, &Quantity)| {
        let resource = name.parse().map_err(|error| ConfigError(format!("resource {name:?}: {error}")))?;
        let amount = amount.0.parse().map_err(|error| ConfigError(format!("resource {name}: {error}")))?;
        Ok((resource, amount))
    };
    amounts.into_iter().flatten().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cgroupd::QosClass;

    /// OO2
    #[test]
    fn what_asks_for_less_is_taken_sooner() {
        let text = r#"{"containers":[{"name":"c","resources":{"requests":{"memory":"256Mi"}}}]}"#;
        let spec: PodSpec = serde_json::from_str(text).unwrap();
        let all = pod(&spec).unwrap();
        assert_eq!(oom_score_adj(&spec, "c", &all, 16 << 30), 985);
        assert_eq!(oom_score_adj(&spec, "debugger", &all, 16 << 30), 999);
    }

    #[test]
    fn a_manifest_s_resources_decide_its_class() {
        for (resources, expected) in [
            ("{}", QosClass::BestEffort),
            (r#"{"requests":{"cpu":"250m"},"limits":{"cpu":"500m"}}"#, QosClass::Burstable),
            (r#"{"limits":{"cpu":"1","memory":"64Mi"}}"#, QosClass::Guaranteed),
        ] {
            let spec = format!(r#"{{"containers":[{{"name":"c","resources":{resources}}}]}}"#);
            let spec: PodSpec = serde_json::from_str(&spec).unwrap();
            assert_eq!(cgroupd::qos::qos_class(&pod(&spec).unwrap()), expected, "{resources}");
        }
    }
}
