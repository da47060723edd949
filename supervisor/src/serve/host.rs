//! The machine as a node: what it is called, what it has, what it gives.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use cgroupd::{Quantity, Resource, ResourceList};
use k8s_openapi::api::core::v1::{Pod, Taint};

use super::pressure::Pressures;
use crate::config::Config;
use crate::config::sysctls::Allowed;
use crate::convert::facts::NodeFacts;
use crate::convert::status::Surroundings;
use crate::pod::spec::PodSpec;

/// See the module's documentation.
#[derive(Debug, Clone)]
pub struct Host {
    pub name: String,
    /// Primary first.
    pub ips: Vec<IpAddr>,
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<Taint>,
    /// `spec.unschedulable`: nothing new is bound.
    pub cordoned: bool,
    pub capacity: ResourceList,
    /// What is left of the capacity for pods.
    pub allocatable: ResourceList,
    /// Extended resources that somebody wrote into the node's status.
    pub extended: ResourceList,
    pub max_pods: u32,
    pub allowed_unsafe_sysctls: Vec<Allowed>,
    /// Whether the kernel enforces AppArmor profiles.
    pub apparmor: bool,
    /// Whether pods can have users of their own.
    pub user_namespaces: bool,
    pub pressure: Pressures,
    pub log_dir: PathBuf,
    pub crash_back_off_max: Duration,
}

impl Host {
    pub fn new(config: &Config, facts: &NodeFacts) -> Self {
        let mut capacity = ResourceList::default();
        let number = |value: i64| u64::try_from(value).unwrap_or(0);
        capacity.set(Resource::Cpu, Quantity::from_millis(number(facts.allocatable_cpu_milli)));
        capacity.set(Resource::Memory, Quantity::from_bytes(number(facts.allocatable_memory_bytes)));
        let disk = number(facts.allocatable_ephemeral_bytes);
        capacity.set(Resource::EphemeralStorage, Quantity::from_units(disk));
        let mut labels = standard_labels(&facts.name);
        labels.extend(config.node_labels.clone());
        let taint = |own: &crate::config::Taint| Taint {
            key: own.key.clone(),
            value: (!own.value.is_empty()).then(|| own.value.clone()),
            effect: own.effect.clone(),
            time_added: None,
        };
        Self {
            name: facts.name.clone(),
            ips: facts.ips.clone(),
            labels,
            taints: config.register_with_taints.iter().map(taint).collect(),
            cordoned: false,
            allocatable: without_reserved(&capacity, &config.system_reserved),
            capacity,
            extended: ResourceList::default(),
            max_pods: config.max_pods,
            allowed_unsafe_sysctls: config.allowed_unsafe_sysctls.clone(),
            apparmor: facts.apparmor,
            user_namespaces: false,
            pressure: Pressures::default(),
            log_dir: config.log_dir.clone(),
            crash_back_off_max: config.max_container_restart_period,
        }
    }

    /// What the node's settings and the disk add to a pod's specification.
    pub fn complete(&self, spec: &mut PodSpec) {
        spec.crash_back_off_max = self.crash_back_off_max;
        let pod = self.log_dir.join(format!("{}_{}_{}", spec.namespace, spec.name, spec.uid));
        for container in &mut spec.containers {
            container.first_attempt = next_attempt(&pod.join(&container.name));
        }
    }

    /// How much of a resource all pods together may ask for (RL6).
    pub fn gives(&self, resource: &Resource) -> Quantity {
        match resource {
            Resource::Cpu | Resource::Memory | Resource::EphemeralStorage | Resource::HugePages(_) => {
                self.allocatable.amount(resource)
            }
            Resource::Extended(_) => self.extended.amount(resource),
        }
    }

    /// What a status needs besides the machine.
    pub fn surroundings(&self, pod: &Pod) -> Surroundings {
        Surroundings::of(pod, self.ips.clone())
    }
}

/// What a kubelet puts on its node.
fn standard_labels(name: &str) -> BTreeMap<String, String> {
    let arch = architecture();
    let all = [
        ("beta.kubernetes.io/arch", arch),
        ("beta.kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", arch),
        ("kubernetes.io/hostname", name),
        ("kubernetes.io/os", "linux"),
    ];
    all.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// Go's name of the processor, which image indexes use, too.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn without_reserved(capacity: &ResourceList, reserved: &BTreeMap<String, String>) -> ResourceList {
    let mut left = capacity.clone();
    for (name, amount) in reserved {
        let (Ok(resource), Ok(amount)) = (name.parse::<Resource>(), amount.parse::<Quantity>()) else { continue };
        let rest = capacity.amount(&resource).minus(amount);
        left.set(resource, if rest.is_negative() { Quantity::from_units(0) } else { rest });
    }
    left
}

/// Rule LF6: one above the highest log, 0 without logs.
fn next_attempt(dir: &std::path::Path) -> u32 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".log")?.parse::<u32>().ok());
    numbers.max().map_or(0, |highest| highest.saturating_add(1))
}

#[cfg(test)]
pub(super) fn example() -> Host {
    let facts = NodeFacts {
        name: "n1".to_owned(),
        ips: vec![IpAddr::from([192, 0, 2, 2])],
        allocatable_cpu_milli: 2000,
        allocatable_memory_bytes: 1 << 30,
        allocatable_ephemeral_bytes: 1 << 33,
        cpus: 2,
        nofile: (1024, 1024),
        apparmor: false,
        capabilities: 0,
    };
    Host::new(&Config::default(), &facts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_is_not_given() {
        let reserved = BTreeMap::from([("cpu".to_owned(), "500m".to_owned()), ("memory".to_owned(), "9Gi".to_owned())]);
        let left = without_reserved(&example().capacity, &reserved);
        assert_eq!(left.cpu(), Some(1500));
        assert_eq!(left.memory(), Some(0));
    }

    /// LF6
    #[test]
    fn a_pod_without_memory_counts_on_after_its_logs() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(next_attempt(dir.path()), 0);
        for name in ["0.log", "3.log", "3.log.20260101-000000", "x.log"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(next_attempt(dir.path()), 4);
    }
}
