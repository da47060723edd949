//! Transcripts: commands and what they must print, as a user would see it on a terminal.
//!
//! `$ ` starts a command of sh; the lines after it are its output, both streams together, then `[exit N]` unless it succeeds.
//! `$1.27 ` starts one for clients of that version and newer.
//! In expected output `…` stands for any text within a line, a line of `⋮` for any number of lines, and runs of blanks count
//! as one. Lines that start with `#` before a command are comments.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// Longest that one command may take, in seconds.
const COMMAND_SECONDS: &str = "60";

/// One command with what it must print.
#[derive(Debug, PartialEq, Eq)]
pub struct Step {
    pub command: String,
    /// The oldest minor version of a client that knows the command and prints this.
    pub since: u32,
    pub expected: Vec<String>,
}

/// The steps of a transcript.
pub fn parse(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut comment = true;
    for line in text.lines() {
        if let Some((since, command)) = started(line) {
            steps.push(Step { command: command.to_owned(), since, expected: Vec::new() });
            comment = false;
        } else if line.starts_with("## ") {
            comment = true;
        } else if let (false, Some(step)) = (comment, steps.last_mut()) {
            step.expected.push(line.to_owned());
        }
    }
    for step in &mut steps {
        // An empty line before the next heading is only for the eye.
        while step.expected.last().is_some_and(String::is_empty) {
            step.expected.pop();
        }
    }
    steps
}

/// The version and the command, when the line is one.
fn started(line: &str) -> Option<(u32, &str)> {
    let (version, command) = line.strip_prefix('$')?.split_once(' ')?;
    let since = if version.is_empty() { 0 } else { version.strip_prefix("1.")?.parse().ok()? };
    Some((since, command))
}

/// Runs all steps in a directory; reports every step that printed something else.
pub fn run<'a>(steps: impl IntoIterator<Item = &'a Step>, dir: &Path, prepare: impl Fn(&mut Command)) -> Result<()> {
    let (mut wrong, mut all) = (Vec::new(), 0);
    for step in steps {
        all += 1;
        let printed = one(&step.command, dir, &prepare)?;
        if !matches(&step.expected, &printed) {
            let expected = step.expected.join("\n");
            wrong.push(format!("$ {}\n--- expected\n{expected}\n--- printed\n{}", step.command, printed.join("\n")));
        }
    }
    if !wrong.is_empty() {
        bail!("{} of {} commands printed something else:\n\n{}", wrong.len(), all, wrong.join("\n\n"));
    }
    Ok(())
}

fn one(command: &str, dir: &Path, prepare: impl Fn(&mut Command)) -> Result<Vec<String>> {
    // One pipe for both streams keeps their order.
    let script = format!("exec 2>&1\n{command}\n");
    let mut shell = Command::new("timeout");
    shell.args(["--kill-after=5", COMMAND_SECONDS, "sh", "-c", &script]).current_dir(dir).stdin(Stdio::null());
    prepare(&mut shell);
    let output = shell.output().with_context(|| format!("start {command}"))?;
    let mut lines: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    match output.status.code() {
        Some(0) => {}
        Some(code) => lines.push(format!("[exit {code}]")),
        None => lines.push(format!("[{}]", output.status)),
    }
    Ok(lines)
}

/// Whether output is what was expected.
fn matches(expected: &[String], printed: &[String]) -> bool {
    match expected.split_first() {
        None => printed.is_empty(),
        Some((line, rest)) if line == "⋮" => (0..=printed.len()).any(|skip| matches(rest, &printed[skip..])),
        Some((line, rest)) => match printed.split_first() {
            Some((first, others)) => line_matches(line, first) && matches(rest, others),
            None => false,
        },
    }
}

fn line_matches(expected: &str, printed: &str) -> bool {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (expected, printed) = (words(expected), words(printed));
    let parts: Vec<&str> = expected.split('…').collect();
    let [first, middle @ .., last] = parts.as_slice() else {
        return expected == printed;
    };
    let Some(mut rest) = printed.strip_prefix(first) else { return false };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// What the matcher has to accept and to refuse.
pub fn check() -> Result<()> {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let cases = [
        ("a  b", "a b", true),
        ("a …", "a 5m", true),
        ("a … c", "a b b c", true),
        ("a … c", "a b", false),
        ("…", "anything", true),
        ("x\n⋮\ny", "x\n1\n2\ny", true),
        ("x\n⋮\ny", "x\ny", true),
        ("x\n⋮\ny", "x\nz", false),
        ("x", "x\ny", false),
        ("⋮\n[exit 1]", "e\n[exit 1]", true),
    ];
    for (expected, printed, result) in cases {
        anyhow::ensure!(matches(&lines(expected), &lines(printed)) == result, "{expected:?} against {printed:?}");
    }
    let steps = parse("# c\n\n## h\n$ one\nout\n\n## h\n# c\n$ two\n");
    anyhow::ensure!(steps.len() == 2 && steps[0].expected == ["out"] && steps[1].expected.is_empty(), "{steps:?}");
    let steps = parse("## h\n$ one\n$1.27 two\n$x three\n");
    let parsed: Vec<(u32, &str)> = steps.iter().map(|step| (step.since, &*step.command)).collect();
    anyhow::ensure!(parsed == [(0, "one"), (27, "two")] && steps[1].expected == ["$x three"], "{steps:?}");
    Ok(())
}
