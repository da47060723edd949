//! All tests against real processes, in one binary.

fn main() {}
