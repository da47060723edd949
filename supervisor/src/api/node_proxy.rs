//! `nodes/NAME/proxy`: what a kubelet tells of its node, as far as it is known here.

use std::fmt::Write as _;

use http::{Method, Response, StatusCode};
use serde_json::{Value, json};

use super::body::Body;
use super::call::Call;
use super::fields;
use super::proxy;
use super::respond::{self, Accept, Content};
use super::status::{Reason, Status};
use super::streams::{PodUsage, Usage};
use crate::store::Key;

const MICROS: u64 = 1_000_000;

/// Answers for the node; `name` as in the URL, with scheme and port.
pub(super) async fn answer(call: &Call, method: &Method, name: &str) -> Result<Response<Body>, Status> {
    let (_, name, _) = proxy::split(name);
    let node = call.state.store.get(&Key::new("nodes", "", name));
    let node = node.ok_or_else(|| Status::not_found(call.target.resource, name))?.value();
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Err(Status::method_not_allowed());
    }
    let json = |value| Ok(respond::write(&Accept::plain(), StatusCode::OK, Content::Value(value)));
    match call.target.rest.trim_matches('/') {
        "healthz" => Ok(respond::plain(StatusCode::OK, "ok".to_owned())),
        "pods" => json(list(pods(call, name))),
        "runningpods" => {
            let is_running = |pod: &Value| fields::text(pod, &["status", "phase"]) == "Running";
            json(list(pods(call, name).into_iter().filter(is_running).collect()))
        }
        "configz" => json(config(&node)),
        "stats/summary" => {
            let (used, all) = usage(call).await?;
            json(summary(call, &node, used, &all))
        }
        "metrics/resource" => {
            let (used, all) = usage(call).await?;
            Ok(respond::plain(StatusCode::OK, resource_metrics(used, &all, call.now)))
        }
        _ => Err(Status::no_such_path()),
    }
}

/// The pods of a node.
fn pods(call: &Call, node: &str) -> Vec<Value> {
    let (objects, _) = call.state.store.list("pods", None);
    let own = |pod: &Value| fields::text(pod, &["spec", "nodeName"]) == node;
    objects.iter().map(crate::store::Object::value).filter(own).collect()
}

fn list(items: Vec<Value>) -> Value {
    json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})
}

fn config(node: &Value) -> Value {
    let pods = fields::text(node, &["status", "capacity", "pods"]).parse().unwrap_or(0_u32);
    json!({"kubeletconfig": {
        "kind": "KubeletConfiguration", "apiVersion": "kubelet.config.k8s.io/v1beta1", "maxPods": pods,
        "clusterDomain": "cluster.local", "cgroupDriver": "cgroupfs",
    }})
}

/// What the node and its pods use, as `kubectl top` shows it.
async fn usage(call: &Call) -> Result<(Usage, Vec<PodUsage>), Status> {
    let unavailable =
        || Status::new(Reason::ServiceUnavailable, "the server is currently unable to handle the request");
    let metrics = call.state.backends.metrics.clone().ok_or_else(unavailable)?;
    let (node, pods) = (metrics.node().await, metrics.pods().await);
    Ok((node.ok_or_else(unavailable)?, pods))
}

fn total(containers: &[(String, Usage)]) -> Usage {
    containers.iter().fold(Usage::default(), |sum, (_, own)| Usage {
        cpu_nanos: sum.cpu_nanos.saturating_add(own.cpu_nanos),
        cpu_usec: sum.cpu_usec.saturating_add(own.cpu_usec),
        memory_bytes: sum.memory_bytes.saturating_add(own.memory_bytes),
    })
}

/// `cpu` and `memory` of a part of the summary.
fn measured(mut entry: Value, usage: Usage, time: &Value) -> Value {
    entry["cpu"] = json!({
        "time": time, "usageNanoCores": usage.cpu_nanos, "usageCoreNanoSeconds": usage.cpu_usec.saturating_mul(1000),
    });
    entry["memory"] = json!({"time": time, "workingSetBytes": usage.memory_bytes});
    entry
}

fn summary(call: &Call, node: &Value, used: Usage, all: &[PodUsage]) -> Value {
    let time = fields::time(call.now);
    let pod = |own: &PodUsage| {
        let object = call.state.store.get(&Key::new("pods", &own.namespace, &own.name)).map(|object| object.value());
        summary_of_pod(&object.unwrap_or_default(), own, &time)
    };
    let name = fields::text(node, &["metadata", "name"]);
    let start = fields::text(node, &["metadata", "creationTimestamp"]);
    let head = json!({"nodeName": name, "startTime": start});
    json!({"node": measured(head, used, &time), "pods": all.iter().map(pod).collect::<Vec<_>>()})
}

fn summary_of_pod(pod: &Value, usage: &PodUsage, time: &Value) -> Value {
    let statuses = fields::at(pod, &["status", "containerStatuses"]).and_then(Value::as_array);
    let started = |name: &str| {
        let status = statuses.into_iter().flatten().find(|status| status["name"] == name);
        status.map(|status| fields::text(status, &["state", "running", "startedAt"])).unwrap_or_default()
    };
    let container =
        |(name, used): &(String, Usage)| measured(json!({"name": name, "startTime": started(name)}), *used, time);
    let containers: Vec<Value> = usage.containers.iter().map(container).collect();
    let uid = fields::text(pod, &["metadata", "uid"]);
    let head = json!({
        "podRef": {"name": usage.name, "namespace": usage.namespace, "uid": uid},
        "startTime": fields::text(pod, &["status", "startTime"]), "containers": containers,
    });
    measured(head, total(&usage.containers), time)
}

/// In the text format of Prometheus, with the time of each number.
fn resource_metrics(node: Usage, pods: &[PodUsage], now: jiff::Timestamp) -> String {
    let mut containers = Vec::new();
    let mut sums = Vec::new();
    for pod in pods {
        let labels = format!("namespace={:?},pod={:?}", pod.namespace, pod.name);
        containers.extend(pod.containers.iter().map(|(name, own)| (format!("{{container={name:?},{labels}}}"), *own)));
        sums.push((format!("{{{labels}}}"), total(&pod.containers)));
    }
    let mut text = String::new();
    let mut write = |name: &str, kind: &str, all: &[(String, Usage)], number: fn(&Usage) -> String| {
        text.push_str(&format!("# TYPE {name} {kind}\n"));
        for (labels, usage) in all {
            // Writing to a string can't fail.
            let _written = writeln!(text, "{name}{labels} {} {}", number(usage), now.as_millisecond());
        }
    };
    let seconds = |own: &Usage| format!("{}.{:06}", own.cpu_usec / MICROS, own.cpu_usec % MICROS);
    let bytes = |own: &Usage| own.memory_bytes.to_string();
    for (prefix, all) in [("container", containers), ("node", vec![(String::new(), node)]), ("pod", sums)] {
        write(&format!("{prefix}_cpu_usage_seconds_total"), "counter", &all, seconds);
        write(&format!("{prefix}_memory_working_set_bytes"), "gauge", &all, bytes);
    }
    text.push_str("# TYPE resource_scrape_error gauge\nresource_scrape_error 0\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used() -> PodUsage {
        let usage = |cpu_usec| Usage { cpu_nanos: 5, cpu_usec, memory_bytes: 100 };
        let containers = vec![("a".to_owned(), usage(1_500_000)), ("b".to_owned(), usage(2))];
        PodUsage { namespace: "d".to_owned(), name: "p".to_owned(), containers }
    }

    #[test]
    fn numbers_are_of_containers_pods_and_the_node() {
        let now = jiff::Timestamp::from_second(7).unwrap();
        let text = resource_metrics(Usage { cpu_nanos: 0, cpu_usec: 1, memory_bytes: 9 }, &[used()], now);
        for line in [
            "container_cpu_usage_seconds_total{container=\"a\",namespace=\"d\",pod=\"p\"} 1.500000 7000",
            "container_memory_working_set_bytes{container=\"b\",namespace=\"d\",pod=\"p\"} 100 7000",
            "node_cpu_usage_seconds_total 0.000001 7000",
            "pod_cpu_usage_seconds_total{namespace=\"d\",pod=\"p\"} 1.500002 7000",
            "pod_memory_working_set_bytes{namespace=\"d\",pod=\"p\"} 200 7000",
        ] {
            assert!(text.lines().any(|known| known == line), "{line} in {text}");
        }
    }

    #[test]
    fn a_summary_names_each_pod_with_its_containers() {
        let running = json!({"running": {"startedAt": "2026-01-01T00:00:01Z"}});
        let pod = json!({"metadata": {"uid": "u"}, "status": {"startTime": "2026-01-01T00:00:00Z",
            "containerStatuses": [{"name": "a", "state": running}]}});
        let summary = summary_of_pod(&pod, &used(), &"now".into());
        assert_eq!(summary["podRef"], json!({"name": "p", "namespace": "d", "uid": "u"}));
        assert_eq!(summary["memory"]["workingSetBytes"], 200);
        assert_eq!(summary["containers"][0]["startTime"], "2026-01-01T00:00:01Z");
        assert_eq!(summary["containers"][0]["cpu"]["usageNanoCores"], 5);
    }
}
