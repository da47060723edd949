//! An object appeared or changed that the pod may have waited for (EN6, VO24).

use super::container::Run;
use super::machine::{Machine, Volumes};
use super::timer::Now;

/// Containers with this reason wait for an object.
const WAITS_FOR_OBJECT: &str = "CreateContainerConfigError";

impl Machine {
    /// Tries at once what failed for want of an object, instead of at the end of its delay. Nothing else is touched: a
    /// container that crashed goes on waiting.
    pub fn objects_changed(&mut self, now: Now) {
        match &mut self.state.volumes {
            Volumes::Waiting { until, .. } => *until = now.mono,
            Volumes::Absent
            | Volumes::SettingUp { .. }
            | Volumes::Ready
            | Volumes::TearingDown { .. }
            | Volumes::TearDownWaiting { .. } => {}
        }
        for container in &mut self.state.containers {
            let waits = container.waiting.as_ref().is_some_and(|waiting| waiting.reason == WAITS_FOR_OBJECT);
            if waits && container.run == Run::Absent && container.retry_at.is_some() {
                container.retry_at = Some(now.mono);
            }
        }
        self.settle(now);
    }
}
