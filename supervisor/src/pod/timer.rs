//! Time as the machine sees it, and every span it waits for.
//!
//! The machine reads no clock: each call brings a [`Now`]. Monotonic time drives timers; wall time is only shown (D44), so
//! a jump of the wall clock moves no timer. Deadlines are kept in the state that waits for them; [`Earliest`] collects
//! them, so there is no timer table that could disagree with the state.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Largest `CrashLoopBackOff` delay and its default (CB6).
pub const CRASH_BACK_OFF_MAX: Duration = Duration::from_secs(300);
/// First `CrashLoopBackOff` delay (CB2).
pub const CRASH_BACK_OFF_FIRST: Duration = Duration::from_secs(10);
/// A container that ran this long since the last step starts its back-off anew (CB4).
pub const CRASH_BACK_OFF_RESET: Duration = Duration::from_secs(600);
/// A container that made all containers restart starts again this long after its end at the earliest, so that a rule which
/// always matches can't spin (RR4 has no back-off).
pub const RESTART_ALL_PACE: Duration = Duration::from_secs(1);
/// First delay between two attempts to pull an image (IP5).
pub const IMAGE_BACK_OFF_FIRST: Duration = Duration::from_secs(10);
/// Largest delay between two attempts to pull an image (IP5).
pub const IMAGE_BACK_OFF_MAX: Duration = Duration::from_secs(300);
/// An image back-off that was not used this long is forgotten (IP5).
pub const IMAGE_BACK_OFF_RESET: Duration = Duration::from_secs(600);
/// How long `ErrImagePull` is shown before it becomes `ImagePullBackOff`, so that a watcher sees both.
pub const IMAGE_ERROR_SHOWN: Duration = Duration::from_secs(2);
/// Delay before a start that failed without leaving an instance is tried again (CB10).
pub const START_RETRY: Duration = Duration::from_secs(10);
/// Delay before other limits are tried again (RZ6).
pub const RESIZE_RETRY: Duration = Duration::from_secs(10);
/// Delay before a sandbox is tried again.
pub const SANDBOX_RETRY: Duration = Duration::from_secs(10);
/// First delay before volumes are set up again (VO1).
pub const VOLUME_RETRY_FIRST: Duration = Duration::from_millis(500);
/// Largest delay before volumes are set up again (VO1).
pub const VOLUME_RETRY_MAX: Duration = Duration::from_secs(122);
/// Delay before a failed teardown step is repeated.
pub const TEARDOWN_RETRY: Duration = Duration::from_secs(2);
/// Time between stop signal and SIGKILL that every container gets (2.4, step 4).
pub const GRACE_MIN: Duration = Duration::from_secs(2);
/// What a pod gets that has filled a volume (EV1).
pub const EVICTION_GRACE: Duration = Duration::from_secs(1);
/// SIGKILL is repeated after this time until the exit is known.
pub const KILL_RETRY: Duration = Duration::from_secs(5);
/// An engine call whose result does not come within this time is given up: its object is removed and made again.
pub const ENGINE_TIMEOUT: Duration = Duration::from_secs(120);
/// A pull whose result does not come within this time is given up.
pub const PULL_TIMEOUT: Duration = Duration::from_secs(3600);
/// A probe result that is this late after the probe's own timeout is given up.
pub const PROBE_SLACK: Duration = Duration::from_secs(5);

/// Monotonic time (`CLOCK_BOOTTIME`), nanoseconds since an arbitrary origin of this boot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Instant(pub u64);

impl Instant {
    /// The instant `span` later; saturates.
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// Time since `earlier`; zero when that lies in the future.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Wall-clock time, nanoseconds since 1970-01-01T00:00:00Z. Shown, never waited for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WallTime(pub i64);

impl WallTime {
    /// What a container that never ran shows as `startedAt` (1.5 StartError).
    pub const EPOCH: Self = Self(0);

    /// Time since `earlier`; zero when that lies in the future.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// Both clocks, read by the driver at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Now {
    pub mono: Instant,
    pub wall: WallTime,
}

/// Finds the earliest of the deadlines shown to it.
#[derive(Debug, Default)]
pub struct Earliest(Option<Instant>);

impl Earliest {
    /// Takes a deadline into account.
    pub fn at(&mut self, deadline: Instant) {
        self.0 = Some(self.0.map_or(deadline, |known| known.min(deadline)));
    }

    /// The earliest deadline shown, if any.
    pub fn get(self) -> Option<Instant> {
        self.0
    }
}
