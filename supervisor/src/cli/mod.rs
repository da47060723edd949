//! The command line.

pub mod admit;
pub mod check;
pub mod drain;
pub mod image;
pub mod pull_bars;
pub mod reset;
pub mod run;
pub mod serve;
pub mod verbs;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::serve::journal::Journal;

#[derive(Debug, Parser)]
#[command(name = "monopod", version, about = "Runs Kubernetes Pods on one machine")]
struct Cli {
    /// Says more about what is done; twice says everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::RunCommand),
    Serve(serve::ServeCommand),
    Drain(drain::DrainCommand),
    Check(check::CheckCommand),
    Reset(reset::ResetCommand),
    Image(image::ImageCommand),
    #[command(flatten)]
    Verb(verbs::Verb),
}

/// The whole command line, for manual pages and completions.
pub fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

/// Entry of the `monopod` binary.
pub fn main() -> ExitCode {
    crate::sys::abort_on_panic();
    if let Some(worker) = std::env::args().nth(1).as_deref().and_then(crate::image::worker) {
        return worker();
    }
    let cli = Cli::parse();
    log_to_stderr(cli.verbose);
    let done = match cli.command {
        Command::Run(command) => run::run(&command).map_err(|error| error.to_string()),
        Command::Serve(command) => serve::run(&command).map_err(|error| error.to_string()),
        Command::Drain(command) => drain::run(&command).map_err(|error| error.to_string()),
        Command::Check(command) => Ok(check::run(&command)),
        Command::Reset(command) => reset::run(&command).map_err(|error| error.to_string()),
        Command::Image(command) => image::run(&command).map_err(|error| error.to_string()),
        Command::Verb(verb) => Ok(verbs::run(&verb)),
    };
    done.unwrap_or_else(|error| {
        tell(format_args!("error: {error}"));
        ExitCode::FAILURE
    })
}

/// A line for people. Who reads standard error through `head` has seen enough: `eprintln!` would abort then.
pub(crate) fn tell(text: impl std::fmt::Display) {
    let _nobody_reads = std::io::Write::write_all(&mut std::io::stderr(), format!("{text}\n").as_bytes());
}

fn log_to_stderr(verbose: u8) {
    let level = match verbose {
        0 => tracing::Level::WARN,
        1 => tracing::Level::INFO,
        _ => tracing::Level::DEBUG,
    };
    if let Some(journal) = Journal::when_connected() {
        let level = tracing_subscriber::filter::LevelFilter::from_level(level.max(tracing::Level::INFO));
        return tracing_subscriber::registry().with(level).with(journal).init();
    }
    tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_target(false).init();
}
