//! Seccomp programs, built by the brain and loaded by the child as they are (D21).
//!
//! A program is built from groups: an action and the calls that get it. The first group that a call matches decides, else
//! the default does. Only the native ABI has calls: a process that enters the kernel by another architecture's door is
//! killed, and x32 numbers match nothing and get the default.

mod default;
mod profile;
mod syscalls;

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

pub use default::runtime_default;
pub use profile::{Kernel, from_profile};

use crate::sys::seccomp::MAX_INSTRUCTIONS;

/// Why there is no program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SeccompError {
    #[error("profile is empty")]
    Empty,
    #[error("profile is not valid: {0}")]
    Unparsable(String),
    #[error("profile uses {0}, which is not supported")]
    Unsupported(String),
    #[error("profile cannot be compiled: {0}")]
    Uncompilable(String),
    #[error("program has {0} instructions, at most {MAX_INSTRUCTIONS} are allowed")]
    TooLong(usize),
}

/// Calls that get the same action. An empty list of rules matches always, otherwise one of them has to.
#[derive(Debug, Clone)]
struct Group {
    action: SeccompAction,
    calls: BTreeMap<i64, Vec<SeccompRule>>,
}

/// `SECCOMP_RET_*` value with which a group says "not mine"; replaced before anybody sees the program.
const NOT_MINE: SeccompAction = SeccompAction::Trace(0x7a7a);

/// Bytes of an array of `struct sock_filter`.
fn compile(groups: Vec<Group>, default: SeccompAction) -> Result<Vec<u8>, SeccompError> {
    let mut program: BpfProgram = Vec::new();
    for group in groups.into_iter().filter(|group| !group.calls.is_empty()) {
        program.append(&mut compile_group(group)?);
    }
    if program.is_empty() {
        // No group at all: the check of the architecture and the default.
        program = build(BTreeMap::new(), default, SeccompAction::KillProcess)?;
    } else {
        program.push(seccompiler::sock_filter {
            code: RETURN,
            jt: 0,
            jf: 0,
            k: u32::from(default),
        });
    }
    if program.len() > MAX_INSTRUCTIONS {
        return Err(SeccompError::TooLong(program.len()));
    }
    Ok(program.iter().flat_map(bytes).collect())
}

/// `BPF_RET | BPF_K`
const RETURN: u16 = 0x06;
/// `BPF_JMP | BPF_JA`
const JUMP: u16 = 0x05;

/// A part of a program: falls off its end when the call is not in the group.
fn compile_group(group: Group) -> Result<BpfProgram, SeccompError> {
    let mut part = build(group.calls, NOT_MINE, group.action)?;
    let end = part.len();
    let not_mine = u32::from(NOT_MINE);
    for (at, instruction) in part.iter_mut().enumerate() {
        if instruction.code == RETURN && instruction.k == not_mine {
            instruction.code = JUMP;
            instruction.k = u32::try_from(end - at - 1).map_err(|_| SeccompError::TooLong(end))?;
        }
    }
    Ok(part)
}

fn build(
    calls: BTreeMap<i64, Vec<SeccompRule>>,
    mismatch: SeccompAction,
    action: SeccompAction,
) -> Result<BpfProgram, SeccompError> {
    let uncompilable =
        |error: seccompiler::BackendError| SeccompError::Uncompilable(error.to_string());
    let here = TargetArch::try_from(std::env::consts::ARCH).map_err(uncompilable)?;
    let filter = SeccompFilter::new(calls, mismatch, action, here).map_err(uncompilable)?;
    BpfProgram::try_from(filter).map_err(uncompilable)
}

fn bytes(instruction: &seccompiler::sock_filter) -> [u8; 8] {
    let [c0, c1] = instruction.code.to_ne_bytes();
    let [k0, k1, k2, k3] = instruction.k.to_ne_bytes();
    [c0, c1, instruction.jt, instruction.jf, k0, k1, k2, k3]
}

/// All conditions hold: (argument, how, value).
fn rule(conditions: &[(u8, SeccompCmpOp, u64)]) -> Result<SeccompRule, SeccompError> {
    let uncompilable =
        |error: seccompiler::BackendError| SeccompError::Uncompilable(error.to_string());
    let conditions = conditions.iter().map(|(argument, how, value)| {
        SeccompCondition::new(*argument, SeccompCmpArgLen::Qword, how.clone(), *value)
    });
    let conditions = conditions.collect::<Result<_, _>>().map_err(uncompilable)?;
    SeccompRule::new(conditions).map_err(uncompilable)
}

/// As [`rule`], but of arguments that the kernel reads as 32 bits: the upper half is the caller's to fill.
fn rule32(conditions: &[(u8, SeccompCmpOp, u64)]) -> Result<SeccompRule, SeccompError> {
    let uncompilable =
        |error: seccompiler::BackendError| SeccompError::Uncompilable(error.to_string());
    let conditions = conditions.iter().map(|(argument, how, value)| {
        SeccompCondition::new(*argument, SeccompCmpArgLen::Dword, how.clone(), *value)
    });
    let conditions = conditions.collect::<Result<_, _>>().map_err(uncompilable)?;
    SeccompRule::new(conditions).map_err(uncompilable)
}

#[cfg(test)]
mod machine {
    //! The part of the kernel's BPF machine that these programs use.

    /// `struct seccomp_data`, without the instruction pointer.
    pub(super) struct Call {
        pub arch: u32,
        pub number: u32,
        pub arguments: [u64; 6],
    }

    #[cfg(target_arch = "x86_64")]
    pub(super) const NATIVE: u32 = 0xc000_003e;
    #[cfg(target_arch = "aarch64")]
    pub(super) const NATIVE: u32 = 0xc000_00b7;

    /// What the program returns for a native call.
    pub(super) fn verdict(program: &[u8], name: &str, arguments: &[u64]) -> u32 {
        let number =
            super::syscalls::number(name).unwrap_or_else(|| panic!("no system call {name}"));
        let mut all = [0; 6];
        all[..arguments.len()].copy_from_slice(arguments);
        run(
            program,
            &Call {
                arch: NATIVE,
                number: u32::try_from(number).unwrap(),
                arguments: all,
            },
        )
    }

    pub(super) fn run(program: &[u8], call: &Call) -> u32 {
        let (instructions, _) = program.as_chunks::<8>();
        let (mut at, mut accumulator) = (0, 0_u32);
        loop {
            let [c0, c1, jt, jf, k @ ..] = instructions[at];
            let k = u32::from_ne_bytes(k);
            at += 1;
            let jump = |taken: bool| usize::from(if taken { jt } else { jf });
            match u16::from_ne_bytes([c0, c1]) {
                0x20 => accumulator = load(call, k),
                0x54 => accumulator &= k,
                0x05 => at += k as usize,
                0x06 => return k,
                0x15 => at += jump(accumulator == k),
                0x25 => at += jump(accumulator > k),
                0x35 => at += jump(accumulator >= k),
                code => panic!("instruction {code:#x}"),
            }
        }
    }

    fn load(call: &Call, offset: u32) -> u32 {
        match offset {
            0 => call.number,
            4 => call.arch,
            offset => {
                let at = (offset as usize - 16) / 4;
                let argument = call.arguments[at / 2];
                (argument >> (32 * (at % 2))) as u32
            }
        }
    }
}
