//! Paths in a container, by their text alone.

/// Without `.`, doubled slashes and what `..` takes back; `.` for nothing.
pub(super) fn clean(path: &str) -> String {
    let is_absolute = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match (part, parts.last()) {
            ("" | ".", _) => {}
            ("..", Some(&last)) if last != ".." => drop(parts.pop()),
            ("..", None) if is_absolute => {}
            (part, _) => parts.push(part),
        }
    }
    match (is_absolute, parts.join("/")) {
        (true, rest) => format!("/{rest}"),
        (false, rest) if rest.is_empty() => ".".to_owned(),
        (false, rest) => rest,
    }
}

/// The directory and the last part of a clean path.
pub(super) fn split(path: &str) -> (&str, &str) {
    match path.rsplit_once('/') {
        Some(("", base)) => ("/", base),
        Some((dir, base)) => (dir, base),
        None => (".", path),
    }
}

/// As `tar` writes the names below a path: not absolute, and not above where it started.
pub(super) fn relative(path: &str) -> String {
    let clean = clean(path);
    let inside: Vec<&str> = clean.split('/').skip_while(|part| matches!(*part, "" | "." | "..")).collect();
    inside.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_as_text() {
        for (path, expected) in [
            ("/a//b/./c/../d/", "/a/b/d"),
            ("/", "/"),
            ("/../a", "/a"),
            ("a/..", "."),
            ("../../a", "../../a"),
            ("", "."),
        ] {
            assert_eq!(clean(path), expected, "{path}");
        }
        for (path, expected) in [("/a/b", "a/b"), ("../../a", "a"), ("./a", "a"), ("/", ""), (".", ""), ("..", "")] {
            assert_eq!(relative(path), expected, "{path}");
        }
        assert_eq!([split("/a/b"), split("/a"), split("a")], [("/a", "b"), ("/", "a"), (".", "a")]);
    }
}
