//! Kubernetes' `Quantity`: an exact decimal with a unit suffix (rules QT1-QT6).
//!
//! The value is kept in nano units in an `i128`, the finest scale that Kubernetes keeps, so that sums and comparisons are
//! exact. What is finer is rounded away from zero, and what is larger than 2^63-1 whole units becomes 2^63-1.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Nano units in one unit.
const NANOS: i128 = 1_000_000_000;
/// Nano units in one milli unit.
const NANOS_PER_MILLI: i128 = 1_000_000;
/// The largest magnitude, in whole units (QT4).
const MAX_UNITS: i128 = i64::MAX as i128;
/// Fraction digits that can still matter: `Ei` moves 18 of them before the nine of the nano scale.
const FRACTION_DIGITS: i64 = 27;
/// One unit at the scale of [`FRACTION_DIGITS`].
const FRACTION_ONE: i128 = 10_i128.pow(27);
/// Integer digits after which a value is beyond [`MAX_UNITS`] whatever follows.
const INTEGER_DIGITS_MAX: i64 = 30;

/// Suffix family, kept from input to output (QT3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `n u m k M G T P E` and no suffix.
    DecimalSi,
    /// `Ki Mi Gi Ti Pi Ei`.
    BinarySi,
    /// `e3`, `E-6`.
    DecimalExponent,
}

/// An amount of a resource. Two quantities are equal when their values are, whatever their suffixes.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// Kubernetes' own texts (QT2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseQuantityError {
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

impl Quantity {
    pub const ZERO: Self = Self { nanos: 0, format: Format::DecimalSi };
    pub const ONE: Self = Self { nanos: NANOS, format: Format::DecimalSi };

    /// Whole units without a suffix, at most 2^63-1.
    #[must_use]
    pub fn from_units(units: u64) -> Self {
        Self::capped(i128::from(units).saturating_mul(NANOS), Format::DecimalSi)
    }

    /// Bytes, shown with binary suffixes.
    #[must_use]
    pub fn from_bytes(bytes: u64) -> Self {
        Self { format: Format::BinarySi, ..Self::from_units(bytes) }
    }

    /// Thousandths of a unit, such as milli-CPU.
    #[must_use]
    pub fn from_millis(millis: u64) -> Self {
        Self::capped(i128::from(millis).saturating_mul(NANOS_PER_MILLI), Format::DecimalSi)
    }

    /// Whole units, rounded away from zero (QT5).
    #[must_use]
    pub fn value(self) -> i64 {
        narrow(divide_away_from_zero(self.nanos, NANOS))
    }

    /// Thousandths, rounded away from zero (QT5); saturates at the ends of `i64`.
    #[must_use]
    pub fn milli_value(self) -> i64 {
        narrow(divide_away_from_zero(self.nanos, NANOS_PER_MILLI))
    }

    /// [`Self::value`], with negative values as 0: what a kernel file can hold.
    #[must_use]
    pub fn units(self) -> u64 {
        u64::try_from(self.value()).unwrap_or(0)
    }

    /// [`Self::milli_value`], with negative values as 0.
    #[must_use]
    pub fn millis(self) -> u64 {
        u64::try_from(self.milli_value()).unwrap_or(0)
    }

    /// The value with everything below milli rounded away from zero, as defaulting stores it (QT4).
    #[must_use]
    pub fn rounded_to_milli(self) -> Self {
        let millis = divide_away_from_zero(self.nanos, NANOS_PER_MILLI);
        Self::capped(millis * NANOS_PER_MILLI, self.format)
    }

    #[must_use]
    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    #[must_use]
    pub fn is_positive(self) -> bool {
        self.nanos > 0
    }

    #[must_use]
    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// False for `1500m` or half a byte (QT5, RL4).
    #[must_use]
    pub fn is_integer(self) -> bool {
        self.nanos % NANOS == 0
    }

    #[must_use]
    pub fn format(self) -> Format {
        self.format
    }

    /// The sum; an empty left side takes the right side's suffix family.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self::capped(self.nanos + other.nanos, format)
    }

    /// The difference, with the same rule for the suffix family.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        self.plus(Self { nanos: -other.nanos, ..other })
    }

    /// Whether it is a whole, positive multiple of another.
    #[must_use]
    pub fn is_positive_multiple_of(self, unit: Self) -> bool {
        unit.nanos > 0 && self.nanos > 0 && self.nanos % unit.nanos == 0
    }

    /// How many times another it is.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a ratio is shown with six digits")]
    pub fn ratio_to(self, other: Self) -> f64 {
        self.nanos as f64 / other.nanos as f64
    }

    /// How many hundredths of another it is, rounded down; of nothing, none.
    #[must_use]
    pub fn percent_of(self, whole: Self) -> i128 {
        self.nanos.saturating_mul(100).checked_div(whole.nanos).unwrap_or_default()
    }

    fn capped(nanos: i128, format: Format) -> Self {
        let cap = MAX_UNITS * NANOS;
        Self { nanos: nanos.clamp(-cap, cap), format }
    }
}

fn divide_away_from_zero(dividend: i128, divisor: i128) -> i128 {
    let quotient = dividend / divisor;
    if dividend % divisor == 0 { quotient } else { quotient + dividend.signum() }
}

fn narrow(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

/// What a suffix multiplies by.
#[derive(Debug, Clone, Copy)]
enum Scale {
    /// Power of ten.
    Ten(i64),
    /// Power of 1024.
    Kibi(u32),
}

impl FromStr for Quantity {
    type Err = ParseQuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(ParseQuantityError::Format);
        }
        let parts = Parts::split(text)?;
        let (scale, format) = parse_suffix(parts.suffix)?;
        if parts.integer.is_empty() && parts.fraction.is_empty() {
            return Err(ParseQuantityError::Numeric);
        }
        let magnitude = parts.magnitude(scale);
        Ok(Self::capped(if parts.negative { -magnitude } else { magnitude }, format))
    }
}

/// A quantity's text, cut but not yet understood. The digits are ASCII.
struct Parts<'a> {
    negative: bool,
    integer: &'a str,
    fraction: &'a str,
    suffix: &'a str,
}

impl<'a> Parts<'a> {
    fn split(text: &'a str) -> Result<Self, ParseQuantityError> {
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let (integer, rest) = split_while(unsigned, |c| c.is_ascii_digit());
        let (fraction, suffix) = match rest.strip_prefix('.') {
            Some(rest) => split_while(rest, |c| c.is_ascii_digit()),
            None => ("", rest),
        };
        let (_, tail) = split_while(suffix, |c| "eEinumkKMGTP".contains(c));
        let tail = tail.strip_prefix(['+', '-']).unwrap_or(tail);
        let (_, tail) = split_while(tail, |c| c.is_ascii_digit());
        if !tail.is_empty() {
            return Err(ParseQuantityError::Format);
        }
        Ok(Self { negative: text.starts_with('-'), integer, fraction, suffix })
    }

    /// Nano units, rounded up; anything beyond the cap comes out as some value beyond the cap.
    fn magnitude(&self, scale: Scale) -> i128 {
        let integer = self.integer.trim_start_matches('0');
        let digits: Vec<u8> = integer.bytes().chain(self.fraction.bytes()).map(|byte| byte - b'0').collect();
        let shift = match scale {
            Scale::Ten(power) => power,
            Scale::Kibi(_) => 0,
        };
        let point = i64::try_from(integer.len()).unwrap_or(i64::MAX).saturating_add(shift);
        let Some(mut fixed) = Fixed::from_digits(&digits, point) else {
            return MAX_UNITS * NANOS;
        };
        if let Scale::Kibi(power) = scale {
            (0..power).for_each(|_| fixed.times_1024());
        }
        fixed.nanos()
    }
}

fn split_while(text: &str, accept: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !accept(c)).unwrap_or(text.len()))
}

fn parse_suffix(suffix: &str) -> Result<(Scale, Format), ParseQuantityError> {
    if let Some(power) = BINARY_SUFFIXES.iter().position(|known| *known == suffix)
        && let Ok(power) = u32::try_from(power)
        && power > 0
    {
        return Ok((Scale::Kibi(power), Format::BinarySi));
    }
    if let Some((power, _)) = DECIMAL_SUFFIXES.iter().find(|(_, known)| *known == suffix) {
        return Ok((Scale::Ten(i64::from(*power)), Format::DecimalSi));
    }
    let exponent = suffix.strip_prefix(['e', 'E']).ok_or(ParseQuantityError::Suffix)?;
    let power = exponent.parse::<i64>().map_err(|_| ParseQuantityError::Suffix)?;
    Ok((Scale::Ten(power), Format::DecimalExponent))
}

/// Index is the power of 1024.
const BINARY_SUFFIXES: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
/// Power of ten and its suffix.
const DECIMAL_SUFFIXES: [(i32, &str); 10] =
    [(-9, "n"), (-6, "u"), (-3, "m"), (0, ""), (3, "k"), (6, "M"), (9, "G"), (12, "T"), (15, "P"), (18, "E")];

/// A non-negative number with [`FRACTION_DIGITS`] digits after the point.
struct Fixed {
    integer: i128,
    fraction: i128,
    /// Something other than zero stood behind the last digit kept.
    inexact: bool,
}

impl Fixed {
    /// Reads decimal digits with the point before index `point`, which may lie outside of them. None: beyond the cap.
    fn from_digits(digits: &[u8], point: i64) -> Option<Self> {
        let first = digits.iter().position(|digit| *digit != 0);
        let Some(first) = first.and_then(|first| i64::try_from(first).ok()) else {
            return Some(Self { integer: 0, fraction: 0, inexact: false });
        };
        if point.saturating_sub(first) > INTEGER_DIGITS_MAX {
            return None;
        }
        let digit = |index: i64| usize::try_from(index).ok().and_then(|i| digits.get(i)).map_or(0, |d| i128::from(*d));
        let collect = |from: i64, to: i64| (from..to).fold(0_i128, |sum, index| sum * 10 + digit(index));
        let end = point.saturating_add(FRACTION_DIGITS);
        let lost = usize::try_from(end.max(0)).unwrap_or(usize::MAX);
        Some(Self {
            integer: if point > first { collect(first, point) } else { 0 },
            fraction: if end > first { collect(point.max(first), end) } else { 0 },
            inexact: digits.iter().skip(lost).any(|digit| *digit != 0),
        })
    }

    /// Carries the fraction at each step, so that no product leaves `i128`.
    fn times_1024(&mut self) {
        let fraction = self.fraction * 1024;
        self.integer = self.integer.saturating_mul(1024).saturating_add(fraction / FRACTION_ONE);
        self.fraction = fraction % FRACTION_ONE;
    }

    fn nanos(&self) -> i128 {
        let fraction = self.fraction * NANOS;
        let round_up = fraction % FRACTION_ONE != 0 || self.inexact;
        self.integer.saturating_mul(NANOS).saturating_add(fraction / FRACTION_ONE + i128::from(round_up))
    }
}

impl fmt::Display for Quantity {
    /// The canonical form (QT3).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_zero() {
            return f.write_str("0");
        }
        match self.format {
            Format::BinarySi if self.is_integer() && self.nanos.abs() >= 1024 * NANOS => self.fmt_binary(f),
            Format::BinarySi | Format::DecimalSi => {
                let (number, power) = self.decimal();
                let suffix = DECIMAL_SUFFIXES.iter().find(|(known, _)| *known == power).map_or("", |(_, text)| text);
                write!(f, "{number}{suffix}")
            }
            Format::DecimalExponent => match self.decimal() {
                (number, 0) => write!(f, "{number}"),
                (number, power) => write!(f, "{number}e{power}"),
            },
        }
    }
}

impl Quantity {
    fn fmt_binary(self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut number = self.nanos / NANOS;
        let mut suffix = BINARY_SUFFIXES.iter();
        let mut shown = suffix.next();
        while number % 1024 == 0
            && let Some(larger) = suffix.next()
        {
            number /= 1024;
            shown = Some(larger);
        }
        write!(f, "{number}{}", shown.unwrap_or(&""))
    }

    /// The number before the largest power of ten, a multiple of three, that loses nothing. Not for zero.
    fn decimal(self) -> (i128, i32) {
        let (mut number, mut power) = (self.nanos, -9);
        while number % 1000 == 0 && power < 18 {
            number /= 1000;
            power += 3;
        }
        (number, power)
    }
}

impl TryFrom<String> for Quantity {
    type Error = ParseQuantityError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Quantity> for String {
    fn from(quantity: Quantity) -> Self {
        quantity.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn quantity(text: &str) -> Quantity {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    /// QT1, QT3.
    #[test]
    fn output_is_canonical() {
        for (input, expected) in [
            ("1.5", "1500m"),
            ("1.5Gi", "1536Mi"),
            ("1024Mi", "1Gi"),
            ("0.5", "500m"),
            ("1000m", "1"),
            ("1e3", "1e3"),
            ("1E3", "1e3"),
            ("1000e0", "1e3"),
            ("100e-3", "100e-3"),
            ("100Mi", "100Mi"),
            ("1.0", "1"),
            ("1.", "1"),
            (".5", "500m"),
            ("+5", "5"),
            ("-5", "-5"),
            ("-1.5Gi", "-1536Mi"),
            ("0", "0"),
            ("-0Ki", "0"),
            ("0.5Ki", "512"),
            ("0.0001Ki", "102400u"),
            ("1.0001Ki", "1024102400u"),
            ("1E", "1E"),
            ("1k", "1k"),
            ("12345", "12345"),
            ("12e-1", "1200e-3"),
            ("1000000", "1M"),
            ("3n", "3n"),
            ("3u", "3u"),
        ] {
            assert_eq!(quantity(input).to_string(), expected, "{input}");
        }
    }

    /// QT1, QT2.
    #[test]
    fn bad_texts_are_refused_with_kubernetes_words() {
        use ParseQuantityError::{Format, Numeric, Suffix};
        for (input, expected) in [
            ("", Format),
            (" 1", Format),
            ("1 ", Format),
            ("1.1.M", Format),
            ("1.2.3", Format),
            ("12XB", Format),
            ("é", Format),
            ("aoeu", Format),
            ("1+1.0M", Format),
            ("0.1am", Format),
            ("1K", Suffix),
            ("1mi", Suffix),
            (".5i", Suffix),
            ("-3.01e-", Suffix),
            ("1e", Suffix),
            ("1KiB", Format),
            ("Ki", Numeric),
            (".", Numeric),
            ("-", Numeric),
            ("1\u{663}", Format),
        ] {
            assert_eq!(input.parse::<Quantity>(), Err(expected), "{input:?}");
        }
    }

    /// QT4, QT5.
    #[test]
    fn integers_are_rounded_away_from_zero() {
        for (input, value, milli) in [
            ("100.5", 101, 100_500),
            ("0.1m", 1, 1),
            ("1500m", 2, 1500),
            ("-1500m", -2, -1500),
            ("1n", 1, 1),
            ("0.1n", 1, 1),
            ("64Mi", 67_108_864, 67_108_864_000),
        ] {
            assert_eq!((quantity(input).value(), quantity(input).milli_value()), (value, milli), "{input}");
        }
        assert_eq!(quantity("0.1m").rounded_to_milli().to_string(), "1m");
    }

    /// QT4: the cap, reached in every way of writing a large number.
    #[test]
    fn magnitudes_end_at_the_largest_i64() {
        let long = "9".repeat(10_000);
        for input in ["9223372036854775808", "8Ei", "10E", "1e30", "1e9223372036854775807", &long] {
            assert_eq!(quantity(input).value(), i64::MAX, "{input:.30}");
        }
        assert_eq!(quantity("-8Ei").value(), -i64::MAX);
        assert_eq!(quantity("9223372036854775807"), quantity("1e19"));
        assert_eq!(quantity("10").plus(quantity("1e30")), quantity("8Ei"));
    }

    #[test]
    fn zeros_before_and_digits_after_do_not_disturb() {
        let zeros = "0".repeat(10_000);
        assert_eq!(quantity(&format!("{zeros}1")).value(), 1);
        assert_eq!(quantity(&format!("0.{zeros}1")).to_string(), "1n");
        assert_eq!(quantity(&format!("1{zeros}e-10000")).value(), 1);
        assert_eq!(quantity("0e9223372036854775807").value(), 0);
        assert_eq!(quantity("1e-9223372036854775807").to_string(), "1e-9");
        assert_eq!(quantity("1.000000000000000000000000001Ei").value(), (1 << 60) + 1);
    }

    #[test]
    fn amounts_are_measured_in_others() {
        assert!(quantity("4Mi").is_positive_multiple_of(quantity("2Mi")));
        assert!(!quantity("3Mi").is_positive_multiple_of(quantity("2Mi")));
        assert!(!quantity("0").is_positive_multiple_of(quantity("2Mi")));
        assert_eq!(quantity("999m").percent_of(quantity("2")), 49);
        assert_eq!(quantity("1").percent_of(Quantity::ZERO), 0);
    }

    #[test]
    fn an_empty_sum_takes_the_family_of_what_is_added() {
        assert_eq!(Quantity::ZERO.plus(quantity("1Gi")).to_string(), "1Gi");
        assert_eq!(quantity("1Gi").plus(quantity("1073741824")).to_string(), "2Gi");
        assert_eq!(quantity("1").minus(quantity("300m")).to_string(), "700m");
        assert!(quantity("1Ki") > quantity("1k"));
        assert_eq!(quantity("1Ki"), quantity("1024"));
    }

    proptest! {
        #[test]
        fn printing_and_parsing_returns_the_value(units in -i64::MAX..=i64::MAX, nanos in 0_i128..NANOS, family in 0..3) {
            let format = [Format::DecimalSi, Format::BinarySi, Format::DecimalExponent][family as usize];
            let printed = Quantity::capped(i128::from(units) * NANOS + nanos, format);
            prop_assert_eq!(quantity(&printed.to_string()), printed);
            prop_assert_eq!(quantity(&printed.to_string()).to_string(), printed.to_string());
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in "[-+]?[0-9.]{0,30}[eEinumkKMGTP]{0,2}[-+]?[0-9]{0,20}") {
            if let Ok(parsed) = text.parse::<Quantity>() {
                prop_assert_eq!(quantity(&parsed.to_string()), parsed);
            }
        }
    }
}
