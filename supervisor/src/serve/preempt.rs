//! Who goes so that a more important pod can run: for a critical pod at the node's door, as the kubelet chooses, and for a
//! pending pod of higher priority, as the scheduler chooses. Pure.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fmt;

use cgroupd::QosClass;

use super::schedule::{Misfit, Usage};

/// Of the victim's status and of its event.
pub const BY_CRITICAL: &str = "Preempted in order to admit critical pod";
/// Of the victim's condition (CO6).
pub const FOR_CRITICAL: &str = "Pod was preempted by Kubelet to accommodate a critical pod.";
/// Reason and message of the condition of whom the scheduler ends (CO6).
pub const BY_SCHEDULER: (&str, &str) =
    ("PreemptionByScheduler", "default-scheduler: preempting to accommodate a higher priority pod");

/// How much of a resource a pod asks for beyond what is left; cpu in milli.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortage {
    pub resource: String,
    pub amount: u64,
}

/// A pod that runs.
#[derive(Debug, Clone)]
pub struct Running<'a> {
    pub uid: &'a str,
    pub usage: &'a Usage,
    pub qos: QosClass,
    pub priority: i32,
    /// Nobody drives it out.
    pub stays: bool,
    /// In nanoseconds of the wall clock.
    pub started: i64,
}

/// Not even all that may go would suffice; these would still be missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TooLittle(Vec<Shortage>);

impl fmt::Display for TooLittle {
    /// In the kubelet's words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "preemption: error finding a set of pods to preempt: no set of running pods found to reclaim resources: [",
        )?;
        for Shortage { resource, amount } in &self.0 {
            write!(f, "(res: {resource}, q: {amount}), ")?;
        }
        f.write_str("]")
    }
}

/// The kubelet's choice: Guaranteed pods only if all others do not suffice, BestEffort ones before Burstable ones, and of each
/// class as few as possible, the smaller ones.
///
/// # Errors
/// They do not suffice all together.
pub fn for_critical(short: &[Shortage], running: &[Running<'_>]) -> Result<Vec<String>, TooLittle> {
    let of = |class: QosClass| -> Vec<&Running<'_>> {
        running.iter().filter(|own| !own.stays && own.qos == class).collect()
    };
    let (effort, burstable, guaranteed) = (of(QosClass::BestEffort), of(QosClass::Burstable), of(QosClass::Guaranteed));
    let without = |one: &[&Running<'_>], other: &[&Running<'_>]| rest(&rest(short, one), other);
    let unmet = rest(&without(&effort, &burstable), &guaranteed);
    if !unmet.is_empty() {
        return Err(TooLittle(unmet));
    }
    let guaranteed = nearest(guaranteed, without(&effort, &burstable));
    let burstable = nearest(burstable, without(&effort, &guaranteed));
    let effort = nearest(effort, without(&burstable, &guaranteed));
    Ok([effort, burstable, guaranteed].into_iter().flatten().map(|own| own.uid.to_owned()).collect())
}

/// What is still short when these have gone.
fn rest(short: &[Shortage], gone: &[&Running<'_>]) -> Vec<Shortage> {
    let left = |own: &Shortage| {
        let freed = gone.iter().fold(0_u64, |sum, pod| sum.saturating_add(frees(pod, &own.resource)));
        Shortage { resource: own.resource.clone(), amount: own.amount.saturating_sub(freed) }
    };
    short.iter().map(left).filter(|own| own.amount > 0).collect()
}

fn frees(pod: &Running<'_>, resource: &str) -> u64 {
    if resource == PODS { 1 } else { pod.usage.amount(resource) }
}

/// The number of pods is a resource, too.
pub const PODS: &str = "pods";

/// One after the other, whoever leaves least to be wished for; of equals the one that asks for less memory, then cpu.
fn nearest<'a>(mut pods: Vec<&'a Running<'a>>, mut short: Vec<Shortage>) -> Vec<&'a Running<'a>> {
    let mut chosen = Vec::new();
    while !short.is_empty() {
        let size = |own: &Running<'_>| (own.usage.amount("memory"), own.usage.amount("cpu"));
        let order = |own: &Running<'_>, other: &Running<'_>| {
            distance(&short, own).total_cmp(&distance(&short, other)).then_with(|| size(own).cmp(&size(other)))
        };
        let best = (0..pods.len()).min_by(|one, other| match (pods.get(*one), pods.get(*other)) {
            (Some(one), Some(other)) => order(one, other),
            (None, _) | (_, None) => std::cmp::Ordering::Equal,
        });
        let Some(best) = best else { return chosen };
        let pod = pods.swap_remove(best);
        short = rest(&short, &[pod]);
        chosen.push(pod);
    }
    chosen
}

/// Each resource weighs the same: the squares of the parts that are left.
#[expect(clippy::cast_precision_loss, reason = "it only orders pods")]
fn distance(short: &[Shortage], pod: &Running<'_>) -> f64 {
    let left = |own: &Shortage| own.amount.saturating_sub(frees(pod, &own.resource)) as f64 / own.amount as f64;
    short.iter().map(|own| left(own).powi(2)).sum()
}

/// The scheduler's choice of victims: all of lower priority go in thought, then as many as fit stay, the most important ones
/// first: by priority, then by age. `fits` says whether the pod fits without those.
///
/// # Errors
/// There are none, or the pod would not fit without all of them either: that is why.
pub fn for_priority(
    priority: i32,
    running: &[Running<'_>],
    fits: &dyn Fn(&BTreeSet<&str>) -> Result<(), Misfit>,
) -> Result<Vec<String>, Option<Misfit>> {
    let mut lower: Vec<&Running<'_>> = running.iter().filter(|own| own.priority < priority && !own.stays).collect();
    if lower.is_empty() {
        return Err(None);
    }
    let mut gone: BTreeSet<&str> = lower.iter().map(|own| own.uid).collect();
    fits(&gone).map_err(Some)?;
    lower.sort_by_key(|own| (Reverse(own.priority), own.started, own.uid));
    for own in lower {
        gone.remove(own.uid);
        if fits(&gone).is_err() {
            gone.insert(own.uid);
        }
    }
    Ok(gone.into_iter().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::host::{Host, example};
    use crate::serve::schedule::{self, Preemption};
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    fn pod(cpu: &str, memory: &str) -> Pod {
        let requests = json!({"cpu": cpu, "memory": memory});
        let container = json!({"name": "c", "resources": {"requests": requests}});
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": [container]}})).unwrap()
    }

    fn usage(cpu: &str, memory: &str) -> Usage {
        Usage::of(&pod(cpu, memory))
    }

    fn running<'a>(uid: &'a str, qos: QosClass, usage: &'a Usage) -> Running<'a> {
        Running { uid, usage, qos, priority: 0, stays: false, started: 0 }
    }

    fn short(resource: &str, amount: u64) -> Shortage {
        Shortage { resource: resource.to_owned(), amount }
    }

    #[test]
    fn guaranteed_pods_go_last() {
        let (none, one, two) = (usage("0", "0"), usage("1", "1Mi"), usage("2", "1Mi"));
        let all = [
            running("effort", QosClass::BestEffort, &none),
            running("burst", QosClass::Burstable, &one),
            running("guaranteed", QosClass::Guaranteed, &two),
        ];
        assert_eq!(for_critical(&[short("cpu", 500)], &all).unwrap(), ["burst"]);
        assert_eq!(
            for_critical(&[short("cpu", 1500)], &all).unwrap(),
            ["guaranteed"],
            "the other one is of no use then"
        );
        assert_eq!(for_critical(&[short("cpu", 2500)], &all).unwrap(), ["burst", "guaranteed"]);
        assert_eq!(for_critical(&[short(PODS, 1)], &all).unwrap(), ["effort"]);
        assert_eq!(for_critical(&[short(PODS, 2)], &all).unwrap(), ["effort", "burst"]);
    }

    #[test]
    fn of_a_class_as_few_and_as_small_as_possible_go() {
        let (small, fitting, large) = (usage("300m", "1Mi"), usage("700m", "2Mi"), usage("2", "3Mi"));
        let all = [
            running("large", QosClass::Burstable, &large),
            running("small", QosClass::Burstable, &small),
            running("fitting", QosClass::Burstable, &fitting),
        ];
        assert_eq!(for_critical(&[short("cpu", 600)], &all).unwrap(), ["fitting"], "equally far, and smaller");
        assert_eq!(for_critical(&[short("cpu", 200)], &all).unwrap(), ["small"]);
        assert_eq!(for_critical(&[short("cpu", 1000)], &all).unwrap(), ["large"]);
        let both = [short("cpu", 2000), short("memory", 5 << 20)];
        assert_eq!(for_critical(&both, &all).unwrap(), ["large", "fitting"]);
    }

    #[test]
    fn critical_pods_stay_and_what_is_missing_is_told() {
        let two = usage("2", "1Mi");
        let critical = Running { stays: true, ..running("critical", QosClass::Burstable, &two) };
        let one = usage("1", "1Mi");
        let all = [critical, running("burst", QosClass::Burstable, &one)];
        let missing = for_critical(&[short("cpu", 1500), short("memory", 1)], &all).unwrap_err();
        assert_eq!(
            missing.to_string(),
            "preemption: error finding a set of pods to preempt: no set of running pods found to reclaim resources: \
             [(res: cpu, q: 500), ]"
        );
    }

    /// What a pod of this priority and cpu drives out of a node with 2 cpus.
    fn victims(priority: i32, cpu: &str, all: &[Running<'_>]) -> Result<Vec<String>, Option<String>> {
        let (host, wanted): (Host, Pod) = (example(), pod(cpu, "1Mi"));
        let fits = |gone: &BTreeSet<&str>| {
            let left: Vec<&Usage> = all.iter().filter(|own| !gone.contains(own.uid)).map(|own| own.usage).collect();
            schedule::fit(&wanted, &host, &left, &Vec::new)
        };
        for_priority(priority, all, &fits).map_err(|misfit| misfit.map(|misfit| misfit.message(&Preemption::NoVictims)))
    }

    #[test]
    fn the_least_important_and_the_fewest_are_preempted() {
        let (half, one) = (usage("500m", "1Mi"), usage("1", "1Mi"));
        let of =
            |uid, usage, priority, started| Running { priority, started, ..running(uid, QosClass::Burstable, usage) };
        let all = [of("old", &half, 0, 1), of("young", &half, 0, 2), of("important", &one, 5, 3)];
        assert_eq!(victims(10, "500m", &all).unwrap(), ["young"]);
        assert_eq!(victims(10, "1", &all).unwrap(), ["old", "young"]);
        assert_eq!(victims(10, "2", &all).unwrap(), ["important", "old", "young"]);
        assert_eq!(victims(1, "1", &all).unwrap(), ["old", "young"]);
        let why = "0/1 nodes are available: 1 Insufficient cpu.";
        assert!(victims(1, "1500m", &all).unwrap_err().unwrap().starts_with(why));
        assert_eq!(victims(0, "500m", &all), Err(None), "equals stay");
    }
}
