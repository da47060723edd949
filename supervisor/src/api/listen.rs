//! Listeners and connections, within limits (D31-D33).

use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use crate::stream::received::Received;
use hyper::Request;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

use super::auth::{self, Peer, User};
use super::call;
use super::pki;
use super::server::{Config, ServerError, State};

/// Connections at a time, over TLS and over the socket each. One costs little until it asks for something.
const CONNECTIONS_MAX: usize = 1024;
/// D33: a request's headers, and a TLS handshake, take no longer.
const HEADER_TIME: Duration = Duration::from_secs(10);
/// The same for whoever has shown a certificate or is known to the kernel: such a connection may rest as long as with an
/// API server.
const IDLE_TIME: Duration = Duration::from_secs(90);
/// D33: bytes of headers.
const HEADER_BYTES: usize = 16 * 1024;
/// D33: number of headers.
const HEADERS_MAX: usize = 100;
/// Requests at a time on one connection.
const STREAMS_MAX: u32 = 100;
/// How often a silent HTTP/2 peer is asked whether it is still there, and how long it may take to say so.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIME: Duration = Duration::from_secs(15);
/// Bytes that one HTTP/2 stream may have in flight towards us.
const WINDOW: u32 = 64 * 1024;
/// Bytes that wait for an HTTP/2 peer to read.
const SEND_BUFFER: usize = 64 * 1024;
/// Wait after an accept that failed, for want of descriptors most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The socket: for root, or for everybody when groups have rights; the peer's credentials decide.
const SOCKET_MODE: u32 = 0o600;
const OPEN_SOCKET_MODE: u32 = 0o666;

/// What the server listens on.
#[derive(Debug)]
pub(crate) struct Listeners {
    tcp: Option<TcpListener>,
    /// For pods, at the address of the service `kubernetes`.
    inner: Option<TcpListener>,
    unix: Option<UnixListener>,
}

impl Listeners {
    /// Binds both.
    ///
    /// # Errors
    /// An address is taken.
    pub(crate) fn bind(config: &Config) -> Result<Self, ServerError> {
        let tcp = config.listen.map(bind_tcp).transpose()?;
        let inner = config.listen_for_pods.filter(|own| !covers(config.listen, *own)).and_then(bind_inner);
        let has_groups = config.groups.administrators.is_some() || config.groups.readers.is_some();
        let mode = if has_groups { OPEN_SOCKET_MODE } else { SOCKET_MODE };
        let unix = config.socket.as_deref().map(|path| bind_unix(path, mode)).transpose()?;
        Ok(Self { tcp, inner, unix })
    }

    /// Where TLS is spoken.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// Accepts until it is dropped.
    pub(crate) async fn serve(&self, state: &Rc<State>, acceptor: &TlsAcceptor) {
        let tcp = async {
            match &self.tcp {
                Some(listener) => accept_tcp(listener, state, acceptor, &state.remote).await,
                None => std::future::pending().await,
            }
        };
        let inner = async {
            match &self.inner {
                Some(listener) => accept_tcp(listener, state, acceptor, &state.inner).await,
                None => std::future::pending().await,
            }
        };
        let unix = async {
            match &self.unix {
                Some(listener) => accept_unix(listener, state).await,
                None => std::future::pending().await,
            }
        };
        tokio::join!(tcp, inner, unix);
    }
}

fn bind_tcp(address: SocketAddr) -> Result<TcpListener, ServerError> {
    let failed = |operation| move |cause| ServerError::Listen { operation, address: address.to_string(), cause };
    let listener = std::net::TcpListener::bind(address).map_err(failed("bind"))?;
    listener.set_nonblocking(true).map_err(failed("fcntl O_NONBLOCK"))?;
    TcpListener::from_std(listener).map_err(failed("listen"))
}

/// Whether a listener there gets what comes to `own`, too.
fn covers(listen: Option<SocketAddr>, own: SocketAddr) -> bool {
    listen.is_some_and(|listen| listen.ip().is_unspecified() && listen.port() == own.port())
}

/// Without it the node does all that it does but for pods that ask it things.
fn bind_inner(address: SocketAddr) -> Option<TcpListener> {
    let bound = bind_tcp(address);
    bound.inspect_err(|error| tracing::warn!("pods can't reach the API: {error}")).ok()
}

fn bind_unix(path: &Path, mode: u32) -> Result<UnixListener, ServerError> {
    let failed = |operation| move |cause| ServerError::Listen { operation, address: path.display().to_string(), cause };
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("unlink")(error)),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(failed("bind"))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(failed("chmod"))?;
    Ok(listener)
}

async fn accept_tcp(listener: &TcpListener, state: &Rc<State>, acceptor: &TlsAcceptor, taken: &Rc<Cell<usize>>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (state, acceptor) = (Rc::clone(state), acceptor.clone());
                if let Some(place) = Place::take(taken, &state.ended) {
                    tokio::task::spawn_local(serve_tls(stream, acceptor, state, place));
                }
            }
            Err(error) => accept_failed(&error).await,
        }
    }
}

async fn accept_unix(listener: &UnixListener, state: &Rc<State>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let state = Rc::clone(state);
                // Nobody without rights gets as far as a request.
                if let Some((user, place)) = local_user(&stream, &state).zip(Place::take(&state.local, &state.ended)) {
                    tokio::task::spawn_local(serve(stream, Peer::Local(user), state, place));
                }
            }
            Err(error) => accept_failed(&error).await,
        }
    }
}

async fn accept_failed(error: &io::Error) {
    tracing::warn!("accept: {error}");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

fn local_user(stream: &UnixStream, state: &State) -> Option<User> {
    let peer = stream.peer_cred().ok()?;
    auth::local_peer(peer.uid(), peer.gid(), &state.config.groups)
}

/// A place among the connections; given back when it is dropped.
struct Place {
    taken: Rc<Cell<usize>>,
    ended: Rc<Notify>,
}

impl Place {
    fn take(taken: &Rc<Cell<usize>>, ended: &Rc<Notify>) -> Option<Self> {
        if taken.get() >= CONNECTIONS_MAX {
            return None;
        }
        taken.set(taken.get() + 1);
        Some(Self { taken: Rc::clone(taken), ended: Rc::clone(ended) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.taken.set(self.taken.get() - 1);
        self.ended.notify_one();
    }
}

async fn serve_tls(stream: TcpStream, acceptor: TlsAcceptor, state: Rc<State>, place: Place) {
    // Small answers go out at once.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!("setsockopt TCP_NODELAY: {error}, ignoring");
    }
    let Ok(Ok(stream)) = tokio::time::timeout(HEADER_TIME, acceptor.accept(stream)).await else { return };
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let peer = certificate.and_then(pki::user_of).map_or(Peer::Unknown, Peer::Certificate);
    serve(stream, peer, state, place).await;
}

/// Starts tasks on this thread.
#[derive(Debug, Clone, Copy)]
struct Here;

impl<F: Future + 'static> Executor<F> for Here {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move { drop(future.await) });
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    peer: Peer,
    state: Rc<State>,
    place: Place,
) {
    let peer = Rc::new(peer);
    let service = service_fn(|request: Request<Incoming>| {
        let (state, peer) = (Rc::clone(&state), Rc::clone(&peer));
        let request = request.map(Received::from);
        async move { Ok::<_, Infallible>(call::answer(&state, &peer, request).await) }
    });
    let builder = protocols(&peer);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let mut closing = state.closing.clone();
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = closing.wait_for(|closing| *closing) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("connection: {error}");
    }
    drop(place);
}

fn protocols(peer: &Peer) -> auto::Builder<Here> {
    // hyper counts the time between two requests, too.
    let patience = match peer {
        Peer::Unknown => HEADER_TIME,
        Peer::Local(_) | Peer::Certificate(_) => IDLE_TIME,
    };
    let mut builder = auto::Builder::new(Here);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(patience)
        .max_buf_size(HEADER_BYTES)
        .max_headers(HEADERS_MAX)
        .half_close(false);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIME)
        .initial_stream_window_size(WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(u32::try_from(HEADER_BYTES).unwrap_or(u32::MAX));
    builder
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_place_is_given_back_and_its_end_told() {
        let (taken, ended) = (Rc::default(), Rc::default());
        let places: Vec<_> = std::iter::from_fn(|| Place::take(&taken, &ended)).collect();
        assert_eq!((places.len(), taken.get()), (CONNECTIONS_MAX, CONNECTIONS_MAX));
        drop(places);
        assert_eq!(taken.get(), 0);
        ended.notified().await;
    }
}
