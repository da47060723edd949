//! From a finished plan to a running process: the part of the work that happens between clone and exec.

mod attributes;
pub mod capabilities;
pub mod child;
mod credentials;
mod devices;
mod failure;
pub mod launch;
mod mounts;
pub mod overlay;
pub mod program;
pub mod seccomp;
pub mod standard;
mod terminal;
mod tree;
mod user_namespace;
pub mod users;
