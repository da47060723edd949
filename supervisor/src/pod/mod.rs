//! The pod machine: events and time in, actions and status out. It does no I/O and reads no clock.

pub mod action;
pub mod event;
pub mod spec;
pub mod status;
pub mod timer;
