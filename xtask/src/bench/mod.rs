//! `cargo xtask bench`: figures as ratios against a peer or the kernel's floor, measured in the same run.

mod api;
mod host;
mod life;
mod log;
mod node;
mod pause;
mod pull;
mod start;

use anyhow::Result;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Bench {
    /// What the API costs one client, alone and beside slow, many and deaf ones
    Api(api::Args),
    /// From a process's end to what shows it, and what an init container costs, beside the kernel's floor
    Life(life::Args),
    /// How fast a container can write lines and what the log path costs, beside a file and conmon
    Log(log::Args),
    /// What the node service costs at rest, a burst of pods, and how soon it answers after a kill
    Node(node::Args),
    /// What pause costs, beside the programs that others use in its place
    Pause(pause::Args),
    /// How long an image takes from a registry, beside others' tools
    Pull(pull::Args),
    /// From a manifest to the first line of output and to the end, step by step, beside the kernel's floor
    Start(start::Args),
}

pub(crate) fn run(bench: &Bench) -> Result<()> {
    match bench {
        Bench::Api(args) => api::run(args),
        Bench::Life(args) => life::run(args),
        Bench::Log(args) => log::run(args),
        Bench::Node(args) => node::run(args),
        Bench::Pause(args) => pause::run(args),
        Bench::Pull(args) => pull::run(args),
        Bench::Start(args) => start::run(args),
    }
}

fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}
