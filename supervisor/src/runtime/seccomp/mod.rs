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
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
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
///
/// Calls whose arguments matter are compiled by `seccompiler`, one test after the other. All others, some 300, follow as
/// a binary search over ranges of numbers: the kernel runs the program for every number when it is loaded, so a
/// straight list of them costs most of the time of a container's start.
fn compile(groups: Vec<Group>, default: SeccompAction) -> Result<Vec<u8>, SeccompError> {
    // Every program starts with the check of the architecture.
    let mut program = build(BTreeMap::new(), NOT_MINE, SeccompAction::KillProcess)?;
    program.pop();
    let mut decided: BTreeMap<u32, u32> = BTreeMap::new();
    for Group { action, calls } in groups {
        let (always, sometimes): (BTreeMap<_, _>, BTreeMap<_, _>) =
            calls.into_iter().partition(|(_, rules)| rules.is_empty());
        let open = |number: &i64| !u32::try_from(*number).is_ok_and(|number| decided.contains_key(&number));
        let sometimes: BTreeMap<_, _> = sometimes.into_iter().filter(|(number, _)| open(number)).collect();
        if !sometimes.is_empty() {
            program.append(&mut compile_group(Group { action: action.clone(), calls: sometimes })?);
        }
        for number in always.into_keys().filter_map(|number| u32::try_from(number).ok()) {
            decided.entry(number).or_insert_with(|| u32::from(action.clone()));
        }
    }
    program.push(instruction(LOAD, 0, 0, NUMBER_OFFSET));
    program.append(&mut search(&ranges(&decided, u32::from(default))));
    if program.len() > MAX_INSTRUCTIONS {
        return Err(SeccompError::TooLong(program.len()));
    }
    Ok(program.iter().flat_map(bytes).collect())
}

/// `BPF_RET | BPF_K`
const RETURN: u16 = 0x06;
/// `BPF_JMP | BPF_JA`
const JUMP: u16 = 0x05;
/// `BPF_JMP | BPF_JGE | BPF_K`
const JUMP_IF_AT_LEAST: u16 = 0x35;
/// `BPF_LD | BPF_W | BPF_ABS`
const LOAD: u16 = 0x20;
/// Of `nr` in `struct seccomp_data`.
const NUMBER_OFFSET: u32 = 0;

fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> seccompiler::sock_filter {
    seccompiler::sock_filter { code, jt, jf, k }
}

/// The first number of each range and what all calls in it get, from 0 without gaps.
fn ranges(decided: &BTreeMap<u32, u32>, default: u32) -> Vec<(u32, u32)> {
    let mut ranges = vec![(0, default)];
    let mut next = 0;
    let begin = |ranges: &mut Vec<(u32, u32)>, number, action| {
        ranges.pop_if(|last| last.0 == number);
        if ranges.last().is_none_or(|last| last.1 != action) {
            ranges.push((number, action));
        }
    };
    for (&number, &action) in decided {
        if number > next {
            begin(&mut ranges, next, default);
        }
        begin(&mut ranges, number, action);
        next = number.saturating_add(1);
    }
    begin(&mut ranges, next, default);
    ranges
}

/// Finds the range of the loaded number by halving.
fn search(ranges: &[(u32, u32)]) -> BpfProgram {
    let (lower, upper) = ranges.split_at(ranges.len() / 2);
    let Some(&(first, action)) = upper.first() else {
        return BpfProgram::new();
    };
    if lower.is_empty() {
        return vec![instruction(RETURN, 0, 0, action)];
    }
    let mut low = search(lower);
    let mut program = match u8::try_from(low.len()) {
        Ok(skipped) => vec![instruction(JUMP_IF_AT_LEAST, skipped, 0, first)],
        // Farther than a conditional jump reaches.
        Err(_) => {
            let skipped = u32::try_from(low.len()).unwrap_or(u32::MAX);
            vec![instruction(JUMP_IF_AT_LEAST, 0, 1, first), instruction(JUMP, 0, 0, skipped)]
        }
    };
    program.append(&mut low);
    program.append(&mut search(upper));
    program
}

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
    let uncompilable = |error: seccompiler::BackendError| SeccompError::Uncompilable(error.to_string());
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
    let uncompilable = |error: seccompiler::BackendError| SeccompError::Uncompilable(error.to_string());
    let conditions = conditions
        .iter()
        .map(|(argument, how, value)| SeccompCondition::new(*argument, SeccompCmpArgLen::Qword, how.clone(), *value));
    let conditions = conditions.collect::<Result<_, _>>().map_err(uncompilable)?;
    SeccompRule::new(conditions).map_err(uncompilable)
}

/// As [`rule`], but of arguments that the kernel reads as 32 bits: the upper half is the caller's to fill.
fn rule32(conditions: &[(u8, SeccompCmpOp, u64)]) -> Result<SeccompRule, SeccompError> {
    let uncompilable = |error: seccompiler::BackendError| SeccompError::Uncompilable(error.to_string());
    let conditions = conditions
        .iter()
        .map(|(argument, how, value)| SeccompCondition::new(*argument, SeccompCmpArgLen::Dword, how.clone(), *value));
    let conditions = conditions.collect::<Result<_, _>>().map_err(uncompilable)?;
    SeccompRule::new(conditions).map_err(uncompilable)
}

#[cfg(test)]
mod tests {
    use super::machine::{Call, NATIVE, run};
    use super::*;

    const ALLOW: u32 = 0x7fff_0000;

    #[test]
    fn every_number_gets_what_was_decided() {
        // Every third is allowed: more ranges than a short jump reaches over.
        let allowed = |number: u32| number.is_multiple_of(3) || (100..200).contains(&number);
        let calls = (0..900).filter(|&number| allowed(number)).map(|number| (i64::from(number), vec![])).collect();
        let program = compile(vec![Group { action: SeccompAction::Allow, calls }], SeccompAction::Errno(1)).unwrap();
        for number in (0..1200).chain([u32::MAX]) {
            let found = run(&program, &Call { arch: NATIVE, number, arguments: [0; 6] });
            assert_eq!(found == ALLOW, number < 900 && allowed(number), "{number}");
        }
    }

    #[test]
    fn the_first_group_decides() {
        let group = |action, rules: Vec<SeccompRule>| Group { action, calls: BTreeMap::from([(7, rules)]) };
        let if_one = || vec![rule(&[(0, SeccompCmpOp::Eq, 1)]).unwrap()];
        let verdicts = |groups| {
            let program = compile(groups, SeccompAction::Errno(9)).unwrap();
            let at = |argument| run(&program, &Call { arch: NATIVE, number: 7, arguments: [argument, 0, 0, 0, 0, 0] });
            [at(1), at(2)]
        };
        let (refuse, allow) = (SeccompAction::Errno(5), SeccompAction::Allow);
        let refused = u32::from(refuse.clone());
        let conditional_first = vec![group(refuse.clone(), if_one()), group(allow.clone(), vec![])];
        assert_eq!(verdicts(conditional_first), [refused, ALLOW]);
        let always_first = vec![group(refuse.clone(), vec![]), group(allow, if_one())];
        assert_eq!(verdicts(always_first), [refused, refused]);
        assert_eq!(verdicts(vec![group(refuse, if_one())]), [refused, u32::from(SeccompAction::Errno(9))]);
    }
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
        let number = super::syscalls::number(name).unwrap_or_else(|| panic!("no system call {name}"));
        let mut all = [0; 6];
        all[..arguments.len()].copy_from_slice(arguments);
        run(program, &Call { arch: NATIVE, number: u32::try_from(number).unwrap(), arguments: all })
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
