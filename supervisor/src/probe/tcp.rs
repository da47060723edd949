//! The tcpSocket probe (TS1).

use std::net::SocketAddr;
use std::time::Duration;

use super::{Target, dial, port_number};
use crate::pod::event::ProbeOutcome;
use crate::pod::spec::Port;

/// Connects to `host`, or the Pod, within `timeout`, and closes again.
pub async fn tcp(target: Target, host: Option<&str>, port: &Port, timeout: Duration) -> ProbeOutcome {
    let port = match port_number(port) {
        Ok(port) => port,
        Err(text) => return ProbeOutcome::Error(text),
    };
    let host = target.host(host);
    match tokio::time::timeout(timeout, dial::dial(&host, port)).await {
        Ok(Ok(_)) => ProbeOutcome::Success,
        Ok(Err(error)) => ProbeOutcome::Failure(error.to_string()),
        Err(_) => ProbeOutcome::Failure(format!("dial tcp {}: i/o timeout", join(&host, port))),
    }
}

/// `host:port`, with brackets around what has colons itself.
pub(super) fn join(host: &str, port: u16) -> String {
    match host.parse() {
        Ok(ip) => SocketAddr::new(ip, port).to_string(),
        Err(_) => format!("{host}:{port}"),
    }
}
