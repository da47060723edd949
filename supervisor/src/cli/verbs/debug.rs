//! `monopod debug`: one more container in a running pod.

mod profile;

use std::process::ExitCode;

use http::Method;
use serde_json::{Value, json};

use super::client::error::VerbError;
use super::client::{Call, Client};
use super::exec::{Streams, attach_to};
use super::generate::variables;
use super::logs::pod_path;
use super::targets::pod_name;
use super::watch::{Change, Watch};
use super::{Place, say_bytes};
use profile::Profile;

/// What names are made of: no vowels, so no words.
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LENGTH: usize = 5;
const STRATEGIC: &str = "application/strategic-merge-patch+json";

/// Starts one more container in a running pod, to look around in it
///
/// `monopod debug -it POD --image IMAGE --target CONTAINER -- sh`. It stays in the pod's list after its end.
#[derive(Debug, clap::Args)]
pub struct DebugCommand {
    #[command(flatten)]
    place: Place,
    /// Pod: NAME or pod/NAME
    #[arg(value_name = "POD")]
    pod: String,
    /// Image of the container
    #[arg(long, value_name = "IMAGE")]
    image: String,
    /// When its image is pulled: Always, IfNotPresent or Never
    #[arg(long, value_name = "POLICY")]
    image_pull_policy: Option<String>,
    /// The container whose processes it sees
    #[arg(long, value_name = "CONTAINER")]
    target: Option<String>,
    /// What the container may do
    #[arg(long, value_name = "PROFILE", default_value = "general")]
    profile: Profile,
    /// A variable; may be given several times
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Whether to attach to it; with -i by default
    #[arg(long, value_name = "YES", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        action = clap::ArgAction::Set)]
    attach: Option<bool>,
    #[command(flatten)]
    streams: Streams,
    /// What stands after -- are arguments of the image's own command
    #[arg(long)]
    arguments_only: bool,
    /// The command with its arguments; that of the image by default
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Runs `monopod debug ...`.
///
/// # Errors
/// There is no such pod, or the server refuses the container.
pub async fn run(command: &DebugCommand) -> Result<ExitCode, VerbError> {
    let client = command.place.client();
    let pod = pod_name(&command.pod)?;
    let path = pod_path(command.place.namespace(), pod);
    let is_quiet = command.streams.quiet;
    if let Some(target) = command.target.as_ref().filter(|_| !is_quiet) {
        eprintln!(
            "Targeting container {target:?}. If you don't see processes from this container it may be because the container \
             runtime doesn't support this feature."
        );
    }
    let before = client.json(Call::get(path.as_str())).await?;
    let mut streams = command.streams.clone();
    let name = streams.container.get_or_insert_with(|| format!("debugger-{}", suffix())).clone();
    if command.streams.container.is_none() && !is_quiet {
        eprintln!("Defaulting debug container name to {name}.");
    }
    let patch = json!({"spec": {
        "$setElementOrder/ephemeralContainers": order(&before, &name),
        "ephemeralContainers": [command.container(&name)?],
    }});
    let call = Call::new(Method::PATCH, format!("{path}/ephemeralcontainers"));
    client.json(call.query("fieldManager", "monopod-debug").body(STRATEGIC, &patch)).await?;
    if !command.attach.unwrap_or(streams.stdin) {
        return Ok(ExitCode::SUCCESS);
    }
    match started(&client, command.place.namespace(), pod, &name).await? {
        State::Running => {
            let code = Box::pin(attach_to(&client, &command.place, pod, &streams)).await?;
            if streams.stdin && streams.tty && !is_quiet {
                eprintln!(
                    "Session ended, the ephemeral container will not be restarted but may be reattached using \
                     'monopod attach {pod} -c {name} -i -t' if it is still running"
                );
            }
            Ok(code)
        }
        State::Terminated => logs(&client, &path, &name).await,
    }
}

impl DebugCommand {
    fn container(&self, name: &str) -> Result<Value, VerbError> {
        let mut container = json!({"name": name, "image": self.image, "terminationMessagePolicy": "File"});
        let mut set = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                container[key] = value;
            }
        };
        let words = if self.arguments_only { "args" } else { "command" };
        set(words, (!self.command.is_empty()).then(|| json!(self.command)));
        set("imagePullPolicy", self.image_pull_policy.clone().map(Value::from));
        set("targetContainerName", self.target.clone().map(Value::from));
        set("stdin", self.streams.stdin.then_some(Value::Bool(true)));
        set("tty", self.streams.tty.then_some(Value::Bool(true)));
        set("securityContext", self.profile.security_context());
        if !self.env.is_empty() {
            set("env", Some(variables(&self.env)?));
        }
        Ok(container)
    }
}

/// The new one after the others; a patch that says nothing puts it first.
fn order(pod: &Value, name: &str) -> Value {
    let known = pod["spec"]["ephemeralContainers"].as_array().map_or(&[][..], Vec::as_slice);
    let names = known.iter().filter_map(|container| container["name"].as_str()).chain([name]);
    names.map(|name| json!({"name": name})).collect()
}

fn suffix() -> String {
    let random = uuid::Uuid::new_v4();
    // The bytes in the middle tell the version.
    let letters = random.as_bytes().iter().take(SUFFIX_LENGTH);
    letters.filter_map(|byte| LETTERS.get(usize::from(*byte) % LETTERS.len())).copied().map(char::from).collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Terminated,
}

/// Waits until a container runs, or has run.
async fn started(client: &Client, namespace: &str, pod: &str, container: &str) -> Result<State, VerbError> {
    let list = || {
        let path = pod_path(namespace, "");
        Call::get(path.trim_end_matches('/')).query("fieldSelector", format!("metadata.name={pod}"))
    };
    let mut warned = String::new();
    loop {
        let found = client.json(list()).await?;
        let version = found["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
        let first = found["items"].get(0).cloned();
        if let Some(state) = first.and_then(|pod| state(&pod, container, &mut warned)) {
            return Ok(state);
        }
        let mut watch = Watch::start(client, list(), &version).await?;
        loop {
            match watch.next().await {
                Ok(Some((Change::Changed, pod))) => {
                    if let Some(state) = state(&pod, container, &mut warned) {
                        return Ok(state);
                    }
                }
                Ok(Some((Change::Deleted, _))) => return Err(VerbError::usage(format!("pod {pod:?} was deleted"))),
                Ok(None) => break,
                Err(error) if error.is_expired() => break,
                Err(error) => return Err(error),
            }
        }
    }
}

/// What a pod says of a container; says what keeps it from starting, each reason once.
fn state(pod: &Value, container: &str, warned: &mut String) -> Option<State> {
    let statuses = pod["status"]["ephemeralContainerStatuses"].as_array().map_or(&[][..], Vec::as_slice);
    let state = &statuses.iter().find(|status| status["name"] == container)?["state"];
    if state["running"].is_object() {
        return Some(State::Running);
    }
    if state["terminated"].is_object() {
        return Some(State::Terminated);
    }
    let message = state["waiting"]["message"].as_str().unwrap_or_default();
    if !message.is_empty() && message != warned {
        message.clone_into(warned);
        eprintln!("warning: container {container}: {message}");
    }
    None
}

/// What a container that has ended already wrote.
async fn logs(client: &Client, path: &str, container: &str) -> Result<ExitCode, VerbError> {
    use http_body_util::BodyExt as _;
    let call = Call::get(format!("{path}/log")).accept("*/*").query("container", container);
    let body = client.send(call).await?.into_body().collect().await.map_err(VerbError::Http)?;
    say_bytes(&body.to_bytes())?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        command: DebugCommand,
    }

    #[test]
    fn the_container_is_made_of_what_was_said() {
        let container = |arguments: &[&str]| {
            Line::parse_from([&["x", "p", "--image=i"], arguments].concat()).command.container("d").unwrap()
        };
        let expected = json!({"name": "d", "image": "i", "terminationMessagePolicy": "File"});
        assert_eq!(container(&["--profile=legacy"]), expected);
        let expected = json!({"name": "d", "image": "i", "terminationMessagePolicy": "File", "command": ["sh"],
            "stdin": true, "tty": true, "targetContainerName": "c", "env": [{"name": "A", "value": "b"}],
            "securityContext": {"capabilities": {"add": ["SYS_PTRACE"]}}});
        assert_eq!(container(&["-it", "--target=c", "--env=A=b", "--", "sh"]), expected);
    }

    #[test]
    fn the_new_container_comes_last() {
        let pod = json!({"spec": {"ephemeralContainers": [{"name": "a", "image": "i"}]}});
        assert_eq!(order(&pod, "b"), json!([{"name": "a"}, {"name": "b"}]));
        assert_eq!(order(&json!({}), "b"), json!([{"name": "b"}]));
    }

    #[test]
    fn a_container_has_started_when_it_runs_or_has_run() {
        let pod = |state: Value| json!({"status": {"ephemeralContainerStatuses": [{"name": "d", "state": state}]}});
        let mut warned = String::new();
        let mut of = |value: Value, name: &str| state(&pod(value), name, &mut warned);
        assert_eq!(of(json!({"running": {}}), "d"), Some(State::Running));
        assert_eq!(of(json!({"terminated": {}}), "d"), Some(State::Terminated));
        assert_eq!(of(json!({"waiting": {"message": "m"}}), "d"), None);
        assert_eq!(of(json!({"running": {}}), "other"), None);
        assert_eq!(warned, "m");
    }

    #[test]
    fn names_end_in_letters_that_make_no_words() {
        let suffix = suffix();
        assert!(suffix.len() == SUFFIX_LENGTH && suffix.bytes().all(|byte| LETTERS.contains(&byte)), "{suffix}");
    }
}
