//! The quality-of-service class of a pod (rules QS1-QS5).

use std::fmt;

use crate::resources::{PodResources, Requirements, Resource, ResourceList};

/// `status.qosClass`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QosClass {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl QosClass {
    pub const ALL: [Self; 3] = [Self::Guaranteed, Self::Burstable, Self::BestEffort];

    /// The cgroup between `kubepods` and the pods of this class; Guaranteed pods have none (CG11).
    #[must_use]
    pub fn dir_name(self) -> Option<&'static str> {
        match self {
            Self::Guaranteed => None,
            Self::Burstable => Some("burstable"),
            Self::BestEffort => Some("besteffort"),
        }
    }
}

impl fmt::Display for QosClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        })
    }
}

/// The two resources that count (QS1).
const COUNTED: [Resource; 2] = [Resource::Cpu, Resource::Memory];

/// QS1-QS4; with `spec.resources` the pod's own amounts alone decide (PL4).
#[must_use]
pub fn qos_class(pod: &PodResources) -> QosClass {
    let asking: Vec<&Requirements> = match &pod.pod {
        Some(own) => vec![own],
        None => pod.containers.iter().map(|container| &container.resources).collect(),
    };
    let asked = |list: &ResourceList| COUNTED.iter().any(|resource| list.amount(resource).is_positive());
    if !asking.iter().any(|own| asked(&own.requests) || asked(&own.limits)) {
        return QosClass::BestEffort;
    }
    let limited = |own: &Requirements| COUNTED.iter().all(|resource| own.limits.amount(resource).is_positive());
    let equal = COUNTED.iter().all(|resource| {
        let requests = asking.iter().map(|own| own.requests.amount(resource));
        let limits = asking.iter().map(|own| own.limits.amount(resource));
        requests.reduce(|sum, next| sum.plus(next)) == limits.reduce(|sum, next| sum.plus(next))
    });
    if equal && asking.iter().all(|own| limited(own)) { QosClass::Guaranteed } else { QosClass::Burstable }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::ContainerKind;
    use crate::resources::tests::{app, container, pod, requirements};

    #[test]
    fn the_class_follows_from_requests_and_limits() {
        let full = "cpu=1 memory=1Gi";
        let cases = [
            ("nothing", pod(vec![app("", "")]), QosClass::BestEffort),
            (
                "QS4: others do not count",
                pod(vec![app("vendor.com/x=1 ephemeral-storage=1Gi", "")]),
                QosClass::BestEffort,
            ),
            ("QS1: zero does not count", pod(vec![app("cpu=0", "memory=0")]), QosClass::BestEffort),
            ("QS3", pod(vec![app(full, full), app(full, full)]), QosClass::Guaranteed),
            ("one without limits", pod(vec![app(full, full), app("", "")]), QosClass::Burstable),
            ("request below limit", pod(vec![app("cpu=500m memory=1Gi", full)]), QosClass::Burstable),
            ("no memory limit", pod(vec![app(full, "cpu=1")]), QosClass::Burstable),
            ("request alone", pod(vec![app("cpu=1m", "")]), QosClass::Burstable),
            (
                "QS1: init containers count",
                pod(vec![container(ContainerKind::Init, "", ""), app(full, full)]),
                QosClass::Burstable,
            ),
        ];
        for (case, pod, expected) in cases {
            assert_eq!(qos_class(&pod), expected, "{case}");
        }
    }

    /// PL4.
    #[test]
    fn the_pods_own_resources_alone_decide() {
        let mut asked = pod(vec![app("cpu=1", "")]);
        asked.pod = Some(requirements("cpu=1 memory=1Gi", "cpu=1 memory=1Gi"));
        assert_eq!(qos_class(&asked), QosClass::Guaranteed);
        asked.pod = Some(requirements("", ""));
        assert_eq!(qos_class(&asked), QosClass::BestEffort);
    }
}
