//! What the monitor holds, and the loop that everything comes through.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::clock::{Moment, Wall};
use super::container::{Container, Phase, peek_exit, reap};
use super::exec::Exec;
use super::outbox::{Caller, Outbox};
use super::poller::{Poller, Serial, Token};
use super::protocol::{Answer, Event, ExitRecord, HostNamespaces, MonitorError, WhenBrainDies};
use super::pump::{Scratch, Turn};
use super::volumes::Volumes;
use super::{channel, record};

/// How long the shared buffers stay after the last use.
const QUIET_MS: u64 = 100;
/// How often a log or record that cannot be written is tried again.
const RETRY_MS: u64 = 1_000;
/// How often an ended container is looked at whose cgroup or pipes are not empty.
const LINGER_TICK_MS: u64 = 5;
/// How long a log pipe that somebody else holds may keep back the event, once the cgroup is empty.
const DRAIN_MS: u64 = 100;

/// Pause and what belongs to it.
#[derive(Debug)]
pub(super) struct Sandbox {
    pub(super) id: String,
    pub(super) pid: rustix::process::Pid,
    pub(super) pidfd: OwnedFd,
    pub(super) netns: OwnedFd,
    pub(super) host: HostNamespaces,
    pub(super) when_brain_dies: WhenBrainDies,
    pub(super) alive: bool,
    /// Until pause executed.
    pub(super) starting: Option<(Caller, channel::MonitorChannel)>,
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
    /// Children that failed before they became anything; only their end is waited for.
    pub(super) doomed: Vec<(Serial, OwnedFd)>,
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

    // Children on their way to exec.

    /// Puts a new container's descriptors into the set.
    pub(super) fn watch(&self, container: &Container) -> io::Result<()> {
        let serial = container.serial;
        self.poller.add(&container.pidfd, Token::Exit(serial))?;
        if let Some(channel) = &container.channel {
            self.poller.add(channel, Token::Channel(serial))?;
        }
        self.watch_streams(container)
    }

    fn watch_streams(&self, container: &Container) -> io::Result<()> {
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

    fn unwatch_streams(&self, container: &Container) {
        let Some(pump) = &container.pump else {
            return;
        };
        for index in 0..pump.sources() {
            if let Some(reader) = pump.reader(index) {
                self.poller.remove(reader);
            }
        }
    }

    fn child_reported(&mut self, serial: Serial) {
        let Some(container) = self.by_serial(serial) else {
            return;
        };
        let Some(channel) = &container.channel else {
            return;
        };
        match channel.receive() {
            Ok(channel::Received::Nothing) => {}
            Ok(channel::Received::Report(channel::Report::Prepared(identity), terminal)) => {
                self.child_prepared(serial, identity, terminal);
            }
            Ok(channel::Received::Report(channel::Report::Failed(error), _)) => {
                self.child_failed(serial, error);
            }
            Ok(channel::Received::Closed) | Err(_) => self.child_closed(serial),
        }
    }

    fn child_prepared(
        &mut self,
        serial: Serial,
        identity: crate::runtime::launch::Identity,
        terminal: Option<OwnedFd>,
    ) {
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
        let answer = Answer::ContainerCreated { pid, identity, pidfd: crate::runtime::launch::FdSlot(0) };
        self.outbox.reply(caller, Ok(answer), vec![pidfd]);
        let Some(container) = self.containers.iter().find(|container| container.serial == serial) else {
            return;
        };
        // Streams of pipes are in the set already; a terminal's is new.
        let _present = self.watch_streams(container);
    }

    fn child_failed(&mut self, serial: Serial, error: crate::runtime::launch::LaunchError) {
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
    fn child_closed(&mut self, serial: Serial) {
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
    fn discard(&mut self, serial: Serial, error: MonitorError) {
        let Some(at) = self.containers.iter().position(|container| container.serial == serial) else {
            return;
        };
        let container = self.containers.swap_remove(at);
        self.unwatch(&container);
        let _gone = container.kill();
        if let Phase::Preparing(caller) = container.phase {
            self.outbox.reply(caller, Err(error), Vec::new());
        }
        for caller in container.removers {
            self.outbox.reply(caller, Ok(Answer::Done), Vec::new());
        }
        self.doom(serial, container.pidfd);
    }

    pub(super) fn doom(&mut self, serial: Serial, pidfd: OwnedFd) {
        // Without a place in the set it is buried at the end.
        let _unwatched = self.poller.add(&pidfd, Token::Doomed(serial));
        self.doomed.push((serial, pidfd));
    }

    fn bury(&mut self, serial: Serial) {
        let Some(at) = self.doomed.iter().position(|(doomed, _)| *doomed == serial) else {
            return;
        };
        let (_, pidfd) = self.doomed.swap_remove(at);
        self.poller.remove(&pidfd);
        reap(pidfd.as_fd());
    }

    // Ends.

    fn container_ended(&mut self, serial: Serial) {
        // Its last words come first: an exec and an end may be seen at once.
        self.child_reported(serial);
        let now = Moment::now();
        let Some(container) = self.by_serial(serial) else {
            return;
        };
        let Some(exit) = peek_exit(container.pidfd.as_fd()) else {
            return;
        };
        if container.channel.is_some() && matches!(container.phase, Phase::Preparing(_) | Phase::Starting(_)) {
            self.child_reported(serial);
        }
        let Some(container) = self.by_serial(serial) else {
            return;
        };
        if matches!(container.phase, Phase::Preparing(_)) {
            return self.discard(serial, died());
        }
        let ending = container.end(exit, now);
        let waiting = std::mem::replace(&mut container.phase, Phase::Ended(ending));
        container.stdin = None;
        if let Some(pump) = &mut container.pump {
            pump.release_writers();
        }
        let channel = container.channel.take();
        if let Phase::Starting(caller) = waiting {
            self.outbox.reply(caller, Err(died()), Vec::new());
        }
        if let Some(channel) = channel {
            self.poller.remove(&channel);
        }
        if let Some(container) = self.containers.iter().find(|container| container.serial == serial) {
            self.poller.remove(&container.pidfd);
        }
        self.record(serial, now);
        self.settle(serial, now);
    }

    fn record(&mut self, serial: Serial, now: Moment) {
        let Some(container) = self.by_serial(serial) else {
            return;
        };
        if let Err(error) = container.record() {
            note(&format!("record of {}: {error}, trying again", container.id));
            self.record_retry_at = Some(now.after_ms(RETRY_MS));
        }
    }

    /// Ends what the first process left behind (rule TR11), completes the log, and tells the brain.
    fn settle(&mut self, serial: Serial, now: Moment) {
        let streams =
            self.by_serial(serial).and_then(|container| container.pump.as_ref().map(super::pump::Pump::sources));
        for stream in 0..streams.unwrap_or(0) {
            self.pump(serial, stream);
        }
        let Some(container) = self.by_serial(serial) else {
            return;
        };
        let quiet = container.pump.as_ref().is_none_or(|pump| pump.is_finished() || pump.is_blocked());
        let populated = record::is_populated(container.cgroup.as_fd());
        if populated {
            let _gone = container.kill();
        }
        let Phase::Ended(ending) = &mut container.phase else {
            return;
        };
        if !populated && ending.drained_by.is_none() {
            ending.drained_by = Some(now.after_ms(DRAIN_MS));
        }
        let drained = !populated && (quiet || ending.drained_by.is_some_and(|due| due <= now));
        if !drained && now < ending.give_up_at {
            self.linger_at = Some(now.after_ms(LINGER_TICK_MS));
            return;
        }
        if !ending.told {
            ending.told = true;
            let record: ExitRecord = ending.record.clone();
            let remove = !container.removers.is_empty();
            self.outbox.event(Event::ContainerExited(record));
            if remove {
                self.forget(serial);
            }
        }
    }

    /// Drops an ended container and answers who asked for it.
    pub(super) fn forget(&mut self, serial: Serial) {
        let Some(at) = self.containers.iter().position(|container| container.serial == serial) else {
            return;
        };
        let container = self.containers.swap_remove(at);
        self.unwatch(&container);
        for caller in &container.removers {
            self.outbox.reply(*caller, Ok(Answer::Done), Vec::new());
        }
        if matches!(&container.phase, Phase::Ended(ending) if !ending.recorded) {
            reap(container.pidfd.as_fd());
        }
    }

    // Logs.

    fn pump(&mut self, serial: Serial, stream: usize) {
        let now = Moment::now();
        let Some(container) = self.containers.iter_mut().find(|container| container.serial == serial) else {
            return;
        };
        let Some(pump) = &mut container.pump else {
            return;
        };
        if pump.is_blocked() || pump.has_ended(stream) {
            return;
        }
        match pump.turn(stream, &mut self.scratch) {
            Turn::Drained | Turn::Busy => {}
            Turn::Ended => {
                if let Some(reader) = pump.reader(stream) {
                    self.poller.remove(reader);
                }
                if pump.is_finished() {
                    container.pump = None;
                }
            }
            Turn::Blocked(cause) => {
                container.retry_log_at = Some(now.after_ms(RETRY_MS));
                let event = Event::LogBlocked { container: container.id.clone(), cause };
                self.outbox.event(event);
                if let Some(container) = self.containers.iter().find(|container| container.serial == serial) {
                    self.unwatch_streams(container);
                }
            }
        }
    }

    fn retry_log(&mut self, serial: Serial, now: Moment) {
        let Some(container) = self.containers.iter_mut().find(|container| container.serial == serial) else {
            return;
        };
        container.retry_log_at = None;
        let Some(pump) = &mut container.pump else {
            return;
        };
        if pump.retry(&mut self.scratch).is_err() {
            container.retry_log_at = Some(now.after_ms(RETRY_MS));
            return;
        }
        self.outbox.event(Event::LogResumed { container: container.id.clone() });
        if pump.is_finished() {
            container.pump = None;
        }
        if let Some(container) = self.containers.iter().find(|container| container.serial == serial) {
            // Without a place in the set the stream is drained at the container's end.
            let _unwatched = self.watch_streams(container);
        }
    }

    // Execs and pause.

    fn exec_reported(&mut self, serial: Serial) {
        let Some(at) = self.execs.iter().position(|exec| exec.serial == serial) else {
            return;
        };
        let Some(exec) = self.execs.get_mut(at) else {
            return;
        };
        let Some(starting) = &mut exec.starting else {
            return;
        };
        match starting.channel.receive() {
            Ok(channel::Received::Nothing) => {}
            Ok(channel::Received::Report(channel::Report::Prepared(_), terminal)) => starting.terminal = terminal,
            Ok(channel::Received::Report(channel::Report::Failed(error), _)) => {
                let exec = self.execs.swap_remove(at);
                self.exec_failed(exec, MonitorError::Launch(error));
            }
            Ok(channel::Received::Closed) | Err(_) => {
                let pid = exec.pid.as_raw_nonzero().get().cast_unsigned();
                let Some(starting) = exec.starting.take() else {
                    return;
                };
                self.poller.remove(&starting.channel);
                let fds: Vec<OwnedFd> = starting.terminal.into_iter().collect();
                let terminal = (!fds.is_empty()).then_some(crate::runtime::launch::FdSlot(0));
                self.outbox.reply(starting.caller, Ok(Answer::ExecStarted { pid, terminal }), fds);
            }
        }
    }

    fn exec_failed(&mut self, exec: Exec, error: MonitorError) {
        self.poller.remove(&exec.pidfd);
        if let Some(starting) = exec.starting {
            self.poller.remove(&starting.channel);
            self.outbox.reply(starting.caller, Err(error), Vec::new());
        }
        self.doom(exec.serial, exec.pidfd);
    }

    fn exec_ended(&mut self, serial: Serial) {
        // At most: prepared, failed or closed.
        for _ in 0..2 {
            self.exec_reported(serial);
        }
        let Some(at) = self.execs.iter().position(|exec| exec.serial == serial) else {
            return;
        };
        let Some(exit) = self.execs.get(at).and_then(|exec| peek_exit(exec.pidfd.as_fd())) else {
            return;
        };
        let exec = self.execs.swap_remove(at);
        if exec.starting.is_some() {
            return self.exec_failed(exec, died());
        }
        self.poller.remove(&exec.pidfd);
        reap(exec.pidfd.as_fd());
        self.outbox.event(Event::ExecExited { id: exec.id, exit });
    }

    fn pause_reported(&mut self) {
        let Some(sandbox) = &mut self.sandbox else {
            return;
        };
        let Some((caller, channel)) = &sandbox.starting else {
            return;
        };
        let caller = *caller;
        match channel.receive() {
            Ok(channel::Received::Nothing | channel::Received::Report(channel::Report::Prepared(_), _)) => {}
            Ok(channel::Received::Report(channel::Report::Failed(error), _)) => {
                self.sandbox_failed(MonitorError::Launch(error));
            }
            Ok(channel::Received::Closed) | Err(_) => {
                self.poller.remove(channel);
                sandbox.starting = None;
                self.answer_sandbox(caller);
            }
        }
    }

    pub(super) fn answer_sandbox(&mut self, caller: Caller) {
        let Some(sandbox) = &self.sandbox else {
            return;
        };
        let (Ok(pidfd), Ok(netns)) = (sandbox.pidfd.try_clone(), sandbox.netns.try_clone()) else {
            return self.sandbox_failed(died());
        };
        let answer = Answer::SandboxCreated {
            pause_pid: sandbox.pid.as_raw_nonzero().get().cast_unsigned(),
            pidfd: crate::runtime::launch::FdSlot(0),
            netns: crate::runtime::launch::FdSlot(1),
        };
        self.outbox.reply(caller, Ok(answer), vec![pidfd, netns]);
    }

    fn sandbox_failed(&mut self, error: MonitorError) {
        let Some(sandbox) = self.sandbox.take() else {
            return;
        };
        self.poller.remove(&sandbox.pidfd);
        if let Some((caller, channel)) = sandbox.starting {
            self.poller.remove(&channel);
            self.outbox.reply(caller, Err(error), Vec::new());
        }
        let _gone = crate::sys::signal::send(sandbox.pidfd.as_fd(), libc::SIGKILL);
        let serial = self.next_serial();
        self.doom(serial, sandbox.pidfd);
    }

    fn pause_ended(&mut self) {
        self.pause_reported();
        let Some(sandbox) = &mut self.sandbox else {
            return;
        };
        let Some(exit) = peek_exit(sandbox.pidfd.as_fd()) else {
            return;
        };
        if sandbox.starting.is_some() {
            return self.sandbox_failed(died());
        }
        sandbox.alive = false;
        self.poller.remove(&sandbox.pidfd);
        reap(sandbox.pidfd.as_fd());
        if self.shutdown.is_none() {
            self.outbox.event(Event::SandboxExited { exit });
        }
    }

    // The end of all.

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

fn died() -> MonitorError {
    MonitorError::System { call: "child".to_owned(), cause: "it died before its program ran".to_owned(), errno: None }
}

/// One line for whoever looks at the monitor's standard error.
pub(super) fn note(text: &str) {
    let _lost = rustix::io::write(rustix::stdio::stderr(), format!("monitor: {text}\n").as_bytes());
}
