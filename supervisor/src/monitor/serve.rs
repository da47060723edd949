//! What the brain asks for.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::net::SocketFlags;
use rustix::thread::ThreadNameSpaceType;

use super::clock::Moment;
use super::container::{Container, Phase, Surroundings};
use super::exec::{self, Exec};
use super::failure::{Called, Result, not_found, own, slot, wrong_state};
use super::fork::{self, Join};
use super::outbox::Caller;
use super::poller::Token;
use super::protocol::{
    Answer, AttachSpec, Call, ContainerSpec, ExecSpec, MonitorError, OLDEST_VERSION, PidNamespace, Request, SHM_VOLUME,
    SandboxSpec, Snapshot, VERSION, WhenBrainDies,
};
use super::pump::Attacher;
use super::state::{Sandbox, Shutdown, State, UserNamespace, note};
use super::volumes::refuse_taken;
use super::{pause, wire};
use crate::runtime::launch::FdSlot;
use crate::user_namespace::IdRange;

/// What becomes of a request: an answer with its descriptors now, or one later.
enum Outcome {
    Now(Answer, Vec<OwnedFd>),
    Later,
}

const DONE: Outcome = Outcome::Now(Answer::Done, Vec::new());

impl State {
    pub(super) fn accept(&mut self) {
        let Some(listener) = &self.listener else {
            return;
        };
        let Ok(socket) = rustix::net::accept_with(listener, SocketFlags::CLOEXEC) else {
            return;
        };
        let own = rustix::process::geteuid();
        let allowed = rustix::net::sockopt::socket_peercred(&socket).is_ok_and(|peer| peer.uid == own);
        if allowed {
            self.connect(socket);
        }
    }

    /// The newest connection is the brain's.
    pub(super) fn connect(&mut self, socket: OwnedFd) {
        if self.poller.add(&socket, Token::Brain).is_err() {
            return;
        }
        if let Some(before) = self.outbox.connect(socket) {
            self.poller.remove(before);
        }
    }

    /// Sends what waits, and says whether room or requests are waited for.
    pub(super) fn send(&mut self) {
        if self.outbox.flush().is_err() {
            self.brain_left();
        }
        if let Some(socket) = self.outbox.socket() {
            self.poller.set_interest(socket, Token::Brain, !self.outbox.is_full(), self.outbox.is_waiting());
        }
    }

    pub(super) fn receive(&mut self) {
        let Some(socket) = self.outbox.socket() else {
            return;
        };
        if self.outbox.is_full() {
            return;
        }
        let buffer = self.scratch.borrow();
        let (call, fds) = match wire::receive(socket, buffer) {
            Ok((0, _)) => return self.brain_left(),
            Ok((length, fds)) => (decode(buffer.get(..length).unwrap_or_default()), fds),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return;
            }
            Err(error) => {
                note(&format!("connection: {error}"));
                return self.brain_left();
            }
        };
        let call = match call {
            Ok(call) => call,
            // A newer brain may ask for what this monitor does not know: it is told so and goes on.
            Err((Some(number), error)) => {
                note(&format!("request: {error}"));
                let caller = self.outbox.caller(number);
                return self.outbox.reply(caller, Err(MonitorError::Protocol(error)), Vec::new());
            }
            Err((None, error)) => {
                // Without a number there is nobody to answer.
                note(&format!("request: {error}"));
                return self.brain_left();
            }
        };
        let caller = self.outbox.caller(call.number);
        match self.answer(call.request, &fds, caller) {
            Ok(Outcome::Now(answer, fds)) => self.outbox.reply(caller, Ok(answer), fds),
            Ok(Outcome::Later) => {}
            Err(error) => self.outbox.reply(caller, Err(error), Vec::new()),
        }
    }

    /// A pod without a sandbox has nothing to stay for.
    fn brain_left(&mut self) {
        if let Some(socket) = self.outbox.disconnect() {
            self.poller.remove(socket);
        }
        if self.shutdown.is_some() {
            return;
        }
        match self.sandbox.as_ref().map(|sandbox| sandbox.when_brain_dies) {
            Some(WhenBrainDies::Stay) => {}
            Some(WhenBrainDies::EndAfter { grace_ms }) => self.end_after(grace_ms),
            None => self.end_after(0),
        }
    }

    fn end_after(&mut self, grace_ms: u64) {
        for container in &self.containers {
            if let Phase::Running { .. } = container.phase {
                let _gone = crate::sys::signal::send(container.pidfd.as_fd(), libc::SIGTERM);
            } else if !container.is_ended() {
                let _gone = container.kill();
            }
        }
        self.shutdown = Some(Shutdown { caller: None, kill_at: Some(Moment::now().after_ms(grace_ms)) });
    }

    fn answer(&mut self, request: Request, fds: &[OwnedFd], caller: Caller) -> Result<Outcome> {
        if !self.outbox.is_greeted() && !matches!(request, Request::Hello { .. }) {
            return Err(MonitorError::Protocol("Hello comes first".to_owned()));
        }
        match request {
            Request::Hello { version } => self.hello(version),
            Request::CreateSandbox(spec) => self.create_sandbox(spec, fds, caller),
            Request::KeepVolume { name, mount } => self.volumes.keep(&name, slot(fds, mount)?).map(|()| DONE),
            Request::OpenVolume { name } => {
                self.volumes.open(&name).map(|root| Outcome::Now(Answer::Volume { root: FdSlot(0) }, vec![root]))
            }
            Request::CloneVolume { name } => {
                self.volumes.copy(&name).map(|root| Outcome::Now(Answer::Volume { root: FdSlot(0) }, vec![root]))
            }
            Request::CreateContainer(spec) => self.create_container(spec, fds, caller),
            Request::StartContainer { id } => self.start_container(&id, caller),
            Request::SignalContainer { id, signal } => self.signal_container(&id, signal),
            Request::KillContainer { id } => self.existing(&id)?.kill().map(|()| DONE),
            Request::RemoveContainer { id } => self.remove_container(&id, caller),
            Request::Exec(spec) => self.exec(spec, fds, caller),
            Request::KillExec { id } => self.kill_exec(&id),
            Request::Attach(spec) => self.attach(&spec, fds),
            Request::Snapshot => Ok(Outcome::Now(Answer::Snapshot(self.snapshot()), Vec::new())),
            Request::Shutdown => {
                self.shutdown = Some(Shutdown { caller: Some(caller), kill_at: None });
                Ok(Outcome::Later)
            }
        }
    }

    fn hello(&mut self, version: u16) -> Result<Outcome> {
        if version < OLDEST_VERSION {
            return Err(MonitorError::Protocol(format!("version {version} is older than {OLDEST_VERSION}")));
        }
        self.outbox.greet();
        let pid = rustix::process::getpid().as_raw_nonzero().get().cast_unsigned();
        Ok(Outcome::Now(Answer::Hello { version: version.min(VERSION), pid }, Vec::new()))
    }

    fn create_sandbox(&mut self, spec: SandboxSpec, fds: &[OwnedFd], caller: Caller) -> Result<Outcome> {
        self.refuse_when_ending()?;
        refuse_taken(self.sandbox.is_some(), "sandbox", &spec.id)?;
        let (cgroup, binary) = (slot(fds, spec.cgroup)?, slot(fds, spec.pause)?);
        if let Some(bytes) = spec.shm_bytes {
            self.volumes.keep_shm(SHM_VOLUME, bytes, spec.user_namespace)?;
        }
        let given = spec.netns.map(|netns| slot(fds, netns)).transpose()?;
        let inherited = pause::Inherited { pause: binary, netns: given };
        let child = fork::fork(pause::namespaces(&spec), cgroup, |channel| pause::run(&spec, inherited, channel))?;
        let users = spec.user_namespace.map(|ids| prepare_users(&child, ids, spec.oom_score_adj)).transpose();
        let netns = match spec.netns {
            // Pause may not have joined it yet.
            Some(given) => own(fds, given),
            None => namespace_of(child.pid, "net"),
        };
        let added = self
            .poller
            .add(&child.pidfd, Token::PauseExit)
            .and_then(|()| self.poller.add(&child.channel, Token::PauseChannel))
            .called(|| "epoll_ctl(pause)".to_owned());
        let (netns, users) = match added.and(netns).and_then(|netns| Ok((netns, users?))) {
            Ok(made) => made,
            Err(error) => {
                self.abandon(child);
                return Err(error);
            }
        };
        self.sandbox = Some(Sandbox {
            id: spec.id,
            pid: child.pid,
            pidfd: child.pidfd,
            netns,
            host: spec.host,
            users,
            when_brain_dies: spec.when_brain_dies,
            alive: true,
            starting: Some((caller, child.channel)),
        });
        Ok(Outcome::Later)
    }

    /// Ends a child that cannot be waited for properly.
    fn abandon(&mut self, child: fork::Child) {
        let _gone = crate::sys::signal::send(child.pidfd.as_fd(), libc::SIGKILL);
        self.poller.remove(&child.pidfd);
        self.poller.remove(&child.channel);
        let serial = self.next_serial();
        self.doom(serial, child.pidfd, None);
    }

    fn create_container(&mut self, spec: ContainerSpec, fds: &[OwnedFd], caller: Caller) -> Result<Outcome> {
        self.refuse_when_ending()?;
        refuse_taken(self.by_id(&spec.id).is_some(), "container", &spec.id)?;
        let serial = self.next_serial();
        let sandbox = self.sandbox.as_ref().filter(|sandbox| sandbox.alive && sandbox.starting.is_none());
        let sandbox = sandbox.ok_or_else(|| not_found("sandbox", ""))?;
        let around = Surroundings {
            null: self.null.as_fd(),
            own_pid_namespace: self.own_pid_namespace.as_fd(),
            pid_target: match &spec.pid {
                PidNamespace::Own | PidNamespace::Host => None,
                PidNamespace::Sandbox => Some(sandbox.pidfd.as_fd()),
                PidNamespace::Container(id) => Some(running(&self.containers, id)?.pidfd.as_fd()),
            },
            join: Join {
                target: sandbox.pidfd.as_fd(),
                namespaces: joined(sandbox),
                own_cgroup_namespace: !spec.host_cgroup_namespace,
            },
            users: sandbox.users.as_ref().map(|users| users.for_child(!spec.host_cgroup_namespace)),
        };
        let container = Container::create(spec, fds, around, serial, caller)?;
        let watched = self.watch(&container).called(|| "epoll_ctl(container)".to_owned());
        if let Err(error) = watched {
            self.unwatch(&container);
            let _gone = container.kill();
            self.doom(serial, container.pidfd, None);
            return Err(error);
        }
        self.containers.push(container);
        Ok(Outcome::Later)
    }

    fn start_container(&mut self, id: &str, caller: Caller) -> Result<Outcome> {
        let container = self.existing(id)?;
        match (&container.phase, &container.channel) {
            (Phase::Created, Some(channel)) if container.start_error.is_none() => {
                channel.go().called(|| format!("send(go to {id})"))?;
                container.phase = Phase::Starting(caller);
                Ok(Outcome::Later)
            }
            (Phase::Running { started_at }, _) => {
                Ok(Outcome::Now(Answer::ContainerStarted { started_at: started_at.clone() }, Vec::new()))
            }
            (Phase::Created | Phase::Preparing(_) | Phase::Starting(_) | Phase::Ended(_), _) => {
                Err(wrong_state("container", id, container.state_name()))
            }
        }
    }

    fn signal_container(&mut self, id: &str, signal: i32) -> Result<Outcome> {
        let container = self.existing(id)?;
        if container.is_ended() {
            return Err(wrong_state("container", id, container.state_name()));
        }
        crate::sys::signal::send(container.pidfd.as_fd(), signal)
            .called(|| format!("pidfd_send_signal({}, {signal})", container.pid))?;
        Ok(DONE)
    }

    /// Already gone is what was wanted.
    fn remove_container(&mut self, id: &str, caller: Caller) -> Result<Outcome> {
        let Some(container) = self.by_id(id) else {
            return Ok(DONE);
        };
        let serial = container.serial;
        container.removers.push(caller);
        if container.is_told() {
            self.forget(serial);
        } else if !container.is_ended() {
            container.kill()?;
        }
        Ok(Outcome::Later)
    }

    fn exec(&mut self, spec: ExecSpec, fds: &[OwnedFd], caller: Caller) -> Result<Outcome> {
        self.refuse_when_ending()?;
        refuse_taken(self.execs.iter().any(|exec| exec.id == spec.id), "exec", &spec.id)?;
        let serial = self.next_serial();
        let container = running(&self.containers, &spec.container)?;
        let (null, own) = (self.null.as_fd(), self.own_pid_namespace.as_fd());
        let users = self.sandbox.as_ref().and_then(|sandbox| sandbox.users.as_ref());
        let around =
            exec::Surroundings { null, own_pid_namespace: own, users: users.map(|users| users.for_child(false)) };
        let exec = Exec::create(spec, fds, container, around, (serial, caller))?;
        let mut watched = self.poller.add(&exec.pidfd, Token::ExecExit(serial));
        if let Some(starting) = &exec.starting {
            watched = watched.and_then(|()| self.poller.add(&starting.channel, Token::ExecChannel(serial)));
        }
        if let Err(error) = watched.called(|| "epoll_ctl(exec)".to_owned()) {
            exec.kill();
            self.poller.remove(&exec.pidfd);
            self.doom(serial, exec.pidfd, None);
            return Err(error);
        }
        self.execs.push(exec);
        Ok(Outcome::Later)
    }

    fn kill_exec(&mut self, id: &str) -> Result<Outcome> {
        let exec = self.execs.iter().find(|exec| exec.id == id);
        exec.ok_or_else(|| not_found("exec", id))?.kill();
        Ok(DONE)
    }

    fn attach(&mut self, spec: &AttachSpec, fds: &[OwnedFd]) -> Result<Outcome> {
        running(&self.containers, &spec.container)?;
        let container = self.existing(&spec.container)?;
        let pipe = |wanted: Option<FdSlot>| wanted.map(|wanted| own(fds, wanted)).transpose();
        let attacher = Attacher::new(pipe(spec.stdout)?, pipe(spec.stderr)?).called(|| "ioctl(FIONBIO)".to_owned())?;
        let input = container.give_input(spec.stdin)?;
        let room = container.pump.as_mut().is_none_or(|pump| pump.attach(attacher));
        if !room {
            return Err(wrong_state("container", &spec.container, "attached to by too many clients"));
        }
        Ok(Outcome::Now(Answer::Attached { input: input.is_some().then_some(FdSlot(0)) }, input.into_iter().collect()))
    }

    fn snapshot(&self) -> Snapshot {
        let sandbox = self.sandbox.as_ref();
        let alive = sandbox.filter(|sandbox| sandbox.alive);
        Snapshot {
            sandbox: sandbox.map(|sandbox| sandbox.id.clone()),
            pause_pid: alive.map(|sandbox| sandbox.pid.as_raw_nonzero().get().cast_unsigned()),
            containers: self.containers.iter().filter_map(Container::snapshot).collect(),
            execs: self.execs.iter().map(|exec| exec.id.clone()).collect(),
            volumes: self.volumes.names().to_vec(),
        }
    }

    fn existing(&mut self, id: &str) -> Result<&mut Container> {
        self.by_id(id).ok_or_else(|| not_found("container", id))
    }

    fn refuse_when_ending(&self) -> Result<()> {
        if self.shutdown.is_some() { Err(wrong_state("monitor", "", "ending")) } else { Ok(()) }
    }
}

fn namespace_of(pid: rustix::process::Pid, kind: &str) -> Result<OwnedFd> {
    let path = format!("/proc/{pid}/ns/{kind}");
    rustix::fs::openat(CWD, path.as_str(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .called(|| format!("open({path})"))
}

/// What only the host's root may do for a pause that is nobody yet; then it goes on.
fn prepare_users(child: &fork::Child, ids: IdRange, oom_score_adj: Option<i32>) -> Result<UserNamespace> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let proc = rustix::fs::openat(CWD, "/proc", flags, Mode::empty()).called(|| "open(/proc)".to_owned())?;
    let namespace = namespace_of(child.pid, "user")?;
    crate::sys::user_namespace::map_ids(child.pid, &ids.map())
        .called(|| format!("write(/proc/{}/uid_map)", child.pid))?;
    if let Some(score) = oom_score_adj {
        // A daemon without CAP_SYS_RESOURCE cannot protect what it starts.
        let _unprotected = std::fs::write(format!("/proc/{}/oom_score_adj", child.pid), score.to_string());
    }
    // One that is dead already is seen by its pidfd.
    let _dead = child.channel.go();
    Ok(UserNamespace { namespace, proc, ids })
}

/// A request, or why it is none, with the number under which that can be told.
fn decode(text: &[u8]) -> std::result::Result<Call, (Option<u64>, String)> {
    #[derive(serde::Deserialize)]
    struct Numbered {
        number: u64,
    }
    serde_json::from_slice(text).map_err(|error| {
        let number = serde_json::from_slice::<Numbered>(text).ok().map(|call| call.number);
        (number, error.to_string())
    })
}

fn running<'a>(containers: &'a [Container], id: &str) -> Result<&'a Container> {
    let container = containers.iter().find(|container| container.id == id);
    let container = container.ok_or_else(|| not_found("container", id))?;
    match container.phase {
        Phase::Running { .. } => Ok(container),
        Phase::Preparing(_) | Phase::Created | Phase::Starting(_) | Phase::Ended(_) => {
            Err(wrong_state("container", id, container.state_name()))
        }
    }
}

/// What a container takes from the sandbox: what pause does not share with the host.
fn joined(sandbox: &Sandbox) -> ThreadNameSpaceType {
    let mut all = ThreadNameSpaceType::empty();
    all.set(ThreadNameSpaceType::NETWORK, !sandbox.host.network);
    all.set(ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME, !sandbox.host.network);
    all.set(ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION, !sandbox.host.ipc);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Brain and monitor may be one version apart: fields that are added are ignored, requests that are added are refused
    /// by their number.
    #[test]
    fn what_a_newer_brain_adds_does_no_harm() {
        let call = decode(br#"{"number":7,"since":2,"request":{"startContainer":{"id":"c","urgent":true}}}"#).unwrap();
        assert_eq!(call.number, 7);
        let unknown = decode(br#"{"number":8,"request":{"freezeContainer":{"id":"c"}}}"#).unwrap_err();
        assert_eq!(unknown.0, Some(8));
        assert_eq!(decode(b"{").unwrap_err().0, None);
    }

    /// A version-1 brain's and monitor's words, as they were first written; they are understood for ever.
    #[test]
    fn version_1_is_understood() {
        for request in [
            r#"{"hello":{"version":1}}"#,
            r#""snapshot""#,
            r#""shutdown""#,
            r#"{"signalContainer":{"id":"c","signal":15}}"#,
            r#"{"removeContainer":{"id":"c"}}"#,
        ] {
            let text = format!(r#"{{"number":1,"request":{request}}}"#);
            assert!(decode(text.as_bytes()).is_ok(), "{request}");
        }
        use crate::monitor::protocol::Message;
        for message in [
            r#"{"reply":{"number":1,"result":{"Ok":{"hello":{"version":1,"pid":5,"since":"later"}}}}}"#,
            r#"{"reply":{"number":1,"result":{"Ok":{"snapshot":{"sandbox":"s","pause_pid":4,"containers":[],"execs":[],"volumes":[]}}}}}"#,
            r#"{"event":{"containerExited":{"version":1,"container":"c","exit":{"code":3},"started_at":null,"finished_at":"2026-01-01T00:00:00Z","oom_killed":false,"start_error":null,"cause":"new"}}}"#,
        ] {
            let read = serde_json::from_str::<Message>(message);
            assert!(read.is_ok(), "{message}: {read:?}");
        }
    }
}
