//! PAX extended headers: records `LENGTH KEY=VALUE\n` before an entry (POSIX.1-2001 `pax`).
//!
//! Read by length and never by line: values such as `security.capability` hold any byte. (The `tar` crate splits at line
//! ends and then takes the header's own size: two readers, two archives, P15.)

/// One record; both parts are the archive's own bytes.
pub type Record<'a> = (&'a [u8], &'a [u8]);

/// Why an extended header is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadPax {
    #[error("a PAX record's length is not a number in range")]
    Length,
    #[error("a PAX record has no '='")]
    NoEquals,
    #[error("a PAX record does not end in a line end")]
    NoLineEnd,
    #[error("a PAX number is not decimal")]
    Number,
}

/// The records in order.
pub fn records(mut bytes: &[u8]) -> Result<Vec<Record<'_>>, BadPax> {
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let (record, rest) = split_record(bytes)?;
        out.push(record);
        bytes = rest;
    }
    Ok(out)
}

fn split_record(bytes: &[u8]) -> Result<(Record<'_>, &[u8]), BadPax> {
    let space = bytes.iter().position(|b| *b == b' ').ok_or(BadPax::Length)?;
    let digits = bytes.get(..space).unwrap_or_default();
    let length = usize::try_from(decimal(digits).map_err(|_| BadPax::Length)?);
    let length = length.map_err(|_| BadPax::Length)?;
    let (record, rest) = bytes.split_at_checked(length).ok_or(BadPax::Length)?;
    let body = record.get(space + 1..).ok_or(BadPax::Length)?;
    let body = body.strip_suffix(b"\n").ok_or(BadPax::NoLineEnd)?;
    let equals = body.iter().position(|b| *b == b'=').ok_or(BadPax::NoEquals)?;
    let (key, value) = body.split_at(equals);
    Ok(((key, value.get(1..).unwrap_or_default()), rest))
}

/// A number of ASCII digits only: no sign, no space.
pub fn decimal(digits: &[u8]) -> Result<u64, BadPax> {
    if digits.is_empty() {
        return Err(BadPax::Number);
    }
    digits.iter().try_fold(0u64, |number, digit| {
        let digit = digit.checked_sub(b'0').filter(|d| *d <= 9);
        let digit = u64::from(digit.ok_or(BadPax::Number)?);
        let shifted = number.checked_mul(10).ok_or(BadPax::Number)?;
        shifted.checked_add(digit).ok_or(BadPax::Number)
    })
}

/// Seconds and nanoseconds of a time such as `-1.25`; digits beyond nanoseconds are cut off towards the past.
pub fn time(text: &[u8]) -> Result<(i64, u32), BadPax> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |b| *b == b'.');
    let seconds = decimal(parts.next().unwrap_or_default())?;
    let seconds = i64::try_from(seconds).map_err(|_| BadPax::Number)?;
    let nanoseconds = nanoseconds(parts.next().unwrap_or_default())?;
    Ok(match (negative, nanoseconds) {
        (false, _) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanoseconds),
    })
}

fn nanoseconds(fraction: &[u8]) -> Result<u32, BadPax> {
    let mut digits = *b"000000000";
    for (i, digit) in fraction.iter().enumerate() {
        if !digit.is_ascii_digit() {
            return Err(BadPax::Number);
        }
        if let Some(place) = digits.get_mut(i) {
            *place = *digit;
        }
    }
    let number = decimal(&digits)?;
    u32::try_from(number).map_err(|_| BadPax::Number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_may_hold_line_ends_and_equals_signs() {
        let bytes = b"12 a=b\nc=d\n\n9 size=1\n";
        assert_eq!(records(bytes).unwrap(), [(&b"a"[..], &b"b\nc=d\n"[..]), (b"size", b"1")]);
    }

    // P15
    #[test]
    fn malformed_records_are_refused() {
        for (bytes, want) in [
            (&b"x"[..], BadPax::Length),
            (b" 5 a=b\n", BadPax::Length),
            (b"+6 a=b\n", BadPax::Length),
            (b"99 a=b\n", BadPax::Length),
            (b"1 a=b\n", BadPax::Length),
            (b"99999999999999999999999 a=b\n", BadPax::Length),
            (b"5 a=b\n", BadPax::NoLineEnd),
            (b"5 ab\n", BadPax::NoEquals),
            (b"6 a=b\n\0", BadPax::Length),
        ] {
            assert_eq!(records(bytes), Err(want), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn times_before_the_epoch_and_fractions_are_exact() {
        for (text, want) in [
            ("0", (0, 0)),
            ("1.5", (1, 500_000_000)),
            ("1.0000000019", (1, 1)),
            ("-1", (-1, 0)),
            ("-1.25", (-2, 750_000_000)),
        ] {
            assert_eq!(time(text.as_bytes()).unwrap(), want, "{text}");
        }
        assert_eq!(time(b"1e9"), Err(BadPax::Number));
    }
}
