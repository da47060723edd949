//! The project's tasks. `cargo xtask --help` lists them.

#![allow(unreachable_pub, reason = "nothing is outside of a program")]
#![allow(clippy::disallowed_methods, reason = "tasks start programs")]

mod apt;
mod bench;
mod build;
mod ci;
mod clients;
mod codegen;
mod dist;
mod e2e;
mod fuzz;
mod image;
mod images;
mod lane;
mod run;
mod setup;
mod sim;
mod test;
mod torture;
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
    /// Makes what users install: a Debian package, a tarball, checksums.
    Dist(dist::Args),
    /// Measures.
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Builds the tests' images from Debian packages.
    Images(images::Images),
    /// Feeds every parser with mutated samples for a while.
    Fuzz(fuzz::Fuzz),
    /// Lives through random pods with random faults and checks the pod machine's invariants.
    Sim(sim::Sim),
    /// Kills the daemon over and over while pods end on schedule: nothing may be lost.
    Torture(torture::Torture),
    /// Writes generated files that are kept in the tree.
    #[command(subcommand)]
    Codegen(codegen::Codegen),
    /// What has to pass before a change lands: formatting, lints, all tests.
    Ci,
}

fn main() -> ExitCode {
    let done = match Task::parse() {
        Task::Run(task) => task.run(),
        Task::Test(task) => task.run(),
        Task::E2e(task) => task.run(),
        Task::Image(task) => image::run(&task).map(|()| ExitCode::SUCCESS),
        Task::Dist(task) => dist::run(&task).map(|()| ExitCode::SUCCESS),
        Task::Bench(bench) => bench::run(&bench).map(|()| ExitCode::SUCCESS),
        Task::Images(task) => task.run().map(|()| ExitCode::SUCCESS),
        Task::Fuzz(task) => task.run(),
        Task::Sim(task) => task.run(),
        Task::Torture(task) => task.run(),
        Task::Codegen(task) => task.run().map(|()| ExitCode::SUCCESS),
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
