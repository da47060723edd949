//! Spans of time as Go writes them: `1h30m`, `5s`, `1.5h`, `200ms`.

use std::time::Duration;

/// Units, the longer names before those that they start with.
const UNITS: &[(&str, f64)] =
    &[("ms", 1e-3), ("us", 1e-6), ("µs", 1e-6), ("ns", 1e-9), ("h", 3600.0), ("m", 60.0), ("s", 1.0)];

/// # Errors
/// It is none.
pub fn parse(text: &str) -> Result<Duration, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut seconds = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(invalid)?;
        let (number, after) = rest.split_at(end);
        let number: f64 = number.parse().map_err(|_| invalid())?;
        let (after, unit) =
            UNITS.iter().find_map(|(name, unit)| Some((after.strip_prefix(name)?, unit))).ok_or_else(invalid)?;
        seconds += number * unit;
        rest = after;
    }
    if text.is_empty() { Err(invalid()) } else { Duration::try_from_secs_f64(seconds).map_err(|_| invalid()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_as_go_reads_them() {
        for (text, seconds) in [("5s", 5.0), ("1h30m", 5400.0), ("1.5h", 5400.0), ("200ms", 0.2), ("0", 0.0)] {
            assert_eq!(parse(text), Ok(Duration::from_secs_f64(seconds)), "{text}");
        }
        for text in ["", "5", "s", "5x", "-5s", "1..2s"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
