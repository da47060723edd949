//! From a Pod with defaults to what its machine needs to know.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    Container, EphemeralContainer, HTTPGetAction, LifecycleHandler, Pod, PodSpec as ApiSpec, Probe,
    ResourceRequirements, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::expand::expand;
use crate::admission::defaults::CRITICAL;
use crate::pod::spec::{
    ContainerSpec, HookHandler, HttpGet, PodSpec, Port, ProbeHandler, ProbeSpec, PullPolicy, Resources, RestartPolicy,
    RestartRule, Role, RuleAction, RuleOperator, Signal, TerminationMessagePolicy,
};

/// The uid of the static pod that an object mirrors (ST3). The node writes it; the API lets nobody else.
pub const MIRROR: &str = "kubernetes.io/config.mirror";

/// Whether a pod comes from a manifest of the node's own.
pub fn is_static(pod: &Pod) -> bool {
    mirrored(pod).is_some()
}

/// Under which the node knows a pod: machine, directories, logs, events. A static pod's outlives the objects that mirror it.
pub fn uid(pod: &Pod) -> &str {
    mirrored(pod).or(pod.metadata.uid.as_deref()).unwrap_or_default()
}

/// The uid of the static pod that an object mirrors.
pub fn mirrored(pod: &Pod) -> Option<&str> {
    pod.metadata.annotations.as_ref()?.get(MIRROR).map(String::as_str)
}

/// Such pods the node keeps whatever they take (EV6).
pub fn is_critical(pod: &Pod) -> bool {
    is_static(pod) || pod.spec.as_ref().and_then(|spec| spec.priority).is_some_and(|priority| priority >= CRITICAL)
}

/// The machine's view of a Pod that is defaulted and valid.
pub fn spec(pod: &Pod) -> PodSpec {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let meta = &pod.metadata;
    let mut spec = PodSpec::new(&text(&meta.namespace), &text(&meta.name), &text(&meta.uid));
    let Some(api) = &pod.spec else { return spec };
    spec.restart_policy = restart_policy(api.restart_policy.as_deref()).unwrap_or(RestartPolicy::Always);
    // Rule UP2: a negative grace counts as 1; a written 0 stays.
    spec.grace = match api.termination_grace_period_seconds.unwrap_or(30) {
        negative if negative < 0 => seconds(1),
        grace => seconds(grace),
    };
    spec.static_pod = is_static(pod);
    // Its object shows none that was observed (GE4).
    spec.generation = if spec.static_pod { 0 } else { meta.generation.unwrap_or(1) };
    spec.active_deadline = api.active_deadline_seconds.map(seconds);
    spec.readiness_gates = api.readiness_gates.iter().flatten().map(|gate| gate.condition_type.clone()).collect();
    spec.host_network = api.host_network.unwrap_or(false);
    spec.containers = containers(api);
    spec
}

fn containers(api: &ApiSpec) -> Vec<ContainerSpec> {
    let init = api.init_containers.iter().flatten().map(|own| {
        let sidecar = own.restart_policy.as_deref() == Some("Always");
        container(own, if sidecar { Role::Sidecar } else { Role::Init })
    });
    let apps = api.containers.iter().map(|own| container(own, Role::App));
    init.chain(apps).chain(api.ephemeral_containers.iter().flatten().map(ephemeral)).collect()
}

/// The machine's view of an ephemeral container (EP1); it has neither probes nor hooks.
pub fn ephemeral(own: &EphemeralContainer) -> ContainerSpec {
    let mut spec = ContainerSpec::new(&own.name, Role::Ephemeral, own.image.as_deref().unwrap_or_default());
    spec.pull_policy = pull_policy(own.image_pull_policy.as_deref());
    spec.target = own.target_container_name.clone().filter(|name| !name.is_empty());
    if let Some(path) = &own.termination_message_path {
        spec.termination_message_path.clone_from(path);
    }
    spec.termination_message_policy = message_policy(own.termination_message_policy.as_deref());
    spec
}

pub fn pull_policy(text: Option<&str>) -> PullPolicy {
    match text {
        Some("Always") => PullPolicy::Always,
        Some("Never") => PullPolicy::Never,
        _ => PullPolicy::IfNotPresent,
    }
}

fn message_policy(text: Option<&str>) -> TerminationMessagePolicy {
    match text {
        Some("FallbackToLogsOnError") => TerminationMessagePolicy::FallbackToLogsOnError,
        _ => TerminationMessagePolicy::File,
    }
}

fn container(own: &Container, role: Role) -> ContainerSpec {
    let mut spec = ContainerSpec::new(&own.name, role, own.image.as_deref().unwrap_or_default());
    spec.pull_policy = pull_policy(own.image_pull_policy.as_deref());
    spec.restart_policy = restart_policy(own.restart_policy.as_deref());
    spec.rules = own.restart_policy_rules.iter().flatten().filter_map(rule).collect();
    spec.resources_key = serde_json::to_string(&own.resources).unwrap_or_default();
    spec.resources = resources(own);
    let restarting = own.resize_policy.iter().flatten().filter(|policy| policy.restart_policy == "RestartContainer");
    spec.restart_on_resize = restarting.map(|policy| policy.resource_name.clone()).collect();
    spec.startup = own.startup_probe.as_ref().and_then(|p| probe(p, own));
    spec.liveness = own.liveness_probe.as_ref().and_then(|p| probe(p, own));
    spec.readiness = own.readiness_probe.as_ref().and_then(|p| probe(p, own));
    if let Some(lifecycle) = &own.lifecycle {
        spec.post_start = lifecycle.post_start.as_ref().and_then(|handler| hook(handler, own));
        spec.pre_stop = lifecycle.pre_stop.as_ref().and_then(|handler| hook(handler, own));
        spec.stop_signal = lifecycle.stop_signal.as_deref().and_then(signal);
    }
    if let Some(path) = &own.termination_message_path {
        spec.termination_message_path.clone_from(path);
    }
    spec.termination_message_policy = message_policy(own.termination_message_policy.as_deref());
    spec
}

fn resources(own: &Container) -> Resources {
    let amounts = |side: Option<&BTreeMap<String, Quantity>>| -> BTreeMap<String, String> {
        side.into_iter().flatten().map(|(name, amount)| (name.clone(), amount.0.clone())).collect()
    };
    let own = own.resources.as_ref();
    Resources {
        requests: amounts(own.and_then(|own| own.requests.as_ref())),
        limits: amounts(own.and_then(|own| own.limits.as_ref())),
    }
}

/// The pod with what is allocated to it instead of what its spec asks for (RZ4).
pub fn allocated(pod: &Pod, spec: &PodSpec) -> Pod {
    let mut pod = pod.clone();
    let Some(api) = &mut pod.spec else { return pod };
    for own in api.init_containers.iter_mut().flatten().chain(&mut api.containers) {
        let machine = spec.containers.iter().find(|container| container.name == own.name);
        if let Some(machine) = machine.filter(|machine| machine.resources != resources(own)) {
            put_resources(own.resources.get_or_insert_default(), &machine.resources);
        }
    }
    pod
}

/// Writes the machine's amounts where the API has them.
pub fn put_resources(own: &mut ResourceRequirements, resources: &Resources) {
    let amounts = |side: &BTreeMap<String, String>| -> Option<BTreeMap<String, Quantity>> {
        let all = side.iter().map(|(name, amount)| (name.clone(), Quantity(amount.clone())));
        (!side.is_empty()).then(|| all.collect())
    };
    own.requests = amounts(&resources.requests);
    own.limits = amounts(&resources.limits);
}

/// Amounts of a pod that was written down by a daemon that did not write them.
pub fn fill_resources(spec: &mut PodSpec, pod: &Pod) {
    for (own, now) in spec.containers.iter_mut().zip(self::spec(pod).containers) {
        if own.resources == Resources::default() && own.name == now.name {
            own.resources = now.resources;
        }
    }
}

fn restart_policy(text: Option<&str>) -> Option<RestartPolicy> {
    match text? {
        "Always" => Some(RestartPolicy::Always),
        "OnFailure" => Some(RestartPolicy::OnFailure),
        "Never" => Some(RestartPolicy::Never),
        _ => None,
    }
}

fn rule(rule: &k8s_openapi::api::core::v1::ContainerRestartRule) -> Option<RestartRule> {
    let codes = rule.exit_codes.as_ref()?;
    Some(RestartRule {
        action: if rule.action == "RestartAllContainers" {
            RuleAction::RestartAllContainers
        } else {
            RuleAction::Restart
        },
        operator: if codes.operator == "NotIn" { RuleOperator::NotIn } else { RuleOperator::In },
        values: codes.values.clone().unwrap_or_default(),
    })
}

/// `SIGRTMIN+3` and the like are numbers above 34 (signal(7)).
fn signal(name: &str) -> Option<Signal> {
    let offset = |text: &str, base: i32| text.parse::<i32>().ok().map(|n| Signal(base + n));
    if let Some(rest) = name.strip_prefix("SIGRTMIN") {
        return if rest.is_empty() { Some(Signal(34)) } else { offset(rest, 34) };
    }
    if let Some(rest) = name.strip_prefix("SIGRTMAX") {
        return if rest.is_empty() { Some(Signal(64)) } else { offset(rest, 64) };
    }
    name.parse::<nix::sys::signal::Signal>().ok().map(|signal| Signal(signal as i32))
}

fn probe(probe: &Probe, own: &Container) -> Option<ProbeSpec> {
    let mut spec = ProbeSpec::new(probe_handler(probe, own)?);
    let set = |field: Option<i32>, default: Duration| {
        field.filter(|value| *value > 0).map_or(default, |value| seconds(i64::from(value)))
    };
    spec.initial_delay = set(probe.initial_delay_seconds, spec.initial_delay);
    spec.period = set(probe.period_seconds, spec.period);
    spec.timeout = set(probe.timeout_seconds, spec.timeout);
    let count = |field: Option<i32>, default: u32| {
        field.and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(default)
    };
    spec.success_threshold = count(probe.success_threshold, spec.success_threshold);
    spec.failure_threshold = count(probe.failure_threshold, spec.failure_threshold);
    spec.grace = probe.termination_grace_period_seconds.map(seconds);
    Some(spec)
}

fn probe_handler(probe: &Probe, own: &Container) -> Option<ProbeHandler> {
    if let Some(exec) = &probe.exec {
        let command = exec.command.iter().flatten().map(|word| expand(word, |name| literal(own, name))).collect();
        return Some(ProbeHandler::Exec { command });
    }
    if let Some(get) = &probe.http_get {
        return Some(ProbeHandler::HttpGet(http_get(get, own)));
    }
    if let Some(tcp) = &probe.tcp_socket {
        return Some(tcp_socket(tcp, own));
    }
    let grpc = probe.grpc.as_ref()?;
    Some(ProbeHandler::Grpc { port: u16::try_from(grpc.port).ok()?, service: grpc.service.clone().unwrap_or_default() })
}

/// Rule EX3: only literal values; a name whose value comes from elsewhere is empty.
fn literal(own: &Container, name: &str) -> Option<String> {
    let variable = own.env.iter().flatten().rev().find(|variable| variable.name == name)?;
    Some(if variable.value_from.is_some() { String::new() } else { variable.value.clone().unwrap_or_default() })
}

fn hook(handler: &LifecycleHandler, own: &Container) -> Option<HookHandler> {
    if let Some(exec) = &handler.exec {
        return Some(HookHandler::Exec { command: exec.command.clone().unwrap_or_default() });
    }
    if let Some(get) = &handler.http_get {
        return Some(HookHandler::HttpGet(http_get(get, own)));
    }
    if let Some(sleep) = &handler.sleep {
        return Some(HookHandler::Sleep { seconds: u64::try_from(sleep.seconds).unwrap_or(0) });
    }
    handler.tcp_socket.as_ref().map(|_| HookHandler::TcpSocket)
}

fn http_get(get: &HTTPGetAction, own: &Container) -> HttpGet {
    HttpGet {
        https: get.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https")),
        host: get.host.clone().filter(|host| !host.is_empty()),
        port: port(&get.port, own),
        path: get.path.clone().filter(|path| !path.is_empty()).unwrap_or_else(|| "/".to_owned()),
        headers: get.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect(),
    }
}

fn tcp_socket(tcp: &TCPSocketAction, own: &Container) -> ProbeHandler {
    ProbeHandler::TcpSocket { host: tcp.host.clone().filter(|host| !host.is_empty()), port: port(&tcp.port, own) }
}

/// Rule PR15.
fn port(port: &IntOrString, own: &Container) -> Port {
    match port {
        IntOrString::Int(number) => {
            u16::try_from(*number).map_or_else(|_| Port::Unknown(number.to_string()), Port::Number)
        }
        IntOrString::String(name) => {
            let named = own.ports.iter().flatten().find(|port| port.name.as_deref() == Some(name));
            let number = named.and_then(|port| u16::try_from(port.container_port).ok()).or_else(|| name.parse().ok());
            number.map_or_else(|| Port::Unknown(name.clone()), Port::Number)
        }
    }
}

fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(container: &str) -> ContainerSpec {
        container_of(container, Role::App)
    }

    fn container_of(text: &str, role: Role) -> ContainerSpec {
        container(&serde_json::from_str(text).unwrap(), role)
    }

    /// IN2, RR1: an init container that restarts always is a sidecar.
    #[test]
    fn containers_stand_in_order_with_their_roles() {
        let pod: Pod = serde_json::from_str(
            r#"{"spec":{"initContainers":[{"name":"i"},{"name":"s","restartPolicy":"Always"}],"containers":[{"name":"a"}]}}"#,
        )
        .unwrap();
        let roles: Vec<_> = spec(&pod).containers.iter().map(|c| (c.name.clone(), c.role)).collect();
        assert_eq!(roles, [("i".into(), Role::Init), ("s".into(), Role::Sidecar), ("a".into(), Role::App)]);
    }

    /// RR2: rules count beside a policy, and a sidecar has one.
    #[test]
    fn a_sidecar_keeps_its_policy_and_its_rules() {
        let text = r#"{"name":"s","restartPolicy":"Always","restartPolicyRules":
            [{"action":"RestartAllContainers","exitCodes":{"operator":"In","values":[42]}}]}"#;
        let got = container_of(text, Role::Sidecar);
        assert_eq!(got.restart_policy, Some(RestartPolicy::Always));
        assert_eq!(got.rules.first().map(|rule| rule.action), Some(RuleAction::RestartAllContainers));
    }

    /// PR15
    #[test]
    fn a_named_port_is_looked_up_in_the_same_container() {
        for (wanted, expected) in [
            (r#""web""#, Port::Number(8080)),
            ("80", Port::Number(80)),
            (r#""81""#, Port::Number(81)),
            (r#""none""#, Port::Unknown("none".into())),
        ] {
            let text = format!(
                r#"{{"name":"c","ports":[{{"name":"web","containerPort":8080}}],"readinessProbe":{{"tcpSocket":{{"port":{wanted}}}}}}}"#
            );
            let Some(ProbeHandler::TcpSocket { port, .. }) = one(&text).readiness.map(|probe| probe.handler) else {
                panic!("no probe");
            };
            assert_eq!(port, expected, "{wanted}");
        }
    }

    /// EX3
    #[test]
    fn an_exec_probe_expands_literal_values_only() {
        let got = one(
            r#"{"name":"c","env":[{"name":"A","value":"1"},{"name":"B","valueFrom":{"fieldRef":{"fieldPath":"metadata.name"}}}],
                "livenessProbe":{"exec":{"command":["$(A)","$(B)","$(C)"]}}}"#,
        );
        let Some(ProbeHandler::Exec { command }) = got.liveness.map(|probe| probe.handler) else { panic!("no probe") };
        assert_eq!(command, ["1", "", "$(C)"]);
    }

    /// UP2
    #[test]
    fn a_grace_of_zero_stays_and_a_negative_one_is_one() {
        for (written, expected) in [("0", 0), ("-5", 1), ("7", 7), ("null", 30)] {
            let text = format!(r#"{{"spec":{{"terminationGracePeriodSeconds":{written},"containers":[]}}}}"#);
            assert_eq!(spec(&serde_json::from_str(&text).unwrap()).grace, seconds(expected), "{written}");
        }
    }

    /// LC11
    #[test]
    fn stop_signals_have_names() {
        for (name, expected) in [("SIGUSR1", Some(10)), ("SIGRTMIN+3", Some(37)), ("SIGRTMAX-1", Some(63)), ("X", None)]
        {
            assert_eq!(signal(name), expected.map(Signal), "{name}");
        }
    }
}
