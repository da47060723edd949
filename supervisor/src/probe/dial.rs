//! Names to addresses, addresses to connections.

use std::io;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::text;

/// How long the kernel goes on with a connection that we have left and whose peer no longer acknowledges. It stands for
/// HG1's SO_LINGER of 1 s, which makes `close` wait for such a peer: a silent Pod would halt our only thread.
const LINGER_MILLISECONDS: u32 = 1000;
/// Bytes of `/etc/hosts` that are read.
const HOSTS_BYTES: u64 = 1024 * 1024;

/// Why there is no connection; prints as Go's `net.OpError`.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("dial tcp: lookup {0}: no such host")]
    Lookup(String),
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
    for ip in lookup(host)? {
        let addr = SocketAddr::new(ip, port);
        match connect(addr).await {
            Ok(socket) => return Ok(socket),
            Err(source) => first = first.or(Some(DialError::Connect { addr, source })),
        }
    }
    Err(first.unwrap_or_else(|| DialError::Lookup(host.to_owned())))
}

async fn connect(peer: SocketAddr) -> io::Result<Socket> {
    let stream = TcpStream::connect(peer).await?;
    stream.set_nodelay(true)?;
    let local = stream.local_addr()?;
    Ok(Socket { stream, local, peer })
}

/// Addresses of a literal, of `localhost`, or of a name in `/etc/hosts`. There is no DNS: the one resolver at hand brings a
/// second runtime.
fn lookup(host: &str) -> Result<Vec<IpAddr>, DialError> {
    if let Ok(ip) = host.parse() {
        return Ok(vec![ip]);
    }
    let mut found = in_hosts(&hosts_file(), host);
    if found.is_empty() && host.eq_ignore_ascii_case("localhost") {
        found = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    }
    if found.is_empty() { Err(DialError::Lookup(host.to_owned())) } else { Ok(found) }
}

/// A file that is missing or unreadable has no names.
fn hosts_file() -> String {
    let mut hosts = Vec::new();
    if let Ok(file) = std::fs::File::open("/etc/hosts") {
        file.take(HOSTS_BYTES).read_to_end(&mut hosts).unwrap_or_default();
    }
    String::from_utf8_lossy(&hosts).into_owned()
}

/// All addresses of `name`, IPv4 first; see `hosts(5)`.
fn in_hosts(hosts: &str, name: &str) -> Vec<IpAddr> {
    let name = name.trim_end_matches('.');
    let mut found: Vec<IpAddr> = hosts
        .lines()
        .filter_map(|line| {
            let mut words = line.split('#').next().unwrap_or_default().split_ascii_whitespace();
            let ip = words.next()?.parse().ok()?;
            words.any(|word| word.eq_ignore_ascii_case(name)).then_some(ip)
        })
        .collect();
    found.sort_by_key(IpAddr::is_ipv6);
    found
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
    fn names_come_from_the_hosts_file() {
        let hosts = "# db\n::1 localhost ip6\n127.0.0.1\tLocalhost # loop\n10.1.2.3 db.example.com db\nbad db\n";
        let v4 = IpAddr::from([127, 0, 0, 1]);
        for (name, found) in [
            ("localhost", vec![v4, Ipv6Addr::LOCALHOST.into()]),
            ("DB.example.com.", vec![IpAddr::from([10, 1, 2, 3])]),
            ("loop", vec![]),
        ] {
            assert_eq!(in_hosts(hosts, name), found, "{name}");
        }
    }

    #[test]
    fn a_literal_is_no_name() {
        assert_eq!(lookup("::1").unwrap(), [IpAddr::from(Ipv6Addr::LOCALHOST)]);
        assert_eq!(lookup("localhost").unwrap()[0], IpAddr::from([127, 0, 0, 1]));
    }

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
            (lookup("no-such.invalid").unwrap_err(), "dial tcp: lookup no-such.invalid: no such host"),
        ] {
            assert_eq!(error.to_string(), text);
        }
    }
}
