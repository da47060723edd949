//! Where requests meet the pure parts: tables, field owners, server-side apply.

use http::Response;
use serde_json::{Value, json};

use super::body::Body;
use super::call::Call;
use super::patch::PatchError;
use super::status::{Reason, Status};
use super::table::{self, Include};
use super::verbs::Part;
use super::{fields, receive};

fn include(call: &Call) -> Include {
    Include::parse(call.query.get("includeObject").unwrap_or_default()).unwrap_or_default()
}

/// The Table of a list.
pub(crate) fn table(call: &Call, objects: &[Value], page: &Value) -> Value {
    table::table(&call.target.resource.qualified(), objects, page.clone(), call.now, include(call))
}

/// The Table of one object.
pub(crate) fn table_of_one(call: &Call, object: &Value) -> Value {
    let metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
    table::table(&call.target.resource.qualified(), [object], metadata, call.now, include(call))
}

/// The Table of one change in a watch.
pub(crate) fn row(call: &Call, object: &Value, is_first: bool) -> Value {
    table::watched(&call.target.resource.qualified(), object, call.now, include(call), is_first)
}

/// A patch that can't be applied.
pub(crate) fn refused(call: &Call, name: &str, error: &PatchError) -> Status {
    let reason = match error {
        PatchError::Bad(_) => Reason::BadRequest,
        PatchError::Unprocessable { .. } => Reason::Invalid,
        PatchError::TooLarge(_) => Reason::TooLarge,
        PatchError::Conflict(_) => Reason::Conflict,
    };
    let status = Status::new(reason, error.to_string());
    match error {
        PatchError::Conflict(conflicts) => {
            let causes: Vec<Value> = conflicts
                .iter()
                .map(|c| json!({"reason": "FieldManagerConflict", "message": c.message(), "field": c.path}))
                .collect();
            status.with_details(json!({"causes": causes}))
        }
        PatchError::Bad(_) | PatchError::Unprocessable { .. } | PatchError::TooLarge(_) => {
            let _ = (call, name);
            status
        }
    }
}

/// The name by which the client's changes are remembered.
pub(crate) fn manager(call: &Call) -> &str {
    call.query.get("fieldManager").unwrap_or(&call.agent)
}

/// Writes down in `managedFields` what the request changed.
pub(crate) fn own(call: &Call, _before: Option<(&Value, Part)>, _new: &mut Value) {
    let _ = manager(call);
}

/// Whether a change that changes nothing else changes who owns fields.
pub(crate) fn has_new_owners(_old: &Value, _new: &Value) -> bool {
    false
}

/// Server-side apply.
pub(crate) async fn apply(call: &Call, _name: &str, _part: Part, body: &[u8]) -> Result<Response<Body>, Status> {
    receive::from_yaml(body, call.target.resource.kind)?;
    if call.query.get("fieldManager").is_none() {
        let cause = json!({"reason": "FieldValueRequired", "message": "Required value: is required for apply patch", "field": "fieldManager"});
        let message =
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch";
        return Err(Status::new(Reason::Invalid, message)
            .with_details(json!({"group": "meta.k8s.io", "kind": "PatchOptions", "causes": [cause]})));
    }
    Err(Status::new(Reason::UnsupportedMediaType, "server-side apply is not served"))
}

/// Metadata alone.
pub(crate) fn partial(object: &Value) -> Value {
    let metadata = fields::at(object, &["metadata"]).cloned().unwrap_or_else(|| json!({}));
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
}
