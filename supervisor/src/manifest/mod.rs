//! Manifests: YAML or JSON text, strictly, into Kubernetes objects.
//!
//! Text -> [`yaml`] (a `serde_json::Value`, what Kubernetes' own converter makes of it) -> [`typed`] (the k8s-openapi
//! type, through one `Deserializer` that tracks the path and notices what the type doesn't know) -> [`Object`]. Nothing
//! of a set of manifests is used unless all of it is right: a [`Refused`] lists every [`Fault`] with file, line, column and
//! path. [`reader`] is the only part that touches files.

pub mod fault;
pub mod object;
pub mod path;
pub mod reader;
mod scalar;
pub(crate) mod typed;
pub mod yaml;

pub use fault::{Fault, Refused};
pub use object::Object;
pub(crate) use object::WORKLOADS;
pub use reader::{Manifest, decode, read, text_of};
