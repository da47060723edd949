//! The command line.

pub mod admit;
pub mod image;
pub mod output;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "monopod", version, about = "Runs Kubernetes Pods on one machine")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Image(image::ImageCommand),
}

/// Entry of the `monopod` binary.
pub fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(crate::image::unpack::UNPACK_ARGUMENT) {
        return crate::image::unpack_main();
    }
    let done = match Cli::parse().command {
        Command::Image(command) => image::run(&command).map_err(|error| error.to_string()),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::FAILURE
    })
}
