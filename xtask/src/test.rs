//! All tests, with all that they need.

use std::process::ExitCode;

use anyhow::Result;
use xshell::cmd;

use crate::apt::Apt;
use crate::build::{self, Profile};
use crate::e2e::E2e;
use crate::fuzz::Fuzz;
use crate::sim::Sim;
use crate::vm::Phases;
use crate::{clients, images, setup};

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
    "python3-venv",
    "runc",
    "skopeo",
    "strace",
    "umoci",
];

/// What has a kubectl, for a machine without any. It is an old one: the tests run what it knows.
const KUBECTL: &[&str] = &["kubernetes-client"];

impl Test {
    pub fn everything() -> Self {
        Self { filter: None }
    }

    pub fn run(self) -> Result<ExitCode> {
        let mut phases = Phases::of_the_command()?;
        let done = self.run_in(&mut phases);
        phases.print();
        done
    }

    /// As a part of something longer.
    pub fn run_in(self, phases: &mut Phases) -> Result<ExitCode> {
        let sh = build::shell()?;
        let root = rustix::process::geteuid().is_root();
        // An ordinary user hears of everything at once.
        let host: &[&str] = if root { PACKAGES } else { &[] };
        let client: &[&str] = if root && !setup::has_program(&sh, "kubectl") { KUBECTL } else { &[] };
        setup::packages(&sh, &[setup::BUILD, setup::VM, setup::ROOT, host, client].concat())?;
        phases.done("packages");
        for image in ["busybox", "nginx", "postgres", "python", "redis"] {
            images::image(image)?;
        }
        if root {
            clients::set_up(&sh)?;
            phases.done("other clients");
        }
        // Unpacked and not installed: the package would start a registry on this machine.
        let registry = build::root().join("target/docker-registry");
        Apt::open(&sh)?.extract("docker-registry", &registry)?;
        let path = format!("{}:{}", registry.join("usr/bin").display(), sh.var("PATH")?);
        let filter = self.filter.iter();
        phases.done("images");
        build::binaries(&sh, Profile::Ci)?;
        phases.done("build");
        // The host ring needs root, except for what only reads the checkout.
        let ring = if root { "host" } else { "checkout" };
        cmd!(sh, "cargo test --locked --workspace --profile ci --tests --no-fail-fast -- {filter...}")
            .env("MONOPOD_RING", ring)
            .env("PATH", path)
            .run()?;
        phases.done("unit tests and host ring");
        if self.filter.is_none() {
            Sim::everyday().run()?;
            phases.done("simulated lives");
            Fuzz::everyday().run()?;
            phases.done("fuzz");
        }
        E2e::tests(self.filter).run_in(phases)
    }
}
