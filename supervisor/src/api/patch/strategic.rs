//! Strategic merge patches: a merge patch that knows which lists have keys.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::error::PatchError;
use super::order::{self, Identity};
use super::schema::{Field, Place};

const DIRECTIVE: &str = "$patch";
const DELETE_PREFIX: &str = "$deleteFromPrimitiveList/";
const ORDER_PREFIX: &str = "$setElementOrder/";
const RETAIN: &str = "$retainKeys";

type Object = Map<String, Value>;

/// Applies a strategic merge patch to an object of a resource (a key of the store).
///
/// # Errors
/// The patch is no object, a directive is unknown or malformed, or an element has no merge key.
pub fn strategic(resource: &str, live: &Value, patch: &Value) -> Result<Value, PatchError> {
    let Value::Object(patch) = patch else {
        return Err(bad("error decoding patch: a strategic merge patch is an object"));
    };
    let live = live.as_object().cloned().unwrap_or_default();
    merge_object(live, patch.clone(), Place::of_resource(resource)).map(Value::Object)
}

fn bad(text: impl Into<String>) -> PatchError {
    PatchError::Bad(text.into())
}

fn unknown_directive(directive: &Value) -> PatchError {
    PatchError::Unprocessable { cause: format!("unknown patch type found: {directive}") }
}

fn merge_object(mut live: Object, mut patch: Object, place: Place) -> Result<Object, PatchError> {
    match patch.remove(DIRECTIVE) {
        None => {}
        Some(Value::String(directive)) if directive == "merge" => {}
        Some(Value::String(directive)) if directive == "replace" => return strip(patch),
        Some(Value::String(directive)) if directive == "delete" => return Ok(Object::new()),
        Some(directive) => return Err(unknown_directive(&directive)),
    }
    retain(&mut live, &mut patch)?;
    merge_ordered(&mut live, &mut patch, place)?;
    for (name, value) in patch {
        if let Some(name) = name.strip_prefix(DELETE_PREFIX) {
            delete_scalars(&mut live, name, value)?;
            continue;
        }
        merge_field(&mut live, name, value, place)?;
    }
    Ok(live)
}

fn merge_field(live: &mut Object, name: String, value: Value, place: Place) -> Result<(), PatchError> {
    let field = place.field(&name);
    let merged = match (live.remove(&name), value) {
        (_, Value::Null) => return Ok(()),
        (Some(Value::Object(old)), Value::Object(new)) => Value::Object(merge_object(old, new, Place::within(field))?),
        (Some(Value::Array(old)), Value::Array(new)) if merges(field) => merge_list(old, new, field)?,
        (_, new) => stripped(new)?,
    };
    live.insert(name, merged);
    Ok(())
}

fn merges(field: &Field) -> bool {
    field.merge_key.is_some() || field.merges_scalars
}

/// `$retainKeys`: fields that it does not name go.
fn retain(live: &mut Object, patch: &mut Object) -> Result<(), PatchError> {
    let Some(keys) = patch.remove(RETAIN) else { return Ok(()) };
    let Some(keys) = keys.as_array() else { return Err(bad("invalid patch format of retainKeys")) };
    let is_kept = |name: &str| keys.iter().any(|key| key.as_str() == Some(name));
    let is_field = |name: &str| !name.starts_with('$');
    if patch.iter().any(|(name, value)| is_field(name) && !value.is_null() && !is_kept(name)) {
        return Err(bad("invalid patch format of retainKeys"));
    }
    live.retain(|name, _| is_kept(name));
    Ok(())
}

/// `$setElementOrder/x`: the list, merged with its patch if there is one, takes this order.
fn merge_ordered(live: &mut Object, patch: &mut Object, place: Place) -> Result<(), PatchError> {
    let names: Vec<String> = patch.keys().filter_map(|key| key.strip_prefix(ORDER_PREFIX)).map(str::to_owned).collect();
    for name in names {
        let wanted = match patch.remove(&format!("{ORDER_PREFIX}{name}")) {
            Some(Value::Array(wanted)) => wanted,
            _ => return Err(bad("invalid patch format of setElementOrder list")),
        };
        let field = place.field(&name);
        let identity = Identity::of(field);
        let deleted = patch.remove(&format!("{DELETE_PREFIX}{name}"));
        let (old, new) = (take_list(live, &name)?, take_list(patch, &name)?);
        if let Some(new) = &new {
            check_order(new, &wanted, identity)?;
        }
        let merged = match (&old, new) {
            (None, None) => continue,
            (None, Some(new)) => strip_list(new)?,
            (Some(old), None) => old.clone(),
            (Some(old), Some(new)) => merge_elements(old.clone(), new, field)?,
        };
        let server_order = old.unwrap_or_default();
        let mut kept = Object::from_iter([(name.clone(), Value::Array(merged))]);
        if let Some(deleted) = deleted {
            delete_scalars(&mut kept, &name, deleted)?;
        }
        let merged = take_list(&mut kept, &name)?.unwrap_or_default();
        live.insert(name, Value::Array(order::arrange(merged, &wanted, &server_order, identity)));
    }
    Ok(())
}

/// A list that is not there, null, or a list.
fn take_list(object: &mut Object, name: &str) -> Result<Option<Vec<Value>>, PatchError> {
    match object.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(items)) => Ok(Some(items)),
        Some(_) => Err(bad(format!("cannot convert {name} to a list"))),
    }
}

/// What the patch changes must stand in the order that it wants.
fn check_order(patch: &[Value], wanted: &[Value], identity: Identity) -> Result<(), PatchError> {
    let mut rest = wanted.iter();
    for item in patch.iter().filter(|item| item.get(DIRECTIVE).is_none()) {
        if !rest.any(|other| identity.is_same(item, other)) {
            let show = |items: &[Value]| Value::Array(items.to_vec()).to_string();
            let (patch, wanted) = (show(patch), show(wanted));
            let text = format!("The order in patch list:\n{patch}\n doesn't match $setElementOrder list:\n{wanted}\n");
            return Err(bad(text));
        }
    }
    Ok(())
}

fn merge_list(live: Vec<Value>, patch: Vec<Value>, field: &Field) -> Result<Value, PatchError> {
    let identity = Identity::of(field);
    let wanted: Vec<Value> = patch.iter().filter(|item| item.get(DIRECTIVE).is_none()).cloned().collect();
    let is_replaced = patch.iter().any(|item| item.get(DIRECTIVE).is_some_and(|kind| kind == "replace"));
    let merged = merge_elements(live.clone(), patch, field)?;
    if is_replaced {
        return Ok(Value::Array(merged));
    }
    Ok(Value::Array(order::arrange(merged, &wanted, &live, identity)))
}

fn merge_elements(live: Vec<Value>, patch: Vec<Value>, field: &Field) -> Result<Vec<Value>, PatchError> {
    match field.merge_key {
        Some(key) => merge_keyed(live, patch, field, key),
        None => Ok(merge_scalars(live, patch)),
    }
}

fn merge_scalars(mut live: Vec<Value>, patch: Vec<Value>) -> Vec<Value> {
    let mut known: BTreeSet<String> = live.iter().map(Value::to_string).collect();
    live.extend(patch.into_iter().filter(|item| known.insert(item.to_string())));
    live
}

fn merge_keyed(
    mut live: Vec<Value>,
    patch: Vec<Value>,
    field: &Field,
    key: &'static str,
) -> Result<Vec<Value>, PatchError> {
    let (mut plain, mut gone, mut is_replaced) = (Vec::new(), BTreeSet::new(), false);
    for item in patch {
        let Value::Object(item) = item else { return Err(bad("invalid patch format: a list of objects is expected")) };
        match item.get(DIRECTIVE) {
            None => plain.push(item),
            Some(directive) if directive == "delete" => {
                gone.insert(key_of(&item, key)?);
            }
            Some(directive) if directive == "replace" => {
                is_replaced = true;
                if item.len() > 1 {
                    let rest = item.into_iter().filter(|(name, _)| name != DIRECTIVE).collect();
                    plain.push(rest);
                }
            }
            Some(directive) if directive == "merge" => {
                return Err(bad("merging lists cannot yet be specified in the patch"));
            }
            Some(directive) => return Err(unknown_directive(directive)),
        }
    }
    if is_replaced {
        return plain.into_iter().map(|item| strip(item).map(Value::Object)).collect();
    }
    live.retain(|old| old.get(key).is_none_or(|own| !gone.contains(&own.to_string())));
    let mut index = Identity::Key(key).index(&live);
    for item in plain {
        let wanted = key_of(&item, key)?;
        match index.get(&wanted).and_then(|place| live.get_mut(*place)) {
            Some(old) => {
                let was = old.as_object_mut().map(std::mem::take).unwrap_or_default();
                *old = Value::Object(merge_object(was, item, Place::within(field))?);
            }
            None => {
                index.insert(wanted, live.len());
                live.push(Value::Object(strip(item)?));
            }
        }
    }
    Ok(live)
}

/// The text of an element's key.
fn key_of(item: &Object, key: &str) -> Result<String, PatchError> {
    let found = item.get(key).map(Value::to_string);
    found.ok_or_else(|| {
        let item = Value::Object(item.clone());
        bad(format!("map: {item} does not contain declared merge key: {key}"))
    })
}

/// `$deleteFromPrimitiveList/x`
fn delete_scalars(live: &mut Object, name: &str, gone: Value) -> Result<(), PatchError> {
    let Value::Array(gone) = gone else { return Err(bad("invalid patch format of primitive list")) };
    if let Some(items) = live.get_mut(name).and_then(Value::as_array_mut) {
        let gone: BTreeSet<String> = gone.iter().map(Value::to_string).collect();
        items.retain(|item| !gone.contains(&item.to_string()));
    }
    Ok(())
}

/// A new value, without what only speaks to the merge: directives, and nulls that would remove.
fn strip(object: Object) -> Result<Object, PatchError> {
    let mut out = Object::new();
    for (name, value) in object {
        match name.as_str() {
            DIRECTIVE if !matches!(value.as_str(), Some("merge" | "replace" | "delete")) => {
                return Err(unknown_directive(&value));
            }
            name if name == DIRECTIVE || name == RETAIN => {}
            name if name.starts_with(ORDER_PREFIX) || name.starts_with(DELETE_PREFIX) => {}
            _ if value.is_null() => {}
            _ => drop(out.insert(name, stripped(value)?)),
        }
    }
    Ok(out)
}

fn stripped(value: Value) -> Result<Value, PatchError> {
    Ok(match value {
        Value::Object(object) if object.get(DIRECTIVE).is_some_and(|kind| kind == "delete") => {
            Value::Object(Object::new())
        }
        Value::Object(object) => Value::Object(strip(object)?),
        Value::Array(items) => Value::Array(strip_list(items)?),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value,
    })
}

/// Elements that would be deleted or only say `replace` are none.
fn strip_list(items: Vec<Value>) -> Result<Vec<Value>, PatchError> {
    let is_element = |item: &Value| match item.get(DIRECTIVE) {
        None => true,
        Some(kind) if kind == "delete" => false,
        Some(_) => item.as_object().is_some_and(|item| item.len() > 1),
    };
    items.into_iter().filter(is_element).map(stripped).collect()
}
