//! From what a machine shows to the `PodStatus` that the API shows (sections 1.2, 1.3).
//!
//! What the machine does not know is the caller's: the node's addresses, the QoS class, resources and volume mounts.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    ContainerUser, HostIP, LinuxContainerUser, Pod, PodCondition, PodIP, PodStatus, VolumeMount, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::{machine, resources};
use crate::pod::event::User;
use crate::pod::status::{Condition, ContainerStatus as Shown, State, Status, Terminated, Truth, Waiting};
use crate::pod::timer::WallTime;

/// What a status needs besides the machine.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// The node's addresses, the primary one first.
    pub host_ips: Vec<IpAddr>,
    pub qos_class: Option<String>,
    /// Per container, from what is allocated (RZ8): `resources`, `allocatedResources`, `volumeMounts` of its status; the rest is overwritten.
    pub templates: BTreeMap<String, ContainerStatus>,
}

impl Surroundings {
    /// What a pod's own spec says of them.
    pub fn of(pod: &Pod, host_ips: Vec<IpAddr>) -> Self {
        let spec = pod.spec.as_ref();
        let qos = spec.and_then(|spec| resources::pod(spec).ok()).map(|all| cgroupd::qos::qos_class(&all));
        let init = spec.into_iter().flat_map(|spec| spec.init_containers.iter().flatten());
        let apps = spec.into_iter().flat_map(|spec| &spec.containers);
        Self {
            host_ips,
            qos_class: qos.map(|class| class.to_string()),
            templates: init.chain(apps).map(|own| (own.name.clone(), template(own))).collect(),
        }
    }
}

fn template(own: &Container) -> ContainerStatus {
    let mounts: Vec<_> = own.volume_mounts.iter().flatten().map(mount).collect();
    ContainerStatus {
        allocated_resources: own.resources.as_ref().and_then(|resources| resources.requests.clone()),
        resources: own.resources.clone(),
        volume_mounts: some(mounts),
        ..ContainerStatus::default()
    }
}

fn mount(own: &VolumeMount) -> VolumeMountStatus {
    let read_only = own.read_only.unwrap_or(false);
    let recursive = match own.recursive_read_only.as_deref() {
        Some("Enabled" | "IfPossible") => "Enabled",
        Some(_) | None => "Disabled",
    };
    VolumeMountStatus {
        name: own.name.clone(),
        mount_path: own.mount_path.clone(),
        read_only: read_only.then_some(true),
        recursive_read_only: read_only.then(|| recursive.to_owned()),
        volume_status: None,
    }
}

/// The pod as the API shows it: with its status, and while it is being deleted with the time when its grace ends.
pub fn pod(base: &Pod, shown: &Status, around: &Surroundings) -> Pod {
    let mut pod = base.clone();
    if let Some(deletion) = shown.deletion {
        pod.metadata.deletion_timestamp = Some(time_in_seconds(deletion.timestamp));
        pod.metadata.deletion_grace_period_seconds = i64::try_from(deletion.grace_seconds).ok();
    }
    pod.status = Some(status(shown, around));
    pod
}

/// The API's view of a machine's status.
pub fn status(shown: &Status, around: &Surroundings) -> PodStatus {
    let list = |all: &[Shown]| {
        let entries: Vec<_> = all.iter().map(|one| container(one, around)).collect();
        (!entries.is_empty()).then_some(entries)
    };
    PodStatus {
        phase: Some(shown.phase.name().to_owned()),
        reason: shown.reason.clone(),
        message: shown.message.clone(),
        conditions: Some(shown.conditions.iter().map(condition).collect()),
        start_time: Some(time_in_seconds(shown.start_time)),
        host_ip: around.host_ips.first().map(IpAddr::to_string),
        host_ips: some(around.host_ips.iter().map(|ip| HostIP { ip: ip.to_string() }).collect()),
        pod_ip: shown.ips.first().map(IpAddr::to_string),
        pod_ips: some(shown.ips.iter().map(|ip| PodIP { ip: ip.to_string() }).collect()),
        qos_class: around.qos_class.clone(),
        init_container_statuses: list(&shown.init),
        container_statuses: list(&shown.apps),
        ephemeral_container_statuses: list(&shown.ephemeral),
        observed_generation: (shown.observed_generation > 0).then_some(shown.observed_generation),
        ..PodStatus::default()
    }
}

fn some<T>(all: Vec<T>) -> Option<Vec<T>> {
    (!all.is_empty()).then_some(all)
}

fn filled(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn condition(own: &Condition) -> PodCondition {
    PodCondition {
        type_: own.kind.clone(),
        status: own.status.name().to_owned(),
        reason: own.reason.clone(),
        message: own.message.clone(),
        last_probe_time: None,
        last_transition_time: Some(time_in_seconds(own.last_transition)),
        observed_generation: (own.observed_generation > 0).then_some(own.observed_generation),
    }
}

/// The condition of a pod that ends for another one's sake, or the node's (CO6).
pub const DISRUPTION: &str = "DisruptionTarget";

/// Conditions that the node owns; all others belong to somebody else (CO11).
pub fn is_own(kind: &str) -> bool {
    matches!(
        kind,
        "PodReadyToStartContainers"
            | "Initialized"
            | "Ready"
            | "ContainersReady"
            | "PodScheduled"
            | "AllContainersRestarting"
            | "PodResizePending"
            | "PodResizeInProgress"
            | DISRUPTION
    )
}

/// The machine's view of a condition that a user wrote (CO11); `wall` stands in for a missing transition time.
pub fn foreign(own: &PodCondition, wall: WallTime) -> Condition {
    Condition {
        kind: own.type_.clone(),
        status: match own.status.as_str() {
            "True" => Truth::True,
            "False" => Truth::False,
            _ => Truth::Unknown,
        },
        reason: own.reason.clone(),
        message: own.message.clone(),
        last_transition: own.last_transition_time.as_ref().map_or(wall, |time| wall_time(time.0)),
        observed_generation: own.observed_generation.unwrap_or(0),
    }
}

fn container(own: &Shown, around: &Surroundings) -> ContainerStatus {
    let mut template = around.templates.get(&own.name).cloned().unwrap_or_default();
    if let Some(actual) = &own.actual {
        machine::put_resources(template.resources.get_or_insert_default(), actual);
    }
    ContainerStatus {
        name: own.name.clone(),
        image: own.image.clone(),
        image_id: own.image_id.clone(),
        container_id: filled(&own.id),
        ready: own.ready,
        started: Some(own.started),
        restart_count: i32::try_from(own.restart_count).unwrap_or(i32::MAX),
        state: Some(state(&own.state)),
        last_state: Some(own.last.as_ref().map_or_else(ContainerState::default, terminated)),
        user: own.user.as_ref().map(user),
        stop_signal: own.stop_signal.map(|signal| signal_name(signal.0)),
        ..template
    }
}

fn user(own: &User) -> ContainerUser {
    let groups = own.groups.iter().map(|gid| i64::from(*gid)).collect();
    let linux =
        LinuxContainerUser { uid: i64::from(own.uid), gid: i64::from(own.gid), supplemental_groups: some(groups) };
    ContainerUser { linux: Some(linux) }
}

fn state(own: &State) -> ContainerState {
    match own {
        State::Waiting(Waiting { reason, message }) => {
            let waiting = ContainerStateWaiting { reason: filled(reason), message: filled(message) };
            ContainerState { waiting: Some(waiting), ..ContainerState::default() }
        }
        State::Running { started } => {
            let running = ContainerStateRunning { started_at: Some(time_in_seconds(*started)) };
            ContainerState { running: Some(running), ..ContainerState::default() }
        }
        State::Terminated(record) => terminated(record),
    }
}

fn terminated(own: &Terminated) -> ContainerState {
    let record = ContainerStateTerminated {
        exit_code: own.exit_code,
        reason: filled(&own.reason),
        message: filled(&own.message),
        container_id: filled(&own.id),
        started_at: own.started.map(time_in_seconds),
        finished_at: own.finished.map(time_in_seconds),
        signal: None,
    };
    ContainerState { terminated: Some(record), ..ContainerState::default() }
}

/// `metav1.Time` has whole seconds.
pub(super) fn time_in_seconds(wall: WallTime) -> Time {
    Time(Timestamp::from_second(wall.0.div_euclid(1_000_000_000)).unwrap_or(Timestamp::UNIX_EPOCH))
}

fn wall_time(stamp: Timestamp) -> WallTime {
    WallTime(i64::try_from(stamp.as_nanosecond()).unwrap_or(i64::MAX))
}

/// The name of LC11; `SIGRTMIN+n` above 34 (signal(7)).
fn signal_name(number: i32) -> String {
    match (number, nix::sys::signal::Signal::try_from(number)) {
        (_, Ok(signal)) => signal.as_str().to_owned(),
        (34, Err(_)) => "SIGRTMIN".to_owned(),
        (64, Err(_)) => "SIGRTMAX".to_owned(),
        (35..=49, Err(_)) => format!("SIGRTMIN+{}", number - 34),
        (50..=63, Err(_)) => format!("SIGRTMAX-{}", 64 - number),
        (_, Err(_)) => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::machine::Machine;
    use crate::pod::spec::{ContainerSpec, PodSpec, Role};
    use crate::pod::timer::{Instant, Now};

    fn rendered() -> serde_json::Value {
        let mut spec = PodSpec::new("ns", "p", "u");
        spec.containers.push(ContainerSpec::new("c", Role::App, "busybox"));
        let now = Now { mono: Instant(1), wall: WallTime(1_767_225_600_999_999_999) };
        let machine = Machine::new(spec, now);
        let around = Surroundings { host_ips: vec![IpAddr::from([192, 0, 2, 1])], ..Surroundings::default() };
        serde_json::to_value(status(&machine.status(), &around)).unwrap()
    }

    /// CS1, CO2, CO4, PH14, GE3: a pod that was just acknowledged.
    #[test]
    fn a_new_pod_is_rendered() {
        let shown = rendered();
        assert_eq!(shown["phase"], "Pending");
        assert_eq!(shown["startTime"], "2026-01-01T00:00:00Z");
        assert_eq!(shown["hostIP"], "192.0.2.1");
        assert_eq!(shown["observedGeneration"], 1);
        let expected = serde_json::json!({
            "name": "c", "image": "busybox", "imageID": "", "ready": false, "started": false, "restartCount": 0,
            "state": {"waiting": {"reason": "ContainerCreating"}}, "lastState": {}
        });
        assert_eq!(shown["containerStatuses"][0], expected);
        let kinds: Vec<_> = shown["conditions"].as_array().unwrap().iter().map(|c| c["type"].clone()).collect();
        assert_eq!(kinds, ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"]);
        assert_eq!(shown["conditions"][3]["message"], "containers with unready status: [c]");
        assert_eq!(shown["conditions"][0]["lastTransitionTime"], "2026-01-01T00:00:00Z");
    }

    /// LC11
    #[test]
    fn signals_are_named_as_they_are_written() {
        for (number, name) in
            [(15, "SIGTERM"), (34, "SIGRTMIN"), (37, "SIGRTMIN+3"), (63, "SIGRTMAX-1"), (64, "SIGRTMAX")]
        {
            assert_eq!(signal_name(number), name);
        }
    }
}
