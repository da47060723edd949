//! What a monitor does before it serves.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::net::SocketType;
use rustix::process::DumpableBehavior;

use super::outbox::Outbox;
use super::poller::{Poller, Token};
use super::pump::Scratch;
use super::spawn::{BRAIN_FD, FIRST_UNUSED_FD, LISTENER_FD};
use super::state::State;
use super::template;
use super::volumes::Volumes;
use crate::sys::fd::{close_from, take_inherited};

/// What a monitor is given.
#[derive(Debug)]
pub(super) struct Sockets {
    pub(super) brain: OwnedFd,
    pub(super) listener: OwnedFd,
}

/// The sockets that the brain left. Without a listener this process is to be the template: then it comes back in the
/// monitors that it makes, and with none when the brain is gone.
pub(super) fn sockets() -> io::Result<Option<Sockets>> {
    let brain = take_inherited(BRAIN_FD).ok_or_else(|| refused("descriptor 3 is not open"))?;
    let listener = take_inherited(LISTENER_FD);
    close_from(FIRST_UNUSED_FD).map_err(io::Error::from)?;
    for socket in [Some(&brain), listener.as_ref()].into_iter().flatten() {
        let kind = rustix::net::sockopt::socket_type(socket)?;
        if kind != SocketType::SEQPACKET {
            return Err(refused("descriptors 3 and 4 are seqpacket sockets"));
        }
    }
    match listener {
        Some(listener) => Ok(Some(Sockets { brain, listener })),
        None => {
            detach()?;
            template::serve(brain)
        }
    }
}

/// Leaves the brain's session and mount namespace, and is ready to serve.
pub(super) fn begin(sockets: Sockets) -> io::Result<State> {
    let Sockets { brain, listener } = sockets;
    detach()?;
    let mut state = State {
        poller: Poller::new()?,
        listener: Some(listener),
        null: open("/dev/null", OFlags::RDWR)?,
        own_pid_namespace: open("/proc/self/ns/pid", OFlags::RDONLY)?,
        volumes: Volumes::new()?,
        outbox: Outbox::default(),
        scratch: Scratch::new()?,
        sandbox: None,
        containers: Vec::new(),
        execs: Vec::new(),
        doomed: Vec::new(),
        shutdown: None,
        last_serial: 0,
        linger_at: None,
        record_retry_at: None,
    };
    if let Some(listener) = &state.listener {
        rustix::io::ioctl_fionbio(listener, true)?;
        state.poller.add(listener, Token::Listener)?;
    }
    state.connect(brain);
    Ok(state)
}

/// No signal ends a monitor but KILL: its end is asked for by message, or follows from the brain's.
fn detach() -> io::Result<()> {
    let all = nix::sys::signal::SigSet::all();
    all.thread_block().map_err(|errno| io::Error::from_raw_os_error(errno as i32))?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    // EPERM: it leads a session already.
    let _leader = rustix::process::setsid();
    rustix::process::umask(Mode::from_raw_mode(0o022));
    Ok(())
}

fn open(path: &str, flags: OFlags) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(CWD, path, flags | OFlags::CLOEXEC, Mode::empty())?)
}

fn refused(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}
