//! The project's tasks.

mod images;

use clap::Parser;

#[derive(Debug, Parser)]
#[command(name = "xtask", about = "The project's tasks")]
enum Task {
    Images(images::Images),
}

fn main() -> anyhow::Result<()> {
    match Task::parse() {
        Task::Images(images) => images.run(),
    }
}
