//! `monopod replace`, `monopod edit`

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use http::Method;
use serde_json::Value;

use super::apply::{Way, place_of, tell};
use super::client::discovery::{Kind, Kinds};
use super::client::error::VerbError;
use super::client::{Call, Client, JSON};
use super::files::{Files, Given, objects};
use super::targets::targets;
use super::{Failures, Place, output, say};

/// Between two looks at something that is being deleted.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// What `EDITOR` is without it.
const EDITOR: &str = "vi";

/// Replaces objects by what manifests say
#[derive(Debug, clap::Args)]
pub struct ReplaceCommand {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    way: Way,
    /// Deletes them first, and creates them anew
    #[arg(long)]
    force: bool,
    /// With --force: seconds to end in
    #[arg(long, value_name = "SECONDS", requires = "force")]
    grace_period: Option<u32>,
}

/// Opens an object in $EDITOR and stores what became of it
#[derive(Debug, clap::Args)]
pub struct EditCommand {
    #[command(flatten)]
    place: Place,
    /// KIND NAME or KIND/NAME
    #[arg(value_name = "KIND|KIND/NAME", required = true)]
    arguments: Vec<String>,
}

/// Runs `monopod replace ...`.
///
/// # Errors
/// A manifest can't be read, or nothing could be sent.
pub async fn replace(command: &ReplaceCommand) -> Result<ExitCode, VerbError> {
    let given = command.files.read()?;
    let (client, kinds) = command.place.ask().await?;
    let mut failures = Failures::default();
    for one in &given {
        let done = replace_one(command, &client, &kinds, one).await;
        failures.note(done)?;
    }
    Ok(failures.code())
}

async fn replace_one(command: &ReplaceCommand, client: &Client, kinds: &Kinds, given: &Given) -> Result<(), VerbError> {
    let (kind, namespace) = place_of(kinds, &command.place, given)?;
    let path = kind.path(Some(&namespace), Some(given.text("/metadata/name")));
    let doing = |error: VerbError| error.doing(format!("error when replacing {:?}", given.source));
    let call = if command.force {
        remove(command, client, kind, given, &path).await?;
        Call::new(Method::POST, kind.path(Some(&namespace), None))
    } else {
        Call::new(Method::PUT, path)
    };
    let call = call
        .query("fieldManager", "monopod-replace")
        .query("fieldValidation", command.way.validate.query())
        .query_some("dryRun", command.way.dry_run.query())
        .body(JSON, &given.value);
    let after = client.json(call).await.map_err(doing)?;
    tell(kind, &after, "replaced", &command.way)
}

/// Deletes an object and waits until it is gone.
async fn remove(
    command: &ReplaceCommand,
    client: &Client,
    kind: &Kind,
    given: &Given,
    path: &str,
) -> Result<(), VerbError> {
    let grace = command.grace_period.map(|seconds| seconds.to_string());
    let delete = Call::new(Method::DELETE, path).query_some("gracePeriodSeconds", grace);
    let Some(deleted) = client.find(delete).await? else { return Ok(()) };
    say(&format!("{} {:?} deleted\n", kind.label(), given.text("/metadata/name")))?;
    // Some kinds answer that they are gone, the others themselves.
    let uid = [&deleted["metadata"]["uid"], &deleted["details"]["uid"]].map(Value::clone);
    while let Some(found) = client.find(Call::get(path)).await? {
        if !uid.contains(&found["metadata"]["uid"]) {
            break;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

/// Runs `monopod edit ...`.
///
/// # Errors
/// There is no such object, the editor fails, or the server refuses what became of it.
pub async fn edit(command: &EditCommand) -> Result<ExitCode, VerbError> {
    let (client, kinds) = command.place.ask().await?;
    let mut failures = Failures::default();
    for target in targets(&kinds, &command.arguments)? {
        if target.names.is_empty() {
            return Err(VerbError::usage("edit takes objects by name"));
        }
        for name in &target.names {
            let done = edit_one(&command.place, &client, target.kind, name).await;
            failures.note(done)?;
        }
    }
    Ok(failures.code())
}

async fn edit_one(place: &Place, client: &Client, kind: &Kind, name: &str) -> Result<(), VerbError> {
    let path = kind.path(Some(place.namespace()), Some(name));
    let before = output::without_managers(client.json(Call::get(path.as_str())).await?);
    let label = output::name_of(kind, &before);
    let text = edited(&output::yaml(&before)?)?;
    let after = objects(&text, "edited file")?;
    let [after] = after.as_slice() else { return Err(VerbError::usage("one object was opened, and one must be left")) };
    if after.value == before {
        eprintln!("Edit cancelled, no changes made.");
        return Ok(());
    }
    let call = Call::new(Method::PUT, path)
        .query("fieldManager", "monopod-edit")
        .query("fieldValidation", "Strict")
        .body(JSON, &after.value);
    // Nobody has to type it again.
    client.json(call).await.inspect_err(|_| eprintln!("# what was edited:\n{text}"))?;
    say(&format!("{label} edited\n"))
}

/// What an editor makes of a text.
fn edited(text: &str) -> Result<String, VerbError> {
    let failed = |path: &Path| {
        let path = path.to_path_buf();
        move |source| VerbError::Read { path, source }
    };
    let file = tempfile_of(text)?;
    let editor = ["KUBE_EDITOR", "EDITOR"].iter().find_map(|name| std::env::var(name).ok());
    let editor = editor.unwrap_or_else(|| EDITOR.to_owned());
    // Editors come with arguments, such as `code --wait`.
    #[expect(clippy::disallowed_methods, reason = "the user's editor, started by the user's command")]
    let mut command = std::process::Command::new("sh");
    let path = file.path().to_path_buf();
    command.arg("-c").arg(format!("{editor} \"$1\"")).arg("sh").arg(&path);
    let status = command.status().map_err(failed(Path::new(&editor)))?;
    if !status.success() {
        return Err(VerbError::usage(format!("there was a problem with the editor {editor:?}: {status}")));
    }
    std::fs::read_to_string(&path).map_err(failed(&path))
}

/// Ours alone: it may be a Secret.
struct Private(std::path::PathBuf);

impl Private {
    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        // Gone already when an editor renamed it.
        drop(std::fs::remove_file(&self.0));
    }
}

fn tempfile_of(text: &str) -> Result<Private, VerbError> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let path = std::env::temp_dir().join(format!("monopod-edit-{}.yaml", uuid::Uuid::new_v4()));
    let failed = |source| VerbError::Read { path: path.clone(), source };
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
    let private = Private(path.clone());
    file.write_all(text.as_bytes()).map_err(failed)?;
    Ok(private)
}
