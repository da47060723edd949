//! Profiles in the dialect of OCI and Docker, as `Localhost` names them (rule PV6).
//!
//! Names that this kernel or architecture does not have are skipped: profiles list the calls of all of them.

use std::collections::BTreeMap;

use seccompiler::{SeccompAction, SeccompCmpOp, SeccompRule};
use serde::Deserialize;

use super::{Group, SeccompError, compile, rule, syscalls};
use crate::runtime::capabilities;

/// Largest profile.
const MAX_PROFILE_BYTES: usize = 1 << 20;

/// Version of a kernel, for `minKernel`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kernel {
    pub major: u32,
    pub minor: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    listener_path: Option<String>,
    #[serde(default)]
    flags: Vec<String>,
    #[serde(default)]
    syscalls: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    #[serde(default)]
    names: Vec<String>,
    /// Before there were lists of names.
    name: Option<String>,
    action: String,
    errno_ret: Option<u32>,
    args: Option<Vec<Argument>>,
    #[serde(default)]
    includes: Filter,
    #[serde(default)]
    excludes: Filter,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

/// When an entry counts.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Filter {
    #[serde(default)]
    caps: Vec<String>,
    #[serde(default)]
    arches: Vec<String>,
    min_kernel: Option<String>,
}

/// Name of this architecture in a profile's `arches`.
#[cfg(target_arch = "x86_64")]
const HERE: &str = "amd64";
#[cfg(target_arch = "aarch64")]
const HERE: &str = "arm64";

/// Flags of seccomp(2) that change nothing in what is allowed, and are left out.
const HARMLESS_FLAGS: [&str; 3] =
    ["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"];

/// The program of a profile for a process with these capabilities, as bytes of `struct sock_filter`. Anything that cannot
/// be understood is an error, never less of a profile (D21).
pub fn from_profile(text: &[u8], capabilities: u64, kernel: Kernel) -> Result<Vec<u8>, SeccompError> {
    if text.trim_ascii().is_empty() {
        return Err(SeccompError::Empty);
    }
    if text.len() > MAX_PROFILE_BYTES {
        return Err(SeccompError::Unparsable(format!("more than {MAX_PROFILE_BYTES} bytes")));
    }
    let profile: Profile = serde_json::from_slice(text).map_err(|error| SeccompError::Unparsable(error.to_string()))?;
    if let Some(flag) = profile.flags.iter().find(|flag| !HARMLESS_FLAGS.contains(&flag.as_str())) {
        return Err(SeccompError::Unsupported(flag.clone()));
    }
    if profile.listener_path.is_some_and(|path| !path.is_empty()) {
        return Err(SeccompError::Unsupported("listenerPath".to_owned()));
    }
    let default = action(&profile.default_action, profile.default_errno_ret)?;
    let mut groups = Vec::new();
    for entry in &profile.syscalls {
        if entry.counts(capabilities, kernel)? {
            let action = action(&entry.action, entry.errno_ret)?;
            if action != default {
                add(&mut groups, action, entry)?;
            }
        }
    }
    compile(groups, default)
}

/// Adds an entry to the group of its action; groups keep the order in which their actions appeared.
fn add(groups: &mut Vec<Group>, action: SeccompAction, entry: &Entry) -> Result<(), SeccompError> {
    let position = groups.iter().position(|group| group.action == action).unwrap_or_else(|| {
        groups.push(Group { action, calls: BTreeMap::new() });
        groups.len() - 1
    });
    let Some(group) = groups.get_mut(position) else {
        return Ok(());
    };
    let rules = entry.rules()?;
    for number in entry.names.iter().chain(&entry.name).filter_map(|name| syscalls::number(name)) {
        match group.calls.get_mut(&number) {
            // Allowed in every case already.
            Some(present) if present.is_empty() => {}
            Some(present) if !rules.is_empty() => present.extend(rules.iter().cloned()),
            Some(_) | None => {
                group.calls.insert(number, rules.clone());
            }
        }
    }
    Ok(())
}

impl Entry {
    fn counts(&self, capabilities: u64, kernel: Kernel) -> Result<bool, SeccompError> {
        let (includes, excludes) = (&self.includes, &self.excludes);
        let arch = |arches: &[String]| arches.iter().any(|arch| arch == HERE);
        let included = (includes.arches.is_empty() || arch(&includes.arches))
            && includes.caps.iter().all(|name| has(capabilities, name))
            && kernel >= minimum(includes)?.unwrap_or(kernel);
        let excluded = arch(&excludes.arches)
            || excludes.caps.iter().any(|name| has(capabilities, name))
            || minimum(excludes)?.is_some_and(|minimum| kernel >= minimum);
        Ok(included && !excluded)
    }

    /// Conditions on one argument twice are alternatives, on different ones all have to hold (as runc reads them).
    fn rules(&self) -> Result<Vec<SeccompRule>, SeccompError> {
        let conditions = self.args.iter().flatten().map(Argument::condition).collect::<Result<Vec<_>, _>>()?;
        if conditions.is_empty() {
            return Ok(Vec::new());
        }
        let mut indexes: Vec<u8> = conditions.iter().map(|(index, _, _)| *index).collect();
        indexes.sort_unstable();
        indexes.dedup();
        if indexes.len() == conditions.len() {
            return Ok(vec![rule(&conditions)?]);
        }
        conditions.iter().map(|condition| rule(std::slice::from_ref(condition))).collect()
    }
}

impl Argument {
    fn condition(&self) -> Result<(u8, SeccompCmpOp, u64), SeccompError> {
        let (how, value) = match self.op.as_str() {
            "SCMP_CMP_NE" => (SeccompCmpOp::Ne, self.value),
            "SCMP_CMP_LT" => (SeccompCmpOp::Lt, self.value),
            "SCMP_CMP_LE" => (SeccompCmpOp::Le, self.value),
            "SCMP_CMP_EQ" => (SeccompCmpOp::Eq, self.value),
            "SCMP_CMP_GE" => (SeccompCmpOp::Ge, self.value),
            "SCMP_CMP_GT" => (SeccompCmpOp::Gt, self.value),
            "SCMP_CMP_MASKED_EQ" => (SeccompCmpOp::MaskedEq(self.value), self.value_two),
            other => return Err(SeccompError::Unsupported(other.to_owned())),
        };
        Ok((self.index, how, value))
    }
}

fn has(capabilities: u64, name: &str) -> bool {
    let bit = name.strip_prefix("CAP_").and_then(|name| capabilities::bit(name).ok());
    bit.is_some_and(|bit| capabilities & bit != 0)
}

fn minimum(filter: &Filter) -> Result<Option<Kernel>, SeccompError> {
    let Some(text) = &filter.min_kernel else {
        return Ok(None);
    };
    let version = text
        .split_once('.')
        .and_then(|(major, minor)| Some(Kernel { major: major.parse().ok()?, minor: minor.parse().ok()? }));
    version.map(Some).ok_or_else(|| SeccompError::Unparsable(format!("minKernel {text:?}")))
}

fn action(name: &str, errno: Option<u32>) -> Result<SeccompAction, SeccompError> {
    let number = errno.unwrap_or(libc::EPERM as u32);
    Ok(match name {
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => SeccompAction::KillThread,
        "SCMP_ACT_KILL_PROCESS" => SeccompAction::KillProcess,
        "SCMP_ACT_TRAP" => SeccompAction::Trap,
        "SCMP_ACT_ERRNO" => SeccompAction::Errno(number),
        "SCMP_ACT_TRACE" => SeccompAction::Trace(number),
        "SCMP_ACT_ALLOW" => SeccompAction::Allow,
        "SCMP_ACT_LOG" => SeccompAction::Log,
        other => return Err(SeccompError::Unsupported(other.to_owned())),
    })
}

#[cfg(test)]
mod tests {
    use super::super::machine::verdict;
    use super::*;

    const ALLOW: u32 = 0x7fff_0000;
    const KERNEL: Kernel = Kernel { major: 6, minor: 1 };

    fn errno(number: u32) -> u32 {
        0x0005_0000 | number
    }

    fn program(text: &str) -> Vec<u8> {
        from_profile(text.as_bytes(), capabilities::default_set(), KERNEL).unwrap()
    }

    const PROFILE: &str = r#"{
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38,
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
        "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "syscalls": [
            {"names": ["read", "write", "no_such_call"], "action": "SCMP_ACT_ALLOW"},
            {"name": "mkdir", "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
            {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}]},
            {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]},
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW",
             "args": [{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]},
            {"names": ["kill"], "action": "SCMP_ACT_ALLOW", "args": [
                {"index": 1, "value": 9, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 15, "op": "SCMP_CMP_EQ"}]},
            {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["chroot"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_CHROOT"]}},
            {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
            {"names": ["mseal"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "6.10"}},
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["getpid"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["s390"]}},
            {"names": ["acct"], "action": "SCMP_ACT_KILL_PROCESS"}
        ]}"#;

    #[test]
    fn a_profile_means_what_it_says() {
        let program = program(PROFILE);
        for (name, arguments, wanted) in [
            ("read", &[][..], ALLOW),
            ("mkdir", &[], errno(1)),
            ("openat", &[], errno(38)),
            ("socket", &[1], ALLOW),
            ("socket", &[2], ALLOW),
            ("socket", &[3], errno(38)),
            ("clone", &[0x1100], ALLOW),
            ("clone", &[0x2000_0000], errno(38)),
            ("kill", &[1, 15], ALLOW),
            ("kill", &[1, 9], ALLOW),
            ("kill", &[1, 1], errno(38)),
            ("mount", &[], errno(38)),
            ("chroot", &[], ALLOW),
            ("ptrace", &[], ALLOW),
            ("mseal", &[], errno(38)),
            ("clone3", &[], errno(1)),
            ("getpid", &[], errno(38)),
            ("acct", &[], 0x8000_0000),
        ] {
            assert_eq!(verdict(&program, name, arguments), wanted, "{name} {arguments:?}");
        }
    }

    #[test]
    fn a_profile_without_calls_is_its_default() {
        let program = program(r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#);
        assert_eq!(verdict(&program, "mount", &[]), ALLOW);
    }

    /// D21
    #[test]
    fn what_cannot_be_understood_is_an_error() {
        for text in [
            "",
            " \n",
            "{}",
            "[]",
            "{\"defaultAction\": \"SCMP_ACT_ALLOW\"",
            r#"{"defaultAction": "ALLOW"}"#,
            r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#,
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "flags": ["SECCOMP_FILTER_FLAG_NEW_LISTENER"]}"#,
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "listenerPath": "/run/x"}"#,
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_X"}]}"#,
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
                {"names": ["read"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "new"}}]}"#,
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
                {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]}]}"#,
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
                {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 1, "op": "EQ"}]}]}"#,
        ] {
            assert!(from_profile(text.as_bytes(), 0, KERNEL).is_err(), "{text}");
        }
    }
}
