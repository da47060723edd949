//! `monopod auth`: who asks, and what he may do.

mod rules;

use std::process::ExitCode;

use http::Method;
use serde_json::{Value, json};

use super::align::{TABLE, align};
use super::client::discovery::{Kind, Kinds};
use super::client::error::VerbError;
use super::client::{Call, Client, JSON};
use super::{Place, output, say};

const REVIEWS: &str = "/apis/authorization.k8s.io/v1";
const USAGE: &str = "you must specify two arguments: verb resource or verb resource/resourceName.";
const VERBS: &[&str] = &[
    "get",
    "list",
    "watch",
    "create",
    "update",
    "patch",
    "delete",
    "deletecollection",
    "use",
    "bind",
    "impersonate",
    "escalate",
    "approve",
    "sign",
    "*",
];
const PATH_VERBS: &[&str] = &["get", "put", "post", "head", "options", "delete", "patch", "*"];

/// Says who asks, and what he may do
#[derive(Debug, clap::Args)]
pub struct AuthCommand {
    #[command(subcommand)]
    question: Question,
}

#[derive(Debug, clap::Subcommand)]
enum Question {
    CanI(CanICommand),
    Whoami(WhoamiCommand),
}

/// Says whether you may do something: yes, or no with exit code 1
///
/// `monopod auth can-i create pods`, `can-i get pods --subresource=log`, `can-i get pod/NAME`, `can-i get /logs`,
/// `can-i '*' '*'`, `can-i --list`
#[derive(Debug, clap::Args)]
struct CanICommand {
    #[command(flatten)]
    place: Place,
    /// Verb, then KIND, KIND/NAME, KIND NAME or a path such as /logs
    #[arg(value_name = "VERB KIND|/PATH")]
    arguments: Vec<String>,
    /// Lists all that you may do in the namespace
    #[arg(long)]
    list: bool,
    /// A part of the object: log, status
    #[arg(long, value_name = "NAME", default_value = "")]
    subresource: String,
    /// In all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Says it by the exit code alone
    #[arg(short, long)]
    quiet: bool,
    /// Leaves out the names of the columns
    #[arg(long)]
    no_headers: bool,
}

/// Says who asks
#[derive(Debug, clap::Args)]
struct WhoamiCommand {
    #[command(flatten)]
    place: Place,
    /// json or yaml
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<Format>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Json,
    Yaml,
}

/// Runs `monopod auth ...`.
///
/// # Errors
/// The server does not answer.
pub async fn run(command: &AuthCommand) -> Result<ExitCode, VerbError> {
    match &command.question {
        Question::CanI(command) if command.list => list(command).await,
        Question::CanI(command) => can_i(command).await,
        Question::Whoami(command) => whoami(command).await,
    }
}

async fn review(client: &Client, path: &str, kind: &str, spec: Value) -> Result<Value, VerbError> {
    let version = path.trim_start_matches("/apis/").rsplit_once('/').map_or(path, |(version, _)| version);
    let mut body = json!({"apiVersion": version, "kind": kind});
    if !spec.is_null() {
        body["spec"] = spec;
    }
    client.json(Call::new(Method::POST, path).body(JSON, &body)).await
}

async fn can_i(command: &CanICommand) -> Result<ExitCode, VerbError> {
    let (client, kinds) = command.place.ask().await?;
    let (spec, warnings) = command.question(&kinds)?;
    warnings.iter().for_each(|warning| eprintln!("Warning: {warning}\n"));
    let path = format!("{REVIEWS}/selfsubjectaccessreviews");
    let answer = review(&client, &path, "SelfSubjectAccessReview", spec).await?;
    let (is_allowed, line) = answer_line(&answer["status"]);
    if !command.quiet {
        say(&line)?;
    }
    Ok(if is_allowed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn answer_line(status: &Value) -> (bool, String) {
    if status["allowed"] == true {
        return (true, "yes\n".to_owned());
    }
    let why =
        ["reason", "evaluationError"].iter().filter_map(|key| status[*key].as_str()).filter(|why| !why.is_empty());
    (false, format!("no{}\n", why.map(|why| format!(" - {why}")).collect::<String>()))
}

impl CanICommand {
    /// What to ask, and what about the question is odd.
    fn question(&self, kinds: &Kinds) -> Result<(Value, Vec<String>), VerbError> {
        let (verb, what, name) = match self.arguments.as_slice() {
            [verb, what] => (verb, what, None),
            [verb, what, name] => (verb, what, Some(name.as_str())),
            _ => return Err(VerbError::usage(USAGE)),
        };
        let mut warnings = Vec::new();
        let unknown = || format!("verb '{verb}' is not a known verb");
        if what.starts_with('/') {
            if !self.subresource.is_empty() {
                return Err(VerbError::usage("--subresource can not be used with NonResourceURL"));
            }
            warnings.extend((!PATH_VERBS.contains(&verb.as_str())).then(unknown));
            return Ok((json!({"nonResourceAttributes": {"path": what, "verb": verb}}), warnings));
        }
        let (kind, name) = match what.split_once('/') {
            Some((kind, name)) => (kind, Some(name)),
            None => (what.as_str(), name),
        };
        let (group, resource) = self.resource(kinds, kind, &mut warnings);
        warnings.extend((!VERBS.contains(&verb.as_str())).then(unknown));
        let namespace = if self.all_namespaces { "" } else { self.place.namespace() };
        let attributes = json!({"namespace": namespace, "verb": verb, "group": group, "resource": resource,
            "subresource": self.subresource, "name": name.unwrap_or_default()});
        Ok((json!({"resourceAttributes": attributes}), warnings))
    }

    /// Group and resource; a rule may be about one that isn't here.
    fn resource(&self, kinds: &Kinds, name: &str, warnings: &mut Vec<String>) -> (String, String) {
        let known: Option<&Kind> = kinds.known(name);
        let Some(kind) = known else {
            let (resource, group) = name.split_once('.').unwrap_or((name, ""));
            if name != "*" {
                let of_group = if group.is_empty() { String::new() } else { format!(" in group '{group}'") };
                warnings.push(format!("the server doesn't have a resource type '{resource}'{of_group}"));
            }
            return (if name == "*" { "*" } else { group }.to_owned(), resource.to_owned());
        };
        if !kind.is_namespaced && !self.all_namespaces {
            let of_group = if kind.group.is_empty() { String::new() } else { format!(" in group '{}'", kind.group) };
            warnings.push(format!("resource '{}' is not namespace scoped{of_group}", kind.plural));
        }
        (kind.group.clone(), kind.plural.clone())
    }
}

async fn list(command: &CanICommand) -> Result<ExitCode, VerbError> {
    let client = command.place.client();
    let spec = json!({"namespace": command.place.namespace()});
    let path = format!("{REVIEWS}/selfsubjectrulesreviews");
    let answer = review(&client, &path, "SelfSubjectRulesReview", spec).await?;
    say(&align(&rules::table(&answer["status"], !command.no_headers), TABLE))?;
    Ok(ExitCode::SUCCESS)
}

async fn whoami(command: &WhoamiCommand) -> Result<ExitCode, VerbError> {
    let client = command.place.client();
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let answer = review(&client, path, "SelfSubjectReview", Value::Null).await?;
    match command.output {
        Some(Format::Json) => say(&output::json(&answer)?)?,
        Some(Format::Yaml) => say(&output::yaml(&answer)?)?,
        None => say(&align(&attributes(&answer["status"]["userInfo"]), TABLE))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn attributes(user: &Value) -> String {
    let mut out = "ATTRIBUTE\tVALUE\n".to_owned();
    for (title, key) in [("Username", "username"), ("UID", "uid")] {
        let value = user[key].as_str().filter(|value| !value.is_empty());
        out += &value.map(|value| format!("{title}\t{value}\n")).unwrap_or_default();
    }
    if let Some(groups) = user["groups"].as_array().filter(|groups| !groups.is_empty()) {
        out += &format!("Groups\t{}\n", words(groups));
    }
    for (key, values) in user["extra"].as_object().into_iter().flatten() {
        out += &format!("Extra: {key}\t{}\n", words(values.as_array().map_or(&[], Vec::as_slice)));
    }
    out
}

/// `[a b]`, as Go shows a list.
fn words(values: &[Value]) -> String {
    let words: Vec<&str> = values.iter().filter_map(Value::as_str).collect();
    format!("[{}]", words.join(" "))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::client::discovery::tests::some;
    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        command: CanICommand,
    }

    fn asked(arguments: &[&str]) -> Result<(Value, Vec<String>), String> {
        let line = Line::parse_from([&["x"], arguments].concat());
        line.command.question(&some()).map_err(|error| error.to_string())
    }

    #[test]
    fn questions_are_about_a_resource_or_a_path() {
        let (spec, warnings) = asked(&["get", "po", "-n", "a", "--subresource", "log"]).unwrap();
        let expected = json!({"namespace": "a", "verb": "get", "group": "", "resource": "pods", "subresource": "log",
            "name": ""});
        assert_eq!((&spec["resourceAttributes"], warnings), (&expected, vec![]));
        let (spec, _) = asked(&["get", "deployment/x", "-A"]).unwrap();
        let attributes = &spec["resourceAttributes"];
        assert_eq!([&attributes["group"], &attributes["name"], &attributes["namespace"]], ["apps", "x", ""]);
        assert_eq!(asked(&["get", "po", "x"]).unwrap().0["resourceAttributes"]["name"], "x");
        assert_eq!(asked(&["*", "*"]).unwrap().0["resourceAttributes"]["group"], "*");
        let (spec, _) = asked(&["get", "/logs"]).unwrap();
        assert_eq!(spec, json!({"nonResourceAttributes": {"path": "/logs", "verb": "get"}}));
        assert!(asked(&["get"]).is_err() && asked(&["get", "/x", "--subresource", "y"]).is_err());
    }

    #[test]
    fn odd_questions_are_asked_with_a_warning() {
        for (arguments, warning) in [
            (["frob", "po"], "verb 'frob' is not a known verb"),
            (["frob", "/x"], "verb 'frob' is not a known verb"),
            (["get", "nope"], "the server doesn't have a resource type 'nope'"),
            (["get", "no"], "resource 'nodes' is not namespace scoped"),
        ] {
            assert_eq!(asked(&arguments).unwrap().1, [warning]);
        }
    }

    #[test]
    fn answers_say_why_not() {
        assert_eq!(answer_line(&json!({"allowed": true})), (true, "yes\n".to_owned()));
        assert_eq!(answer_line(&json!({"allowed": false})), (false, "no\n".to_owned()));
        assert_eq!(answer_line(&json!({"allowed": false, "reason": "r"})), (false, "no - r\n".to_owned()));
    }

    #[test]
    fn a_user_is_shown_with_what_is_known_of_him() {
        let user = json!({"username": "u", "groups": ["a", "b"], "extra": {"k": ["v"]}});
        assert_eq!(attributes(&user), "ATTRIBUTE\tVALUE\nUsername\tu\nGroups\t[a b]\nExtra: k\t[v]\n");
    }
}
