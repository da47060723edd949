//! One container of the pod: its process, its streams, its end.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use super::channel::{ChildPlan, MonitorChannel, START_ERROR_CODE, Streams, Users, Work};
use super::clock::{Moment, Wall};
use super::failure::{Called, Result, own, slot};
use super::fork::{self, Child, Join};
use super::frame::StreamName;
use super::log_file::LogFile;
use super::outbox::Caller;
use super::poller::Serial;
use super::protocol::{ContainerSnapshot, ContainerSpec, ContainerState, Exit, ExitRecord, LogSpec, PidNamespace};
use super::pump::Pump;
use super::record;
use crate::runtime::launch::{Identity, LaunchError};
use crate::sys::clone::NewNamespaces;

const RECORD_VERSION: u16 = 1;

/// How far a container is.
///
/// ```text
/// Preparing -> Created -> Starting -> Running -> Ended
///                 \------------\-----------------/
/// ```
#[derive(Debug)]
pub(super) enum Phase {
    /// The child builds its world; the reply waits for its report.
    Preparing(Caller),
    /// The child waits for the go.
    Created,
    /// The child was let go and has not executed yet.
    Starting(Caller),
    Running {
        started_at: String,
    },
    Ended(Ending),
}

/// What is left to do after the end.
#[derive(Debug)]
pub(super) struct Ending {
    pub(super) record: ExitRecord,
    /// The record is on disk and the process reaped.
    pub(super) recorded: bool,
    /// The event is sent: the log is complete, or nobody waits for the rest of it.
    pub(super) told: bool,
    /// When a cgroup that does not empty is no longer waited for.
    pub(super) give_up_at: Moment,
    /// When an open log pipe is no longer waited for: set once the cgroup is empty.
    pub(super) drained_by: Option<Moment>,
}

#[derive(Debug)]
pub(super) struct Container {
    pub(super) id: String,
    pub(super) serial: Serial,
    pub(super) pid: Pid,
    pub(super) pidfd: OwnedFd,
    pub(super) phase: Phase,
    pub(super) identity: Identity,
    /// Until the exec.
    pub(super) channel: Option<MonitorChannel>,
    pub(super) start_error: Option<LaunchError>,
    pub(super) cgroup: OwnedFd,
    pub(super) pump: Option<Pump>,
    /// When a blocked log is tried again.
    pub(super) retry_log_at: Option<Moment>,
    /// Where the log of a terminal goes once the child has sent its master.
    terminal_log: Option<LogFile>,
    /// Writer of the process's standard input, or its terminal.
    pub(super) stdin: Option<OwnedFd>,
    pub(super) removers: Vec<Caller>,
    terminal: bool,
    stdin_once: bool,
    oom_kills_before: u64,
    record_dir: OwnedFd,
    record_name: String,
}

/// What a container shares: pause's process, the pod's streams of nothing, namespaces.
#[derive(Debug, Clone, Copy)]
pub(super) struct Surroundings<'a> {
    pub(super) null: BorrowedFd<'a>,
    pub(super) own_pid_namespace: BorrowedFd<'a>,
    /// Whose PID namespace the process is born into; None: the monitor's, or a new one.
    pub(super) pid_target: Option<BorrowedFd<'a>>,
    pub(super) join: Join<'a>,
    pub(super) users: Option<Users<'a>>,
}

/// The ends of the streams that the child gets, and those that stay.
struct Pipes {
    stdin: Option<(OwnedFd, OwnedFd)>,
    stdout: Option<(OwnedFd, OwnedFd)>,
    stderr: Option<(OwnedFd, OwnedFd)>,
}

impl Pipes {
    fn new(spec: &ContainerSpec) -> Result<Self> {
        let logged = spec.log.is_some() && !spec.terminal;
        Ok(Self {
            stdin: (spec.stdin && !spec.terminal).then(fork::pipe).transpose()?,
            stdout: logged.then(fork::output_pipe).transpose()?,
            stderr: logged.then(fork::output_pipe).transpose()?,
        })
    }

    fn child_side<'a>(&'a self, terminal: bool, null: BorrowedFd<'a>) -> Streams<'a> {
        if terminal {
            return Streams::Terminal;
        }
        let writer = |pipe: &'a Option<(OwnedFd, OwnedFd)>| pipe.as_ref().map_or(null, |(_, writer)| writer.as_fd());
        Streams::Given {
            stdin: self.stdin.as_ref().map_or(null, |(reader, _)| reader.as_fd()),
            stdout: writer(&self.stdout),
            stderr: writer(&self.stderr),
        }
    }

    fn outputs(
        stdout: Option<(OwnedFd, OwnedFd)>,
        stderr: Option<(OwnedFd, OwnedFd)>,
    ) -> Vec<(StreamName, OwnedFd, Option<OwnedFd>)> {
        let named = [(StreamName::Stdout, stdout), (StreamName::Stderr, stderr)];
        named.into_iter().filter_map(|(name, pipe)| pipe.map(|(reader, writer)| (name, reader, Some(writer)))).collect()
    }
}

impl Container {
    /// Forks the container's first process, which begins to prepare itself.
    pub(super) fn create(
        spec: ContainerSpec,
        fds: &[OwnedFd],
        around: Surroundings<'_>,
        serial: Serial,
        caller: Caller,
    ) -> Result<Self> {
        let cgroup = own(fds, spec.cgroup)?;
        let record_dir = own(fds, spec.record_dir)?;
        let log = spec.log.as_ref().map(|log| open_log(log, fds)).transpose()?;
        let oom_kills_before = record::oom_kills(cgroup.as_fd());
        let pipes = Pipes::new(&spec)?;
        let child = fork_container(&spec, fds, around, &pipes, cgroup.as_fd())?;
        let Pipes { stdin, stdout, stderr } = pipes;
        let (pump, terminal_log) = match (log, spec.terminal) {
            (Some(log), false) => (Some(Pump::new(log, Pipes::outputs(stdout, stderr))), None),
            (log, _) => (None, log),
        };
        Ok(Self {
            id: spec.id,
            serial,
            pid: child.pid,
            pidfd: child.pidfd,
            phase: Phase::Preparing(caller),
            identity: Identity::default(),
            channel: Some(child.channel),
            start_error: None,
            cgroup,
            pump,
            retry_log_at: None,
            terminal_log,
            stdin: stdin.map(|(_, writer)| writer),
            removers: Vec::new(),
            terminal: spec.terminal,
            stdin_once: spec.stdin_once,
            oom_kills_before,
            record_dir,
            record_name: spec.record_name,
        })
    }

    /// The child opened its pty: what it prints is logged as stdout, and the master stays for attached clients.
    pub(super) fn take_terminal(&mut self, master: OwnedFd) -> Result<()> {
        rustix::io::ioctl_fionbio(&master, true).called(|| "ioctl(pty, FIONBIO)".to_owned())?;
        if let Some(log) = self.terminal_log.take() {
            let reader = master.try_clone().called(|| "dup(pty)".to_owned())?;
            self.pump = Some(Pump::new(log, vec![(StreamName::Stdout, reader, None)]));
        }
        self.stdin = Some(master);
        Ok(())
    }

    /// For an attached client: the terminal in any case, whose size it sets; standard input when it is wanted and there is
    /// one. With `stdinOnce` it is given away: it ends with the client, whatever becomes of the brain.
    pub(super) fn give_input(&mut self, wanted: bool) -> Result<Option<OwnedFd>> {
        match (self.terminal, wanted, self.stdin_once) {
            (false, false, _) => Ok(None),
            (false, true, true) => Ok(self.stdin.take()),
            (true, _, _) | (false, true, false) => {
                self.stdin.as_ref().map(OwnedFd::try_clone).transpose().called(|| "dup(stdin)".to_owned())
            }
        }
    }

    pub(super) fn is_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended(_))
    }

    /// Everything that the brain waits for has happened.
    pub(super) fn is_told(&self) -> bool {
        matches!(&self.phase, Phase::Ended(ending) if ending.told)
    }

    pub(super) fn state_name(&self) -> &'static str {
        match self.phase {
            Phase::Preparing(_) => "being created",
            Phase::Created => "created",
            Phase::Starting(_) => "starting",
            Phase::Running { .. } => "running",
            Phase::Ended(_) => "ended",
        }
    }

    /// SIGKILL to all of the cgroup; to the first process alone where the kernel has no `cgroup.kill` (before 5.14).
    pub(super) fn kill(&self) -> Result<()> {
        if record::kill_all(self.cgroup.as_fd()).is_ok() || self.is_ended() {
            return Ok(());
        }
        crate::sys::signal::send(self.pidfd.as_fd(), libc::SIGKILL)
            .called(|| format!("pidfd_send_signal({}, SIGKILL)", self.pid))
    }

    /// The process is a zombie: what it says is now the record. It is written and only then reaped (D41); when that fails the
    /// zombie stays until it can be.
    pub(super) fn end(&mut self, exit: Exit, now: Moment) -> Ending {
        let started_at = match &self.phase {
            Phase::Running { started_at } => Some(started_at.clone()),
            Phase::Preparing(_) | Phase::Created | Phase::Starting(_) | Phase::Ended(_) => None,
        };
        let start_error = self.start_error.clone();
        let record = ExitRecord {
            version: RECORD_VERSION,
            container: self.id.clone(),
            exit: if start_error.is_some() { Exit::Code(START_ERROR_CODE) } else { exit },
            started_at,
            finished_at: Wall::now().rfc3339(),
            oom_killed: record::oom_kills(self.cgroup.as_fd()) > self.oom_kills_before,
            start_error,
            unterminated: false,
        };
        Ending { record, recorded: false, told: false, give_up_at: now.after_ms(KILL_WAIT_MS), drained_by: None }
    }

    /// Writes the record and reaps.
    pub(super) fn record(&mut self) -> std::io::Result<()> {
        let Phase::Ended(ending) = &mut self.phase else {
            return Ok(());
        };
        record::write(self.record_dir.as_fd(), &self.record_name, &ending.record)?;
        reap(self.pidfd.as_fd());
        ending.recorded = true;
        Ok(())
    }

    /// The log is as complete as it will be, and it was not when the record was written.
    pub(super) fn complete_record(&mut self) -> std::io::Result<()> {
        let Phase::Ended(ending) = &mut self.phase else {
            return Ok(());
        };
        if !self.pump.as_ref().is_some_and(Pump::ends_within_a_line) {
            return Ok(());
        }
        ending.record.unterminated = true;
        // One that could not be written yet will say so by itself.
        if ending.recorded { record::write(self.record_dir.as_fd(), &self.record_name, &ending.record) } else { Ok(()) }
    }

    /// What the snapshot says. A container that is being prepared is not there yet.
    pub(super) fn snapshot(&self) -> Option<ContainerSnapshot> {
        let state = match &self.phase {
            Phase::Preparing(_) => return None,
            Phase::Created | Phase::Starting(_) => ContainerState::Created,
            Phase::Running { started_at } => ContainerState::Running { started_at: started_at.clone() },
            Phase::Ended(ending) => ContainerState::Exited(ending.record.clone()),
        };
        Some(ContainerSnapshot {
            id: self.id.clone(),
            pid: self.pid.as_raw_nonzero().get().cast_unsigned(),
            state,
            identity: self.identity.clone(),
        })
    }
}

/// How long a cgroup may take to empty after `cgroup.kill`; processes in uninterruptible sleep take for ever.
const KILL_WAIT_MS: u64 = 2_000;

fn open_log(spec: &LogSpec, fds: &[OwnedFd]) -> Result<LogFile> {
    let directory = own(fds, spec.dir)?;
    LogFile::open(directory, spec.name.clone(), spec.max_bytes, spec.max_files)
        .called(|| format!("openat(log directory, {})", spec.name))
}

fn fork_container(
    spec: &ContainerSpec,
    fds: &[OwnedFd],
    around: Surroundings<'_>,
    pipes: &Pipes,
    cgroup: BorrowedFd<'_>,
) -> Result<Child> {
    let plan = ChildPlan {
        work: Work::Container { launch: slot(fds, spec.launch)? },
        fds,
        streams: pipes.child_side(spec.terminal, around.null),
        users: around.users,
    };
    let namespaces = NewNamespaces { mount: true, pid: spec.pid == PidNamespace::Own, ..NewNamespaces::default() };
    fork::in_pid_namespace_of(around.pid_target, around.own_pid_namespace, || {
        fork::fork(namespaces, cgroup, |channel| fork::run(around.join, &plan, channel))
    })
}

/// How a zombie ended, left as it is; None when the process still runs.
pub(super) fn peek_exit(pidfd: BorrowedFd<'_>) -> Option<Exit> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let status = waitid(WaitId::PidFd(pidfd), options).ok()??;
    Some(match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, signal) => Exit::Signal(signal.unwrap_or(libc::SIGKILL)),
    })
}

/// Ends the zombie.
pub(super) fn reap(pidfd: BorrowedFd<'_>) {
    // ECHILD: it is reaped already.
    let _status = waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
}
