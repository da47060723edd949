//! How objects change: the four kinds of patches, and who owns which field.
//!
//! Everything is a function of JSON values and the time. The caller decodes requests, validates results and writes.

mod apply;
mod error;
mod fields;
mod json;
mod managed;
mod order;
pub mod schema;
mod strategic;
mod typed;

pub use apply::{apply, managed_update};
pub use error::{Conflict, PatchError};
pub use json::{DEPTH_MAX, OPERATIONS_MAX, RESULT_MAX, json_patch, merge_patch};
pub use managed::{ANCIENT, BEFORE_FIRST_APPLY, Manager, UPDATE_MANAGERS_MAX};
pub use strategic::strategic;

#[cfg(test)]
mod tests;
