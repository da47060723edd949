//! `monopod apply`, `monopod create`

use std::process::ExitCode;

use http::Method;
use serde_json::{Value, json};

use super::client::discovery::{Kind, Kinds};
use super::client::error::VerbError;
use super::client::{APPLY_PATCH, Call, Client, JSON};
use super::files::{Files, Given};
use super::generate::{self, Generated};
use super::output::{self, Format};
use super::{Failures, Place, say};

/// By this name the server remembers which fields were applied.
pub(super) const MANAGER: &str = "monopod-apply";

/// Creates objects out of manifests, or changes them to what manifests say
///
/// Fields that an earlier manifest had and this one leaves out are removed.
#[derive(Debug, clap::Args)]
pub struct ApplyCommand {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    way: Way,
    /// Refuses to change what another manager set
    #[arg(long)]
    server_side: bool,
    /// With --server-side: changes it all the same
    #[arg(long, requires = "server_side")]
    force_conflicts: bool,
    /// Who applies, for the record of who set which field
    #[arg(long, value_name = "NAME", default_value = MANAGER)]
    field_manager: String,
}

/// Creates objects out of manifests, or out of what the command line says
///
/// `monopod create -f FILE`, `create configmap NAME --from-literal KEY=VALUE`, `create secret generic NAME`,
/// `create namespace NAME`, `create token ACCOUNT`. What `kubectl run NAME --image IMAGE` does is
/// `create pod NAME --image IMAGE` here, since `monopod run` runs a manifest without the node service.
#[derive(Debug, clap::Args)]
#[command(subcommand_negates_reqs = true)]
pub struct CreateCommand {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    way: Way,
    #[command(subcommand)]
    what: Option<Generated>,
}

/// How manifests are taken.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Way {
    /// client: sends nothing; server: nothing is stored
    #[arg(long, value_name = "WHERE", default_value = "none", global = true)]
    pub(super) dry_run: DryRun,
    /// What happens to unknown fields: strict, warn or ignore
    #[arg(long, value_name = "HOW", default_value = "strict", global = true)]
    pub(super) validate: Validate,
    /// Shows the objects: json, name, yaml, jsonpath=TEMPLATE or custom-columns=NAME:PATH,...
    #[arg(short, long, value_name = "FORMAT", global = true)]
    output: Option<Format>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum DryRun {
    None,
    Client,
    Server,
}

impl DryRun {
    pub(super) fn query(self) -> Option<&'static str> {
        match self {
            Self::Server => Some("All"),
            Self::None | Self::Client => None,
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Client => " (dry run)",
            Self::Server => " (server dry run)",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Validate {
    #[value(alias = "true")]
    Strict,
    Warn,
    #[value(alias = "false")]
    Ignore,
}

impl Validate {
    pub(super) fn query(self) -> &'static str {
        match self {
            Self::Strict => "Strict",
            Self::Warn => "Warn",
            Self::Ignore => "Ignore",
        }
    }
}

/// Runs `monopod apply ...`.
///
/// # Errors
/// A manifest can't be read, or nothing could be sent.
pub async fn apply(command: &ApplyCommand) -> Result<ExitCode, VerbError> {
    let given = command.files.read()?;
    let (client, kinds) = command.place.ask().await?;
    let mut failures = Failures::default();
    for one in &given {
        let done = apply_one(command, &client, &kinds, one).await;
        failures.note(done)?;
    }
    Ok(failures.code())
}

async fn apply_one(command: &ApplyCommand, client: &Client, kinds: &Kinds, given: &Given) -> Result<(), VerbError> {
    let (kind, namespace) = place_of(kinds, &command.place, given)?;
    let name = given.text("/metadata/name");
    if name.is_empty() {
        let why = match given.text("/metadata/generateName") {
            "" => "resource name may not be empty".to_owned(),
            generated => format!("from {generated}: cannot use generate name with apply"),
        };
        return Err(VerbError::usage(why));
    }
    let path = kind.path(Some(&namespace), Some(name));
    let before = client.find(Call::get(path.as_str())).await?;
    if command.way.dry_run == DryRun::Client {
        let done = if before.is_some() { "configured" } else { "created" };
        return tell(kind, &given.value, done, &command.way);
    }
    let call = Call::new(Method::PATCH, path)
        .query("fieldManager", command.field_manager.as_str())
        .query("force", (command.force_conflicts || !command.server_side).to_string())
        .query("fieldValidation", command.way.validate.query())
        .query_some("dryRun", command.way.dry_run.query())
        .body(APPLY_PATCH, &given.value);
    let doing = |error: VerbError| match &before {
        None => error.doing(format!("error when creating {:?}", given.source)),
        Some(_) => error.doing(format!("error when applying patch to {:?}", output::name_of(kind, &given.value))),
    };
    let after = client.json(call).await.map_err(doing)?;
    let done = if command.server_side { "serverside-applied" } else { outcome(before.as_ref(), &after) };
    tell(kind, &after, done, &command.way)
}

/// What an apply did.
fn outcome(before: Option<&Value>, after: &Value) -> &'static str {
    let Some(before) = before else { return "created" };
    // A dry run counts no versions, an ordinary one may have changed who owns what.
    if meaning(before) == meaning(after) { "unchanged" } else { "configured" }
}

/// An object without what the server writes down about changes, and without its state.
fn meaning(object: &Value) -> Value {
    let mut object = output::without_managers(object.clone());
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
    }
    object
}

/// Runs `monopod create ...`.
///
/// # Errors
/// A manifest can't be read, or nothing could be sent.
pub async fn create(command: &CreateCommand) -> Result<ExitCode, VerbError> {
    if let Some(what) = &command.what {
        if !command.files.filenames.is_empty() {
            return Err(VerbError::usage(
                "an object comes out of a manifest or out of the command line, not out of both",
            ));
        }
        return generate::run(what, &command.place, &command.way).await;
    }
    let given = command.files.read()?;
    let (client, kinds) = command.place.ask().await?;
    let mut failures = Failures::default();
    for one in &given {
        let done = create_one(command, &client, &kinds, one).await;
        failures.note(done)?;
    }
    Ok(failures.code())
}

async fn create_one(command: &CreateCommand, client: &Client, kinds: &Kinds, given: &Given) -> Result<(), VerbError> {
    let (kind, namespace) = place_of(kinds, &command.place, given)?;
    if command.way.dry_run == DryRun::Client {
        return tell(kind, &given.value, "created", &command.way);
    }
    let call = Call::new(Method::POST, kind.path(Some(&namespace), None))
        .query("fieldManager", "monopod-create")
        .query("fieldValidation", command.way.validate.query())
        .query_some("dryRun", command.way.dry_run.query())
        .body(JSON, &given.value);
    let doing = |error: VerbError| error.doing(format!("error when creating {:?}", given.source));
    let made = client.json(call).await.map_err(doing)?;
    tell(kind, &made, "created", &command.way)
}

pub(super) fn tell(kind: &Kind, object: &Value, done: &str, way: &Way) -> Result<(), VerbError> {
    let name = match &object["metadata"] {
        metadata if metadata["name"].is_string() => output::name_of(kind, object),
        metadata => output::name_of(kind, &json!({"metadata": {"name": metadata["generateName"]}})),
    };
    let trimmed = || output::without_managers(object.clone());
    match &way.output {
        None | Some(Format::Wide) => say(&format!("{name} {done}{}\n", way.dry_run.suffix())),
        Some(Format::Name) => say(&format!("{name}\n")),
        Some(Format::Json) => say(&output::json(&trimmed())?),
        Some(Format::Yaml) => say(&output::yaml(&trimmed())?),
        Some(Format::JsonPath(template)) => say(&template.show(object)),
        Some(Format::Columns(columns)) => say(&columns.show(std::slice::from_ref(object), true)),
    }
}

/// The kind of a manifest, and the namespace that its object is in.
///
/// # Errors
/// The server has no such kind, or the manifest names another namespace than the user.
pub fn place_of<'k>(kinds: &'k Kinds, place: &Place, given: &Given) -> Result<(&'k Kind, String), VerbError> {
    let (api_version, kind) = (given.text("/apiVersion"), given.text("/kind"));
    let own = given.text("/metadata/namespace");
    let found = kinds.of_object(api_version, kind).ok_or_else(|| {
        VerbError::usage(format!(
            "resource mapping not found for name: {:?} namespace: {own:?} from {:?}: no matches for kind {kind:?} in version {api_version:?}",
            given.text("/metadata/name"), given.source,
        ))
    })?;
    if let Some(asked) =
        place.namespace.as_deref().filter(|asked| found.is_namespaced && !own.is_empty() && *asked != own)
    {
        return Err(VerbError::usage(format!(
            "the namespace from the provided object {own:?} does not match the namespace {asked:?}. \
             You must pass '--namespace={own}' to perform this operation."
        )));
    }
    let namespace = if own.is_empty() { place.namespace() } else { own };
    Ok((found, namespace.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::super::client::discovery::tests::some;
    use super::*;

    #[test]
    fn versions_and_owners_are_no_change() {
        let object = |version: &str, image: &str| {
            json!({"metadata": {"resourceVersion": version, "managedFields": [version]}, "spec": {"image": image},
                "status": {"phase": version}})
        };
        assert_eq!(outcome(None, &object("1", "a")), "created");
        assert_eq!(outcome(Some(&object("1", "a")), &object("2", "a")), "unchanged");
        assert_eq!(outcome(Some(&object("1", "a")), &object("2", "b")), "configured");
    }

    #[test]
    fn a_manifest_and_the_user_agree_on_the_namespace() {
        let kinds = some();
        let place = |namespace: Option<&str>| Place { namespace: namespace.map(str::to_owned), socket: None };
        let given = |namespace: Option<&str>, kind: &str| Given {
            source: "f".to_owned(),
            value: json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "x", "namespace": namespace}}),
        };
        let namespace =
            |asked, own| place_of(&kinds, &place(asked), &given(own, "Pod")).map(|(_, namespace)| namespace);
        assert_eq!(namespace(None, None).unwrap(), "default");
        assert_eq!(namespace(Some("a"), None).unwrap(), "a");
        assert_eq!(namespace(None, Some("a")).unwrap(), "a");
        assert!(namespace(Some("b"), Some("a")).is_err());
        let error = place_of(&kinds, &place(None), &given(None, "Foo")).unwrap_err().to_string();
        assert!(error.contains("no matches for kind \"Foo\" in version \"v1\""), "{error}");
    }
}
