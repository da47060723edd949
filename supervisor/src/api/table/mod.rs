//! Server-side printing: the `meta.k8s.io/v1` Table that `kubectl get` asks for, with the columns of the API server.

mod columns;
mod nodes;
mod pods;
mod services;
mod shared;
mod storage;
mod workloads;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use columns::Column;

/// What a row carries beside its cells (`includeObject`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Include {
    None,
    /// The metadata, as a PartialObjectMetadata.
    #[default]
    Metadata,
    Object,
}

impl Include {
    /// Reads the query parameter; empty is the default.
    ///
    /// # Errors
    /// Another word; the text is that of the API server.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "" | "Metadata" => Ok(Self::Metadata),
            "None" => Ok(Self::None),
            "Object" => Ok(Self::Object),
            other => Err(format!("unrecognized includeObject value: {other:?}")),
        }
    }
}

/// The Table of some objects of a resource (a key of the store). `metadata` is that of the list, or of the one object
/// (`resourceVersion`, `continue`, `remainingItemCount`).
pub fn table<'v>(
    resource: &str,
    objects: impl IntoIterator<Item = &'v Value>,
    metadata: Value,
    now: Timestamp,
    include: Include,
) -> Value {
    let columns = columns::of(resource);
    let rows = objects.into_iter().map(|object| row(resource, columns, object, now, include)).collect();
    wrap(metadata, columns.iter().map(Column::definition).collect(), rows)
}

/// The Table of one object in a watch: only the first event of a stream defines the columns.
pub fn watched(resource: &str, object: &Value, now: Timestamp, include: Include, is_first: bool) -> Value {
    let columns = columns::of(resource);
    let definitions = if is_first { columns.iter().map(Column::definition).collect() } else { Value::Null };
    let metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
    wrap(metadata, definitions, Value::Array(vec![row(resource, columns, object, now, include)]))
}

fn wrap(metadata: Value, columns: Value, rows: Value) -> Value {
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": columns, "rows": rows,
    })
}

fn row(resource: &str, columns: &[Column], object: &Value, now: Timestamp, include: Include) -> Value {
    let mut row = Map::new();
    row.insert("cells".to_owned(), Value::Array(cells(resource, columns, object, now)));
    if let Some(conditions) = pods::conditions(resource, object) {
        row.insert("conditions".to_owned(), conditions);
    }
    let carried = match include {
        Include::None => None,
        Include::Object => Some(object.clone()),
        Include::Metadata => Some(partial(object)),
    };
    row.extend(carried.map(|object| ("object".to_owned(), object)));
    Value::Object(row)
}

/// An object's metadata alone.
pub fn partial(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

fn cells(resource: &str, columns: &[Column], object: &Value, now: Timestamp) -> Vec<Value> {
    match resource {
        "pods" => pods::cells(object, now),
        "events" | "events.events.k8s.io" => shared::event(object, now),
        "namespaces" => shared::namespace(object, now),
        "configmaps" => shared::config_map(object, now),
        "secrets" => shared::secret(object, now),
        "serviceaccounts" => shared::service_account(object, now),
        "leases.coordination.k8s.io" => shared::lease(object, now),
        "priorityclasses.scheduling.k8s.io" => shared::priority_class(object, now),
        "runtimeclasses.node.k8s.io" => shared::runtime_class(object, now),
        "resourcequotas" => shared::quota(object, now),
        "nodes" => nodes::cells(object, now),
        "services" => services::service(object, now),
        "endpoints" => services::endpoints(object, now),
        "endpointslices.discovery.k8s.io" => services::slice(object, now),
        "persistentvolumes" => storage::volume(object, now),
        "persistentvolumeclaims" => storage::claim(object, now),
        "storageclasses.storage.k8s.io" => storage::class(object, now),
        "podtemplates" => workloads::template(object),
        _ => workloads::other(columns, object, now),
    }
}

#[cfg(test)]
mod tests;
