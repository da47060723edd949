//! What the node itself checks before it takes a pod in, in the kubelet's words (PH15).

use cgroupd::QosClass;
use k8s_openapi::api::core::v1::Pod;

use super::host::Host;
use super::preempt::{PODS, Shortage, TooLittle};
use super::pressure::{Pressure, Pressures};
use super::schedule::{Need, Usage, affinity_fits, covers, untolerated};
use crate::config::sysctls;
use crate::convert::security::{AppArmor, Security};
use crate::convert::{machine, resources};
use crate::pod::resize::{Reason, Refusal as Refused, Verdict};

/// Why the node refuses a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub reason: &'static str,
    pub message: String,
}

impl Refusal {
    /// For every pod while the node drains.
    pub fn shutdown() -> Self {
        Self { reason: "NodeShutdown", message: "Pod was rejected as the node is shutting down.".to_owned() }
    }

    /// For a critical pod that nobody can make room for.
    pub fn unexpected(error: &TooLittle) -> Self {
        let message = format!("Unexpected error while attempting to recover from admission failure: {error}");
        Self { reason: "UnexpectedAdmissionError", message }
    }
}

/// None for a pod that may run.
pub fn check(pod: &Pod, host: &Host, used: &[&Usage]) -> Option<Refusal> {
    if let Some(refusal) = unenforceable(pod, host) {
        return Some(refusal);
    }
    if let Some(refusal) = pressed(pod, host) {
        return Some(refusal);
    }
    if is_full(host, used) {
        let numbers = (1, used.len() as u64, u64::from(host.max_pods));
        return Some(out_of("OutOfpods", PODS, numbers));
    }
    lacking(&Usage::of(pod).needs(host, used)).or_else(|| misplaced(pod, host, used))
}

fn is_full(host: &Host, used: &[&Usage]) -> bool {
    used.len() >= usize::try_from(host.max_pods).unwrap_or(usize::MAX)
}

/// What refuses a critical pod: for want of resources others go.
pub fn besides_resources(pod: &Pod, host: &Host, used: &[&Usage]) -> Option<Refusal> {
    unenforceable(pod, host).or_else(|| pressed(pod, host)).or_else(|| misplaced(pod, host, used))
}

/// What others have to give back so that the pod fits.
pub fn shortages(pod: &Pod, host: &Host, used: &[&Usage]) -> Vec<Shortage> {
    let needs = Usage::of(pod).needs(host, used);
    let lacking = needs.iter().filter(|need| out_of_reason(&need.resource).is_some() && need.lacks());
    let short = |need: &Need| {
        let amount = need.asked.saturating_add(need.used).saturating_sub(need.capacity);
        Shortage { resource: need.resource.clone(), amount }
    };
    let room = (used.len() as u64).saturating_add(1).saturating_sub(u64::from(host.max_pods));
    let pods = is_full(host, used).then(|| Shortage { resource: PODS.to_owned(), amount: room });
    lacking.map(short).chain(pods).collect()
}

/// It belongs on another node, or its place here is taken.
fn misplaced(pod: &Pod, host: &Host, used: &[&Usage]) -> Option<Refusal> {
    if !affinity_fits(pod, host) {
        let message = "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
        return Some(Refusal { reason: "NodeAffinity", message: message.to_owned() });
    }
    let ports = Usage::of(pod).ports;
    if ports.iter().any(|port| used.iter().any(|other| other.ports.iter().any(|taken| taken.conflicts(port)))) {
        let message = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
        return Some(Refusal { reason: "NodePorts", message: message.to_owned() });
    }
    // Only what would evict keeps the kubelet from running a pod that somebody bound.
    untolerated(pod, host, &["NoExecute"]).map(|taint| {
        let message = format!(
            "Predicate TaintToleration failed: node(s) had untolerated taint(s) {{{}: {}}}",
            taint.key,
            taint.value.as_deref().unwrap_or_default()
        );
        Refusal { reason: "TaintToleration", message }
    })
}

/// RZ4: whether a pod that runs may have other amounts; what it asks for less of, or no more, always fits.
pub fn resize(old: &Usage, new: &Usage, host: &Host, used: &[&Usage]) -> Verdict {
    let before = old.needs(host, &[]);
    let grows = |need: &Need| {
        let own = before.iter().find(|own| own.resource == need.resource);
        need.asked > own.map_or(0, |own| own.asked)
    };
    let needs: Vec<Need> = new.needs(host, used).into_iter().filter(grows).collect();
    let never = |need: &&Need| need.asked > need.capacity;
    if let Some(Need { resource, asked, capacity, .. }) = needs.iter().find(never) {
        let message = format!("Node didn't have enough capacity: {resource}, requested: {asked}, capacity: {capacity}");
        return Verdict::Refused(Refused { reason: Reason::Infeasible, word: "Infeasible", message });
    }
    match lacking(&needs) {
        Some(Refusal { reason, message }) => {
            Verdict::Refused(Refused { reason: Reason::Deferred, word: reason, message })
        }
        None => Verdict::Allocated,
    }
}

/// What this node can't or mustn't give, however idle it is.
fn unenforceable(pod: &Pod, host: &Host) -> Option<Refusal> {
    let spec = pod.spec.as_ref()?;
    if let Some(name) = sysctls::forbidden(pod, &host.allowed_unsafe_sysctls) {
        let message = format!("forbidden sysctl: {name:?} not allowlisted");
        return Some(Refusal { reason: "SysctlForbidden", message });
    }
    if spec.os.as_ref().is_some_and(|os| os.name != "linux") {
        let message = "Failed to admit pod as the OS field doesn't match node OS".to_owned();
        return Some(Refusal { reason: "PodOSNotSupported", message });
    }
    let mut containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let asks = |container| Security::of(spec, container).apparmor() != AppArmor::Unasked;
    (!host.apparmor && containers.any(asks)).then(|| {
        let message = "Cannot enforce AppArmor: AppArmor is not enabled on the host".to_owned();
        Refusal { reason: "AppArmor", message }
    })
}

/// PH15: under pressure the node takes only critical and static pods, whatever taints they tolerate. If it is of memory alone,
/// also those that ask for some, and those that tolerate it.
fn pressed(pod: &Pod, host: &Host) -> Option<Refusal> {
    if host.pressure.is_empty() || machine::is_critical(pod) {
        return None;
    }
    let of_memory_alone = host.pressure == Pressures::from_iter([Pressure::Memory]);
    if of_memory_alone && (!is_best_effort(pod) || tolerates_memory_pressure(pod)) {
        return None;
    }
    Some(Refusal { reason: "Evicted", message: format!("The node had condition: {}. ", host.pressure) })
}

fn is_best_effort(pod: &Pod) -> bool {
    let asked = pod.spec.as_ref().and_then(|spec| resources::pod(spec).ok());
    asked.is_none_or(|asked| cgroupd::qos::qos_class(&asked) == QosClass::BestEffort)
}

fn tolerates_memory_pressure(pod: &Pod) -> bool {
    let tolerations = pod.spec.iter().flat_map(|spec| spec.tolerations.iter().flatten());
    let taint = Pressure::Memory.taint();
    tolerations.into_iter().any(|toleration| covers(toleration, &taint))
}

/// Extended resources that the node does not have are not asked for, as with the kubelet.
fn lacking(needs: &[Need]) -> Option<Refusal> {
    needs.iter().find_map(|need| {
        let reason = out_of_reason(&need.resource)?;
        need.lacks().then(|| out_of(reason, &need.resource, (need.asked, need.used, need.capacity)))
    })
}

fn out_of_reason(resource: &str) -> Option<&'static str> {
    match resource {
        "cpu" => Some("OutOfcpu"),
        "memory" => Some("OutOfmemory"),
        "ephemeral-storage" => Some("OutOfephemeral-storage"),
        _ => None,
    }
}

fn out_of(reason: &'static str, resource: &str, (asked, used, capacity): (u64, u64, u64)) -> Refusal {
    let message =
        format!("Node didn't have enough resource: {resource}, requested: {asked}, used: {used}, capacity: {capacity}");
    Refusal { reason, message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::sysctls::Allowed;
    use crate::serve::host::example;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": spec})).unwrap()
    }

    fn under(pressures: &[Pressure]) -> Host {
        Host { pressure: pressures.iter().copied().collect(), ..example() }
    }

    /// PH15
    #[test]
    fn a_full_disk_is_for_critical_and_static_pods() {
        let full = under(&[Pressure::Disk]);
        let plain = pod(json!({"containers": [{"name": "c"}], "tolerations": [{"operator": "Exists"}]}));
        let refusal = check(&plain, &full, &[]).unwrap();
        assert_eq!((refusal.reason, &*refusal.message), ("Evicted", "The node had condition: [DiskPressure]. "));
        let critical = pod(json!({"containers": [{"name": "c"}], "priority": 2_000_000_000}));
        assert_eq!(check(&critical, &full, &[]), None);
        let mut own = plain;
        own.metadata.annotations = Some([(machine::MIRROR.to_owned(), "hash".to_owned())].into());
        assert_eq!(check(&own, &full, &[]), None);
    }

    /// PH15
    #[test]
    fn scarce_memory_keeps_pods_away_that_ask_for_none() {
        let message = |pod: &Pod, pressures: &[Pressure]| check(pod, &under(pressures), &[]).map(|own| own.message);
        let memory = [Pressure::Memory];
        let plain = pod(json!({"containers": [{"name": "c"}]}));
        assert_eq!(message(&plain, &memory).as_deref(), Some("The node had condition: [MemoryPressure]. "));
        let other = json!([{"key": "node.kubernetes.io/disk-pressure", "operator": "Exists"}]);
        let other = pod(json!({"containers": [{"name": "c"}], "tolerations": other}));
        assert!(message(&other, &memory).is_some());
        let own = json!([{"key": "node.kubernetes.io/memory-pressure", "operator": "Exists", "effect": "NoSchedule"}]);
        let tolerant = pod(json!({"containers": [{"name": "c"}], "tolerations": own}));
        let asking = pod(json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1m"}}}]}));
        for own in [&tolerant, &asking] {
            assert_eq!(message(own, &memory), None);
            let both = message(own, &[Pressure::Memory, Pressure::Pid]);
            assert_eq!(both.as_deref(), Some("The node had condition: [MemoryPressure PIDPressure]. "));
        }
    }

    #[test]
    fn a_pod_that_fits_is_taken() {
        let pod = pod(json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "2"}}}]}));
        assert_eq!(check(&pod, &example(), &[]), None);
    }

    /// PH15, SY2, PV7.
    #[test]
    fn what_the_node_can_not_enforce_is_refused() {
        let host = example();
        let with = |spec: serde_json::Value| {
            let mut all = json!({"containers": [{"name": "c"}]});
            all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
            pod(all)
        };
        let sysctl = with(json!({"securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}}));
        let local = json!({"type": "Localhost", "localhostProfile": "mine"});
        let apparmor = with(json!({"securityContext": {"appArmorProfile": local}}));
        let windows = with(json!({"os": {"name": "windows"}}));
        for (pod, reason, message) in [
            (&sysctl, "SysctlForbidden", "forbidden sysctl: \"kernel.msgmax\" not allowlisted"),
            (&apparmor, "AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host"),
            (&windows, "PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"),
        ] {
            assert_eq!(check(pod, &host, &[]), Some(Refusal { reason, message: message.to_owned() }));
        }
        let lenient =
            Host { apparmor: true, allowed_unsafe_sysctls: vec![Allowed::parse("kernel.msg*").unwrap()], ..host };
        assert_eq!([&sysctl, &apparmor].map(|pod| check(pod, &lenient, &[])), [None, None]);
        assert_eq!(check(&with(json!({"os": {"name": "linux"}})), &lenient, &[]), None);
    }

    /// RZ4
    #[test]
    fn a_resize_fits_now_or_later_or_never() {
        let host = example();
        let of = |cpu: &str, memory: &str| {
            let requests = json!({"cpu": cpu, "memory": memory});
            Usage::of(&pod(json!({"containers": [{"name": "c", "resources": {"requests": requests}}]})))
        };
        let (old, other) = (of("500m", "256Mi"), of("1", "256Mi"));
        let judged = |new: &Usage, used: &[&Usage]| match resize(&old, new, &host, used) {
            Verdict::Allocated => "fits".to_owned(),
            Verdict::Refused(Refused { reason, word, message }) => format!("{reason:?} {word}: {message}"),
        };
        assert_eq!(judged(&of("1", "256Mi"), &[&other]), "fits");
        assert_eq!(
            judged(&of("1500m", "256Mi"), &[&other]),
            "Deferred OutOfcpu: Node didn't have enough resource: cpu, requested: 1500, used: 1000, capacity: 2000"
        );
        assert_eq!(
            judged(&of("1500m", "2Gi"), &[&other]),
            "Infeasible Infeasible: Node didn't have enough capacity: memory, requested: 2147483648, capacity: \
             1073741824"
        );
        // The node is overbooked already, and what is not asked for anew is not in the way.
        let heavy = of("2", "1Gi");
        assert_eq!(judged(&of("100m", "256Mi"), &[&heavy]), "fits");
    }

    #[test]
    fn what_a_critical_pod_lacks_is_counted() {
        let of = |cpu: &str, memory: &str| {
            let requests = json!({"cpu": cpu, "memory": memory, "example.com/gpu": "1"});
            pod(json!({"containers": [{"name": "c", "resources": {"requests": requests}}]}))
        };
        let running = Usage::of(&of("1500m", "512Mi"));
        let full = Host { max_pods: 1, ..example() };
        let short = |amount: u64, resource: &str| Shortage { resource: resource.to_owned(), amount };
        let missing = shortages(&of("700m", "1Gi"), &full, &[&running]);
        assert_eq!(missing, [short(200, "cpu"), short(512 << 20, "memory"), short(1, "pods")]);
        assert_eq!(shortages(&of("500m", "1Mi"), &example(), &[&running]), []);
        let wanted = of("2", "1Mi");
        assert_eq!(besides_resources(&wanted, &example(), &[&running]), None);
        let pressed = besides_resources(&wanted, &under(&[Pressure::Disk]), &[]);
        assert_eq!(pressed.map(|refusal| refusal.reason), Some("Evicted"));
    }

    /// PH15: cpu in milli, the rest in base units.
    #[test]
    fn a_refusal_says_what_is_missing() {
        let host = example();
        let running = pod(json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1500m"}},
                "ports": [{"containerPort": 80, "hostPort": 80}]}]}));
        let running = Usage::of(&running);
        let big = |resource: &str, amount: &str| {
            pod(json!({"containers": [{"name": "c", "resources": {"requests": {resource: amount}}}]}))
        };
        let refused = |pod: &Pod| check(pod, &host, &[&running]).map(|refusal| (refusal.reason, refusal.message));
        let text = |text: &str| format!("Node didn't have enough resource: {text}");
        assert_eq!(
            refused(&big("cpu", "1")),
            Some(("OutOfcpu", text("cpu, requested: 1000, used: 1500, capacity: 2000")))
        );
        assert_eq!(
            refused(&big("memory", "2Gi")),
            Some(("OutOfmemory", text("memory, requested: 2147483648, used: 0, capacity: 1073741824")))
        );
        assert_eq!(refused(&big("example.com/gpu", "1")), None);
        let port = pod(json!({"containers": [{"name": "c", "ports": [{"containerPort": 8080, "hostPort": 80}]}]}));
        assert_eq!(refused(&port).unwrap().0, "NodePorts");
        let elsewhere = pod(json!({"nodeSelector": {"disk": "ssd"}, "containers": [{"name": "c"}]}));
        assert_eq!(refused(&elsewhere).unwrap().0, "NodeAffinity");
        let full = Host { max_pods: 1, ..host.clone() };
        assert_eq!(check(&port, &full, &[&running]).unwrap().reason, "OutOfpods");
    }
}
