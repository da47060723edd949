//! The defaults of a Pod.

use std::collections::BTreeMap;

use cgroupd::Quantity as Amount;
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, DownwardAPIVolumeFile, EmptyDirVolumeSource, EnvVar, EphemeralContainer, HTTPGetAction,
    Lifecycle, Pod, PodSpec, Probe, ProjectedVolumeSource, ResourceRequirements, Volume,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::{normalised, set_number, set_text};
use crate::admission::effective_request;

/// Permission bits of files in configMap, secret, downwardAPI and projected volumes (VO22): 0644.
const DEFAULT_MODE: i32 = 0o644;
/// Seconds between SIGTERM and SIGKILL.
const DEFAULT_GRACE_SECONDS: i64 = 30;
/// Life of a projected service account token (VO29).
const DEFAULT_TOKEN_SECONDS: i64 = 3600;

/// All defaults of section 10.2 that depend on the Pod alone.
pub fn pod(pod: &mut Pod) {
    pod_spec(pod.spec.get_or_insert_default());
}

/// [`pod`] for a bare spec.
pub fn pod_spec(spec: &mut PodSpec) {
    set_text(&mut spec.restart_policy, "Always");
    set_text(&mut spec.dns_policy, "ClusterFirst");
    set_text(&mut spec.scheduler_name, "default-scheduler");
    spec.termination_grace_period_seconds.get_or_insert(DEFAULT_GRACE_SECONDS);
    spec.enable_service_links.get_or_insert(true);
    spec.security_context.get_or_insert_default();
    let host_network = spec.host_network == Some(true);
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        self::container(container, host_network);
    }
    spec.ephemeral_containers.iter_mut().flatten().for_each(ephemeral_container);
    spec.volumes.iter_mut().flatten().for_each(volume);
    round_up(&mut spec.overhead);
    pod_resources(spec);
}

fn container(container: &mut Container, host_network: bool) {
    let image = container.image.as_deref().unwrap_or_default();
    set_text(&mut container.image_pull_policy, image_pull_policy(image));
    set_text(&mut container.termination_message_path, "/dev/termination-log");
    set_text(&mut container.termination_message_policy, "File");
    let resources = container.resources.get_or_insert_default();
    round_up(&mut resources.limits);
    round_up(&mut resources.requests);
    request_what_is_limited(resources);
    container.ports.iter_mut().flatten().for_each(|p| port(p, host_network));
    container.env.iter_mut().flatten().for_each(env);
    for probe in [&mut container.liveness_probe, &mut container.readiness_probe, &mut container.startup_probe] {
        probe.iter_mut().for_each(self::probe);
    }
    container.lifecycle.iter_mut().for_each(lifecycle);
}

fn ephemeral_container(container: &mut EphemeralContainer) {
    let image = container.image.as_deref().unwrap_or_default();
    set_text(&mut container.image_pull_policy, image_pull_policy(image));
    set_text(&mut container.termination_message_path, "/dev/termination-log");
    set_text(&mut container.termination_message_policy, "File");
    container.resources.get_or_insert_default();
    container.env.iter_mut().flatten().for_each(env);
}

/// IP1: `Always` for `latest` and for no tag at all, unless there is a digest.
pub fn image_pull_policy(image: &str) -> &'static str {
    if image.contains('@') {
        return "IfNotPresent";
    }
    let name = image.rsplit('/').next().unwrap_or(image);
    match name.split_once(':') {
        None | Some((_, "latest")) => "Always",
        Some(_) => "IfNotPresent",
    }
}

/// RL1: a limit without a request is also the request.
fn request_what_is_limited(resources: &mut ResourceRequirements) {
    let Some(limits) = &resources.limits else {
        return;
    };
    let requests = resources.requests.get_or_insert_default();
    for (name, limit) in limits {
        requests.entry(name.clone()).or_insert_with(|| limit.clone());
    }
    if requests.is_empty() {
        resources.requests = None;
    }
}

/// PL2: with pod-level limits, a missing pod-level request is the sum of the containers' where any container requests the
/// resource, else the limit.
fn pod_resources(spec: &mut PodSpec) {
    let Some(mut resources) = spec.resources.take() else {
        return;
    };
    round_up(&mut resources.limits);
    round_up(&mut resources.requests);
    for (name, limit) in resources.limits.iter().flatten() {
        let aggregate = is_overcommittable(name).then(|| effective_request(spec, name)).flatten();
        let default = aggregate.map_or_else(|| limit.clone(), |sum| Quantity(sum.to_string()));
        resources.requests.get_or_insert_default().entry(name.clone()).or_insert(default);
    }
    spec.resources = Some(resources);
}

fn is_overcommittable(resource: &str) -> bool {
    !resource.contains('/') && !resource.starts_with("hugepages-")
}

/// QT4: resource lists are kept in whole milli units.
fn round_up(list: &mut Option<BTreeMap<String, Quantity>>) {
    for quantity in list.iter_mut().flat_map(BTreeMap::values_mut) {
        quantity.0 = normalised(&quantity.0);
    }
}

fn port(port: &mut ContainerPort, host_network: bool) {
    set_text(&mut port.protocol, "TCP");
    if host_network {
        set_number(&mut port.host_port, port.container_port);
    }
}

fn env(env: &mut EnvVar) {
    let Some(source) = &mut env.value_from else {
        return;
    };
    if let Some(field) = &mut source.field_ref {
        set_text(&mut field.api_version, "v1");
    }
    if let Some(resource) = &mut source.resource_field_ref {
        resource.divisor.get_or_insert_with(|| Quantity("0".to_owned()));
    }
    if let Some(file) = &mut source.file_key_ref {
        file.optional.get_or_insert(false);
    }
}

/// PR1: a written 0 is replaced as well, but for the initial delay.
fn probe(probe: &mut Probe) {
    set_number(&mut probe.timeout_seconds, 1);
    set_number(&mut probe.period_seconds, 10);
    set_number(&mut probe.success_threshold, 1);
    set_number(&mut probe.failure_threshold, 3);
    probe.http_get.iter_mut().for_each(http_get);
    if let Some(grpc) = &mut probe.grpc {
        grpc.service.get_or_insert_default();
    }
}

fn lifecycle(lifecycle: &mut Lifecycle) {
    for handler in [&mut lifecycle.post_start, &mut lifecycle.pre_stop].into_iter().flatten() {
        handler.http_get.iter_mut().for_each(http_get);
    }
}

fn http_get(action: &mut HTTPGetAction) {
    set_text(&mut action.path, "/");
    set_text(&mut action.scheme, "HTTP");
}

fn volume(volume: &mut Volume) {
    let nothing = Volume { name: volume.name.clone(), ..Volume::default() };
    if *volume == nothing {
        volume.empty_dir = Some(EmptyDirVolumeSource::default());
    }
    if let Some(source) = &mut volume.empty_dir
        && let Some(limit) = &mut source.size_limit
        && let Ok(amount) = limit.0.parse::<Amount>()
    {
        limit.0 = amount.to_string();
    }
    if let Some(source) = &mut volume.host_path {
        source.type_.get_or_insert_default();
    }
    if let Some(source) = &mut volume.config_map {
        source.default_mode.get_or_insert(DEFAULT_MODE);
    }
    if let Some(source) = &mut volume.secret {
        source.default_mode.get_or_insert(DEFAULT_MODE);
    }
    if let Some(source) = &mut volume.downward_api {
        source.default_mode.get_or_insert(DEFAULT_MODE);
        source.items.iter_mut().flatten().for_each(downward_file);
    }
    volume.projected.iter_mut().for_each(projected);
    if let Some(source) = &mut volume.image {
        let policy = image_pull_policy(source.reference.as_deref().unwrap_or_default());
        set_text(&mut source.pull_policy, policy);
    }
}

fn projected(source: &mut ProjectedVolumeSource) {
    source.default_mode.get_or_insert(DEFAULT_MODE);
    for part in source.sources.iter_mut().flatten() {
        if let Some(token) = &mut part.service_account_token {
            token.expiration_seconds.get_or_insert(DEFAULT_TOKEN_SECONDS);
        }
        let items = part.downward_api.iter_mut().filter_map(|api| api.items.as_mut());
        items.flatten().for_each(downward_file);
    }
}

fn downward_file(file: &mut DownwardAPIVolumeFile) {
    if let Some(field) = &mut file.field_ref {
        set_text(&mut field.api_version, "v1");
    }
    if let Some(resource) = &mut file.resource_field_ref {
        resource.divisor.get_or_insert_with(|| Quantity("0".to_owned()));
    }
}
