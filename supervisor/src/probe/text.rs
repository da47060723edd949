//! How Go writes strings, durations and errors of the kernel: the kubelet's texts are made of these.

use std::io;
use std::time::Duration;

/// Text of a deadline that passed.
pub(super) const DEADLINE_EXCEEDED: &str = "context deadline exceeded";

/// A string as `%q` prints it; what is no UTF-8 or can't be shown is escaped.
pub(super) fn quote(bytes: &[u8]) -> String {
    let mut quoted = String::with_capacity(bytes.len() + 2);
    quoted.push('"');
    for chunk in bytes.utf8_chunks() {
        chunk.valid().chars().for_each(|c| quote_char(c, &mut quoted));
        for byte in chunk.invalid() {
            quoted.push_str(&format!("\\x{byte:02x}"));
        }
    }
    quoted.push('"');
    quoted
}

fn quote_char(c: char, quoted: &mut String) {
    match c {
        '"' => quoted.push_str("\\\""),
        '\\' => quoted.push_str("\\\\"),
        '\u{7}' => quoted.push_str("\\a"),
        '\u{8}' => quoted.push_str("\\b"),
        '\u{c}' => quoted.push_str("\\f"),
        '\n' => quoted.push_str("\\n"),
        '\r' => quoted.push_str("\\r"),
        '\t' => quoted.push_str("\\t"),
        '\u{b}' => quoted.push_str("\\v"),
        c if c.is_ascii_control() => quoted.push_str(&format!("\\x{:02x}", u32::from(c))),
        c if c.is_control() => quoted.push_str(&format!("\\u{:04x}", u32::from(c))),
        c => quoted.push(c),
    }
}

/// A duration as `%v` prints it: `1s`, `1m30s`, `500ms`, `1.5s`.
pub(super) fn duration(duration: Duration) -> String {
    let nanoseconds = duration.as_nanos();
    match nanoseconds {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanoseconds}ns"),
        1_000..1_000_000 => format!("{}µs", decimal(nanoseconds, 1_000)),
        1_000_000..1_000_000_000 => format!("{}ms", decimal(nanoseconds, 1_000_000)),
        _ => whole_units(duration),
    }
}

fn whole_units(duration: Duration) -> String {
    let (minutes, hours) = (duration.as_secs() / 60 % 60, duration.as_secs() / 3600);
    let rest = u128::from(duration.as_secs() % 60) * 1_000_000_000 + u128::from(duration.subsec_nanos());
    let seconds = decimal(rest, 1_000_000_000);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// `value / unit` without trailing zeros.
fn decimal(value: u128, unit: u128) -> String {
    let (whole, rest) = (value / unit, value % unit);
    if rest == 0 {
        return whole.to_string();
    }
    let digits = unit.ilog10() as usize;
    let fraction = format!("{rest:0digits$}");
    format!("{whole}.{}", fraction.trim_end_matches('0'))
}

/// The text of an error of the kernel. Go has a table of its own; libc's differ from it by the first letter, and musl's by
/// more, so the ones that networks make are written out.
pub(super) fn errno(error: &io::Error) -> String {
    use rustix::io::Errno;
    let Some(number) = error.raw_os_error() else { return error.to_string() };
    match Errno::from_raw_os_error(number) {
        Errno::CONNREFUSED => "connection refused".to_owned(),
        Errno::CONNRESET => "connection reset by peer".to_owned(),
        Errno::HOSTUNREACH => "no route to host".to_owned(),
        Errno::NETUNREACH => "network is unreachable".to_owned(),
        Errno::TIMEDOUT => "connection timed out".to_owned(),
        Errno::HOSTDOWN => "host is down".to_owned(),
        Errno::PIPE => "broken pipe".to_owned(),
        Errno::ACCESS => "permission denied".to_owned(),
        Errno::PERM => "operation not permitted".to_owned(),
        Errno::INVAL => "invalid argument".to_owned(),
        Errno::ADDRNOTAVAIL => "cannot assign requested address".to_owned(),
        Errno::MFILE => "too many open files".to_owned(),
        _ => libc_text(error),
    }
}

fn libc_text(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_quoted_as_go_does() {
        for (bytes, quoted) in [
            (&b"http://10.0.0.5:8080/"[..], r#""http://10.0.0.5:8080/""#),
            (b"a\"b\\c\n\r\t\x07\x08\x0b\x0c", r#""a\"b\\c\n\r\t\a\b\v\f""#),
            (b"\x00\x01\x7f", r#""\x00\x01\x7f""#),
            (b"\x16\x03\xff\xfe", r#""\x16\x03\xff\xfe""#),
            ("grün \u{85}".as_bytes(), r#""grün \u0085""#),
        ] {
            assert_eq!(quote(bytes), quoted);
        }
    }

    #[test]
    fn durations_print_as_go_does() {
        for (nanoseconds, text) in [
            (0, "0s"),
            (5, "5ns"),
            (1_500, "1.5µs"),
            (500_000_000, "500ms"),
            (1_000_000_000, "1s"),
            (1_050_000_000, "1.05s"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_000, "1h0m0s"),
        ] {
            assert_eq!(duration(Duration::from_nanos(nanoseconds)), text);
        }
    }

    #[test]
    fn errors_of_the_kernel_have_gos_words() {
        use rustix::io::Errno;
        for (number, text) in [
            (Errno::CONNREFUSED, "connection refused"),
            (Errno::HOSTUNREACH, "no route to host"),
            (Errno::NETUNREACH, "network is unreachable"),
            (Errno::TIMEDOUT, "connection timed out"),
            (Errno::NOBUFS, "no buffer space available"),
        ] {
            assert_eq!(errno(&io::Error::from(number)), text);
        }
    }
}
