//! What a monitor starts with, and where later brains find it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::template::Template;

/// Name of the socket in the state directory.
pub const SOCKET_NAME: &str = "monitor.sock";
/// Directory in the state directory where the monitor starts. It covers it in its own mount namespace with the pod's volumes;
/// on the host it stays empty.
pub const VOLUMES_NAME: &str = "volumes";
/// Connections that wait to be accepted; there is one brain.
const BACKLOG: i32 = 4;
/// Says where the monitor is, before any other place.
pub const LIBEXEC_VARIABLE: &str = "MONOPOD_LIBEXEC";

/// What a monitor starts with.
#[derive(Debug)]
pub struct Start<'a> {
    /// The pod's run-time directory, only ours: the socket is bound there, and it stays as long as the monitor lives.
    pub state: &'a Path,
    /// Directory of the cgroup that the monitor is born into.
    pub cgroup: BorrowedFd<'a>,
    /// Who forks it.
    pub template: &'a Template,
}

/// What a monitor is given.
#[derive(Debug)]
pub(super) struct Prepared {
    /// Its working directory.
    pub(super) volumes: OwnedFd,
    pub(super) brain: OwnedFd,
    pub(super) listener: OwnedFd,
}

/// Beside the running executable, then in `../lib/monopod/` from there, or in `$MONOPOD_LIBEXEC` when that is set.
pub fn find_binary(name: &str) -> io::Result<PathBuf> {
    if let Some(directory) = std::env::var_os(LIBEXEC_VARIABLE) {
        return Ok(PathBuf::from(directory).join(name));
    }
    let own = std::env::current_exe()?;
    let beside = own.parent().unwrap_or(Path::new("/"));
    let candidates = [beside.join(name), beside.join("../lib/monopod").join(name)];
    let found = candidates.into_iter().find(|path| path.is_file());
    found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{name} is not beside {}", own.display())))
}

/// Binds the socket, and makes the pair by which the first brain is connected; its own end comes second.
pub(super) fn prepare(state: &Path) -> io::Result<(Prepared, OwnedFd)> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let state = rustix::fs::openat(CWD, state, flags, Mode::empty())?;
    let listener = listen(&state)?;
    let volumes = make_directory(&state, VOLUMES_NAME)?;
    let (ours, brain) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    Ok((Prepared { volumes, brain, listener }, ours))
}

/// Connects to a monitor that an earlier brain started.
pub fn connect(state: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(CWD, state, flags, Mode::empty())?;
    let socket = seqpacket()?;
    rustix::net::connect(&socket, &address(directory.as_fd())?)?;
    Ok(socket)
}

fn make_directory(state: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    match rustix::fs::mkdirat(state, name, Mode::RWXU) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(state, name, flags, Mode::empty())?)
}

fn listen(state: &OwnedFd) -> io::Result<OwnedFd> {
    match rustix::fs::unlinkat(state, SOCKET_NAME, rustix::fs::AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    let socket = seqpacket()?;
    rustix::net::bind(&socket, &address(state.as_fd())?)?;
    rustix::fs::chmodat(state, SOCKET_NAME, Mode::RUSR | Mode::WUSR, rustix::fs::AtFlags::empty())?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

fn seqpacket() -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Through the descriptor: a path of a state directory may be longer than an address can be (107 bytes).
fn address(directory: BorrowedFd<'_>) -> io::Result<SocketAddrUnix> {
    use std::os::fd::AsRawFd;
    Ok(SocketAddrUnix::new(format!("/proc/self/fd/{}/{SOCKET_NAME}", directory.as_raw_fd()))?)
}
