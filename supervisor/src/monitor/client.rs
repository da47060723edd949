//! The brain's end of a connection to a monitor.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

use super::protocol::{
    ATTACH_VERSION, Answer, AttachSpec, Call, ContainerSpec, Event, ExecSpec, Exit, Message, MonitorError, Request,
    SandboxSpec, Snapshot, USER_NAMESPACE_VERSION, VERSION,
};
use super::spawn::Start;
use super::{container, spawn, wire};
use crate::runtime::launch::{FdSlot, Identity};
use crate::sys::fd::registered;
use crate::sys::spawn::Spawned;

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The monitor did not do it.
    #[error(transparent)]
    Monitor(#[from] MonitorError),
    /// The monitor is gone, or replaced its brain.
    #[error("the monitor's connection is closed")]
    Closed,
    #[error("{call}: {source}")]
    Io { call: &'static str, source: io::Error },
    /// The monitor speaks, but not this protocol.
    #[error("the monitor answered {0}")]
    Unexpected(String),
}

type Result<T> = std::result::Result<T, ClientError>;
type Reply = (std::result::Result<Answer, MonitorError>, Vec<OwnedFd>);

/// Descriptors on their way to the monitor; slots of one request name them.
#[derive(Debug, Default)]
pub struct Descriptors(Vec<OwnedFd>);

impl Descriptors {
    /// Adds a descriptor. None when a message cannot carry more ([`wire::MAX_FDS`]).
    pub fn add(&mut self, fd: OwnedFd) -> Option<FdSlot> {
        let slot = u8::try_from(self.0.len()).ok().filter(|slot| usize::from(*slot) < wire::MAX_FDS)?;
        self.0.push(fd);
        Some(FdSlot(slot))
    }
}

/// A sandbox whose namespaces exist.
#[derive(Debug)]
pub struct Sandbox {
    pub pause_pid: u32,
    pub pidfd: OwnedFd,
    pub netns: OwnedFd,
}

/// A container whose process waits to execute.
#[derive(Debug)]
pub struct Created {
    pub pid: u32,
    pub identity: Identity,
    pub pidfd: OwnedFd,
}

/// A process in a container.
#[derive(Debug)]
pub struct ExecStarted {
    pub pid: u32,
    pub terminal: Option<OwnedFd>,
}

/// What is shared between the methods and the reading task.
#[derive(Debug)]
struct Shared {
    socket: AsyncFd<OwnedFd>,
    pending: Mutex<Pending>,
}

#[derive(Debug, Default)]
struct Pending {
    last_number: u64,
    replies: HashMap<u64, oneshot::Sender<Reply>>,
    closed: bool,
}

/// A connection. Dropping it (all clones) ends it.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
    /// Ends the reading task with the last clone.
    _alive: Arc<oneshot::Sender<()>>,
    /// Of the monitor.
    pub pid: u32,
    /// What it speaks.
    version: u16,
}

impl Client {
    /// Starts a monitor and says hello. The returned child has to be waited for.
    pub async fn spawn(start: &Start<'_>) -> Result<(Self, mpsc::UnboundedReceiver<Event>, MonitorProcess)> {
        let (prepared, ours) = spawn::prepare(start.state).map_err(io_error("prepare(monitor)"))?;
        // The greeting waits in the socket for the monitor; without one the socket ends.
        let (greeted, started) = tokio::join!(Self::over(ours), start.template.fork(&prepared, start.cgroup));
        let process = started.map_err(io_error("spawn(monitor)"))?;
        let process = MonitorProcess::new(process).map_err(io_error("epoll(pidfd)"))?;
        let (client, events) = greeted?;
        Ok((client, events, process))
    }

    /// Connects to a monitor that runs already.
    pub async fn connect(state: &Path) -> Result<(Self, mpsc::UnboundedReceiver<Event>)> {
        Self::over(spawn::connect(state).map_err(io_error("connect(monitor.sock)"))?).await
    }

    async fn over(socket: OwnedFd) -> Result<(Self, mpsc::UnboundedReceiver<Event>)> {
        rustix::io::ioctl_fionbio(&socket, true).map_err(|errno| io_error("ioctl(FIONBIO)")(errno.into()))?;
        let socket = registered(socket).map_err(io_error("epoll(monitor)"))?;
        let shared = Arc::new(Shared { socket, pending: Mutex::default() });
        let (events_in, events) = mpsc::unbounded_channel();
        let (alive, dropped) = oneshot::channel();
        let reading = Arc::clone(&shared);
        tokio::spawn(async move {
            tokio::select! {
                () = reading.read(&events_in) => {}
                _ = dropped => {}
            }
            reading.close();
        });
        let mut client = Self { shared, _alive: Arc::new(alive), pid: 0, version: 0 };
        match client.call(Request::Hello { version: VERSION }, Descriptors::default()).await? {
            (Answer::Hello { pid, version }, _) => (client.pid, client.version) = (pid, version),
            (other, _) => return Err(unexpected(&other)),
        }
        Ok((client, events))
    }

    pub async fn create_sandbox(&self, spec: SandboxSpec, fds: Descriptors) -> Result<Sandbox> {
        if spec.user_namespace.is_some() && self.version < USER_NAMESPACE_VERSION {
            let text = format!("version {}, which makes no user namespaces: restart the daemon", self.version);
            return Err(ClientError::Unexpected(text));
        }
        match self.call(Request::CreateSandbox(spec), fds).await? {
            (Answer::SandboxCreated { pause_pid, pidfd, netns }, fds) => {
                let (pidfd, netns) = (take(&fds, pidfd)?, take(&fds, netns)?);
                Ok(Sandbox { pause_pid, pidfd, netns })
            }
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Gives the monitor a detached mount to keep.
    pub async fn keep_volume(&self, name: &str, mount: OwnedFd) -> Result<()> {
        let mut fds = Descriptors::default();
        let mount = fds.add(mount).unwrap_or(FdSlot(0));
        self.done(Request::KeepVolume { name: name.to_owned(), mount }, fds).await
    }

    /// The root directory of a kept volume.
    pub async fn open_volume(&self, name: &str) -> Result<OwnedFd> {
        match self.call(Request::OpenVolume { name: name.to_owned() }, Descriptors::default()).await? {
            (Answer::Volume { root }, fds) => take(&fds, root),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// A detached copy of a kept volume's mount, for another monitor of the pod.
    pub async fn clone_volume(&self, name: &str) -> Result<OwnedFd> {
        match self.call(Request::CloneVolume { name: name.to_owned() }, Descriptors::default()).await? {
            (Answer::Volume { root }, fds) => take(&fds, root),
            (other, _) => Err(unexpected(&other)),
        }
    }

    pub async fn create_container(&self, spec: ContainerSpec, fds: Descriptors) -> Result<Created> {
        match self.call(Request::CreateContainer(spec), fds).await? {
            (Answer::ContainerCreated { pid, identity, pidfd }, fds) => {
                Ok(Created { pid, identity, pidfd: take(&fds, pidfd)? })
            }
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Returns the time of the start, RFC 3339.
    pub async fn start_container(&self, id: &str) -> Result<String> {
        match self.call(Request::StartContainer { id: id.to_owned() }, Descriptors::default()).await? {
            (Answer::ContainerStarted { started_at }, _) => Ok(started_at),
            (other, _) => Err(unexpected(&other)),
        }
    }

    pub async fn signal_container(&self, id: &str, signal: i32) -> Result<()> {
        self.done(Request::SignalContainer { id: id.to_owned(), signal }, Descriptors::default()).await
    }

    pub async fn kill_container(&self, id: &str) -> Result<()> {
        self.done(Request::KillContainer { id: id.to_owned() }, Descriptors::default()).await
    }

    /// Returns when the container is gone; its exit event has come before.
    pub async fn remove_container(&self, id: &str) -> Result<()> {
        self.done(Request::RemoveContainer { id: id.to_owned() }, Descriptors::default()).await
    }

    pub async fn exec(&self, spec: ExecSpec, fds: Descriptors) -> Result<ExecStarted> {
        match self.call(Request::Exec(spec), fds).await? {
            (Answer::ExecStarted { pid, terminal }, fds) => {
                let terminal = terminal.map(|slot| take(&fds, slot)).transpose()?;
                Ok(ExecStarted { pid, terminal })
            }
            (other, _) => Err(unexpected(&other)),
        }
    }

    pub async fn kill_exec(&self, id: &str) -> Result<()> {
        self.done(Request::KillExec { id: id.to_owned() }, Descriptors::default()).await
    }

    /// Copies the container's output into the given pipes; a writer of its standard input, or its terminal.
    pub async fn attach(&self, spec: AttachSpec, fds: Descriptors) -> Result<Option<OwnedFd>> {
        if self.version < ATTACH_VERSION {
            let text = format!("version {}, which can't be attached to: start the pod anew", self.version);
            return Err(ClientError::Unexpected(text));
        }
        match self.call(Request::Attach(spec), fds).await? {
            (Answer::Attached { input }, fds) => input.map(|slot| take(&fds, slot)).transpose(),
            (other, _) => Err(unexpected(&other)),
        }
    }

    pub async fn snapshot(&self) -> Result<Snapshot> {
        match self.call(Request::Snapshot, Descriptors::default()).await? {
            (Answer::Snapshot(snapshot), _) => Ok(snapshot),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Returns when every process of the pod has ended.
    pub async fn shutdown(&self) -> Result<()> {
        self.done(Request::Shutdown, Descriptors::default()).await
    }

    async fn done(&self, request: Request, fds: Descriptors) -> Result<()> {
        match self.call(request, fds).await? {
            (Answer::Done, _) => Ok(()),
            (other, _) => Err(unexpected(&other)),
        }
    }

    async fn call(&self, request: Request, fds: Descriptors) -> Result<(Answer, Vec<OwnedFd>)> {
        let (sender, receiver) = oneshot::channel();
        let number = self.shared.register(sender)?;
        let text = serde_json::to_vec(&Call { number, request }).map_err(|error| io_error("encode")(error.into()))?;
        if let Err(error) = self.shared.send(&text, &fds.0).await {
            self.shared.pending().replies.remove(&number);
            return Err(error);
        }
        drop(fds);
        let (result, fds) = receiver.await.map_err(|_| ClientError::Closed)?;
        Ok((result?, fds))
    }
}

thread_local! {
    /// One for all monitors: nothing waits while it is in use, and a node may have hundreds of them.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; wire::MAX_MESSAGE_BYTES]);
}

type Received = (serde_json::Result<Message>, Vec<OwnedFd>);

/// One message; none at the connection's end.
fn receive(socket: &OwnedFd) -> io::Result<Option<Received>> {
    BUFFER.with_borrow_mut(|buffer| match wire::receive(socket.as_fd(), buffer)? {
        (0, _) => Ok(None),
        (length, fds) => Ok(Some((serde_json::from_slice(buffer.get(..length).unwrap_or_default()), fds))),
    })
}

impl Shared {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn register(&self, sender: oneshot::Sender<Reply>) -> Result<u64> {
        let mut pending = self.pending();
        if pending.closed {
            return Err(ClientError::Closed);
        }
        pending.last_number += 1;
        let number = pending.last_number;
        pending.replies.insert(number, sender);
        Ok(number)
    }

    async fn send(&self, text: &[u8], fds: &[OwnedFd]) -> Result<()> {
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let send = |socket: &OwnedFd| wire::send(socket.as_fd(), text, &borrowed);
        // Nearly always there is room; the loop's first look at a new socket costs a turn.
        let sent = match send(self.socket.get_ref()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.socket.async_io(Interest::WRITABLE, send).await
            }
            sent => sent,
        };
        sent.map_err(|error| {
            let gone = matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset);
            if gone { ClientError::Closed } else { io_error("sendmsg(monitor)")(error) }
        })
    }

    /// Until the connection ends.
    async fn read(&self, events: &mpsc::UnboundedSender<Event>) {
        loop {
            let (message, fds) = match self.socket.async_io(Interest::READABLE, receive).await {
                Ok(Some(received)) => received,
                Ok(None) | Err(_) => return,
            };
            match message {
                Ok(Message::Reply { number, result }) => {
                    if let Some(sender) = self.pending().replies.remove(&number) {
                        // Who asked may have gone.
                        let _gone = sender.send((result, fds));
                    }
                }
                Ok(Message::Event(event)) => {
                    // Without a listener events are of no interest.
                    let _ignored = events.send(event);
                }
                Err(error) => {
                    tracing::warn!(%error, "a message of the monitor is not understood, ignoring")
                }
            }
        }
    }

    /// Everybody who waits learns that no reply comes.
    fn close(&self) {
        let mut pending = self.pending();
        pending.closed = true;
        pending.replies.clear();
    }
}

/// A monitor that this process started.
#[derive(Debug)]
pub struct MonitorProcess {
    pidfd: AsyncFd<OwnedFd>,
}

impl MonitorProcess {
    pub(super) fn new(process: Spawned) -> io::Result<Self> {
        Ok(Self { pidfd: registered(process.pidfd)? })
    }

    /// Waits for the monitor's end and reaps it.
    pub async fn wait(&self) -> io::Result<Option<Exit>> {
        let _readable = self.pidfd.readable().await?;
        let exit = container::peek_exit(self.pidfd.get_ref().as_fd());
        container::reap(self.pidfd.get_ref().as_fd());
        Ok(exit)
    }

    pub fn pidfd(&self) -> &OwnedFd {
        self.pidfd.get_ref()
    }
}

fn take(fds: &[OwnedFd], slot: FdSlot) -> Result<OwnedFd> {
    let at = usize::from(slot.0);
    let fd = fds.get(at).map(OwnedFd::try_clone);
    fd.ok_or_else(|| ClientError::Unexpected(format!("no descriptor {at}")))?.map_err(io_error("dup"))
}

fn unexpected(answer: &Answer) -> ClientError {
    ClientError::Unexpected(format!("{answer:?}"))
}

fn io_error(call: &'static str) -> impl FnOnce(io::Error) -> ClientError {
    move |source| ClientError::Io { call, source }
}
