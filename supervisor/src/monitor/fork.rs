//! Making a child and bringing it to where the runtime takes over.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::Pid;
use rustix::thread::{LinkNameSpaceType, ThreadNameSpaceType, move_into_link_name_space, move_into_thread_name_spaces};

use super::channel::{self, ChildChannel, ChildPlan, MonitorChannel};
use super::failure::{Called, Result};
use crate::runtime::launch::{LaunchError, Step};
use crate::sys::clone::{Cloned, NewNamespaces, clone_into};

/// A process on its way to exec.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) pid: Pid,
    pub(super) pidfd: OwnedFd,
    pub(super) channel: MonitorChannel,
}

/// Forks; the new process runs `work`, which does not come back.
pub(super) fn fork(
    namespaces: NewNamespaces,
    cgroup: BorrowedFd<'_>,
    work: impl FnOnce(ChildChannel),
) -> Result<Child> {
    let (monitor, child) = channel::pair().called(|| "socketpair(AF_UNIX)".to_owned())?;
    match clone_into(namespaces, cgroup).called(|| format!("clone3({namespaces:?})"))? {
        Cloned::Child => {
            drop(monitor);
            work(child);
            crate::sys::exit_now(channel::START_ERROR_CODE)
        }
        Cloned::Parent { pid, pidfd } => Ok(Child { pid, pidfd, channel: monitor }),
    }
}

/// Runs `work` such that the processes it makes belong to the PID namespace of `target`, and comes back.
pub(super) fn in_pid_namespace_of<T>(
    target: Option<BorrowedFd<'_>>,
    own: BorrowedFd<'_>,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let Some(target) = target else {
        return work();
    };
    move_into_thread_name_spaces(target, ThreadNameSpaceType::PROCESS_ID)
        .called(|| "setns(pidfd, CLONE_NEWPID)".to_owned())?;
    let result = work();
    move_into_link_name_space(own, Some(LinkNameSpaceType::ProcessID))
        .called(|| "setns(own, CLONE_NEWPID)".to_owned())?;
    result
}

/// What a container's first process joins before the runtime builds its world.
#[derive(Debug, Clone, Copy)]
pub(super) struct Join<'a> {
    pub(super) target: BorrowedFd<'a>,
    pub(super) namespaces: ThreadNameSpaceType,
    pub(super) own_cgroup_namespace: bool,
}

/// In the child: joins and hands over to the runtime.
pub(super) fn run(join: Join<'_>, plan: &ChildPlan<'_>, channel: ChildChannel) -> ! {
    if let Err(error) = enter(join) {
        channel.fail(&error)
    }
    crate::runtime::child::run(plan, channel)
}

fn enter(join: Join<'_>) -> std::result::Result<(), LaunchError> {
    if !join.namespaces.is_empty() {
        move_into_thread_name_spaces(join.target, join.namespaces).map_err(failed("the sandbox"))?;
    }
    if join.own_cgroup_namespace {
        // Not by clone3: its new namespace would have the root of the monitor's cgroup.
        crate::sys::process::unshare_cgroup().map_err(failed("the cgroup"))?;
    }
    Ok(())
}

fn failed(object: &str) -> impl FnOnce(Errno) -> LaunchError {
    move |errno| LaunchError {
        step: Step::JoinNamespaces,
        object: object.to_owned(),
        cause: std::io::Error::from(errno).to_string(),
        errno: Some(errno.raw_os_error()),
    }
}

/// A new non-blocking reader and its writer.
pub(super) fn output_pipe() -> Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = pipe()?;
    rustix::io::ioctl_fionbio(reader.as_fd(), true).called(|| "ioctl(FIONBIO)".to_owned())?;
    Ok((reader, writer))
}

/// Reader and writer.
pub(super) fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).called(|| "pipe2(O_CLOEXEC)".to_owned())
}
