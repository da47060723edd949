//! `monopod patch`, `monopod label`, `monopod annotate`

use std::process::ExitCode;

use http::Method;
use serde_json::{Map, Value, json};

use super::client::discovery::Kind;
use super::client::error::VerbError;
use super::client::{Call, Client};
use super::get::{Selection, items};
use super::output::name_of;
use super::targets::targets;
use super::{Failures, Place, say};
use crate::manifest::yaml;

const MERGE: &str = "application/merge-patch+json";

/// Changes fields of an object
#[derive(Debug, clap::Args)]
pub struct PatchCommand {
    #[command(flatten)]
    place: Place,
    /// Object: pod NAME; pod/NAME
    #[arg(value_name = "KIND|KIND/NAME", required = true)]
    arguments: Vec<String>,
    /// The patch, as JSON or YAML
    #[arg(short, long, value_name = "PATCH")]
    patch: String,
    /// How it is meant
    #[arg(long = "type", value_name = "TYPE", default_value = "strategic")]
    way: PatchType,
    /// Patches a part of the object: status, resize, ephemeralcontainers
    #[arg(long, value_name = "NAME")]
    subresource: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum PatchType {
    Json,
    Merge,
    Strategic,
}

impl PatchType {
    fn media(self) -> &'static str {
        match self {
            Self::Json => "application/json-patch+json",
            Self::Merge => MERGE,
            Self::Strategic => "application/strategic-merge-patch+json",
        }
    }
}

/// Sets labels, or removes them with KEY-
#[derive(Debug, clap::Args)]
pub struct LabelCommand {
    #[command(flatten)]
    pairs: PairsCommand,
}

/// Sets annotations, or removes them with KEY-
#[derive(Debug, clap::Args)]
pub struct AnnotateCommand {
    #[command(flatten)]
    pairs: PairsCommand,
}

#[derive(Debug, clap::Args)]
struct PairsCommand {
    #[command(flatten)]
    place: Place,
    /// Objects, then KEY=VALUE or KEY-
    #[arg(value_name = "KIND|KIND/NAME|KEY=VALUE|KEY-", required = true)]
    arguments: Vec<String>,
    #[command(flatten)]
    selection: Selection,
    /// All objects of the kind in the namespace
    #[arg(long)]
    all: bool,
    /// Changes what has a value already
    #[arg(long)]
    overwrite: bool,
}

/// Runs `monopod patch ...`.
///
/// # Errors
/// The patch can't be read, or the server refuses.
pub async fn patch(command: &PatchCommand) -> Result<ExitCode, VerbError> {
    let document = yaml::load(&command.patch).ok().and_then(|documents| documents.into_iter().next());
    let patch = document.ok_or_else(|| VerbError::usage(format!("unable to parse {:?}", command.patch)))?.value;
    let (client, kinds) = command.place.ask().await?;
    let mut failures = Failures::default();
    for target in targets(&kinds, &command.arguments)? {
        if target.names.is_empty() {
            return Err(VerbError::usage("resource(s) were provided, but no name was specified"));
        }
        for name in &target.names {
            let mut path = target.kind.path(Some(command.place.namespace()), Some(name));
            if let Some(part) = &command.subresource {
                path = format!("{path}/{part}");
            }
            let done = patch_one(&client, target.kind, &path, command.way.media(), &patch).await;
            failures.note(done)?;
        }
    }
    Ok(failures.code())
}

async fn patch_one(
    client: &Client,
    kind: &Kind,
    path: &str,
    media: &'static str,
    patch: &Value,
) -> Result<(), VerbError> {
    let before = client.json(Call::get(path)).await?;
    let after =
        client.json(Call::new(Method::PATCH, path).query("fieldManager", "monopod-patch").body(media, patch)).await?;
    let same = before["metadata"]["resourceVersion"] == after["metadata"]["resourceVersion"];
    say(&format!("{} patched{}\n", name_of(kind, &after), if same { " (no change)" } else { "" }))
}

/// Which map of the metadata, and what became of an object.
#[derive(Debug, Clone, Copy)]
struct Pairs {
    field: &'static str,
    set: &'static str,
    removed: &'static str,
}

/// Runs `monopod label ...`.
///
/// # Errors
/// A label has another value, or the server refuses.
pub async fn label(command: &LabelCommand) -> Result<ExitCode, VerbError> {
    change(&command.pairs, Pairs { field: "labels", set: "labeled", removed: "unlabeled" }).await
}

/// Runs `monopod annotate ...`.
///
/// # Errors
/// An annotation has another value, or the server refuses.
pub async fn annotate(command: &AnnotateCommand) -> Result<ExitCode, VerbError> {
    change(&command.pairs, Pairs { field: "annotations", set: "annotated", removed: "annotated" }).await
}

async fn change(command: &PairsCommand, pairs: Pairs) -> Result<ExitCode, VerbError> {
    let (changes, named): (Vec<String>, Vec<String>) =
        command.arguments.iter().cloned().partition(|argument| argument.contains('=') || argument.ends_with('-'));
    if changes.is_empty() {
        return Err(VerbError::usage(format!("at least one {} update is required", pairs.field.trim_end_matches('s'))));
    }
    let (client, kinds) = command.place.ask().await?;
    let mut failures = Failures::default();
    for target in targets(&kinds, &named)? {
        let objects = find(command, &client, target.kind, &target.names, &mut failures).await?;
        for object in objects {
            let done = change_one(command, &client, target.kind, &object, &changes, pairs).await;
            failures.note(done)?;
        }
    }
    Ok(failures.code())
}

async fn find(
    command: &PairsCommand,
    client: &Client,
    kind: &Kind,
    names: &[String],
    failures: &mut Failures,
) -> Result<Vec<Value>, VerbError> {
    if names.is_empty() {
        if !command.all && command.selection.is_empty() {
            return Err(VerbError::usage("resource(s) were provided, but no name was specified"));
        }
        return Ok(items(kind, client.json(command.selection.list(kind, &command.place)).await?));
    }
    let mut found = Vec::new();
    for name in names {
        let path = kind.path(Some(command.place.namespace()), Some(name));
        found.extend(failures.note(client.json(Call::get(path)).await)?);
    }
    Ok(found)
}

async fn change_one(
    command: &PairsCommand,
    client: &Client,
    kind: &Kind,
    object: &Value,
    changes: &[String],
    pairs: Pairs,
) -> Result<(), VerbError> {
    let old = object["metadata"][pairs.field].as_object().cloned().unwrap_or_default();
    let new = changed(&old, changes, command.overwrite).map_err(VerbError::Usage)?;
    let name = name_of(kind, object);
    let differs = |(key, value): (&String, &Value)| old.get(key).unwrap_or(&Value::Null) != value;
    if !new.iter().any(differs) {
        let all_removed = new.values().all(Value::is_null);
        return say(&format!("{name} not {}\n", if all_removed { pairs.removed } else { pairs.set }));
    }
    let is_removal = new.values().all(Value::is_null);
    let path = kind.path(object["metadata"]["namespace"].as_str(), object["metadata"]["name"].as_str());
    let call = Call::new(Method::PATCH, path).query("fieldManager", "monopod-label");
    client.json(call.body(MERGE, &json!({"metadata": {pairs.field: new}}))).await?;
    say(&format!("{name} {}\n", if is_removal { pairs.removed } else { pairs.set }))
}

/// The entries that a patch names: a value, or null for one that goes.
fn changed(old: &Map<String, Value>, changes: &[String], overwrite: bool) -> Result<Map<String, Value>, String> {
    let mut new = Map::new();
    for change in changes {
        let Some((key, value)) = change.split_once('=') else {
            new.insert(change.trim_end_matches('-').to_owned(), Value::Null);
            continue;
        };
        if let Some(known) = old.get(key).and_then(Value::as_str).filter(|known| !overwrite && *known != value) {
            return Err(format!("'{key}' already has a value ({known}), and --overwrite is false"));
        }
        new.insert(key.to_owned(), value.into());
    }
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_change_only_when_told_twice() {
        let old = json!({"a": "1", "b": "2"}).as_object().cloned().unwrap();
        let changes = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        assert_eq!(
            changed(&old, &changes(&["c=3", "b-"]), false).unwrap(),
            *json!({"b": null, "c": "3"}).as_object().unwrap()
        );
        assert_eq!(changed(&old, &changes(&["a=1"]), false).unwrap()["a"], "1");
        let error = changed(&old, &changes(&["a=2"]), false).unwrap_err();
        assert_eq!(error, "'a' already has a value (1), and --overwrite is false");
        assert_eq!(changed(&old, &changes(&["a=2"]), true).unwrap()["a"], "2");
    }
}
