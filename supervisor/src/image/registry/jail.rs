//! Takes from the fetcher all that it does not need: root, files, programs, every socket but those of the Internet.

use landlock::{ABI, Access as _, AccessFs, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _};
use rustix::process::Resource;
use rustix::thread::{CapabilitySet, CapabilitySets, Gid, Uid};

use crate::image::confine::{self, JailError, failed};

/// `nobody` of every distribution; it owns nothing.
const NOBODY: u32 = 65534;
/// Lanes, and connections to registries, token services and name servers.
const MAX_OPEN_FILES: u64 = 128;
/// Address space: buffers of a few connections, and the program.
const ADDRESS_SPACE_BYTES: u64 = 256 << 20;

/// Must be called before there is a second thread.
pub(super) fn enter() -> Result<(), JailError> {
    let limits = [
        (Resource::As, ADDRESS_SPACE_BYTES),
        (Resource::Nofile, MAX_OPEN_FILES),
        (Resource::Core, 0),
        (Resource::Fsize, 0),
    ];
    confine::limit(&limits).map_err(failed("setrlimit"))?;
    let dumpable = rustix::process::DumpableBehavior::NotDumpable;
    rustix::process::set_dumpable_behavior(dumpable).map_err(failed("prctl(PR_SET_DUMPABLE)"))?;
    become_nobody()?;
    rustix::thread::set_no_new_privs(true).map_err(failed("prctl(PR_SET_NO_NEW_PRIVS)"))?;
    close_files().map_err(failed("landlock_restrict_self"))?;
    let program = seccomp_program().map_err(failed("compile seccomp filter"))?;
    confine::filter(&program)
}

fn become_nobody() -> Result<(), JailError> {
    if rustix::process::geteuid().is_root() {
        rustix::thread::set_thread_groups(&[]).map_err(failed("setgroups"))?;
        let gid = Gid::from_raw(NOBODY);
        rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(failed("setresgid"))?;
        let uid = Uid::from_raw(NOBODY);
        rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(failed("setresuid"))?;
    }
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { permitted: none, effective: none, inheritable: none };
    rustix::thread::set_capabilities(None, sets).map_err(failed("capset"))
}

/// No file can be opened any more, where the kernel has Landlock; seccomp refuses the calls everywhere.
fn close_files() -> Result<(), landlock::RulesetError> {
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V5))?
        .create()?
        .restrict_self()
        .map(|_| ())
}

/// Calls that asking registries makes. Everything else ends the process.
const ALLOWED: &[libc::c_long] = &[
    // Connections and lanes.
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_recvmmsg,
    libc::SYS_shutdown,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_fcntl,
    libc::SYS_ioctl,
    // The event loop.
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    libc::SYS_eventfd2,
    libc::SYS_ppoll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    // Memory.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    // The language's own: hash seeds, keys, clocks, and the way out.
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigreturn,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_tgkill,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

fn seccomp_program() -> Result<seccompiler::BpfProgram, seccompiler::BackendError> {
    // TCP and UDP over IPv4 and IPv6: no netlink, packet, or local sockets.
    let families = [libc::AF_INET, libc::AF_INET6].map(|family| u64::from(family.unsigned_abs()));
    confine::program(ALLOWED, &[(libc::SYS_socket, 0, &families)])
}

#[cfg(test)]
mod tests {
    use super::*;

    // D26
    #[test]
    fn the_filter_compiles_and_opens_no_file_and_starts_no_program() {
        assert!(seccomp_program().unwrap().len() > ALLOWED.len());
        for number in [
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_clone,
            libc::SYS_clone3,
            libc::SYS_openat,
            libc::SYS_openat2,
            libc::SYS_ptrace,
            libc::SYS_mount,
            libc::SYS_unshare,
            libc::SYS_listen,
            libc::SYS_accept4,
            libc::SYS_kill,
            libc::SYS_io_uring_setup,
        ] {
            assert!(!ALLOWED.contains(&number), "{number}");
        }
    }
}
