//! Both clocks of the machines.

use std::io;
use std::time::Duration;

use jiff::Timestamp;
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime, timerfd_create,
    timerfd_settime,
};

use crate::pod::timer::{Instant, Now, WallTime};
use crate::sys::fd::registered;

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

/// Ends when the wall clock shows so many seconds since 1970, or when somebody has set it: a wait for a moment of the
/// calendar, which the monotonic clock knows nothing of.
pub(super) async fn wall_reaches(seconds: u64) {
    if let Err(error) = wait_for_wall(seconds).await {
        tracing::warn!("timerfd: {error}; waiting by the monotonic clock");
        let now = u64::try_from(Timestamp::now().as_second()).unwrap_or(0);
        tokio::time::sleep(Duration::from_secs(seconds.saturating_sub(now))).await;
    }
}

/// timerfd_create(2): `TFD_TIMER_CANCEL_ON_SET` makes the descriptor readable when the clock jumps.
async fn wait_for_wall(seconds: u64) -> io::Result<()> {
    let timer = timerfd_create(TimerfdClockId::Realtime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
    // A value of zero would disarm it.
    let at = Timespec { tv_sec: i64::try_from(seconds.max(1)).unwrap_or(i64::MAX), tv_nsec: 0 };
    let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: at };
    timerfd_settime(&timer, TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET, &once)?;
    drop(registered(timer)?.readable().await?);
    Ok(())
}

/// RFC 3339, as monitors write times.
pub(super) fn wall(text: &str) -> WallTime {
    let time = text.parse::<Timestamp>().ok().and_then(|time| i64::try_from(time.as_nanosecond()).ok());
    time.map_or(WallTime::EPOCH, WallTime)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_moment_of_the_calendar_is_waited_for() {
        wait_for_wall(0).await.unwrap();
        let now = Timestamp::now().as_second().cast_unsigned();
        wait_for_wall(now + 1).await.unwrap();
        assert!(Timestamp::now().as_second().cast_unsigned() > now);
        let never = tokio::time::timeout(Duration::from_millis(10), wait_for_wall(now + 3600)).await;
        assert!(never.is_err());
    }

    #[test]
    fn a_monitor_s_time_is_read_to_the_nanosecond() {
        assert_eq!(wall("1970-01-01T00:00:01.000000002Z"), WallTime(1_000_000_002));
        assert_eq!(wall("nonsense"), WallTime::EPOCH);
    }
}
