//! How objects change: the four kinds of patches, and who owns which field.
//!
//! Everything is a function of JSON values and the time. The caller decodes requests, validates results and writes.

mod error;
mod json;
mod order;
pub mod schema;
mod strategic;

pub use error::{Conflict, PatchError};
pub use json::{DEPTH_MAX, OPERATIONS_MAX, RESULT_MAX, json_patch, merge_patch};
pub use strategic::strategic;

#[cfg(test)]
mod tests;
