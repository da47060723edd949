//! Where the data of a ConfigMap or a Secret comes from.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// `--from-...`
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct Sources {
    /// A key with its text; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    from_literal: Vec<String>,
    /// A file, by its name or another key, or a directory of files; may be given several times
    #[arg(long, value_name = "[KEY=]PATH")]
    from_file: Vec<String>,
    /// A file with lines of KEY=VALUE; may be given several times
    #[arg(long, value_name = "FILE")]
    from_env_file: Vec<PathBuf>,
}

type Data = BTreeMap<String, Vec<u8>>;

impl Sources {
    /// Reads them all. `kind` and `name` are for messages.
    pub(super) fn read(&self, kind: &str, name: &str) -> Result<Data, String> {
        let has_others = !self.from_literal.is_empty() || !self.from_file.is_empty();
        if has_others && !self.from_env_file.is_empty() {
            return Err("from-env-file cannot be combined with from-file or from-literal".to_owned());
        }
        let mut data = Data::new();
        for (key, value) in self.all()? {
            check_key(&key, kind)?;
            if data.insert(key.clone(), value).is_some() {
                return Err(format!(
                    "cannot add key {key:?}, another key by that name already exists in Data for {kind} {name:?}"
                ));
            }
        }
        Ok(data)
    }

    fn all(&self) -> Result<Vec<(String, Vec<u8>)>, String> {
        let mut all = Vec::new();
        for text in &self.from_literal {
            let (key, value) = text
                .split_once('=')
                .filter(|(key, _)| !key.is_empty())
                .ok_or_else(|| format!("invalid literal source {text}, expected key=value"))?;
            all.push((key.to_owned(), value.as_bytes().to_vec()));
        }
        for text in &self.from_file {
            all.extend(of_file(text)?);
        }
        for path in &self.from_env_file {
            let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
            for (number, line) in text.lines().enumerate() {
                all.extend(of_line(line).map_err(|why| format!("{}: line {}: {why}", path.display(), number + 1))?);
            }
        }
        Ok(all)
    }
}

fn of_file(text: &str) -> Result<Vec<(String, Vec<u8>)>, String> {
    let (key, path) = match text.split('=').collect::<Vec<_>>().as_slice() {
        [path] => (None, *path),
        ["", path] => return Err(format!("key name for file path {path} missing")),
        [key, ""] => return Err(format!("file path for key name {key} missing")),
        [key, path] => (Some(*key), *path),
        _ => return Err("key names or file paths cannot contain '='".to_owned()),
    };
    let path = Path::new(path);
    if !path.is_dir() {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        return Ok(vec![(key.map_or(name, str::to_owned), read(path)?)]);
    }
    if key.is_some() {
        return Err("cannot give a key name for a directory path".to_owned());
    }
    let failed = |error: io::Error| format!("error listing files in {}: {error}", path.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        // Directories below it, links and names that are no keys are left out.
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type().map_err(failed)?.is_file() && is_key(&name) {
            found.push((name, read(&entry.path())?));
        }
    }
    Ok(found)
}

/// A file that was named.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| {
        let text = error.to_string();
        let why = text.split(" (os error").next().unwrap_or_default().to_lowercase();
        format!("error reading {}: {why}", path.display())
    })
}

/// `KEY=VALUE`, or `KEY` for the variable of this process.
fn of_line(line: &str) -> Result<Option<(String, Vec<u8>)>, String> {
    let line = line.trim_start();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let (key, value) = match line.split_once('=') {
        Some((key, value)) => (key, Some(value.to_owned())),
        None => (line, std::env::var(line).ok()),
    };
    if key.starts_with(|first: char| first.is_ascii_digit()) || !is_key(key) {
        return Err(format!(
            "{key:?} is not a valid key name: a valid environment variable name must consist of alphabetic characters, \
             digits, '_', '-', or '.', and must not start with a digit"
        ));
    }
    Ok(value.map(|value| (key.to_owned(), value.into_bytes())))
}

fn check_key(key: &str, kind: &str) -> Result<(), String> {
    if is_key(key) {
        return Ok(());
    }
    Err(format!(
        "{key:?} is not a valid key name for a {kind}: a valid config key must consist of alphanumeric characters, '-', '_' \
         or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
    ))
}

fn is_key(text: &str) -> bool {
    !text.is_empty()
        && text != "."
        && !text.starts_with("..")
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
}

/// As the data of a Secret is written.
pub(super) fn encoded(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(literals: &[&str], files: &[String]) -> Sources {
        let from_literal = literals.iter().map(|&text| text.to_owned()).collect();
        Sources { from_literal, from_file: files.to_vec(), from_env_file: Vec::new() }
    }

    fn keys(sources: &Sources) -> Result<Vec<String>, String> {
        sources.read("ConfigMap", "m").map(|data| data.into_keys().collect())
    }

    #[test]
    fn what_makes_no_data_is_said_in_kubectls_words() {
        for (literals, files, expected) in [
            (&["a"][..], "", "invalid literal source a, expected key=value"),
            (
                &["a=b", "a=b"],
                "",
                "cannot add key \"a\", another key by that name already exists in Data for ConfigMap \"m\"",
            ),
            (&[], "/nowhere/x", "error reading /nowhere/x: no such file or directory"),
            (&[], "a=b=c", "key names or file paths cannot contain '='"),
            (&[], "=c", "key name for file path c missing"),
            (&[], "c=", "file path for key name c missing"),
        ] {
            let files: Vec<String> =
                [files].iter().filter(|file| !file.is_empty()).map(|&file| file.to_owned()).collect();
            assert_eq!(keys(&sources(literals, &files)), Err(expected.to_owned()));
        }
        assert!(
            keys(&sources(&["a/b=c"], &[])).unwrap_err().starts_with("\"a/b\" is not a valid key name for a ConfigMap")
        );
    }

    #[test]
    fn files_have_their_names_or_keys_and_directories_those_of_their_files() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("below")).unwrap();
        for name in ["one", "two", "not a key"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        let path = dir.path().display();
        assert_eq!(keys(&sources(&[], &[path.to_string()])).unwrap(), ["one", "two"]);
        assert_eq!(keys(&sources(&[], &[format!("{path}/one"), format!("k={path}/two")])).unwrap(), ["k", "one"]);
        assert!(keys(&sources(&[], &[format!("k={path}")])).is_err());
    }

    #[test]
    fn lines_of_variables_may_be_comments_and_names() {
        let line = |text: &str| of_line(text).map(|pair| pair.map(|(_, value)| String::from_utf8(value).unwrap()));
        assert_eq!(line("A=b c "), Ok(Some("b c ".to_owned())));
        assert_eq!([line("# A=b"), line("  "), line("NO_SUCH_VARIABLE")], [Ok(None), Ok(None), Ok(None)]);
        assert_eq!(line("PATH"), Ok(std::env::var("PATH").ok()));
        assert!(line("1A=b").is_err() && line("A =b").is_err() && line("=b").is_err());
    }
}
