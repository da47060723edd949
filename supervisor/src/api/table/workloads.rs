//! The cells of pod templates and of resources that the node lists but does not run.

use jiff::Timestamp;
use serde_json::Value;

use super::columns::Column;
use super::shared::{NONE, age, created, labels, list, name, text};

pub(super) fn template(object: &Value) -> Vec<Value> {
    let pod = &object["template"];
    vec![
        name(object),
        joined(pod, "/name").into(),
        joined(pod, "/image").into(),
        labels(pod, "/metadata/labels").into(),
    ]
}

fn joined(pod: &Value, pointer: &str) -> String {
    let texts: Vec<&str> = list(pod, "/spec/containers").iter().map(|container| text(container, pointer)).collect();
    texts.join(",")
}

/// Cells by the names of the columns; what is not known is `<none>`.
pub(super) fn other(columns: &[Column], object: &Value, now: Timestamp) -> Vec<Value> {
    if columns.iter().any(|column| column.name == "Created At") {
        return created(object);
    }
    let cell = |column: &Column| match column.name {
        "Name" => name(object),
        "Age" => age(object, now),
        _ => NONE.into(),
    };
    columns.iter().map(cell).collect()
}
