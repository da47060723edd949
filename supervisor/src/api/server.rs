//! The server: what it is made of, and its life.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use ipnet::Ipv4Net;
use jiff::Timestamp;
use tokio::sync::{Notify, watch};

use super::auth::Groups;
use super::health::Requests;
use super::keep;
use super::listen;
use super::pki::{Names, Pki, PkiError};
use super::streams::{Metrics, Streams, Tokens};
use crate::store::{Store, StoreError};

/// Time that connections have to end by themselves when the server stops.
const FAREWELL: Duration = Duration::from_secs(2);
/// How often certificates are looked at.
const RENEWAL: Duration = Duration::from_secs(12 * 3600);

/// Where cluster addresses of services come from unless said otherwise.
const SERVICES: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 43, 0, 0), 16);
/// The address of the service `kubernetes`: the first of them.
pub const SERVICE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 1);
/// The port of the service `kubernetes`.
pub const SERVICE_PORT: u16 = 443;

/// How the server is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// `/etc/monopod`: the certificates in `pki/`, and the kubeconfig.
    pub dir: PathBuf,
    /// Where TLS is spoken; none for the socket alone. Port 0 takes any.
    pub listen: Option<SocketAddr>,
    /// The Unix socket.
    pub socket: Option<PathBuf>,
    /// Local groups with rights, on the socket.
    pub groups: Groups,
    pub node_name: String,
    /// Further names and addresses that the server is reached by.
    pub hosts: Vec<String>,
    pub addresses: Vec<IpAddr>,
    /// Where cluster addresses of services come from. The first is that of the service `kubernetes`.
    pub services: Ipv4Net,
    /// Where pods find the server, beside `listen`: the address of that service, which the host has (D24).
    pub listen_for_pods: Option<SocketAddr>,
    /// `Origin` headers that are let through on TLS (D32); none by default.
    pub origins: Vec<String>,
}

impl Config {
    /// The defaults of a node of this name.
    pub fn new(dir: PathBuf, node_name: String) -> Self {
        Self {
            dir,
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 6443))),
            socket: None,
            groups: Groups::default(),
            node_name,
            hosts: Vec::new(),
            addresses: Vec::new(),
            services: SERVICES,
            listen_for_pods: None,
            origins: Vec::new(),
        }
    }
}

/// What others do for the server. Without one, its requests are answered 501 (streams) or 503 (the rest).
#[derive(Clone, Default)]
pub struct Backends {
    pub streams: Option<Rc<dyn Streams>>,
    pub metrics: Option<Rc<dyn Metrics>>,
    pub tokens: Option<Rc<dyn Tokens>>,
}

impl std::fmt::Debug for Backends {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backends")
            .field("streams", &self.streams.is_some())
            .field("metrics", &self.metrics.is_some())
            .field("tokens", &self.tokens.is_some())
            .finish()
    }
}

/// Why a server can't start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error("{operation} {address}: {cause}")]
    Listen { operation: &'static str, address: String, cause: std::io::Error },
    #[error("the objects that every cluster has: {0}")]
    Store(#[from] StoreError),
}

/// What requests share.
#[derive(Debug)]
pub(crate) struct State {
    pub(super) config: Config,
    pub(super) store: Store,
    pub(super) backends: Backends,
    pub(super) pki: Pki,
    /// The address of the TLS listener, as clients reach it.
    pub(super) address: String,
    /// Addresses and ports that services are about to be stored with.
    pub(super) reserved: RefCell<BTreeSet<String>>,
    /// Connections over TLS, and over the socket. Counted apart: who fills the one locks nobody out of the others.
    pub(super) remote: Rc<Cell<usize>>,
    pub(super) local: Rc<Cell<usize>>,
    /// From pods.
    pub(super) inner: Rc<Cell<usize>>,
    /// A connection has ended.
    pub(super) ended: Rc<Notify>,
    pub(super) closing: watch::Receiver<bool>,
    pub(super) requests: Requests,
}

/// A server that listens, and serves once it runs.
#[derive(Debug)]
pub struct Server {
    state: Rc<State>,
    listeners: listen::Listeners,
    close: watch::Sender<bool>,
}

impl Server {
    /// Makes certificates and kubeconfig where they are missing, binds the listeners. Needs a tokio runtime with a
    /// `LocalSet` for [`Self::run`].
    ///
    /// # Errors
    /// A certificate can't be made, or an address is taken.
    pub fn new(config: Config, store: Store, backends: Backends) -> Result<Self, ServerError> {
        let listeners = listen::Listeners::bind(&config)?;
        let address = listeners.address().unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 6443)));
        let mut addresses = config.addresses.clone();
        addresses.extend(config.listen_for_pods.map(|own| own.ip()));
        let names = Names { hosts: hosts(&config), addresses };
        let pki = Pki::open(&config.dir, names, format!("https://{address}"), Timestamp::now())?;
        let (close, closing) = watch::channel(false);
        let state = State {
            config,
            store,
            backends,
            pki,
            address: address.to_string(),
            reserved: RefCell::default(),
            remote: Rc::default(),
            local: Rc::default(),
            inner: Rc::default(),
            ended: Rc::default(),
            closing,
            requests: Requests::default(),
        };
        Ok(Self { state: Rc::new(state), listeners, close })
    }

    /// Where TLS is spoken.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listeners.address()
    }

    /// Told when connections have ended: what they needed is free now.
    #[must_use]
    pub fn ended(&self) -> Rc<Notify> {
        Rc::clone(&self.state.ended)
    }

    /// The certificate of the CA, PEM.
    pub fn ca(&self) -> &str {
        &self.state.pki.ca
    }

    /// Serves until `shutdown` is ready; then ends watches, waits a moment for answers under way, and returns.
    ///
    /// # Errors
    /// The objects that every cluster has can't be stored, or TLS can't be set up.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), ServerError> {
        let Self { state, listeners, close } = self;
        keep::bootstrap(&state).await?;
        let acceptor = state.pki.acceptor()?;
        let keepers = [
            tokio::task::spawn_local(keep::namespaces(Rc::clone(&state))),
            tokio::task::spawn_local(keep::accounts(Rc::clone(&state))),
            tokio::task::spawn_local(keep::events(Rc::clone(&state))),
            tokio::task::spawn_local(keep::owners(Rc::clone(&state))),
            tokio::task::spawn_local(keep::quotas(Rc::clone(&state))),
            tokio::task::spawn_local(keep::endpoints(Rc::clone(&state))),
            tokio::task::spawn_local(renew(Rc::clone(&state))),
        ];
        tokio::select! {
            () = listeners.serve(&state, &acceptor) => {}
            () = shutdown => {}
        }
        close.send_replace(true);
        let quiet = async {
            while state.remote.get() + state.local.get() + state.inner.get() > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        // Whoever takes longer is cut off with the thread.
        drop(tokio::time::timeout(FAREWELL, quiet).await);
        keepers.iter().for_each(tokio::task::JoinHandle::abort);
        Ok(())
    }
}

fn hosts(config: &Config) -> Vec<String> {
    let mut hosts = config.hosts.clone();
    hosts.push(config.node_name.clone());
    hosts
}

async fn renew(state: Rc<State>) {
    loop {
        tokio::time::sleep(RENEWAL).await;
        if let Err(error) = state.pki.renew(Timestamp::now()) {
            tracing::error!("renew certificates: {error}");
        }
    }
}
