//! The cells of a pod, from the stored object (section 1.6). `pod::columns` is its twin for a status in memory.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::shared::{NONE, age, ago, list, moment, name, number, text, text_or};

pub(super) fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let walk = Walk::new(pod);
    let sidecars = list(pod, "/spec/initContainers").iter().filter(|container| is_sidecar(container)).count();
    let total = list(pod, "/spec/containers").len() + sidecars;
    let restarts = match walk.last_restart {
        Some(at) if walk.restarts > 0 => format!("{} ({} ago)", walk.restarts, ago(Some(at), now)),
        Some(_) | None => walk.restarts.to_string(),
    };
    vec![
        name(pod),
        format!("{}/{total}", walk.ready).into(),
        shown_status(pod, walk.text).into(),
        restarts.into(),
        age(pod, now),
        address(pod).into(),
        text_or(pod, "/spec/nodeName", NONE).into(),
        text_or(pod, "/status/nominatedNodeName", NONE).into(),
        gates(pod).into(),
    ]
}

fn address(pod: &Value) -> &str {
    text_or(pod, "/status/podIPs/0/ip", text_or(pod, "/status/podIP", NONE))
}

fn gates(pod: &Value) -> String {
    let gates = list(pod, "/spec/readinessGates");
    if gates.is_empty() {
        return NONE.to_owned();
    }
    let open = gates.iter().filter(|gate| is_true(pod, text(gate, "/conditionType"))).count();
    format!("{open}/{}", gates.len())
}

/// KC5: what `kubectl get` and `kubectl wait` read off a row.
pub(super) fn conditions(resource: &str, object: &Value) -> Option<Value> {
    let (reason, message) = match (resource, text(object, "/status/phase")) {
        ("pods", "Succeeded") => ("Succeeded", "The pod has completed successfully."),
        ("pods", "Failed") => ("Failed", "The pod failed."),
        _ => return None,
    };
    Some(json!([{"type": "Completed", "status": "True", "reason": reason, "message": message}]))
}

/// Step 4: deletion.
fn shown_status(pod: &Value, shown: String) -> String {
    let is_over = matches!(text(pod, "/status/phase"), "Succeeded" | "Failed");
    match pod.pointer("/metadata/deletionTimestamp") {
        None | Some(Value::Null) => shown,
        Some(_) if text(pod, "/status/reason") == "NodeLost" => "Unknown".to_owned(),
        Some(_) if is_over => shown,
        Some(_) => "Terminating".to_owned(),
    }
}

fn is_sidecar(container: &Value) -> bool {
    text(container, "/restartPolicy") == "Always"
}

fn condition<'v>(pod: &'v Value, kind: &str) -> Option<&'v Value> {
    list(pod, "/status/conditions").iter().find(|condition| text(condition, "/type") == kind)
}

fn is_true(pod: &Value, kind: &str) -> bool {
    condition(pod, kind).is_some_and(|condition| text(condition, "/status") == "True")
}

struct Walk {
    text: String,
    ready: usize,
    restarts: i64,
    last_restart: Option<Timestamp>,
    sidecar_restarts: i64,
    last_sidecar_restart: Option<Timestamp>,
}

impl Walk {
    fn new(pod: &Value) -> Self {
        let shown = text_or(pod, "/status/reason", text(pod, "/status/phase")).to_owned();
        let mut walk = Self {
            text: shown,
            ready: 0,
            restarts: 0,
            last_restart: None,
            sidecar_restarts: 0,
            last_sidecar_restart: None,
        };
        let scheduled = condition(pod, "PodScheduled");
        if scheduled.is_some_and(|condition| text(condition, "/reason") == "SchedulingGated") {
            walk.text = "SchedulingGated".to_owned();
        }
        let initializing = walk.init(pod);
        if !initializing || is_true(pod, "Initialized") {
            walk.apps(pod);
        }
        walk
    }

    /// Step 2; true while the init sequence is not through.
    fn init(&mut self, pod: &Value) -> bool {
        let specs = list(pod, "/spec/initContainers");
        for (index, status) in list(pod, "/status/initContainerStatuses").iter().enumerate() {
            let spec = specs.iter().find(|spec| spec["name"] == status["name"]);
            let is_sidecar = spec.is_some_and(is_sidecar);
            self.count(status, is_sidecar);
            let state = &status["state"];
            if state["terminated"].is_object() && number(state, "/terminated/exitCode") == 0 {
                continue;
            }
            if is_sidecar && status["started"] == true {
                self.ready += usize::from(status["ready"] == true);
                continue;
            }
            self.text = match (terminated(state), text(state, "/waiting/reason")) {
                (Some(ended), _) => format!("Init:{ended}"),
                (None, "" | "PodInitializing") => format!("Init:{index}/{}", specs.len()),
                (None, reason) => format!("Init:{reason}"),
            };
            return true;
        }
        false
    }

    fn count(&mut self, status: &Value, is_sidecar: bool) {
        let (restarts, at) = (number(status, "/restartCount"), restarted(status));
        self.restarts += restarts;
        self.last_restart = self.last_restart.max(at);
        if is_sidecar {
            self.sidecar_restarts += restarts;
            self.last_sidecar_restart = self.last_sidecar_restart.max(at);
        }
    }

    /// Step 3, from last to first.
    fn apps(&mut self, pod: &Value) {
        (self.restarts, self.last_restart) = (self.sidecar_restarts, self.last_sidecar_restart);
        let mut is_running = false;
        for status in list(pod, "/status/containerStatuses").iter().rev() {
            self.count(status, false);
            let state = &status["state"];
            match (text(state, "/waiting/reason"), terminated(state)) {
                ("", Some(ended)) => self.text = ended,
                ("", None) if status["ready"] == true && state["running"].is_object() => {
                    is_running = true;
                    self.ready += 1;
                }
                ("", None) => {}
                (reason, _) => self.text = reason.to_owned(),
            }
        }
        if self.text == "Completed" && is_running {
            self.text = if is_true(pod, "Ready") { "Running" } else { "NotReady" }.to_owned();
        }
    }
}

fn restarted(status: &Value) -> Option<Timestamp> {
    moment(status, "/lastState/terminated/finishedAt")
}

/// How a terminated container is named.
fn terminated(state: &Value) -> Option<String> {
    let ended = state.get("terminated").filter(|ended| ended.is_object())?;
    Some(match (text(ended, "/reason"), number(ended, "/signal")) {
        ("", 0) => format!("ExitCode:{}", number(ended, "/exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    })
}
