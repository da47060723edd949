//! All tests, with all that they need.

use std::process::ExitCode;

use anyhow::Result;
use xshell::cmd;

use crate::apt::Apt;
use crate::build::{self, Profile};
use crate::e2e::E2e;
use crate::sim::Sim;
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
    "openssl",
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
        let root = rustix::process::geteuid().is_root();
        // An ordinary user hears of everything at once.
        let host: &[&str] = if root { PACKAGES } else { &[] };
        setup::packages(&sh, &[setup::BUILD, setup::VM, setup::ROOT, host].concat())?;
        build::binaries(&sh, Profile::Ci)?;
        for image in ["busybox", "nginx", "redis", "postgres"] {
            images::image(image)?;
        }
        let filter = self.filter.iter();
        // Unpacked and not installed: the package would start a registry on this machine.
        let registry = build::root().join("target/docker-registry");
        Apt::open(&sh)?.extract("docker-registry", &registry)?;
        let path = format!("{}:{}", registry.join("usr/bin").display(), sh.var("PATH")?);
        // The host ring needs root, except for what only reads the checkout.
        let ring = if root { "host" } else { "checkout" };
        cmd!(sh, "cargo test --locked --workspace --profile ci --tests -- {filter...}")
            .env("MONOPOD_RING", ring)
            .env("PATH", path)
            .run()?;
        if self.filter.is_none() {
            Sim::everyday().run()?;
        }
        E2e::tests(self.filter).run()
    }
}
