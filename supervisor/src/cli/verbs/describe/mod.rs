//! `monopod describe`: all about an object, for people.

mod container;
mod node;
mod other;
mod pod;
mod volume;

use std::fmt::{Display, Write as _};
use std::process::ExitCode;

use jiff::Timestamp;
use serde_json::Value;

use super::align::{DESCRIPTION, align};
use super::client::discovery::Kind;
use super::client::error::VerbError;
use super::client::{Call, Client};
use super::get::{Selection, items};
use super::targets::targets;
use super::{Failures, Place, events, say};

/// Shows all about objects, and what happened to them
#[derive(Debug, clap::Args)]
pub struct DescribeCommand {
    #[command(flatten)]
    place: Place,
    /// Kinds, with names: pod NAME; pod/NAME; pods
    #[arg(value_name = "KIND|KIND/NAME", required = true)]
    arguments: Vec<String>,
    #[command(flatten)]
    selection: Selection,
    /// Whether to show events
    #[arg(long, value_name = "YES", default_value_t = true, action = clap::ArgAction::Set)]
    show_events: bool,
}

/// Runs `monopod describe ...`.
///
/// # Errors
/// There is no such kind, or the server does not answer.
pub async fn run(command: &DescribeCommand) -> Result<ExitCode, VerbError> {
    let (client, kinds) = command.place.ask().await?;
    let mut failures = Failures::default();
    let mut shown = 0;
    for target in targets(&kinds, &command.arguments)? {
        for object in find(command, &client, target.kind, &target.names, &mut failures).await? {
            let mut text = describe(&client, target.kind, &object).await?;
            if command.show_events {
                text += &events::section(&client, &kinds, &object).await?;
            }
            let gap = if shown > 0 { "\n\n" } else { "" };
            say(&format!("{gap}{}", align(&text, DESCRIPTION)))?;
            shown += 1;
        }
    }
    if shown == 0 && !failures.has_failed {
        eprintln!("No resources found in {} namespace.", command.place.namespace());
    }
    Ok(failures.code())
}

async fn find(
    command: &DescribeCommand,
    client: &Client,
    kind: &Kind,
    names: &[String],
    failures: &mut Failures,
) -> Result<Vec<Value>, VerbError> {
    if names.is_empty() {
        let list = client.json(command.selection.list(kind, &command.place)).await?;
        return Ok(items(kind, list));
    }
    let mut found = Vec::new();
    for name in names {
        let path = kind.path(Some(command.place.namespace()), Some(name));
        found.extend(failures.hold(client.json(Call::get(path)).await)?);
    }
    Ok(found)
}

async fn describe(client: &Client, kind: &Kind, object: &Value) -> Result<String, VerbError> {
    let mut sheet = Sheet::default();
    match kind.qualified().as_str() {
        "pods" => pod::describe(&mut sheet, object),
        "nodes" => {
            let on_node = format!(
                "spec.nodeName={},status.phase!=Succeeded,status.phase!=Failed",
                text(object, "/metadata/name")
            );
            let pods = client.json(Call::get("/api/v1/pods").query("fieldSelector", on_node)).await?;
            node::describe(&mut sheet, object, list(&pods, "/items"), Timestamp::now());
        }
        _ => other::describe(&mut sheet, object),
    }
    Ok(sheet.0)
}

/// Text with tabs between columns.
#[derive(Debug, Default)]
struct Sheet(String);

impl Sheet {
    /// `Name:  value`, indented by levels.
    fn field(&mut self, level: usize, name: &str, value: impl Display) {
        self.line(level, format_args!("{name}:\t{value}"));
    }

    /// A field that is left out where there is nothing to say.
    fn field_some(&mut self, level: usize, name: &str, value: &str) {
        if !value.is_empty() {
            self.field(level, name, value);
        }
    }

    fn line(&mut self, level: usize, line: impl Display) {
        let indent = "  ".repeat(level);
        // Writing to a String does not fail.
        let _written = writeln!(self.0, "{indent}{line}");
    }

    /// `Labels:  a=b` with one pair to a line.
    fn pairs(&mut self, name: &str, pairs: Option<&Value>, separator: &str) {
        let pairs: Vec<String> = pairs
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .map(|(key, value)| format!("{key}{separator}{}", plain(value)))
            .collect();
        self.several(name, &pairs);
    }

    /// One value to a line.
    fn several(&mut self, name: &str, values: &[String]) {
        match values.split_first() {
            None => self.field(0, name, NONE),
            Some((first, rest)) => {
                self.field(0, name, first);
                rest.iter().for_each(|value| self.line(0, format_args!("\t{value}")));
            }
        }
    }

    /// `Limits:` with a resource to a line.
    fn resources(&mut self, level: usize, name: &str, resources: &Value) {
        let Some(resources) = resources.as_object().filter(|resources| !resources.is_empty()) else { return };
        self.line(level, format_args!("{name}:"));
        for (resource, quantity) in resources {
            self.field(level + 1, resource, plain(quantity));
        }
    }
}

const NONE: &str = "<none>";
const UNSET: &str = "<unset>";
/// Annotations that hold a copy of the object.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn text_or<'v>(value: &'v Value, pointer: &str, absent: &'v str) -> &'v str {
    Some(text(value, pointer)).filter(|text| !text.is_empty()).unwrap_or(absent)
}

fn list<'v>(value: &'v Value, pointer: &str) -> &'v [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// A value without quotes.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// `true` and `false` as people write them in a column.
fn title(flag: bool) -> &'static str {
    if flag { "True" } else { "False" }
}

/// `Sat, 21 Nov 2026 03:31:40 +0000`
fn date(moment: &str) -> String {
    match moment.parse::<Timestamp>() {
        Ok(moment) => moment.strftime("%a, %d %b %Y %H:%M:%S +0000").to_string(),
        Err(_) => UNSET.to_owned(),
    }
}

/// Annotations without those that nobody reads.
fn annotations(object: &Value) -> Option<Value> {
    let mut annotations = object.pointer("/metadata/annotations")?.as_object()?.clone();
    annotations.remove(LAST_APPLIED);
    Some(Value::Object(annotations))
}
