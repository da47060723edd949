//! The clients that ask a Pod's probes and HTTP lifecycle hooks (PR1-PR16, LC3), in process: a probe costs one socket.
//!
//! Every connection begins in the network namespace of the calling thread, the host's, never inside the Pod (PR16), so that
//! nothing a Pod does to its own namespace changes what the node sees. Whoever answers is hostile (D36): one deadline
//! covers name, connection, TLS, headers and body, and each of those has a bound in bytes. Dropping a future ends what it
//! began. The texts are those that the kubelet shows, since people and their tools know them.

mod call;
mod dial;
mod exec;
mod grpc;
mod hook;
mod http;
mod request;
mod tap;
mod tcp;
mod text;
mod tls;
mod transport;
mod url;

use std::net::IpAddr;

pub use exec::{Combined, ExecEnd, collect, exec_outcome};
pub use grpc::grpc;
pub use hook::http_hook;
pub use http::http;
pub use tcp::tcp;

use crate::pod::spec::Port;

/// Bytes of an answer's body, or of an exec probe's output, that are kept (HG4, EX1, D33).
pub const OUTPUT_BYTES: usize = 10 * 1024;

/// The Kubernetes version that `User-Agent` claims.
const VERSION: &str = "1.36";

/// Whom a probe asks when its handler names no host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// The Pod's primary address; the node's with `hostNetwork` (PR16).
    pub pod_ip: IpAddr,
}

impl Target {
    /// The host that the handler names, or the Pod's address (HG1, TS1).
    fn host(self, named: Option<&str>) -> String {
        match named {
            Some(host) if !host.is_empty() => host.to_owned(),
            Some(_) | None => self.pod_ip.to_string(),
        }
    }
}

/// The number of a probe's port; otherwise the text of the error result (PR15).
fn port_number(port: &Port) -> Result<u16, String> {
    match port {
        Port::Number(0) => Err("invalid port number: 0".to_owned()),
        Port::Number(number) => Ok(*number),
        Port::Unknown(name) => Err(format!("strconv.Atoi: parsing {}: invalid syntax", text::quote(name.as_bytes()))),
    }
}

#[cfg(test)]
mod tests;
