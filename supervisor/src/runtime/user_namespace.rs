//! A container's process on its way into the user namespace of its pod.
//!
//! Everything that needs the host's root is done first: the root file system and all mounts are made from outside, by a
//! process that the container cannot reach, in a mount namespace that ends with the exec. What the container sees is a copy
//! that belongs to the pod's user namespace, so nothing in it can be unmounted or made writable (mount_namespaces(7)).

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::thread::{CapabilitySets, Gid, LinkNameSpaceType, Uid};

use super::failure::{At, Result, refuse};
use super::launch::{Identity, Step};
use crate::monitor::channel::{Users, Work};
use crate::user_namespace::{IdRange, NotInPod};

const STEP: Step = Step::JoinNamespaces;
const OBJECT: &str = "the user namespace";

/// From now on what is made in file systems belongs to the pod's root; the rights are still those of the host's.
pub(crate) fn make_files_as_root_of(ids: IdRange) -> Result<()> {
    let root = ids.first();
    crate::sys::process::set_file_system_ids(root, root).at(STEP, OBJECT, "setfsuid")?;
    let own = rustix::thread::capabilities(None).at(STEP, OBJECT, "capget")?;
    let all = CapabilitySets { effective: own.permitted, ..own };
    rustix::thread::set_capabilities(None, all).at(STEP, OBJECT, "capset")
}

/// Becomes root of the pod's user namespace, which is nobody outside. A container's first process gets mount and cgroup
/// namespaces that belong to it; the root directory has to be opened anew.
pub(crate) fn enter(users: &Users<'_>, work: Work<'_>) -> Result<()> {
    let kind = Some(LinkNameSpaceType::User);
    rustix::thread::move_into_link_name_space(users.namespace, kind).at(STEP, OBJECT, "setns")?;
    rustix::thread::set_thread_groups(&[]).at(STEP, OBJECT, "setgroups")?;
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT).at(STEP, OBJECT, "setresgid")?;
    rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).at(STEP, OBJECT, "setresuid")?;
    match work {
        Work::Container { .. } => crate::sys::process::unshare_mounts_and(users.own_cgroup_namespace).at(
            STEP,
            "its mount namespace",
            "unshare(CLONE_NEWNS)",
        ),
        // It is in those of its container.
        Work::Exec { .. } => Ok(()),
    }
}

/// What the host calls the user. Numbers that the namespace does not know can't be set; saying which is friendlier than
/// `EINVAL`.
pub(crate) fn host_uid(ids: IdRange, identity: &Identity) -> Result<u32> {
    let told = |error: NotInPod| refuse(Step::Credentials, &format!("user {}", identity.uid), error.to_string());
    for group in identity.groups.iter().chain([&identity.gid]) {
        ids.host(*group).map_err(told)?;
    }
    ids.host(identity.uid).map_err(told)
}

/// The process's own directory in the host's procfs.
pub(crate) fn own_directory(users: &Users<'_>) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(users.proc, "self", flags, Mode::empty()).at(Step::Credentials, "/proc/self", "openat")
}

/// Gives something to the pod's root that the kernel gave to the host's.
pub(crate) fn give(dir: &OwnedFd, name: &str, ids: IdRange, target: &str) -> Result<()> {
    let (uid, gid) = (Some(Uid::from_raw(ids.first())), Some(Gid::from_raw(ids.first())));
    let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::chownat(dir, name, uid, gid, flags).at(Step::Mount, target, "fchownat")
}
