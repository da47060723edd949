//! The demo: from a fresh machine to a running Pod with one command.

use std::os::unix::process::CommandExt as _;
use std::process::ExitCode;

use anyhow::{Context, Result};
use xshell::cmd;

use crate::build::{self, Profile};
use crate::setup;

/// Sets everything up and runs a demo Pod.
#[derive(Debug, clap::Args)]
pub struct Run {
    /// The manifest to run; the demo's by default.
    manifest: Option<std::path::PathBuf>,
    /// Ends the Pod gracefully after this long.
    #[arg(long = "for", value_name = "DURATION")]
    duration: Option<String>,
    /// Builds what is shipped, which takes minutes.
    #[arg(long)]
    release: bool,
}

/// Two containers that share a volume.
const DEMO: &str = "tests/manifests/01-shared-volume.yaml";

impl Run {
    pub fn run(self) -> Result<ExitCode> {
        let sh = build::shell()?;
        setup::packages(&sh, setup::BUILD)?;
        let profile = if self.release { Profile::Release } else { Profile::Ci };
        let bin = build::binaries(&sh, profile)?;
        let monopod = bin.join("monopod");
        let manifest = match self.manifest {
            Some(path) => std::path::absolute(path).context("the manifest's path")?,
            None => build::root().join(DEMO),
        };
        let image = crate::images::image("busybox")?;
        cmd!(sh, "{monopod} image load {image}").quiet().run()?;
        let duration = self.duration.iter().flat_map(|duration| ["--for", duration]);
        // Replaces this process, so that signals and the exit code are the pod's own.
        let error = std::process::Command::from(cmd!(sh, "{monopod} run {duration...} {manifest}")).exec();
        Err(error).with_context(|| format!("start {}", monopod.display()))
    }
}
