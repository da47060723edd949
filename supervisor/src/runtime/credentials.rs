//! Who the process is and what it may do, in the order of D13.
//!
//! Loading a seccomp filter without `no_new_privs` needs CAP_SYS_ADMIN. Then the capability is kept until the monitor lets
//! the process go: the filter must not see our own waiting, only `capset` and `execve`.

use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets, Gid, Uid};

use super::failure::{At, Result};
use super::launch::{Capabilities, Identity, Step};
use crate::sys::seccomp::{self, Program};

const STEP: Step = Step::Credentials;

/// What is left to do after the go.
#[derive(Debug)]
pub(crate) struct Sealed {
    program: Option<Program>,
    /// The sets to end with, when CAP_SYS_ADMIN is still held for the filter.
    last_sets: Option<(CapabilitySets, CapabilitySet)>,
}

/// Becomes the user; everything but the filter.
pub(crate) fn assume(
    identity: &Identity,
    wanted: &Capabilities,
    no_new_privs: bool,
    program: Option<Program>,
) -> Result<Sealed> {
    if no_new_privs {
        rustix::thread::set_no_new_privs(true).at(STEP, "no_new_privs", "prctl")?;
    }
    limit_bounding_set(wanted.bounding)?;
    rustix::thread::set_keep_capabilities(true).at(STEP, "keep capabilities", "prctl")?;
    become_user(identity)?;
    rustix::thread::set_keep_capabilities(false).at(STEP, "keep capabilities", "prctl")?;
    let (sets, ambient) = possible(wanted)?;
    let held_back = program.is_some() && !no_new_privs;
    if held_back {
        let admin = CapabilitySet::SYS_ADMIN;
        let more = CapabilitySets { effective: sets.effective | admin, permitted: sets.permitted | admin, ..sets };
        rustix::thread::set_capabilities(None, more).at(STEP, "capabilities", "capset")?;
    } else {
        set_all(sets, ambient)?;
    }
    Ok(Sealed { program, last_sets: held_back.then_some((sets, ambient)) })
}

impl Sealed {
    /// The last step before exec.
    pub(crate) fn close(self) -> Result<()> {
        if let Some(program) = &self.program {
            seccomp::load(program).at(Step::Seccomp, "filter", "seccomp")?;
        }
        match self.last_sets {
            Some((sets, ambient)) => set_all(sets, ambient),
            None => Ok(()),
        }
    }
}

fn become_user(identity: &Identity) -> Result<()> {
    let groups: Vec<Gid> = identity.groups.iter().map(|&gid| Gid::from_raw(gid)).collect();
    rustix::thread::set_thread_groups(&groups).at(STEP, "groups", "setgroups")?;
    let gid = Gid::from_raw(identity.gid);
    rustix::thread::set_thread_res_gid(gid, gid, gid).at(STEP, &format!("gid {}", identity.gid), "setresgid")?;
    let uid = Uid::from_raw(identity.uid);
    rustix::thread::set_thread_res_uid(uid, uid, uid).at(STEP, &format!("uid {}", identity.uid), "setresuid")
}

/// By number, since a kernel may know capabilities that no library names yet.
fn limit_bounding_set(wanted: u64) -> Result<()> {
    for number in 0..u64::BITS {
        let bit = 1 << number;
        if wanted & bit == 0 {
            match rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(bit)) {
                Ok(()) => {}
                // The kernel knows no further one.
                Err(Errno::INVAL) => break,
                Err(errno) => {
                    return Err(super::failure::failed(STEP, "bounding set", "prctl", errno));
                }
            }
        }
    }
    Ok(())
}

/// A capability that this process lacks itself cannot be given.
fn possible(wanted: &Capabilities) -> Result<(CapabilitySets, CapabilitySet)> {
    let own = rustix::thread::capabilities(None).at(STEP, "capabilities", "capget")?.permitted;
    let within = |bits| CapabilitySet::from_bits_retain(bits) & own;
    let sets = CapabilitySets {
        permitted: within(wanted.permitted),
        effective: within(wanted.effective & wanted.permitted),
        inheritable: within(wanted.inheritable),
    };
    Ok((sets, within(wanted.ambient & wanted.inheritable & wanted.permitted)))
}

fn set_all(sets: CapabilitySets, ambient: CapabilitySet) -> Result<()> {
    rustix::thread::set_capabilities(None, sets).at(STEP, "capabilities", "capset")?;
    if !ambient.is_empty() {
        for bit in ambient {
            rustix::thread::configure_capability_in_ambient_set(bit, true).at(STEP, "ambient set", "prctl")?;
        }
    }
    Ok(())
}
