//! The epoll set and the names of what is in it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;

/// Events taken from the kernel per turn.
const EVENTS_PER_TURN: usize = 16;

/// Number of an object of this monitor; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Serial(pub u32);

/// Who is ready. The stream of a container is its index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    Listener,
    Brain,
    PauseExit,
    PauseChannel,
    Exit(Serial),
    Channel(Serial),
    Stream(Serial, u8),
    ExecExit(Serial),
    ExecChannel(Serial),
    Doomed(Serial),
}

impl Token {
    fn pack(self) -> u64 {
        let (kind, serial, stream) = match self {
            Self::Listener => (0, 0, 0),
            Self::Brain => (1, 0, 0),
            Self::PauseExit => (2, 0, 0),
            Self::PauseChannel => (3, 0, 0),
            Self::Exit(serial) => (4, serial.0, 0),
            Self::Channel(serial) => (5, serial.0, 0),
            Self::Stream(serial, stream) => (6, serial.0, stream),
            Self::ExecExit(serial) => (7, serial.0, 0),
            Self::ExecChannel(serial) => (8, serial.0, 0),
            Self::Doomed(serial) => (9, serial.0, 0),
        };
        u64::from(serial) | u64::from(stream) << 32 | kind << 40
    }

    fn unpack(packed: u64) -> Option<Self> {
        let [a, b, c, d, stream, kind, ..] = packed.to_le_bytes();
        let serial = Serial(u32::from_le_bytes([a, b, c, d]));
        Some(match kind {
            0 => Self::Listener,
            1 => Self::Brain,
            2 => Self::PauseExit,
            3 => Self::PauseChannel,
            4 => Self::Exit(serial),
            5 => Self::Channel(serial),
            6 => Self::Stream(serial, stream),
            7 => Self::ExecExit(serial),
            8 => Self::ExecChannel(serial),
            9 => Self::Doomed(serial),
            _ => return None,
        })
    }
}

/// Level-triggered. Who adds a descriptor removes it before closing: a child on its way to exec has a copy, and would keep
/// it in the set.
#[derive(Debug)]
pub(super) struct Poller(OwnedFd);

impl Poller {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(epoll::CreateFlags::CLOEXEC)?))
    }

    pub(super) fn add(&self, fd: impl AsFd, token: Token) -> io::Result<()> {
        Ok(epoll::add(&self.0, fd, EventData::new_u64(token.pack()), EventFlags::IN)?)
    }

    /// Whether to wait for room to write, and whether for something to read.
    pub(super) fn set_interest(&self, fd: impl AsFd, token: Token, read: bool, write: bool) {
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, read);
        flags.set(EventFlags::OUT, write);
        // Fails only for a descriptor that is not in the set: then nobody waits for it anyway.
        let _absent = epoll::modify(&self.0, fd, EventData::new_u64(token.pack()), flags);
    }

    pub(super) fn remove(&self, fd: impl AsFd) {
        // Removing what is not there is what we want.
        let _absent = epoll::delete(&self.0, fd);
    }

    /// Waits for at most the given milliseconds; for ever without.
    pub(super) fn wait(&self, timeout_ms: Option<u64>) -> io::Result<Vec<Token>> {
        let timeout = timeout_ms.map(|timeout| Timespec {
            tv_sec: i64::try_from(timeout / 1000).unwrap_or(i64::MAX / 1000),
            tv_nsec: i64::try_from(timeout % 1000).unwrap_or(0) * 1_000_000,
        });
        let mut events = Vec::with_capacity(EVENTS_PER_TURN);
        match epoll::wait(&self.0, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(events.iter().filter_map(|event| Token::unpack(event.data.u64())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_packing() {
        let serial = Serial(u32::MAX);
        for token in [
            Token::Listener,
            Token::Brain,
            Token::PauseExit,
            Token::PauseChannel,
            Token::Exit(serial),
            Token::Channel(serial),
            Token::Stream(serial, 1),
            Token::ExecExit(serial),
            Token::ExecChannel(serial),
            Token::Doomed(serial),
        ] {
            assert_eq!(Token::unpack(token.pack()), Some(token));
        }
    }
}
