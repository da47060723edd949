//! Starting a program with chosen descriptors, at a price that does not depend on the size of the caller.
#![allow(unsafe_code, reason = "the child of a vfork may only make raw system calls")]

use std::ffi::{CStr, CString, c_char, c_void};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr;

use rustix::io;
use rustix::process::Pid;

use super::clone::vfork;
use super::fd::last_errno;

/// Stack of the child until its exec; it calls a dozen system calls and nothing deep.
const STACK_BYTES: usize = 32 * 1024;
/// Most descriptors that a program can be given.
pub const MAX_FDS: usize = 8;
/// Descriptors are first moved here, out of the way of their targets.
const PARKING: RawFd = 64;

/// What to start.
#[derive(Debug)]
pub struct Program<'a> {
    pub path: &'a CStr,
    /// With the program's name.
    pub args: &'a [CString],
    pub env: &'a [CString],
    /// They become descriptors 0, 1, 2, 3 and so on; everything else is closed. At most [`MAX_FDS`].
    pub fds: &'a [BorrowedFd<'a>],
    pub working_directory: BorrowedFd<'a>,
}

#[derive(Debug)]
pub struct Spawned {
    pub pid: Pid,
    pub pidfd: OwnedFd,
}

/// What the child needs, prepared so that it allocates nothing.
struct Order {
    path: *const c_char,
    argv: Vec<*const c_char>,
    envp: Vec<*const c_char>,
    fds: [RawFd; MAX_FDS],
    count: usize,
    working_directory: RawFd,
    /// Written by the child (it shares our memory) when a call failed.
    errno: i32,
}

/// `clone(CLONE_VM | CLONE_VFORK | CLONE_PIDFD)` and exec. The child shares our memory and we sleep until it has executed, so
/// nothing is copied; signals are blocked meanwhile, so no handler of ours runs in it. The new program starts with all
/// signals blocked.
pub fn spawn(program: &Program<'_>) -> io::Result<Spawned> {
    let mut order = Order::new(program)?;
    let mut stack = vec![0u128; STACK_BYTES / size_of::<u128>()];
    let blocked = nix::sys::signal::SigSet::all();
    let before = blocked.thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK).map_err(from_nix)?;
    let argument = (&raw mut order).cast();
    // SAFETY: `child` touches only `order`, which we don't while it runs, and the stack is its alone.
    let cloned = unsafe { vfork(&mut stack, child, argument) };
    before.thread_set_mask().map_err(from_nix)?;
    let (pid, pidfd) = cloned?;
    // SAFETY: order.errno is a plain integer of ours; volatile because the child wrote it behind the compiler's back.
    let errno = unsafe { ptr::read_volatile(&raw const order.errno) };
    if errno == 0 {
        return Ok(Spawned { pid, pidfd });
    }
    // The child has ended already; its status says nothing that errno does not.
    let _status = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
    Err(io::Errno::from_raw_os_error(errno))
}

fn from_nix(errno: nix::errno::Errno) -> io::Errno {
    io::Errno::from_raw_os_error(errno as i32)
}

impl Order {
    fn new(program: &Program<'_>) -> io::Result<Self> {
        let mut fds = [-1; MAX_FDS];
        if program.fds.len() > MAX_FDS {
            return Err(io::Errno::TOOBIG);
        }
        for (place, fd) in fds.iter_mut().zip(program.fds) {
            *place = fd.as_raw_fd();
        }
        Ok(Self {
            path: program.path.as_ptr(),
            argv: pointers(program.args),
            envp: pointers(program.env),
            fds,
            count: program.fds.len(),
            working_directory: program.working_directory.as_raw_fd(),
            errno: 0,
        })
    }
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

/// What it returns is the exit code.
extern "C" fn child(order: *mut c_void) -> libc::c_int {
    // SAFETY: `spawn` passes a valid Order, and sleeps until we are gone.
    let order = unsafe { &mut *order.cast::<Order>() };
    let failure = prepare(order).err().unwrap_or_else(|| {
        // SAFETY: path, argv and envp are NUL-terminated and live in the sleeping parent.
        unsafe { libc::execve(order.path, order.argv.as_ptr(), order.envp.as_ptr()) };
        last_errno()
    });
    order.errno = failure.raw_os_error();
    127
}

/// Puts the descriptors at their numbers. Raw calls on integers only: the memory is the parent's.
fn prepare(order: &mut Order) -> io::Result<()> {
    // SAFETY: an integer argument.
    check(unsafe { libc::fchdir(order.working_directory) })?;
    let fds = order.fds.get_mut(..order.count).unwrap_or_default();
    for fd in fds.iter_mut() {
        // SAFETY: integer arguments.
        *fd = check(unsafe { libc::fcntl(*fd, libc::F_DUPFD_CLOEXEC, PARKING) })?;
    }
    let mut target = 0;
    for fd in fds.iter() {
        // SAFETY: integer arguments; the descriptor table is the child's own (no CLONE_FILES).
        check(unsafe { libc::dup2(*fd, target) })?;
        target += 1;
    }
    super::fd::close_from(target.cast_unsigned())
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(last_errno()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::AsFd;

    fn run(path: &CStr, script: &CStr) -> io::Result<(Spawned, String)> {
        let null = std::fs::File::options().read(true).write(true).open("/dev/null").unwrap();
        let root = std::fs::File::open("/").unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        let args = [c"sh".to_owned(), c"-c".to_owned(), script.to_owned()];
        let spawned = spawn(&Program {
            path,
            args: &args,
            env: &[c"A=b".to_owned()],
            fds: &[null.as_fd(), writer.as_fd(), null.as_fd(), root.as_fd()],
            working_directory: root.as_fd(),
        })?;
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        rustix::process::waitpid(Some(spawned.pid), rustix::process::WaitOptions::empty()).unwrap();
        Ok((spawned, text))
    }

    #[test]
    fn the_program_has_its_descriptors_and_no_other() {
        let (_spawned, text) = run(c"/bin/sh", c"echo $A; pwd; cd /proc/$$/fd; echo [0-9]*").unwrap();
        // 4 is the shell's own, of the directory that it lists.
        assert_eq!(text, "b\n/\n0 1 2 3 4\n");
    }

    #[test]
    fn a_missing_program_is_an_error_here() {
        assert_eq!(run(c"/nonexistent", c"").unwrap_err(), io::Errno::NOENT);
    }
}
