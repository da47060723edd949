//! `monopod wait`

use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use serde_json::Value;

use super::client::discovery::Kind;
use super::client::error::VerbError;
use super::client::{Call, Client};
use super::get::{Selection, items};
use super::targets::targets;
use super::watch::{Change, Watch};
use super::{Failures, Place, say, span};

/// Waits for something to become true of objects
///
/// `monopod wait --for=condition=Ready pod/NAME --timeout=60s`
#[derive(Debug, clap::Args)]
pub struct WaitCommand {
    #[command(flatten)]
    place: Place,
    /// Kinds, with names: pod NAME; pod/NAME; pods --all; pods -l app=x
    #[arg(value_name = "KIND|KIND/NAME", required = true)]
    arguments: Vec<String>,
    #[command(flatten)]
    selection: Selection,
    /// All objects of the kind in the namespace
    #[arg(long)]
    all: bool,
    /// create, delete, condition=NAME[=VALUE] or jsonpath={.path}[=VALUE]
    #[arg(long = "for", value_name = "WHAT")]
    what: What,
    /// How long at most, for each object
    #[arg(long, value_name = "TIME", value_parser = span::parse, default_value = "30s")]
    timeout: Duration,
}

/// What is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Create,
    Delete,
    Condition { kind: String, status: String },
    Field { pointer: String, value: Option<String> },
}

impl FromStr for What {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            None if text == "create" => Ok(Self::Create),
            None if text == "delete" => Ok(Self::Delete),
            Some(("condition", condition)) => {
                let (kind, status) = condition.split_once('=').unwrap_or((condition, "true"));
                Ok(Self::Condition { kind: kind.to_owned(), status: status.to_owned() })
            }
            Some(("jsonpath", path)) => field(path),
            None | Some(_) => Err(format!("unrecognized condition: {text:?}")),
        }
    }
}

/// `{.status.phase}=Running`: names and numbers only.
fn field(text: &str) -> Result<What, String> {
    let (path, value) = match text.split_once('}') {
        Some((path, rest)) => (path.trim_start_matches('{'), rest.strip_prefix('=')),
        None => text.split_once('=').map_or((text, None), |(path, value)| (path, Some(value))),
    };
    let pointer = pointer(path).ok_or_else(|| format!("jsonpath {path:?}: only paths such as .status.phase"))?;
    Ok(What::Field { pointer, value: value.map(|value| value.trim_matches(['\'', '"']).to_owned()) })
}

/// `.spec.containers[0].image` as `/spec/containers/0/image`.
fn pointer(path: &str) -> Option<String> {
    let mut pointer = String::new();
    for part in path.strip_prefix('.')?.split('.') {
        let (name, indices) = part.split_at(part.find('[').unwrap_or(part.len()));
        let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
        let indices: Vec<&str> = indices.split(['[', ']']).filter(|index| !index.is_empty()).collect();
        if !is_name || !indices.iter().all(|index| index.bytes().all(|byte| byte.is_ascii_digit())) {
            return None;
        }
        pointer += &format!("/{name}");
        indices.iter().for_each(|index| pointer += &format!("/{index}"));
    }
    Some(pointer)
}

impl What {
    fn is_true_of(&self, object: Option<&Value>) -> bool {
        match (self, object) {
            (Self::Delete, object) => object.is_none(),
            (Self::Create, object) => object.is_some(),
            (Self::Condition { .. } | Self::Field { .. }, None) => false,
            (Self::Condition { kind, status }, Some(object)) => {
                let conditions = object["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
                let text = |condition: &Value, key: &str| condition[key].as_str().unwrap_or_default().to_owned();
                conditions.iter().any(|condition| {
                    text(condition, "type").eq_ignore_ascii_case(kind)
                        && text(condition, "status").eq_ignore_ascii_case(status)
                })
            }
            (Self::Field { pointer, value }, Some(object)) => match (object.pointer(pointer), value) {
                (None, _) => false,
                (Some(_), None) => true,
                (Some(Value::String(found)), Some(value)) => found == value,
                (Some(found), Some(value)) => serde_json::to_string(found).is_ok_and(|found| found == *value),
            },
        }
    }
}

/// Runs `monopod wait ...`.
///
/// # Errors
/// There is no such object, or it took too long.
pub async fn run(command: &WaitCommand) -> Result<ExitCode, VerbError> {
    let (client, kinds) = command.place.ask().await?;
    let mut failures = Failures::default();
    let mut count = 0;
    for target in targets(&kinds, &command.arguments)? {
        let mut names: Vec<(String, String)> =
            target.names.iter().map(|name| (command.place.namespace().to_owned(), name.clone())).collect();
        if names.is_empty() && (command.all || !command.selection.is_empty()) {
            let list = client.json(command.selection.list(target.kind, &command.place)).await?;
            names.extend(items(target.kind, list).iter().map(name_of));
        }
        for (namespace, name) in names {
            count += 1;
            let done = one(command, &client, target.kind, &namespace, &name).await;
            failures.note(done)?;
        }
    }
    if count == 0 && command.what != What::Delete {
        return Err(VerbError::usage("no matching resources found"));
    }
    Ok(failures.code())
}

fn name_of(object: &Value) -> (String, String) {
    let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
    (text("namespace"), text("name"))
}

async fn one(
    command: &WaitCommand,
    client: &Client,
    kind: &Kind,
    namespace: &str,
    name: &str,
) -> Result<(), VerbError> {
    if !matches!(command.what, What::Create | What::Delete) {
        // What isn't there is an error at once.
        client.json(Call::get(kind.path(Some(namespace), Some(name)))).await?;
    }
    let waiting = until(&command.what, client, kind, namespace, name);
    let timed_out = || VerbError::usage(format!("timed out waiting for the condition on {}/{name}", kind.qualified()));
    // Zero looks once.
    let limit = command.timeout.max(Duration::from_millis(50));
    tokio::time::timeout(limit, Box::pin(waiting)).await.map_err(|_| timed_out())??;
    say(&format!("{}/{name} condition met\n", kind.label()))
}

async fn until(what: &What, client: &Client, kind: &Kind, namespace: &str, name: &str) -> Result<(), VerbError> {
    loop {
        let list =
            || Call::get(kind.path(Some(namespace), None)).query("fieldSelector", format!("metadata.name={name}"));
        let found = client.json(list()).await?;
        let version = found["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
        if what.is_true_of(items(kind, found).first()) {
            return Ok(());
        }
        let mut watch = Watch::start(client, list(), &version).await?;
        loop {
            let object = match watch.next().await {
                Ok(Some((Change::Changed, object))) => Some(object),
                Ok(Some((Change::Deleted, _))) => None,
                Ok(None) => break,
                Err(error) if error.is_expired() => break,
                Err(error) => return Err(error),
            };
            if what.is_true_of(object.as_ref()) {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_waited_for_is_told_from_the_object() {
        let pod = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"restartCount": 2}]}});
        for (text, expected) in [
            ("condition=Ready", true),
            ("condition=ready=true", true),
            ("condition=Ready=False", false),
            ("condition=Other", false),
            ("jsonpath={.status.phase}=Running", true),
            ("jsonpath='{.status.phase}'=Pending", false),
            ("jsonpath={.status.podIP}", false),
            ("jsonpath={.status.containerStatuses[0].restartCount}=2", true),
            ("create", true),
            ("delete", false),
        ] {
            let text = text.replace('\'', "");
            let what: What = text.parse().unwrap();
            assert_eq!(what.is_true_of(Some(&pod)), expected, "{text}");
        }
        assert!(What::Delete.is_true_of(None) && !What::Create.is_true_of(None));
        for text in ["", "ready", "jsonpath={.items[*]}", "jsonpath={range}"] {
            assert!(text.parse::<What>().is_err(), "{text}");
        }
    }
}
