//! `monopod explain`: what the fields of a kind mean, out of the schema that the server publishes.

mod schema;
mod wrap;

use std::process::ExitCode;

use super::client::discovery::{Kind, Kinds};
use super::client::error::VerbError;
use super::client::{Call, Client};
use super::{Place, say};
use schema::Document;

/// Shows what a kind and its fields mean
///
/// `monopod explain pods`, `explain pods.spec.containers`, `explain pod.spec --recursive`
#[derive(Debug, clap::Args)]
pub struct ExplainCommand {
    #[command(flatten)]
    place: Place,
    /// Kind, with the field after dots
    #[arg(value_name = "KIND[.FIELD...]")]
    path: String,
    /// Shows the fields of the fields as well, by their names and types
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false,
        action = clap::ArgAction::Set)]
    recursive: bool,
    /// The version of a kind that there is in several groups, such as events.k8s.io/v1
    #[arg(long, value_name = "GROUP/VERSION")]
    api_version: Option<String>,
}

/// Runs `monopod explain ...`.
///
/// # Errors
/// There is no such kind or field.
pub async fn run(command: &ExplainCommand) -> Result<ExitCode, VerbError> {
    let (client, kinds) = command.place.ask().await?;
    let (kind, fields) = find(&kinds, &command.path, command.api_version.as_deref())?;
    let document = document(&client, kind).await?;
    let group = if kind.group.is_empty() { String::new() } else { format!("GROUP:      {}\n", kind.group) };
    say(&format!("{group}KIND:       {}\nVERSION:    {}\n\n", kind.kind, kind.version))?;
    let explained = document.explain(&kind.kind, &fields, command.recursive).map_err(VerbError::Usage)?;
    say(&(explained + "\n"))?;
    Ok(ExitCode::SUCCESS)
}

async fn document(client: &Client, kind: &Kind) -> Result<Document, VerbError> {
    let root = if kind.group.is_empty() { "api" } else { "apis" };
    let schema = client.json(Call::get(format!("/openapi/v3/{root}/{}", kind.api_version()))).await?;
    Ok(Document::new(schema))
}

/// The kind that a path starts with, and the fields after it. A group has dots, too: `deployments.apps.spec`.
fn find<'k, 'p>(
    kinds: &'k Kinds,
    path: &'p str,
    api_version: Option<&str>,
) -> Result<(&'k Kind, Vec<&'p str>), VerbError> {
    let parts: Vec<&str> = path.split('.').filter(|part| !part.is_empty()).collect();
    let (first, rest) =
        parts.split_first().ok_or_else(|| VerbError::usage("you must specify the type of resource to explain"))?;
    let of_version = |name: &str| match api_version {
        Some(version) => kinds
            .of_version(name, version)
            .ok_or_else(|| VerbError::usage(format!("couldn't find resource for \"{version}, Resource={name}\""))),
        None => kinds.named(name),
    };
    // No group is called like a field, so the longest name that there is is meant.
    for count in (1..=rest.len()).rev() {
        let (group, fields) = rest.split_at(count);
        if let Ok(kind) = of_version(&format!("{first}.{}", group.join("."))) {
            return Ok((kind, fields.to_vec()));
        }
    }
    Ok((of_version(first)?, rest.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::super::client::discovery::tests::some;
    use super::*;

    #[test]
    fn a_path_starts_with_a_kind_which_may_have_its_group() {
        let kinds = some();
        let read = |path: &str, version: Option<&str>| {
            let found = find(&kinds, path, version).map_err(|error| error.to_string());
            found.map(|(kind, fields)| (kind.qualified(), fields.join(".")))
        };
        for (path, kind, fields) in [
            ("po", "pods", ""),
            ("pods.spec.containers", "pods", "spec.containers"),
            ("deployments.apps.spec", "deployments.apps", "spec"),
            ("deployment.v1.apps", "deployments.apps", ""),
        ] {
            assert_eq!(read(path, None), Ok((kind.to_owned(), fields.to_owned())), "{path}");
        }
        assert_eq!(read("deployments.spec", Some("apps/v1")).map(|(kind, _)| kind), Ok("deployments.apps".to_owned()));
        assert!(read("pods", Some("apps/v1")).is_err() && read("nope.spec", None).is_err() && read("", None).is_err());
    }
}
