//! The brain's side of the event loop: one connection, what waits to be sent over it, and the events that wait for a brain.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::protocol::{Answer, Event, Message};
use super::{failure, wire};

/// Messages that wait for the brain to read; when so many wait no request is taken.
const MAX_WAITING: usize = 64;
/// Events kept while no brain is there. Older ones go first: the snapshot tells the state that they led to.
const MAX_EVENTS: usize = 256;

/// Whom a reply goes to. A reply to a connection that is gone is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Caller {
    connection: u32,
    number: u64,
}

#[derive(Debug)]
struct Connection {
    socket: OwnedFd,
    greeted: bool,
    waiting: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
}

#[derive(Debug, Default)]
pub(super) struct Outbox {
    connection: Option<Connection>,
    /// Number of the connection; counts up.
    current: u32,
    events: VecDeque<Event>,
}

impl Outbox {
    pub(super) fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.connection.as_ref().map(|connection| connection.socket.as_fd())
    }

    /// Replaces the connection; returns the one before.
    pub(super) fn connect(&mut self, socket: OwnedFd) -> Option<OwnedFd> {
        let before = self.disconnect();
        self.current = self.current.wrapping_add(1);
        self.connection = Some(Connection { socket, greeted: false, waiting: VecDeque::new() });
        before
    }

    /// Forgets the connection. Events that it did not take stay for the next one.
    pub(super) fn disconnect(&mut self) -> Option<OwnedFd> {
        self.connection.take().map(|connection| connection.socket)
    }

    pub(super) fn caller(&self, number: u64) -> Caller {
        Caller { connection: self.current, number }
    }

    pub(super) fn is_greeted(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.greeted)
    }

    /// After the reply to Hello: from now on events flow.
    pub(super) fn greet(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.greeted = true;
        }
    }

    pub(super) fn reply(&mut self, caller: Caller, result: failure::Result<Answer>, fds: Vec<OwnedFd>) {
        if let Some(connection) = self.connection.as_mut().filter(|_| caller.connection == self.current) {
            let message = Message::Reply { number: caller.number, result };
            connection.waiting.push_back((text(&message), fds));
        }
    }

    pub(super) fn event(&mut self, event: Event) {
        if self.events.len() == MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// Whether there is something that the socket would not take.
    pub(super) fn is_waiting(&self) -> bool {
        self.connection
            .as_ref()
            .is_some_and(|connection| !connection.waiting.is_empty() || (connection.greeted && !self.events.is_empty()))
    }

    /// Whether the brain has so much to read that it should do so first.
    pub(super) fn is_full(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.waiting.len() >= MAX_WAITING)
    }

    /// Sends what the socket takes: replies first, so that nobody waits behind a flood of events; an event leaves the queue
    /// only when it is sent. An error means that the connection is broken.
    pub(super) fn flush(&mut self) -> std::io::Result<()> {
        let Some(connection) = &mut self.connection else {
            return Ok(());
        };
        while let Some((text, fds)) = connection.waiting.front() {
            let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
            if !sent(wire::send(connection.socket.as_fd(), text, &fds))? {
                return Ok(());
            }
            connection.waiting.pop_front();
        }
        if !connection.greeted {
            return Ok(());
        }
        while let Some(event) = self.events.front() {
            let message = Message::Event(event.clone());
            if !sent(wire::send(connection.socket.as_fd(), &text(&message), &[]))? {
                return Ok(());
            }
            self.events.pop_front();
        }
        Ok(())
    }
}

fn sent(result: std::io::Result<()>) -> std::io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

fn text(message: &Message) -> Vec<u8> {
    // Maps with keys that are not strings are what serde_json refuses; a message has none.
    serde_json::to_vec(message).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::protocol::Exit;
    use rustix::net::{AddressFamily, SocketFlags, SocketType};

    fn pair() -> (OwnedFd, OwnedFd) {
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    }

    fn received(socket: &OwnedFd) -> Option<Message> {
        let mut buffer = [0; 4096];
        let (length, _) = wire::receive(socket.as_fd(), &mut buffer).ok()?;
        serde_json::from_slice(&buffer[..length]).ok()
    }

    #[test]
    fn events_wait_for_a_greeted_brain_and_the_oldest_go_first() {
        let mut outbox = Outbox::default();
        for code in 0..=i32::try_from(MAX_EVENTS).unwrap() {
            outbox.event(Event::SandboxExited { exit: Exit::Code(code) });
        }
        let (ours, theirs) = pair();
        outbox.connect(ours);
        outbox.flush().unwrap();
        assert!(received(&theirs).is_none());
        outbox.greet();
        outbox.flush().unwrap();
        let Some(Message::Event(event)) = received(&theirs) else {
            panic!("no event");
        };
        assert_eq!(event, Event::SandboxExited { exit: Exit::Code(1) });
    }

    #[test]
    fn an_event_that_was_not_sent_is_not_lost() {
        let mut outbox = Outbox::default();
        let (ours, theirs) = pair();
        outbox.connect(ours);
        outbox.greet();
        drop(theirs);
        outbox.event(Event::LogResumed { container: "c".to_owned() });
        assert!(outbox.flush().is_err());
        outbox.disconnect();
        let (ours, theirs) = pair();
        outbox.connect(ours);
        outbox.greet();
        outbox.flush().unwrap();
        assert!(received(&theirs).is_some());
    }

    #[test]
    fn a_reply_to_an_earlier_connection_is_dropped() {
        let mut outbox = Outbox::default();
        let (first, _first) = pair();
        outbox.connect(first);
        let caller = outbox.caller(1);
        let (second, theirs) = pair();
        outbox.connect(second);
        outbox.reply(caller, Ok(Answer::Done), Vec::new());
        assert!(!outbox.is_waiting());
        let caller = outbox.caller(1);
        outbox.reply(caller, Ok(Answer::Done), Vec::new());
        outbox.flush().unwrap();
        assert!(matches!(received(&theirs), Some(Message::Reply { number: 1, result: Ok(Answer::Done) })));
    }
}
