//! What names look like. Each check returns the messages of what is wrong, empty if nothing is; none of them takes a name
//! that could leave its directory or end a line (D20).

/// Bytes of a DNS label.
pub(super) const LABEL_MAX: usize = 63;
/// Bytes of a DNS subdomain.
pub(super) const SUBDOMAIN_MAX: usize = 253;
/// Bytes of a port name.
const PORT_NAME_MAX: usize = 15;

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = r"a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const NAME_PART: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const QUALIFIED: &str = "a qualified name must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
const DATA_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
const ENV_NAME: &str =
    "a valid environment variable name must consist only of printable ASCII characters other than '='";
const HEADER: &str = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";
const IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const PORT: &str = "must be between 1 and 65535, inclusive";

fn only(ok: bool, message: &str) -> Vec<String> {
    if ok { Vec::new() } else { vec![message.to_owned()] }
}

fn limited(name: &str, max: usize, ok: bool, message: &str) -> Vec<String> {
    let mut messages = only(name.len() <= max, &format!("must be no more than {max} bytes"));
    messages.extend(only(ok, message));
    messages
}

fn is_label(name: &str) -> bool {
    let is_inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !name.is_empty() && name.bytes().all(is_inner) && !name.starts_with('-') && !name.ends_with('-')
}

/// `([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]`
fn is_name_part(name: &str) -> bool {
    let is_end = |c: char| c.is_ascii_alphanumeric();
    name.starts_with(is_end) && name.ends_with(is_end) && name.chars().all(|c| is_end(c) || "-_.".contains(c))
}

/// RFC 1123 label: container, volume and namespace names (VA3).
pub(super) fn label(name: &str) -> Vec<String> {
    limited(name, LABEL_MAX, is_label(name), LABEL)
}

/// RFC 1035 label: service names.
pub(super) fn label_1035(name: &str) -> Vec<String> {
    limited(name, LABEL_MAX, is_label(name) && name.starts_with(|c: char| c.is_ascii_lowercase()), LABEL_1035)
}

/// RFC 1123 subdomain: names of most objects (VA1).
pub(super) fn subdomain(name: &str) -> Vec<String> {
    limited(name, SUBDOMAIN_MAX, name.split('.').all(is_label), SUBDOMAIN)
}

/// A DNS search path: a subdomain whose labels may hold underscores, or a single dot (DN4).
pub(super) fn search(name: &str) -> Vec<String> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() { Vec::new() } else { subdomain(&name.replace('_', "a")) }
}

/// The value of a label (VA2).
pub(crate) fn label_value(value: &str) -> Vec<String> {
    limited(value, LABEL_MAX, value.is_empty() || is_name_part(value), LABEL_VALUE)
}

/// The key of a label, an annotation, a resource: `name` or `prefix/name` (VA2).
pub(crate) fn qualified(name: &str) -> Vec<String> {
    let mut parts = name.split('/');
    let (first, second, more) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    let (prefix, part) = match (second, more) {
        (None, _) => (None, first),
        (Some(part), None) => (Some(first), part),
        (Some(_), Some(_)) => return vec![QUALIFIED.to_owned()],
    };
    let mut messages = Vec::new();
    match prefix {
        Some("") => messages.push("prefix part must be non-empty".to_owned()),
        Some(prefix) => messages.extend(subdomain(prefix).into_iter().map(|m| format!("prefix part {m}"))),
        None => {}
    }
    if part.is_empty() {
        messages.push("name part must be non-empty".to_owned());
    } else if part.len() > LABEL_MAX {
        messages.push(format!("name part must be no more than {LABEL_MAX} bytes"));
    }
    messages.extend(only(is_name_part(part), NAME_PART));
    messages
}

/// A key of a ConfigMap or Secret: it becomes a file name.
pub(super) fn data_key(key: &str) -> Vec<String> {
    let ok = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    let mut messages = limited(key, SUBDOMAIN_MAX, ok, DATA_KEY);
    match key {
        "." => messages.push("must not be '.'".to_owned()),
        ".." => messages.push("must not be '..'".to_owned()),
        _ if key.starts_with("..") => messages.push("must not start with '..'".to_owned()),
        _ => {}
    }
    messages
}

/// The name of an environment variable (EN4, D17).
pub(super) fn env_name(name: &str) -> Vec<String> {
    only(!name.is_empty() && name.bytes().all(|b| (0x20..=0x7e).contains(&b) && b != b'='), ENV_NAME)
}

/// The name of a header (VA6).
pub(super) fn header(name: &str) -> Vec<String> {
    only(!name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'), HEADER)
}

/// The number of a port.
pub(super) fn port(port: i32) -> Vec<String> {
    only((1..=65535).contains(&port), PORT)
}

/// The name of a port (PO4).
pub(super) fn port_name(name: &str) -> Vec<String> {
    let mut messages = only(name.len() <= PORT_NAME_MAX, &format!("must be no more than {PORT_NAME_MAX} bytes"));
    let is_ok = !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    messages.extend(only(is_ok, "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)"));
    messages.extend(only(name.bytes().any(|b| b.is_ascii_lowercase()), "must contain at least one letter (a-z)"));
    messages.extend(only(!name.contains("--"), "must not contain consecutive hyphens"));
    messages.extend(only(!name.starts_with('-') && !name.ends_with('-'), "must not begin or end with a hyphen"));
    messages
}

/// An IPv4 or IPv6 address.
pub(super) fn ip(text: &str) -> Vec<String> {
    only(text.parse::<std::net::IpAddr>().is_ok(), IP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_are_refused() {
        // D20: nothing that could leave a directory, end a line or colour a terminal.
        for name in ["", "..", "a/b", "a\nb", "a\0b", "\u{1b}[1m", "A", "-a", "a-", "a b", "ä", &"a".repeat(64)] {
            assert!(!label(name).is_empty(), "{name:?}");
        }
        for name in ["", ".", "..", "a..b", "a/b", "a\n", ".a", "a.", &"a.".repeat(127)] {
            assert!(!subdomain(name).is_empty(), "{name:?}");
        }
        for key in ["", ".", "..", "..a", "a/b", "a b", "a\0", &"k".repeat(254)] {
            assert!(!data_key(key).is_empty(), "{key:?}");
        }
        for name in ["", "A=B", "A\n", "A\0", "ä"] {
            assert!(!env_name(name).is_empty(), "{name:?}");
        }
    }

    #[test]
    fn ordinary_names_pass() {
        for name in ["a", "a-b", "0", "db-service-1"] {
            assert_eq!((label(name), subdomain(name), label_value(name)), Default::default(), "{name}");
        }
        for name in ["a", "kubernetes.io/name", "A_b.c", "x.y/Z"] {
            assert_eq!(qualified(name), [""; 0], "{name}");
        }
        assert_eq!(env_name("a b-c.d"), [""; 0]);
        assert_eq!(data_key(".dockerconfigjson"), [""; 0]);
        assert_eq!(search("_tcp.example.com."), [""; 0]);
        assert_eq!(search("."), [""; 0]);
    }

    #[test]
    fn port_names_follow_their_rules() {
        // PO4
        assert_eq!(port_name("http-2"), [""; 0]);
        for (name, message) in [
            ("a--b", "must not contain consecutive hyphens"),
            ("-a", "must not begin or end with a hyphen"),
            ("80", "must contain at least one letter (a-z)"),
            ("HTTP", "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)"),
            ("abcdefghijklmnop", "must be no more than 15 bytes"),
        ] {
            assert!(port_name(name).contains(&message.to_owned()), "{name}");
        }
    }
}
