//! What can go wrong while acting.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use rustix::io::Errno;
use thiserror::Error;

use crate::ipam::{IpamError, Ranges};
use crate::names::{BridgeName, PodId};
use crate::nft::Protocol;

#[derive(Debug, Error)]
pub enum NetworkError {
    #[error(transparent)]
    Ipam(#[from] IpamError),
    #[error("{call}: {}", io::Error::from(*.errno))]
    Kernel { call: String, errno: Errno },
    #[error("{call}: the kernel gave no answer")]
    NoAnswer { call: String },
    #[error("netlink {call}: {source}")]
    Netlink { call: &'static str, source: io::Error },
    #[error("{call} {}: {source}", path.display())]
    File { call: &'static str, path: PathBuf, source: io::Error },
    #[error("pod {pod}: the namespace is that of the host")]
    HostNamespace { pod: PodId },
    #[error("make network namespace: {0}")]
    Namespace(io::Error),
    #[error("link {0}: exists and is no bridge of ours; choose another name or remove it")]
    BridgeTaken(BridgeName),
    #[error("range {wanted}: pods still have addresses of {current}", wanted = .wanted.v4(), current = .current.v4())]
    RangesInUse { current: Ranges, wanted: Ranges },
    #[error("host port {protocol}/{}{port}: taken by pod {owner}", address.map(|ip| format!("{ip}:")).unwrap_or_default())]
    PortTaken { protocol: Protocol, address: Option<IpAddr>, port: u16, owner: PodId },
    #[error("a thread for the network: {0}")]
    Thread(io::Error),
    #[error("the network's thread ended without a result")]
    ThreadEnded,
    #[error("{0}")]
    Several(Several),
}

/// Taking down goes on after an error; this is all of them.
#[derive(Debug)]
pub struct Several(pub Vec<NetworkError>);

impl fmt::Display for Several {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, error) in self.0.iter().enumerate() {
            let separator = if number == 0 { "" } else { "; " };
            write!(f, "{separator}{error}")?;
        }
        Ok(())
    }
}

/// Collects the errors of steps that all have to be tried.
#[derive(Debug, Default)]
pub(crate) struct Collected(Vec<NetworkError>);

impl Collected {
    /// The value of a step that went well.
    pub(crate) fn take<T>(&mut self, result: Result<T, NetworkError>) -> Option<T> {
        result.map_err(|error| self.0.push(error)).ok()
    }

    pub(crate) fn finish<T>(mut self, value: T) -> Result<T, NetworkError> {
        match self.0.len() {
            0 => Ok(value),
            1 => self.0.pop().map_or(Ok(value), Err),
            _ => Err(NetworkError::Several(Several(self.0))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(call: &str) -> Result<(), NetworkError> {
        Err(NetworkError::Kernel { call: call.to_owned(), errno: Errno::PERM })
    }

    #[test]
    fn collected_errors_are_none_one_or_a_list() {
        assert!(Collected::default().finish(()).is_ok());
        let mut collected = Collected::default();
        collected.take(failed("a"));
        collected.take(Ok(()));
        let text = "a: Operation not permitted (os error 1)";
        assert_eq!(collected.finish(()).unwrap_err().to_string(), text);
        let mut collected = Collected::default();
        collected.take(failed("a"));
        collected.take(failed("b"));
        assert_eq!(collected.finish(()).unwrap_err().to_string(), format!("{text}; b{}", &text[1..]));
    }
}
