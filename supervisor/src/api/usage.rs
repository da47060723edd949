//! `metrics.k8s.io`: what `kubectl top` reads.

use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::body::Body;
use super::call::Call;
use super::fields;
use super::respond::Content;
use super::select::Labels;
use super::status::{Reason, Status};
use super::streams::{PodUsage, Usage};
use crate::store::Key;

/// Seconds over which usage is averaged, as it is told to clients.
const WINDOW: &str = "15s";

pub(crate) async fn answer(call: &Call) -> Result<Response<Body>, Status> {
    let unavailable =
        || Status::new(Reason::ServiceUnavailable, "the server is currently unable to handle the request");
    let metrics = call.state.backends.metrics.clone().ok_or_else(unavailable)?;
    let resource = call.target.resource;
    let mut items = match resource.plural {
        "nodes" => metrics.node().await.map(|usage| node(call, usage)).into_iter().collect(),
        _ => pods(call, &metrics.pods().await),
    };
    let Some(name) = &call.target.name else {
        let labels = Labels::parse(call.query.get("labelSelector").unwrap_or_default());
        let labels = labels.map_err(|error| Status::bad_request(error.to_string()))?;
        items.retain(|item| labels.matches(item));
        let list =
            json!({"kind": resource.list_kind(), "apiVersion": resource.api_version(), "metadata": {}, "items": items});
        return Ok(call.reply(StatusCode::OK, Content::Value(list)));
    };
    let found = items.into_iter().find(|item| fields::text(item, &["metadata", "name"]) == name);
    let item = found.ok_or_else(|| Status::not_found(resource, name))?;
    Ok(call.reply(StatusCode::OK, Content::Value(item)))
}

fn quantities(usage: Usage) -> Value {
    json!({"cpu": format!("{}n", usage.cpu_nanos), "memory": format!("{}Ki", usage.memory_bytes / 1024)})
}

fn node(call: &Call, usage: Usage) -> Value {
    let name = &call.state.config.node_name;
    let mut item = head(call, &Key::new("nodes", "", name));
    item["usage"] = quantities(usage);
    item
}

fn pods(call: &Call, usages: &[PodUsage]) -> Vec<Value> {
    let is_wanted = |usage: &&PodUsage| call.target.namespace.as_ref().is_none_or(|own| *own == usage.namespace);
    usages.iter().filter(is_wanted).map(|usage| pod(call, usage)).collect()
}

fn pod(call: &Call, usage: &PodUsage) -> Value {
    let container = |(name, usage): &(String, Usage)| json!({"name": name, "usage": quantities(*usage)});
    let containers: Vec<Value> = usage.containers.iter().map(container).collect();
    let mut item = head(call, &Key::new("pods", &usage.namespace, &usage.name));
    item["containers"] = containers.into();
    item
}

/// Kind, name, labels and time of what is measured.
fn head(call: &Call, key: &Key) -> Value {
    let resource = call.target.resource;
    let object = call.state.store.get(key).map(|object| object.value()).unwrap_or_default();
    let mut item = json!({
        "kind": resource.kind, "apiVersion": resource.api_version(),
        "metadata": {"name": &*key.name, "creationTimestamp": fields::time(call.now)},
        "timestamp": fields::time(call.now), "window": WINDOW,
    });
    if !key.namespace.is_empty() {
        item["metadata"]["namespace"] = (*key.namespace).into();
    }
    if let Some(labels) = fields::at(&object, &["metadata", "labels"]) {
        item["metadata"]["labels"] = labels.clone();
    }
    item
}
