//! `manual DIR`: manual pages into `DIR/man`, completions into `DIR/completions`, all from the command line's own definition.

use std::error::Error;
use std::path::PathBuf;

use clap_complete::Shell;

fn main() -> Result<(), Box<dyn Error>> {
    let dir = PathBuf::from(std::env::args_os().nth(1).ok_or("manual DIR")?);
    let (man, completions) = (dir.join("man"), dir.join("completions"));
    for dir in [&man, &completions] {
        std::fs::create_dir_all(dir)?;
    }
    let command = supervisor::cli::command();
    clap_mangen::generate_to(command.clone(), &man)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command.clone(), "monopod", &completions)?;
    }
    Ok(())
}
