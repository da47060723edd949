//! Kubernetes requests and limits on cgroup v2.
//!
//! Pure modules decide: [`quantity`], [`resources`], [`qos`], [`oom`], [`convert`], [`files`], [`plan`], [`parse`].
//! Thin ones act, by directory descriptor: [`host`], [`tree`], [`watch`]. Nothing here knows Kubernetes API types,
//! networks or HTTP.

pub mod convert;
pub mod files;
pub mod host;
pub mod oom;
pub mod parse;
pub mod plan;
pub mod qos;
pub mod quantity;
pub mod resources;
pub mod tree;
pub mod watch;

pub use convert::{Limit, MilliCpu};
pub use files::{Controller, Controllers, File, Origin, Policy, Setting, Value};
pub use plan::{CgroupPath, ContainerCgroup, PodCgroup, PodUid};
pub use qos::QosClass;
pub use quantity::Quantity;
pub use resources::{ContainerKind, ContainerResources, PodResources, Requirements, Resource, ResourceList};
pub use tree::{Created, Resized, Tree, Unenforced};
