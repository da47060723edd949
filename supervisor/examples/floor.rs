//! The kernel's floor under a pod's start: the system calls that no runtime can do without, and nothing else.
//!
//! `floor ROUNDS ROOTFS SCRATCH` prints one line per round: microseconds from the clone with new namespaces to the end of the
//! overlay mount, to the first byte that the program wrote, and to its end. Runs as root; ROOTFS holds a static busybox.

use std::error::Error;
use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, unmount,
};
use supervisor::sys::clone::{Cloned, NewNamespaces, clone_into};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [rounds, rootfs, scratch] = arguments.as_slice() else { return Err("floor ROUNDS ROOTFS SCRATCH".into()) };
    let cgroup = rustix::fs::openat(CWD, "/sys/fs/cgroup", OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
    let cgroup = own_cgroup().unwrap_or(cgroup);
    for round in 0..rounds.parse::<u32>()? {
        let dir = format!("{scratch}/{round}");
        for name in ["upper", "work", "root"] {
            std::fs::create_dir_all(format!("{dir}/{name}"))?;
        }
        println!("{}", one(&cgroup, rootfs, &dir)?);
    }
    Ok(())
}

/// The cgroup2 hierarchy may be mounted beside v1 controllers.
fn own_cgroup() -> Option<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    rustix::fs::openat(CWD, "/sys/fs/cgroup/unified", flags, Mode::empty()).ok()
}

fn one(cgroup: &OwnedFd, rootfs: &str, dir: &str) -> Result<String> {
    let (reader, writer) = rustix::pipe::pipe()?;
    let all = NewNamespaces { mount: true, pid: true, network: true, ipc: true, uts: true, user: false };
    let start = Instant::now();
    match clone_into(all, cgroup.as_fd())? {
        Cloned::Child => {
            let _failed = child(&writer, rootfs, dir);
            supervisor::sys::exit_now(1)
        }
        Cloned::Parent { pidfd, .. } => {
            let cloned = start.elapsed().as_micros();
            drop(writer);
            let mut byte = [0; 64];
            let read = rustix::io::read(&reader, &mut byte)?;
            let first = start.elapsed().as_micros();
            let options = rustix::process::WaitIdOptions::EXITED;
            rustix::process::waitid(rustix::process::WaitId::PidFd(pidfd.as_fd()), options)?;
            if read == 0 {
                return Err("the program wrote nothing".into());
            }
            Ok(format!("{cloned} {first} {}", start.elapsed().as_micros()))
        }
    }
}

fn child(output: &OwnedFd, rootfs: &str, dir: &str) -> Result<()> {
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::DOWNSTREAM)?;
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "lowerdir", rootfs)?;
    fsconfig_set_string(&context, "upperdir", format!("{dir}/upper").as_str())?;
    fsconfig_set_string(&context, "workdir", format!("{dir}/work").as_str())?;
    fsconfig_create(&context)?;
    let root = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    let place = format!("{dir}/root");
    move_mount(&root, "", CWD, place.as_str(), MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    rustix::process::fchdir(&root)?;
    rustix::process::pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    rustix::stdio::dup2_stdout(output)?;
    let environment: [&CStr; 0] = [];
    nix::unistd::execve(c"/bin/echo", &[c"echo", c"hi"], &environment)?;
    Ok(())
}
