//! Resets what a process inherits besides descriptors (D46): a container must look the same whatever started the daemon.

use std::num::NonZeroU64;

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Resource, Rlimit as Limits};
use rustix::thread::{CapabilitiesSecureBits, CpuSet};

use super::failure::{At, Result};
use super::launch::{Rlimit, Step};
use crate::sys::exec as raw;

const STEP: Step = Step::Credentials;

/// The kernel's default for the first process.
const TIMER_SLACK_NS: NonZeroU64 = NonZeroU64::new(50_000).unwrap();

/// Files a process may open when nothing else is configured.
const DEFAULT_OPEN_FILES: u64 = 1_048_576;

const INFINITY: u64 = u64::MAX;
const MIB: u64 = 1 << 20;

/// Soft and hard limits of a process that asks for nothing (PV10): the kernel's for its first process, with more files
/// and without a number of processes, which the cgroup limits. No core files: they would land in the pod's storage.
const DEFAULT_LIMITS: [(Resource, u64, u64); 16] = [
    (Resource::Cpu, INFINITY, INFINITY),
    (Resource::Fsize, INFINITY, INFINITY),
    (Resource::Data, INFINITY, INFINITY),
    (Resource::Stack, 8 * MIB, INFINITY),
    (Resource::Core, 0, INFINITY),
    (Resource::Rss, INFINITY, INFINITY),
    (Resource::Nproc, INFINITY, INFINITY),
    (Resource::Nofile, DEFAULT_OPEN_FILES, DEFAULT_OPEN_FILES),
    (Resource::Memlock, 8 * MIB, 8 * MIB),
    (Resource::As, INFINITY, INFINITY),
    (Resource::Locks, INFINITY, INFINITY),
    (Resource::Sigpending, 65_536, 65_536),
    (Resource::Msgqueue, 819_200, 819_200),
    (Resource::Nice, 0, 0),
    (Resource::Rtprio, 0, 0),
    (Resource::Rttime, INFINITY, INFINITY),
];

/// Everything but limits and credentials. First of all: the process is not dumpable until exec (D11).
pub(crate) fn reset() -> Result<()> {
    hide()?;
    raw::reset_signals().at(STEP, "signals", "rt_sigaction")?;
    new_session()?;
    raw::reset_scheduler().at(STEP, "scheduler", "sched_setscheduler")?;
    rustix::process::setpriority_process(None, 0).at(STEP, "nice", "setpriority")?;
    raw::reset_io_priority().at(STEP, "io priority", "ioprio_set")?;
    every_cpu()?;
    rustix::thread::set_current_timer_slack(Some(TIMER_SLACK_NS)).at(STEP, "timer slack", "prctl")?;
    raw::reset_personality().at(STEP, "personality", "personality")?;
    rustix::process::set_child_subreaper(None).at(STEP, "subreaper", "prctl")?;
    rustix::thread::disable_transparent_huge_pages(false).at(STEP, "huge pages", "prctl")?;
    rustix::thread::set_capabilities_secure_bits(CapabilitiesSecureBits::empty()).at(STEP, "securebits", "prctl")?;
    unless_missing(raw::reset_memory_policy()).at(STEP, "memory policy", "set_mempolicy")?;
    unless_missing(raw::new_session_keyring()).at(STEP, "session keyring", "keyctl")
}

/// Nobody without the host's rights looks into this process until exec (D11).
pub(crate) fn hide() -> Result<()> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).at(STEP, "dumpable", "prctl")
}

fn new_session() -> Result<()> {
    match rustix::process::setsid() {
        // Already the leader of a session of its own.
        Err(Errno::PERM) => Ok(()),
        other => other.map(drop).at(STEP, "session", "setsid"),
    }
}

/// A kernel built without the feature has nothing that could be inherited.
fn unless_missing(result: std::io::Result<()>) -> std::io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
        other => other,
    }
}

/// All CPUs that the cpuset of the cgroup allows.
fn every_cpu() -> Result<()> {
    let mut cpus = CpuSet::new();
    for cpu in 0..CpuSet::MAX_CPU {
        cpus.set(cpu);
    }
    rustix::thread::sched_setaffinity(None, &cpus).at(STEP, "cpu affinity", "sched_setaffinity")
}

/// The default limits, with `wanted` in place of theirs. A default that would be above what this process may set is
/// lowered to that; a wanted limit that cannot be set is an error.
pub(crate) fn set_limits(wanted: &[Rlimit]) -> Result<()> {
    for (resource, soft, hard) in DEFAULT_LIMITS {
        let name = format!("{resource:?} limit");
        if let Some(limit) = wanted.iter().find(|limit| limit.resource == resource as u32) {
            let limits = limits(limit.soft, limit.hard);
            rustix::process::setrlimit(resource, limits).at(STEP, &name, "setrlimit")?;
        } else {
            set_default_limit(resource, soft, hard).at(STEP, &name, "setrlimit")?;
        }
    }
    Ok(())
}

fn set_default_limit(resource: Resource, soft: u64, hard: u64) -> std::result::Result<(), Errno> {
    match rustix::process::setrlimit(resource, limits(soft, hard)) {
        Err(Errno::PERM) => {
            let most = rustix::process::getrlimit(resource).maximum.unwrap_or(INFINITY).min(hard);
            rustix::process::setrlimit(resource, limits(soft.min(most), most))
        }
        other => other,
    }
}

fn limits(soft: u64, hard: u64) -> Limits {
    let finite = |value| (value != INFINITY).then_some(value);
    Limits { current: finite(soft), maximum: finite(hard) }
}
