//! Priority classes: those of the system stay, and one at most counts for pods that name none.

use k8s_openapi::api::scheduling::v1::PriorityClass;
use serde_json::Value;

use super::super::call::Call;
use super::super::registry::Resource;
use super::super::status::Status;
use super::{forbidden, typed};
use crate::admission::defaults;

/// Refuses a second class for pods that name none.
pub(super) fn only_default(call: &Call, value: &Value) -> Result<(), Status> {
    let class: PriorityClass = typed(value)?;
    if class.global_default != Some(true) {
        return Ok(());
    }
    let name = class.metadata.name.unwrap_or_default();
    let (objects, _) = call.state.store.list(&call.target.resource.storage(), None);
    let mut others = objects.iter().filter(|object| *object.key.name != *name);
    let is_default =
        |object: &&crate::store::Object| object.read::<PriorityClass>().is_ok_and(|c| c.global_default == Some(true));
    let Some(other) = others.find(is_default) else { return Ok(()) };
    let why = format!("PriorityClass {} is already marked as default. Only one default can exist", other.key.name);
    Err(forbidden(call, &name, why))
}

pub(super) fn may_delete(resource: &Resource, name: &str) -> Result<(), Status> {
    if resource.plural == "priorityclasses" && defaults::BUILT_IN.iter().any(|(known, _)| *known == name) {
        return Err(Status::forbidden(resource, name, "this is a system priority class and cannot be deleted"));
    }
    Ok(())
}
