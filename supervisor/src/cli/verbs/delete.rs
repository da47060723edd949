//! `monopod delete`

use std::process::ExitCode;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use super::apply::place_of;
use super::client::discovery::{Kind, Kinds};
use super::client::error::VerbError;
use super::client::{Call, Client, JSON};
use super::files::Files;
use super::get::{Selection, items};
use super::targets::targets;
use super::watch::{Change, Watch};
use super::{Failures, Place, say};

const FORCE_WARNING: &str = "Warning: Immediate deletion does not wait for confirmation that the running resource has \
                             been terminated. The resource may continue to run on the cluster indefinitely.";

/// Deletes objects and waits until they are gone
///
/// Pods get their grace period.
#[derive(Debug, clap::Args)]
pub struct DeleteCommand {
    #[command(flatten)]
    place: Place,
    /// Kinds, with names: pod NAME; pod/NAME; pods --all; pods -l app=x
    #[arg(value_name = "KIND|KIND/NAME")]
    arguments: Vec<String>,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    selection: Selection,
    /// Deletes all objects of the kind in the namespace
    #[arg(long)]
    all: bool,
    /// Deletes at once what would be ended gracefully
    #[arg(long)]
    force: bool,
    /// Ends pods within a second
    #[arg(long, conflicts_with = "grace_period")]
    now: bool,
    /// Seconds that a pod has for its end; its own number by default
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, default_value_t = -1)]
    grace_period: i64,
    /// Whether to wait until the objects are gone
    #[arg(long, value_name = "YES", default_value_t = true, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", action = clap::ArgAction::Set)]
    wait: bool,
    /// How long to wait, as 30s or 5m; forever by default
    #[arg(long, value_name = "TIME", value_parser = super::span::parse)]
    timeout: Option<Duration>,
    /// An object that isn't there is no error
    #[arg(long)]
    ignore_not_found: bool,
    /// Prints kind/name only
    #[arg(short, long, value_name = "FORMAT", value_parser = ["name"])]
    output: Option<String>,
}

/// An object that is to go.
#[derive(Debug)]
struct Doomed<'k> {
    kind: &'k Kind,
    namespace: String,
    name: String,
}

/// One that was told to.
#[derive(Debug)]
struct Going<'k> {
    doomed: Doomed<'k>,
    uid: String,
}

/// Runs `monopod delete ...`.
///
/// # Errors
/// What is to be deleted isn't said clearly, or the server does not answer.
pub async fn run(command: &DeleteCommand) -> Result<ExitCode, VerbError> {
    let grace = command.grace()?;
    let (client, kinds) = command.place.ask().await?;
    let doomed = command.doomed(&client, &kinds).await?;
    if command.force {
        eprintln!("{FORCE_WARNING}");
    }
    if doomed.is_empty() {
        say("No resources found\n")?;
    }
    let mut failures = Failures::default();
    let mut going = Vec::new();
    for one in doomed {
        let answer = match delete(&client, &one, grace).await {
            Err(error) if error.is_not_found() && command.ignores_missing() => continue,
            answer => answer,
        };
        let Some(uid) = failures.note(answer)? else { continue };
        say(&command.told(&one))?;
        going.push(Going { doomed: one, uid });
    }
    if command.wait {
        let all = async {
            for one in &going {
                failures.note(gone(&client, one).await)?;
            }
            Ok(())
        };
        match command.timeout {
            None => all.await?,
            Some(limit) => tokio::time::timeout(limit, all)
                .await
                .map_err(|_| VerbError::usage("timed out waiting for the condition"))??,
        }
    }
    Ok(failures.code())
}

impl DeleteCommand {
    /// Seconds; none for each object's own.
    fn grace(&self) -> Result<Option<i64>, VerbError> {
        match (self.force, self.grace_period) {
            (true, 1..) => {
                Err(VerbError::usage("--force and --grace-period greater than 0 cannot be specified together"))
            }
            (true, _) => Ok(Some(0)),
            // Without --force nobody gives up on what may still run.
            (false, 0) => Ok(Some(1)),
            (false, _) if self.now => Ok(Some(1)),
            (false, seconds) => Ok((seconds > 0).then_some(seconds)),
        }
    }

    /// What was listed may have gone by itself.
    fn ignores_missing(&self) -> bool {
        self.ignore_not_found || self.all || !self.selection.is_empty()
    }

    fn told(&self, one: &Doomed<'_>) -> String {
        let (label, name) = (one.kind.label(), &one.name);
        match (&self.output, self.force) {
            (Some(_), _) => format!("{label}/{name}\n"),
            (None, true) => format!("{label} {name:?} force deleted\n"),
            (None, false) => format!("{label} {name:?} deleted\n"),
        }
    }

    async fn doomed<'k>(&self, client: &Client, kinds: &'k Kinds) -> Result<Vec<Doomed<'k>>, VerbError> {
        if self.arguments.is_empty() {
            let mut doomed = Vec::new();
            for given in self.files.read()? {
                let (kind, namespace) = place_of(kinds, &self.place, &given)?;
                doomed.push(Doomed { kind, namespace, name: given.text("/metadata/name").to_owned() });
            }
            return Ok(doomed);
        }
        let mut doomed = Vec::new();
        for target in targets(kinds, &self.arguments)? {
            let chosen = self.all || !self.selection.is_empty();
            if target.names.is_empty() && !chosen {
                return Err(VerbError::usage("resource(s) were provided, but no name was specified"));
            }
            if !target.names.is_empty() && chosen {
                return Err(VerbError::usage("names, --all and selectors cannot be specified together"));
            }
            if target.names.is_empty() {
                let list = client.json(self.selection.list(target.kind, &self.place)).await?;
                doomed.extend(items(target.kind, list).iter().map(|item| named(target.kind, item)));
            }
            let namespace = || self.place.namespace().to_owned();
            let of_name = |name| Doomed { kind: target.kind, namespace: namespace(), name };
            doomed.extend(target.names.into_iter().map(of_name));
        }
        Ok(doomed)
    }
}

fn named<'k>(kind: &'k Kind, object: &Value) -> Doomed<'k> {
    let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
    Doomed { kind, namespace: text("namespace"), name: text("name") }
}

/// Tells an object to go; its uid.
async fn delete(client: &Client, one: &Doomed<'_>, grace: Option<i64>) -> Result<String, VerbError> {
    let mut options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"});
    if let Some(seconds) = grace {
        options["gracePeriodSeconds"] = seconds.into();
    }
    let path = one.kind.path(Some(&one.namespace), Some(&one.name));
    let answer = client.json(Call::new(Method::DELETE, path).body(JSON, &options)).await?;
    // Some kinds answer themselves, the others with a Status about them.
    let uid = answer["metadata"]["uid"].as_str().or_else(|| answer["details"]["uid"].as_str());
    Ok(uid.unwrap_or_default().to_owned())
}

/// Waits until an object is gone, or another one has its name.
async fn gone(client: &Client, one: &Going<'_>) -> Result<(), VerbError> {
    let Doomed { kind, namespace, name } = &one.doomed;
    let is_other = |object: &Value| object["metadata"]["uid"] != one.uid.as_str();
    loop {
        let list =
            || Call::get(kind.path(Some(namespace), None)).query("fieldSelector", format!("metadata.name={name}"));
        let found = client.json(list()).await?;
        if items(kind, found.clone()).iter().all(is_other) {
            return Ok(());
        }
        let version = found["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
        let mut watch = Watch::start(client, list(), &version).await?;
        loop {
            match watch.next().await {
                Ok(Some((Change::Deleted, _))) => return Ok(()),
                Ok(Some((Change::Changed, object))) if is_other(&object) => return Ok(()),
                Ok(Some((Change::Changed, _))) => {}
                // The server ended the watch: look again.
                Ok(None) => break,
                Err(error) if error.is_expired() => break,
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        command: DeleteCommand,
    }

    fn grace(arguments: &str) -> Result<Option<i64>, String> {
        let line = Line::try_parse_from(format!("delete {arguments}").split_whitespace()).unwrap();
        line.command.grace().map_err(|error| error.to_string())
    }

    #[test]
    fn only_force_ends_pods_without_grace() {
        assert_eq!(grace("pod a"), Ok(None));
        assert_eq!(grace("pod a --grace-period=5"), Ok(Some(5)));
        assert_eq!(grace("pod a --grace-period=0"), Ok(Some(1)));
        assert_eq!(grace("pod a --now"), Ok(Some(1)));
        assert_eq!(grace("pod a --force"), Ok(Some(0)));
        assert_eq!(grace("pod a --force --grace-period=0"), Ok(Some(0)));
        assert!(grace("pod a --force --grace-period=3").is_err());
    }

    #[test]
    fn waiting_can_be_switched_off() {
        let wait = |arguments: &str| Line::try_parse_from(arguments.split_whitespace()).unwrap().command.wait;
        assert!(wait("delete pod a") && wait("delete pod a --wait"));
        assert!(!wait("delete pod a --wait=false"));
    }
}
