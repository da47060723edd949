//! What an API server does to an object before it is stored: defaults, validation, Pod Security Standards. Pure.

pub mod defaults;
mod effective;
pub mod limits;
pub mod pss;
pub mod quota;
pub mod validate;

pub use effective::{effective_limit, effective_request};
