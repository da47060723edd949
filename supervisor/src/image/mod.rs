//! Images: what they are called, where they are kept, how they get there.
//!
//! Everything in an image was written by a stranger. The parts that look at those bytes decide without touching the
//! machine ([`reference`], [`digest`], [`document`], [`tar`], [`pax`]); layers are applied by a process that can reach nothing but
//! its target directory ([`unpack`]); [`store`] makes visible only what was verified (D25).

mod access;
pub mod archive;
mod confine;
pub mod digest;
pub mod document;
pub mod gc;
mod holds;
mod index;
pub mod limits;
pub mod load;
pub mod pax;
pub mod pull;
pub mod reference;
pub mod registry;
pub mod save;
pub mod store;
pub mod tar;
pub mod tree;
pub mod unpack;

pub use access::{AccessPolicy, Verification};
pub use digest::Digest;
pub use limits::Limits;
pub use reference::Reference;
pub use store::{Image, Store};
pub use unpack::unpack_main;

/// The entry that a first argument chooses, when it makes this program one of the store's processes.
pub fn worker(argument: &str) -> Option<fn() -> std::process::ExitCode> {
    match argument {
        unpack::UNPACK_ARGUMENT => Some(unpack_main),
        registry::fetch::FETCH_ARGUMENT => Some(registry::fetch_main),
        pull::worker::PULL_ARGUMENT => Some(pull::worker::pull_main),
        _ => None,
    }
}
