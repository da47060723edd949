//! The sandbox's process: holds the namespaces, owns nothing.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create, fsconfig_reconfigure,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, unmount,
};
use rustix::process::{Gid, Uid};

use super::channel::ChildChannel;
use super::protocol::SandboxSpec;
use crate::runtime::launch::{LaunchError, Step};
use crate::sys::clone::NewNamespaces;

/// Who pause is (nobody else's number: not `nobody`).
const PAUSE_ID: u32 = 65_535;
/// Highest capability number that is tried; the kernel says where its own end is.
const MAX_CAPABILITY: u32 = 63;

/// What a pod's network namespace gets unless the pod says otherwise (rule NS5): unprivileged ports and ping.
const NETWORK_DEFAULTS: [(&str, &str); 2] =
    [("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", "0 2147483647")];

type Done = Result<(), LaunchError>;
/// Path, value, and whether it must succeed.
type Sysctl = (String, String, bool);

/// The namespaces that pause is born into.
pub(super) fn namespaces(spec: &SandboxSpec) -> NewNamespaces {
    let host = spec.host;
    let network = !host.network && spec.netns.is_none();
    let user = spec.user_namespace.is_some();
    NewNamespaces { mount: true, pid: !host.pid, network, ipc: !host.ipc, uts: !host.network, user }
}

/// The sandbox's own sysctls and the defaults that it does not override, each with whether it must succeed.
fn sysctls(spec: &SandboxSpec) -> Vec<Sysctl> {
    let mut all: Vec<_> = spec.sysctls.iter().map(|(name, value)| (sysctl_path(name), value.clone(), true)).collect();
    if !spec.host.network {
        for (name, value) in NETWORK_DEFAULTS {
            let path = sysctl_path(name);
            if all.iter().all(|(given, ..)| *given != path) {
                all.push((path, value.to_owned(), false));
            }
        }
    }
    all
}

/// sysctl(8): the first separator decides; when it is a dot, dots and slashes change places.
fn sysctl_path(name: &str) -> String {
    if name.find(['.', '/']).is_some_and(|at| name.as_bytes().get(at) == Some(&b'/')) {
        return name.to_owned();
    }
    let swap = |character| match character {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    name.chars().map(swap).collect()
}

/// What the child works with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inherited<'a> {
    pub(super) pause: BorrowedFd<'a>,
    pub(super) netns: Option<BorrowedFd<'a>>,
}

/// In the child: sets the sandbox up and becomes pause.
pub(super) fn run(spec: &SandboxSpec, fds: Inherited<'_>, channel: ChildChannel) -> ! {
    // Until its ids are mapped, it is nobody.
    if spec.user_namespace.is_some() && !channel.wait_for_go().unwrap_or(false) {
        crate::sys::exit_now(0);
    }
    match become_pause(spec, fds) {
        Ok(()) => crate::sys::exit_now(super::channel::START_ERROR_CODE),
        Err(error) => channel.fail(&error),
    }
}

fn become_pause(spec: &SandboxSpec, fds: Inherited<'_>) -> Done {
    // The monitor's working directory, which a pod's own root may not look into.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let place = rustix::fs::openat(CWD, ".", flags, Mode::empty()).map_err(at(Step::PivotRoot, "."))?;
    if let Some(netns) = fds.netns {
        let network = Some(rustix::thread::LinkNameSpaceType::Network);
        rustix::thread::move_into_link_name_space(netns, network).map_err(at(Step::JoinNamespaces, "the network"))?;
    }
    if let Some(hostname) = &spec.hostname {
        rustix::system::sethostname(hostname.as_bytes()).map_err(at(Step::Hostname, hostname))?;
    }
    let refused = write_sysctls(sysctls(spec), spec.user_namespace.is_some())?;
    if spec.user_namespace.is_some() {
        become_root_of_namespace().map_err(at(Step::Credentials, "uid 0"))?;
        write_sysctls(refused, false)?;
    }
    if let Some(adjustment) = spec.oom_score_adj {
        match write_proc("/proc/self", "oom_score_adj", &adjustment.to_string()) {
            // Lowering needs CAP_SYS_RESOURCE; a daemon without it cannot protect what it starts.
            Err(Errno::ACCESS | Errno::PERM) => {}
            written => written.map_err(at(Step::Credentials, "oom_score_adj"))?,
        }
    }
    enter_root(fds.pause, &place).map_err(at(Step::PivotRoot, "/"))?;
    drop_privileges().map_err(at(Step::Credentials, "uid 65535"))?;
    block_only_term_and_int().map_err(at(Step::Credentials, "signal mask"))?;
    crate::sys::fd::cloexec_from(3).map_err(at(Step::Exec, "/pause"))?;
    let environment: [&std::ffi::CStr; 0] = [];
    let Err(errno) = nix::unistd::execve(c"/pause", &[c"/pause"], &environment);
    Err(at(Step::Exec, "/pause")(Errno::from_raw_os_error(errno as i32)))
}

/// Those that may be tried again as another user: in a pod with a user namespace, whom sysctls of the IPC namespace belong to
/// depends on the kernel, since 6.9 to the namespace's root.
fn write_sysctls(all: Vec<Sysctl>, may_be_refused: bool) -> Result<Vec<Sysctl>, LaunchError> {
    let mut refused = Vec::new();
    for (path, value, required) in all {
        match write_proc("/proc/sys", &path, &value) {
            Err(Errno::ACCESS | Errno::PERM) if may_be_refused => refused.push((path, value, required)),
            Err(errno) if required => return Err(at(Step::Sysctl, &path)(errno)),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(refused)
}

/// What is made from now on belongs to ids that the namespace knows.
fn become_root_of_namespace() -> Result<(), Errno> {
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
    rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)
}

fn at(step: Step, object: &str) -> impl FnOnce(Errno) -> LaunchError {
    move |errno| LaunchError {
        step,
        object: object.to_owned(),
        cause: std::io::Error::from(errno).to_string(),
        errno: Some(errno.raw_os_error()),
    }
}

/// D3: below the given directory of procfs, through no link.
fn write_proc(directory: &str, path: &str, value: &str) -> Result<(), Errno> {
    let directory_flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(CWD, directory, directory_flags, Mode::empty())?;
    if rustix::fs::fstatfs(&directory)?.f_type != libc::PROC_SUPER_MAGIC {
        return Err(Errno::NODEV);
    }
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let file = rustix::fs::openat2(&directory, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty(), resolve)?;
    rustix::io::write(&file, value.as_bytes()).map(drop)
}

/// A read-only file system that holds `/pause` alone becomes the root, and nothing of the host stays reachable.
fn enter_root(pause: BorrowedFd<'_>, place: &OwnedFd) -> Result<(), Errno> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in [("mode", "0555"), ("size", "1m"), ("nr_inodes", "4")] {
        fsconfig_set_string(context.as_fd(), key, value)?;
    }
    fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID;
    let root = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    copy_pause(pause, &root)?;
    fsconfig_set_flag(context.as_fd(), "ro")?;
    fsconfig_reconfigure(context.as_fd())?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(root.as_fd(), "", place, "", flags)?;
    rustix::process::fchdir(&root)?;
    rustix::process::pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")
}

fn copy_pause(pause: BorrowedFd<'_>, root: &OwnedFd) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rustix::fs::openat(root, "pause", flags, Mode::from_raw_mode(0o555))?;
    let mut block = [0; 4096];
    let mut offset = 0;
    loop {
        let count = rustix::io::pread(pause, &mut block[..], offset)?;
        if count == 0 {
            // Before writing is given up: the mode must not depend on the umask.
            return rustix::fs::fchmod(&file, Mode::from_raw_mode(0o555));
        }
        let mut rest = block.get(..count).unwrap_or_default();
        while !rest.is_empty() {
            let written = rustix::io::write(&file, rest)?;
            rest = rest.get(written..).unwrap_or_default();
        }
        offset += count as u64;
    }
}

fn drop_privileges() -> Result<(), Errno> {
    for number in 0..=MAX_CAPABILITY {
        match drop_bounding(number) {
            Ok(()) => {}
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(errno),
        }
    }
    rustix::thread::set_no_new_privs(true)?;
    rustix::thread::set_thread_groups(&[])?;
    let (uid, gid) = (Uid::from_raw(PAUSE_ID), Gid::from_raw(PAUSE_ID));
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    // Leaving uid 0 clears the permitted, effective and ambient sets.
    rustix::thread::set_thread_res_uid(uid, uid, uid)
}

fn drop_bounding(number: u32) -> Result<(), Errno> {
    match rustix::thread::CapabilitySet::from_bits_retain(1 << number) {
        set if set.is_empty() => Ok(()),
        set => rustix::thread::remove_capability_from_bounding_set(set),
    }
}

/// A TERM or INT that comes before pause asks for it is kept, not lost.
fn block_only_term_and_int() -> Result<(), Errno> {
    let mut mask = nix::sys::signal::SigSet::empty();
    mask.add(nix::sys::signal::Signal::SIGTERM);
    mask.add(nix::sys::signal::Signal::SIGINT);
    mask.thread_set_mask().map_err(|errno| Errno::from_raw_os_error(errno as i32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::protocol::{HostNamespaces, WhenBrainDies};
    use crate::runtime::launch::FdSlot;
    use crate::user_namespace::IdRange;

    fn spec(host: HostNamespaces, sysctls: &[(&str, &str)]) -> SandboxSpec {
        SandboxSpec {
            id: "s".to_owned(),
            hostname: None,
            host,
            sysctls: sysctls.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            cgroup: FdSlot(0),
            pause: FdSlot(1),
            netns: None,
            user_namespace: None,
            oom_score_adj: None,
            shm_bytes: None,
            when_brain_dies: WhenBrainDies::Stay,
        }
    }

    #[test]
    fn names_of_sysctls_become_paths() {
        for (name, path) in [
            ("kernel.shm_rmid_forced", "kernel/shm_rmid_forced"),
            ("kernel/shm_rmid_forced", "kernel/shm_rmid_forced"),
            ("net/ipv4/conf/eth0.1/forwarding", "net/ipv4/conf/eth0.1/forwarding"),
            ("net.ipv4.conf.eth0/1.forwarding", "net/ipv4/conf/eth0.1/forwarding"),
        ] {
            assert_eq!(sysctl_path(name), path);
        }
    }

    #[test]
    fn the_network_defaults_yield_to_the_pod_and_to_the_hosts_network() {
        // NS5
        let values = |spec: &SandboxSpec| -> Vec<(String, bool)> {
            sysctls(spec).into_iter().map(|(_, value, required)| (value, required)).collect()
        };
        let own = HostNamespaces::default();
        let all = [("0".to_owned(), false), ("0 2147483647".to_owned(), false)];
        assert_eq!(values(&spec(own, &[])), all);
        let given = spec(own, &[("net/ipv4/ping_group_range", "1 0")]);
        assert_eq!(values(&given), [("1 0".to_owned(), true), ("0".to_owned(), false)]);
        assert_eq!(values(&spec(HostNamespaces { network: true, ..own }, &[])), []);
    }

    #[test]
    fn shared_namespaces_are_not_made() {
        let all = NewNamespaces { mount: true, pid: true, network: true, ipc: true, uts: true, user: false };
        let own = spec(HostNamespaces::default(), &[]);
        assert_eq!(namespaces(&own), all);
        let given = SandboxSpec { netns: Some(FdSlot(2)), ..own };
        assert_eq!(namespaces(&given), NewNamespaces { network: false, ..all });
        let ids = IdRange::free(&std::collections::BTreeSet::new());
        let isolated = SandboxSpec { user_namespace: ids, ..spec(HostNamespaces::default(), &[]) };
        assert_eq!(namespaces(&isolated), NewNamespaces { user: true, ..all });
        let none = namespaces(&spec(HostNamespaces { network: true, pid: true, ipc: true }, &[]));
        assert_eq!(none, NewNamespaces { mount: true, ..NewNamespaces::default() });
    }
}
