//! Names to addresses, addresses to connections.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::text;
use crate::resolver::{LookupError, Names};

/// How long the kernel goes on with a connection that we have left and whose peer no longer acknowledges. It stands for
/// HG1's SO_LINGER of 1 s, which makes `close` wait for such a peer: a silent Pod would halt our only thread.
const LINGER_MILLISECONDS: u32 = 1000;

/// Why there is no connection; prints as Go's `net.OpError`.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("dial tcp: {0}")]
    Lookup(#[from] LookupError),
    #[error("dial tcp {addr}: connect: {}", text::errno(.source))]
    Connect { addr: SocketAddr, source: io::Error },
}

/// A connection and both its ends.
pub(super) struct Socket {
    stream: TcpStream,
    pub(super) local: SocketAddr,
    pub(super) peer: SocketAddr,
}

impl Drop for Socket {
    fn drop(&mut self) {
        // A refusal leaves the kernel's own, longer patience.
        rustix::net::sockopt::set_tcp_user_timeout(&self.stream, LINGER_MILLISECONDS).unwrap_or(());
    }
}

/// Connects to the first address of `host` that accepts; the error is that of the first address. The caller has the
/// deadline.
pub(super) async fn dial(host: &str, port: u16) -> Result<Socket, DialError> {
    let mut first = None;
    for addr in lookup(host, port).await? {
        match connect(addr).await {
            Ok(socket) => return Ok(socket),
            Err(source) => first = first.or(Some(DialError::Connect { addr, source })),
        }
    }
    Err(first.unwrap_or_else(|| LookupError::NoSuchHost { host: host.to_owned() }.into()))
}

async fn connect(peer: SocketAddr) -> io::Result<Socket> {
    let stream = TcpStream::connect(peer).await?;
    stream.set_nodelay(true)?;
    let local = stream.local_addr()?;
    Ok(Socket { stream, local, peer })
}

/// Of a literal, or of a name as the host resolves it; its files are read anew each time.
async fn lookup(host: &str, port: u16) -> Result<Vec<SocketAddr>, DialError> {
    if let Ok(ip) = host.parse() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let names = Names::of_host()?;
    Ok(Box::pin(names.lookup(host, port)).await?)
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn dial_errors_print_as_gos() {
        let connect = |number: Errno| DialError::Connect {
            addr: SocketAddr::from(([10, 0, 0, 5], 8080)),
            source: io::Error::from(number),
        };
        for (error, text) in [
            (connect(Errno::CONNREFUSED), "dial tcp 10.0.0.5:8080: connect: connection refused"),
            (connect(Errno::HOSTUNREACH), "dial tcp 10.0.0.5:8080: connect: no route to host"),
            (connect(Errno::NETUNREACH), "dial tcp 10.0.0.5:8080: connect: network is unreachable"),
            (
                LookupError::NoSuchHost { host: "no-such.invalid".to_owned() }.into(),
                "dial tcp: lookup no-such.invalid: no such host",
            ),
        ] {
            assert_eq!(error.to_string(), text);
        }
    }
}
