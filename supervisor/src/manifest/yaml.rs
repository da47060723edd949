//! YAML (and so JSON) text into `serde_json::Value`s, within a budget, with the position of everything that is wrong.
//!
//! Built on the events of `granit-parser`, so that what Kubernetes' converter does not do can be refused with its
//! position: duplicate keys, tags, bombs (D34). A second pass ([`positions`]) maps paths to positions; it is made only when
//! there is something to report.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the parser may learn new events (its enum is non-exhaustive); each is refused"
)]

use std::collections::HashMap;

use serde_json::{Map, Value};
use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, Span, StrInput, Tag};

use super::path::{FieldPath, Segment};
use super::scalar;

/// Bytes of one manifest: what an API server accepts as a request body (D34).
pub const MAX_TEXT: usize = 3 * 1024 * 1024;
/// Nested collections (D34).
pub const MAX_DEPTH: usize = 64;
/// Values in one file, aliases expanded.
pub const MAX_NODES: usize = 100_000;
/// Values that aliases alone may add (D34: the billion laughs).
pub const MAX_ALIAS_NODES: usize = 10_000;
/// Faults reported of one file; a file with more is not a manifest.
pub const MAX_FAULTS: usize = 100;

/// A place in a text, both from 1; the column counts characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

impl Position {
    /// The first character of a text.
    pub const START: Position = Position { line: 1, column: 1 };

    fn of(span: Span) -> Self {
        Position { line: span.start.line(), column: span.start.col() + 1 }
    }
}

/// One document of a text that is not empty.
#[derive(Clone, Debug)]
pub struct Document {
    /// Its number in the text, empty ones counted, from 0.
    pub number: usize,
    /// What it says.
    pub value: Value,
}

/// What is wrong with a text as YAML.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct YamlFault {
    /// Where.
    pub position: Position,
    /// At which field, as far as known.
    pub path: FieldPath,
    /// What.
    pub message: String,
}

/// The documents of `text`; every duplicate key, tag and bad scalar is a fault, a syntax error or an exhausted budget the
/// last one.
pub fn load(text: &str) -> Result<Vec<Document>, Vec<YamlFault>> {
    if text.len() > MAX_TEXT {
        let message = format!("{} bytes of text, must be at most {MAX_TEXT}", text.len());
        return Err(vec![YamlFault { position: Position::START, path: FieldPath::default(), message }]);
    }
    let mut loader = Loader::new(text, false);
    // The sign of an early end; what ended it is the last fault.
    let documents = loader.documents().unwrap_or_default();
    if loader.faults.is_empty() { Ok(documents) } else { Err(loader.faults) }
}

/// Where the fields of one document are: a second pass over a text that [`load`] accepted.
pub fn positions(text: &str, document: usize) -> Positions {
    let mut loader = Loader::new(text, true);
    // Faults were reported by `load`; what was passed before one is still of use.
    drop(loader.documents());
    loader.positions.into_iter().nth(document).unwrap_or_default()
}

/// Positions of the keys and values of one document.
#[derive(Clone, Debug, Default)]
pub struct Positions {
    keys: HashMap<FieldPath, Position>,
    values: HashMap<FieldPath, Position>,
}

impl Positions {
    /// Where the key of a field stands, else the field, else the nearest field around it.
    pub fn key(&self, path: &FieldPath) -> Position {
        self.keys.get(path).copied().unwrap_or_else(|| self.value(path))
    }

    /// Where the value of a field begins, else that of the nearest field around it.
    pub fn value(&self, path: &FieldPath) -> Position {
        let mut at = Some(path.clone());
        while let Some(path) = at {
            if let Some(position) = self.values.get(&path) {
                return *position;
            }
            at = path.parent();
        }
        Position::START
    }
}

/// The fault has been noted in the loader.
struct Stopped;
type Loaded<T> = Result<T, Stopped>;

struct Loader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    /// Where the parser is, for faults at the end of the text.
    last: Position,
    nodes: usize,
    alias_nodes: usize,
    anchors: HashMap<usize, (Value, usize)>,
    path: Vec<Segment>,
    faults: Vec<YamlFault>,
    recording: bool,
    positions: Vec<Positions>,
}

impl<'a> Loader<'a> {
    fn new(text: &'a str, recording: bool) -> Self {
        Loader {
            parser: Parser::new_from_str(text.strip_prefix('\u{feff}').unwrap_or(text)),
            last: Position::START,
            nodes: 0,
            alias_nodes: 0,
            anchors: HashMap::new(),
            path: Vec::new(),
            faults: Vec::new(),
            recording,
            positions: Vec::new(),
        }
    }

    fn documents(&mut self) -> Loaded<Vec<Document>> {
        let mut documents = Vec::new();
        let mut number = 0;
        while let Some((event, span)) = self.next()? {
            match event {
                Event::StreamStart | Event::DocumentEnd | Event::Anchor(..) => {}
                Event::StreamEnd => break,
                Event::DocumentStart(..) => {
                    self.anchors.clear();
                    self.positions.push(Positions::default());
                }
                event => {
                    let value = self.node(event, span, 0)?;
                    if !value.is_null() {
                        documents.push(Document { number, value });
                    }
                    number += 1;
                }
            }
        }
        Ok(documents)
    }

    fn next(&mut self) -> Loaded<Option<(Event<'a>, Span)>> {
        match self.parser.next_event() {
            None => Ok(None),
            Some(Ok((event, span))) => {
                self.last = Position::of(span);
                Ok(Some((event, span)))
            }
            Some(Err(error)) => {
                let at = error.marker();
                let position = Position { line: at.line().max(1), column: at.col() + 1 };
                self.fault(position, error.info())?;
                Err(Stopped)
            }
        }
    }

    fn must_next(&mut self) -> Loaded<(Event<'a>, Span)> {
        match self.next()? {
            Some(found) => Ok(found),
            None => self.stop(self.last, "unexpected end of the text"),
        }
    }

    /// Notes a fault and goes on.
    fn fault(&mut self, position: Position, message: impl Into<String>) -> Loaded<()> {
        self.faults.push(YamlFault { position, path: FieldPath(self.path.clone()), message: message.into() });
        if self.faults.len() < MAX_FAULTS { Ok(()) } else { Err(Stopped) }
    }

    /// Notes a fault that nothing can follow.
    fn stop<T>(&mut self, position: Position, message: impl Into<String>) -> Loaded<T> {
        self.fault(position, message)?;
        Err(Stopped)
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Loaded<Value> {
        let position = Position::of(span);
        self.count(1, position)?;
        if depth > MAX_DEPTH {
            return self.stop(position, format!("nested deeper than {MAX_DEPTH} levels"));
        }
        self.record_value(position);
        let before = self.nodes;
        let (value, anchor) = match event {
            Event::Alias(anchor) => return self.alias(anchor, position),
            Event::Scalar(text, style, anchor, tag) => (self.scalar(&text, style, tag.as_deref(), position)?, anchor),
            Event::SequenceStart(_, anchor, tag) => {
                self.no_tag(tag.as_deref(), position)?;
                (self.sequence(depth)?, anchor)
            }
            Event::MappingStart(_, anchor, tag) => {
                self.no_tag(tag.as_deref(), position)?;
                (self.mapping(depth)?, anchor)
            }
            _ => return self.stop(position, "a value is missing here"),
        };
        if anchor != 0 {
            self.anchors.insert(anchor, (value.clone(), self.nodes - before + 1));
        }
        Ok(value)
    }

    fn count(&mut self, nodes: usize, position: Position) -> Loaded<()> {
        self.nodes += nodes;
        if self.nodes > MAX_NODES {
            return self.stop(position, format!("more than {MAX_NODES} values"));
        }
        Ok(())
    }

    fn alias(&mut self, anchor: usize, position: Position) -> Loaded<Value> {
        let Some((_, size)) = self.anchors.get(&anchor) else {
            return self.stop(position, "an alias inside of what it names");
        };
        let size = *size;
        self.alias_nodes += size;
        if self.alias_nodes > MAX_ALIAS_NODES {
            return self.stop(position, format!("aliases expand to more than {MAX_ALIAS_NODES} values"));
        }
        self.count(size, position)?;
        Ok(self.anchors.get(&anchor).map(|(value, _)| value.clone()).unwrap_or_default())
    }

    fn no_tag(&mut self, tag: Option<&Tag>, position: Position) -> Loaded<()> {
        match tag {
            Some(tag) => self.fault(position, format!("the tag {} is not allowed in a manifest", tag.original())),
            None => Ok(()),
        }
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, tag: Option<&Tag>, position: Position) -> Loaded<Value> {
        self.no_tag(tag, position)?;
        if text.contains('\0') {
            self.fault(position, "NUL in a string")?;
        }
        match style {
            ScalarStyle::Plain => match scalar::plain(text) {
                Ok(value) => Ok(value),
                Err(message) => self.fault(position, message).map(|()| Value::Bool(false)),
            },
            ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted | ScalarStyle::Literal | ScalarStyle::Folded => {
                Ok(Value::String(text.to_owned()))
            }
        }
    }

    fn sequence(&mut self, depth: usize) -> Loaded<Value> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.must_next()?;
            if matches!(event, Event::SequenceEnd) {
                return Ok(Value::Array(items));
            }
            self.path.push(Segment::Index(items.len()));
            let item = self.node(event, span, depth + 1)?;
            self.path.pop();
            items.push(item);
        }
    }

    fn mapping(&mut self, depth: usize) -> Loaded<Value> {
        let mut entries = Map::new();
        let mut merged = Vec::new();
        loop {
            let (event, span) = self.must_next()?;
            let (key, is_merge) = match event {
                Event::MappingEnd => break,
                Event::Scalar(text, ScalarStyle::Plain, 0, None) if text == "<<" => (text.into_owned(), true),
                event => (self.key(event, span)?, false),
            };
            let position = Position::of(span);
            self.path.push(Segment::Key(key.clone()));
            if !is_merge && entries.contains_key(&key) {
                self.fault(position, format!("duplicate key {key:?}"))?;
            } else if self.recording
                && let Some(positions) = self.positions.last_mut()
            {
                positions.keys.insert(FieldPath(self.path.clone()), position);
            }
            let (event, span) = self.must_next()?;
            let value = self.node(event, span, depth + 1)?;
            if is_merge {
                self.merge(value, &mut merged, position)?;
            } else {
                entries.insert(key, value);
            }
            self.path.pop();
        }
        for (key, value) in merged {
            entries.entry(key).or_insert(value);
        }
        Ok(Value::Object(entries))
    }

    fn key(&mut self, event: Event<'a>, span: Span) -> Loaded<String> {
        let position = Position::of(span);
        let value = match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.no_tag(tag.as_deref(), position)?;
                if anchor != 0 {
                    self.anchors.insert(anchor, (Value::String(text.clone().into_owned()), 1));
                }
                if style != ScalarStyle::Plain {
                    return Ok(text.into_owned());
                }
                scalar::key(&text)
            }
            Event::Alias(anchor) => match self.anchors.get(&anchor) {
                Some((Value::String(text), _)) => Ok(text.clone()),
                Some(_) | None => Err("only a string can be a key"),
            },
            _ => Err("only a string can be a key"),
        };
        match value {
            Ok(key) => Ok(key),
            Err(message) => self.stop(position, message),
        }
    }

    /// `<<`: a mapping or a list of them, the earlier ones first.
    fn merge(&mut self, value: Value, into: &mut Vec<(String, Value)>, position: Position) -> Loaded<()> {
        match value {
            Value::Object(entries) => into.extend(entries),
            Value::Array(items) if items.iter().all(Value::is_object) => {
                into.extend(
                    items
                        .into_iter()
                        .filter_map(|item| match item {
                            Value::Object(entries) => Some(entries),
                            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                                None
                            }
                        })
                        .flatten(),
                );
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                return self.fault(position, "`<<` needs a mapping or a list of mappings");
            }
        }
        Ok(())
    }

    fn record_value(&mut self, position: Position) {
        if self.recording
            && let Some(positions) = self.positions.last_mut()
        {
            positions.values.entry(FieldPath(self.path.clone())).or_insert(position);
        }
    }
}
