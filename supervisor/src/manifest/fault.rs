//! What is wrong with a manifest, and how it is shown.

use std::fmt;

use super::path::FieldPath;
use super::yaml::Position;

/// Characters of a line that a snippet shows; a longer line is cut around the fault.
const SNIPPET_WIDTH: usize = 120;

/// One mistake in a manifest. Displays on one line as `file:line:column: path: message`, control characters escaped (D20).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file as it was named, `-` for standard input.
    pub file: String,
    /// Where it is; `None` for what concerns the file itself.
    pub position: Option<Position>,
    /// The field, empty when none can be named.
    pub path: FieldPath,
    /// What is wrong.
    pub message: String,
    /// The text of the line, for [`Fault::snippet`].
    pub line: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(&self.file))?;
        if let Some(Position { line, column }) = self.position {
            write!(f, ":{line}:{column}")?;
        }
        f.write_str(": ")?;
        if !self.path.0.is_empty() {
            write!(f, "{}: ", printable(&self.path.to_string()))?;
        }
        f.write_str(&printable(&self.message))
    }
}

impl Fault {
    /// The line with a mark under the column, for a terminal.
    pub fn snippet(&self) -> Option<String> {
        let Position { line, column } = self.position?;
        let column = column.checked_sub(1)?;
        let first = if column >= SNIPPET_WIDTH { column - SNIPPET_WIDTH / 2 } else { 0 };
        let shown: String = self.line.chars().skip(first).take(SNIPPET_WIDTH).map(one_column).collect();
        if shown.trim().is_empty() {
            return None;
        }
        let number = line.to_string();
        let margin = " ".repeat(number.len());
        let indent = " ".repeat(column - first);
        Some(format!("  {number} | {shown}\n  {margin} | {indent}^"))
    }
}

/// A character as something that takes one column, so that the mark stands under its place.
fn one_column(character: char) -> char {
    if character.is_control() { ' ' } else { character }
}

/// Control characters (ANSI sequences among them) written out (D20). Newlines stay: some messages have several lines.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() && character != '\n' && character != '\t' {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// Everything that is wrong with a set of manifests; nothing of the set may be used. Displays one fault a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// In the order of files and lines, each once, at least one.
    pub faults: Vec<Fault>,
}

impl Refused {
    pub(super) fn new(mut faults: Vec<Fault>) -> Self {
        let mut seen = Vec::new();
        faults.retain(|fault| {
            let key = fault.to_string();
            let is_new = !seen.contains(&key);
            seen.push(key);
            is_new
        });
        Refused { faults }
    }

    /// For a terminal: each fault with its line.
    pub fn with_snippets(&self) -> String {
        let mut text = String::new();
        for fault in &self.faults {
            text.push_str(&format!("{fault}\n"));
            if let Some(snippet) = fault.snippet() {
                text.push_str(&format!("{snippet}\n"));
            }
        }
        text
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.faults.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Refused {}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(line: &str, column: usize) -> Fault {
        Fault {
            file: "a.yaml".to_owned(),
            position: Some(Position { line: 12, column }),
            path: FieldPath::parse("spec.x"),
            message: "is \u{1b}[31mred".to_owned(),
            line: line.to_owned(),
        }
    }

    #[test]
    fn a_fault_is_one_clickable_line_without_control_characters() {
        assert_eq!(fault("  x: 1", 3).to_string(), "a.yaml:12:3: spec.x: is \\u{1b}[31mred");
    }

    #[test]
    fn the_mark_stands_under_the_column() {
        assert_eq!(fault("\tä: 1", 2).snippet().unwrap(), "  12 |  ä: 1\n     |  ^");
        let long = format!("{}x", " a".repeat(300));
        let shown = fault(&long, 601).snippet().unwrap();
        let (line, mark) = shown.split_once('\n').unwrap();
        assert_eq!(line.chars().nth(mark.chars().position(|c| c == '^').unwrap()), Some('x'));
        assert!(line.chars().count() <= SNIPPET_WIDTH + 7);
    }

    #[test]
    fn the_same_fault_is_reported_once() {
        assert_eq!(Refused::new(vec![fault("", 1), fault("", 1), fault("", 2)]).faults.len(), 2);
    }
}
