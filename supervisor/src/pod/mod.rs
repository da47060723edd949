//! The pod machine: events and time in, actions and status out. It does no I/O and reads no clock.
//!
//! [`machine`] is the entry; `docs/pod-machine.md` has the state diagram.

pub mod action;
pub mod adopt;
pub mod columns;
mod conditions;
mod container;
pub mod event;
mod grace;
mod hooks;
mod image;
pub mod machine;
mod outcome;
mod phase;
mod probe;
pub mod resize;
mod restart;
mod sandbox;
pub mod sim;
pub mod spec;
mod start;
pub mod status;
mod stop;
pub mod timer;
mod wake;
mod watch;
mod wish;

#[cfg(test)]
mod tests;
