//! Which capabilities a container has (rules CP1-CP4).

use std::str::FromStr;

use caps::Capability;

use super::launch::Capabilities;

/// What a container has when its manifest says nothing: containerd's set without NET_RAW, MKNOD and AUDIT_WRITE.
pub const DEFAULT: [Capability; 11] = [
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
    Capability::CAP_KILL,
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_SETFCAP,
    Capability::CAP_SETGID,
    Capability::CAP_SETPCAP,
    Capability::CAP_SETUID,
    Capability::CAP_SYS_CHROOT,
];

/// A name that is no capability; `CAP_X` in a manifest is one (rule CP2).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown capability \"CAP_{0}\"")]
pub struct UnknownCapability(String);

/// The bits of [`DEFAULT`].
pub fn default_set() -> u64 {
    DEFAULT.iter().map(Capability::bitmask).fold(0, |set, bit| set | bit)
}

/// Every capability that the running kernel has.
pub fn known_to_kernel() -> u64 {
    caps::runtime::thread_all_supported().iter().map(Capability::bitmask).fold(0, |set, bit| set | bit)
}

/// `capabilities.add` and `drop` on the default set: first `ALL`, then the single additions, then the single removals
/// (rule CP2). `all` is what `ALL` means.
pub fn change(add: &[String], drop: &[String], all: u64) -> Result<u64, UnknownCapability> {
    let mut set = default_set();
    if add.iter().any(|name| is_all(name)) {
        set = all;
    }
    if drop.iter().any(|name| is_all(name)) {
        set = 0;
    }
    for name in add.iter().filter(|name| !is_all(name)) {
        set |= bit(name)?;
    }
    for name in drop.iter().filter(|name| !is_all(name)) {
        set &= !bit(name)?;
    }
    Ok(set)
}

/// Bounding, permitted and effective get the set, inheritable and ambient nothing (rule CP3).
pub fn for_process(set: u64) -> Capabilities {
    Capabilities { bounding: set, permitted: set, effective: set, inheritable: 0, ambient: 0 }
}

fn is_all(name: &str) -> bool {
    name.eq_ignore_ascii_case("ALL")
}

/// The bit of a name without `CAP_`, in any case.
pub fn bit(name: &str) -> Result<u64, UnknownCapability> {
    let name = name.to_ascii_uppercase();
    let parsed = Capability::from_str(&format!("CAP_{name}"));
    parsed.map(|capability| capability.bitmask()).map_err(|_| UnknownCapability(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u64 = (1 << 41) - 1;

    fn changed(add: &[&str], drop: &[&str]) -> Result<u64, UnknownCapability> {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        change(&owned(add), &owned(drop), ALL)
    }

    #[test]
    fn single_names_come_after_all() {
        let bits = |names: &[&str]| names.iter().map(|name| bit(name).unwrap()).fold(0, |set, bit| set | bit);
        for (add, drop, set) in [
            (&[][..], &[][..], default_set()),
            (&["ALL"], &[], ALL),
            (&["all"], &["chown"], ALL & !bits(&["CHOWN"])),
            (&["NET_BIND_SERVICE"], &["ALL"], bits(&["NET_BIND_SERVICE"])),
            (&["net_raw"], &["Kill"], (default_set() | bits(&["NET_RAW"])) & !bits(&["KILL"])),
            (&["SYS_TIME"], &["SYS_TIME"], default_set()),
            (&["ALL"], &["ALL"], 0),
        ] {
            assert_eq!(changed(add, drop), Ok(set), "add {add:?}, drop {drop:?}");
        }
    }

    #[test]
    fn a_name_with_its_prefix_is_unknown() {
        assert_eq!(changed(&["CAP_CHOWN"], &[]).unwrap_err().to_string(), "unknown capability \"CAP_CAP_CHOWN\"");
        assert!(changed(&[], &["NONSENSE"]).is_err());
        assert!(changed(&[""], &[]).is_err());
    }

    #[test]
    fn the_default_set_has_the_documented_bits() {
        assert_eq!(default_set(), 0x8004_05fb, "{:#x}", default_set());
    }
}
