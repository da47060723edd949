//! Long-lived streams between a client and the node: SPDY/3.1 and WebSocket, remote commands, forwarded ports.
//!
//! ```text
//! hyper::Upgraded ──> spdy::Session ─────────────────┬──> remote_command ──> descriptors of a process
//!       │                   ▲ (over websocket::Tunnel)└──> port_forward ────> sockets in a pod
//!       └──> websocket ──> channels ──────────────────────> both
//! ```
//!
//! Nothing here knows the Kubernetes API or the node: what runs at the other end comes in as descriptors and futures, so
//! that every front can use it. The protocols are sans-IO ([`spdy::Connection`], [`channels::Codec`]); what moves bytes is
//! thin. Every buffer is bounded: a peer that does not read is not read from (D33).

pub mod body;
pub mod channels;
pub mod fd;
mod idle;
pub mod messages;
pub mod port_forward;
pub mod received;
pub mod remote_command;
pub mod spdy;
#[cfg(test)]
mod tests;
pub mod upgrade;
pub mod websocket;

/// Where inside of a pod a proxied request goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PodPort {
    /// A number, or the name of one of the pod's; none for its first.
    pub port: Option<String>,
    pub scheme: ProxyScheme,
}

/// What a proxied request speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProxyScheme {
    #[default]
    Http,
    /// TLS, with whoever answers.
    Https,
}

use std::time::Duration;

/// A connection on which nothing moved for so long is closed (`streamingConnectionIdleTimeout`).
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(4 * 60 * 60);
/// A client that was told everything gets this long to close its side. Closing before it did may destroy what is still on
/// its way to it (a reset instead of an end).
pub const LINGER: Duration = Duration::from_secs(2);
/// A client gets this long to open all its streams.
pub const STREAM_CREATION_TIMEOUT: Duration = Duration::from_secs(30);
/// What is buffered of one stream in one direction (D33).
pub const STREAM_BUFFER_BYTES: usize = 256 * 1024;
/// Bytes moved at once.
pub const CHUNK_BYTES: usize = 32 * 1024;
