//! What containers' children on their way to exec say, and what becomes of those that fail.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::channel::{Received, Report};
use super::clock::Wall;
use super::container::{Container, Phase, reap};
use super::outbox::Caller;
use super::poller::{Serial, Token};
use super::protocol::{Answer, MonitorError};
use super::state::{Doomed, State, died};
use crate::runtime::launch::{FdSlot, Identity, LaunchError};

impl State {
    /// Puts a new container's descriptors into the set.
    pub(super) fn watch(&self, container: &Container) -> io::Result<()> {
        let serial = container.serial;
        self.poller.add(&container.pidfd, Token::Exit(serial))?;
        if let Some(channel) = &container.channel {
            self.poller.add(channel, Token::Channel(serial))?;
        }
        self.watch_streams(container)
    }

    pub(super) fn watch_streams(&self, container: &Container) -> io::Result<()> {
        let Some(pump) = &container.pump else {
            return Ok(());
        };
        for index in 0..pump.sources() {
            if let (false, Some(reader)) = (pump.has_ended(index), pump.reader(index)) {
                self.poller.add(reader, Token::Stream(container.serial, u8::try_from(index).unwrap_or(0)))?;
            }
        }
        Ok(())
    }

    pub(super) fn unwatch(&self, container: &Container) {
        self.poller.remove(&container.pidfd);
        if let Some(channel) = &container.channel {
            self.poller.remove(channel);
        }
        self.unwatch_streams(container);
    }

    pub(super) fn unwatch_streams(&self, container: &Container) {
        let Some(pump) = &container.pump else {
            return;
        };
        for index in 0..pump.sources() {
            if let Some(reader) = pump.reader(index) {
                self.poller.remove(reader);
            }
        }
    }

    pub(super) fn child_reported(&mut self, serial: Serial) {
        let Some(container) = self.by_serial(serial) else {
            return;
        };
        let Some(channel) = &container.channel else {
            return;
        };
        match channel.receive() {
            Ok(Received::Nothing) => {}
            Ok(Received::Report(Report::Prepared(identity), terminal)) => {
                self.child_prepared(serial, identity, terminal);
            }
            Ok(Received::Report(Report::Failed(error), _)) => {
                self.child_failed(serial, error);
            }
            Ok(Received::Closed) | Err(_) => self.child_closed(serial),
        }
    }

    pub(super) fn child_prepared(&mut self, serial: Serial, identity: Identity, terminal: Option<OwnedFd>) {
        let Some(container) = self.by_serial(serial) else {
            return;
        };
        let Phase::Preparing(caller) = container.phase else {
            return;
        };
        container.identity = identity.clone();
        let taken = terminal.map_or(Ok(()), |master| container.take_terminal(master));
        let pidfd = container.pidfd.try_clone();
        let pid = container.pid.as_raw_nonzero().get().cast_unsigned();
        let (true, Ok(pidfd)) = (taken.is_ok(), pidfd) else {
            return self.discard(serial, MonitorError::Protocol("descriptor of the child".to_owned()));
        };
        container.phase = Phase::Created;
        let answer = Answer::ContainerCreated { pid, identity, pidfd: FdSlot(0) };
        self.outbox.reply(caller, Ok(answer), vec![pidfd]);
        let Some(container) = self.containers.iter().find(|container| container.serial == serial) else {
            return;
        };
        // Streams of pipes are in the set already; a terminal's is new.
        let _present = self.watch_streams(container);
    }

    pub(super) fn child_failed(&mut self, serial: Serial, error: LaunchError) {
        let Some(container) = self.by_serial(serial) else {
            return;
        };
        match container.phase {
            Phase::Preparing(_) => self.discard(serial, MonitorError::Launch(error)),
            Phase::Created | Phase::Starting(_) => {
                container.start_error = Some(error.clone());
                if let Phase::Starting(caller) = container.phase {
                    container.phase = Phase::Created;
                    self.outbox.reply(caller, Err(MonitorError::Launch(error)), Vec::new());
                }
            }
            Phase::Running { .. } | Phase::Ended(_) => {}
        }
    }

    /// The child executed, or died without a word; its pidfd tells the second.
    pub(super) fn child_closed(&mut self, serial: Serial) {
        let Some(container) = self.by_serial(serial) else {
            return;
        };
        let channel = container.channel.take();
        match container.phase {
            Phase::Preparing(_) => self.discard(serial, died()),
            Phase::Starting(caller) => {
                let started_at = Wall::now().rfc3339();
                container.phase = Phase::Running { started_at: started_at.clone() };
                self.outbox.reply(caller, Ok(Answer::ContainerStarted { started_at }), Vec::new());
            }
            Phase::Created | Phase::Running { .. } | Phase::Ended(_) => {}
        }
        if let Some(channel) = channel {
            self.poller.remove(&channel);
        }
    }

    /// Gives up a container that was never created.
    pub(super) fn discard(&mut self, serial: Serial, error: MonitorError) {
        let Some(at) = self.containers.iter().position(|container| container.serial == serial) else {
            return;
        };
        let container = self.containers.swap_remove(at);
        self.unwatch(&container);
        let _gone = container.kill();
        for caller in &container.removers {
            self.outbox.reply(*caller, Ok(Answer::Done), Vec::new());
        }
        let caller = match container.phase {
            Phase::Preparing(caller) => Some(caller),
            Phase::Created | Phase::Starting(_) | Phase::Running { .. } | Phase::Ended(_) => None,
        };
        self.doom(serial, container.pidfd, caller.map(|caller| (caller, error)));
    }

    pub(super) fn doom(&mut self, serial: Serial, pidfd: OwnedFd, reply: Option<(Caller, MonitorError)>) {
        let watched = self.poller.add(&pidfd, Token::Doomed(serial)).is_ok();
        self.doomed.push(Doomed { serial, pidfd, reply });
        if !watched {
            // It stays a zombie until the monitor ends.
            self.bury(serial);
        }
    }

    pub(super) fn bury(&mut self, serial: Serial) {
        let Some(at) = self.doomed.iter().position(|doomed| doomed.serial == serial) else {
            return;
        };
        let doomed = self.doomed.swap_remove(at);
        self.poller.remove(&doomed.pidfd);
        reap(doomed.pidfd.as_fd());
        if let Some((caller, error)) = doomed.reply {
            self.outbox.reply(caller, Err(error), Vec::new());
        }
    }
}
