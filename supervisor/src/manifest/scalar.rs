//! What an unquoted YAML scalar means: the resolution of YAML 1.1 as sigs.k8s.io/yaml does it (`yes` is true, `0644` is
//! 420, `1_000` is 1000, a date stays a string), so that a manifest means here what it means to kubectl.

use serde_json::{Number, Value};

/// Beyond this a whole float is no longer exactly an integer (2^53).
const MAX_EXACT_FLOAT: f64 = 9_007_199_254_740_992.0;

/// The value of a plain scalar. `Err` for what JSON can't hold: `.inf` and `.nan`.
pub(super) fn plain(text: &str) -> Result<Value, &'static str> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Ok(Value::Null),
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "true" | "True" | "TRUE" => Ok(Value::Bool(true)),
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "false" | "False" | "FALSE" => Ok(Value::Bool(false)),
        ".nan" | ".NaN" | ".NAN" | ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" | "-.inf" | "-.Inf"
        | "-.INF" => Err("infinity and NaN are not values of a Kubernetes object"),
        _ => Ok(number(text).map_or_else(|| Value::String(text.to_owned()), Value::Number)),
    }
}

/// The key that a plain scalar makes in a mapping: numbers and booleans are written out, as sigs.k8s.io/yaml does.
pub(super) fn key(text: &str) -> Result<String, &'static str> {
    match plain(text)? {
        Value::Null => Err("null can't be a key"),
        Value::Bool(value) => Ok(value.to_string()),
        Value::Number(value) => Ok(value.to_string()),
        Value::String(_) | Value::Array(_) | Value::Object(_) => Ok(text.to_owned()),
    }
}

fn number(text: &str) -> Option<Number> {
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return None;
    }
    if text.starts_with('.') {
        return float(text);
    }
    let digits = text.replace('_', "");
    integer(&digits).or_else(|| float(&digits))
}

/// Go's `strconv.ParseInt(s, 0, 64)`, then `ParseUint`: a leading `0`, `0o`, `0x` or `0b` chooses the base.
fn integer(text: &str) -> Option<Number> {
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (radix, digits) = base(unsigned);
    if !digits.starts_with(|c: char| c.is_digit(radix)) {
        return None;
    }
    let magnitude = u64::from_str_radix(digits, radix).ok()?;
    if negative {
        return i64::try_from(-i128::from(magnitude)).ok().map(Number::from);
    }
    Some(Number::from(magnitude))
}

fn base(unsigned: &str) -> (u32, &str) {
    let lower = unsigned.get(..2).map(str::to_ascii_lowercase);
    match (lower.as_deref(), unsigned.strip_prefix('0')) {
        (Some("0x"), _) => (16, &unsigned[2..]),
        (Some("0o"), _) => (8, &unsigned[2..]),
        (Some("0b"), _) => (2, &unsigned[2..]),
        (_, Some(octal)) if !octal.is_empty() => (8, octal),
        _ => (10, unsigned),
    }
}

/// A float in YAML's notation; a whole one becomes an integer, as it would on its way through Go's JSON.
fn float(text: &str) -> Option<Number> {
    if !is_float(text.strip_prefix(['+', '-']).unwrap_or(text)) {
        return None;
    }
    let value: f64 = text.parse().ok()?;
    if value.fract() == 0.0 && value.abs() < MAX_EXACT_FLOAT {
        #[expect(clippy::cast_possible_truncation, reason = "whole, and below 2^53")]
        return Some(Number::from(value as i64));
    }
    Number::from_f64(value)
}

/// `(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn is_float(text: &str) -> bool {
    let (mantissa, exponent) = text.split_once(['e', 'E']).map_or((text, None), |(m, e)| (m, Some(e)));
    let is_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent_ok = exponent.is_none_or(|e| {
        let e = e.strip_prefix(['+', '-']).unwrap_or(e);
        !e.is_empty() && is_digits(e)
    });
    is_digits(whole) && is_digits(fraction) && !(whole.is_empty() && fraction.is_empty()) && exponent_ok
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn scalars_mean_what_they_mean_to_kubectl() {
        // dependencies.md 4.5; the table of sigs.k8s.io/yaml (YAML 1.1 as go-yaml v2 reads it).
        let table = [
            ("yes", json!(true)),
            ("on", json!(true)),
            ("y", json!(true)),
            ("Off", json!(false)),
            ("N", json!(false)),
            ("yEs", json!("yEs")),
            ("~", json!(null)),
            ("", json!(null)),
            ("NULL", json!(null)),
            ("nil", json!("nil")),
            ("0644", json!(420)),
            ("0o17", json!(15)),
            ("0x1F", json!(31)),
            ("0b11", json!(3)),
            ("-0b11", json!(-3)),
            ("089", json!(89)),
            ("0", json!(0)),
            ("-0", json!(0)),
            ("+7", json!(7)),
            ("1_000", json!(1000)),
            ("1e3", json!(1000)),
            ("1.5", json!(1.5)),
            ("1.", json!(1)),
            (".5", json!(0.5)),
            ("1.50", json!(1.5)),
            ("1.2.3", json!("1.2.3")),
            ("12:30:45", json!("12:30:45")),
            ("2001-12-14", json!("2001-12-14")),
            ("2001-12-14T21:59:43Z", json!("2001-12-14T21:59:43Z")),
            ("-", json!("-")),
            (".", json!(".")),
            ("18446744073709551615", json!(18_446_744_073_709_551_615_u64)),
            ("-9223372036854775808", json!(i64::MIN)),
            ("0x", json!("0x")),
            ("1e", json!("1e")),
            ("250m", json!("250m")),
            ("64Mi", json!("64Mi")),
            ("_1", json!("_1")),
            ("é1", json!("é1")),
            ("0é", json!("0é")),
            ("--1", json!("--1")),
            ("+-1", json!("+-1")),
        ];
        for (text, expected) in table {
            assert_eq!(plain(text), Ok(expected), "{text}");
        }
        assert!(plain(".inf").is_err());
        assert!(plain("-.INF").is_err());
    }

    #[test]
    fn keys_are_text() {
        for (text, expected) in [("name", "name"), ("80", "80"), ("0644", "420"), ("yes", "true"), ("1.5", "1.5")] {
            assert_eq!(key(text).as_deref(), Ok(expected));
        }
        assert!(key("~").is_err());
    }
}
