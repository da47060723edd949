//! From what a machine records to the `Event` that the API shows (section 10.8).

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use super::status::time_in_seconds;
use crate::pod::event::{KubeEvent, Severity};
use crate::pod::spec::PodSpec;

/// `source.component` of everything that a node says.
const COMPONENT: &str = "kubelet";

/// One event about `pod`, seen once. `serial` keeps names of the same moment apart.
pub fn event(pod: &Pod, spec: &PodSpec, own: &KubeEvent, node: &str, serial: u64) -> Event {
    let seen: Time = time_in_seconds(own.at);
    let field_path = own.container.and_then(|index| spec.get(index)).map(|container| container.field_path());
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{:x}{serial:x}", spec.name, own.at.0)),
            namespace: Some(spec.namespace.clone()),
            creation_timestamp: Some(seen.clone()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(spec.namespace.clone()),
            name: Some(spec.name.clone()),
            uid: Some(spec.uid.clone()),
            resource_version: pod.metadata.resource_version.clone(),
            field_path,
        },
        reason: Some(own.reason.to_owned()),
        message: Some(own.message.clone()),
        type_: Some(own.severity.name().to_owned()),
        source: Some(EventSource { component: Some(COMPONENT.to_owned()), host: Some(node.to_owned()) }),
        first_timestamp: Some(seen.clone()),
        last_timestamp: Some(seen),
        count: Some(1),
        reporting_component: Some(COMPONENT.to_owned()),
        reporting_instance: Some(node.to_owned()),
        ..Event::default()
    }
}

impl Severity {
    /// The name as the API writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::spec::{ContainerSpec, Index, Role};
    use crate::pod::timer::WallTime;

    /// Section 10.8: the container is named by its place in the spec.
    #[test]
    fn an_event_says_which_container_it_is_about() {
        let mut spec = PodSpec::new("ns", "p", "u");
        spec.containers.push(ContainerSpec::new("i", Role::Init, "busybox"));
        let own = KubeEvent {
            severity: Severity::Warning,
            reason: "Unhealthy",
            message: "m".to_owned(),
            container: Some(Index(0)),
            at: WallTime(1_767_225_600_999_999_999),
        };
        let shown = serde_json::to_value(event(&Pod::default(), &spec, &own, "n1", 1)).unwrap();
        assert_eq!(shown["kind"], "Event");
        assert_eq!(shown["type"], "Warning");
        assert_eq!(shown["involvedObject"]["fieldPath"], "spec.initContainers{i}");
        assert_eq!(shown["lastTimestamp"], "2026-01-01T00:00:00Z");
        assert_eq!(shown["source"]["host"], "n1");
        let other = event(&Pod::default(), &spec, &own, "n1", 2);
        assert_ne!(other.metadata.name.unwrap(), shown["metadata"]["name"]);
    }
}
