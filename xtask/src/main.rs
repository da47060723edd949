//! The project's tasks.

mod bench_pause;
mod image;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(about = "The project's tasks")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Makes the OCI archive of the pause image
    Image(image::Args),
    /// Measures
    #[command(subcommand)]
    Bench(Bench),
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// What pause costs, beside its peers
    Pause(bench_pause::Args),
}

fn main() -> Result<()> {
    match Cli::parse().task {
        Task::Image(args) => image::run(&args),
        Task::Bench(Bench::Pause(args)) => bench_pause::run(&args),
    }
}
