//! Connections to what listens inside a pod's network.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream as StdStream};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;

use super::exec::io as failed;
use super::{SessionError, Sessions};

/// Loopback and bridges answer at once.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// All that the thread does is two system calls.
const STACK_BYTES: usize = 64 * 1024;

/// Sockets of a network namespace, one per address. They are made by a thread that ends in there: a socket belongs for ever
/// to the namespace it was made in, and no thread that others use must change.
async fn sockets(netns: OwnedFd, families: Vec<AddressFamily>) -> io::Result<Vec<io::Result<OwnedFd>>> {
    let (sender, receiver) = oneshot::channel();
    let make = move || -> io::Result<Vec<io::Result<OwnedFd>>> {
        move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let make = |family| Ok(socket_with(family, SocketType::STREAM, flags, None)?);
        Ok(families.into_iter().map(make).collect())
    };
    std::thread::Builder::new().name("netns".to_owned()).stack_size(STACK_BYTES).spawn(move || {
        // Nobody waits any more when the session has ended.
        let _given_up = sender.send(make());
    })?;
    receiver.await.map_err(io::Error::other)?
}

async fn connect(socket: io::Result<OwnedFd>, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::from_std_stream(StdStream::from(socket?));
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, socket.connect(address)).await;
    let stream = connected.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::INET,
        IpAddr::V6(_) => AddressFamily::INET6,
    }
}

impl Sessions {
    fn network(&self, uid: &str) -> Result<OwnedFd, SessionError> {
        let context = self.context(uid)?;
        let sandbox = context.newest_sandbox().ok_or(SessionError::NoPod)?;
        Ok(context.engine.network_namespace(&sandbox)?)
    }

    /// Fails when the pod has no network here.
    pub(super) fn check_network(&self, uid: &str) -> Result<(), SessionError> {
        self.network(uid).map(drop)
    }

    /// Connects to a port at the pod's loopback addresses, the older kind first.
    ///
    /// # Errors
    /// In words, for the client.
    pub async fn dial_loopback(&self, uid: &str, port: u16) -> Result<TcpStream, String> {
        let addresses = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
        let text = |error: &dyn std::fmt::Display| format!("error forwarding port {port} to pod {uid}: {error}");
        let netns = self.network(uid).map_err(|error| text(&error))?;
        let made = sockets(netns, addresses.map(family).to_vec()).await.map_err(|error| text(&error))?;
        let mut errors = Vec::new();
        for (address, socket) in addresses.into_iter().zip(made) {
            let address = SocketAddr::new(address, port);
            match connect(socket, address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => errors.push(format!("dial tcp {address}: {error}")),
            }
        }
        let errors = errors.join(", ");
        Err(text(&format_args!("failed to connect to localhost:{port} inside the pod's network: {errors}")))
    }

    /// Connects to an address from inside the pod's network.
    pub async fn dial(&self, uid: &str, address: SocketAddr) -> Result<TcpStream, SessionError> {
        let made = sockets(self.network(uid)?, vec![family(address.ip())]).await.map_err(failed("socket"))?;
        let socket = made.into_iter().next().unwrap_or_else(|| Err(io::ErrorKind::NotFound.into()));
        connect(socket, address).await.map_err(failed("connect"))
    }
}
