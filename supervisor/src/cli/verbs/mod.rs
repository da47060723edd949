//! The verbs of kubectl, for machines without it: clients of the API on the local socket.

pub mod about;
pub mod align;
pub mod apply;
pub mod auth;
pub mod client;
pub mod columns;
pub mod cp;
pub mod debug;
pub mod delete;
pub mod describe;
pub mod diff;
pub mod discover;
pub mod edit;
pub mod events;
pub mod exec;
pub mod explain;
pub mod expose;
pub mod files;
pub mod generate;
pub mod get;
pub mod jsonpath;
pub mod logs;
pub mod output;
pub mod patch;
pub mod port_forward;
pub mod remote;
pub mod span;
pub mod table;
pub mod targets;
pub mod top;
pub mod wait;
pub mod watch;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use client::Client;
use client::discovery::Kinds;
use client::error::VerbError;

use crate::cli::tell;
use crate::config::Config;

/// A verb with what it is about.
#[derive(Debug, clap::Subcommand)]
pub enum Verb {
    Get(get::GetCommand),
    Apply(apply::ApplyCommand),
    Create(apply::CreateCommand),
    Replace(edit::ReplaceCommand),
    Edit(edit::EditCommand),
    Diff(diff::DiffCommand),
    Delete(delete::DeleteCommand),
    Logs(logs::LogsCommand),
    Describe(describe::DescribeCommand),
    Events(events::EventsCommand),
    Explain(explain::ExplainCommand),
    Exec(exec::ExecCommand),
    Attach(exec::AttachCommand),
    Cp(cp::CpCommand),
    PortForward(port_forward::PortForwardCommand),
    Top(top::TopCommand),
    Wait(wait::WaitCommand),
    Label(patch::LabelCommand),
    Annotate(patch::AnnotateCommand),
    Patch(patch::PatchCommand),
    Expose(expose::ExposeCommand),
    Debug(debug::DebugCommand),
    ApiResources(discover::ResourcesCommand),
    ApiVersions(discover::VersionsCommand),
    Version(about::VersionCommand),
    ClusterInfo(about::ClusterInfoCommand),
    Auth(auth::AuthCommand),
}

/// Where to ask.
#[derive(Debug, Clone, clap::Args)]
pub struct Place {
    /// Namespace [default: default]
    #[arg(short, long, value_name = "NAME", global = true)]
    namespace: Option<String>,
    /// Socket of the node service [default: that of its configuration, /run/monopod/monopod.sock]
    #[arg(long, value_name = "PATH", global = true)]
    socket: Option<PathBuf>,
}

impl Place {
    fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or("default")
    }

    fn client(&self) -> Client {
        // Who may not read the configuration may still have the socket.
        let configured = || Config::read(None).unwrap_or_default().socket();
        Client::new(self.socket.clone().unwrap_or_else(configured))
    }

    /// The client, and what the server has.
    async fn ask(&self) -> Result<(Client, Kinds), VerbError> {
        let client = self.client();
        let kinds = Kinds::ask(&client).await?;
        Ok((client, kinds))
    }
}

/// Runs a verb; what went wrong is on standard error then.
pub fn run(verb: &Verb) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tell(format_args!("error: start the runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let done = runtime.block_on(Box::pin(dispatch(verb)));
    // A read of standard input never ends by itself.
    runtime.shutdown_background();
    done.unwrap_or_else(|error| {
        if !error.is_closed_output() {
            tell(error);
        }
        ExitCode::FAILURE
    })
}

async fn dispatch(verb: &Verb) -> Result<ExitCode, VerbError> {
    match verb {
        Verb::Get(command) => get::run(command).await,
        Verb::Apply(command) => apply::apply(command).await,
        Verb::Create(command) => apply::create(command).await,
        Verb::Replace(command) => edit::replace(command).await,
        Verb::Edit(command) => edit::edit(command).await,
        Verb::Diff(command) => diff::run(command).await,
        Verb::Delete(command) => delete::run(command).await,
        Verb::Logs(command) => logs::run(command).await,
        Verb::Describe(command) => describe::run(command).await,
        Verb::Events(command) => events::run(command).await,
        Verb::Explain(command) => explain::run(command).await,
        Verb::Exec(command) => exec::exec(command).await,
        Verb::Attach(command) => exec::attach(command).await,
        Verb::Cp(command) => cp::run(command).await,
        Verb::PortForward(command) => port_forward::run(command).await,
        Verb::Top(command) => top::run(command).await,
        Verb::Wait(command) => wait::run(command).await,
        Verb::Label(command) => patch::label(command).await,
        Verb::Annotate(command) => patch::annotate(command).await,
        Verb::Patch(command) => patch::patch(command).await,
        Verb::Expose(command) => expose::run(command).await,
        Verb::Debug(command) => debug::run(command).await,
        Verb::ApiResources(command) => discover::resources(command).await,
        Verb::ApiVersions(command) => discover::versions(command).await,
        Verb::Version(command) => about::version(command).await,
        Verb::ClusterInfo(command) => about::cluster_info(command).await,
        Verb::Auth(command) => auth::run(command).await,
    }
}

/// Writes to standard output; a reader that went away is an error, not a panic.
fn say(text: &str) -> Result<(), VerbError> {
    say_bytes(text.as_bytes())
}

fn say_bytes(bytes: &[u8]) -> Result<(), VerbError> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(VerbError::Output)
}

/// Failures of a verb about several objects: each is said, the others go on.
#[derive(Debug, Default)]
struct Failures {
    has_failed: bool,
    /// Said at the end, after what could be shown.
    held: Vec<VerbError>,
}

impl Failures {
    /// Says an error, unless standard output or the daemon is gone: then nothing goes on.
    fn note<T>(&mut self, result: Result<T, VerbError>) -> Result<Option<T>, VerbError> {
        let value = self.hold(result)?;
        self.say();
        Ok(value)
    }

    /// Keeps an error for the end.
    fn hold<T>(&mut self, result: Result<T, VerbError>) -> Result<Option<T>, VerbError> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error @ (VerbError::Output(_) | VerbError::Connect { .. })) => Err(error),
            Err(error) => {
                self.has_failed = true;
                self.held.push(error);
                Ok(None)
            }
        }
    }

    fn say(&mut self) {
        self.held.drain(..).for_each(tell);
    }

    fn code(mut self) -> ExitCode {
        self.say();
        if self.has_failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}
