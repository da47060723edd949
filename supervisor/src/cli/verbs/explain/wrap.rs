//! Long texts in lines.

/// Breaks lines between words that would be longer than a width. Breaks and blanks of the text stay; a word alone may be
/// longer.
pub(super) fn wrap(text: &str, width: usize) -> String {
    let mut lines = Lines { width, out: String::new(), column: 0, blanks: String::new(), word: String::new() };
    for character in text.chars() {
        match character {
            '\n' => lines.end(),
            blank if blank.is_whitespace() => lines.blank(blank),
            other => lines.letter(other),
        }
    }
    lines.flush();
    lines.out
}

struct Lines {
    width: usize,
    out: String,
    /// Of what is in `out`; blanks and word come after it.
    column: usize,
    blanks: String,
    word: String,
}

impl Lines {
    fn end(&mut self) {
        self.flush();
        self.out.push('\n');
        self.column = 0;
    }

    fn blank(&mut self, blank: char) {
        if !self.word.is_empty() {
            self.flush();
        }
        self.blanks.push(blank);
    }

    fn letter(&mut self, letter: char) {
        self.word.push(letter);
        let word = self.word.chars().count();
        if self.column + self.blanks.chars().count() + word > self.width && word < self.width {
            self.out.push('\n');
            self.column = 0;
            self.blanks.clear();
        }
    }

    fn flush(&mut self) {
        // Blanks at the end of a full line are nothing.
        if self.word.is_empty() && self.column + self.blanks.chars().count() > self.width {
            self.blanks.clear();
        }
        for part in [&mut self.blanks, &mut self.word] {
            self.column += part.chars().count();
            self.out.push_str(part);
            part.clear();
        }
    }
}

/// Puts blanks before every line, empty ones, too.
pub(super) fn indent(text: &str, by: usize) -> String {
    let pad = " ".repeat(by);
    format!("{pad}{}", text.replace('\n', &format!("\n{pad}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_between_words() {
        for (text, expected) in [
            ("one two three", "one two\nthree"),
            ("one  two", "one  two"),
            ("a\n\nb", "a\n\nb"),
            ("a https://example.org/x b", "a\nhttps://example.org/x\nb"),
            ("sevenxx x", "sevenxx\nx"),
            ("", ""),
        ] {
            assert_eq!(wrap(text, 8), expected, "{text}");
        }
        assert_eq!(indent("a\n\nb", 2), "  a\n  \n  b");
    }
}
