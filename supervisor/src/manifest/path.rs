//! Paths to fields, as Kubernetes writes them: `spec.containers[0].image`, `metadata.labels[app.kubernetes.io/name]`.

use std::fmt;

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Segment {
    /// The value under a key.
    Key(String),
    /// The n-th element of a list.
    Index(usize),
}

/// A path from the top of a document. Displays as Kubernetes writes it; the empty path displays as nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct FieldPath(pub Vec<Segment>);

impl FieldPath {
    /// Reads a displayed path back. Bracketed digits are an index, other bracketed text is a key.
    pub fn parse(text: &str) -> Self {
        let mut segments = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            rest = rest.strip_prefix('.').unwrap_or(rest);
            if let Some((inside, after)) = rest.strip_prefix('[').and_then(|r| r.split_once(']')) {
                segments.push(inside.parse().map_or_else(|_| Segment::Key(inside.to_owned()), Segment::Index));
                rest = after;
            } else {
                let end = rest.find(['.', '[']).unwrap_or(rest.len()).max(1).min(rest.len());
                let (key, after) = rest.split_at(rest.ceil_char_boundary(end));
                segments.push(Segment::Key(key.to_owned()));
                rest = after;
            }
        }
        FieldPath(segments)
    }

    /// The path one level up, or `None` at the top.
    pub fn parent(&self) -> Option<Self> {
        let (_, head) = self.0.split_last()?;
        Some(FieldPath(head.to_vec()))
    }

    /// The two paths, one after the other.
    #[must_use]
    pub fn join(mut self, tail: &Self) -> Self {
        self.0.extend(tail.0.iter().cloned());
        self
    }
}

/// Whether a key can be written after a dot and be read back.
fn is_plain(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-' || b == b'$')
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Index(index) => write!(f, "[{index}]")?,
                Segment::Key(key) if !is_plain(key) => write!(f, "[{}]", key.escape_debug())?,
                Segment::Key(key) if position == 0 => f.write_str(key)?,
                Segment::Key(key) => write!(f, ".{key}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_back_as_it_was_written() {
        for text in
            ["", "spec", "spec.containers[0].image", "metadata.labels[app.kubernetes.io/name]", "[3].x", "a.b-c[1][2]"]
        {
            assert_eq!(FieldPath::parse(text).to_string(), text);
        }
    }

    #[test]
    fn any_text_parses_to_an_end() {
        for text in ["...", "[", "]", "[]", "a..b", "é[ü].ö", "[a", "a]b"] {
            assert!(FieldPath::parse(text).0.len() <= text.len(), "{text}");
        }
    }
}
