//! Sockets that wait for connections.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::task::Poll;

use tokio::net::{TcpListener, TcpStream};

use super::super::client::error::VerbError;
use super::ports::Pair;

/// Waiting connections of a port.
const BACKLOG: i32 = 128;

/// All listening sockets, at least one.
#[derive(Debug)]
pub(super) struct Listeners(Vec<(TcpListener, SocketAddr, Pair)>);

/// A connection that came.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) socket: TcpStream,
    pub(super) pair: Pair,
}

impl Listeners {
    /// Listens on every port at every address.
    ///
    /// # Errors
    /// An address is none, or no port at all could be listened on; what works for some is enough.
    pub(super) fn open(addresses: &[String], pairs: &[Pair]) -> Result<Self, VerbError> {
        let mut open = Vec::new();
        for pair in pairs {
            let mut pair = *pair;
            let mut failures = Vec::new();
            for ip in addresses_of(addresses)? {
                match listen(SocketAddr::new(ip, pair.local)) {
                    Ok((listener, address)) => {
                        // A port that was chosen is the same at all addresses.
                        pair.local = address.port();
                        open.push((listener, address, pair));
                    }
                    Err(error) => failures.push((ip, error)),
                }
            }
            if !open.iter().any(|(_, _, known)| *known == pair) {
                say_failures(pair, &failures);
            }
        }
        if open.is_empty() {
            let ports: Vec<String> = pairs.iter().map(|pair| format!("{{{} {}}}", pair.local, pair.remote)).collect();
            let message = format!("unable to listen on any of the requested ports: [{}]", ports.join(" "));
            return Err(VerbError::usage(message));
        }
        Ok(Self(open))
    }

    /// What to tell the user.
    pub(super) fn lines(&self) -> Vec<String> {
        let line = |address: &SocketAddr, pair: &Pair| format!("Forwarding from {address} -> {}\n", pair.remote);
        self.0.iter().map(|(_, address, pair)| line(address, pair)).collect()
    }

    /// The next connection to any of them.
    pub(super) async fn accept(&mut self) -> io::Result<Accepted> {
        std::future::poll_fn(|context| {
            for (listener, _, pair) in &self.0 {
                if let Poll::Ready(accepted) = listener.poll_accept(context) {
                    return Poll::Ready(accepted.map(|(socket, _)| Accepted { socket, pair: *pair }));
                }
            }
            Poll::Pending
        })
        .await
    }
}

fn say_failures(pair: Pair, failures: &[(IpAddr, io::Error)]) {
    let all: Vec<String> = failures
        .iter()
        .map(|(ip, error)| {
            let family = if ip.is_ipv4() { "tcp4" } else { "tcp6" };
            let (address, why) = (SocketAddr::new(*ip, pair.local), reason(error));
            format!("unable to create listener: Error listen {family} {address}: bind: {why}")
        })
        .collect();
    let (port, all) = (pair.local, all.join(" "));
    eprintln!("Unable to listen on port {port}: Listeners failed to create with the following errors: [{all}]");
}

/// As Go words it: without a capital and a number.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

fn addresses_of(words: &[String]) -> Result<Vec<IpAddr>, VerbError> {
    let mut found: Vec<IpAddr> = Vec::new();
    for word in words {
        let new = match word.as_str() {
            "localhost" => vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)],
            word => vec![word.parse().map_err(|_| VerbError::usage(format!("{word} is not a valid IP")))?],
        };
        found.extend(new);
    }
    // Named twice, it is listened on once.
    found.sort();
    found.dedup();
    Ok(found)
}

fn listen(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    use rustix::net::{self, AddressFamily, SocketFlags, SocketType, sockopt};
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        // The other family has a socket of its own.
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    net::bind(&socket, &address)?;
    net::listen(&socket, BACKLOG)?;
    let listener = TcpListener::from_std(socket.into())?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn localhost_is_both_families() {
        let addresses = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
            addresses_of(&words).map(|found| found.len()).map_err(|error| error.to_string())
        };
        assert_eq!(addresses(&["localhost"]), Ok(2));
        assert_eq!(addresses(&["localhost", "127.0.0.1", "0.0.0.0"]), Ok(3));
        assert_eq!(addresses(&["example.org"]), Err("error: example.org is not a valid IP".to_owned()));
    }

    #[test]
    fn a_port_that_is_taken_is_named() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        let _entered = runtime.enter();
        let any = [Pair { local: 0, remote: 80 }];
        let first = Listeners::open(&["127.0.0.1".to_owned()], &any).unwrap();
        let taken = first.0[0].2;
        assert_eq!(first.lines(), [format!("Forwarding from 127.0.0.1:{} -> 80\n", taken.local)]);
        let error = Listeners::open(&["127.0.0.1".to_owned()], &[taken]).unwrap_err().to_string();
        let expected = format!("error: unable to listen on any of the requested ports: [{{{} 80}}]", taken.local);
        assert_eq!(error, expected);
    }
}
