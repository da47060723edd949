//! A process beside a container's own, with its streams.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::pipe::PipeFlags;
use tokio::sync::oneshot;

use super::{Found, SessionError, Sessions};
use crate::convert::launch::exec as exec_process;
use crate::engine::container::ExecStreams;
use crate::engine::error::EngineError;
use crate::monitor::client::ClientError;
use crate::monitor::protocol::{Exit, MonitorError};
use crate::runtime::launch::FdSlot;
use crate::stream::remote_command::{End, Process, Wanted};

/// The end of a process whose container has ended is told at once; when nobody tells it, its monitor is gone.
const END_TOLD: Duration = Duration::from_secs(1);

/// A process that was started.
#[derive(Debug)]
pub struct Running {
    /// Our ends.
    pub process: Process,
    exit: oneshot::Receiver<Exit>,
    sessions: Sessions,
    uid: String,
    found: Found,
    command: String,
}

/// Both ends of the streams.
#[derive(Debug, Default)]
struct Pipes {
    ours: Process,
    theirs: ExecStreams,
}

impl Pipes {
    /// What is not wanted is `/dev/null`.
    fn new(wanted: Wanted) -> std::io::Result<Self> {
        if wanted.tty {
            return Ok(Self::default());
        }
        let mut pipes = Self::default();
        if wanted.stdin {
            let (reader, writer) = pipe()?;
            (pipes.theirs.stdin, pipes.ours.stdin) = (Some(reader), Some(writer));
        }
        if wanted.stdout {
            let (reader, writer) = pipe()?;
            (pipes.ours.stdout, pipes.theirs.stdout) = (Some(reader), Some(writer));
        }
        if wanted.stderr {
            let (reader, writer) = pipe()?;
            (pipes.ours.stderr, pipes.theirs.stderr) = (Some(reader), Some(writer));
        }
        Ok(pipes)
    }
}

fn pipe() -> std::io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?)
}

/// The master of a terminal as every stream that is wanted.
fn over_terminal(master: OwnedFd, wanted: Wanted) -> std::io::Result<Process> {
    Ok(Process {
        stdin: wanted.stdin.then(|| master.try_clone()).transpose()?,
        stdout: wanted.stdout.then(|| master.try_clone()).transpose()?,
        stderr: None,
        terminal: Some(master),
    })
}

impl Sessions {
    /// Fails as [`Sessions::exec`] does when the container does not run.
    pub fn check_container(&self, uid: &str, container: &str) -> Result<(), SessionError> {
        self.running(uid, container).map(drop)
    }

    /// Runs a command as the container's own process would: its user, environment, limits and filter (rule XE5).
    pub async fn exec(
        &self,
        uid: &str,
        container: &str,
        command: &[String],
        wanted: Wanted,
    ) -> Result<Running, SessionError> {
        let found = self.running(uid, container)?;
        let (context, known) = (found.context.clone(), found.known.clone());
        let process = known.process.clone().ok_or_else(|| SessionError::NoContainer(container.to_owned()))?;
        let mut plan = exec_process(&process, command.to_vec(), wanted.tty);
        if wanted.tty {
            with_term(&mut plan.env);
        }
        let filter = known.seccomp.as_deref().map(OwnedFd::try_clone).transpose().map_err(io("dup"))?;
        plan.seccomp = filter.is_some().then_some(FdSlot(0));
        let Pipes { ours, theirs } = Pipes::new(wanted).map_err(io("pipe2"))?;
        let id = uuid::Uuid::new_v4().simple().to_string();
        let exit = context.await_exec(&id);
        let filter = filter.into_iter().collect();
        let started = context.engine.exec(&known.sandbox, &known.id, &id, &plan, filter, theirs).await;
        let terminal = started.map_err(|error| {
            context.give_up_exec(&id);
            not_running(error, container)
        })?;
        let process = match terminal {
            Some(master) => over_terminal(master, wanted).map_err(io("dup"))?,
            None => ours,
        };
        let command = format!("[{}]", command.join(" "));
        Ok(Running { process, exit, sessions: self.clone(), uid: uid.to_owned(), found, command })
    }
}

impl Running {
    /// Our ends, and how it ends.
    pub fn split(self) -> (Process, impl Future<Output = End>) {
        let Self { process, exit, sessions, uid, found, command } = self;
        let end = async move {
            let lost = async {
                sessions.ended(&uid, &found).await;
                tokio::time::sleep(END_TOLD).await;
            };
            tokio::select! {
                Ok(exit) = exit => End::Exited { code: exit.code(), command },
                () = lost => End::Failed("the container has ended".to_owned()),
            }
        };
        (process, end)
    }
}

/// As a terminal needs it, unless the container says otherwise.
fn with_term(env: &mut Vec<String>) {
    if !env.iter().any(|variable| variable.starts_with("TERM=")) {
        env.push("TERM=xterm".to_owned());
    }
}

pub(super) fn not_running(error: EngineError, container: &str) -> SessionError {
    let gone = matches!(
        error,
        EngineError::NotFound { .. }
            | EngineError::Monitor(
                ClientError::Closed
                    | ClientError::Monitor(MonitorError::NotFound { .. } | MonitorError::WrongState { .. }),
            )
    );
    if gone { SessionError::NoContainer(container.to_owned()) } else { SessionError::Engine(error) }
}

pub(super) fn io(call: &'static str) -> impl FnOnce(std::io::Error) -> SessionError {
    move |source| SessionError::Io { call, source }
}
