//! What objects take of a ResourceQuota. Pure.

use std::collections::BTreeMap;

use cgroupd::Quantity as Amount;
use k8s_openapi::api::core::v1::{
    Container, PersistentVolumeClaim, Pod, PodSpec, ResourceQuota, ResourceQuotaSpec,
    ScopedResourceSelectorRequirement, Service,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::effective::{effective_limit, effective_request};

/// An object as far as quotas go.
#[derive(Debug)]
pub enum Counted<'a> {
    Pod(&'a Pod),
    Service(&'a Service),
    Claim(&'a PersistentVolumeClaim),
    /// Anything else: only its being there counts.
    Other,
}

/// Kinds that a quota also knows by their plain name, beside `count/PLURAL`.
pub(super) const PLAIN: &[&str] = &[
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
];
/// What pods ask for and may have: every container must name it when it is limited.
pub(super) const COMPUTED: &[&str] =
    &["cpu", "limits.cpu", "limits.memory", "memory", "requests.cpu", "requests.memory"];

/// How much of the resource `name` of a quota an object takes; `plural` is qualified by its group. None when the
/// resource has nothing to do with such objects.
pub fn takes(plural: &str, object: &Counted<'_>, name: &str) -> Option<Amount> {
    if name.strip_prefix("count/") == Some(plural) {
        return Some(Amount::ONE);
    }
    if name == plural && PLAIN.contains(&plural) {
        let is_over = matches!(object, Counted::Pod(pod) if is_over(pod));
        return Some(if is_over { Amount::ZERO } else { Amount::ONE });
    }
    match object {
        Counted::Pod(pod) => pod_takes(pod, name),
        Counted::Service(service) => service_takes(service, name),
        Counted::Claim(claim) => claim_takes(claim, name),
        Counted::Other => None,
    }
}

fn is_over(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"))
}

fn pod_takes(pod: &Pod, name: &str) -> Option<Amount> {
    let spec = pod.spec.as_ref()?;
    let amount = match name {
        "cpu" | "memory" | "ephemeral-storage" => effective_request(spec, name),
        "requests.storage" => return None,
        _ => match name.split_once('.') {
            Some(("requests", name)) => effective_request(spec, name),
            Some(("limits", name)) => effective_limit(spec, name),
            Some(_) | None => return None,
        },
    };
    Some(amount.filter(|_| !is_over(pod)).unwrap_or(Amount::ZERO))
}

fn service_takes(service: &Service, name: &str) -> Option<Amount> {
    let spec = service.spec.as_ref()?;
    let kind = spec.type_.as_deref().unwrap_or_default();
    let ports = spec.ports.as_ref().map_or(0, Vec::len);
    let count = match (name, kind) {
        ("services.nodeports", "NodePort") => ports,
        ("services.nodeports", "LoadBalancer") if spec.allocate_load_balancer_node_ports != Some(false) => ports,
        ("services.loadbalancers", "LoadBalancer") => 1,
        ("services.nodeports" | "services.loadbalancers", _) => 0,
        _ => return None,
    };
    count.to_string().parse::<Amount>().ok()
}

fn claim_takes(claim: &PersistentVolumeClaim, name: &str) -> Option<Amount> {
    let spec = claim.spec.as_ref()?;
    let class = spec.storage_class_name.as_deref().unwrap_or_default();
    let of_class = name.strip_prefix(class).filter(|_| !class.is_empty());
    let name = of_class.and_then(|rest| rest.strip_prefix(".storageclass.storage.k8s.io/")).unwrap_or(name);
    match name {
        "requests.storage" => {
            let quantity = spec.resources.as_ref()?.requests.as_ref()?.get("storage")?;
            quantity.0.parse::<Amount>().ok()
        }
        "persistentvolumeclaims" if of_class.is_some() => Some(Amount::ONE),
        _ => None,
    }
}

/// Whether a quota counts an object at all. One with scopes counts pods only.
pub fn is_in_scope(spec: &ResourceQuotaSpec, object: &Counted<'_>) -> bool {
    let plain = spec.scopes.iter().flatten().map(|scope| (scope.as_str(), None));
    let selected = spec.scope_selector.iter().flat_map(|selector| selector.match_expressions.iter().flatten());
    let mut scopes = plain.chain(selected.map(|term| (term.scope_name.as_str(), Some(term)))).peekable();
    if scopes.peek().is_none() {
        return true;
    }
    let Counted::Pod(pod) = object else { return false };
    scopes.all(|(scope, term)| fits(pod, scope, term))
}

fn fits(pod: &Pod, scope: &str, term: Option<&ScopedResourceSelectorRequirement>) -> bool {
    let spec = pod.spec.clone().unwrap_or_default();
    match scope {
        "BestEffort" => is_best_effort(&spec),
        "NotBestEffort" => !is_best_effort(&spec),
        "Terminating" => spec.active_deadline_seconds.is_some(),
        "NotTerminating" => spec.active_deadline_seconds.is_none(),
        "PriorityClass" => term.is_none_or(|term| has_priority(&spec, term)),
        "CrossNamespacePodAffinity" => false,
        _ => false,
    }
}

fn has_priority(spec: &PodSpec, term: &ScopedResourceSelectorRequirement) -> bool {
    let class = spec.priority_class_name.as_deref().unwrap_or_default();
    let is_named = term.values.iter().flatten().any(|value| value == class);
    match term.operator.as_str() {
        "Exists" => !class.is_empty(),
        "DoesNotExist" => class.is_empty(),
        "In" => is_named,
        "NotIn" => !is_named,
        _ => false,
    }
}

fn is_best_effort(spec: &PodSpec) -> bool {
    let is_empty = |container: &Container| {
        let resources = container.resources.clone().unwrap_or_default();
        [resources.requests, resources.limits].into_iter().flatten().all(|list| list.is_empty())
    };
    spec.containers.iter().chain(spec.init_containers.iter().flatten()).all(is_empty)
}

/// A quota of cpu or memory is of no use when containers don't say what they need.
fn missing(hard: &BTreeMap<String, Quantity>, spec: &PodSpec) -> Option<String> {
    let mut all = Vec::new();
    for name in COMPUTED.iter().filter(|name| hard.contains_key(**name)) {
        let (is_limit, resource) = match name.split_once('.') {
            Some((kind, resource)) => (kind == "limits", resource),
            None => (false, *name),
        };
        let says = |container: &&Container| {
            let list = container.resources.as_ref();
            let list = list.and_then(|r| if is_limit { r.limits.as_ref() } else { r.requests.as_ref() });
            list.is_some_and(|list| list.contains_key(resource))
        };
        let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        let mut silent: Vec<&str> = containers.filter(|c| !says(c)).map(|c| c.name.as_str()).collect();
        silent.sort_unstable();
        if !silent.is_empty() {
            all.push(format!("{name} for: {}", silent.join(",")));
        }
    }
    (!all.is_empty()).then(|| format!("must specify {}", all.join("; ")))
}

/// What a quota says to a new object, or to a change of one; `used` is what all others take.
///
/// # Errors
/// In the API server's words.
pub fn check(
    quota: &ResourceQuota,
    plural: &str,
    new: &Counted<'_>,
    old: Option<&Counted<'_>>,
    used: impl Fn(&str) -> Amount,
) -> Result<(), String> {
    let name = quota.metadata.name.as_deref().unwrap_or_default();
    let Some(spec) = quota.spec.as_ref().filter(|spec| is_in_scope(spec, new)) else { return Ok(()) };
    let Some(hard) = &spec.hard else { return Ok(()) };
    if let (Counted::Pod(pod), None) = (new, old)
        && let Some(missing) = pod.spec.as_ref().and_then(|spec| missing(hard, spec))
    {
        return Err(format!("failed quota: {name}: {missing}"));
    }
    let (mut asked, mut taken, mut limited) = (Vec::new(), Vec::new(), Vec::new());
    for (resource, bound) in hard {
        let before = old.and_then(|old| takes(plural, old, resource)).unwrap_or(Amount::ZERO);
        let wanted = takes(plural, new, resource).filter(|wanted| *wanted > before);
        let (Some(wanted), Ok(limit)) = (wanted, bound.0.parse::<Amount>()) else { continue };
        let others = used(resource);
        if wanted.plus(others) > limit {
            asked.push(format!("{resource}={}", wanted.minus(before)));
            taken.push(format!("{resource}={}", total([others, before])));
            limited.push(format!("{resource}={}", limit));
        }
    }
    if asked.is_empty() {
        return Ok(());
    }
    let [asked, taken, limited] = [asked, taken, limited].map(|list| list.join(","));
    Err(format!("exceeded quota: {name}, requested: {asked}, used: {taken}, limited: {limited}"))
}

/// A sum, written as its first part that is not zero.
pub fn total(amounts: impl IntoIterator<Item = Amount>) -> Amount {
    let add = |sum: Amount, amount: Amount| if sum.is_zero() { amount } else { sum.plus(amount) };
    amounts.into_iter().fold(Amount::ZERO, add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(resources: Value, phase: &str) -> Pod {
        let value =
            json!({"spec": {"containers": [{"name": "c", "resources": resources}]}, "status": {"phase": phase}});
        serde_json::from_value(value).unwrap()
    }

    fn quota(hard: Value) -> ResourceQuota {
        serde_json::from_value(json!({"metadata": {"name": "q"}, "spec": {"hard": hard}})).unwrap()
    }

    #[test]
    fn objects_take_what_their_kind_takes() {
        let running = pod(json!({"requests": {"cpu": "100m"}, "limits": {"memory": "1Gi"}}), "Running");
        let over = pod(json!({"requests": {"cpu": "100m"}}), "Succeeded");
        let service = serde_json::from_value::<Service>(json!({"spec": {"type": "NodePort", "ports": [{"port": 1}]}}));
        let service = service.unwrap();
        for (plural, object, name, expected) in [
            ("pods", Counted::Pod(&running), "pods", Some("1")),
            ("pods", Counted::Pod(&running), "requests.cpu", Some("100m")),
            ("pods", Counted::Pod(&running), "limits.memory", Some("1Gi")),
            ("pods", Counted::Pod(&over), "pods", Some("0")),
            ("pods", Counted::Pod(&over), "count/pods", Some("1")),
            ("pods", Counted::Pod(&over), "cpu", Some("0")),
            ("pods", Counted::Pod(&running), "secrets", None),
            ("services", Counted::Service(&service), "services.nodeports", Some("1")),
            ("services", Counted::Service(&service), "services.loadbalancers", Some("0")),
            ("leases.coordination.k8s.io", Counted::Other, "count/leases.coordination.k8s.io", Some("1")),
            ("leases.coordination.k8s.io", Counted::Other, "leases.coordination.k8s.io", None),
        ] {
            let amount = takes(plural, &object, name).map(|amount| amount.to_string());
            assert_eq!(amount.as_deref(), expected, "{plural} {name}");
        }
    }

    #[test]
    fn refusals_are_in_the_words_of_the_api_server() {
        let asking = pod(json!({"requests": {"cpu": "300m"}}), "Pending");
        let new = Counted::Pod(&asking);
        let used = |name: &str| if name == "pods" { Amount::ZERO } else { "300m".parse::<Amount>().unwrap() };
        for (hard, expected) in [
            (json!({"pods": "1", "requests.cpu": "600m"}), None),
            (
                json!({"pods": "0", "requests.cpu": "500m"}),
                Some(
                    "exceeded quota: q, requested: pods=1,requests.cpu=300m, used: pods=0,requests.cpu=300m, limited: pods=0,requests.cpu=500m",
                ),
            ),
            (json!({"limits.memory": "1Gi"}), Some("failed quota: q: must specify limits.memory for: c")),
        ] {
            assert_eq!(check(&quota(hard), "pods", &new, None, used).err().as_deref(), expected);
        }
    }

    #[test]
    fn scopes_choose_pods() {
        let (none, some) = (pod(json!({}), "Running"), pod(json!({"limits": {"cpu": "1"}}), "Running"));
        for (scope, effort, other) in
            [("BestEffort", true, false), ("NotBestEffort", false, true), ("NotTerminating", true, true)]
        {
            let spec: ResourceQuotaSpec = serde_json::from_value(json!({"scopes": [scope]})).unwrap();
            assert_eq!(is_in_scope(&spec, &Counted::Pod(&none)), effort, "{scope}");
            assert_eq!(is_in_scope(&spec, &Counted::Pod(&some)), other, "{scope}");
            assert!(!is_in_scope(&spec, &Counted::Other));
        }
    }
}
