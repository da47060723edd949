//! Both clocks of the machines.

use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};

use crate::pod::timer::{Instant, Now, WallTime};

pub(super) fn now() -> Now {
    Now { mono: Instant(read(ClockId::Boottime)), wall: WallTime(read(ClockId::Realtime).cast_signed()) }
}

/// Wall time, as everything that is shown counts it.
pub fn wall_clock() -> WallTime {
    now().wall
}

fn read(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    // Neither field is negative after 1970.
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

/// Ends when the time has come; never when there is none.
pub(super) async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep(at.since(now().mono)).await,
        None => std::future::pending().await,
    }
}

/// RFC 3339, as monitors write times.
pub(super) fn wall(text: &str) -> WallTime {
    let time = text.parse::<Timestamp>().ok().and_then(|time| i64::try_from(time.as_nanosecond()).ok());
    time.map_or(WallTime::EPOCH, WallTime)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_monitor_s_time_is_read_to_the_nanosecond() {
        assert_eq!(wall("1970-01-01T00:00:01.000000002Z"), WallTime(1_000_000_002));
        assert_eq!(wall("nonsense"), WallTime::EPOCH);
    }
}
