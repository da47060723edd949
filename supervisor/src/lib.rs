//! Runs Kubernetes Pods on one machine.
//!
//! The parts that decide ([`pod`], [`convert`], [`admission`], [`manifest`]) do no I/O; the parts that act ([`engine`],
//! [`node`], [`monitor`], [`runtime`], [`image`], [`volume`]) are thin. See `docs/architecture.md` for the map.

pub mod admission;
pub mod api;
pub mod cli;
pub mod config;
pub mod convert;
pub mod engine;
#[cfg(test)]
mod fuzz;
pub mod identity;
pub mod image;
pub mod logs;
pub mod manifest;
pub mod monitor;
pub mod node;
pub mod pod;
pub mod probe;
pub mod resolver;
pub mod runtime;
pub mod serve;
pub mod store;
pub mod stream;
pub mod sys;
mod tls;
pub mod user_namespace;
pub mod volume;
