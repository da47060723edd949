//! Label selectors: equality, sets, existence.

use std::collections::BTreeSet;

use serde_json::Value;

use super::lexer::{Lexer, Token};
use super::{BadSelector, check_length};
use crate::admission::validate::names;

/// What the labels of an object must be. The default selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels {
    requirements: Vec<Requirement>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    In(BTreeSet<String>),
    NotIn(BTreeSet<String>),
    Exists,
    Absent,
    Greater(i64),
    Less(i64),
}

impl Labels {
    /// Reads what a client wrote after `labelSelector=`.
    ///
    /// # Errors
    /// The selector is malformed, or a key or value is none; the text is that of `labels.Parse`.
    pub fn parse(text: &str) -> Result<Self, BadSelector> {
        check_length(text)?;
        let mut parser = Parser { lexer: Lexer::new(text) };
        parser.selector()
    }

    /// True if everything is selected.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether an object's `metadata.labels` are what is asked for.
    pub fn matches(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        self.requirements
            .iter()
            .all(|requirement| requirement.holds(labels.get(&requirement.key).and_then(Value::as_str)))
    }
}

impl Requirement {
    fn holds(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|v| v.parse::<i64>().ok());
        match &self.test {
            Test::In(values) => value.is_some_and(|v| values.contains(v)),
            Test::NotIn(values) => value.is_none_or(|v| !values.contains(v)),
            Test::Exists => value.is_some(),
            Test::Absent => value.is_none(),
            Test::Greater(limit) => number().is_some_and(|n| n > *limit),
            Test::Less(limit) => number().is_some_and(|n| n < *limit),
        }
    }
}

struct Parser<'t> {
    lexer: Lexer<'t>,
}

fn fault<T>(text: String) -> Result<T, String> {
    Err(text)
}

#[expect(clippy::wildcard_enum_match_arm, reason = "every word that does not belong here is the same fault")]
impl<'t> Parser<'t> {
    fn selector(&mut self) -> Result<Labels, BadSelector> {
        let mut requirements = Vec::new();
        loop {
            match self.lexer.peek() {
                Token::Word(_) | Token::Not => {}
                Token::End => return Ok(Labels { requirements }),
                other => {
                    let text = format!("found '{}', expected: !, identifier, or 'end of string'", other.text());
                    return Err(BadSelector::new(text));
                }
            }
            let requirement = self.requirement();
            requirements.push(requirement.map_err(|e| BadSelector::new(format!("unable to parse requirement: {e}")))?);
            self.separator()?;
        }
    }

    fn separator(&mut self) -> Result<(), BadSelector> {
        match self.lexer.next() {
            Token::End => Ok(()),
            Token::Comma => match self.lexer.peek() {
                Token::Word(_) | Token::Not => Ok(()),
                other => Err(BadSelector::new(format!("found '{}', expected: identifier after ','", other.text()))),
            },
            other => Err(BadSelector::new(format!("found '{}', expected: ',' or 'end of string'", other.text()))),
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let mut word = self.lexer.next();
        let is_negated = word == Token::Not;
        if is_negated {
            word = self.lexer.next();
        }
        let Token::Word(key) = word else {
            return fault(format!("found '{}', expected: identifier", word.text()));
        };
        check_key(key)?;
        let test = match self.lexer.peek() {
            _ if is_negated => Test::Absent,
            Token::End | Token::Comma => Test::Exists,
            _ => self.test(key)?,
        };
        Ok(Requirement { key: key.to_owned(), test })
    }

    fn test(&mut self, key: &str) -> Result<Test, String> {
        let set = |value: &str| BTreeSet::from([value.to_owned()]);
        let test = match self.lexer.next() {
            Token::Word("in") => Test::In(self.values()?),
            Token::Word("notin") => Test::NotIn(self.values()?),
            Token::Equals | Token::DoubleEquals => Test::In(set(self.value()?)),
            Token::NotEquals => Test::NotIn(set(self.value()?)),
            Token::Greater => Test::Greater(number(self.value()?)?),
            Token::Less => Test::Less(number(self.value()?)?),
            other => return fault(format!("found '{}', expected: in, notin, =, ==, !=, gt, lt", other.text())),
        };
        if let Test::In(values) | Test::NotIn(values) = &test {
            check_values(key, values)?;
        }
        Ok(test)
    }

    fn value(&mut self) -> Result<&'t str, String> {
        if matches!(self.lexer.peek(), Token::End | Token::Comma) {
            return Ok("");
        }
        match self.lexer.next() {
            Token::Word(word) => Ok(word),
            other => fault(format!("found '{}', expected: identifier", other.text())),
        }
    }

    /// `(a, b)`. An empty place between commas is the empty value.
    fn values(&mut self) -> Result<BTreeSet<String>, String> {
        let mut values = BTreeSet::new();
        match self.lexer.next() {
            Token::Open => {}
            other => return fault(format!("found '{}' expected: '('", other.text())),
        }
        match self.lexer.peek() {
            Token::Close => {
                self.lexer.next();
                return Ok(values);
            }
            Token::Word(_) | Token::Comma => {}
            other => return fault(format!("found '{}', expected: ',', ')' or identifier", other.text())),
        }
        loop {
            let value = match self.lexer.peek() {
                Token::Word(word) => {
                    self.lexer.next();
                    word
                }
                _ => "",
            };
            values.insert(value.to_owned());
            match self.lexer.next() {
                Token::Comma => {}
                Token::Close => return Ok(values),
                other => return fault(format!("found '{}', expected: ',' or ')'", other.text())),
            }
        }
    }
}

fn number(text: &str) -> Result<i64, String> {
    let fault = "for 'Gt', 'Lt' operators, the value must be an integer";
    text.parse().map_err(|_| format!("values[0]: Invalid value: {text:?}: {fault}"))
}

fn check_key(key: &str) -> Result<(), String> {
    let messages = names::qualified(key);
    if messages.is_empty() { Ok(()) } else { Err(format!("<nil>: Invalid value: {key:?}: {}", messages.join("; "))) }
}

fn check_values(key: &str, values: &BTreeSet<String>) -> Result<(), String> {
    if values.is_empty() {
        return fault("values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty".to_owned());
    }
    for (index, value) in values.iter().enumerate() {
        let messages = names::label_value(value);
        if !messages.is_empty() {
            return fault(format!("values[{index}][{key}]: Invalid value: {value:?}: {}", messages.join("; ")));
        }
    }
    Ok(())
}
