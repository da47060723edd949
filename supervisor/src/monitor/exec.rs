//! One more process inside a running container.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::process::{Pid, Signal};
use rustix::thread::ThreadNameSpaceType;

use super::channel::{ChildPlan, MonitorChannel, Streams, Work};
use super::container::Container;
use super::failure::{Result, slot};
use super::fork::{self, Join};
use super::outbox::Caller;
use super::poller::Serial;
use super::protocol::ExecSpec;
use crate::runtime::launch::FdSlot;
use crate::sys::clone::NewNamespaces;

#[derive(Debug)]
pub(super) struct Exec {
    pub(super) id: String,
    pub(super) serial: Serial,
    pub(super) pid: Pid,
    pub(super) pidfd: OwnedFd,
    /// Until it executed: who waits for that.
    pub(super) starting: Option<Starting>,
}

#[derive(Debug)]
pub(super) struct Starting {
    pub(super) caller: Caller,
    pub(super) channel: MonitorChannel,
    pub(super) terminal: Option<OwnedFd>,
}

impl Exec {
    /// Forks into the container's cgroup and PID namespace; the child joins the other namespaces by the same pidfd, all at
    /// once (D11). It needs no separate go.
    pub(super) fn create(
        spec: ExecSpec,
        fds: &[OwnedFd],
        container: &Container,
        null: BorrowedFd<'_>,
        own_pid_namespace: BorrowedFd<'_>,
        (serial, caller): (Serial, Caller),
    ) -> Result<Self> {
        let stream = |wanted: Option<FdSlot>| wanted.map_or(Ok(null), |wanted| slot(fds, wanted));
        let streams = if spec.terminal {
            Streams::Terminal
        } else {
            Streams::Given { stdin: stream(spec.stdin)?, stdout: stream(spec.stdout)?, stderr: stream(spec.stderr)? }
        };
        let plan = ChildPlan { work: Work::Exec { process: slot(fds, spec.process)? }, fds, streams };
        let init = container.pidfd.as_fd();
        let join = Join {
            target: init,
            namespaces: ThreadNameSpaceType::MOUNT
                | ThreadNameSpaceType::NETWORK
                | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
                | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
                | ThreadNameSpaceType::CONTROL_GROUP,
            own_cgroup_namespace: false,
        };
        let child = fork::in_pid_namespace_of(Some(init), own_pid_namespace, || {
            fork::fork(NewNamespaces::default(), container.cgroup.as_fd(), |channel| fork::run(join, &plan, channel))
        })?;
        // A child that is dead already is seen by its pidfd.
        let _dead = child.channel.go();
        let starting = Some(Starting { caller, channel: child.channel, terminal: None });
        Ok(Self { id: spec.id, serial, pid: child.pid, pidfd: child.pidfd, starting })
    }

    /// The whole process group when the process leads one, and itself in any case. What else it left behind ends with the
    /// container.
    pub(super) fn kill(&self) {
        if rustix::process::getpgid(Some(self.pid)).is_ok_and(|group| group == self.pid) {
            let _gone = rustix::process::kill_process_group(self.pid, Signal::KILL);
        }
        let _gone = crate::sys::signal::send(self.pidfd.as_fd(), libc::SIGKILL);
    }
}
