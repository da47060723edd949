//! The demo: from a fresh machine to a running Pod with one command.

use std::os::unix::process::CommandExt as _;
use std::process::ExitCode;

use anyhow::{Context, Result};
use xshell::cmd;

use crate::build::{self, Profile};
use crate::e2e::{Hardware, Job, Ready};
use crate::setup;
use crate::vm::initramfs::{self, Orders};
use crate::vm::{self, Phases};

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
    /// For a user who is not root.
    #[command(flatten)]
    hardware: Hardware,
}

/// Two containers that share a volume.
const DEMO: &str = "tests/manifests/01-shared-volume.yaml";

impl Run {
    pub fn run(self) -> Result<ExitCode> {
        if !rustix::process::geteuid().is_root() {
            return self.run_in_machine();
        }
        let sh = build::shell()?;
        setup::packages(&sh, setup::BUILD)?;
        // First what may fail at once, then what takes minutes.
        let image = crate::images::image("busybox")?;
        let profile = if self.release { Profile::Release } else { Profile::Ci };
        eprintln!("building Monopod: minutes the first time, seconds later");
        let bin = build::binaries(&sh, profile)?;
        let monopod = bin.join("monopod");
        let manifest = match self.manifest {
            Some(path) => std::path::absolute(path).context("the manifest's path")?,
            None => build::root().join(DEMO),
        };
        cmd!(sh, "{monopod} image load {image}").quiet().run()?;
        let duration = self.duration.iter().flat_map(|duration| ["--for", duration]);
        // Replaces this process, so that signals and the exit code are the pod's own.
        let error = std::process::Command::from(cmd!(sh, "{monopod} run {duration...} {manifest}")).exec();
        Err(error).with_context(|| format!("start {}", monopod.display()))
    }

    /// An ordinary user's pod runs as root in a virtual machine, with this terminal as its console.
    fn run_in_machine(self) -> Result<ExitCode> {
        let sh = build::shell()?;
        setup::packages(&sh, &[setup::BUILD, setup::VM].concat())?;
        eprintln!("not root: the demo runs in a virtual machine");
        let mut phases = Phases::new();
        let mut ready = Ready::new(&sh, &self.hardware, &mut phases)?;
        let manifest = match &self.manifest {
            Some(path) => std::path::absolute(path).context("the manifest's path")?,
            None => build::root().join(DEMO),
        };
        let inside = format!("/manifests/{}", initramfs::file_name(&manifest)?);
        let image = crate::images::image("busybox")?;
        let load = format!("monopod image load /images/{}", initramfs::file_name(&image)?);
        let duration = self.duration.map(|duration| format!("--for {} ", quoted(&duration))).unwrap_or_default();
        let script = format!("{load} >/dev/null && exec monopod run {duration}{}", quoted(&inside));
        ready.manifest = self.manifest.is_some().then_some(manifest);
        let program = ["/bin/sh", "-c", &script].iter().map(|word| (*word).to_owned()).collect();
        let orders = Orders { program, ..Orders::default() };
        let job = Job::interactive("program", orders, vm::Profile::Bare);
        Ok(ExitCode::from(ready.boot(&sh, &job, &mut phases, |_| {})?))
    }
}

/// For a POSIX shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quote_in_a_word_stays_in_it() {
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
