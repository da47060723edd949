//! The command line.

pub mod image;

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
    let Command::Image(command) = Cli::parse().command;
    image::run(&command).unwrap_or_else(|err| {
        eprintln!("error: {err}");
        ExitCode::FAILURE
    })
}
