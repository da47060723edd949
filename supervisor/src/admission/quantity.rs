//! Quantities as far as admission needs them: comparing, adding, and writing them the canonical way (QT1-QT6). Text in,
//! text out; numbers are exact.

use std::cmp::Ordering;

/// Nano units in a unit: the smallest part that a quantity keeps.
const NANO: i128 = 1_000_000_000;
/// Nano units in a milli unit.
const MILLI: i128 = 1_000_000;
/// The largest magnitude (QT4).
const MAX: i128 = i64::MAX as i128 * NANO;

/// Beyond it, more powers of ten change nothing: no text has so many digits.
const EXPONENT_MAX: i64 = 100_000_000;

/// QT2
pub const BAD_FORMAT: &str =
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
/// QT2
pub const BAD_NUMBER: &str = "unable to parse numeric part of quantity";
/// QT2
pub const BAD_SUFFIX: &str = "unable to parse quantity's suffix";

/// How a quantity was written; kept on output (QT3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Binary,
    Decimal,
    Exponent,
}

/// An exact quantity. Compares and sums by value.
#[derive(Clone, Copy, Debug)]
pub struct Amount {
    nanos: i128,
    family: Family,
}

impl PartialEq for Amount {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}
impl Eq for Amount {}
impl PartialOrd for Amount {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Amount {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl Amount {
    /// Nothing of anything.
    pub const ZERO: Amount = Amount { nanos: 0, family: Family::Decimal };

    /// One of anything.
    pub const ONE: Amount = Amount { nanos: NANO, family: Family::Decimal };

    /// Reads a quantity; the error is Kubernetes' text.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            Some(_) => (false, text),
            None => return Err(BAD_FORMAT),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        if number.is_empty() || !suffix.chars().all(|c| c.is_ascii_digit() || "eEinumkKMGTP+-".contains(c)) {
            return Err(BAD_FORMAT);
        }
        let (family, scale) = scale_of(suffix).ok_or(BAD_SUFFIX)?;
        let magnitude = scale.apply(number).ok_or(BAD_NUMBER)?;
        Ok(Amount { nanos: if negative { -magnitude } else { magnitude }, family })
    }

    /// Whether it is below zero.
    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// Whether it is zero.
    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// Whether it is a whole number of units.
    pub fn is_whole(self) -> bool {
        self.nanos % NANO == 0
    }

    /// Whether it is a whole, positive multiple of another.
    pub fn is_positive_multiple_of(self, unit: Amount) -> bool {
        unit.nanos > 0 && self.nanos > 0 && self.nanos % unit.nanos == 0
    }

    /// The sum; stays at the largest magnitude.
    #[must_use]
    pub fn plus(self, other: Amount) -> Amount {
        Amount { nanos: self.nanos.saturating_add(other.nanos).min(MAX), family: self.family }
    }

    /// The difference.
    #[must_use]
    pub fn minus(self, other: Amount) -> Amount {
        Amount { nanos: self.nanos.saturating_sub(other.nanos), family: self.family }
    }

    /// How many times another it is.
    #[expect(clippy::cast_precision_loss, reason = "a ratio is shown with six digits")]
    pub fn ratio_to(self, other: Amount) -> f64 {
        self.nanos as f64 / other.nanos as f64
    }

    /// How many hundredths of another it is, rounded down; of nothing, none.
    pub fn percent_of(self, whole: Amount) -> i128 {
        self.nanos.saturating_mul(100).checked_div(whole.nanos).unwrap_or_default()
    }

    /// Rounded up to whole milli units (QT4).
    #[must_use]
    pub fn rounded_up_to_milli(self) -> Amount {
        let rest = self.nanos.rem_euclid(MILLI);
        let nanos = if rest == 0 { self.nanos } else { self.nanos - rest + MILLI };
        Amount { nanos: nanos.min(MAX), ..self }
    }

    /// The canonical text (QT3).
    pub fn canonical(self) -> String {
        match self.family {
            Family::Binary if self.is_whole() && self.nanos.abs() >= 1024 * NANO => {
                power_text(self.nanos / NANO, 1024, &["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"])
            }
            Family::Binary | Family::Decimal => {
                power_text(self.nanos, 1000, &["n", "u", "m", "", "k", "M", "G", "T", "P", "E"])
            }
            Family::Exponent => {
                power_text(self.nanos, 1000, &["e-9", "e-6", "e-3", "", "e3", "e6", "e9", "e12", "e15", "e18"])
            }
        }
    }
}

/// Rounds a quantity of a resource list up to milli and writes it canonically, as the API server stores it (QT3, QT4).
/// What is no quantity is left as it is: validation reports it.
pub fn normalised(text: &str) -> String {
    Amount::parse(text).map_or_else(|_| text.to_owned(), |amount| amount.rounded_up_to_milli().canonical())
}

/// A whole number with the largest suffix that loses nothing.
fn power_text(mut number: i128, base: i128, suffixes: &[&str]) -> String {
    if number == 0 {
        return "0".to_owned();
    }
    let mut power = 0;
    while number % base == 0 && power + 1 < suffixes.len() {
        number /= base;
        power += 1;
    }
    format!("{number}{}", suffixes[power])
}

/// A power of ten or of two that a suffix multiplies by.
#[derive(Clone, Copy)]
enum Scale {
    Ten(i32),
    Two(u32),
}

fn scale_of(suffix: &str) -> Option<(Family, Scale)> {
    let decimal = |exponent| Some((Family::Decimal, Scale::Ten(exponent)));
    let binary = |exponent| Some((Family::Binary, Scale::Two(exponent)));
    match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let exponent: i64 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let exponent = exponent.clamp(-EXPONENT_MAX, EXPONENT_MAX);
            Some((Family::Exponent, Scale::Ten(i32::try_from(exponent).ok()?)))
        }
    }
}

impl Scale {
    /// `number` (digits with at most one point) in nano units, rounded up, cut at the largest magnitude.
    fn apply(self, number: &str) -> Option<i128> {
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return None;
        }
        let digits = format!("{whole}{fraction}");
        let digits = digits.trim_start_matches('0');
        if digits.is_empty() {
            return Some(0);
        }
        // More digits than an i128 holds: beyond the cap if they are before the point, beyond nano if after.
        let kept = &digits[..digits.len().min(36)];
        let mantissa: i128 = kept.parse().ok()?;
        let dropped = i32::try_from(digits.len() - kept.len()).ok()?;
        let point = i32::try_from(fraction.len()).ok()?;
        let (ten, two) = match self {
            Scale::Ten(exponent) => (exponent, 0),
            Scale::Two(exponent) => (0, exponent),
        };
        Some(scaled(mantissa, ten + 9 + dropped - point, two))
    }
}

/// `mantissa * 10^ten * 2^two`, rounded up to a whole number, at most [`MAX`].
fn scaled(mantissa: i128, ten: i32, two: u32) -> i128 {
    let Ok(up) = u32::try_from(ten) else {
        let down = 10_i128.checked_pow(ten.unsigned_abs());
        let Some(divisor) = down else { return 1 };
        // Divide first what divides, so that the product stays small.
        return match mantissa.checked_mul(1 << two) {
            Some(product) => (product.div_euclid(divisor) + i128::from(product % divisor != 0)).min(MAX),
            None => (mantissa / divisor + 1).checked_mul(1 << two).unwrap_or(MAX).min(MAX),
        };
    };
    let factor = 10_i128.checked_pow(up).and_then(|ten| ten.checked_mul(1 << two));
    factor.and_then(|factor| mantissa.checked_mul(factor)).unwrap_or(MAX).min(MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_text_keeps_the_family_and_loses_nothing() {
        // QT3, QT4
        for (text, expected) in [
            ("1.5", "1500m"),
            ("1.5Gi", "1536Mi"),
            ("1024Mi", "1Gi"),
            ("0.5", "500m"),
            ("1000m", "1"),
            ("1e9991", "9223372036854775807"),
            ("1e-9991", "1e-3"),
            ("1e3", "1e3"),
            ("100Mi", "100Mi"),
            ("1.0", "1"),
            ("512", "512"),
            ("0", "0"),
            ("0Gi", "0"),
            ("0.1m", "1m"),
            ("100.5", "100500m"),
            ("-1", "-1"),
            ("1.", "1"),
            (".5", "500m"),
            ("0.5Ki", "512"),
            ("0.0001Ki", "103m"),
            ("2000k", "2M"),
            ("1E", "1E"),
            ("12e-1", "1200e-3"),
            ("9Ei", "9223372036854775807"),
            ("99999999999999999999999999999999999999999", "9223372036854775807"),
            ("0.00000000000000000000000000000000000000000000000001", "1m"),
        ] {
            assert_eq!(normalised(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_quantity_has_the_text_of_its_fault() {
        for (text, expected) in [
            ("12XB", BAD_FORMAT),
            ("", BAD_FORMAT),
            (" 1", BAD_FORMAT),
            ("a", BAD_FORMAT),
            ("1 Mi", BAD_FORMAT),
            ("1K", BAD_SUFFIX),
            ("1mi", BAD_SUFFIX),
            ("1e", BAD_SUFFIX),
            ("1.2.3", BAD_NUMBER),
            (".", BAD_NUMBER),
            ("é", BAD_FORMAT),
        ] {
            assert_eq!(Amount::parse(text).err(), Some(expected), "{text}");
            assert_eq!(normalised(text), text);
        }
    }

    #[test]
    fn amounts_compare_and_add_by_value() {
        let amount = |text| Amount::parse(text).unwrap();
        assert_eq!(amount("1Gi"), amount("1073741824"));
        assert!(amount("999m") < amount("1"));
        assert_eq!(amount("250m").plus(amount("1")).canonical(), "1250m");
        assert!(amount("4Mi").is_positive_multiple_of(amount("2Mi")));
        assert!(!amount("3Mi").is_positive_multiple_of(amount("2Mi")));
    }
}
