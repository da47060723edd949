//! Reading templates.

use serde_json::Value;

use super::{Operator, Piece, Step};

/// Ranges within ranges.
const DEPTH_MAX: usize = 16;

pub(super) fn template(text: &str) -> Result<Vec<Piece>, String> {
    let mut reader = Reader { rest: text };
    let pieces = reader.pieces(0)?;
    if reader.rest.is_empty() { Ok(pieces) } else { Err("not in range, nothing to end".to_owned()) }
}

struct Reader<'t> {
    rest: &'t str,
}

impl<'t> Reader<'t> {
    fn take(&mut self, prefix: &str) -> bool {
        let rest = self.rest.strip_prefix(prefix);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn blanks(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn expect(&mut self, what: &str) -> Result<(), String> {
        self.blanks();
        if self.take(what) {
            Ok(())
        } else {
            Err(format!("unrecognized character in action: expected {what:?} before {:?}", self.rest))
        }
    }

    /// Up to the end, or to the `{end}` of a range, which stays.
    fn pieces(&mut self, depth: usize) -> Result<Vec<Piece>, String> {
        if depth > DEPTH_MAX {
            return Err(format!("more than {DEPTH_MAX} ranges within each other"));
        }
        let mut pieces = Vec::new();
        while !self.rest.is_empty() && !self.rest.starts_with("{end}") {
            let until = self.rest.find('{').unwrap_or(self.rest.len());
            let (text, rest) = self.rest.split_at(until);
            self.rest = rest;
            if !text.is_empty() {
                pieces.push(Piece::Text(text.to_owned()));
            }
            if !self.rest.starts_with("{end}") && self.take("{") {
                self.blanks();
                pieces.push(self.action(depth)?);
            }
        }
        Ok(pieces)
    }

    fn action(&mut self, depth: usize) -> Result<Piece, String> {
        if self.take("range ") {
            self.blanks();
            let steps = self.path()?;
            self.expect("}")?;
            let body = self.pieces(depth + 1)?;
            if !self.take("{end}") {
                return Err("unclosed range: {end} is missing".to_owned());
            }
            return Ok(Piece::Range(steps, body));
        }
        let piece = match self.quoted()? {
            Some(text) => Piece::Text(text),
            None => Piece::Path(self.path()?),
        };
        self.expect("}")?;
        Ok(piece)
    }

    /// A text in either kind of quotes.
    fn quoted(&mut self) -> Result<Option<String>, String> {
        let Some(quote) = self.rest.chars().next().filter(|c| matches!(c, '"' | '\'')) else { return Ok(None) };
        let mut characters = self.rest.char_indices().skip(1);
        let mut text = String::new();
        while let Some((at, character)) = characters.next() {
            match character {
                '\\' => match characters.next().map(|(_, escaped)| escaped) {
                    Some('n') => text.push('\n'),
                    Some('t') => text.push('\t'),
                    Some(other) => text.push(other),
                    None => break,
                },
                _ if character == quote => {
                    self.rest = &self.rest[at + 1..];
                    return Ok(Some(text));
                }
                other => text.push(other),
            }
        }
        Err("unterminated quoted string".to_owned())
    }

    fn path(&mut self) -> Result<Vec<Step>, String> {
        let has_root = self.take("$") || self.take("@");
        let mut steps = Vec::new();
        loop {
            if self.take("..") {
                steps.push(Step::Deep(self.name()?));
            } else if self.take(".*") {
                steps.push(Step::All);
            } else if self.take(".") {
                match self.name() {
                    Ok(name) => steps.push(Step::Field(name)),
                    // `{.}` is the object itself, and `.[0]` an item of it.
                    Err(_) if steps.is_empty() || self.rest.starts_with('[') => {}
                    Err(error) => return Err(error),
                }
                if steps.is_empty() && !self.rest.starts_with('[') {
                    return Ok(steps);
                }
            } else if self.take("[") {
                steps.push(self.bracket()?);
            } else {
                break;
            }
        }
        if steps.is_empty() && !has_root {
            return Err(format!("unrecognized character in action: {:?}", self.rest));
        }
        Ok(steps)
    }

    fn name(&mut self) -> Result<String, String> {
        let mut name = String::new();
        let mut characters = self.rest.char_indices();
        let mut end = self.rest.len();
        while let Some((at, character)) = characters.next() {
            match character {
                '\\' => name.extend(characters.next().map(|(_, escaped)| escaped)),
                c if c.is_whitespace() || ".[]{}()=<>!,".contains(c) => {
                    end = at;
                    break;
                }
                c => name.push(c),
            }
        }
        self.rest = &self.rest[end..];
        if name.is_empty() { Err(format!("a name is missing before {:?}", self.rest)) } else { Ok(name) }
    }

    fn bracket(&mut self) -> Result<Step, String> {
        self.blanks();
        let step = if self.take("*") {
            Step::All
        } else if self.take("?(") {
            self.filter()?
        } else if let Some(name) = self.quoted()? {
            Step::Field(name)
        } else {
            let from = self.number()?;
            if self.take(":") {
                Step::Slice(from, self.number()?)
            } else {
                Step::Index(from.ok_or_else(|| "an array index is missing".to_owned())?)
            }
        };
        self.expect("]")?;
        Ok(step)
    }

    fn number(&mut self) -> Result<Option<i64>, String> {
        let end = self.rest.find(|c: char| !c.is_ascii_digit() && c != '-').unwrap_or(self.rest.len());
        let (digits, rest) = self.rest.split_at(end);
        self.rest = rest;
        match digits {
            "" => Ok(None),
            digits => digits.parse().map(Some).map_err(|_| format!("invalid array index {digits}")),
        }
    }

    fn filter(&mut self) -> Result<Step, String> {
        const OPERATORS: [(&str, Operator); 6] = [
            ("==", Operator::Equal),
            ("!=", Operator::NotEqual),
            ("<=", Operator::LessOrEqual),
            (">=", Operator::MoreOrEqual),
            ("<", Operator::Less),
            (">", Operator::More),
        ];
        self.blanks();
        if !self.rest.starts_with('@') {
            return Err("a filter begins with @".to_owned());
        }
        let path = self.path()?;
        self.blanks();
        let operator = OPERATORS.into_iter().find(|(text, _)| self.take(text));
        let condition = match operator {
            Some((_, operator)) => {
                self.blanks();
                Some((operator, self.literal()?))
            }
            None => None,
        };
        self.expect(")")?;
        Ok(Step::Filter(path, condition))
    }

    fn literal(&mut self) -> Result<Value, String> {
        if let Some(text) = self.quoted()? {
            return Ok(Value::String(text));
        }
        let end = self.rest.find([')', ' ']).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        serde_json::from_str(word).map_err(|_| format!("unrecognized literal {word:?} in a filter"))
    }
}
