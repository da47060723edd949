//! What a container for debugging may do.

use serde_json::{Value, json};

/// As kubectl calls them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Profile {
    /// What every container may
    Legacy,
    /// And follow other processes
    General,
    /// What the baseline of Pod Security lets
    Baseline,
    /// What the restricted level of Pod Security lets
    Restricted,
    /// And change the network
    Netadmin,
    /// Everything
    Sysadmin,
}

impl Profile {
    pub(super) fn security_context(self) -> Option<Value> {
        let adding = |names: &[&str]| Some(json!({"capabilities": {"add": names}}));
        match self {
            Self::Legacy | Self::Baseline => None,
            Self::General => adding(&["SYS_PTRACE"]),
            Self::Netadmin => adding(&["NET_ADMIN", "NET_RAW"]),
            Self::Sysadmin => Some(json!({"privileged": true})),
            Self::Restricted => Some(json!({"runAsNonRoot": true, "allowPrivilegeEscalation": false,
                "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}})),
        }
    }
}
