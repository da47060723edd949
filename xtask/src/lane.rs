//! Steps that go on beside something that mostly waits; what they say is heard when that has ended.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow};

use crate::build;

/// A program of a lane.
#[derive(Debug)]
pub struct Step {
    pub name: &'static str,
    pub command: Command,
    /// Whether it is of interest what a successful run said.
    pub tells: bool,
}

/// Steps that run one after the other.
#[derive(Debug)]
pub struct Lane {
    thread: JoinHandle<Result<bool>>,
    said: Arc<Mutex<Said>>,
}

/// What the steps said.
#[derive(Debug)]
enum Said {
    /// Kept until somebody listens.
    Before(String),
    /// Printed as it comes.
    Aloud,
}

impl Lane {
    pub fn start(steps: Vec<Step>) -> Result<Self> {
        let names: Vec<&str> = steps.iter().map(|step| step.name).collect();
        eprintln!("beside the tests of this machine, and heard after them: {}", names.join(", "));
        let said = Arc::new(Mutex::new(Said::Before(String::new())));
        let all = Arc::clone(&said);
        let run = move || {
            let each = steps.into_iter().map(|step| step.run(&all));
            // A failure keeps nobody else from running.
            each.collect::<Result<Vec<bool>>>().map(|all| all.into_iter().all(|one| one))
        };
        let thread = std::thread::Builder::new().name("lane".to_owned()).spawn(run).context("start a thread")?;
        Ok(Self { thread, said })
    }

    /// Prints what the steps said and say until all have ended; whether all succeeded.
    pub fn end(self) -> Result<bool> {
        {
            let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            if let Said::Before(text) = std::mem::replace(&mut *said, Said::Aloud) {
                print!("{text}");
            }
        }
        self.thread.join().map_err(|_| anyhow!("a lane panicked"))?
    }
}

impl Step {
    fn run(self, said: &Mutex<Said>) -> Result<bool> {
        let Self { name, mut command, tells } = self;
        let (reader, writer) = std::io::pipe().context("make a pipe")?;
        command.current_dir(build::root()).stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
        let mut child = command.spawn().with_context(|| format!("run {command:?}"))?;
        // Its ends of the pipe would keep the reader waiting.
        drop(command);
        tell(said, &format!("--- {name}"));
        let mut kept = String::new();
        for line in BufReader::new(reader).split(b'\n') {
            let line = line.with_context(|| format!("read what {name} says"))?;
            let line = String::from_utf8_lossy(&line);
            if tells {
                tell(said, &line);
            } else {
                kept.push_str(&line);
                kept.push('\n');
            }
        }
        let status = child.wait().with_context(|| format!("wait for {name}"))?;
        if !status.success() {
            tell(said, &kept);
        }
        tell(said, &format!("--- {name}: {status}"));
        Ok(status.success())
    }
}

fn tell(said: &Mutex<Said>, line: &str) {
    match &mut *said.lock().unwrap_or_else(PoisonError::into_inner) {
        Said::Before(text) => {
            text.push_str(line);
            text.push('\n');
        }
        Said::Aloud => println!("{line}"),
    }
}
