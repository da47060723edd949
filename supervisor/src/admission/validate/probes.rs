//! Probes and lifecycle hooks (VA6, PR1, PR13).

use k8s_openapi::api::core::v1::{
    ExecAction, HTTPGetAction, Lifecycle, LifecycleHandler, Probe, SleepAction, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::error::{Errors, Path};
use super::names;

/// The three kinds of probe; they differ in what they allow.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ProbeKind {
    Liveness,
    Readiness,
    Startup,
}

pub(super) fn probe(probe: &Probe, kind: ProbeKind, path: &Path, errors: &mut Errors) {
    let handlers = Handlers {
        exec: probe.exec.as_ref(),
        http_get: probe.http_get.as_ref(),
        tcp_socket: probe.tcp_socket.as_ref(),
        grpc_port: probe.grpc.as_ref().map(|grpc| grpc.port),
        sleep: None,
    };
    handlers.check(0, path, errors);
    for (name, value) in [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ] {
        errors.not_negative(&path.field(name), value.map(i64::from));
    }
    grace(probe, kind, path, errors);
    if kind != ProbeKind::Readiness
        && let Some(threshold) = probe.success_threshold.filter(|threshold| *threshold != 1)
    {
        errors.invalid(&path.field("successThreshold"), threshold, "must be 1");
    }
}

/// PR13
fn grace(probe: &Probe, kind: ProbeKind, path: &Path, errors: &mut Errors) {
    let path = path.field("terminationGracePeriodSeconds");
    let Some(grace) = probe.termination_grace_period_seconds else {
        return;
    };
    if kind == ProbeKind::Readiness {
        errors.invalid(&path, grace, "must not be set for readinessProbes");
    } else if grace <= 0 {
        errors.invalid(&path, grace, "must be greater than 0");
    }
}

pub(super) fn lifecycle(lifecycle: &Lifecycle, grace: i64, path: &Path, errors: &mut Errors) {
    for (name, hook) in [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)] {
        if let Some(hook) = hook {
            Handlers::of_hook(hook).check(grace, &path.field(name), errors);
        }
    }
    if lifecycle.stop_signal.is_some() {
        errors.forbidden(&path.field("stopSignal"), "may not be set: custom stop signals are not enabled");
    }
}

struct Handlers<'a> {
    exec: Option<&'a ExecAction>,
    http_get: Option<&'a HTTPGetAction>,
    tcp_socket: Option<&'a TCPSocketAction>,
    grpc_port: Option<i32>,
    sleep: Option<&'a SleepAction>,
}

impl<'a> Handlers<'a> {
    fn of_hook(hook: &'a LifecycleHandler) -> Self {
        Handlers {
            exec: hook.exec.as_ref(),
            http_get: hook.http_get.as_ref(),
            tcp_socket: hook.tcp_socket.as_ref(),
            grpc_port: None,
            sleep: hook.sleep.as_ref(),
        }
    }

    /// Exactly one handler: further ones are forbidden, in the order in which the API looks at them.
    fn check(&self, grace: i64, path: &Path, errors: &mut Errors) {
        let mut count = 0;
        let mut is_first = |name: &str, errors: &mut Errors| {
            count += 1;
            if count > 1 {
                errors.forbidden(&path.field(name), "may not specify more than 1 handler type");
            }
            count == 1
        };
        if let Some(exec) = self.exec
            && is_first("exec", errors)
            && exec.command.as_ref().is_none_or(Vec::is_empty)
        {
            errors.required(&path.field("exec").field("command"), "");
        }
        if let Some(action) = self.http_get
            && is_first("httpGet", errors)
        {
            http_get(action, &path.field("httpGet"), errors);
        }
        if let Some(action) = self.tcp_socket
            && is_first("tcpSocket", errors)
        {
            port(&action.port, &path.field("tcpSocket").field("port"), errors);
        }
        if let Some(number) = self.grpc_port
            && is_first("grpc", errors)
        {
            invalid_port(number, &path.field("grpc").field("port"), errors);
        }
        if let Some(sleep) = self.sleep
            && is_first("sleep", errors)
            && !(0..=grace).contains(&sleep.seconds)
        {
            let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
            errors.invalid(&path.field("sleep").field("seconds"), sleep.seconds, detail);
        }
        if count == 0 {
            errors.required(path, "must specify a handler type");
        }
    }
}

fn http_get(action: &HTTPGetAction, path: &Path, errors: &mut Errors) {
    if action.path.as_deref().unwrap_or_default().is_empty() {
        errors.required(&path.field("path"), "");
    }
    port(&action.port, &path.field("port"), errors);
    errors.one_of(&path.field("scheme"), action.scheme.as_ref(), &["HTTP", "HTTPS"]);
    for (index, header) in action.http_headers.iter().flatten().enumerate() {
        let path = path.field("httpHeaders").index(index).field("name");
        errors.invalid_all(&path, &header.name, names::header(&header.name));
    }
}

fn port(port: &IntOrString, path: &Path, errors: &mut Errors) {
    match port {
        IntOrString::Int(number) => invalid_port(*number, path, errors),
        IntOrString::String(name) => errors.invalid_all(path, name, names::port_name(name)),
    }
}

pub(super) fn invalid_port(number: i32, path: &Path, errors: &mut Errors) {
    for message in names::port(number) {
        errors.invalid(path, number, message);
    }
}
