//! Warnings about a Pod that is accepted (VA13): the texts of `Warning: 299` headers.

use std::collections::BTreeMap;

use cgroupd::Quantity as Amount;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use super::error::Path;
use super::names;

/// The warnings that creating this (defaulted) pod brings.
pub fn warnings(pod: &Pod) -> Vec<String> {
    let mut texts = Vec::new();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let problems = names::label(name);
    if !name.is_empty() && !problems.is_empty() {
        texts.push(format!(
            "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [{}]",
            problems.join(", ")
        ));
    }
    let Some(spec) = &pod.spec else { return texts };
    if let Some(seconds) = spec.termination_grace_period_seconds.filter(|seconds| *seconds < 0) {
        texts.push(format!("spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1 (got {seconds})"));
    }
    pull_secrets(spec, &mut texts);
    for (path, container) in containers(spec) {
        env(container, &path, &mut texts);
        fractions(container, &path, &mut texts);
    }
    ports(spec, &mut texts);
    texts
}

fn containers(spec: &PodSpec) -> Vec<(Path, &Container)> {
    let path = Path::new("spec");
    let inits = spec.init_containers.iter().flatten().enumerate();
    let inits = inits.map(|(index, container)| (path.field("initContainers").index(index), container));
    let apps = spec.containers.iter().enumerate();
    inits.chain(apps.map(|(index, container)| (path.field("containers").index(index), container))).collect()
}

fn pull_secrets(spec: &PodSpec, texts: &mut Vec<String>) {
    let mut seen = BTreeMap::new();
    for (index, secret) in spec.image_pull_secrets.iter().flatten().enumerate() {
        let path = Path::new("spec").field("imagePullSecrets").index(index);
        if secret.name.is_empty() {
            texts.push(format!("{path}.name: invalid empty name {:?}", secret.name));
        } else if seen.insert(&secret.name, index).is_some() {
            texts.push(format!("{path}.name: duplicate name {:?}", secret.name));
        }
    }
}

fn env(container: &Container, path: &Path, texts: &mut Vec<String>) {
    let mut seen = BTreeMap::new();
    for (index, variable) in container.env.iter().flatten().enumerate() {
        if seen.insert(&variable.name, index).is_some() {
            let path = path.field("env").index(index);
            texts.push(format!(
                "{path}: hides previous definition of {:?}, which may be dropped when using apply",
                variable.name
            ));
        }
    }
}

/// QT5
fn fractions(container: &Container, path: &Path, texts: &mut Vec<String>) {
    let Some(resources) = &container.resources else {
        return;
    };
    for (field, list) in [("limits", &resources.limits), ("requests", &resources.requests)] {
        for (name, quantity) in list.iter().flatten() {
            let is_bytes = matches!(name.as_str(), "memory" | "ephemeral-storage");
            if is_bytes && quantity.0.parse::<Amount>().is_ok_and(|amount| !amount.is_integer()) {
                let path = path.field("resources").field(field).key(name);
                texts.push(format!("{path}: fractional byte value {:?} is invalid, must be an integer", quantity.0));
            }
        }
    }
}

/// NS2, PO4
fn ports(spec: &PodSpec, texts: &mut Vec<String>) {
    let mut seen: BTreeMap<(i32, String), Path> = BTreeMap::new();
    for (path, container) in containers(spec) {
        for (index, port) in container.ports.iter().flatten().enumerate() {
            let path = path.field("ports").index(index);
            let key = (port.container_port, port.protocol.clone().unwrap_or_default());
            if let Some(first) = seen.get(&key) {
                texts.push(format!("{path}: duplicate port definition with {first}"));
            } else {
                seen.insert(key, path);
            }
        }
    }
}
