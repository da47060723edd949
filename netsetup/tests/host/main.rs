//! The network against the kernel, in fresh network namespaces of which one plays the host. Needs root, `ip` and `nft`.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test says what went wrong by panicking")]

mod attach;
mod crash;
mod lab;
mod ports;
mod ruleset;
