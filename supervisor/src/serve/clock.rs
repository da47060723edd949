//! Wall time, for what is shown.

use jiff::Timestamp;

use crate::pod::timer::WallTime;

pub(super) fn wall() -> WallTime {
    WallTime(i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX))
}

pub(super) fn stamp(time: WallTime) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(time.0)).unwrap_or_default()
}

/// As `metav1.Time` is written: whole seconds.
pub(super) fn seconds(time: WallTime) -> String {
    let stamp = Timestamp::from_second(time.0.div_euclid(1_000_000_000)).unwrap_or_default();
    stamp.to_string()
}

pub(super) fn now() -> String {
    seconds(wall())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_whole_seconds() {
        assert_eq!(seconds(WallTime(1_767_225_600_999_999_999)), "2026-01-01T00:00:00Z");
    }
}
