//! The Kubernetes API of the node.

pub mod openapi;
pub mod patch;
pub mod select;
pub mod table;
