//! Files with variables, as an init container leaves them behind (`fileKeyRef`): a small part of the shell's syntax.
//!
//! `KEY='value'`, the value in single quotes and over as many lines as it likes; comments begin with `#`.

/// Larger files are refused: an environment has no room for them.
const MAX_BYTES: usize = 64 << 10;

/// The file has another syntax.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// The value of `key`; the first one counts. The whole file must be well-formed.
pub(super) fn value(content: &[u8], key: &str) -> Result<Option<String>, Malformed> {
    let mut rest = std::str::from_utf8(content).map_err(|_| Malformed)?;
    if content.len() > MAX_BYTES {
        return Err(Malformed);
    }
    let mut found = None;
    loop {
        rest = rest.trim_start();
        if rest.is_empty() {
            return Ok(found);
        }
        if rest.starts_with('#') {
            rest = after_line(rest);
            continue;
        }
        let (name, after) = rest.split_once('=').ok_or(Malformed)?;
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(Malformed);
        }
        let (value, after) = quoted(after)?;
        if name == key && found.is_none() {
            found = Some(value.to_owned());
        }
        rest = after;
    }
}

/// What is between the quotes, and what follows the line. A blank after `=` means an empty value.
fn quoted(text: &str) -> Result<(&str, &str), Malformed> {
    if let Some(inner) = text.strip_prefix('\'') {
        let (value, after) = inner.split_once('\'').ok_or(Malformed)?;
        let (tail, rest) = after.split_once('\n').unwrap_or((after, ""));
        let tail = tail.trim();
        return if tail.is_empty() || tail.starts_with('#') { Ok((value, rest)) } else { Err(Malformed) };
    }
    if text.is_empty() || text.starts_with(char::is_whitespace) { Ok(("", after_line(text))) } else { Err(Malformed) }
}

fn after_line(text: &str) -> &str {
    text.split_once('\n').map_or("", |(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_quoted_values_are_read() {
        let file = "# comment\n\n  A='1'\nB='two\nlines'\nC= 'v'\nD=''\nE='x' # why\nA='second'\n";
        for (key, expected) in [
            ("A", Some("1")),
            ("B", Some("two\nlines")),
            ("C", Some("")),
            ("D", Some("")),
            ("E", Some("x")),
            ("F", None),
        ] {
            assert_eq!(value(file.as_bytes(), key), Ok(expected.map(str::to_owned)), "{key}");
        }
        for bad in ["A=1", "A=\"1\"", "A ='1'", "A", "A='1", "A='1'x", "export A='1'", "='1'"] {
            assert_eq!(value(bad.as_bytes(), "A"), Err(Malformed), "{bad}");
        }
        assert_eq!(value(&vec![b'#'; MAX_BYTES + 1], "A"), Err(Malformed));
        assert_eq!(value(b"A='\xff'", "A"), Err(Malformed));
    }
}
