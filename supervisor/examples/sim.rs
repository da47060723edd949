//! Runs the pod machine's simulation: `sim FIRST COUNT`. `cargo xtask sim` starts it, optimised.

use std::process::ExitCode;

use supervisor::pod::sim;

/// Failures that are printed before the run ends.
const SHOWN: usize = 10;

fn main() -> ExitCode {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let (Some(Ok(first)), Some(Ok(count))) = (numbers.next(), numbers.next()) else {
        eprintln!("usage: sim FIRST COUNT");
        return ExitCode::FAILURE;
    };
    let failures: Vec<_> =
        (first..first.saturating_add(count)).filter_map(|seed| sim::run(seed).err()).take(SHOWN).collect();
    for failure in &failures {
        println!("{failure}");
    }
    if count == 1 && !failures.is_empty() {
        println!("{}", sim::picture(first));
    }
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
