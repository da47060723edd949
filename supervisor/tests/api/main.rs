//! The API server in this process, spoken to over its socket and over TLS, by hand and by real kubectls.

#![expect(clippy::unwrap_used, reason = "tests")]

mod access;
mod clients;
mod harness;
mod keepers;
mod machinery;
mod pods;
mod watches;
