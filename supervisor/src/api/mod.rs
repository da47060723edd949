//! The Kubernetes API of the node.
//!
//! A request goes from [`listen`] through [`call`] (who asks, what for, may he) to a verb in [`verbs`], which asks
//! [`strategy`] what is particular to the kind, and the store. What there is to ask for stands in one table,
//! [`registry`]. The pure parts know nothing of HTTP: [`select`], [`patch`], [`table`].

pub mod auth;
pub mod body;
mod call;
pub(crate) mod discovery;
mod event_view;
mod fields;
mod health;
pub(crate) mod json;
pub(crate) mod keep;
mod listen;
mod node_proxy;
pub mod openapi;
mod openapi_at;
pub mod patch;
pub(crate) mod path;
pub mod pki;
mod proxy;
pub(crate) mod query;
mod receive;
pub mod registry;
mod respond;
mod review;
pub mod select;
mod server;
mod shape;
pub mod status;
mod strategy;
pub mod streams;
mod subresource;
pub mod table;
mod usage;
mod verbs;
pub(crate) mod wire;

pub use body::{Body, Writer};
pub use server::{Backends, Config, SERVICE_ADDRESS, SERVICE_PORT, Server, ServerError};
pub use status::{Reason, Status};
pub use streams::{IssuedToken, Local, Metrics, PodUsage, Streams, TokenOrder, TokenOwner, Tokens, Usage};
pub(crate) use verbs::ending;
