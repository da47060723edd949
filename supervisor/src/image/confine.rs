//! What the workers that meet strangers' bytes have in common when they lock themselves in (D26): limits, and a filter that
//! ends the process at every call that is not listed.

use std::collections::BTreeMap;

use rustix::process::{Resource, Rlimit};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

/// Which call of the way in failed.
#[derive(Debug, thiserror::Error)]
#[error("{call}: {cause}")]
pub(super) struct JailError {
    call: &'static str,
    cause: String,
}

pub(super) fn failed<E: std::fmt::Display>(call: &'static str) -> impl FnOnce(E) -> JailError {
    move |cause| JailError { call, cause: cause.to_string() }
}

/// Where a limit is lower already, it stays so.
pub(super) fn limit(resources: &[(Resource, u64)]) -> rustix::io::Result<()> {
    for (resource, most) in resources {
        let hard = rustix::process::getrlimit(*resource).maximum;
        let most = Some(hard.map_or(*most, |hard| hard.min(*most)));
        rustix::process::setrlimit(*resource, Rlimit { current: most, maximum: most })?;
    }
    Ok(())
}

/// These calls, memory that is never executable, and `conditional`: calls with the one value that an argument must have.
pub(super) fn program(
    allowed: &[libc::c_long],
    conditional: &[(libc::c_long, u8, &[u64])],
) -> Result<BpfProgram, BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = allowed.iter().map(|number| (*number, Vec::new())).collect();
    for (number, argument, values) in conditional {
        let values = values.iter().map(|value| rule(*argument, SeccompCmpOp::Eq, *value));
        rules.insert(*number, values.collect::<Result<_, _>>()?);
    }
    for number in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(number, vec![rule(2, SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64), 0)?]);
    }
    let arch = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, arch)?.try_into()
}

fn rule(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompRule, BackendError> {
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)?;
    SeccompRule::new(vec![condition])
}

/// The last step in; sets `no_new_privs`, too.
#[expect(
    clippy::disallowed_methods,
    reason = "a worker of ours never gains privileges, which is what the ban is about"
)]
pub(super) fn filter(program: &BpfProgram) -> Result<(), JailError> {
    seccompiler::apply_filter(program).map_err(failed("seccomp(SECCOMP_SET_MODE_FILTER)"))
}
