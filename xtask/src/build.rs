//! Building the workspace and finding what was built.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
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
    cmd!(sh, "cargo build --locked --profile {name} --package supervisor --package pause").run()?;
    Ok(output_dir(sh, profile)?)
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
