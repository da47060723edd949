//! Simulation: a driver and an engine in memory, time that jumps, faults from a seed.

pub mod random;
pub mod world;
