//! Which objects a pod refers to: a change of one may be what it waits for.

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::volume::claims::claims_of;
use crate::volume::payload::{self, Kind};

/// `resource` is the plural name of the object's kind, as keys of the store have it. The namespace is the pod's own;
/// persistent volumes have none, and a pod with a claim may wait for any of them.
pub fn refers_to(pod: &Pod, resource: &str, name: &str) -> bool {
    match resource {
        "configmaps" => in_volumes(pod, Kind::ConfigMap, name) || in_environment(pod, Kind::ConfigMap, name),
        "secrets" => in_volumes(pod, Kind::Secret, name) || in_environment(pod, Kind::Secret, name),
        "persistentvolumeclaims" => claims_of(pod).iter().any(|claim| claim == name),
        "persistentvolumes" => !claims_of(pod).is_empty(),
        "serviceaccounts" => {
            pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref()).unwrap_or("default") == name
        }
        _ => false,
    }
}

fn in_volumes(pod: &Pod, kind: Kind, name: &str) -> bool {
    let volumes = pod.spec.iter().filter_map(|spec| spec.volumes.as_ref()).flatten();
    volumes.into_iter().any(|volume| payload::refers_to(volume, kind, name))
}

fn in_environment(pod: &Pod, kind: Kind, name: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let mut containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    containers.any(|container| in_container(container, kind, name))
}

fn in_container(container: &Container, kind: Kind, name: &str) -> bool {
    let from = container.env_from.iter().flatten().map(|source| match kind {
        Kind::ConfigMap => source.config_map_ref.as_ref().map(|reference| &reference.name),
        Kind::Secret => source.secret_ref.as_ref().map(|reference| &reference.name),
        Kind::Pod => None,
    });
    let single =
        container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()).map(|from| match kind {
            Kind::ConfigMap => from.config_map_key_ref.as_ref().map(|selector| &selector.name),
            Kind::Secret => from.secret_key_ref.as_ref().map(|selector| &selector.name),
            Kind::Pod => None,
        });
    from.chain(single).flatten().any(|known| known == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_waits_for_what_it_names() {
        let pod: Pod = serde_json::from_str(
            r#"{"metadata":{"name":"p"},"spec":{"serviceAccountName":"sa",
            "initContainers":[{"name":"i","envFrom":[{"secretRef":{"name":"from"}}]}],
            "containers":[{"name":"c","env":[{"name":"A","valueFrom":{"configMapKeyRef":{"name":"key","key":"k"}}}]}],
            "volumes":[{"name":"v","secret":{"secretName":"mounted"}},
                {"name":"w","persistentVolumeClaim":{"claimName":"claim"}},{"name":"x","ephemeral":{}}]}}"#,
        )
        .unwrap();
        for (resource, name, expected) in [
            ("secrets", "from", true),
            ("secrets", "mounted", true),
            ("secrets", "key", false),
            ("configmaps", "key", true),
            ("configmaps", "mounted", false),
            ("persistentvolumeclaims", "claim", true),
            ("persistentvolumeclaims", "p-x", true),
            ("persistentvolumeclaims", "x", false),
            ("persistentvolumes", "any", true),
            ("serviceaccounts", "sa", true),
            ("services", "sa", false),
        ] {
            assert_eq!(refers_to(&pod, resource, name), expected, "{resource} {name}");
        }
    }
}
