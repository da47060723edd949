//! Starting the layer unpacker in namespaces of its own, and locking it in.

#![allow(unsafe_code, reason = "fork, execveat and seccomp have no safe wrapper")]

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use linux_raw_sys::general as raw;
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitId, WaitIdOptions, WaitIdStatus, waitid};

use super::clone::{Cloned, fork};

/// Descriptors that the unpacker gets as its 0, 1, 2 and so on.
pub const INHERITED: usize = 5;
/// The child moves its descriptors to here before it puts them in place, so that none overwrites another.
const FIRST_FREE_FD: i32 = 100;

const NAMESPACES: u32 = raw::CLONE_NEWUSER
    | raw::CLONE_NEWNS
    | raw::CLONE_NEWNET
    | raw::CLONE_NEWPID
    | raw::CLONE_NEWIPC
    | raw::CLONE_NEWUTS
    | raw::CLONE_NEWCGROUP;

/// A running unpacker.
#[derive(Debug)]
pub struct Unpacker {
    pidfd: OwnedFd,
}

impl Unpacker {
    /// Waits for its end and reaps it.
    pub fn wait(self) -> io::Result<WaitIdStatus> {
        let id = || WaitId::PidFd(rustix::fd::AsFd::as_fd(&self.pidfd));
        loop {
            match waitid(id(), WaitIdOptions::EXITED) {
                Ok(Some(status)) => return Ok(status),
                Ok(None) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    pub fn kill(&self) {
        // Gone already is as good.
        rustix::process::pidfd_send_signal(&self.pidfd, rustix::process::Signal::KILL).unwrap_or_default();
    }
}

/// Everything the child needs between clone and exec, made before: it may not allocate, since other threads of this
/// process may have held the allocator's lock.
struct Prepared<'a> {
    go: RawFd,
    /// The parent's end of `go`; a copy of it in the child would keep the child waiting for a dead parent.
    go_write: RawFd,
    exe: RawFd,
    fds: [RawFd; INHERITED],
    argv: &'a [*const libc::c_char],
    envp: [*const libc::c_char; 1],
}

/// Runs `exe args...` as root of a new user namespace with this one's ids, and in new namespaces of all other kinds but time.
///
/// It dies with the calling thread. Its environment is empty and it inherits `fds` only, as 0, 1, 2 ...
pub fn spawn(exe: BorrowedFd<'_>, args: &[CString], fds: [BorrowedFd<'_>; INHERITED]) -> io::Result<Unpacker> {
    let (go_read, go_write) = pipe_with(PipeFlags::CLOEXEC)?;
    let mut argv: Vec<_> = args.iter().map(|arg| arg.as_ptr()).collect();
    argv.push(std::ptr::null());
    let prepared = Prepared {
        go: go_read.as_raw_fd(),
        go_write: go_write.as_raw_fd(),
        exe: exe.as_raw_fd(),
        fds: fds.map(|fd| fd.as_raw_fd()),
        argv: &argv,
        envp: [std::ptr::null()],
    };
    let (pid, pidfd) = clone_unpacker(&prepared)?;
    drop(go_read);
    let child = Unpacker { pidfd };
    match write_id_maps(pid).and_then(|()| Ok(rustix::io::write(&go_write, b"g")?)) {
        Ok(_) => Ok(child),
        Err(err) => {
            child.kill();
            child.wait()?;
            Err(err)
        }
    }
}

fn clone_unpacker(prepared: &Prepared<'_>) -> io::Result<(Pid, OwnedFd)> {
    // SAFETY: the child calls nothing but `obey`, which makes only system calls and never returns.
    match unsafe { fork(NAMESPACES.into(), libc::SIGCHLD, None) }? {
        Cloned::Child => obey(prepared),
        Cloned::Parent { pid, pidfd } => Ok((pid, pidfd)),
    }
}

/// The child: waits until its ids are mapped, then becomes the unpacker.
fn obey(prepared: &Prepared<'_>) -> ! {
    // SAFETY: takes numbers only.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    // SAFETY: closes the child's own copy, which nothing here uses.
    unsafe { libc::close(prepared.go_write) };
    let mut byte = 0u8;
    // SAFETY: one byte fits into `byte`.
    let got = unsafe { libc::read(prepared.go, (&raw mut byte).cast(), 1) };
    if got == 1 {
        become_unpacker(prepared);
    }
    // SAFETY: ends this process; no destructor of the parent may run here.
    unsafe { libc::_exit(127) }
}

/// Returns only when a call failed.
fn become_unpacker(prepared: &Prepared<'_>) {
    let exe = raise(prepared.exe);
    let raised = prepared.fds.map(raise);
    for (place, fd) in (0..).zip(raised) {
        // SAFETY: takes numbers only; all sources lie above all places.
        unsafe { libc::dup2(fd, place) };
    }
    // SAFETY: takes numbers only.
    unsafe { libc::syscall(libc::SYS_close_range, INHERITED, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    // SAFETY: an all-zero sigset_t is the empty set.
    let empty: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `empty` outlives the call, and the old mask is not asked for.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const empty, std::ptr::null_mut()) };
    // SAFETY: the path, both arrays and what they point to end in NUL and outlive the call.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            exe,
            c"".as_ptr(),
            prepared.argv.as_ptr(),
            prepared.envp.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
}

fn raise(fd: RawFd) -> RawFd {
    // SAFETY: takes numbers only.
    unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, FIRST_FREE_FD) }
}

/// Maps every id that this process knows to itself.
fn write_id_maps(pid: Pid) -> io::Result<()> {
    for map in ["uid_map", "gid_map"] {
        let own = fs::read_to_string(format!("/proc/self/{map}"))?;
        fs::write(format!("/proc/{}/{map}", pid.as_raw_nonzero()), identity(&own))?;
    }
    Ok(())
}

/// `INSIDE OUTSIDE COUNT` of each line as `INSIDE INSIDE COUNT`.
fn identity(map: &str) -> String {
    map.lines()
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let (inside, count) = (fields.next()?, fields.nth(1)?);
            Some(format!("{inside} {inside} {count}\n"))
        })
        .collect()
}

/// The program that runs now: what `exec` gets even after an upgrade has replaced the file.
pub fn own_program() -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    Ok(rustix::fs::open("/proc/self/exe", flags, Mode::empty())?)
}

/// Takes over a descriptor that the parent put in place; call it once for each.
pub fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers only; a closed descriptor is an error and nothing else.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, was inherited, and nothing else in this process owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The argument vector `name args...`.
pub fn argv(name: &CStr, args: &[&str]) -> Result<Vec<CString>, std::ffi::NulError> {
    let rest = args.iter().map(|arg| CString::new(*arg));
    std::iter::once(Ok(name.to_owned())).chain(rest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mapped_range_is_mapped_to_itself() {
        assert_eq!(identity("         0          0 4294967295\n"), "0 0 4294967295\n");
        assert_eq!(identity("0 1000 1\n1 100000 65536\n"), "0 0 1\n1 1 65536\n");
    }
}
