//! One more process inside a running container.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::process::{Pid, Signal};
use rustix::thread::ThreadNameSpaceType;

use super::channel::{ChildPlan, MonitorChannel, Streams, Users, Work};
use super::container::Container;
use super::failure::{Result, slot};
use super::fork::{self, Join};
use super::outbox::Caller;
use super::poller::Serial;
use super::protocol::ExecSpec;
use super::record;
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
    /// None where it could not be made.
    cgroup: Option<ExecCgroup>,
}

#[derive(Debug)]
pub(super) struct Starting {
    pub(super) caller: Caller,
    pub(super) channel: MonitorChannel,
    pub(super) terminal: Option<OwnedFd>,
}

/// What is the pod's or the monitor's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Surroundings<'a> {
    pub(super) null: BorrowedFd<'a>,
    pub(super) own_pid_namespace: BorrowedFd<'a>,
    pub(super) users: Option<Users<'a>>,
}

impl Exec {
    /// Forks into a cgroup below the container's and into its PID namespace; the child joins the other namespaces by the same pidfd, all at
    /// once (D11). It needs no separate go.
    pub(super) fn create(
        spec: ExecSpec,
        fds: &[OwnedFd],
        container: &Container,
        around: Surroundings<'_>,
        (serial, caller): (Serial, Caller),
    ) -> Result<Self> {
        let Surroundings { null, own_pid_namespace, users } = around;
        let stream = |wanted: Option<FdSlot>| wanted.map_or(Ok(null), |wanted| slot(fds, wanted));
        let streams = if spec.terminal {
            Streams::Terminal
        } else {
            Streams::Given { stdin: stream(spec.stdin)?, stdout: stream(spec.stdout)?, stderr: stream(spec.stderr)? }
        };
        let plan = ChildPlan { work: Work::Exec { process: slot(fds, spec.process)? }, fds, streams, users };
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
        let cgroup = ExecCgroup::create(container.cgroup.as_fd(), serial);
        let into = cgroup.as_ref().map_or(container.cgroup.as_fd(), |cgroup| cgroup.dir.as_fd());
        let child = fork::in_pid_namespace_of(Some(init), own_pid_namespace, || {
            fork::fork(NewNamespaces::default(), into, |channel| fork::run(join, &plan, channel))
        })?;
        // A child that is dead already is seen by its pidfd.
        let _dead = child.channel.go();
        let starting = Some(Starting { caller, channel: child.channel, terminal: None });
        Ok(Self { id: spec.id, serial, pid: child.pid, pidfd: child.pidfd, starting, cgroup })
    }

    /// Everything that it started, however well it hid. Where the kernel has no `cgroup.kill` (before 5.14) its process
    /// group, when it leads one, and itself in any case.
    pub(super) fn kill(&self) {
        if self.cgroup.as_ref().is_some_and(|cgroup| record::kill_all(cgroup.dir.as_fd()).is_ok()) {
            return;
        }
        if rustix::process::getpgid(Some(self.pid)).is_ok_and(|group| group == self.pid) {
            let _gone = rustix::process::kill_process_group(self.pid, Signal::KILL);
        }
        let _gone = crate::sys::signal::send(self.pidfd.as_fd(), libc::SIGKILL);
    }
}

/// The cgroup of one exec, below its container's: limits and counters are the container's, and nothing that the exec
/// starts can leave it. It goes with the exec.
#[derive(Debug)]
struct ExecCgroup {
    dir: OwnedFd,
    container: OwnedFd,
    name: String,
}

/// Rounds of moving what a finished exec left running; each finds only what was forked during the one before.
const MOVE_PASSES_MAX: usize = 8;
/// Bytes of `cgroup.procs` that a round reads.
const PROCS_BYTES: usize = 64 << 10;

impl ExecCgroup {
    fn create(container: BorrowedFd<'_>, serial: Serial) -> Option<Self> {
        let name = format!("exec-{}", serial.0);
        let container = container.try_clone_to_owned().ok()?;
        rustix::fs::mkdirat(&container, &name, Mode::RWXU).ok()?;
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&container, &name, flags, Mode::empty()) {
            Ok(dir) => Some(Self { dir, container, name }),
            Err(_) => {
                let _stays = rustix::fs::unlinkat(&container, &name, AtFlags::REMOVEDIR);
                None
            }
        }
    }

    /// What outlives its exec belongs to the container. False while processes are left.
    fn empty(&self) -> bool {
        for _ in 0..MOVE_PASSES_MAX {
            let Ok(left) = read(self.dir.as_fd()) else { return true };
            if left.is_empty() {
                return true;
            }
            for pid in left.split_ascii_whitespace() {
                // It may have ended.
                let _gone = write(self.container.as_fd(), pid);
            }
        }
        false
    }
}

impl Drop for ExecCgroup {
    /// With its container at the latest.
    fn drop(&mut self) {
        if self.empty() {
            let _stays = rustix::fs::unlinkat(&self.container, &self.name, AtFlags::REMOVEDIR);
        }
    }
}

const PROCS: &str = "cgroup.procs";

fn read(dir: BorrowedFd<'_>) -> rustix::io::Result<String> {
    let file = rustix::fs::openat(dir, PROCS, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut bytes = vec![0; PROCS_BYTES];
    let length = rustix::io::read(&file, &mut *bytes)?;
    bytes.truncate(length);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn write(dir: BorrowedFd<'_>, pid: &str) -> rustix::io::Result<()> {
    let file = rustix::fs::openat(dir, PROCS, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, pid.as_bytes()).map(drop)
}
