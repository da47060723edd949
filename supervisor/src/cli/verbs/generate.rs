//! `monopod create KIND`: objects out of what the command line says.

mod pod;
mod secret;
mod source;

use std::process::ExitCode;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use super::apply::{DryRun, Way, tell};
use super::client::error::VerbError;
use super::client::{Call, Client, JSON, segment};
use super::{Place, say, span};
pub(super) use pod::{pairs, variables};
use source::Sources;

/// What can be created without a manifest.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Generated {
    #[command(visible_alias = "cm")]
    Configmap(ConfigMap),
    #[command(subcommand)]
    Secret(secret::Secret),
    #[command(visible_alias = "ns")]
    Namespace(Namespace),
    #[command(visible_alias = "sa")]
    Serviceaccount(ServiceAccount),
    Token(Token),
    Pod(pod::Pod),
}

/// Texts and files for pods: `create configmap NAME --from-literal KEY=VALUE --from-file FILE`
#[derive(Debug, clap::Args)]
pub(super) struct ConfigMap {
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    sources: Sources,
}

/// A namespace
#[derive(Debug, clap::Args)]
pub(super) struct Namespace {
    #[arg(value_name = "NAME")]
    name: String,
}

/// An account for pods
#[derive(Debug, clap::Args)]
pub(super) struct ServiceAccount {
    #[arg(value_name = "NAME")]
    name: String,
}

/// Prints a new token of a service account
#[derive(Debug, clap::Args)]
pub(super) struct Token {
    /// Service account
    #[arg(value_name = "NAME")]
    name: String,
    /// For whom it is; the API of the node by default
    #[arg(long, value_name = "AUDIENCE")]
    audience: Vec<String>,
    /// How long it is valid, as 10m or 1h
    #[arg(long, value_name = "TIME", value_parser = span::parse)]
    duration: Option<Duration>,
    /// Pod or Secret: the token ends with it
    #[arg(long, value_name = "KIND", requires = "bound_object_name")]
    bound_object_kind: Option<String>,
    /// Name of what the token ends with
    #[arg(long, value_name = "NAME", requires = "bound_object_kind")]
    bound_object_name: Option<String>,
    /// Its UID
    #[arg(long, value_name = "UID", requires = "bound_object_kind")]
    bound_object_uid: Option<String>,
}

/// Runs `monopod create KIND ...`.
///
/// # Errors
/// A file can't be read, or the server refuses.
pub(super) async fn run(what: &Generated, place: &Place, way: &Way) -> Result<ExitCode, VerbError> {
    let (object, failed) = match what {
        Generated::Configmap(command) => (command.object()?, "failed to create configmap: "),
        Generated::Secret(command) => (command.object()?, "failed to create secret "),
        Generated::Namespace(command) => (object("v1", "Namespace", &command.name), ""),
        Generated::Serviceaccount(command) => {
            (object("v1", "ServiceAccount", &command.name), "failed to create serviceaccount: ")
        }
        Generated::Pod(command) => (command.object()?, ""),
        Generated::Token(command) => return token(command, place).await,
    };
    create(object, place, way, failed).await
}

/// An object with nothing but its name.
fn object(api_version: &str, kind: &str, name: &str) -> Value {
    json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}})
}

/// Creates an object and says so.
///
/// # Errors
/// The server refuses.
pub(super) async fn create(mut object: Value, place: &Place, way: &Way, failed: &str) -> Result<ExitCode, VerbError> {
    let (client, kinds) = place.ask().await?;
    let text = |key: &str| object[key].as_str().unwrap_or_default();
    let kind = kinds.of_object(text("apiVersion"), text("kind"));
    let kind = kind.ok_or_else(|| VerbError::usage(format!("the server doesn't have a kind {:?}", text("kind"))))?;
    if let Some(namespace) = place.namespace.as_deref().filter(|_| kind.is_namespaced) {
        object["metadata"]["namespace"] = namespace.into();
    }
    if way.dry_run != DryRun::Client {
        let call = Call::new(Method::POST, kind.path(Some(place.namespace()), None))
            .query("fieldManager", "monopod-create")
            .query("fieldValidation", way.validate.query())
            .query_some("dryRun", way.dry_run.query())
            .body(JSON, &object);
        object = client.json(call).await.map_err(|error| in_words(error, failed))?;
    }
    tell(kind, &object, "created", way)?;
    Ok(ExitCode::SUCCESS)
}

/// As kubectl words the failure of this kind's command: some as an answer, the others as its own.
fn in_words(error: VerbError, failed: &str) -> VerbError {
    match error {
        VerbError::Server { status, .. } if !failed.is_empty() => {
            VerbError::usage(format!("{failed}{}", status["message"].as_str().unwrap_or_default()))
        }
        error @ (VerbError::Server { .. }
        | VerbError::Connect { .. }
        | VerbError::Http(_)
        | VerbError::Json(_)
        | VerbError::Usage(_)
        | VerbError::Read { .. }
        | VerbError::Output(_)
        | VerbError::Stream(_)) => error,
    }
}

impl ConfigMap {
    fn object(&self) -> Result<Value, VerbError> {
        let mut object = object("v1", "ConfigMap", &self.name);
        for (key, bytes) in self.sources.read("ConfigMap", &self.name).map_err(VerbError::Usage)? {
            match String::from_utf8(bytes) {
                Ok(text) => object["data"][key] = text.into(),
                Err(binary) => object["binaryData"][key] = source::encoded(binary.as_bytes()).into(),
            }
        }
        Ok(object)
    }
}

async fn token(command: &Token, place: &Place) -> Result<ExitCode, VerbError> {
    let client: Client = place.client();
    let account =
        format!("/api/v1/namespaces/{}/serviceaccounts/{}", segment(place.namespace()), segment(&command.name));
    let call = Call::new(Method::POST, format!("{account}/token")).body(JSON, &command.request());
    let answer = client.json(call).await.map_err(|error| in_words(error, "failed to create token: "))?;
    let token = answer["status"]["token"].as_str().filter(|token| !token.is_empty());
    let token = token.ok_or_else(|| VerbError::usage("failed to create token: no token in server response"))?;
    say(&format!("{token}\n"))?;
    Ok(ExitCode::SUCCESS)
}

impl Token {
    fn request(&self) -> Value {
        let mut request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
        let spec = &mut request["spec"];
        if !self.audience.is_empty() {
            spec["audiences"] = json!(self.audience);
        }
        if let Some(duration) = self.duration {
            spec["expirationSeconds"] = duration.as_secs().into();
        }
        if let (Some(kind), Some(name)) = (&self.bound_object_kind, &self.bound_object_name) {
            spec["boundObjectRef"] = json!({"apiVersion": "v1", "kind": kind, "name": name});
            if let Some(uid) = &self.bound_object_uid {
                spec["boundObjectRef"]["uid"] = uid.as_str().into();
            }
        }
        request
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(subcommand)]
        what: Generated,
    }

    pub(super) fn made(arguments: &[&str]) -> Result<Value, String> {
        let object = match Line::parse_from([&["create"], arguments].concat()).what {
            Generated::Configmap(command) => command.object(),
            Generated::Secret(command) => command.object(),
            Generated::Pod(command) => command.object(),
            Generated::Token(command) => Ok(command.request()),
            Generated::Namespace(command) => Ok(object("v1", "Namespace", &command.name)),
            Generated::Serviceaccount(command) => Ok(object("v1", "ServiceAccount", &command.name)),
        };
        object.map_err(|error| error.to_string())
    }

    #[test]
    fn a_config_map_holds_texts_and_other_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("b");
        std::fs::write(&file, [0xff, 0]).unwrap();
        let file = format!("--from-file={}", file.display());
        let map = made(&["configmap", "m", "--from-literal=a=x=y", &file]).unwrap();
        let expected = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"a": "x=y"},
            "binaryData": {"b": "/wA="}});
        assert_eq!(map, expected);
        assert_eq!(made(&["cm", "m"]).unwrap(), object("v1", "ConfigMap", "m"));
    }

    #[test]
    fn a_token_may_be_bound_to_an_object() {
        assert_eq!(made(&["token", "a"]).unwrap()["spec"], json!({}));
        let arguments =
            ["token", "a", "--duration=10m", "--audience=x", "--bound-object-kind=Pod", "--bound-object-name=p"];
        let expected = json!({"audiences": ["x"], "expirationSeconds": 600,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p"}});
        assert_eq!(made(&arguments).unwrap()["spec"], expected);
    }
}
