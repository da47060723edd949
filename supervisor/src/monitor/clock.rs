//! Wall time as text, and the monotonic clock for deadlines (D44).

use rustix::time::{ClockId, Timespec, clock_gettime};

const SECONDS_PER_DAY: i64 = 86_400;
/// Bytes of `2026-11-21T04:47:18.000000000Z`.
pub const RFC3339_BYTES: usize = 30;

/// A wall-clock time in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wall {
    pub seconds: i64,
    pub nanoseconds: u32,
}

impl Wall {
    pub fn now() -> Self {
        let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::Realtime);
        Self { seconds: tv_sec, nanoseconds: u32::try_from(tv_nsec).unwrap_or(0) }
    }

    /// RFC 3339 in UTC, always with nine digits, so that stamps sort as text (rule LF2).
    pub fn rfc3339(self) -> String {
        let (date, time) = (civil(self.seconds), time_of_day(self.seconds));
        format!(
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:09}Z",
            date.0, date.1, date.2, time.0, time.1, time.2, self.nanoseconds
        )
    }

    /// `YYYYMMDD-HHMMSS`, the suffix of a rotated log (rule LF3).
    pub fn compact(self) -> String {
        let (date, time) = (civil(self.seconds), time_of_day(self.seconds));
        format!("{:04}{:02}{:02}-{:02}{:02}{:02}", date.0, date.1, date.2, time.0, time.1, time.2)
    }
}

fn time_of_day(seconds: i64) -> (i64, i64, i64) {
    let second = seconds.rem_euclid(SECONDS_PER_DAY);
    (second / 3600, second / 60 % 60, second % 60)
}

/// Year, month and day of a count of seconds since 1970, in the Gregorian calendar: eras of 400 years, each beginning in
/// March, so that the leap day is the last day of a year.
fn civil(seconds: i64) -> (i64, i64, i64) {
    const DAYS_PER_ERA: i64 = 146_097;
    const DAYS_FROM_ERA_START_TO_1970: i64 = 719_468;
    let days = seconds.div_euclid(SECONDS_PER_DAY) + DAYS_FROM_ERA_START_TO_1970;
    let day_of_era = days.rem_euclid(DAYS_PER_ERA);
    let leap_days = day_of_era / 1_460 - day_of_era / 36_524 + day_of_era / (DAYS_PER_ERA - 1);
    let year_of_era = (day_of_era - leap_days) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = days.div_euclid(DAYS_PER_ERA) * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day)
}

/// A moment of the monotonic clock, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub u64);

impl Moment {
    pub fn now() -> Self {
        let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::Monotonic);
        Self(u64::try_from(tv_sec * 1000 + tv_nsec / 1_000_000).unwrap_or(0))
    }

    pub fn after_ms(self, milliseconds: u64) -> Self {
        Self(self.0.saturating_add(milliseconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_have_nine_digits_and_one_length() {
        let wall = Wall { seconds: 1_795_236_438, nanoseconds: 42 };
        assert_eq!(wall.rfc3339(), "2026-11-21T04:47:18.000000042Z");
        assert_eq!(wall.rfc3339().len(), RFC3339_BYTES);
        assert_eq!(wall.compact(), "20261121-044718");
    }

    proptest::proptest! {
        #[test]
        fn the_calendar_is_the_one_of_jiff(seconds in 0i64..200_000_000_000) {
            let stamp = jiff::Timestamp::from_second(seconds).unwrap();
            let expected = stamp.to_string().replace('Z', ".000000000Z");
            proptest::prop_assert_eq!(Wall { seconds, nanoseconds: 0 }.rfc3339(), expected);
        }
    }
}
