//! `RuntimeDefault`: an allow list, everything else is EPERM (section 3 of the security specification).

use std::collections::BTreeMap;

use caps::Capability;
use seccompiler::{SeccompAction, SeccompCmpOp, SeccompRule};

use super::{Group, SeccompError, compile, rule, rule32, syscalls};

const EPERM: u32 = libc::EPERM as u32;
const ENOSYS: u32 = libc::ENOSYS as u32;

/// Calls that every container may make, by what they are for.
const ALWAYS: &[&[&str]] = &[
    // Files by descriptor.
    &[
        "cachestat",
        "close",
        "close_range",
        "copy_file_range",
        "dup",
        "dup2",
        "dup3",
        "fadvise64",
        "fallocate",
        "fchdir",
        "fchmod",
        "fchown",
        "fcntl",
        "fdatasync",
        "fgetxattr",
        "flistxattr",
        "flock",
        "fremovexattr",
        "fsetxattr",
        "fstat",
        "fstatfs",
        "fsync",
        "ftruncate",
        "getdents",
        "getdents64",
        "lseek",
        "pread64",
        "preadv",
        "preadv2",
        "pwrite64",
        "pwritev",
        "pwritev2",
        "read",
        "readahead",
        "readv",
        "sendfile",
        "splice",
        "sync_file_range",
        "syncfs",
        "tee",
        "vmsplice",
        "write",
        "writev",
    ],
    // Files by name.
    &[
        "access",
        "chdir",
        "chmod",
        "chown",
        "creat",
        "faccessat",
        "faccessat2",
        "fchmodat",
        "fchmodat2",
        "fchownat",
        "file_getattr",
        "file_setattr",
        "futimesat",
        "getcwd",
        "getxattr",
        "getxattrat",
        "lchown",
        "lgetxattr",
        "link",
        "linkat",
        "listxattr",
        "listxattrat",
        "llistxattr",
        "lremovexattr",
        "lsetxattr",
        "lstat",
        "mkdir",
        "mkdirat",
        "mknod",
        "mknodat",
        "name_to_handle_at",
        "newfstatat",
        "open",
        "openat",
        "openat2",
        "readlink",
        "readlinkat",
        "removexattr",
        "removexattrat",
        "rename",
        "renameat",
        "renameat2",
        "rmdir",
        "setxattr",
        "setxattrat",
        "stat",
        "statfs",
        "statx",
        "symlink",
        "symlinkat",
        "sync",
        "truncate",
        "umask",
        "unlink",
        "unlinkat",
        "utime",
        "utimensat",
        "utimes",
    ],
    // Waiting and events.
    &[
        "epoll_create",
        "epoll_create1",
        "epoll_ctl",
        "epoll_ctl_old",
        "epoll_pwait",
        "epoll_pwait2",
        "epoll_wait",
        "epoll_wait_old",
        "eventfd",
        "eventfd2",
        "fanotify_mark",
        "inotify_add_watch",
        "inotify_init",
        "inotify_init1",
        "inotify_rm_watch",
        "io_cancel",
        "io_destroy",
        "io_getevents",
        "io_pgetevents",
        "io_setup",
        "io_submit",
        "poll",
        "ppoll",
        "pselect6",
        "select",
        "signalfd",
        "signalfd4",
        "timerfd_create",
        "timerfd_gettime",
        "timerfd_settime",
    ],
    // Memory.
    &[
        "brk",
        "madvise",
        "map_shadow_stack",
        "membarrier",
        "memfd_create",
        "memfd_secret",
        "mincore",
        "mlock",
        "mlock2",
        "mlockall",
        "mmap",
        "mprotect",
        "mremap",
        "mseal",
        "msync",
        "munlock",
        "munlockall",
        "munmap",
        "pkey_alloc",
        "pkey_free",
        "pkey_mprotect",
        "process_mrelease",
        "remap_file_pages",
    ],
    // Processes and threads.
    &[
        "arch_prctl",
        "capget",
        "capset",
        "execve",
        "execveat",
        "exit",
        "exit_group",
        "fork",
        "get_robust_list",
        "get_thread_area",
        "getcpu",
        "getpgid",
        "getpgrp",
        "getpid",
        "getppid",
        "getpriority",
        "getrlimit",
        "getrusage",
        "getsid",
        "gettid",
        "ioprio_get",
        "ioprio_set",
        "kill",
        "modify_ldt",
        "pidfd_open",
        "pidfd_send_signal",
        "prctl",
        "prlimit64",
        "process_vm_readv",
        "process_vm_writev",
        "ptrace",
        "restart_syscall",
        "rseq",
        "sched_get_priority_max",
        "sched_get_priority_min",
        "sched_getaffinity",
        "sched_getattr",
        "sched_getparam",
        "sched_getscheduler",
        "sched_rr_get_interval",
        "sched_setaffinity",
        "sched_setattr",
        "sched_setparam",
        "sched_setscheduler",
        "sched_yield",
        "set_robust_list",
        "set_thread_area",
        "set_tid_address",
        "setpgid",
        "setpriority",
        "setrlimit",
        "setsid",
        "tgkill",
        "tkill",
        "uretprobe",
        "vfork",
        "wait4",
        "waitid",
    ],
    // Identity.
    &[
        "getegid",
        "geteuid",
        "getgid",
        "getgroups",
        "getresgid",
        "getresuid",
        "getuid",
        "setfsgid",
        "setfsuid",
        "setgid",
        "setgroups",
        "setregid",
        "setresgid",
        "setresuid",
        "setreuid",
        "setuid",
    ],
    // Signals.
    &[
        "pause",
        "rt_sigaction",
        "rt_sigpending",
        "rt_sigprocmask",
        "rt_sigqueueinfo",
        "rt_sigreturn",
        "rt_sigsuspend",
        "rt_sigtimedwait",
        "rt_tgsigqueueinfo",
        "sigaltstack",
    ],
    // Time. Setting the clock fails without CAP_SYS_TIME; reading it by adjtimex does not need it.
    &[
        "adjtimex",
        "alarm",
        "clock_adjtime",
        "clock_getres",
        "clock_gettime",
        "clock_nanosleep",
        "getitimer",
        "gettimeofday",
        "nanosleep",
        "setitimer",
        "time",
        "timer_create",
        "timer_delete",
        "timer_getoverrun",
        "timer_gettime",
        "timer_settime",
        "times",
    ],
    // Talking to each other.
    &[
        "accept",
        "accept4",
        "bind",
        "connect",
        "getpeername",
        "getsockname",
        "getsockopt",
        "listen",
        "mq_getsetattr",
        "mq_notify",
        "mq_open",
        "mq_timedreceive",
        "mq_timedsend",
        "mq_unlink",
        "msgctl",
        "msgget",
        "msgrcv",
        "msgsnd",
        "pipe",
        "pipe2",
        "recvfrom",
        "recvmmsg",
        "recvmsg",
        "semctl",
        "semget",
        "semop",
        "semtimedop",
        "sendmmsg",
        "sendmsg",
        "sendto",
        "setsockopt",
        "shmat",
        "shmctl",
        "shmdt",
        "shmget",
        "shutdown",
        "socketpair",
    ],
    // Locks.
    &["futex", "futex_requeue", "futex_wait", "futex_waitv", "futex_wake"],
    // Giving up rights.
    &["landlock_add_rule", "landlock_create_ruleset", "landlock_restrict_self", "seccomp"],
    // Asking about the system.
    &["getrandom", "lsm_get_self_attr", "lsm_list_modules", "lsm_set_self_attr", "sysinfo", "uname"],
];

/// Calls that come with a capability.
const WITH: &[(Capability, &[&str])] = &[
    (
        Capability::CAP_SYS_ADMIN,
        &[
            "bpf",
            "clone",
            "clone3",
            "fanotify_init",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "listmount",
            "lookup_dcookie",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "open_tree_attr",
            "perf_event_open",
            "quotactl",
            "quotactl_fd",
            "setdomainname",
            "sethostname",
            "setns",
            "statmount",
            "syslog",
            "umount2",
            "unshare",
        ],
    ),
    (Capability::CAP_DAC_READ_SEARCH, &["open_by_handle_at"]),
    (Capability::CAP_SYS_PTRACE, &["kcmp", "pidfd_getfd", "process_madvise"]),
    (Capability::CAP_SYS_MODULE, &["delete_module", "finit_module", "init_module"]),
    (Capability::CAP_SYS_BOOT, &["reboot"]),
    (Capability::CAP_SYS_PACCT, &["acct"]),
    (Capability::CAP_SYS_RAWIO, &["ioperm", "iopl"]),
    (Capability::CAP_SYS_TIME, &["clock_settime", "settimeofday"]),
    (Capability::CAP_SYS_TTY_CONFIG, &["vhangup"]),
    (Capability::CAP_SYS_NICE, &["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"]),
    (Capability::CAP_SYS_CHROOT, &["chroot"]),
    (Capability::CAP_BPF, &["bpf"]),
    (Capability::CAP_PERFMON, &["perf_event_open"]),
    (Capability::CAP_SYSLOG, &["syslog"]),
];

/// `CLONE_NEWNS` to `CLONE_NEWNET`: every namespace that `clone` can make.
const NEW_NAMESPACES: u64 = 0x7E02_0000;
/// Execution domains that programs use: Linux, BSD, with `UNAME26` each, and asking for the current one.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// The program for a process with these capabilities (bounding set), as bytes of `struct sock_filter`.
pub fn runtime_default(capabilities: u64) -> Result<Vec<u8>, SeccompError> {
    let mut allowed = BTreeMap::new();
    // Conditional rules first: a later unconditional one replaces them.
    with_rules(&mut allowed, "clone", vec![rule(&[(0, SeccompCmpOp::MaskedEq(NEW_NAMESPACES), 0)])?]);
    with_rules(&mut allowed, "socket", vec![socket_rule()?]);
    with_rules(&mut allowed, "ioctl", vec![ioctl_rule()?]);
    let personalities = PERSONALITIES.iter().map(|&domain| rule32(&[(0, SeccompCmpOp::Eq, domain)]));
    with_rules(&mut allowed, "personality", personalities.collect::<Result<_, _>>()?);
    let granted = WITH.iter().filter(|(capability, _)| capabilities & capability.bitmask() != 0);
    for name in ALWAYS.iter().copied().chain(granted.map(|(_, names)| *names)).flatten() {
        with_rules(&mut allowed, name, Vec::new());
    }
    let mut groups = Vec::new();
    if let Some(number) = syscalls::number("clone3").filter(|number| !allowed.contains_key(number)) {
        // Its flags lie in memory, where no filter sees them: the C library falls back to clone.
        let calls = BTreeMap::from([(number, Vec::new())]);
        groups.push(Group { action: SeccompAction::Errno(ENOSYS), calls });
    }
    groups.push(Group { action: SeccompAction::Allow, calls: allowed });
    compile(groups, SeccompAction::Errno(EPERM))
}

/// Names that this architecture does not have are left out.
fn with_rules(calls: &mut BTreeMap<i64, Vec<SeccompRule>>, name: &str, rules: Vec<SeccompRule>) {
    if let Some(number) = syscalls::number(name) {
        calls.insert(number, rules);
    }
}

/// Every family but the kernel's cryptography (CVE-2026-31431) and the hypervisor's.
fn socket_rule() -> Result<SeccompRule, SeccompError> {
    let refused = [libc::AF_ALG, libc::AF_VSOCK].map(|family| (0, SeccompCmpOp::Ne, u64::from(family.unsigned_abs())));
    rule32(&refused)
}

/// Nothing may be typed into the terminal of somebody else (CVE-2017-5226).
fn ioctl_rule() -> Result<SeccompRule, SeccompError> {
    rule32(&[(1, SeccompCmpOp::Ne, libc::TIOCSTI), (1, SeccompCmpOp::Ne, libc::TIOCLINUX)])
}

#[cfg(test)]
mod tests {
    use super::super::machine::{Call, NATIVE, run, verdict};
    use super::*;
    use crate::runtime::capabilities;

    const ALLOW: u32 = 0x7fff_0000;
    const REFUSE: u32 = 0x0005_0000 | EPERM;
    const MISSING: u32 = 0x0005_0000 | ENOSYS;
    const KILL: u32 = 0x8000_0000;

    fn default() -> Vec<u8> {
        runtime_default(capabilities::default_set()).unwrap()
    }

    #[test]
    fn every_listed_name_exists_and_stands_once() {
        let mut seen = std::collections::HashSet::new();
        for name in ALWAYS.iter().copied().flatten() {
            assert!(cfg!(not(target_arch = "x86_64")) || syscalls::number(name).is_some(), "{name}");
            assert!(seen.insert(name), "{name} twice");
        }
        for name in WITH.iter().flat_map(|(_, names)| *names) {
            assert!(cfg!(not(target_arch = "x86_64")) || syscalls::number(name).is_some(), "{name}");
            assert!(!seen.contains(name), "{name} is allowed always");
        }
    }

    /// P22
    #[test]
    fn what_no_container_needs_is_refused() {
        let program = default();
        for name in [
            "add_key",
            "request_key",
            "keyctl",
            "io_uring_setup",
            "io_uring_enter",
            "io_uring_register",
            "userfaultfd",
            "pivot_root",
            "kexec_load",
            "kexec_file_load",
            "swapon",
            "swapoff",
            "move_pages",
            "migrate_pages",
            "sysfs",
            "ustat",
            "uselib",
            "nfsservctl",
            "_sysctl",
            "bpf",
            "mount",
            "umount2",
            "unshare",
            "setns",
            "perf_event_open",
            "open_by_handle_at",
            "init_module",
            "reboot",
            "fsopen",
            "mount_setattr",
            "syslog",
            "pidfd_getfd",
            "quotactl",
            "settimeofday",
            "iopl",
            "acct",
            "vhangup",
            "mbind",
            "sethostname",
            "create_module",
        ] {
            assert_eq!(verdict(&program, name, &[]), REFUSE, "{name}");
        }
        assert_eq!(verdict(&program, "clone3", &[]), MISSING);
    }

    #[test]
    fn arguments_decide_where_a_call_is_both() {
        let program = default();
        let clone_vm = 0x0000_0100;
        for (name, arguments, wanted) in [
            ("clone", &[clone_vm][..], ALLOW),
            ("clone", &[clone_vm | 0x1000_0000], REFUSE),
            ("clone", &[0x4000_0000], REFUSE),
            ("socket", &[2], ALLOW),
            ("socket", &[16], ALLOW),
            ("socket", &[38], REFUSE),
            ("socket", &[40], REFUSE),
            // The kernel reads an int: the upper half must not help.
            ("socket", &[0x1_0000_0026], REFUSE),
            ("ioctl", &[0, 0x5401], ALLOW),
            ("ioctl", &[0, 0x5412], REFUSE),
            ("ioctl", &[0, 0x1_0000_5412], REFUSE),
            ("ioctl", &[0, 0x541c], REFUSE),
            ("personality", &[0], ALLOW),
            ("personality", &[0xffff_ffff], ALLOW),
            ("personality", &[0x0040_0000], REFUSE),
            ("read", &[], ALLOW),
            ("chroot", &[], ALLOW),
            ("ptrace", &[], ALLOW),
            ("memfd_secret", &[], ALLOW),
            ("process_mrelease", &[], ALLOW),
        ] {
            assert_eq!(verdict(&program, name, arguments), wanted, "{name} {arguments:x?}");
        }
    }

    #[test]
    fn other_doors_into_the_kernel_are_closed() {
        let program = default();
        let i386 = 0x4000_0003;
        assert_eq!(run(&program, &Call { arch: i386, number: 1, arguments: [0; 6] }), KILL);
        let x32_read = 0x4000_0000;
        assert_eq!(run(&program, &Call { arch: NATIVE, number: x32_read, arguments: [0; 6] }), REFUSE);
    }

    #[test]
    fn a_capability_brings_its_calls_and_no_others() {
        for (capability, names) in WITH {
            let program = runtime_default(capability.bitmask()).unwrap();
            for name in *names {
                assert_eq!(verdict(&program, name, &[0x1000_0000]), ALLOW, "{name} with {capability}");
            }
            let other = if *capability == Capability::CAP_SYS_ADMIN { "reboot" } else { "mount" };
            assert_eq!(verdict(&program, other, &[]), REFUSE, "{other} with {capability}");
        }
    }
}
