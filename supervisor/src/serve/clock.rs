//! Wall time, for what is shown.

use crate::pod::timer::WallTime;

pub(super) fn wall() -> WallTime {
    WallTime(i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX))
}

/// As `metav1.Time` is written: whole seconds.
pub(super) fn seconds(time: WallTime) -> String {
    let stamp = jiff::Timestamp::from_second(time.0.div_euclid(1_000_000_000)).unwrap_or_default();
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
