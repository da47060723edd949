//! The Kubernetes API of the node.

pub mod select;
