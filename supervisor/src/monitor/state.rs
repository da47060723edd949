//! What the monitor holds, and the loop that everything comes through.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::channel;
use super::clock::Moment;
use super::container::{Container, Phase};
use super::exec::Exec;
use super::outbox::{Caller, Outbox};
use super::poller::{Poller, Serial, Token};
use super::protocol::{Answer, HostNamespaces, MonitorError, WhenBrainDies};
use super::pump::Scratch;
use super::volumes::Volumes;
use crate::user_namespace::IdRange;

/// How long the shared buffers stay after the last use.
const QUIET_MS: u64 = 100;
/// How often a log or record that cannot be written is tried again.
pub(super) const RETRY_MS: u64 = 1_000;
/// How often an ended container is looked at whose cgroup or pipes are not empty.
pub(super) const LINGER_TICK_MS: u64 = 5;
/// How long a log pipe that somebody else holds may keep back the event, once the cgroup is empty.
pub(super) const DRAIN_MS: u64 = 100;

/// Pause and what belongs to it.
#[derive(Debug)]
pub(super) struct Sandbox {
    pub(super) id: String,
    pub(super) pid: rustix::process::Pid,
    pub(super) pidfd: OwnedFd,
    pub(super) netns: OwnedFd,
    pub(super) host: HostNamespaces,
    pub(super) users: Option<UserNamespace>,
    pub(super) when_brain_dies: WhenBrainDies,
    pub(super) alive: bool,
    /// Until pause executed.
    pub(super) starting: Option<(Caller, channel::MonitorChannel)>,
}

/// The pod's own users.
#[derive(Debug)]
pub(super) struct UserNamespace {
    pub(super) namespace: OwnedFd,
    /// The host's procfs.
    pub(super) proc: OwnedFd,
    pub(super) ids: IdRange,
}

impl UserNamespace {
    pub(super) fn for_child(&self, own_cgroup_namespace: bool) -> channel::Users<'_> {
        let (namespace, proc) = (self.namespace.as_fd(), self.proc.as_fd());
        channel::Users { namespace, proc, ids: self.ids, own_cgroup_namespace }
    }
}

/// A child that is to be buried.
#[derive(Debug)]
pub(super) struct Doomed {
    pub(super) serial: Serial,
    pub(super) pidfd: OwnedFd,
    /// Who waits for it, and hears why.
    pub(super) reply: Option<(Caller, MonitorError)>,
}

/// The way to the monitor's own end.
#[derive(Debug)]
pub(super) struct Shutdown {
    pub(super) caller: Option<Caller>,
    /// When processes that were asked to end are killed; None once they are.
    pub(super) kill_at: Option<Moment>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) poller: Poller,
    pub(super) listener: Option<OwnedFd>,
    pub(super) null: OwnedFd,
    pub(super) own_pid_namespace: OwnedFd,
    pub(super) volumes: Volumes,
    pub(super) outbox: Outbox,
    pub(super) scratch: Scratch,
    pub(super) sandbox: Option<Sandbox>,
    pub(super) containers: Vec<Container>,
    pub(super) execs: Vec<Exec>,
    /// Children that failed before they became anything: only their end is waited for, and the failure is told after it, so
    /// that nothing of them is left then.
    pub(super) doomed: Vec<Doomed>,
    pub(super) shutdown: Option<Shutdown>,
    pub(super) last_serial: u32,
    /// When an ended container has to be looked at again.
    pub(super) linger_at: Option<Moment>,
    pub(super) record_retry_at: Option<Moment>,
}

impl State {
    pub(super) fn next_serial(&mut self) -> Serial {
        self.last_serial = self.last_serial.wrapping_add(1);
        Serial(self.last_serial)
    }

    /// Until the pod is gone.
    pub(super) fn run(&mut self) -> io::Result<()> {
        while !self.is_over() {
            let timeout = self.timeout_ms(Moment::now());
            let ready = self.poller.wait(timeout)?;
            if ready.is_empty() {
                self.scratch.release();
            }
            for token in ready {
                self.handle(token);
            }
            self.tick(Moment::now());
            self.send();
        }
        self.send();
        Ok(())
    }

    fn handle(&mut self, token: Token) {
        match token {
            Token::Listener => self.accept(),
            Token::Brain => self.receive(),
            Token::PauseChannel => self.pause_reported(),
            Token::PauseExit => self.pause_ended(),
            Token::Channel(serial) => self.child_reported(serial),
            Token::Exit(serial) => self.container_ended(serial),
            Token::Stream(serial, stream) => self.pump(serial, usize::from(stream)),
            Token::ExecChannel(serial) => self.exec_reported(serial),
            Token::ExecExit(serial) => self.exec_ended(serial),
            Token::Doomed(serial) => self.bury(serial),
        }
    }

    /// Milliseconds until something has to be done without an event.
    fn timeout_ms(&self, now: Moment) -> Option<u64> {
        let logs = self.containers.iter().filter_map(|container| container.retry_log_at);
        let kill = self.shutdown.as_ref().and_then(|shutdown| shutdown.kill_at);
        let quiet = self.scratch.is_dirty().then(|| now.after_ms(QUIET_MS));
        let others = [self.linger_at, self.record_retry_at, kill, quiet].into_iter().flatten();
        logs.chain(others).min().map(|due| due.0.saturating_sub(now.0))
    }

    /// What is due now.
    fn tick(&mut self, now: Moment) {
        if self.linger_at.is_some_and(|due| due <= now) {
            self.linger_at = None;
            for serial in self.serials(|container| container.is_ended() && !container.is_told()) {
                self.settle(serial, now);
            }
        }
        if self.record_retry_at.is_some_and(|due| due <= now) {
            self.record_retry_at = None;
            for serial in self.serials(|container| matches!(&container.phase, Phase::Ended(ending) if !ending.recorded))
            {
                self.record(serial, now);
            }
        }
        for serial in self.serials(|container| container.retry_log_at.is_some_and(|due| due <= now)) {
            self.retry_log(serial, now);
        }
        self.drive_shutdown(now);
    }

    fn serials(&self, wanted: impl Fn(&Container) -> bool) -> Vec<Serial> {
        self.containers.iter().filter(|container| wanted(container)).map(|container| container.serial).collect()
    }

    pub(super) fn by_serial(&mut self, serial: Serial) -> Option<&mut Container> {
        self.containers.iter_mut().find(|container| container.serial == serial)
    }

    pub(super) fn by_id(&mut self, id: &str) -> Option<&mut Container> {
        self.containers.iter_mut().find(|container| container.id == id)
    }

    fn is_over(&self) -> bool {
        let pause = self.sandbox.as_ref().is_some_and(|sandbox| sandbox.alive);
        self.shutdown.is_some()
            && !pause
            && self.execs.is_empty()
            && self.doomed.is_empty()
            && self.containers.iter().all(Container::is_told)
    }

    fn drive_shutdown(&mut self, now: Moment) {
        let Some(shutdown) = &mut self.shutdown else {
            return;
        };
        if shutdown.kill_at.is_some_and(|due| due <= now) {
            shutdown.kill_at = None;
        }
        let kill = shutdown.kill_at.is_none();
        let containers_ended = self.containers.iter().all(Container::is_told);
        if kill && !containers_ended {
            for container in self.containers.iter().filter(|container| !container.is_ended()) {
                let _gone = container.kill();
            }
        }
        if containers_ended {
            for exec in &self.execs {
                exec.kill();
            }
            if let Some(sandbox) = self.sandbox.as_ref().filter(|sandbox| sandbox.alive) {
                let _gone = crate::sys::signal::send(sandbox.pidfd.as_fd(), libc::SIGKILL);
            }
        }
        if self.is_over()
            && let Some(caller) = self.shutdown.as_mut().and_then(|shutdown| shutdown.caller.take())
        {
            self.outbox.reply(caller, Ok(Answer::Done), Vec::new());
        }
    }
}

pub(super) fn died() -> MonitorError {
    MonitorError::System { call: "child".to_owned(), cause: "it died before its program ran".to_owned(), errno: None }
}

/// One line for whoever looks at the monitor's standard error.
pub(super) fn note(text: &str) {
    let _lost = rustix::io::write(rustix::stdio::stderr(), format!("monitor: {text}\n").as_bytes());
}
