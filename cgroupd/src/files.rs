//! Which value goes into which cgroup v2 file (section 5.6).
//!
//! Every function lists all files of its cgroup, with `max` where there is no limit, so that applying the list to a cgroup
//! that exists removes what held before.

use std::collections::BTreeSet;
use std::fmt;

use crate::convert::{CPU_PERIOD_US, Limit, MilliCpu, quota_us, weight};
use crate::qos::QosClass;
use crate::resources::{PageSize, PodResources, Requirements, Resource};

/// Processes and threads in a pod when the configuration says nothing else (D23).
pub const PIDS_PER_POD_DEFAULT: u64 = 4096;
/// `hugetlb.<size>.max` at a QoS level: as good as none, and readable back as a number (CG9).
const HUGETLB_UNBOUND: u64 = 1 << 62;

/// A cgroup v2 controller that Monopod uses (CG16).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Controller {
    Cpu,
    Cpuset,
    Memory,
    Pids,
    Hugetlb,
}

/// A set of controllers.
pub type Controllers = BTreeSet<Controller>;

impl Controller {
    pub const ALL: [Self; 5] = [Self::Cpu, Self::Cpuset, Self::Memory, Self::Pids, Self::Hugetlb];

    /// The kernel's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cpuset => "cpuset",
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Hugetlb => "hugetlb",
        }
    }

    /// Reads `cgroup.controllers` or `cgroup.subtree_control`; controllers that Monopod does not use are left out.
    #[must_use]
    pub fn parse_list(text: &str) -> Controllers {
        let named = |name: &str| Self::ALL.into_iter().find(|controller| controller.name() == name);
        text.split_whitespace().filter_map(named).collect()
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A file that limits or weighs; shown by the kernel's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum File {
    CpuWeight,
    CpuMax,
    MemoryHigh,
    MemoryMax,
    MemorySwapMax,
    MemoryOomGroup,
    PidsMax,
    HugetlbMax(PageSize),
}

impl File {
    #[must_use]
    pub fn controller(self) -> Controller {
        match self {
            Self::CpuWeight | Self::CpuMax => Controller::Cpu,
            Self::MemoryHigh | Self::MemoryMax | Self::MemorySwapMax | Self::MemoryOomGroup => Controller::Memory,
            Self::PidsMax => Controller::Pids,
            Self::HugetlbMax(_) => Controller::Hugetlb,
        }
    }

    /// What the file of a new cgroup holds: not being able to write it changes nothing.
    #[must_use]
    pub fn initial(self) -> Value {
        match self {
            Self::CpuWeight => Value::Number(100),
            Self::CpuMax => Value::Bandwidth(Limit::Max),
            Self::MemoryHigh | Self::MemoryMax | Self::MemorySwapMax | Self::PidsMax | Self::HugetlbMax(_) => {
                Value::Limit(Limit::Max)
            }
            Self::MemoryOomGroup => Value::Number(0),
        }
    }
}

impl fmt::Display for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CpuWeight => f.write_str("cpu.weight"),
            Self::CpuMax => f.write_str("cpu.max"),
            Self::MemoryHigh => f.write_str("memory.high"),
            Self::MemoryMax => f.write_str("memory.max"),
            Self::MemorySwapMax => f.write_str("memory.swap.max"),
            Self::MemoryOomGroup => f.write_str("memory.oom.group"),
            Self::PidsMax => f.write_str("pids.max"),
            Self::HugetlbMax(size) => write!(f, "hugetlb.{size}.max"),
        }
    }
}

/// A file's content; shown as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    Number(u64),
    Limit(Limit),
    /// Microseconds of CPU per [`CPU_PERIOD_US`].
    Bandwidth(Limit),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Limit(limit) => write!(f, "{limit}"),
            Self::Bandwidth(quota) => write!(f, "{quota} {CPU_PERIOD_US}"),
        }
    }
}

impl Value {
    /// A file's content as the same kind of value; none when it is something else.
    #[must_use]
    pub fn read(self, text: &str) -> Option<Self> {
        let word = text.split_whitespace().next()?;
        let limit = || if word == "max" { Some(Limit::Max) } else { word.parse().ok().map(Limit::Value) };
        match self {
            Self::Number(_) => word.parse().ok().map(Self::Number),
            Self::Limit(_) => limit().map(Self::Limit),
            Self::Bandwidth(_) => limit().map(Self::Bandwidth),
        }
    }

    /// Whether going from `self` to `to` gives less (RZ5: decreases come first).
    #[must_use]
    pub fn decreases_to(self, to: Self) -> bool {
        let size = |value| match value {
            Self::Number(number) => Limit::Value(number),
            Self::Limit(limit) | Self::Bandwidth(limit) => limit,
        };
        size(to) < size(self)
    }
}

/// Who wants a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A request or limit in the manifest: not enforcing it must be said aloud.
    Manifest,
    /// Monopod's own rules.
    Policy,
}

/// One file and its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    pub file: File,
    pub value: Value,
    pub origin: Origin,
}

/// How containers may use swap (CG7).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Swap {
    #[default]
    NoSwap,
    /// Bytes of the node; the caller gives this for non-critical Burstable pods only.
    LimitedSwap { node_memory: u64, node_swap: u64 },
}

/// What the node decides for all pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// `podPidsLimit`; [`PIDS_PER_POD_DEFAULT`] (CG8, D23).
    pub pids_per_pod: Limit,
    /// Only the process that ran out of memory is killed, not its whole container (CG6).
    pub single_process_oom_kill: bool,
    pub swap: Swap,
    /// The sizes that this host has (`/sys/kernel/mm/hugepages`).
    pub page_sizes: Vec<PageSize>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            pids_per_pod: Limit::Value(PIDS_PER_POD_DEFAULT),
            single_process_oom_kill: false,
            swap: Swap::NoSwap,
            page_sizes: Vec::new(),
        }
    }
}

/// The files of one container of `pod` (CG1, CG3-CG7, CG9, PL5).
#[must_use]
pub fn container(pod: &PodResources, own: &Requirements, policy: &Policy) -> Vec<Setting> {
    let limit = |resource| pod.container_limit(own, resource).filter(|limit| limit.is_positive());
    let cpu_limit = limit(&Resource::Cpu).map(|limit| limit.millis());
    let share = own.requests.cpu().or_else(|| own.limits.cpu());
    let mut settings = cpu(share, cpu_limit);
    settings.push(memory_max(limit(&Resource::Memory).map(|limit| limit.units())));
    settings.push(ours(File::MemorySwapMax, Value::Limit(Limit::Value(swap_max(own, policy.swap)))));
    settings.push(ours(File::MemoryOomGroup, Value::Number(u64::from(!policy.single_process_oom_kill))));
    settings.extend(hugetlb(policy, |size| own.limits.get(&Resource::HugePages(size)).map(|limit| limit.units())));
    settings
}

/// The files of the sandbox's leaf: the least weight, no limits (CG17).
#[must_use]
pub fn sandbox() -> Vec<Setting> {
    vec![ours(File::CpuWeight, Value::Number(weight(0)))]
}

/// The files of a pod's cgroup (CG4, CG5, CG8-CG10).
#[must_use]
pub fn pod(pod: &PodResources, qos: QosClass, policy: &Policy) -> Vec<Setting> {
    let requests = pod.requests();
    let limit = |resource| match qos {
        QosClass::Guaranteed | QosClass::Burstable => pod.enforced_limit(resource),
        QosClass::BestEffort => None,
    };
    let share = match qos {
        QosClass::Guaranteed | QosClass::Burstable => requests.cpu(),
        QosClass::BestEffort => None,
    };
    let mut settings = cpu(share, limit(&Resource::Cpu).map(|limit| limit.millis()));
    settings.push(memory_max(limit(&Resource::Memory).map(|limit| limit.units())));
    settings.push(ours(File::PidsMax, Value::Limit(policy.pids_per_pod)));
    settings.extend(hugetlb(policy, |size| requests.get(&Resource::HugePages(size)).map(|request| request.units())));
    settings
}

/// The files of a QoS level (CG9, CG11); `cpu_requests` sums the effective requests of its active pods. Empty for
/// Guaranteed, which has no level of its own.
#[must_use]
pub fn qos_level(qos: QosClass, cpu_requests: MilliCpu, policy: &Policy) -> Vec<Setting> {
    let share = match qos {
        QosClass::Guaranteed => return Vec::new(),
        QosClass::Burstable => cpu_requests,
        QosClass::BestEffort => 0,
    };
    let mut settings = vec![ours(File::CpuWeight, Value::Number(weight(share)))];
    let unbound = Value::Limit(Limit::Value(HUGETLB_UNBOUND));
    settings.extend(policy.page_sizes.iter().map(|size| ours(File::HugetlbMax(*size), unbound)));
    settings
}

/// The files of `kubepods` (CG12, D23): what the node gives to all pods together. At `memory_high` bytes the kernel starts
/// to reclaim, before it kills at `memory_max`.
#[must_use]
pub fn kubepods(allocatable_cpu: MilliCpu, memory_high: Limit, memory_max: Limit) -> Vec<Setting> {
    vec![
        ours(File::CpuWeight, Value::Number(weight(allocatable_cpu))),
        ours(File::MemoryHigh, Value::Limit(memory_high)),
        ours(File::MemoryMax, Value::Limit(memory_max)),
    ]
}

fn ours(file: File, value: Value) -> Setting {
    Setting { file, value, origin: Origin::Policy }
}

fn asked(file: File, value: Value, by_manifest: bool) -> Setting {
    Setting { file, value, origin: if by_manifest { Origin::Manifest } else { Origin::Policy } }
}

fn cpu(share: Option<MilliCpu>, limit: Option<MilliCpu>) -> Vec<Setting> {
    vec![
        asked(File::CpuWeight, Value::Number(weight(share.unwrap_or(0))), share.is_some()),
        asked(File::CpuMax, Value::Bandwidth(quota_us(limit)), limit.is_some()),
    ]
}

fn memory_max(limit: Option<u64>) -> Setting {
    asked(File::MemoryMax, Value::Limit(limit.map_or(Limit::Max, Limit::Value)), limit.is_some())
}

/// Every size of the host: nothing where nothing was asked for (CG9).
fn hugetlb(policy: &Policy, asked_bytes: impl Fn(PageSize) -> Option<u64>) -> Vec<Setting> {
    let setting = |size: &PageSize| {
        let bytes = asked_bytes(*size);
        asked(File::HugetlbMax(*size), Value::Limit(Limit::Value(bytes.unwrap_or(0))), bytes.is_some())
    };
    policy.page_sizes.iter().map(setting).collect()
}

/// CG7, in bytes.
fn swap_max(own: &Requirements, swap: Swap) -> u64 {
    match (swap, own.requests.memory()) {
        (Swap::LimitedSwap { node_memory, node_swap }, Some(request)) if own.limits.memory() != Some(request) => {
            let product = u128::from(request) * u128::from(node_swap);
            let share = product.checked_div(u128::from(node_memory)).unwrap_or(0);
            u64::try_from(share).unwrap_or(u64::MAX).min(node_swap)
        }
        (Swap::LimitedSwap { .. } | Swap::NoSwap, _) => 0,
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::resources::tests::{app, pod as pod_of, requirements};

    fn policy() -> Policy {
        let page_sizes = ["hugepages-2048kB", "hugepages-1048576kB"];
        let page_sizes = page_sizes.into_iter().filter_map(PageSize::from_sysfs_name).collect();
        Policy { page_sizes, ..Policy::default() }
    }

    fn check(settings: &[Setting], expected: &Expect) {
        let line = |setting: &Setting| {
            let mark = if setting.origin == Origin::Manifest { "  # manifest" } else { "" };
            format!("{}: {}{mark}\n", setting.file, setting.value)
        };
        expected.assert_eq(&settings.iter().map(line).collect::<String>());
    }

    /// Section 11.2: cpu 250m/500m.
    #[test]
    fn a_burstable_container_and_its_pod() {
        let asked = pod_of(vec![app("cpu=250m memory=64Mi", "cpu=500m memory=128Mi hugepages-2Mi=4Mi")]);
        check(
            &container(&asked, &asked.containers[0].resources, &policy()),
            &expect![[r#"
            cpu.weight: 35  # manifest
            cpu.max: 50000 100000  # manifest
            memory.max: 134217728  # manifest
            memory.swap.max: 0
            memory.oom.group: 1
            hugetlb.2MB.max: 4194304  # manifest
            hugetlb.1GB.max: 0
        "#]],
        );
        check(
            &pod(&asked, QosClass::Burstable, &policy()),
            &expect![[r#"
            cpu.weight: 35  # manifest
            cpu.max: 50000 100000  # manifest
            memory.max: 134217728  # manifest
            pids.max: 4096
            hugetlb.2MB.max: 0
            hugetlb.1GB.max: 0
        "#]],
        );
    }

    /// CG10.
    #[test]
    fn a_best_effort_pod_has_the_least_weight_and_no_limit() {
        let asked = pod_of(vec![app("", "")]);
        check(
            &pod(&asked, QosClass::BestEffort, &Policy::default()),
            &expect![[r#"
            cpu.weight: 1
            cpu.max: max 100000
            memory.max: max
            pids.max: 4096
        "#]],
        );
        check(
            &container(&asked, &asked.containers[0].resources, &Policy::default()),
            &expect![[r#"
            cpu.weight: 1
            cpu.max: max 100000
            memory.max: max
            memory.swap.max: 0
            memory.oom.group: 1
        "#]],
        );
    }

    /// PL5, CG4 at pod level.
    #[test]
    fn a_pods_own_limit_reaches_its_containers() {
        let mut asked = pod_of(vec![app("", ""), app("cpu=1", "")]);
        asked.pod = Some(requirements("cpu=2", "cpu=3 memory=1Gi"));
        let text = |settings: Vec<Setting>| settings[..3].iter().map(|s| s.value.to_string()).collect::<Vec<_>>();
        assert_eq!(
            text(container(&asked, &asked.containers[0].resources, &policy())),
            ["1", "300000 100000", "1073741824"]
        );
        assert_eq!(text(pod(&asked, QosClass::Burstable, &policy())), ["174", "300000 100000", "1073741824"]);
    }

    /// CG11, CG12.
    #[test]
    fn levels_weigh_what_their_pods_asked_for() {
        check(
            &qos_level(QosClass::Burstable, 1500, &policy()),
            &expect![[r#"
            cpu.weight: 138
            hugetlb.2MB.max: 4611686018427387904
            hugetlb.1GB.max: 4611686018427387904
        "#]],
        );
        check(
            &qos_level(QosClass::BestEffort, 1500, &Policy::default()),
            &expect![[r#"
            cpu.weight: 1
        "#]],
        );
        assert_eq!(qos_level(QosClass::Guaranteed, 1500, &policy()), []);
        check(
            &kubepods(2000, Limit::Value(4000), Limit::Value(4096)),
            &expect![[r#"
            cpu.weight: 174
            memory.high: 4000
            memory.max: 4096
        "#]],
        );
    }

    /// CG7.
    #[test]
    fn swap_is_shared_by_memory_request() {
        let swap = Swap::LimitedSwap { node_memory: 16 << 30, node_swap: 4 << 30 };
        assert_eq!(swap_max(&requirements("memory=4Gi", "memory=8Gi"), swap), 1 << 30);
        assert_eq!(swap_max(&requirements("memory=4Gi", "memory=4Gi"), swap), 0);
        assert_eq!(swap_max(&requirements("cpu=1", ""), swap), 0);
        assert_eq!(swap_max(&requirements("memory=4Gi", ""), Swap::NoSwap), 0);
    }

    /// RZ5.
    #[test]
    fn less_is_less_for_every_kind_of_value() {
        let bandwidth = |quota| Value::Bandwidth(quota);
        assert!(bandwidth(Limit::Max).decreases_to(bandwidth(Limit::Value(1000))));
        assert!(!bandwidth(Limit::Value(1000)).decreases_to(bandwidth(Limit::Max)));
        assert!(Value::Number(100).decreases_to(Value::Number(1)));
        assert!(!Value::Limit(Limit::Value(5)).decreases_to(Value::Limit(Limit::Value(5))));
    }
}
