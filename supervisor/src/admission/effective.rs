//! What a pod as a whole asks for (ER1).

use std::collections::BTreeMap;

use cgroupd::Quantity as Amount;
use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// The request of all containers together: the sum of app containers and sidecars, or the peak while init containers run.
/// `None` when no container requests the resource; quantities that don't parse count as absent. Pod-level requests and
/// overhead are not looked at.
pub fn effective_request(spec: &PodSpec, resource: &str) -> Option<Amount> {
    effective(spec, |container| named(container.resources.as_ref()?.requests.as_ref()?, resource))
}

/// The same of limits: what containers may take together, `None` when none is limited.
pub fn effective_limit(spec: &PodSpec, resource: &str) -> Option<Amount> {
    effective(spec, |container| named(container.resources.as_ref()?.limits.as_ref()?, resource))
}

fn effective(spec: &PodSpec, of: impl Fn(&Container) -> Option<Amount>) -> Option<Amount> {
    let inits = || spec.init_containers.iter().flatten();
    inits().chain(&spec.containers).find_map(&of)?;
    let own = |container| of(container).unwrap_or(Amount::ZERO);
    let mut sidecars = Amount::ZERO;
    let mut peak = Amount::ZERO;
    for container in inits() {
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars = own(container).plus(sidecars);
            peak = peak.max(sidecars);
        } else {
            peak = peak.max(own(container).plus(sidecars));
        }
    }
    let apps = spec.containers.iter().map(own).fold(sidecars, |sum, own| own.plus(sum));
    Some(apps.max(peak))
}

fn named(amounts: &BTreeMap<String, Quantity>, resource: &str) -> Option<Amount> {
    amounts.get(resource)?.0.parse::<Amount>().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(cpu: &str, is_sidecar: bool) -> Container {
        let container = serde_json::json!({"name": "c", "resources": {"requests": {"cpu": cpu}},
            "restartPolicy": is_sidecar.then_some("Always")});
        serde_json::from_value(container).unwrap()
    }

    #[test]
    fn sidecars_count_from_where_they_start() {
        // ER2
        let vectors = [
            (vec![container("100m", true), container("500m", false)], "600m"),
            (vec![container("500m", false), container("100m", true)], "500m"),
            (vec![container("100m", true)], "300m"),
        ];
        for (inits, expected) in vectors {
            let spec = PodSpec {
                init_containers: Some(inits),
                containers: vec![container("200m", false)],
                ..PodSpec::default()
            };
            assert_eq!(effective_request(&spec, "cpu").unwrap().to_string(), expected);
            assert_eq!(effective_request(&spec, "memory"), None);
        }
    }
}
