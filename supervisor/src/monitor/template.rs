//! A monitor that only makes monitors. What a program costs before its first instruction (reading the file, a C library that
//! asks the processor for its caches) is paid once; a pod's monitor is then a fork of it, born into its cgroup and the
//! child of the brain.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Pid, WaitId, WaitIdOptions};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::client::MonitorProcess;
use super::spawn::Prepared;
use super::wire;
use crate::sys::clone::{Cloned, clone_sibling_into};
use crate::sys::fd::registered;
use crate::sys::spawn::{Program, Spawned, spawn};

/// Where the program finds its brain.
pub(super) const BRAIN_FD: RawFd = 3;
/// What `ps` shows of the template and of a monitor.
const OWN_NAME: &std::ffi::CStr = c"template";
const MONITOR_NAME: &std::ffi::CStr = c"monitor";
/// A request is its number; the answer repeats it, and adds a process id, or an error number below zero.
const REQUEST_BYTES: usize = size_of::<u64>();
const ANSWER_BYTES: usize = REQUEST_BYTES + size_of::<i32>();

/// The brain's end.
#[derive(Debug)]
pub struct Template {
    binary: PathBuf,
    running: tokio::sync::Mutex<Running>,
}

/// The process, and the line to it: one request at a time.
#[derive(Debug)]
struct Running {
    process: Spawned,
    socket: AsyncFd<OwnedFd>,
    last: u64,
}

impl Template {
    /// Starts the program, which is ready when it takes its first request.
    pub fn start(binary: PathBuf) -> io::Result<Self> {
        let running = tokio::sync::Mutex::new(Running::start(&binary)?);
        Ok(Self { binary, running })
    }

    pub async fn pid(&self) -> Pid {
        self.running.lock().await.process.pid
    }

    /// A new monitor, in the cgroup whose directory is given. A template that somebody killed is started anew.
    pub(super) async fn fork(&self, prepared: &Prepared, cgroup: BorrowedFd<'_>) -> io::Result<Spawned> {
        let mut running = self.running.lock().await;
        if let Err(error) = running.ask(prepared, cgroup) {
            tracing::warn!(%error, "the template of the monitors is gone, starting another");
            *running = Running::start(&self.binary)?;
            running.ask(prepared, cgroup)?;
        }
        running.answer().await
    }
}

impl Running {
    /// No shell, no search path, nothing inherited.
    fn start(binary: &Path) -> io::Result<Self> {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        let null = rustix::fs::openat(CWD, "/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        let root = std::fs::File::open("/")?;
        let process = spawn(&Program {
            path: &CString::new(binary.as_os_str().as_bytes())?,
            args: &[c"monitor".to_owned()],
            // A panic's backtrace is all that a monitor takes from an environment (D12).
            env: &[c"RUST_BACKTRACE=0".to_owned()],
            fds: &[null.as_fd(), null.as_fd(), null.as_fd(), theirs.as_fd()],
            working_directory: root.as_fd(),
        })?;
        Ok(Self { process, socket: registered(ours)?, last: 0 })
    }

    fn ask(&mut self, prepared: &Prepared, cgroup: BorrowedFd<'_>) -> io::Result<()> {
        let fds = [prepared.volumes.as_fd(), prepared.brain.as_fd(), prepared.listener.as_fd(), cgroup];
        self.last += 1;
        wire::send(self.socket.get_ref().as_fd(), &self.last.to_ne_bytes(), &fds)
    }

    async fn answer(&mut self) -> io::Result<Spawned> {
        loop {
            let mut answer = [0; ANSWER_BYTES];
            let mut receive = |socket: &OwnedFd| wire::receive(socket.as_fd(), &mut answer);
            let (length, fds) = self.socket.async_io(Interest::READABLE, &mut receive).await?;
            let Some((answered, result)) = answer.split_first_chunk().filter(|_| length == ANSWER_BYTES) else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            let made = made(result, fds);
            if *answered == self.last.to_ne_bytes() {
                return made;
            }
            // Whoever asked for it did not wait.
            if let Ok(process) = made {
                let process = MonitorProcess::new(process)?;
                tokio::spawn(async move { process.wait().await });
            }
        }
    }
}

fn made(result: &[u8], fds: Vec<OwnedFd>) -> io::Result<Spawned> {
    let number = result.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
    match (Pid::from_raw(number.max(0)), fds.into_iter().next()) {
        (Some(pid), Some(pidfd)) => Ok(Spawned { pid, pidfd }),
        _ => Err(io::Error::from_raw_os_error(number.saturating_neg())),
    }
}

impl Drop for Running {
    /// It holds nothing that would have to be put away.
    fn drop(&mut self) {
        let pidfd = self.process.pidfd.as_fd();
        let _gone = crate::sys::signal::send(pidfd, libc::SIGKILL);
        let _reaped = rustix::process::waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED);
    }
}

/// In the template: makes monitors until the brain is gone. Comes back in each of them with what it was given.
pub(super) fn serve(brain: OwnedFd) -> io::Result<Option<Prepared>> {
    rustix::thread::set_name(OWN_NAME)?;
    ask_processor();
    loop {
        poll(&mut [PollFd::new(&brain, PollFlags::IN)], None)?;
        let mut number = [0; REQUEST_BYTES];
        let (length, fds) = wire::receive(brain.as_fd(), &mut number)?;
        if length == 0 {
            return Ok(None);
        }
        let Ok([volumes, own_brain, listener, cgroup]) = <[OwnedFd; 4]>::try_from(fds) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let answer = |result: i32| [&number[..], &result.to_ne_bytes()].concat();
        match clone_sibling_into(cgroup.as_fd()) {
            Ok(Cloned::Child) => {
                rustix::thread::set_name(MONITOR_NAME)?;
                return Ok(Some(Prepared { volumes, brain: own_brain, listener }));
            }
            Ok(Cloned::Parent { pid, pidfd }) => {
                wire::send(brain.as_fd(), &answer(pid.as_raw_nonzero().get()), &[pidfd.as_fd()])?;
            }
            Err(errno) => wire::send(brain.as_fd(), &answer(-errno.raw_os_error()), &[])?,
        }
    }
}

/// What libraries ask the processor when they first need it is asked here for all that are to come: under a hypervisor each
/// question costs microseconds, and there are a dozen.
fn ask_processor() {
    #[cfg(target_arch = "x86_64")]
    let _known = std::arch::is_x86_feature_detected!("avx2");
}
