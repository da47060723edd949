//! Between the monitor and a child that is on its way to exec.
//!
//! One seqpacket socket pair per child: the child reports [`Report::Prepared`] (with the master of its terminal, when it
//! has one: the pty lives in the container's own devpts, so only the child can open it, D14), waits for the go, and either
//! execs, which closes its end by `CLOEXEC`, or sends [`Report::Failed`]. A child whose monitor dies reads end of file
//! instead of a go and ends. A plain pipe would do but for the terminal's descriptor.

use std::io;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType,
};
use serde::{Deserialize, Serialize};

use crate::runtime::launch::{FdSlot, Identity, LaunchError};
use crate::user_namespace::IdRange;

/// Everything that `runtime::child::run` is given. The child is a fork of a single-threaded process: it may allocate.
///
/// On entry the child is in its cgroup and in all its namespaces but the pod's user namespace: network, IPC and UTS of the
/// sandbox, its PID namespace, its cgroup namespace, and either (container) a copy of the monitor's mount namespace of its own, private, or (exec) the
/// container's. Descriptors 0, 1 and 2 are `/dev/null`, every descriptor is `CLOEXEC`, all signals are blocked and their
/// dispositions are the default ones, the session is the monitor's. The rest of D13 and D46 is the child's work.
#[derive(Debug)]
pub struct ChildPlan<'a> {
    pub work: Work<'a>,
    /// The descriptors of the message that carried the plan, found by [`FdSlot`].
    pub fds: &'a [OwnedFd],
    pub streams: Streams<'a>,
    /// None: the pod has the host's users.
    pub users: Option<Users<'a>>,
}

/// A pod's user namespace, as a child of the monitor enters it. What it builds before, it builds as the host's root.
#[derive(Debug, Clone, Copy)]
pub struct Users<'a> {
    pub namespace: BorrowedFd<'a>,
    /// The host's procfs, which no container can reach: a process of the pod may not mount one that its container sees
    /// only in part.
    pub proc: BorrowedFd<'a>,
    pub ids: IdRange,
    /// Of a container's first process: its cgroup namespace is its own.
    pub own_cgroup_namespace: bool,
}

impl<'a> ChildPlan<'a> {
    /// The descriptor that the plan names.
    pub fn fd(&self, slot: FdSlot) -> Option<BorrowedFd<'a>> {
        self.fds.get(usize::from(slot.0)).map(AsFd::as_fd)
    }
}

#[derive(Debug, Clone, Copy)]
pub enum Work<'a> {
    /// A container's first process. The working directory holds the kept volumes, each mounted under its name inside the
    /// child's own mount namespace, so `open_tree(AT_FDCWD, name, OPEN_TREE_CLONE)` reaches them.
    Container {
        /// Memfd with the JSON of a [`crate::runtime::launch::Launch`]. Its offset is shared: read with `pread` or rewind.
        launch: BorrowedFd<'a>,
    },
    /// One more process of a running container. Root and working directory are the container's.
    Exec {
        /// Memfd with the JSON of a [`crate::runtime::launch::Process`].
        process: BorrowedFd<'a>,
    },
}

/// What becomes of descriptors 0, 1 and 2.
#[derive(Debug, Clone, Copy)]
pub enum Streams<'a> {
    Given {
        stdin: BorrowedFd<'a>,
        stdout: BorrowedFd<'a>,
        stderr: BorrowedFd<'a>,
    },
    /// The child opens a pty in the container's devpts and hands the master to [`ChildChannel::prepared`].
    Terminal,
}

/// What a child says, one JSON message per packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Report {
    Prepared(Identity),
    Failed(LaunchError),
}

/// Largest report; longer texts of errors are cut by [`ChildChannel::fail`].
pub const MAX_REPORT_BYTES: usize = 4096;
/// Longest `object` or `cause` of a reported error, in bytes: quoted as JSON, both together fit [`MAX_REPORT_BYTES`].
const MAX_TEXT_BYTES: usize = 320;
/// Exit code of a child that could not be started (rule CT2 of the status table, `StartError`).
pub const START_ERROR_CODE: i32 = 128;

/// The child's end.
#[derive(Debug)]
pub struct ChildChannel(OwnedFd);

/// The monitor's end; non-blocking.
#[derive(Debug)]
pub struct MonitorChannel(OwnedFd);

/// Both ends of a new channel.
pub fn pair() -> io::Result<(MonitorChannel, ChildChannel)> {
    let (monitor, child) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::io::ioctl_fionbio(&monitor, true)?;
    Ok((MonitorChannel(monitor), ChildChannel(child)))
}

impl ChildChannel {
    /// Everything but the exec is done. `terminal` is the master side of the process's pty.
    pub fn prepared(&self, identity: &Identity, terminal: Option<BorrowedFd<'_>>) -> io::Result<()> {
        self.send(&Report::Prepared(identity.clone()), terminal)
    }

    /// Blocks until the monitor says go. False: it gave up or died, and the child has to end.
    pub fn wait_for_go(&self) -> io::Result<bool> {
        let mut byte = [0];
        let (received, _) =
            rustix::io::retry_on_intr(|| rustix::net::recv(&self.0, &mut byte[..], RecvFlags::empty()))?;
        Ok(received == 1)
    }

    /// Reports the failure and ends the process; before and after the go.
    pub fn fail(self, error: &LaunchError) -> ! {
        let mut error = error.clone();
        cut(&mut error.object);
        cut(&mut error.cause);
        // The monitor learns of the end from the exit code alone when this fails.
        let _unsent = self.send(&Report::Failed(error), None);
        crate::sys::exit_now(START_ERROR_CODE)
    }

    fn send(&self, report: &Report, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let text = serde_json::to_vec(report)?;
        let fds: &[BorrowedFd<'_>] = fd.as_slice();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        rustix::net::sendmsg(&self.0, &[IoSlice::new(&text)], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }
}

/// What the monitor read from a child.
#[derive(Debug)]
pub enum Received {
    Report(Report, Option<OwnedFd>),
    /// The child's end is closed: it executed, or died without a word.
    Closed,
    Nothing,
}

impl MonitorChannel {
    /// Lets the child exec. A failure means that it died; its pidfd tells.
    pub fn go(&self) -> io::Result<()> {
        rustix::net::send(&self.0, b"g", SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// The next report, without waiting.
    pub fn receive(&self) -> io::Result<Received> {
        // A child that dies without having read its go resets the connection. The error is told once, before what it said
        // last.
        match self.receive_next() {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => match self.receive_next() {
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(Received::Closed),
                other => other,
            },
            other => other,
        }
    }

    fn receive_next(&self) -> io::Result<Received> {
        let mut text = [0; MAX_REPORT_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let message =
            rustix::net::recvmsg(&self.0, &mut [IoSliceMut::new(&mut text)], &mut control, RecvFlags::CMSG_CLOEXEC);
        let bytes = match message {
            Ok(message) => message.bytes,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {
                return Ok(Received::Nothing);
            }
            Err(error) => return Err(error.into()),
        };
        let fd = control
            .drain()
            .find_map(|message| if let RecvAncillaryMessage::ScmRights(mut fds) = message { fds.next() } else { None });
        if bytes == 0 {
            return Ok(Received::Closed);
        }
        let report = serde_json::from_slice(text.get(..bytes).unwrap_or_default())?;
        Ok(Received::Report(report, fd))
    }
}

impl AsFd for MonitorChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn cut(text: &mut String) {
    if text.len() > MAX_TEXT_BYTES {
        text.truncate(text.floor_char_boundary(MAX_TEXT_BYTES));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_arrives_with_the_terminal() {
        let (monitor, child) = pair().unwrap();
        assert!(matches!(monitor.receive().unwrap(), Received::Nothing));
        let identity = Identity { uid: 7, gid: 8, groups: vec![9] };
        child.prepared(&identity, Some(child.0.as_fd())).unwrap();
        let Received::Report(report, fd) = monitor.receive().unwrap() else {
            panic!("no report");
        };
        assert_eq!(report, Report::Prepared(identity));
        assert!(fd.is_some());
        monitor.go().unwrap();
        assert!(child.wait_for_go().unwrap());
        drop((child, fd));
        assert!(matches!(monitor.receive().unwrap(), Received::Closed));
    }

    #[test]
    fn a_child_without_a_monitor_gets_no_go() {
        let (monitor, child) = pair().unwrap();
        drop(monitor);
        assert!(!child.wait_for_go().unwrap());
    }

    #[test]
    fn the_worst_error_fits_a_report() {
        let mut text = "\u{1}".repeat(5000);
        cut(&mut text);
        let error = LaunchError {
            step: crate::runtime::launch::Step::WorkingDirectory,
            object: text.clone(),
            cause: text,
            errno: Some(i32::MIN),
        };
        let bytes = serde_json::to_vec(&Report::Failed(error)).unwrap();
        assert!(bytes.len() <= MAX_REPORT_BYTES, "{}", bytes.len());
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        let mut text = "é".repeat(400) + "x";
        cut(&mut text);
        assert_eq!(text.len(), MAX_TEXT_BYTES);
        let mut odd = "x".to_owned() + &"é".repeat(400);
        cut(&mut odd);
        assert_eq!(odd.len(), MAX_TEXT_BYTES - 1);
    }
}
