//! A container of a pod.

use serde_json::Value;

use super::pod::{is_ready, optional, seccomp};
use super::{NONE, Sheet, date, list, plain, text, text_or};

/// Which containers.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    Init,
    Main,
    Ephemeral,
}

impl Place {
    /// Heading, field of the spec, field of the status.
    fn names(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Init => ("Init Containers", "/spec/initContainers", "/status/initContainerStatuses"),
            Self::Main => ("Containers", "/spec/containers", "/status/containerStatuses"),
            Self::Ephemeral => {
                ("Ephemeral Containers", "/spec/ephemeralContainers", "/status/ephemeralContainerStatuses")
            }
        }
    }
}

pub(super) fn describe_all(sheet: &mut Sheet, pod: &Value, place: Place) {
    let (heading, spec, status) = place.names();
    let containers = list(pod, spec);
    if containers.is_empty() {
        return;
    }
    sheet.line(0, format_args!("{heading}:"));
    for container in containers {
        let found = list(pod, status).iter().find(|status| status["name"] == container["name"]);
        sheet.line(1, format_args!("{}:", text(container, "/name")));
        describe(sheet, container, found);
    }
}

fn describe(sheet: &mut Sheet, container: &Value, status: Option<&Value>) {
    if let Some(status) = status {
        sheet.field(2, "Container ID", text(status, "/containerID"));
    }
    sheet.field(2, "Image", text(container, "/image"));
    if let Some(status) = status {
        sheet.field(2, "Image ID", text(status, "/imageID"));
    }
    ports(sheet, container);
    sheet.field_some(2, "SeccompProfile", &seccomp(container.pointer("/securityContext/seccompProfile")));
    words(sheet, "Command", list(container, "/command"));
    words(sheet, "Args", list(container, "/args"));
    if let Some(status) = status {
        state(sheet, "State", &status["state"]);
        if status["lastState"].as_object().is_some_and(|last| !last.is_empty()) {
            state(sheet, "Last State", &status["lastState"]);
        }
        sheet.field(2, "Ready", is_ready(status));
        sheet.field(2, "Restart Count", plain(&status["restartCount"]));
    }
    sheet.resources(2, "Limits", &container["resources"]["limits"]);
    sheet.resources(2, "Requests", &container["resources"]["requests"]);
    for (name, field) in [("Liveness", "livenessProbe"), ("Readiness", "readinessProbe"), ("Startup", "startupProbe")] {
        if container[field].is_object() {
            sheet.field(2, name, probe(&container[field]));
        }
    }
    environment(sheet, container);
    mounts(sheet, container);
}

fn ports(sheet: &mut Sheet, container: &Value) {
    let ports = list(container, "/ports");
    let shown = |field: &str| {
        let all: Vec<String> = ports
            .iter()
            .map(|port| {
                let number = port[field].as_i64().unwrap_or_default();
                let name = match (field, text(port, "/name")) {
                    ("hostPort", _) | (_, "") => String::new(),
                    (_, name) => format!(" ({name})"),
                };
                format!("{number}/{}{name}", text_or(port, "/protocol", "TCP"))
            })
            .collect();
        if all.is_empty() { NONE.to_owned() } else { all.join(", ") }
    };
    let plural = if ports.len() > 1 { "s" } else { "" };
    sheet.field(2, &format!("Port{plural}"), shown("containerPort"));
    sheet.field(2, &format!("Host Port{plural}"), shown("hostPort"));
}

fn words(sheet: &mut Sheet, name: &str, words: &[Value]) {
    if words.is_empty() {
        return;
    }
    sheet.line(2, format_args!("{name}:"));
    for word in words {
        plain(word).split('\n').for_each(|line| sheet.line(3, line));
    }
}

fn state(sheet: &mut Sheet, name: &str, state: &Value) {
    if let Some(running) = state.get("running").filter(|running| running.is_object()) {
        sheet.field(2, name, "Running");
        return sheet.field(3, "Started", date(text(running, "/startedAt")));
    }
    let Some(ended) = state.get("terminated").filter(|ended| ended.is_object()) else {
        sheet.field(2, name, "Waiting");
        return sheet.field_some(3, "Reason", text(state, "/waiting/reason"));
    };
    sheet.field(2, name, "Terminated");
    sheet.field_some(3, "Reason", text(ended, "/reason"));
    sheet.field_some(3, "Message", text(ended, "/message"));
    sheet.field(3, "Exit Code", plain(&ended["exitCode"]));
    if let Some(signal) = ended["signal"].as_i64().filter(|signal| *signal > 0) {
        sheet.field(3, "Signal", signal);
    }
    sheet.field(3, "Started", date(text(ended, "/startedAt")));
    sheet.field(3, "Finished", date(text(ended, "/finishedAt")));
}

fn probe(probe: &Value) -> String {
    let seconds = |field: &str| probe[field].as_i64().unwrap_or_default();
    let limits = format!(
        "delay={}s timeout={}s period={}s #success={} #failure={}",
        seconds("initialDelaySeconds"),
        seconds("timeoutSeconds"),
        seconds("periodSeconds"),
        seconds("successThreshold"),
        seconds("failureThreshold"),
    );
    format!("{} {limits}", action(probe))
}

fn action(probe: &Value) -> String {
    let port = |action: &Value| plain(&action["port"]);
    if let Some(get) = probe.get("httpGet") {
        let scheme = text_or(get, "/scheme", "http").to_lowercase();
        let path = text(get, "/path");
        let slash = if path.starts_with('/') { "" } else { "/" };
        return format!("http-get {scheme}://{}:{}{slash}{path}", text(get, "/host"), port(get));
    }
    if let Some(socket) = probe.get("tcpSocket") {
        return format!("tcp-socket {}:{}", text(socket, "/host"), port(socket));
    }
    if let Some(grpc) = probe.get("grpc") {
        return format!("grpc <pod>:{} {}", port(grpc), text(grpc, "/service"));
    }
    let words: Vec<String> = list(probe, "/exec/command").iter().map(plain).collect();
    format!("exec [{}]", words.join(" "))
}

fn environment(sheet: &mut Sheet, container: &Value) {
    let sources = list(container, "/envFrom");
    if !sources.is_empty() {
        sheet.line(2, "Environment Variables from:");
    }
    for source in sources {
        let (kind, from) = match source.get("configMapRef") {
            Some(from) => ("ConfigMap", from),
            None => ("Secret", &source["secretRef"]),
        };
        let with = match text(source, "/prefix") {
            "" => String::new(),
            prefix => format!(" with prefix '{prefix}'"),
        };
        sheet.line(3, format_args!("{}\t{kind}{with}\tOptional: {}", text(from, "/name"), optional(from)));
    }
    let variables = list(container, "/env");
    if variables.is_empty() {
        return sheet.field(2, "Environment", NONE);
    }
    sheet.line(2, "Environment:");
    for variable in variables {
        sheet.line(3, format_args!("{}:\t{}", text(variable, "/name"), value(variable)));
    }
}

fn value(variable: &Value) -> String {
    let from = &variable["valueFrom"];
    if let Some(field) = from.get("fieldRef") {
        return format!(" ({}:{})", text_or(field, "/apiVersion", "v1"), text(field, "/fieldPath"));
    }
    if let Some(resource) = from.get("resourceFieldRef") {
        return format!(" ({})", text(resource, "/resource"));
    }
    // The words differ in kubectl, too.
    for (of, field) in [("of config map", "configMapKeyRef"), ("in secret", "secretKeyRef")] {
        if let Some(key) = from.get(field) {
            let (name, entry) = (text(key, "/name"), text(key, "/key"));
            return format!("<set to the key '{entry}' {of} '{name}'>\tOptional: {}", optional(key));
        }
    }
    text(variable, "/value").replace('\n', "\\n")
}

fn mounts(sheet: &mut Sheet, container: &Value) {
    let mounts = list(container, "/volumeMounts");
    if mounts.is_empty() {
        return sheet.field(2, "Mounts", NONE);
    }
    sheet.line(2, "Mounts:");
    let mut lines: Vec<String> = mounts
        .iter()
        .map(|mount| {
            let access = if mount["readOnly"] == true { "ro" } else { "rw" };
            let path = match text(mount, "/subPath") {
                "" => String::new(),
                path => format!(",path=\"{path}\""),
            };
            format!("{} from {} ({access}{path})", text(mount, "/mountPath"), text(mount, "/name"))
        })
        .collect();
    lines.sort();
    lines.iter().for_each(|line| sheet.line(3, line));
}
