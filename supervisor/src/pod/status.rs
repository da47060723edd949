//! What the machine shows: the internal counterpart of `PodStatus`, a pure function of state.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::event::User;
use super::spec::{PodSpec, Resources, Role, Signal, TerminationMessagePolicy};
use super::timer::WallTime;

/// The last bytes of a termination message file that are read (VO59).
pub const TERMINATION_MESSAGE_BYTES: usize = 4096;
/// The last lines of the log that stand in for an empty file (VO60).
pub const FALLBACK_LINES: usize = 80;
/// The last bytes of the log that stand in for an empty file (VO60).
pub const FALLBACK_BYTES: usize = 2048;
/// All termination messages of a pod together (VO61).
pub const POD_MESSAGE_BYTES: usize = 12_288;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    Pending,
    Running,
    Succeeded,
    Failed,
}

impl Phase {
    /// Such a phase never changes again (PH9).
    pub fn is_final(self) -> bool {
        match self {
            Self::Pending | Self::Running => false,
            Self::Succeeded | Self::Failed => true,
        }
    }

    /// The name as the API writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub phase: Phase,
    pub reason: Option<String>,
    pub message: Option<String>,
    pub conditions: Vec<Condition>,
    /// First acknowledged; never changes (PH14).
    pub start_time: WallTime,
    pub ips: Vec<IpAddr>,
    /// In spec order (1.3).
    pub init: Vec<ContainerStatus>,
    /// Sorted by name.
    pub apps: Vec<ContainerStatus>,
    /// Sorted by name.
    pub ephemeral: Vec<ContainerStatus>,
    /// 0 shows nothing.
    pub observed_generation: i64,
    /// The pod is being deleted: when its grace ends.
    pub deletion: Option<Deletion>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deletion {
    /// `deletionTimestamp` (DE2).
    pub timestamp: WallTime,
    /// `deletionGracePeriodSeconds`.
    pub grace_seconds: u64,
}

/// `True`, `False` or `Unknown` of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Truth {
    True,
    False,
    Unknown,
}

impl Truth {
    /// The name as the API writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for Truth {
    fn from(value: bool) -> Self {
        if value { Self::True } else { Self::False }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    pub kind: String,
    pub status: Truth,
    pub reason: Option<String>,
    pub message: Option<String>,
    /// Changes only when `status` does.
    pub last_transition: WallTime,
    pub observed_generation: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerStatus {
    pub name: String,
    pub role: Role,
    pub image: String,
    pub image_id: String,
    /// Of the newest instance; empty before the first.
    pub id: String,
    pub ready: bool,
    pub started: bool,
    pub restart_count: u32,
    pub state: State,
    pub last: Option<Terminated>,
    pub user: Option<User>,
    pub stop_signal: Option<Signal>,
    /// What its cgroup has, when that is not what is allocated (RZ8).
    pub actual: Option<Resources>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    Waiting(Waiting),
    Running { started: WallTime },
    Terminated(Terminated),
}

/// Rules of section 1.4; an empty reason is written as none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    pub reason: String,
    pub message: String,
}

/// Rules of section 1.5.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terminated {
    pub exit_code: i32,
    pub reason: String,
    pub message: String,
    pub started: Option<WallTime>,
    pub finished: Option<WallTime>,
    pub id: String,
}

impl Terminated {
    /// Exit 0, and not `OOMKilled` (1.5: such an init container counts as failed).
    pub fn succeeded(&self, role: Role) -> bool {
        self.exit_code == 0 && !(role == Role::Init && self.reason == "OOMKilled")
    }
}

/// Chooses the termination message: the end of the file, or the end of the log (VO59, VO60, VO62).
///
/// `log` is only asked when it is needed; it gives the last lines of the instance's log, at least [`FALLBACK_LINES`] of
/// them when there are that many.
pub fn termination_message(
    policy: TerminationMessagePolicy,
    exit_code: i32,
    file: &[u8],
    log: impl FnOnce() -> Vec<u8>,
) -> Option<String> {
    if !file.is_empty() {
        return Some(text(tail(file, TERMINATION_MESSAGE_BYTES)));
    }
    match policy {
        TerminationMessagePolicy::File => None,
        TerminationMessagePolicy::FallbackToLogsOnError if exit_code == 0 => None,
        TerminationMessagePolicy::FallbackToLogsOnError => {
            let log = log();
            let end = tail(last_lines(&log, FALLBACK_LINES), FALLBACK_BYTES);
            (!end.is_empty()).then(|| text(end))
        }
    }
}

fn tail(bytes: &[u8], limit: usize) -> &[u8] {
    bytes.get(bytes.len().saturating_sub(limit)..).unwrap_or(bytes)
}

fn last_lines(bytes: &[u8], count: usize) -> &[u8] {
    let body = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let ends = body.iter().enumerate().rev().filter(|&(_, &byte)| byte == b'\n');
    let start = ends.map(|(at, _)| at + 1).nth(count - 1).unwrap_or(0);
    bytes.get(start..).unwrap_or(bytes)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Cuts every message to the pod's share for one container: the first bytes stay (VO61).
pub(super) fn cut_messages(spec: &PodSpec, status: &mut Status) {
    let share = POD_MESSAGE_BYTES / spec.containers.len().max(1);
    let lists = [&mut status.init, &mut status.apps, &mut status.ephemeral];
    for container in lists.into_iter().flatten() {
        if let State::Terminated(terminated) = &mut container.state {
            cut(&mut terminated.message, share);
        }
        if let Some(terminated) = &mut container.last {
            cut(&mut terminated.message, share);
        }
    }
}

fn cut(message: &mut String, limit: usize) {
    let end = message.floor_char_boundary(limit);
    message.truncate(end);
}
