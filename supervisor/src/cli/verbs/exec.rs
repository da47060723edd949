//! `monopod exec`, `monopod attach`

use std::io::IsTerminal as _;
use std::process::ExitCode;

use serde_json::Value;

use super::Place;
use super::client::error::VerbError;
use super::client::{Call, Client};
use super::logs::{default_container, pod_path};
use super::remote::{self, Session};
use super::targets::pod_name;

/// Runs a command in a container
///
/// `monopod exec POD -- ls /`, `monopod exec -it POD -c CONTAINER -- sh`
#[derive(Debug, clap::Args)]
pub struct ExecCommand {
    #[command(flatten)]
    place: Place,
    /// Pod: NAME or pod/NAME
    #[arg(value_name = "POD")]
    pod: String,
    #[command(flatten)]
    streams: Streams,
    /// The command with its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Follows what a container's first process writes, and writes to it with -i
#[derive(Debug, clap::Args)]
pub struct AttachCommand {
    #[command(flatten)]
    place: Place,
    /// Pod: NAME or pod/NAME
    #[arg(value_name = "POD")]
    pod: String,
    #[command(flatten)]
    streams: Streams,
}

/// What of this process takes part.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Streams {
    /// Container; the first one by default
    #[arg(short, long, value_name = "NAME")]
    pub(super) container: Option<String>,
    /// Passes standard input on
    #[arg(short = 'i', long)]
    pub(super) stdin: bool,
    /// Standard input is a terminal
    #[arg(short, long)]
    pub(super) tty: bool,
    /// Says nothing of its own
    #[arg(short, long)]
    pub(super) quiet: bool,
}

/// Runs `monopod exec ...`; its exit code is that of the command.
///
/// # Errors
/// There is no such pod, or the container does not run.
pub async fn exec(command: &ExecCommand) -> Result<ExitCode, VerbError> {
    let client = command.place.client();
    let (call, has_terminal) = call(&client, &command.place, &command.pod, "exec", &command.streams).await?;
    let call = command.command.iter().fold(call, |call, word| call.query("command", word.as_str()));
    run(&client, call, &command.streams, has_terminal).await
}

/// Runs `monopod attach ...`.
///
/// # Errors
/// There is no such pod, or the container does not run.
pub async fn attach(command: &AttachCommand) -> Result<ExitCode, VerbError> {
    attach_to(&command.place.client(), &command.place, &command.pod, &command.streams).await
}

/// Attaches to a container.
///
/// # Errors
/// There is no such pod, or the container does not run.
pub(super) async fn attach_to(
    client: &Client,
    place: &Place,
    pod: &str,
    streams: &Streams,
) -> Result<ExitCode, VerbError> {
    let (call, has_terminal) = call(client, place, pod, "attach", streams).await?;
    if !streams.quiet {
        eprintln!("If you don't see a command prompt, try pressing enter.");
    }
    run(client, call, streams, has_terminal).await
}

async fn call(
    client: &Client,
    place: &Place,
    pod: &str,
    verb: &str,
    streams: &Streams,
) -> Result<(Call, bool), VerbError> {
    let path = pod_path(place.namespace(), pod_name(pod)?);
    let found = client.json(Call::get(path.as_str())).await?;
    let phase = found["status"]["phase"].as_str().unwrap_or_default();
    if matches!(phase, "Succeeded" | "Failed") {
        let doing = if verb == "exec" { "exec into a container in" } else { "attach a container in" };
        return Err(VerbError::usage(format!("cannot {doing} a completed pod; current phase is {phase}")));
    }
    let container = streams.container.clone().unwrap_or_else(|| default_container(&found));
    let has_terminal = streams.tty && streams.stdin && std::io::stdin().is_terminal();
    if streams.tty && streams.stdin && !has_terminal {
        eprintln!("Unable to use a TTY - input is not a terminal or the right kind of file");
    }
    // A container that has no terminal has nothing to attach to as one.
    let is_tty = has_terminal && (verb == "exec" || container_has_tty(&found, &container));
    let call = Call::get(format!("{path}/{verb}"))
        .query("container", container)
        .query("stdin", streams.stdin.to_string())
        .query("stdout", "true")
        .query("stderr", (!is_tty).to_string())
        .query("tty", is_tty.to_string());
    Ok((call, is_tty))
}

fn container_has_tty(pod: &Value, name: &str) -> bool {
    let lists = ["containers", "initContainers", "ephemeralContainers"];
    let mut all = lists.iter().flat_map(|list| pod["spec"][list].as_array().into_iter().flatten());
    all.any(|container| container["name"] == name && container["tty"] == true)
}

async fn run(client: &Client, call: Call, streams: &Streams, has_terminal: bool) -> Result<ExitCode, VerbError> {
    let session = Session { has_stdin: streams.stdin, has_terminal };
    let status = Box::pin(remote::run(client, call, session)).await?;
    finish(&status)
}

/// The exit code of a command as that of this process.
pub(super) fn finish(status: &Value) -> Result<ExitCode, VerbError> {
    match remote::exit_code(status) {
        Ok(0) => Ok(ExitCode::SUCCESS),
        Ok(code) => {
            eprintln!("command terminated with exit code {code}");
            Ok(ExitCode::from(code))
        }
        Err(message) => Err(VerbError::Usage(message)),
    }
}
