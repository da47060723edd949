//! Requests and limits of containers and pods: names, defaulting, sums (sections 5.2-5.4).

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::quantity::Quantity;

/// Size of a huge page in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageSize(u64);

impl PageSize {
    /// None for a size of nothing.
    #[must_use]
    pub fn from_bytes(bytes: u64) -> Option<Self> {
        (bytes > 0).then_some(Self(bytes))
    }

    #[must_use]
    pub fn bytes(self) -> u64 {
        self.0
    }

    /// The directory name in `/sys/kernel/mm/hugepages`: `hugepages-2048kB`.
    #[must_use]
    pub fn from_sysfs_name(name: &str) -> Option<Self> {
        let kib = name.strip_prefix("hugepages-")?.strip_suffix("kB")?;
        kib.parse::<u64>().ok()?.checked_mul(1024).and_then(Self::from_bytes)
    }
}

impl fmt::Display for PageSize {
    /// As in the kernel's file names: `2MB`, `1GB`, `64KB` (CG9).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes % (1 << 30) == 0 => write!(f, "{}GB", bytes >> 30),
            bytes if bytes % (1 << 20) == 0 => write!(f, "{}MB", bytes >> 20),
            bytes => write!(f, "{}KB", bytes >> 10),
        }
    }
}

/// Name of a resource that a container may ask for (RL3).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    Cpu,
    Memory,
    EphemeralStorage,
    HugePages(PageSize),
    /// `vendor.example/thing`.
    Extended(Box<str>),
}

/// Kubernetes' own texts (RL3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResourceNameError {
    #[error("must be a standard resource for containers")]
    NotStandard,
    #[error("doesn't follow extended resource name standard")]
    NotExtended,
}

impl FromStr for Resource {
    type Err = ResourceNameError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "cpu" => Ok(Self::Cpu),
            "memory" => Ok(Self::Memory),
            "ephemeral-storage" => Ok(Self::EphemeralStorage),
            name => match name.strip_prefix("hugepages-") {
                Some(size) => parse_page_size(size).map(Self::HugePages).ok_or(ResourceNameError::NotStandard),
                None => parse_extended(name),
            },
        }
    }
}

fn parse_page_size(size: &str) -> Option<PageSize> {
    let size: Quantity = size.parse().ok()?;
    size.is_integer().then(|| PageSize::from_bytes(size.units())).flatten()
}

fn parse_extended(name: &str) -> Result<Resource, ResourceNameError> {
    let Some((domain, local)) = name.split_once('/') else {
        return Err(ResourceNameError::NotStandard);
    };
    let native = domain == "kubernetes.io" || domain.ends_with(".kubernetes.io");
    if native || domain.is_empty() || local.is_empty() || local.contains('/') || name.starts_with("requests.") {
        return Err(ResourceNameError::NotExtended);
    }
    Ok(Resource::Extended(name.into()))
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Memory => f.write_str("memory"),
            Self::EphemeralStorage => f.write_str("ephemeral-storage"),
            Self::HugePages(size) => write!(f, "hugepages-{}", Quantity::from_bytes(size.bytes())),
            Self::Extended(name) => f.write_str(name),
        }
    }
}

impl Resource {
    /// Whether a request below the limit is allowed (RL4).
    #[must_use]
    pub fn is_overcommittable(&self) -> bool {
        match self {
            Self::Cpu | Self::Memory | Self::EphemeralStorage => true,
            Self::HugePages(_) | Self::Extended(_) => false,
        }
    }

    /// Whether a pod as a whole can ask for it (PL1).
    #[must_use]
    pub fn is_pod_level(&self) -> bool {
        match self {
            Self::Cpu | Self::Memory | Self::HugePages(_) => true,
            Self::EphemeralStorage | Self::Extended(_) => false,
        }
    }
}

/// Amounts by resource name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResourceList(BTreeMap<Resource, Quantity>);

impl ResourceList {
    #[must_use]
    pub fn get(&self, resource: &Resource) -> Option<Quantity> {
        self.0.get(resource).copied()
    }

    /// The amount, with 0 for what is not named.
    #[must_use]
    pub fn amount(&self, resource: &Resource) -> Quantity {
        self.get(resource).unwrap_or(Quantity::ZERO)
    }

    /// Milli-CPU, if cpu is named.
    #[must_use]
    pub fn cpu(&self) -> Option<u64> {
        self.get(&Resource::Cpu).map(Quantity::millis)
    }

    /// Bytes, if memory is named.
    #[must_use]
    pub fn memory(&self) -> Option<u64> {
        self.get(&Resource::Memory).map(Quantity::units)
    }

    pub fn set(&mut self, resource: Resource, amount: Quantity) {
        self.0.insert(resource, amount);
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Resource, Quantity)> {
        self.0.iter().map(|(resource, amount)| (resource, *amount))
    }

    fn add(&mut self, other: &Self) {
        for (resource, amount) in &other.0 {
            let sum = self.0.entry(resource.clone()).or_insert(Quantity::ZERO);
            *sum = sum.plus(*amount);
        }
    }

    fn raise_to(&mut self, other: &Self) {
        for (resource, amount) in &other.0 {
            let largest = self.0.entry(resource.clone()).or_insert(*amount);
            *largest = (*largest).max(*amount);
        }
    }

    fn set_missing(&mut self, resource: &Resource, amount: Quantity) {
        self.0.entry(resource.clone()).or_insert(amount);
    }

    fn round(&mut self) {
        self.0.values_mut().for_each(|amount| *amount = amount.rounded_to_milli());
    }
}

impl FromIterator<(Resource, Quantity)> for ResourceList {
    fn from_iter<I: IntoIterator<Item = (Resource, Quantity)>>(amounts: I) -> Self {
        Self(amounts.into_iter().collect())
    }
}

/// What is promised and what is the most.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Requirements {
    pub requests: ResourceList,
    pub limits: ResourceList,
}

impl Requirements {
    /// QT4 and RL1: rounds up to milli, and a resource with a limit and no request gets request = limit.
    pub fn set_defaults(&mut self) {
        self.requests.round();
        self.limits.round();
        for (resource, limit) in &self.limits.0 {
            self.requests.set_missing(resource, *limit);
        }
    }

    fn side(&self, side: Side) -> &ResourceList {
        match side {
            Side::Requests => &self.requests,
            Side::Limits => &self.limits,
        }
    }
}

/// One half of [`Requirements`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Requests,
    Limits,
}

/// When a container runs, as far as sums of resources care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerKind {
    /// Of `spec.initContainers`: runs to its end before the next one.
    Init,
    /// Of `spec.initContainers` with `restartPolicy: Always`.
    Sidecar,
    /// Of `spec.containers`.
    App,
}

/// A container as far as resources care.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerResources {
    pub kind: ContainerKind,
    pub resources: Requirements,
}

/// A pod as far as resources care. Ephemeral containers are left out: they have no resources (RL1).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodResources {
    /// Init containers and sidecars in the order of the spec, then app containers.
    pub containers: Vec<ContainerResources>,
    /// `spec.resources`, when it is there.
    pub pod: Option<Requirements>,
    pub overhead: ResourceList,
}

impl PodResources {
    /// RL1 for every container, PL2 for the pod.
    pub fn set_defaults(&mut self) {
        for container in &mut self.containers {
            container.resources.set_defaults();
        }
        let aggregate = self.aggregate(Side::Requests);
        if let Some(pod) = &mut self.pod {
            pod.requests.round();
            pod.limits.round();
            for (resource, limit) in &pod.limits.0 {
                let asked = aggregate.get(resource).filter(|_| resource.is_overcommittable());
                pod.requests.set_missing(resource, asked.unwrap_or(*limit));
            }
        }
    }

    /// The effective requests (5.4): what admission counts and the pod cgroup is weighted by.
    #[must_use]
    pub fn requests(&self) -> ResourceList {
        let mut effective = self.overridden(Side::Requests);
        effective.add(&self.overhead);
        effective
    }

    /// The effective limits (5.4, ER1); overhead is added to limits that are not zero.
    #[must_use]
    pub fn limits(&self) -> ResourceList {
        let mut effective = self.overridden(Side::Limits);
        for (resource, limit) in &mut effective.0 {
            if !limit.is_zero() {
                *limit = limit.plus(self.overhead.amount(resource));
            }
        }
        effective
    }

    /// Requests summed over the containers alone, as PL3 and OO4 compare them with the pod's.
    #[must_use]
    pub fn aggregate_requests(&self) -> ResourceList {
        self.aggregate(Side::Requests)
    }

    /// Limits summed over the containers alone.
    #[must_use]
    pub fn aggregate_limits(&self) -> ResourceList {
        self.aggregate(Side::Limits)
    }

    /// The limit that holds for the pod as a whole, if there is one: the pod's own, or the sum if **every** container, init
    /// containers too, has a limit (CG4, CG5).
    #[must_use]
    pub fn enforced_limit(&self, resource: &Resource) -> Option<Quantity> {
        let limited = |requirements: &Requirements| requirements.limits.amount(resource).is_positive();
        let by_pod = self.pod.as_ref().is_some_and(limited);
        let by_all = !self.containers.is_empty() && self.containers.iter().all(|c| limited(&c.resources));
        if by_pod || by_all { self.limits().get(resource) } else { None }
    }

    /// A container's own limit or else the pod's (PL5).
    #[must_use]
    pub fn container_limit(&self, container: &Requirements, resource: &Resource) -> Option<Quantity> {
        let pod_limit = || self.pod.as_ref().and_then(|pod| pod.limits.get(resource));
        container.limits.get(resource).or_else(pod_limit)
    }

    /// PL4.
    fn overridden(&self, side: Side) -> ResourceList {
        let mut effective = self.aggregate(side);
        for (resource, amount) in self.pod.iter().flat_map(|pod| pod.side(side).iter()) {
            if resource.is_pod_level() {
                effective.set(resource.clone(), amount);
            }
        }
        effective
    }

    /// The most that is needed at any time: during each init container, beside the sidecars started before it, and in the
    /// end when all sidecars and apps run.
    fn aggregate(&self, side: Side) -> ResourceList {
        let mut at_end = ResourceList::default();
        let mut sidecars = ResourceList::default();
        let mut peak = ResourceList::default();
        for container in &self.containers {
            let own = container.resources.side(side);
            match container.kind {
                ContainerKind::App => at_end.add(own),
                ContainerKind::Sidecar => {
                    sidecars.add(own);
                    peak.raise_to(&sidecars);
                }
                ContainerKind::Init => {
                    let mut meanwhile = sidecars.clone();
                    meanwhile.add(own);
                    peak.raise_to(&meanwhile);
                }
            }
        }
        at_end.add(&sidecars);
        at_end.raise_to(&peak);
        at_end
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// `cpu=100m memory=64Mi`, empty for nothing.
    pub(crate) fn list(text: &str) -> ResourceList {
        text.split_whitespace()
            .map(|item| item.split_once('=').expect("name=amount"))
            .map(|(name, amount)| (name.parse().expect("name"), amount.parse().expect("amount")))
            .collect()
    }

    pub(crate) fn requirements(requests: &str, limits: &str) -> Requirements {
        Requirements { requests: list(requests), limits: list(limits) }
    }

    pub(crate) fn container(kind: ContainerKind, requests: &str, limits: &str) -> ContainerResources {
        ContainerResources { kind, resources: requirements(requests, limits) }
    }

    pub(crate) fn app(requests: &str, limits: &str) -> ContainerResources {
        container(ContainerKind::App, requests, limits)
    }

    pub(crate) fn pod(containers: Vec<ContainerResources>) -> PodResources {
        PodResources { containers, ..PodResources::default() }
    }

    /// RL3.
    #[test]
    fn names_are_standard_or_extended() {
        use ResourceNameError::{NotExtended, NotStandard};
        for name in ["cpu", "memory", "ephemeral-storage", "hugepages-2Mi", "hugepages-1Gi", "nvidia.com/gpu"] {
            assert_eq!(name.parse::<Resource>().map(|resource| resource.to_string()), Ok(name.to_owned()));
        }
        for (name, expected) in [
            ("gpu", NotStandard),
            ("hugepages-", NotStandard),
            ("hugepages-0", NotStandard),
            ("hugepages-big", NotStandard),
            ("kubernetes.io/x", NotExtended),
            ("a.kubernetes.io/x", NotExtended),
            ("requests.vendor.com/x", NotExtended),
            ("/x", NotExtended),
            ("vendor.com/", NotExtended),
        ] {
            assert_eq!(name.parse::<Resource>(), Err(expected), "{name}");
        }
    }

    /// CG9.
    #[test]
    fn page_sizes_have_the_kernels_names() {
        for (sysfs, kernel) in [("2048kB", "2MB"), ("1048576kB", "1GB"), ("64kB", "64KB"), ("524288kB", "512MB")] {
            let size = PageSize::from_sysfs_name(&format!("hugepages-{sysfs}"));
            assert_eq!(size.map(|size| size.to_string()), Some(kernel.to_owned()));
        }
        assert_eq!(PageSize::from_sysfs_name("hugepages-0kB"), None);
        assert_eq!(PageSize::from_sysfs_name("other"), None);
    }

    /// RL1, QT4.
    #[test]
    fn a_limit_without_a_request_becomes_the_request() {
        let mut asked = requirements("cpu=0.1m", "cpu=1 memory=64Mi");
        asked.set_defaults();
        assert_eq!(asked, requirements("cpu=1m memory=64Mi", "cpu=1 memory=64Mi"));
    }

    /// PL2.
    #[test]
    fn a_pods_missing_request_is_the_containers_or_else_its_limit() {
        let mut asked = pod(vec![app("cpu=100m", ""), app("cpu=200m hugepages-2Mi=2Mi", "")]);
        asked.pod = Some(requirements("", "cpu=1 memory=64Mi hugepages-2Mi=4Mi"));
        asked.set_defaults();
        let expected = list("cpu=300m memory=64Mi hugepages-2Mi=4Mi");
        assert_eq!(asked.pod.map(|pod| pod.requests), Some(expected));
    }

    /// ER2 and 5.4.
    #[test]
    fn the_effective_request_is_the_peak_over_time() {
        use ContainerKind::{App, Init, Sidecar};
        let cases = [
            (vec![(Sidecar, 100), (Init, 500), (App, 200)], 600),
            (vec![(Init, 500), (Sidecar, 100), (App, 200)], 500),
            (vec![(Init, 100), (Init, 150), (App, 200), (App, 200)], 400),
            (vec![(Sidecar, 300), (Sidecar, 300), (App, 1)], 601),
            (vec![], 0),
        ];
        for (containers, expected) in cases {
            let all = containers.iter().map(|(kind, cpu)| container(*kind, &format!("cpu={cpu}m"), "")).collect();
            assert_eq!(pod(all).requests().cpu().unwrap_or(0), expected, "{containers:?}");
        }
    }

    /// PL4, 5.4.
    #[test]
    fn the_pods_own_amounts_win_and_overhead_comes_on_top() {
        let mut asked = pod(vec![app("cpu=100m memory=1Mi ephemeral-storage=1Gi", "cpu=0")]);
        asked.pod = Some(requirements("cpu=500m ephemeral-storage=9Gi", "memory=10Mi"));
        asked.overhead = list("cpu=50m memory=1Mi");
        assert_eq!(asked.requests(), list("cpu=550m memory=2Mi ephemeral-storage=1Gi"));
        assert_eq!(asked.limits(), list("cpu=0 memory=11Mi"));
    }

    /// CG4, CG5.
    #[test]
    fn a_pod_is_limited_when_every_container_is() {
        let cpu = |pod: &PodResources| pod.enforced_limit(&Resource::Cpu).map(Quantity::millis);
        assert_eq!(cpu(&pod(vec![app("", "cpu=1"), app("", "cpu=500m")])), Some(1500));
        assert_eq!(cpu(&pod(vec![app("", "cpu=1"), container(ContainerKind::Init, "", "")])), None);
        assert_eq!(cpu(&pod(vec![])), None);
        let mut asked = pod(vec![app("", "")]);
        asked.pod = Some(requirements("", "cpu=2"));
        assert_eq!(cpu(&asked), Some(2000));
        let inherited = asked.container_limit(&requirements("", ""), &Resource::Cpu);
        assert_eq!(inherited, Some(Quantity::from_units(2)), "PL5");
    }
}
