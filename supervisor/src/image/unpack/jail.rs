//! Locks the unpacker into its target directory (D26).
//!
//! The process is root of a user namespace in which every id is itself, so that files get their real owners, and it has no power over
//! anything outside its namespaces. See `docs/decisions/0020-layer-unpacker.md`.

use std::os::fd::{AsFd, OwnedFd};

use caps::{CapSet, Capability, CapsHashSet};
use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr, RulesetCreatedAttr,
};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags};
use rustix::process::Resource;

use crate::image::confine::{self, JailError, failed};
use crate::image::limits::{Limits, UNPACKER_ADDRESS_SPACE_BYTES};

/// What giving files their owner, mode and capabilities needs. Not `CAP_MKNOD`: a whiteout is made without.
const KEPT: [Capability; 5] = [
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
    Capability::CAP_SETFCAP,
];
/// Descriptors: the fixed ones, a chain of directories being removed, and a few files.
const MAX_OPEN_FILES: u64 = 256;

/// Makes `target`, a detached mount, the whole world of this process and gives back the root of it.
pub(super) fn enter(target: OwnedFd, limits: &Limits) -> Result<OwnedFd, JailError> {
    let limits = [
        (Resource::As, UNPACKER_ADDRESS_SPACE_BYTES),
        (Resource::Cpu, limits.cpu_seconds),
        (Resource::Fsize, limits.layer_bytes),
        (Resource::Nofile, MAX_OPEN_FILES),
        (Resource::Core, 0),
    ];
    confine::limit(&limits).map_err(failed("setrlimit"))?;
    pivot(target)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open("/", flags, Mode::empty()).map_err(failed("open(\"/\")"))?;
    drop_capabilities().map_err(failed("capset"))?;
    rustix::thread::set_no_new_privs(true).map_err(failed("prctl(PR_SET_NO_NEW_PRIVS)"))?;
    restrict_files(&root).map_err(failed("landlock_restrict_self"))?;
    let program = seccomp_program().map_err(failed("compile seccomp filter"))?;
    confine::filter(&program)?;
    Ok(root)
}

fn pivot(target: OwnedFd) -> Result<(), JailError> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).map_err(failed("mount(\"/\", MS_PRIVATE|MS_REC)"))?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(&target, "", rustix::fs::CWD, "/", flags).map_err(failed("move_mount(target, \"/\")"))?;
    rustix::process::fchdir(&target).map_err(failed("fchdir(target)"))?;
    match rustix::process::pivot_root(".", ".") {
        Ok(()) => rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(failed("umount2(old root)"))?,
        // An initial ramdisk cannot be pivoted away; the target covers it.
        Err(rustix::io::Errno::INVAL) => {}
        Err(errno) => return Err(failed("pivot_root(target)")(errno)),
    }
    rustix::process::chroot(".").map_err(failed("chroot(target)"))?;
    rustix::process::chdir("/").map_err(failed("chdir(\"/\")"))?;
    let flags = MountFlags::BIND | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount_remount("/", flags, c"").map_err(failed("mount(\"/\", MS_REMOUNT|MS_NOSUID)"))
}

fn drop_capabilities() -> Result<(), caps::errors::CapsError> {
    let kept: CapsHashSet = KEPT.into_iter().collect();
    caps::clear(None, CapSet::Ambient)?;
    // Those that this program does not know of are dropped with the permitted set; no exec can bring them back.
    for capability in caps::all().difference(&kept) {
        if caps::has_cap(None, CapSet::Bounding, *capability)? {
            caps::drop(None, CapSet::Bounding, *capability)?;
        }
    }
    caps::clear(None, CapSet::Inheritable)?;
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)
}

/// The second lock, where the kernel has Landlock: nothing is executed, no device but whiteouts made.
fn restrict_files(root: impl AsFd) -> Result<(), landlock::RulesetError> {
    let all = AccessFs::from_all(ABI::V5);
    let none: BitFlags<AccessFs> =
        AccessFs::Execute | AccessFs::MakeBlock | AccessFs::MakeFifo | AccessFs::MakeSock | AccessFs::IoctlDev;
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)?
        .create()?
        .add_rule(PathBeneath::new(root, all & !none))?
        .restrict_self()
        .map(|_| ())
}

/// Calls that applying a layer makes. Everything else ends the process.
const ALLOWED: &[libc::c_long] = &[
    // The layer and the report.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwrite64,
    libc::SYS_lseek,
    libc::SYS_close,
    // Files: opened by openat2 alone, whose resolve flags every caller must give.
    libc::SYS_openat2,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_fstatfs,
    libc::SYS_getdents64,
    libc::SYS_readlinkat,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_renameat,
    libc::SYS_symlinkat,
    libc::SYS_linkat,
    libc::SYS_fchmod,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fsetxattr,
    libc::SYS_ftruncate,
    libc::SYS_utimensat,
    libc::SYS_fcntl,
    // Memory.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    // The language's own: hash seeds, clocks, and the way out, also by panic.
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_futex,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigreturn,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_tgkill,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

fn seccomp_program() -> Result<seccompiler::BpfProgram, seccompiler::BackendError> {
    // A device node with the number 0 is an overlay whiteout and no device.
    confine::program(ALLOWED, &[(libc::SYS_mknodat, 3, &[0])])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_compiles_and_allows_no_way_out() {
        assert!(seccomp_program().unwrap().len() > ALLOWED.len());
        for number in [
            libc::SYS_socket,
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_clone,
            libc::SYS_clone3,
            libc::SYS_openat,
            libc::SYS_ptrace,
            libc::SYS_mount,
            libc::SYS_fchmodat,
            libc::SYS_io_uring_setup,
        ] {
            assert!(!ALLOWED.contains(&number), "{number}");
        }
    }
}
