//! The project's tasks. `cargo xtask --help` lists them.

#![allow(unreachable_pub, reason = "nothing is outside of a program")]
#![allow(clippy::disallowed_methods, reason = "tasks start programs")]

mod apt;
mod bench_pause;
mod bench_pull;
mod build;
mod ci;
mod e2e;
mod image;
mod images;
mod run;
mod setup;
mod sim;
mod test;
mod vm;

use std::process::ExitCode;

use clap::Parser;

/// The project's tasks.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask")]
enum Task {
    /// Sets everything up and runs a demo Pod.
    Run(run::Run),
    /// Sets everything up and runs all tests.
    Test(test::Test),
    /// Runs the tests that need a virtual machine, as an ordinary user.
    E2e(e2e::E2e),
    /// Makes the OCI archive of the pause image.
    Image(image::Args),
    /// Measures.
    #[command(subcommand)]
    Bench(Bench),
    /// Builds the tests' images from Debian packages.
    Images(images::Images),
    /// Lives through random pods with random faults and checks the pod machine's invariants.
    Sim(sim::Sim),
    /// What has to pass before a change lands: formatting, lints, all tests.
    Ci,
}

#[derive(Debug, clap::Subcommand)]
enum Bench {
    /// What pause costs, beside its peers.
    Pause(bench_pause::Args),
    /// How long an image takes from a registry, beside others' tools.
    Pull(bench_pull::Args),
}

fn main() -> ExitCode {
    let done = match Task::parse() {
        Task::Run(task) => task.run(),
        Task::Test(task) => task.run(),
        Task::E2e(task) => task.run(),
        Task::Image(task) => image::run(&task).map(|()| ExitCode::SUCCESS),
        Task::Bench(Bench::Pause(task)) => bench_pause::run(&task).map(|()| ExitCode::SUCCESS),
        Task::Bench(Bench::Pull(task)) => bench_pull::run(&task).map(|()| ExitCode::SUCCESS),
        Task::Images(task) => task.run().map(|()| ExitCode::SUCCESS),
        Task::Sim(task) => task.run(),
        Task::Ci => ci::run(),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
