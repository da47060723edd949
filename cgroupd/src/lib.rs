//! Kubernetes requests and limits on cgroup v2.
//!
//! Pure modules decide: [`quantity`], [`resources`], [`qos`], [`oom`], [`convert`], [`parse`].
//! Nothing here knows Kubernetes API types, networks or HTTP.

pub mod convert;
pub mod oom;
pub mod parse;
pub mod qos;
pub mod quantity;
pub mod resources;

pub use convert::{Limit, MilliCpu};
pub use qos::QosClass;
pub use quantity::Quantity;
pub use resources::{
    ContainerKind, ContainerResources, PodResources, Requirements, Resource, ResourceList,
};
