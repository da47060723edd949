//! Manifests that a user names: files, directories, standard input.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::client::error::VerbError;
use crate::manifest::{self, yaml};

/// What means standard input.
const STDIN: &str = "-";
/// What a directory is searched for.
const EXTENSIONS: &[&str] = &["json", "yaml", "yml"];

/// Which manifests.
#[derive(Debug, Clone, clap::Args)]
pub struct Files {
    /// Manifest, directory of manifests, or - for standard input; may be given several times
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    pub filenames: Vec<PathBuf>,
    /// Reads directories below directories, too
    #[arg(short = 'R', long)]
    pub recursive: bool,
}

/// An object with where it came from.
#[derive(Debug, Clone)]
pub struct Given {
    /// As messages name it: a file, or `STDIN`.
    pub source: String,
    pub value: Value,
}

impl Given {
    pub fn text(&self, pointer: &str) -> &str {
        self.value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }
}

impl Files {
    /// Reads them all.
    ///
    /// # Errors
    /// One isn't there, or is no YAML; nothing of the others is used then.
    pub fn read(&self) -> Result<Vec<Given>, VerbError> {
        let mut given = Vec::new();
        for name in &self.filenames {
            for file in self.expand(name)? {
                given.extend(read(&file)?);
            }
        }
        if given.is_empty() {
            return Err(VerbError::usage("no objects passed"));
        }
        Ok(given)
    }

    fn expand(&self, name: &Path) -> Result<Vec<PathBuf>, VerbError> {
        if name == Path::new(STDIN) {
            return Ok(vec![name.to_path_buf()]);
        }
        if !name.exists() {
            return Err(VerbError::usage(format!("the path {:?} does not exist", name.display().to_string())));
        }
        if !name.is_dir() {
            return Ok(vec![name.to_path_buf()]);
        }
        let mut found = Vec::new();
        self.collect(name, &mut found)?;
        Ok(found)
    }

    fn collect(&self, dir: &Path, found: &mut Vec<PathBuf>) -> Result<(), VerbError> {
        let failed = |source| VerbError::Read { path: dir.to_path_buf(), source };
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(failed)? {
            paths.push(entry.map_err(failed)?.path());
        }
        paths.sort();
        for path in paths {
            let is_manifest = path.extension().is_some_and(|ext| EXTENSIONS.iter().any(|known| ext == *known));
            match path.is_dir() {
                true if self.recursive => self.collect(&path, found)?,
                false if is_manifest => found.push(path),
                true | false => {}
            }
        }
        Ok(())
    }
}

fn read(file: &Path) -> Result<Vec<Given>, VerbError> {
    let text = manifest::text_of(file).map_err(|source| VerbError::Read { path: file.to_path_buf(), source })?;
    let source = if file == Path::new(STDIN) { "STDIN".to_owned() } else { file.display().to_string() };
    objects(&text, &source)
}

/// The objects of a text; Lists are taken apart.
pub(super) fn objects(text: &str, source: &str) -> Result<Vec<Given>, VerbError> {
    let documents = yaml::load(text).map_err(|faults| {
        let lines: Vec<String> = faults
            .iter()
            .map(|fault| format!("line {}, column {}: {}", fault.position.line, fault.position.column, fault.message))
            .collect();
        VerbError::usage(format!("error parsing {source}: {}", lines.join("\n")))
    })?;
    let mut found = Vec::new();
    for document in documents {
        flatten(document.value, source, &mut found)?;
    }
    Ok(found)
}

fn flatten(value: Value, source: &str, found: &mut Vec<Given>) -> Result<(), VerbError> {
    if value["kind"].as_str().is_some_and(|kind| kind.ends_with("List"))
        && let Some(items) = value["items"].as_array()
    {
        return items.iter().try_for_each(|item| flatten(item.clone(), source, found));
    }
    for field in ["apiVersion", "kind"] {
        if value[field].as_str().unwrap_or_default().is_empty() {
            return Err(VerbError::usage(format!(
                "error validating {source:?}: error validating data: {field} not set"
            )));
        }
    }
    found.push(Given { source: source.to_owned(), value });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<String> {
        objects(text, "f").unwrap().iter().map(|given| given.text("/kind").to_owned()).collect()
    }

    #[test]
    fn documents_and_lists_become_objects() {
        let text = "apiVersion: v1\nkind: Pod\n---\napiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Secret}\n\
                    - {apiVersion: v1, kind: ConfigMapList, items: [{apiVersion: v1, kind: ConfigMap}]}\n---\n";
        assert_eq!(kinds(text), ["Pod", "Secret", "ConfigMap"]);
    }

    #[test]
    fn what_is_no_object_is_named() {
        let error = objects("kind: Pod\n", "f.yaml").unwrap_err().to_string();
        assert_eq!(error, "error: error validating \"f.yaml\": error validating data: apiVersion not set");
        let error = objects("a: [\n", "f.yaml").unwrap_err().to_string();
        assert!(error.starts_with("error: error parsing f.yaml: line "), "{error}");
    }

    #[test]
    fn directories_are_read_in_the_order_of_names() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("below.d")).unwrap();
        for (file, kind) in [("b.yaml", "B"), ("a.json", "A"), ("x.txt", "X"), ("below.d/c.yml", "C")] {
            std::fs::write(dir.path().join(file), format!("{{\"apiVersion\": \"v1\", \"kind\": \"{kind}\"}}")).unwrap();
        }
        let read = |recursive| {
            let files = Files { filenames: vec![dir.path().to_path_buf()], recursive };
            let given = files.read().unwrap();
            given.iter().map(|given| given.text("/kind").to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(read(false), ["A", "B"]);
        assert_eq!(read(true), ["A", "B", "C"]);
    }
}
