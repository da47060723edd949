//! What to do to the tree of cgroups, as ordered data.
//!
//! The layout is that of the kubelet's cgroupfs driver, so that existing tools find their way:
//! `kubepods/[<qos>/]pod<uid>/<id>`, Guaranteed pods directly below `kubepods`. The sandbox (pause and monitor) is a leaf
//! beside its containers. All processes sit in leaves, as cgroup v2 demands.

use std::fmt;

use crate::files::{Controller, Controllers, Setting};
use crate::qos::QosClass;

/// The directory that holds all pods.
pub const KUBEPODS: &str = "kubepods";
/// Before a pod's uid in the name of its directory.
const POD_PREFIX: &str = "pod";
/// Longest uid or id; a directory name with its prefix stays far below the kernel's 255 bytes.
pub const NAME_MAX: usize = 128;

/// A string that must not become a directory name (D20).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no cgroup name: only 1 to {NAME_MAX} letters, digits, '-' and '_' are")]
pub struct NameError(String);

/// Only characters that no file of the kernel's consists of alone: each of those has a dot.
fn check_name(name: &str) -> Result<(), NameError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(allowed) {
        return Ok(());
    }
    Err(NameError(name.chars().take(NAME_MAX).collect()))
}

/// A pod's uid, safe as a part of a directory name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodUid(String);

impl PodUid {
    /// # Errors
    /// When `uid` has other characters than letters, digits, `-` and `_`, or is too long.
    pub fn new(uid: impl Into<String>) -> Result<Self, NameError> {
        let uid = uid.into();
        check_name(&uid)?;
        Ok(Self(uid))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A directory below the tree's root. Its components are checked names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CgroupPath(Vec<String>);

impl CgroupPath {
    /// `kubepods`.
    #[must_use]
    pub fn kubepods() -> Self {
        Self(vec![KUBEPODS.to_owned()])
    }

    /// Where the pods of a class are.
    #[must_use]
    pub fn qos(qos: QosClass) -> Self {
        let level = qos.dir_name().map(str::to_owned);
        Self(std::iter::once(KUBEPODS.to_owned()).chain(level).collect())
    }

    #[must_use]
    pub fn components(&self) -> &[String] {
        &self.0
    }

    /// # Errors
    /// When `name` is not fit for a directory.
    pub fn child(&self, name: &str) -> Result<Self, NameError> {
        check_name(name)?;
        Ok(self.child_unchecked(name.to_owned()))
    }

    fn child_unchecked(&self, name: String) -> Self {
        Self(self.0.iter().cloned().chain(std::iter::once(name)).collect())
    }

    /// The pod and, for a leaf, the id that this directory belongs to; None for the levels above pods and for names that
    /// Monopod does not give.
    #[must_use]
    pub fn owner(&self) -> Option<(PodCgroup, Option<&str>)> {
        let names: Vec<&str> = self.0.iter().map(String::as_str).collect();
        let (qos, pod, leaf) = match *names.as_slice() {
            [KUBEPODS, "burstable", pod] => (QosClass::Burstable, pod, None),
            [KUBEPODS, "burstable", pod, leaf] => (QosClass::Burstable, pod, Some(leaf)),
            [KUBEPODS, "besteffort", pod] => (QosClass::BestEffort, pod, None),
            [KUBEPODS, "besteffort", pod, leaf] => (QosClass::BestEffort, pod, Some(leaf)),
            [KUBEPODS, pod] => (QosClass::Guaranteed, pod, None),
            [KUBEPODS, pod, leaf] => (QosClass::Guaranteed, pod, Some(leaf)),
            _ => return None,
        };
        let uid = PodUid::new(pod.strip_prefix(POD_PREFIX)?).ok()?;
        Some((PodCgroup { uid, qos }, leaf))
    }
}

impl fmt::Display for CgroupPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("/"))
    }
}

/// Which pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodCgroup {
    pub uid: PodUid,
    pub qos: QosClass,
}

impl PodCgroup {
    #[must_use]
    pub fn path(&self) -> CgroupPath {
        CgroupPath::qos(self.qos).child_unchecked(format!("{POD_PREFIX}{}", self.uid.0))
    }

    /// A leaf of this pod: one of its containers, or its sandbox.
    ///
    /// # Errors
    /// When `id` is not fit for a directory.
    pub fn leaf(&self, id: &str) -> Result<ContainerCgroup, NameError> {
        check_name(id)?;
        Ok(ContainerCgroup { pod: self.clone(), id: id.to_owned() })
    }
}

/// Which leaf of which pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerCgroup {
    pod: PodCgroup,
    id: String,
}

impl ContainerCgroup {
    #[must_use]
    pub fn path(&self) -> CgroupPath {
        self.pod.path().child_unchecked(self.id.clone())
    }

    #[must_use]
    pub fn pod(&self) -> &PodCgroup {
        &self.pod
    }
}

/// One thing to do. All of them may be repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Mkdir(CgroupPath),
    /// Adds controllers to `cgroup.subtree_control`: of the tree's root when there is no directory.
    Enable {
        dir: Option<CgroupPath>,
        controllers: Controllers,
    },
    Disable {
        dir: Option<CgroupPath>,
        controllers: Controllers,
    },
    Write {
        dir: CgroupPath,
        setting: Setting,
    },
    /// SIGKILL to everything in it and below.
    Kill(CgroupPath),
    /// With what is below, once no live process is left.
    Rmdir(CgroupPath),
}

impl Step {
    /// What takes it back. A write goes with its directory, and the dead stay dead. Enabled controllers are shared by all
    /// pods, so taking back a pod leaves them.
    #[must_use]
    pub fn inverse(&self) -> Option<Self> {
        match self {
            Self::Mkdir(dir) => Some(Self::Rmdir(dir.clone())),
            Self::Rmdir(dir) => Some(Self::Mkdir(dir.clone())),
            Self::Enable { dir, controllers } => {
                Some(Self::Disable { dir: dir.clone(), controllers: controllers.clone() })
            }
            Self::Disable { dir, controllers } => {
                Some(Self::Enable { dir: dir.clone(), controllers: controllers.clone() })
            }
            Self::Write { .. } | Self::Kill(_) => None,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let control = |f: &mut fmt::Formatter<'_>, dir: &Option<CgroupPath>, sign: char, controllers: &Controllers| {
            let words: Vec<_> = controllers.iter().map(|controller| format!("{sign}{controller}")).collect();
            let prefix = dir.as_ref().map_or(String::new(), |dir| format!("{dir}/"));
            write!(f, "write {prefix}cgroup.subtree_control {}", words.join(" "))
        };
        match self {
            Self::Mkdir(dir) => write!(f, "mkdir {dir}"),
            Self::Enable { dir, controllers } => control(f, dir, '+', controllers),
            Self::Disable { dir, controllers } => control(f, dir, '-', controllers),
            Self::Write { dir, setting } => {
                write!(f, "write {dir}/{} {}", setting.file, setting.value)
            }
            Self::Kill(dir) => write!(f, "kill {dir}"),
            Self::Rmdir(dir) => write!(f, "rmdir {dir}"),
        }
    }
}

/// Makes a pod's directory and the levels above it.
#[must_use]
pub fn create_pod(pod: &PodCgroup, settings: &[Setting]) -> Vec<Step> {
    create_level(&pod.path(), settings)
}

/// Makes a directory that has children and the levels above it, each with the controllers that the children need.
#[must_use]
pub fn create_level(path: &CgroupPath, settings: &[Setting]) -> Vec<Step> {
    let mut steps = vec![enable(None)];
    for depth in 1..=path.0.len() {
        let dir = CgroupPath(path.0.iter().take(depth).cloned().collect());
        steps.push(Step::Mkdir(dir.clone()));
        steps.push(enable(Some(dir)));
    }
    steps.extend(writes(path, settings));
    steps
}

/// Makes a leaf of a pod that exists.
#[must_use]
pub fn create_container(container: &ContainerCgroup, settings: &[Setting]) -> Vec<Step> {
    let path = container.path();
    let mut steps = vec![Step::Mkdir(path.clone())];
    steps.extend(writes(&path, settings));
    steps
}

/// Ends and removes a directory with everything in it.
#[must_use]
pub fn remove(path: &CgroupPath) -> Vec<Step> {
    vec![Step::Kill(path.clone()), Step::Rmdir(path.clone())]
}

/// A cgroup's settings as they are and as they shall be. What `from` does not name counts as new.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub dir: CgroupPath,
    pub from: Vec<Setting>,
    pub to: Vec<Setting>,
}

/// Changes a pod and its containers in place, in the order of RZ5: containers down, pod down; pod up, containers up. At
/// no moment is a container promised what its pod does not have. Files that stay as they are are not written.
#[must_use]
pub fn update(pod: &Change, containers: &[Change]) -> Vec<Step> {
    let down = containers.iter().chain(std::iter::once(pod)).flat_map(|change| changed(change, true));
    let up = std::iter::once(pod).chain(containers).flat_map(|change| changed(change, false));
    down.chain(up).collect()
}

fn changed(change: &Change, decreases: bool) -> Vec<Step> {
    let wanted = |setting: &&Setting| match change.from.iter().find(|old| old.file == setting.file) {
        Some(old) => old.value != setting.value && old.value.decreases_to(setting.value) == decreases,
        None => setting.file.initial().decreases_to(setting.value) == decreases,
    };
    let settings: Vec<Setting> = change.to.iter().filter(wanted).copied().collect();
    writes(&change.dir, &settings)
}

fn enable(dir: Option<CgroupPath>) -> Step {
    Step::Enable { dir, controllers: Controller::ALL.into_iter().collect() }
}

/// The writes of a list of settings in one directory.
#[must_use]
pub fn writes(dir: &CgroupPath, settings: &[Setting]) -> Vec<Step> {
    settings.iter().map(|setting| Step::Write { dir: dir.clone(), setting: *setting }).collect()
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::convert::Limit;
    use crate::files::{File, Origin, Value};

    fn pod(qos: QosClass) -> PodCgroup {
        PodCgroup { uid: PodUid::new("1-2").expect("uid"), qos }
    }

    fn memory_max(bytes: u64) -> Setting {
        Setting { file: File::MemoryMax, value: Value::Limit(Limit::Value(bytes)), origin: Origin::Manifest }
    }

    fn check(steps: &[Step], expected: &Expect) {
        expected.assert_eq(&steps.iter().map(|step| format!("{step}\n")).collect::<String>());
    }

    #[test]
    fn a_pod_is_made_from_the_top_down() {
        check(
            &create_pod(&pod(QosClass::Burstable), &[memory_max(5)]),
            &expect![[r#"
            write cgroup.subtree_control +cpu +cpuset +memory +pids +hugetlb
            mkdir kubepods
            write kubepods/cgroup.subtree_control +cpu +cpuset +memory +pids +hugetlb
            mkdir kubepods/burstable
            write kubepods/burstable/cgroup.subtree_control +cpu +cpuset +memory +pids +hugetlb
            mkdir kubepods/burstable/pod1-2
            write kubepods/burstable/pod1-2/cgroup.subtree_control +cpu +cpuset +memory +pids +hugetlb
            write kubepods/burstable/pod1-2/memory.max 5
        "#]],
        );
    }

    #[test]
    fn a_container_is_a_leaf_of_its_pod() {
        let container = pod(QosClass::Guaranteed).leaf("abc").expect("id");
        check(
            &create_container(&container, &[memory_max(5)]),
            &expect![[r#"
            mkdir kubepods/pod1-2/abc
            write kubepods/pod1-2/abc/memory.max 5
        "#]],
        );
        check(
            &remove(&container.path()),
            &expect![[r#"
            kill kubepods/pod1-2/abc
            rmdir kubepods/pod1-2/abc
        "#]],
        );
    }

    /// RZ5.
    #[test]
    fn an_update_lowers_before_it_raises() {
        let pod = pod(QosClass::Burstable);
        let change = |name: &str, from: u64, to: u64| Change {
            dir: pod.leaf(name).expect("id").path(),
            from: vec![memory_max(from)],
            to: vec![memory_max(to)],
        };
        let containers = [change("up", 1, 4), change("same", 1, 1), change("down", 5, 3)];
        let whole = |from, to| Change { dir: pod.path(), from: vec![memory_max(from)], to: vec![memory_max(to)] };
        check(
            &update(&whole(7, 8), &containers),
            &expect![[r#"
            write kubepods/burstable/pod1-2/down/memory.max 3
            write kubepods/burstable/pod1-2/memory.max 8
            write kubepods/burstable/pod1-2/up/memory.max 4
        "#]],
        );
        check(
            &update(&whole(8, 7), &containers),
            &expect![[r#"
            write kubepods/burstable/pod1-2/down/memory.max 3
            write kubepods/burstable/pod1-2/memory.max 7
            write kubepods/burstable/pod1-2/up/memory.max 4
        "#]],
        );
    }

    #[test]
    fn inverses_of_inverses_are_the_steps() {
        for step in create_pod(&pod(QosClass::BestEffort), &[memory_max(5)]) {
            match step.inverse() {
                Some(inverse) => assert_eq!(inverse.inverse(), Some(step)),
                None => assert!(matches!(step, Step::Write { .. })),
            }
        }
    }

    /// D20.
    #[test]
    fn names_cannot_leave_their_directory_or_hit_a_kernel_file() {
        for name in ["", ".", "..", "a/b", "cpu.max", "cgroup.procs", "a\0", "a b", "\u{e4}", &"a".repeat(NAME_MAX + 1)]
        {
            assert!(PodUid::new(name).is_err(), "{name:?}");
            assert!(pod(QosClass::Guaranteed).leaf(name).is_err(), "{name:?}");
        }
        assert!(PodUid::new("a".repeat(NAME_MAX)).is_ok());
    }

    #[test]
    fn a_path_tells_whose_it_is() {
        for qos in QosClass::ALL {
            assert_eq!(pod(qos).path().owner(), Some((pod(qos), None)));
            let leaf = pod(qos).leaf("abc").expect("id").path();
            assert_eq!(leaf.owner(), Some((pod(qos), Some("abc"))));
            assert_eq!(CgroupPath::qos(qos).owner(), None);
        }
        let foreign = CgroupPath::kubepods().child("other").expect("name");
        assert_eq!(foreign.owner(), None);
    }
}
