//! The network of a host: what the supervisor calls.
//!
//! All calls run one after the other on one thread: netlink answers inside the call, so there is nothing for an event loop
//! to wait for, the kernel changes links under one lock anyway, and waking a thread costs less than making one. Between
//! calls it stands in the host's namespace, so that it keeps no pod's alive.

use std::cell::{RefCell, RefMut};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;

use rustix::io::Errno;
use rustix::thread::LinkNameSpaceType;
use tokio::sync::oneshot;

use crate::error::NetworkError;
use crate::ipam::Ranges;
use crate::lease::{Lease, Leases, failed};
use crate::link::{Link, Links};
use crate::load::Rules;
use crate::names::{BridgeName, Mac, PodId};
use crate::nft::Protocol;
use crate::nft::rules::{HostPort, Pod, Service};
use crate::plan::{Setup, Step};

mod host;
mod pod;

#[derive(Debug, Clone)]
pub struct Config {
    /// Also the name of the nftables tables.
    pub bridge: BridgeName,
    pub ranges: RangeChoice,
    /// Where the leases are; best on a file system that a boot empties.
    pub state_dir: PathBuf,
    /// Whether pods get IPv6 addresses if the host speaks IPv6; for [`RangeChoice::Auto`].
    pub ipv6: bool,
    /// Ports of the host that pods can't reach, such as the API's (D24).
    pub closed_ports: Vec<(Protocol, u16)>,
    /// An address of the host by which pods reach one service of it.
    pub service: Option<Service>,
}

impl Config {
    #[must_use]
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self {
            bridge: BridgeName::default(),
            ranges: RangeChoice::Auto,
            state_dir: state_dir.into(),
            ipv6: true,
            closed_ports: Vec::new(),
            service: None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RangeChoice {
    /// The first of [`crate::ipam::CANDIDATES`] that no route of the host overlaps.
    Auto,
    Given(Ranges),
}

/// What a pod got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// IPv4 first.
    pub gateways: Vec<IpAddr>,
    pub host_link: String,
    pub mac: Mac,
}

/// What a sweep removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Swept {
    pub leases: Vec<PodId>,
    pub links: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Teardown {
    Removed,
    /// So many pods still have addresses; nothing was removed.
    InUse(usize),
}

/// A handle on the network of the host. Cheap to clone; several processes may each have one with the same state.
#[derive(Debug, Clone)]
pub struct Network {
    /// The thread ends with the last handle.
    calls: mpsc::Sender<Call>,
}

type Call = Box<dyn FnOnce(&Inner) + Send>;

impl Network {
    /// Opens the network of the calling thread's namespace, making or mending bridge and rules.
    ///
    /// # Errors
    /// A range that overlaps a route, a bridge name that is taken, and whatever the kernel refuses.
    pub async fn open(config: Config) -> Result<Self, NetworkError> {
        // Sockets belong to the namespace of the thread that opens them, so they are opened before the thread is started.
        let inner = Inner::new(config)?;
        let (calls, queue) = mpsc::channel();
        let serve = move || inner.serve(&queue);
        thread::Builder::new().name("network".to_owned()).spawn(serve).map_err(NetworkError::Thread)?;
        let network = Self { calls };
        network.repair().await?;
        Ok(network)
    }

    /// Makes bridge, settings and rules what they should be: for a start, and after somebody reloaded the firewall.
    ///
    /// # Errors
    /// As for [`Network::open`].
    pub async fn repair(&self) -> Result<(), NetworkError> {
        self.on_thread(Inner::repair).await
    }

    /// Connects the namespace with addresses of its own; doing it again for the same pod changes nothing.
    ///
    /// # Errors
    /// No address or host port is free, or the kernel refuses; then nothing is left of it.
    pub async fn attach(&self, pod: &PodId, netns: impl AsFd, ports: &[HostPort]) -> Result<Attachment, NetworkError> {
        let netns = netns.as_fd().try_clone_to_owned().map_err(NetworkError::Thread)?;
        let (pod, ports) = (pod.clone(), ports.to_vec());
        self.on_thread(move |inner| inner.attach(&pod, &netns, &ports)).await
    }

    /// As [`Network::attach`], of a namespace that `make` makes on the thread that connects it: handing it from thread to
    /// thread would cost more. `make` may leave the thread in the new namespace.
    ///
    /// # Errors
    /// As for [`Network::attach`], and those of `make`.
    pub async fn attach_new(
        &self,
        pod: &PodId,
        ports: &[HostPort],
        make: impl FnOnce() -> io::Result<OwnedFd> + Send + 'static,
    ) -> Result<Attachment, NetworkError> {
        let (pod, ports) = (pod.clone(), ports.to_vec());
        self.on_thread(move |inner| inner.attach(&pod, &make().map_err(NetworkError::Namespace)?, &ports)).await
    }

    /// Gives up the pod's rules and, later, its address. The link goes with the pod's namespace, which the caller closes;
    /// neither is waited for. A pod that isn't attached is no error.
    ///
    /// # Errors
    /// All that went wrong; the rest was done.
    pub async fn detach(&self, pod: &PodId) -> Result<(), NetworkError> {
        let pod = pod.clone();
        self.on_thread(move |inner| inner.detach(&pod)).await
    }

    /// The pods that have addresses.
    ///
    /// # Errors
    /// The state directory can't be read.
    pub async fn leases(&self) -> Result<Vec<Lease>, NetworkError> {
        self.on_thread(|inner| inner.leases().locked(|leases| Ok(leases.held().cloned().collect()))).await
    }

    /// Removes everything of this bridge whose pod isn't live: links, rules, leases. `live` names the pods of every
    /// process that shares the state directory; it is asked after links and leases were read, so that a pod which others
    /// attach meanwhile keeps its own.
    ///
    /// # Errors
    /// All that went wrong; the rest was done.
    pub async fn sweep(&self, live: impl FnOnce() -> Vec<PodId> + Send + 'static) -> Result<Swept, NetworkError> {
        self.on_thread(move |inner| inner.sweep(live)).await
    }

    /// Removes bridge and tables and restores the host's settings when no pod has an address.
    ///
    /// # Errors
    /// All that went wrong; the rest was done.
    pub async fn teardown(&self) -> Result<Teardown, NetworkError> {
        self.on_thread(Inner::teardown).await
    }

    /// What attaching this pod would do, for a dry run; the address is the one that would be next.
    ///
    /// # Errors
    /// No address is free.
    pub async fn plan(&self, pod: &PodId, ports: &[HostPort]) -> Result<Vec<Step>, NetworkError> {
        let (pod, ports) = (pod.clone(), ports.to_vec());
        self.on_thread(move |inner| inner.plan(&pod, &ports)).await
    }

    async fn on_thread<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Inner) -> Result<T, NetworkError> + Send + 'static,
    ) -> Result<T, NetworkError> {
        let (sender, receiver) = oneshot::channel();
        let call = move |inner: &Inner| {
            // Nobody listens when the caller gave up; the work is done all the same and its record is on disk.
            drop(sender.send(act(inner)));
        };
        self.calls.send(Box::new(call)).map_err(|_| NetworkError::ThreadEnded)?;
        receiver.await.map_err(|_| NetworkError::ThreadEnded)?
    }
}

#[derive(Debug)]
struct Inner {
    config: Config,
    /// The host's own namespace: the one of the thread that opened this.
    host: OwnedFd,
    leases: RefCell<Leases>,
    links: RefCell<Links>,
    rules: RefCell<Rules>,
}

impl Inner {
    fn new(config: Config) -> Result<Self, NetworkError> {
        let path = Path::new("/proc/thread-self/ns/net");
        let host = fs::File::open(path).map_err(failed("open", path))?.into();
        let (leases, links, rules) = (Leases::open(&config.state_dir)?, Links::open()?, Rules::open()?);
        Ok(Self { config, host, leases: RefCell::new(leases), links: RefCell::new(links), rules: RefCell::new(rules) })
    }

    /// Until nobody can call any more.
    fn serve(&self, queue: &mpsc::Receiver<Call>) {
        while let Ok(call) = queue.recv() {
            call(self);
            // Whoever could not come back must not go on: the next call would do in a pod what belongs to the host.
            if self.enter_host().is_err() {
                return;
            }
        }
    }

    fn leases(&self) -> RefMut<'_, Leases> {
        self.leases.borrow_mut()
    }

    fn setup<'a>(&'a self, ranges: &'a Ranges) -> Setup<'a> {
        Setup { bridge: &self.config.bridge, ranges, closed: &self.config.closed_ports, service: self.config.service }
    }

    /// Every call begins there, and comes back from a pod's namespace.
    fn enter_host(&self) -> Result<(), NetworkError> {
        enter(&self.host)
    }

    fn ranges(&self, leases: &Leases) -> Result<Ranges, NetworkError> {
        let missing = || NetworkError::Kernel { call: format!("bridge {}", self.config.bridge), errno: Errno::NOENT };
        leases.network.as_ref().map(|network| network.ranges).ok_or_else(missing)
    }
}

fn as_pod(lease: &Lease) -> Pod<'_> {
    Pod { id: &lease.pod, number: lease.number, ports: &lease.ports }
}

fn required(links: &mut Links, name: &str) -> Result<Link, NetworkError> {
    links.find(name)?.ok_or_else(|| NetworkError::Kernel { call: format!("RTM_GETLINK({name})"), errno: Errno::NODEV })
}

fn enter(netns: &OwnedFd) -> Result<(), NetworkError> {
    let failed = |errno| NetworkError::Kernel { call: "setns(CLONE_NEWNET)".to_owned(), errno };
    rustix::thread::move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).map_err(failed)
}
