//! JSON patches (RFC 6902) and merge patches (RFC 7396).

use json_patch::Patch;
use serde_json::Value;

use super::error::PatchError;

/// Operations in one JSON patch (`maxJSONPatchOperations` of the API server).
pub const OPERATIONS_MAX: usize = 10_000;
/// Bytes that an object may have after a patch: `copy` doubles its source with every operation, and 10,000 of them fit
/// into a small request.
pub const RESULT_MAX: usize = 3 * 1024 * 1024;

/// Elements that the insertions and removals of one JSON patch may move: 10,000 of them at the start of a long list are
/// seconds of work.
pub const MOVES_MAX: usize = 10_000_000;

/// Applies a JSON patch.
///
/// # Errors
/// The patch is malformed or too long, a path is missing, a `test` fails, or the object becomes too large.
pub fn json_patch(live: &Value, patch: &Value) -> Result<Value, PatchError> {
    let operations = patch.as_array().map_or(0, Vec::len);
    if operations > OPERATIONS_MAX {
        let text = format!("The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {operations}");
        return Err(PatchError::TooLarge(text));
    }
    let patch: Patch =
        serde_json::from_value(patch.clone()).map_err(|e| PatchError::Bad(format!("error decoding patch: {e}")))?;
    let (mut value, mut bytes, mut moves) = (live.clone(), size(live), 0);
    for operation in patch.0 {
        bytes += growth(&value, &operation);
        moves += moved(&value, &operation);
        if bytes > RESULT_MAX || moves > MOVES_MAX {
            return Err(too_large());
        }
        json_patch::patch_unsafe(&mut value, std::slice::from_ref(&operation))
            .map_err(|e| PatchError::Unprocessable { cause: e.to_string() })?;
    }
    Ok(value)
}

fn too_large() -> PatchError {
    PatchError::TooLarge(format!(
        "the patch makes more than {RESULT_MAX} bytes, or moves more than {MOVES_MAX} elements"
    ))
}

/// Elements that an operation may move: those of the list in which it inserts or removes.
fn moved(value: &Value, operation: &json_patch::PatchOperation) -> usize {
    use json_patch::PatchOperation::{Add, Copy, Move, Remove, Replace, Test};
    let beside = |path: &str| {
        let parent = path.rsplit_once('/').and_then(|(parent, _)| value.pointer(parent));
        parent.and_then(Value::as_array).map_or(0, Vec::len)
    };
    match operation {
        Add(add) => beside(add.path.as_str()),
        Remove(remove) => beside(remove.path.as_str()),
        Move(moved) => beside(moved.from.as_str()) + beside(moved.path.as_str()),
        Copy(copy) => beside(copy.path.as_str()),
        Replace(_) | Test(_) => 0,
    }
}

/// Bytes that an operation can add. What others remove is not taken off: the bound is on the work, too.
fn growth(value: &Value, operation: &json_patch::PatchOperation) -> usize {
    use json_patch::PatchOperation::{Add, Copy, Move, Remove, Replace, Test};
    match operation {
        Add(add) => size(&add.value),
        Replace(replace) => size(&replace.value),
        Copy(copy) => value.pointer(copy.from.as_str()).map_or(0, size),
        Remove(_) | Move(_) | Test(_) => 0,
    }
}

/// About the bytes of a value as JSON.
fn size(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(text) => text.len() + 2,
        Value::Array(items) => 2 + items.iter().map(|item| size(item) + 1).sum::<usize>(),
        Value::Object(fields) => 2 + fields.iter().map(|(key, item)| key.len() + size(item) + 4).sum::<usize>(),
    }
}

/// Applies a merge patch: null removes, objects merge, all else replaces.
///
/// # Errors
/// The patch is no object.
pub fn merge_patch(live: &Value, patch: &Value) -> Result<Value, PatchError> {
    if !patch.is_object() {
        return Err(PatchError::Bad("error decoding patch: a merge patch is an object".to_owned()));
    }
    let mut value = live.clone();
    json_patch::merge(&mut value, patch);
    Ok(value)
}
