//! Whether a pod fits onto the only node, in the words of the scheduler's plugins.
//!
//! The plugins are asked in the scheduler's order and the first that says no is the reason.

use std::collections::{BTreeMap, BTreeSet};

use cgroupd::Resource;
use k8s_openapi::api::core::v1::{
    NodeSelectorRequirement, NodeSelectorTerm, PersistentVolumeClaim, Pod, PodAffinityTerm, PodSpec, Taint, Toleration,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use netsetup::HostPort;
use serde_json::{Value, json};

use super::host::Host;
use crate::convert::resources;
use crate::convert::sandbox::host_port;
use crate::volume::claims;

/// What a pod takes of a node. Kept for every pod, so it is small.
#[derive(Debug, Clone, Default)]
pub struct Usage {
    /// By name; cpu in milli, all others in units.
    amounts: BTreeMap<String, u64>,
    pub ports: Vec<HostPort>,
}

/// One resource that a pod asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    pub resource: String,
    pub asked: u64,
    pub used: u64,
    pub capacity: u64,
}

impl Need {
    pub fn lacks(&self) -> bool {
        self.asked > self.capacity.saturating_sub(self.used)
    }
}

impl Usage {
    /// What can't be read counts as nothing: validation has refused it before.
    pub fn of(pod: &Pod) -> Self {
        let Some(spec) = &pod.spec else { return Self::default() };
        let requests = resources::pod(spec).map(|all| all.requests()).unwrap_or_default();
        let amount = |(resource, amount): (&Resource, cgroupd::Quantity)| {
            (resource.to_string(), if *resource == Resource::Cpu { amount.millis() } else { amount.units() })
        };
        Self { amounts: requests.iter().map(amount).filter(|(_, amount)| *amount > 0).collect(), ports: ports(spec) }
    }

    /// How much of it; cpu in milli.
    pub fn amount(&self, resource: &str) -> u64 {
        self.amounts.get(resource).copied().unwrap_or(0)
    }

    /// The larger one of both for each resource: what is promised while one turns into the other.
    pub fn larger(&self, other: &Self) -> Self {
        let mut larger = self.clone();
        for (resource, amount) in &other.amounts {
            let own = larger.amounts.entry(resource.clone()).or_default();
            *own = (*own).max(*amount);
        }
        larger
    }

    /// Whether some resource is asked for less than in `before`.
    pub fn shrinks(&self, before: &Self) -> bool {
        before.amounts.iter().any(|(resource, amount)| self.amounts.get(resource).is_none_or(|own| own < amount))
    }

    /// Every resource that is asked for, in the order of names.
    pub fn needs(&self, host: &Host, used: &[&Self]) -> Vec<Need> {
        let need = |(resource, asked): (&String, &u64)| Need {
            resource: resource.clone(),
            asked: *asked,
            used: used.iter().filter_map(|other| other.amounts.get(resource)).sum(),
            capacity: resource.parse().map_or(0, |resource: Resource| {
                let amount = host.gives(&resource);
                if resource == Resource::Cpu { amount.millis() } else { amount.units() }
            }),
        };
        self.amounts.iter().map(need).collect()
    }
}

fn ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let all = sidecars.chain(&spec.containers).flat_map(|container| container.ports.iter().flatten());
    all.filter_map(host_port).collect()
}

/// Why a pod stays Pending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    /// One entry per reason, as the scheduler counts them.
    reasons: Vec<String>,
    /// Whether removing other pods could help.
    preemptible: bool,
    /// Whether it is about nodes, and not about the pod on any of them.
    counted: bool,
}

impl Misfit {
    fn hopeless(reason: impl Into<String>) -> Self {
        Self { reasons: vec![reason.into()], preemptible: false, counted: true }
    }

    /// It fits nowhere before any node is looked at.
    fn of_pod(reason: String) -> Self {
        Self { reasons: vec![reason], preemptible: false, counted: false }
    }

    pub fn is_preemptible(&self) -> bool {
        self.preemptible
    }

    /// The text of the condition and of the event.
    pub fn message(&self, preemption: &Preemption) -> String {
        const UNHELPFUL: &str = "1 Preemption is not helpful for scheduling";
        const NO_VICTIMS: &str = "1 No preemption victims found for incoming pod";
        let nodes = |reasons: &str| format!("0/1 nodes are available: {reasons}.");
        let preemption = match preemption {
            Preemption::Never => "not eligible due to preemptionPolicy=Never.".to_owned(),
            Preemption::NoVictims => nodes(if self.preemptible { NO_VICTIMS } else { UNHELPFUL }),
            Preemption::Unhelpful(misfit) => nodes(&misfit.reasons()),
            Preemption::Terminating => "not eligible due to a terminating pod on the nominated node.".to_owned(),
            Preemption::Nominated => return nodes(&self.reasons()),
        };
        format!("{} preemption: {preemption}", nodes(&self.reasons()))
    }

    fn reasons(&self) -> String {
        let count = if self.counted { "1 " } else { "" };
        let reasons: Vec<String> = self.reasons.iter().map(|reason| format!("{count}{reason}")).collect();
        reasons.join(", ")
    }
}

/// What became of the attempt to make room for a pod that does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Preemption {
    /// The pod does not want others to go for it.
    Never,
    /// There are none that matter less, or none that could help.
    NoVictims,
    /// It would not fit without all of those either.
    Unhelpful(Misfit),
    /// Somebody goes already.
    Terminating,
    /// Somebody has been told to go.
    Nominated,
}

impl Preemption {
    /// Whether `status.nominatedNodeName` is the node.
    pub fn nominates(&self) -> bool {
        match self {
            Self::Never | Self::NoVictims | Self::Unhelpful(_) => false,
            Self::Terminating | Self::Nominated => true,
        }
    }
}

/// Whether the pod's claims let it be bound, in the words of the plugin for volumes. One that waits for its first consumer
/// is bound when the pod is there.
pub fn claims_fit(
    pod: &Pod,
    claim: &dyn Fn(&str) -> Option<PersistentVolumeClaim>,
    classes: &dyn Fn() -> Vec<StorageClass>,
) -> Result<(), Misfit> {
    let mut unbound = false;
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let Some(name) = claims::claim_of(pod, volume) else { continue };
        let Some(found) = claim(&name) else {
            return Err(Misfit::of_pod(match volume.ephemeral {
                Some(_) => {
                    format!("waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}")
                }
                None => format!("persistentvolumeclaim {name:?} not found"),
            }));
        };
        if found.metadata.deletion_timestamp.is_some() {
            return Err(Misfit::of_pod(format!("persistentvolumeclaim {name:?} is being deleted")));
        }
        unbound |= !claims::is_bound(&found) && !claims::waits_for_consumer(&found, &classes());
    }
    if unbound {
        return Err(Misfit::of_pod("pod has unbound immediate PersistentVolumeClaims".to_owned()));
    }
    Ok(())
}

/// `neighbours` are the pods on the node; only pod affinity asks for them.
pub fn fit(pod: &Pod, host: &Host, used: &[&Usage], neighbours: &dyn Fn() -> Vec<Pod>) -> Result<(), Misfit> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    let cordon = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: NO_SCHEDULE.to_owned(),
        ..Taint::default()
    };
    if host.cordoned && !tolerates(spec, &cordon) {
        return Err(Misfit::hopeless("node(s) were unschedulable"));
    }
    if let Some(taint) = untolerated(pod, host, &[NO_SCHEDULE, "NoExecute"]) {
        let value = taint.value.as_deref().unwrap_or_default();
        return Err(Misfit::hopeless(format!("node(s) had untolerated taint {{{}: {value}}}", taint.key)));
    }
    if !affinity_fits(pod, host) {
        return Err(Misfit::hopeless("node(s) didn't match Pod's node affinity/selector"));
    }
    let own = Usage::of(pod);
    if own.ports.iter().any(|port| used.iter().any(|other| other.ports.iter().any(|taken| taken.conflicts(port)))) {
        let reason = "node(s) didn't have free ports for the requested pod ports".to_owned();
        return Err(Misfit { reasons: vec![reason], preemptible: true, counted: true });
    }
    resources_fit(&own, host, used)?;
    spread_fits(spec, host)?;
    neighbours_fit(pod, spec, host, neighbours)
}

const NO_SCHEDULE: &str = "NoSchedule";

fn resources_fit(own: &Usage, host: &Host, used: &[&Usage]) -> Result<(), Misfit> {
    let needs = own.needs(host, used);
    let mut reasons: Vec<String> =
        needs.iter().filter(|need| need.lacks()).map(|need| format!("Insufficient {}", need.resource)).collect();
    // Asking for more than the node could ever give is not helped by preemption.
    let mut preemptible = needs.iter().all(|need| need.asked <= need.capacity);
    if used.len() >= usize::try_from(host.max_pods).unwrap_or(usize::MAX) {
        reasons.insert(0, "Too many pods".to_owned());
        preemptible = true;
    }
    if reasons.is_empty() { Ok(()) } else { Err(Misfit { reasons, preemptible, counted: true }) }
}

/// With one node every spread is even; only a missing label is in the way.
fn spread_fits(spec: &PodSpec, host: &Host) -> Result<(), Misfit> {
    let hard = spec.topology_spread_constraints.iter().flatten();
    let mut hard = hard.filter(|constraint| constraint.when_unsatisfiable == "DoNotSchedule");
    if hard.all(|constraint| host.labels.contains_key(&constraint.topology_key)) {
        return Ok(());
    }
    Err(Misfit::hopeless("node(s) didn't match pod topology spread constraints (missing required label)"))
}

/// The first taint of these effects that the pod does not tolerate.
pub fn untolerated<'a>(pod: &Pod, host: &'a Host, effects: &[&str]) -> Option<&'a Taint> {
    let spec = pod.spec.as_ref()?;
    host.taints.iter().find(|taint| effects.contains(&taint.effect.as_str()) && !tolerates(spec, taint))
}

fn tolerates(spec: &PodSpec, taint: &Taint) -> bool {
    spec.tolerations.iter().flatten().any(|toleration| covers(toleration, taint))
}

/// Whether the toleration is one of this taint.
pub(super) fn covers(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    let value = match toleration.operator.as_deref() {
        Some("Exists") => true,
        _ => toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default(),
    };
    (effect.is_empty() || effect == taint.effect) && (key.is_empty() || key == taint.key) && value
}

/// `nodeSelector` and required node affinity (VA10).
pub fn affinity_fits(pod: &Pod, host: &Host) -> bool {
    let Some(spec) = &pod.spec else { return true };
    let selected = spec.node_selector.iter().flatten().all(|(key, value)| host.labels.get(key) == Some(value));
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|own| own.required_during_scheduling_ignored_during_execution.as_ref());
    selected && required.is_none_or(|selector| selector.node_selector_terms.iter().any(|term| term_fits(term, host)))
}

/// A term without any requirement selects nothing.
fn term_fits(term: &NodeSelectorTerm, host: &Host) -> bool {
    let expressions = || term.match_expressions.iter().flatten();
    let fields = || term.match_fields.iter().flatten();
    let some = expressions().next().is_some() || fields().next().is_some();
    let name = BTreeMap::from([("metadata.name".to_owned(), host.name.clone())]);
    some && expressions().all(|own| requirement_fits(own, &host.labels))
        && fields().all(|own| requirement_fits(own, &name))
}

fn requirement_fits(own: &NodeSelectorRequirement, labels: &BTreeMap<String, String>) -> bool {
    let values = own.values.as_deref().unwrap_or_default();
    let value = labels.get(&own.key);
    let number = |text: &str| text.parse::<i64>().ok();
    let compare = |fits: fn(&i64, &i64) -> bool| {
        let pair = value.and_then(|value| number(value)).zip(values.first().and_then(|bound| number(bound)));
        pair.is_some_and(|(value, bound)| fits(&value, &bound))
    };
    match own.operator.as_str() {
        "In" => value.is_some_and(|value| values.contains(value)),
        "NotIn" => value.is_none_or(|value| !values.contains(value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(i64::gt),
        "Lt" => compare(i64::lt),
        _ => false,
    }
}

fn neighbours_fit(pod: &Pod, spec: &PodSpec, host: &Host, neighbours: &dyn Fn() -> Vec<Pod>) -> Result<(), Misfit> {
    let affinity = spec.affinity.as_ref();
    let with = affinity.and_then(|own| own.pod_affinity.as_ref());
    let with: Vec<_> = with
        .and_then(|own| own.required_during_scheduling_ignored_during_execution.as_ref())
        .into_iter()
        .flatten()
        .collect();
    let others = neighbours();
    for term in with {
        let near = others.iter().any(|other| selects(term, pod, other));
        // The first of a group that wants to be together may start alone.
        let first = !near && selects(term, pod, pod);
        if !host.labels.contains_key(&term.topology_key) || !(near || first) {
            return Err(Misfit::hopeless("node(s) didn't match pod affinity rules"));
        }
    }
    if repels(pod, host, |term| others.iter().any(|other| selects(term, pod, other))) {
        let reason = "node(s) didn't match pod anti-affinity rules".to_owned();
        return Err(Misfit { reasons: vec![reason], preemptible: true, counted: true });
    }
    if others.iter().any(|other| repels(other, host, |term| selects(term, other, pod))) {
        let reason = "node(s) didn't satisfy existing pods anti-affinity rules".to_owned();
        return Err(Misfit { reasons: vec![reason], preemptible: true, counted: true });
    }
    Ok(())
}

/// Whether a required anti-affinity term of `pod` applies here and `hits`.
fn repels(pod: &Pod, host: &Host, hits: impl Fn(&PodAffinityTerm) -> bool) -> bool {
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref()?.pod_anti_affinity.as_ref());
    let terms = affinity.and_then(|own| own.required_during_scheduling_ignored_during_execution.as_ref());
    terms.into_iter().flatten().any(|term| host.labels.contains_key(&term.topology_key) && hits(term))
}

fn selects(term: &PodAffinityTerm, owner: &Pod, other: &Pod) -> bool {
    let own = owner.metadata.namespace.as_deref().unwrap_or_default();
    let theirs = other.metadata.namespace.as_deref().unwrap_or_default();
    let namespaces: BTreeSet<&str> = term.namespaces.iter().flatten().map(String::as_str).collect();
    // An empty namespace selector is all namespaces; one with labels would need their objects and matches none.
    let all = term.namespace_selector.as_ref().is_some_and(|selector| *selector == LabelSelector::default());
    let here = all || namespaces.contains(theirs) || (namespaces.is_empty() && own == theirs);
    let labels = other.metadata.labels.clone().unwrap_or_default();
    here && term.label_selector.as_ref().is_some_and(|selector| matches(selector, &labels))
}

fn matches(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let equal = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    equal
        && selector.match_expressions.iter().flatten().all(|own| {
            let requirement = NodeSelectorRequirement {
                key: own.key.clone(),
                operator: own.operator.clone(),
                values: own.values.clone(),
            };
            requirement_fits(&requirement, labels)
        })
}

/// Writes the binding into a stored pod: node, and `PodScheduled` (CO1).
pub fn mark_bound(value: &mut Value, node: &str) {
    value["spec"]["nodeName"] = json!(node);
    nominate(value, None);
    put_condition(value, json!({"type": "PodScheduled", "status": "True"}));
}

fn nominate(value: &mut Value, node: Option<&str>) {
    match (value["status"].as_object_mut(), node) {
        (Some(status), None) => drop(status.remove("nominatedNodeName")),
        (None, None) => {}
        (_, Some(node)) => value["status"]["nominatedNodeName"] = json!(node),
    }
}

/// Writes why a pod stays Pending, and where room is made for it.
pub fn mark_unschedulable(value: &mut Value, message: &str, nominated: Option<&str>) {
    nominate(value, nominated);
    let condition = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message});
    put_condition(value, condition);
}

pub(super) fn put_condition(value: &mut Value, mut condition: Value) {
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let generation = value["metadata"]["generation"].clone();
    let status = &mut value["status"];
    if !status.is_object() {
        *status = json!({});
    }
    if status["phase"].is_null() {
        status["phase"] = json!("Pending");
    }
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    condition["lastProbeTime"] = Value::Null;
    condition["lastTransitionTime"] = json!(now);
    if generation.is_number() {
        condition["observedGeneration"] = generation;
    }
    if let Some(all) = status["conditions"].as_array_mut() {
        match all.iter_mut().find(|known| known["type"] == condition["type"]) {
            Some(known) => {
                if known["status"] == condition["status"] {
                    condition["lastTransitionTime"] = known["lastTransitionTime"].clone();
                }
                *known = condition;
            }
            None => all.push(condition),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::host::example;

    fn pod(spec: Value) -> Pod {
        let meta = json!({"name": "p", "namespace": "ns", "labels": {"app": "p"}});
        serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap()
    }

    fn message(host: &Host, spec: Value, used: &[&Usage], others: &[Pod]) -> Option<String> {
        fit(&pod(spec), host, used, &|| others.to_vec()).err().map(|misfit| misfit.message(&Preemption::NoVictims))
    }

    fn text(reason: &str, preemption: &str) -> Option<String> {
        Some(format!("0/1 nodes are available: {reason}. preemption: 0/1 nodes are available: 1 {preemption}."))
    }

    const HOPELESS: &str = "Preemption is not helpful for scheduling";
    const NO_VICTIMS: &str = "No preemption victims found for incoming pod";

    fn requests(cpu: &str, memory: &str) -> Value {
        json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}}]})
    }

    #[test]
    fn resources_are_added_up() {
        let host = example();
        let running = Usage::of(&pod(requests("1500m", "900Mi")));
        assert_eq!(message(&host, requests("500m", "100Mi"), &[&running], &[]), None);
        let got = message(&host, requests("600m", "200Mi"), &[&running], &[]);
        assert_eq!(got, text("1 Insufficient cpu, 1 Insufficient memory", NO_VICTIMS));
        assert_eq!(message(&host, requests("3", "1Mi"), &[], &[]), text("1 Insufficient cpu", HOPELESS));
        let gpu = json!({"containers": [{"name": "c", "resources": {"limits": {"nvidia.com/gpu": "1"}}}]});
        assert_eq!(message(&host, gpu, &[], &[]), text("1 Insufficient nvidia.com/gpu", HOPELESS));
        let full = Host { max_pods: 1, ..host };
        assert_eq!(message(&full, json!({"containers": []}), &[&running], &[]), text("1 Too many pods", NO_VICTIMS));
    }

    #[test]
    fn node_affinity_is_looked_up_in_the_labels() {
        let host = example();
        let none = text("1 node(s) didn't match Pod's node affinity/selector", HOPELESS);
        assert_eq!(message(&host, json!({"containers": [], "nodeSelector": {"disk": "ssd"}}), &[], &[]), none);
        let selector = json!({"kubernetes.io/hostname": "n1"});
        assert_eq!(message(&host, json!({"containers": [], "nodeSelector": selector}), &[], &[]), None);
        let term = |term: Value| {
            let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}});
            json!({"containers": [], "affinity": {"nodeAffinity": required}})
        };
        for (own, fits) in [
            (json!({"matchExpressions": [{"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]}]}), true),
            (
                json!({"matchExpressions": [{"key": "kubernetes.io/os", "operator": "NotIn", "values": ["linux"]}]}),
                false,
            ),
            (json!({"matchExpressions": [{"key": "gpu", "operator": "DoesNotExist"}]}), true),
            (json!({"matchExpressions": [{"key": "gpu", "operator": "Gt", "values": ["1"]}]}), false),
            (json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}), true),
            (json!({}), false),
        ] {
            assert_eq!(message(&host, term(own.clone()), &[], &[]).is_none(), fits, "{own}");
        }
    }

    #[test]
    fn taints_are_tolerated_or_named() {
        let taint = Taint { key: "a".into(), value: Some("b".into()), effect: "NoSchedule".into(), time_added: None };
        let host = Host { taints: vec![taint], ..example() };
        let with = |toleration: Value| json!({"containers": [], "tolerations": [toleration]});
        let none = text("1 node(s) had untolerated taint {a: b}", HOPELESS);
        assert_eq!(message(&host, json!({"containers": []}), &[], &[]), none);
        assert_eq!(message(&host, with(json!({"key": "a", "value": "c"})), &[], &[]), none);
        assert_eq!(message(&host, with(json!({"key": "a", "value": "b", "effect": "NoSchedule"})), &[], &[]), None);
        assert_eq!(message(&host, with(json!({"operator": "Exists"})), &[], &[]), None);
        let cordoned = Host { cordoned: true, ..example() };
        assert_eq!(
            message(&cordoned, json!({"containers": []}), &[], &[]),
            text("1 node(s) were unschedulable", HOPELESS)
        );
    }

    /// Section 7.4
    #[test]
    fn claims_are_there_and_stay_before_a_pod_is_bound() {
        let volume = json!({"name": "v", "persistentVolumeClaim": {"claimName": "x"}});
        let pod = pod(json!({"containers": [], "volumes": [volume]}));
        let class = |mode: &str| {
            let class = json!({"metadata": {"name": "c"}, "provisioner": "p", "volumeBindingMode": mode});
            serde_json::from_value::<StorageClass>(class).unwrap()
        };
        let said = |claim: Option<Value>, mode: &str| {
            let find = |name: &str| {
                assert_eq!(name, "x");
                claim.clone().map(|claim| serde_json::from_value(claim).unwrap())
            };
            claims_fit(&pod, &find, &|| vec![class(mode)]).err().map(|misfit| misfit.message(&Preemption::NoVictims))
        };
        let claim = json!({"metadata": {"name": "x"}, "spec": {"storageClassName": "c"}});
        let mut leaving = claim.clone();
        leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        let mut bound = claim.clone();
        bound["metadata"]["annotations"] = json!({"pv.kubernetes.io/bind-completed": "yes"});
        bound["spec"]["volumeName"] = json!("v1");
        let message = |reason: &str| text(reason, HOPELESS);
        assert_eq!(said(None, "Immediate"), message("persistentvolumeclaim \"x\" not found"));
        assert_eq!(said(Some(leaving), "Immediate"), message("persistentvolumeclaim \"x\" is being deleted"));
        let unbound = message("pod has unbound immediate PersistentVolumeClaims");
        assert_eq!(said(Some(claim.clone()), "Immediate"), unbound);
        assert_eq!(said(Some(claim), "WaitForFirstConsumer"), None);
        assert_eq!(said(Some(bound), "Immediate"), None);
    }

    #[test]
    fn a_host_port_is_taken_once() {
        let with =
            |port: u16| json!({"containers": [{"name": "c", "ports": [{"containerPort": 1, "hostPort": port}]}]});
        let running = Usage::of(&pod(with(80)));
        let got = message(&example(), with(80), &[&running], &[]);
        assert_eq!(got, text("1 node(s) didn't have free ports for the requested pod ports", NO_VICTIMS));
        assert_eq!(message(&example(), with(81), &[&running], &[]), None);
    }

    #[test]
    fn pods_attract_and_repel_each_other() {
        let term = |label: &str| {
            json!({"requiredDuringSchedulingIgnoredDuringExecution": [
                {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": label}}}]})
        };
        let with = |kind: &str, label: &str| json!({"containers": [], "affinity": {kind: term(label)}});
        let other = pod(json!({"containers": []}));
        let host = example();
        let lonely = text("1 node(s) didn't match pod affinity rules", HOPELESS);
        assert_eq!(message(&host, with("podAffinity", "x"), &[], std::slice::from_ref(&other)), lonely);
        assert_eq!(message(&host, with("podAffinity", "p"), &[], &[]), None);
        let apart = text("1 node(s) didn't match pod anti-affinity rules", NO_VICTIMS);
        assert_eq!(message(&host, with("podAntiAffinity", "p"), &[], &[other]), apart);
        let shy = pod(with("podAntiAffinity", "p"));
        let existing = text("1 node(s) didn't satisfy existing pods anti-affinity rules", NO_VICTIMS);
        assert_eq!(message(&host, json!({"containers": []}), &[], &[shy]), existing);
    }

    /// CO1
    #[test]
    fn a_condition_keeps_its_transition_while_its_status_stays() {
        let mut value = json!({"metadata": {"generation": 1}, "spec": {}});
        mark_unschedulable(&mut value, "one", Some("n1"));
        assert_eq!(value["status"]["nominatedNodeName"], "n1");
        value["status"]["conditions"][0]["lastTransitionTime"] = json!("2026-01-01T00:00:00Z");
        mark_unschedulable(&mut value, "two", Some("n1"));
        let condition = &value["status"]["conditions"][0];
        assert_eq!((&condition["message"], &condition["reason"]), (&json!("two"), &json!("Unschedulable")));
        assert_eq!(condition["lastTransitionTime"], "2026-01-01T00:00:00Z");
        mark_bound(&mut value, "n1");
        assert_eq!(value["status"]["conditions"].as_array().unwrap().len(), 1);
        assert_eq!(value["status"]["conditions"][0]["status"], "True");
        assert_eq!((&value["spec"]["nodeName"], &value["status"]["nominatedNodeName"]), (&json!("n1"), &Value::Null));
    }

    #[test]
    fn a_message_tells_what_became_of_preemption() {
        let running = Usage::of(&pod(requests("2", "1Mi")));
        let misfit = fit(&pod(requests("1", "1Mi")), &example(), &[&running], &Vec::new).unwrap_err();
        let head = "0/1 nodes are available: 1 Insufficient cpu.";
        for (preemption, tail) in [
            (Preemption::Never, " preemption: not eligible due to preemptionPolicy=Never."),
            (Preemption::Terminating, " preemption: not eligible due to a terminating pod on the nominated node."),
            (Preemption::Nominated, ""),
            (Preemption::Unhelpful(misfit.clone()), " preemption: 0/1 nodes are available: 1 Insufficient cpu."),
        ] {
            assert_eq!(misfit.message(&preemption), format!("{head}{tail}"));
        }
    }
}
