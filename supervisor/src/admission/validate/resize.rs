//! What a resize may change of a pod (RZ1-RZ3), in the words of the API server.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::error::{Errors, Path};
use super::{Invalid, validate_pod};

/// What can be resized at all.
const MUTABLE: [&str; 2] = ["cpu", "memory"];

type Amounts = BTreeMap<String, Quantity>;

/// Checks a resize of a pod; `class` is its new QoS class when that is another one. Everything that is wrong is told.
pub fn validate_resize(before: &Pod, pod: &Pod, class: Option<String>) -> Result<(), Invalid> {
    let (Some(old), Some(new)) = (&before.spec, &pod.spec) else { return Ok(()) };
    let bare = Pod { spec: Some(PodSpec { ephemeral_containers: None, ..new.clone() }), ..pod.clone() };
    let mut errors = validate_pod(&bare).err().map(Errors::from).unwrap_or_default();
    let path = Path::new("spec");
    if let Some(class) = class {
        errors.invalid(&path, class, "Pod QOS Class may not change as a result of resizing");
    }
    if old.resources != new.resources {
        errors.forbidden(&path.field("resources"), "pod-level resources cannot be resized");
    }
    let init = (old.init_containers.as_deref().unwrap_or_default(), new.init_containers.as_deref().unwrap_or_default());
    let apps = (old.containers.as_slice(), new.containers.as_slice());
    let ordered = same_order(apps, &path, "containers", &mut errors);
    // The rest compares the containers one by one.
    if !same_order(init, &path, "initContainers", &mut errors) || !ordered {
        return errors.done();
    }
    let ended = before.status.as_ref().and_then(|status| status.init_container_statuses.as_deref()).unwrap_or_default();
    for (list, (old, new)) in [("initContainers", init), ("containers", apps)] {
        for (index, (old, new)) in old.iter().zip(new).enumerate() {
            let at = path.field(list).index(index).field("resources");
            amounts(old, new, &at, &mut errors);
            if !only_amounts_differ(old, new) {
                errors.forbidden(&path, "only cpu and memory resources are mutable");
            }
            if list == "initContainers" && old.resources != new.resources && has_finished(old, ended) {
                errors.forbidden(&at, "resources of an init container that has finished cannot be resized");
            }
        }
    }
    errors.done()
}

/// RZ2
pub fn static_pods_stay() -> Invalid {
    let mut errors = Errors::default();
    errors.forbidden(&Path::new(""), "static pods cannot be resized");
    errors.into()
}

/// RZ2: not added, removed, renamed or reordered.
fn same_order((old, new): (&[Container], &[Container]), path: &Path, list: &str, errors: &mut Errors) -> bool {
    let path = path.field(list);
    if old.len() != new.len() {
        errors.forbidden(&path, format!("{list} may not be added or removed on resize"));
        return false;
    }
    let moved: Vec<usize> = (0..old.len()).filter(|&at| name(old, at) != name(new, at)).collect();
    for index in &moved {
        let detail = format!("{list} may not be renamed or reordered on resize");
        errors.forbidden(&path.index(*index).field("name"), detail);
    }
    moved.is_empty()
}

fn name(containers: &[Container], at: usize) -> Option<&String> {
    containers.get(at).map(|container| &container.name)
}

/// RZ2: what was asked for stays asked for; a limit may be added.
fn amounts(old: &Container, new: &Container, path: &Path, errors: &mut Errors) {
    let (old, new) = (resources(old), resources(new));
    if is_missing(old.requests.as_ref(), new.requests.as_ref()) {
        errors.forbidden(&path.field("requests"), "resource requests cannot be removed");
    }
    if is_missing(old.limits.as_ref(), new.limits.as_ref()) {
        errors.forbidden(&path.field("limits"), "resource limits cannot be removed");
    }
}

fn is_missing(old: Option<&Amounts>, new: Option<&Amounts>) -> bool {
    old.into_iter().flatten().any(|(name, _)| !new.is_some_and(|new| new.contains_key(name)))
}

fn resources(container: &Container) -> ResourceRequirements {
    container.resources.clone().unwrap_or_default()
}

/// RZ1
fn only_amounts_differ(old: &Container, new: &Container) -> bool {
    let fixed = |container: &Container| {
        let own = resources(container);
        let rest = |amounts: Option<Amounts>| -> Amounts {
            amounts.into_iter().flatten().filter(|(name, _)| !MUTABLE.contains(&name.as_str())).collect()
        };
        (rest(own.requests), rest(own.limits), own.claims.unwrap_or_default())
    };
    let rest = |container: &Container| Container { resources: None, ..container.clone() };
    fixed(old) == fixed(new) && rest(old) == rest(new)
}

/// A regular init container that came to its end.
fn has_finished(container: &Container, statuses: &[ContainerStatus]) -> bool {
    let own = statuses.iter().find(|status| status.name == container.name);
    let ended = own.and_then(|status| status.state.as_ref()?.terminated.as_ref());
    container.restart_policy.as_deref() != Some("Always") && ended.is_some_and(|ended| ended.exit_code == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::defaults;
    use serde_json::{Value, json};

    fn pod(containers: &Value) -> Pod {
        let spec = json!({"containers": containers, "initContainers": [
            {"name": "i", "image": "b", "resources": {"requests": {"cpu": "1"}}}]});
        let pod = json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": spec});
        let mut pod: Pod = serde_json::from_value(pod).unwrap();
        defaults::pod(&mut pod);
        pod
    }

    fn one(resources: &Value) -> Pod {
        pod(&json!([{"name": "c", "image": "b", "resources": resources}]))
    }

    fn refused(before: &Pod, after: &Pod) -> String {
        validate_resize(before, after, None).err().map(|invalid| invalid.to_string()).unwrap_or_default()
    }

    /// RZ1, RZ2
    #[test]
    fn amounts_change_and_nothing_else() {
        let before = one(&json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2"}}));
        let raised = one(&json!({"requests": {"cpu": "2", "memory": "2Gi"}, "limits": {"cpu": "4", "memory": "4Gi"}}));
        assert_eq!(refused(&before, &raised), "");
        let fewer = one(&json!({"requests": {"memory": "1Gi"}}));
        let texts = refused(&before, &fewer);
        assert!(
            texts.contains("spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed")
        );
        assert!(texts.contains("spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed"));
        let storage = one(&json!({"requests": {"cpu": "1", "memory": "1Gi", "ephemeral-storage": "1Gi"},
            "limits": {"cpu": "2"}}));
        assert_eq!(refused(&before, &storage), "spec: Forbidden: only cpu and memory resources are mutable");
    }

    /// RZ2
    #[test]
    fn containers_stay_where_they_are() {
        let two =
            |first: &str, second: &str| pod(&json!([{"name": first, "image": "b"}, {"name": second, "image": "b"}]));
        let text = |at: usize| {
            format!("spec.containers[{at}].name: Forbidden: containers may not be renamed or reordered on resize")
        };
        assert_eq!(refused(&two("a", "b"), &two("b", "a")), format!("[{}, {}]", text(0), text(1)));
        assert_eq!(refused(&two("a", "b"), &two("a", "c")), text(1));
        let fewer = pod(&json!([{"name": "a", "image": "b"}]));
        let detail = "spec.containers: Forbidden: containers may not be added or removed on resize";
        assert_eq!(refused(&two("a", "b"), &fewer), detail);
    }

    /// RZ1, QS5: all that is wrong is told at once.
    #[test]
    fn a_finished_init_container_and_the_class_stay() {
        let mut before = one(&json!({"requests": {"cpu": "1"}}));
        let mut after = before.clone();
        let init = after.spec.as_mut().unwrap().init_containers.as_mut().unwrap();
        init[0].resources = serde_json::from_value(json!({"requests": {"cpu": "2"}})).unwrap();
        assert_eq!(refused(&before, &after), "");
        let ended = json!({"initContainerStatuses": [{"name": "i", "image": "b", "imageID": "", "ready": true,
            "restartCount": 0, "state": {"terminated": {"exitCode": 0}}}]});
        before.status = Some(serde_json::from_value(ended).unwrap());
        let all = validate_resize(&before, &after, Some("Guaranteed".to_owned())).unwrap_err().to_string();
        let class = "spec: Invalid value: \"Guaranteed\": Pod QOS Class may not change as a result of resizing";
        let init = "spec.initContainers[0].resources: Forbidden: resources of an init container that has finished \
                    cannot be resized";
        assert_eq!(all, format!("[{class}, {init}]"));
        assert_eq!(static_pods_stay().0[0].body(), "Forbidden: static pods cannot be resized");
    }
}
