//! Connections: to whom, how long to try, and with TLS or without.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::names::Names;

/// Wait for one address to accept.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Wait for the TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);

/// Where a connection goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) https: bool,
    /// With brackets around an IPv6 address.
    pub(super) host: String,
    pub(super) port: u16,
}

impl Origin {
    /// None for a URL that is not HTTP.
    pub(super) fn of(url: &url::Url) -> Option<Self> {
        let https = match url.scheme() {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        Some(Self { https, host: url.host_str()?.to_owned(), port: url.port_or_known_default()? })
    }
}

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ConnectError {
    /// Nobody there; `refused` when somebody said so at once.
    Unreachable(String),
    /// Somebody is there, and speaks no TLS.
    NotTls(String),
    /// Somebody is there who is not who they should be.
    Untrusted(String),
    /// An address to which nobody may send us (D29).
    Forbidden(String),
}

/// Loopback, link-local and unspecified: what only this machine or its cloud's metadata service answers.
pub(super) fn is_near(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local() || v4.is_unspecified(),
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => is_near(v4.into()),
            None => v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unspecified(),
        },
    }
}

/// Connects to the first address that accepts. `may_be_near`: whether it was the administrator, and not a
/// registry's answer, who chose this host.
pub(super) async fn connect(
    origin: &Origin,
    names: &Names,
    tls: &Arc<ClientConfig>,
    may_be_near: bool,
) -> Result<(Stream, SocketAddr), ConnectError> {
    let (stream, address) = dial(origin, names, may_be_near).await?;
    if !origin.https {
        return Ok((Stream::Plain(stream), address));
    }
    let bare = origin.host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(bare).map_err(|error| ConnectError::Untrusted(error.to_string()))?;
    let handshake = TlsConnector::from(Arc::clone(tls)).connect(name, stream);
    match timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Ok(Ok(stream)) => Ok((Stream::Tls(Box::new(stream)), address)),
        Ok(Err(error)) => Err(handshake_error(&error)),
        Err(_) => Err(ConnectError::Unreachable(format!("{address}: TLS handshake timeout"))),
    }
}

async fn dial(origin: &Origin, names: &Names, may_be_near: bool) -> Result<(TcpStream, SocketAddr), ConnectError> {
    let addresses = names.lookup(&origin.host, origin.port).await.map_err(ConnectError::Unreachable)?;
    let mut last = None;
    for address in addresses {
        if !may_be_near && is_near(address.ip()) {
            last = Some(ConnectError::Forbidden(format!("{} is {}: only this machine", origin.host, address.ip())));
            continue;
        }
        match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // Only latency is lost without it.
                stream.set_nodelay(true).unwrap_or_default();
                return Ok((stream, address));
            }
            Ok(Err(error)) => last = Some(ConnectError::Unreachable(format!("dial tcp {address}: {}", plain(&error)))),
            Err(_) => last = Some(ConnectError::Unreachable(format!("dial tcp {address}: i/o timeout"))),
        }
    }
    Err(last.unwrap_or_else(|| ConnectError::Unreachable(format!("{} has no address", origin.host))))
}

/// As everybody knows these errors, without numbers.
fn plain(error: &io::Error) -> String {
    let known = [
        (io::ErrorKind::ConnectionRefused, "connect: connection refused"),
        (io::ErrorKind::NetworkUnreachable, "connect: network is unreachable"),
        (io::ErrorKind::HostUnreachable, "connect: no route to host"),
        (io::ErrorKind::TimedOut, "i/o timeout"),
    ];
    let text = known.iter().find(|(kind, _)| *kind == error.kind()).map(|(_, text)| (*text).to_owned());
    text.unwrap_or_else(|| error.to_string())
}

fn handshake_error(error: &io::Error) -> ConnectError {
    let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::InvalidMessage(_)) => {
            ConnectError::NotTls("http: server gave HTTP response to HTTPS client".to_owned())
        }
        Some(error) => ConnectError::Untrusted(format!("tls: failed to verify certificate: {error}")),
        None if error.kind() == io::ErrorKind::UnexpectedEof => ConnectError::NotTls("tls: EOF".to_owned()),
        None => ConnectError::Unreachable(format!("tls: {}", plain(error))),
    }
}

/// A connection.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // D29
    #[test]
    fn addresses_that_only_this_machine_answers_are_near() {
        for (text, near) in [
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("169.254.169.254", true),
            ("0.0.0.0", true),
            ("::1", true),
            ("::", true),
            ("fe80::1", true),
            ("::ffff:127.0.0.1", true),
            ("10.0.0.1", false),
            ("192.168.0.1", false),
            ("fd00::1", false),
        ] {
            assert_eq!(is_near(text.parse().unwrap()), near, "{text}");
        }
    }
}
