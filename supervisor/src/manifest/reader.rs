//! From the arguments of a command to objects: files, directories and standard input. The one part of [`super`] that does
//! I/O; [`decode`] is the pure rest.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::fault::{Fault, Refused};
use super::object::{Object, Refusal};
use super::path::{FieldPath, Segment};
use super::typed::Problem;
use super::yaml::{self, Document, MAX_TEXT, Position, Positions};

/// Endings of the files that are taken from a directory.
const ENDINGS: [&str; 3] = ["yaml", "yml", "json"];
/// The argument that stands for standard input.
const STDIN: &str = "-";

/// An object with the place that it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// What the manifest says.
    pub object: Object,
    /// The file as it was named.
    pub file: String,
    /// Number of the document in the file, from 0.
    pub document: usize,
    /// Where in the document: empty, or `items[n]` of a List.
    pub within: FieldPath,
    /// What the file held, for faults that are found later.
    pub text: Arc<str>,
}

impl Manifest {
    /// A fault at a field of this object, such as validation finds. A field that isn't there is shown at the nearest one around it.
    pub fn fault(&self, field: &str, message: String) -> Fault {
        let source = Source { file: &self.file, text: &self.text };
        let positions = yaml::positions(&self.text, self.document);
        let field = FieldPath::parse(field);
        let position = positions.value(&self.within.clone().join(&field));
        source.fault(position, field, message)
    }
}

/// Decodes the text of one file: several documents, empty ones skipped, Lists unpacked. All or nothing.
pub fn decode(file: &str, text: &str) -> Result<Vec<Manifest>, Refused> {
    let shared: Arc<str> = text.into();
    let source = Source { file, text: &shared };
    let documents = yaml::load(text).map_err(|faults| {
        Refused::new(faults.into_iter().map(|f| source.fault(f.position, f.path, f.message)).collect())
    })?;
    let mut manifests = Vec::new();
    let mut faults = Vec::new();
    for document in documents {
        source.document(document, &mut manifests, &mut faults);
    }
    if faults.is_empty() { Ok(manifests) } else { Err(Refused::new(faults)) }
}

/// Reads files, directories (their `*.yaml`, `*.yml`, `*.json`, sorted) and `-`. Every fault of every file is reported, and
/// one is enough to refuse the whole set.
pub fn read(arguments: &[PathBuf]) -> Result<Vec<Manifest>, Refused> {
    let mut manifests = Vec::new();
    let mut faults = Vec::new();
    for argument in arguments {
        match files_of(argument) {
            Ok(files) => files.iter().for_each(|file| match read_file(file) {
                Ok(found) => manifests.extend(found),
                Err(refused) => faults.extend(refused.faults),
            }),
            Err(fault) => faults.push(fault),
        }
    }
    if faults.is_empty() { Ok(manifests) } else { Err(Refused::new(faults)) }
}

fn read_file(file: &Path) -> Result<Vec<Manifest>, Refused> {
    let name = file.display().to_string();
    let text = text_of(file).map_err(|error| Refused::new(vec![of_file(&name, error.to_string())]))?;
    decode(&name, &text)
}

/// The text of a file or of standard input, refused when it is longer than [`MAX_TEXT`].
pub fn text_of(file: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    let limit = MAX_TEXT as u64 + 1;
    if file == Path::new(STDIN) {
        io::stdin().lock().take(limit).read_to_end(&mut bytes)?;
    } else {
        File::open(file)?.take(limit).read_to_end(&mut bytes)?;
    }
    if bytes.len() > MAX_TEXT {
        return Err(io::Error::other(format!("larger than {MAX_TEXT} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| io::Error::other("not UTF-8 text"))
}

fn files_of(argument: &Path) -> Result<Vec<PathBuf>, Fault> {
    if argument == Path::new(STDIN) || !argument.is_dir() {
        return Ok(vec![argument.to_owned()]);
    }
    let fault = |message: String| of_file(&argument.display().to_string(), message);
    let mut files = Vec::new();
    for entry in fs::read_dir(argument).map_err(|error| fault(error.to_string()))? {
        let path = entry.map_err(|error| fault(error.to_string()))?.path();
        let is_manifest = path.extension().is_some_and(|e| ENDINGS.iter().any(|ending| e == *ending));
        if is_manifest && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() { Err(fault("no *.yaml, *.yml or *.json in this directory".to_owned())) } else { Ok(files) }
}

fn of_file(file: &str, message: String) -> Fault {
    Fault { file: file.to_owned(), position: None, path: FieldPath::default(), message, line: String::new() }
}

struct Source<'a> {
    file: &'a str,
    text: &'a Arc<str>,
}

impl Source<'_> {
    fn fault(&self, position: Position, path: FieldPath, message: String) -> Fault {
        let line = self.text.lines().nth(position.line - 1).unwrap_or_default().to_owned();
        Fault { file: self.file.to_owned(), position: Some(position), path, message, line }
    }

    fn document(&self, document: Document, manifests: &mut Vec<Manifest>, faults: &mut Vec<Fault>) {
        let mut positions = None;
        for (within, value) in unpack(&document.value) {
            match Object::from_value(value) {
                Ok(object) => {
                    let (file, text) = (self.file.to_owned(), Arc::clone(self.text));
                    manifests.push(Manifest { object, file, document: document.number, within, text });
                }
                Err(refusal) => {
                    let positions = positions.get_or_insert_with(|| yaml::positions(self.text, document.number));
                    faults.extend(self.refusal(refusal, &within, positions));
                }
            }
        }
    }

    fn refusal(&self, refusal: Refusal, within: &FieldPath, positions: &Positions) -> Vec<Fault> {
        let mut faults = match refusal {
            Refusal::Kind(field, message) => {
                let path = within.clone().join(&FieldPath::parse(field));
                vec![self.fault(positions.value(&path), path, message)]
            }
            Refusal::Fields(problems) => problems.into_iter().map(|p| self.problem(p, within, positions)).collect(),
        };
        faults.sort_by_key(|fault| fault.position);
        faults
    }

    fn problem(&self, problem: Problem, within: &FieldPath, positions: &Positions) -> Fault {
        match problem {
            Problem::UnknownField { path, name, nearest } => {
                let path = within.clone().join(&path);
                let hint = nearest.map(|nearest| format!(", did you mean {nearest:?}?")).unwrap_or_default();
                self.fault(positions.key(&path), path, format!("unknown field {name:?}{hint}"))
            }
            Problem::Mismatch { path, message } => {
                let path = within.clone().join(&path);
                self.fault(positions.value(&path), path, message)
            }
        }
    }
}

/// The objects of a document: itself, or the items of a List.
fn unpack(value: &Value) -> Vec<(FieldPath, &Value)> {
    let is_list = value.get("kind").and_then(Value::as_str) == Some("List")
        && value.get("apiVersion").and_then(Value::as_str) == Some("v1");
    match value.get("items") {
        Some(Value::Array(items)) if is_list => items
            .iter()
            .enumerate()
            .map(|(index, item)| (FieldPath(vec![Segment::Key("items".to_owned()), Segment::Index(index)]), item))
            .collect(),
        Some(Value::Null) | None if is_list => Vec::new(),
        Some(_) | None => vec![(FieldPath::default(), value)],
    }
}

#[cfg(test)]
mod tests;
