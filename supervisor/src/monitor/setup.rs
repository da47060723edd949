//! What a monitor does before it serves.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::net::SocketType;
use rustix::process::DumpableBehavior;

use super::outbox::Outbox;
use super::poller::{Poller, Token};
use super::pump::Scratch;
use super::spawn::Prepared;
use super::state::State;
use super::template::{self, BRAIN_FD};
use super::volumes::Volumes;
use crate::sys::fd::{close_from, take_inherited};

/// The socket that the brain left to its template. Comes back in the monitors that this process makes.
pub(super) fn become_template() -> io::Result<Option<Prepared>> {
    let brain = take_inherited(BRAIN_FD).ok_or_else(|| refused("descriptor 3 is not open"))?;
    close_from(BRAIN_FD.cast_unsigned() + 1).map_err(io::Error::from)?;
    if rustix::net::sockopt::socket_type(&brain)? != SocketType::SEQPACKET {
        return Err(refused("descriptor 3 is a seqpacket socket"));
    }
    // No signal ends a monitor but KILL: its end is asked for by message, or follows from the brain's.
    let all = nix::sys::signal::SigSet::all();
    all.thread_block().map_err(|errno| io::Error::from_raw_os_error(errno as i32))?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    template::serve(brain)
}

/// A monitor's session and place, and what it serves with.
pub(super) fn begin(given: Prepared) -> io::Result<State> {
    let Prepared { volumes, brain, listener } = given;
    rustix::process::setsid()?;
    rustix::process::fchdir(&volumes)?;
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

fn open(path: &str, flags: OFlags) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(CWD, path, flags | OFlags::CLOEXEC, Mode::empty())?)
}

fn refused(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}
