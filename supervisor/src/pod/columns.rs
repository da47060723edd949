//! The columns of `kubectl get pods` (section 1.6), as functions of a status.

use std::time::Duration;

use super::spec::Role;
use super::status::{ContainerStatus, Phase, State, Status, Terminated, Truth};
use super::timer::WallTime;

/// The cells of one row that come from the status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Columns {
    /// `1/2` (KC1)
    pub ready: String,
    pub status: String,
    /// `6 (3m50s ago)` (KC2)
    pub restarts: String,
}

/// Reads the columns off a status.
pub fn columns(status: &Status, now: WallTime) -> Columns {
    let walk = Walk::new(status);
    let total = status.apps.len() + status.init.iter().filter(|c| c.role == Role::Sidecar).count();
    let restarts = match walk.last_restart {
        Some(at) if walk.restarts > 0 => format!("{} ({} ago)", walk.restarts, human_duration(now.since(at))),
        Some(_) | None => walk.restarts.to_string(),
    };
    Columns { ready: format!("{}/{total}", walk.ready), status: shown_status(status, walk.text), restarts }
}

/// Step 4: deletion.
fn shown_status(status: &Status, text: String) -> String {
    if status.deletion.is_none() {
        return text;
    }
    match status.phase {
        _ if status.reason.as_deref() == Some("NodeLost") => "Unknown".to_owned(),
        Phase::Pending | Phase::Running => "Terminating".to_owned(),
        Phase::Succeeded | Phase::Failed => text,
    }
}

struct Walk {
    text: String,
    ready: usize,
    restarts: u32,
    last_restart: Option<WallTime>,
}

impl Walk {
    fn new(status: &Status) -> Self {
        let text = status.reason.clone().unwrap_or_else(|| status.phase.name().to_owned());
        let mut walk = Self { text, ready: 0, restarts: 0, last_restart: None };
        let gated =
            |c: &&super::status::Condition| c.kind == "PodScheduled" && c.reason.as_deref() == Some("SchedulingGated");
        if status.conditions.iter().any(|c| gated(&c)) {
            walk.text = "SchedulingGated".to_owned();
        }
        let initializing = walk.init(status);
        if !initializing || is_true(status, "Initialized") {
            walk.apps(status, initializing);
        }
        walk
    }

    /// Step 2; true while the init sequence is not through.
    fn init(&mut self, status: &Status) -> bool {
        for (index, container) in status.init.iter().enumerate() {
            self.restarts += container.restart_count;
            self.note_restart(container);
            if let State::Terminated(record) = &container.state
                && record.exit_code == 0
            {
                continue;
            }
            if container.role == Role::Sidecar && container.started {
                self.ready += usize::from(container.ready);
                continue;
            }
            self.text = match &container.state {
                State::Terminated(record) => format!("Init:{}", terminated(record)),
                State::Waiting(waiting) if !waiting.reason.is_empty() && waiting.reason != "PodInitializing" => {
                    format!("Init:{}", waiting.reason)
                }
                State::Waiting(_) | State::Running { .. } => format!("Init:{index}/{}", status.init.len()),
            };
            self.restarts += status.init.iter().skip(index + 1).map(|c| c.restart_count).sum::<u32>();
            return true;
        }
        false
    }

    /// Step 3, from last to first.
    fn apps(&mut self, status: &Status, initializing: bool) {
        let sidecars = status.init.iter().filter(|c| c.role == Role::Sidecar);
        self.restarts = sidecars.map(|c| c.restart_count).sum();
        let mut running = false;
        for container in status.apps.iter().rev() {
            self.restarts += container.restart_count;
            self.note_restart(container);
            match &container.state {
                State::Waiting(waiting) if !waiting.reason.is_empty() => self.text.clone_from(&waiting.reason),
                State::Waiting(_) => {}
                State::Terminated(record) => self.text = terminated(record),
                State::Running { .. } if container.ready => {
                    running = true;
                    self.ready += 1;
                }
                State::Running { .. } => {}
            }
        }
        if self.text == "Completed" && running && !initializing {
            self.text = if is_true(status, "Ready") { "Running" } else { "NotReady" }.to_owned();
        }
    }

    fn note_restart(&mut self, container: &ContainerStatus) {
        let at = container.last.as_ref().and_then(|record| record.finished);
        self.last_restart = self.last_restart.max(at);
    }
}

fn terminated(record: &Terminated) -> String {
    if record.reason.is_empty() { format!("ExitCode:{}", record.exit_code) } else { record.reason.clone() }
}

fn is_true(status: &Status, kind: &str) -> bool {
    status.conditions.iter().any(|c| c.kind == kind && c.status == Truth::True)
}

/// The AGE format (KC3).
pub fn human_duration(span: Duration) -> String {
    let seconds = span.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |big: u64, big_unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{big}{big_unit}"),
        small => format!("{big}{big_unit}{small}{small_unit}"),
    };
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, "d", hours % 24, "h"),
        691_200..63_072_000 => format!("{days}d"),
        63_072_000..252_288_000 => two(days / 365, "y", days % 365, "d"),
        252_288_000.. => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// KC3
    #[test]
    fn ages_are_written_as_kubectl_writes_them() {
        let (minute, hour, day) = (60, 3600, 86_400);
        for (seconds, expected) in [
            (0, "0s"),
            (119, "119s"),
            (200, "3m20s"),
            (180, "3m"),
            (10 * minute, "10m"),
            (179 * minute + 59, "179m"),
            (3 * hour + 5 * minute, "3h5m"),
            (3 * hour, "3h"),
            (47 * hour + 59 * minute, "47h"),
            (2 * day + 5 * hour, "2d5h"),
            (3 * day, "3d"),
            (100 * day, "100d"),
            (2 * 365 * day + 34 * day, "2y34d"),
            (9 * 365 * day, "9y"),
        ] {
            assert_eq!(human_duration(Duration::from_secs(seconds)), expected);
        }
    }
}
