//! Building the workspace and finding what was built.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use xshell::{Shell, cmd};

/// Which of the profiles in the workspace's manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Built in seconds; what tests and the demo use.
    Ci,
    /// What is shipped.
    Release,
}

impl Profile {
    pub fn name(self) -> &'static str {
        match self {
            Self::Ci => "ci",
            Self::Release => "release",
        }
    }
}

/// The root of the checkout.
pub fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// A shell that stands in the checkout's root.
pub fn shell() -> Result<Shell> {
    let sh = Shell::new().context("open a shell")?;
    sh.change_dir(root());
    Ok(sh)
}

/// Builds the shipped binaries; the directory that holds them.
pub fn binaries(sh: &Shell, profile: Profile) -> Result<PathBuf> {
    let name = profile.name();
    cmd!(sh, "cargo build --locked --profile {name} --package supervisor --bins").run()?;
    pause(sh, profile)?;
    output_dir(sh, profile)
}

/// A program of tests.
#[derive(Debug)]
pub struct Tests {
    pub program: PathBuf,
    /// The package's, where cargo would start it.
    pub dir: PathBuf,
}

/// All tests, and the shipped binaries that some of them start.
pub fn tests(sh: &Shell) -> Result<Vec<Tests>> {
    // One cargo for all: two crates of the same size are compiled side by side.
    let messages = cmd!(sh, "cargo test --locked --workspace --profile ci --tests --no-run")
        .args(["--message-format", "json-render-diagnostics"])
        .read()?;
    pause(sh, Profile::Ci)?;
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut tests: Vec<Tests> = messages
        .filter(|message| message["profile"]["test"] == true)
        .filter_map(|message| {
            let program = PathBuf::from(message["executable"].as_str()?);
            Some(Tests { program, dir: Path::new(message["manifest_path"].as_str()?).parent()?.to_path_buf() })
        })
        .collect();
    tests.sort_by(|one, other| one.program.cmp(&other.program));
    ensure!(!tests.is_empty(), "cargo built no tests");
    Ok(tests)
}

/// By itself, because it has no unwinder, and a profile of tests has to unwind.
fn pause(sh: &Shell, profile: Profile) -> Result<()> {
    let name = profile.name();
    Ok(cmd!(sh, "cargo rustc --locked --profile {name} --package pause --bin pause -- -C panic=abort").quiet().run()?)
}

/// The shipped binaries and the tests' binary, built by one cargo.
#[derive(Debug)]
pub struct Built {
    /// The directory that holds `monopod`, `monitor` and `pause`.
    pub bin: PathBuf,
    /// The binary of `tests`.
    pub it: PathBuf,
}

/// Builds what runs in the virtual machine; where it lies, by what cargo says.
pub fn with_tests(sh: &Shell, profile: Profile) -> Result<Built> {
    let name = profile.name();
    let what = ["--package", "supervisor", "--package", "tests", "--bins", "--test", "it"];
    let messages =
        cmd!(sh, "cargo build --locked --profile {name} {what...} --message-format json-render-diagnostics").read()?;
    let built: Vec<serde_json::Value> = messages.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let executable = |target: &str| {
        let paths = built.iter().filter(|message| message["target"]["name"] == target);
        let path = paths.filter_map(|message| message["executable"].as_str().map(PathBuf::from)).next_back();
        path.with_context(|| format!("cargo built no {target}"))
    };
    pause(sh, profile)?;
    let bin = executable("monopod")?.parent().context("directory of monopod")?.to_path_buf();
    Ok(Built { bin, it: executable("it")? })
}

/// Where cargo puts what it builds for this machine.
pub fn output_dir(sh: &Shell, profile: Profile) -> Result<PathBuf> {
    let metadata = cmd!(sh, "cargo metadata --format-version 1 --no-deps --offline").quiet().read()?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata).context("parse cargo metadata")?;
    let target = metadata["target_directory"].as_str().context("cargo metadata names no target directory")?;
    Ok(Path::new(target).join(host_triple(sh)?).join(profile.name()))
}

fn host_triple(sh: &Shell) -> Result<String> {
    Ok(cmd!(sh, "rustc --print host-tuple").quiet().read()?.trim().to_owned())
}
