//! All tests, with all that they need.

use std::process::ExitCode;

use anyhow::Result;
use xshell::cmd;

use crate::build::{self, Profile};
use crate::e2e::E2e;
use crate::{images, setup};

/// Sets everything up and runs all tests.
#[derive(Debug, clap::Args)]
pub struct Test {
    /// Only tests whose name contains this.
    filter: Option<String>,
}

/// What the host ring of the tests calls.
const PACKAGES: &[&str] = &[
    "busybox-static",
    "catatonit",
    "conmon",
    "containerd",
    "crun",
    "iproute2",
    "nftables",
    "podman",
    "procps",
    "python3",
    "runc",
    "skopeo",
    "strace",
    "umoci",
];

impl Test {
    pub fn everything() -> Self {
        Self { filter: None }
    }

    pub fn run(self) -> Result<ExitCode> {
        let sh = build::shell()?;
        setup::packages(&sh, setup::BUILD)?;
        setup::packages(&sh, PACKAGES)?;
        build::binaries(&sh, Profile::Ci)?;
        for image in ["busybox", "nginx"] {
            images::image(image)?;
        }
        let filter = self.filter.iter();
        cmd!(sh, "cargo test --locked --workspace --profile ci --tests -- {filter...}").run()?;
        E2e::everything().run()
    }
}
