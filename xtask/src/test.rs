//! All tests, with all that they need.

use std::process::ExitCode;

use anyhow::Result;
use xshell::{Shell, cmd};

use crate::apt::Apt;
use crate::build::Tests;
use crate::e2e::{self, E2e};
use crate::fuzz::Fuzz;
use crate::lane::{Lane, Step};
use crate::sim::Sim;
use crate::vm::Phases;
use crate::{build, clients, images, setup};

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
        let done = self.prepare(&mut phases).and_then(|ready| ready.run(Vec::new(), &mut phases));
        phases.print();
        done
    }

    /// Sets everything up and builds all tests.
    pub fn prepare(self, phases: &mut Phases) -> Result<Ready> {
        let sh = build::shell()?;
        let root = rustix::process::geteuid().is_root();
        // An ordinary user hears of everything at once.
        let host: &[&str] = if root { PACKAGES } else { &[] };
        let client: &[&str] = if root && !setup::has_program(&sh, "kubectl") { KUBECTL } else { &[] };
        setup::packages(&sh, &[setup::BUILD, setup::CODEGEN, setup::VM, setup::ROOT, host, client].concat())?;
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
        phases.done("images");
        let tests = build::tests(&sh)?;
        phases.done("build");
        Ok(Ready { sh, root, path, tests, filter: self.filter })
    }
}

/// Everything is there to run the tests.
#[derive(Debug)]
pub struct Ready {
    sh: Shell,
    root: bool,
    path: String,
    tests: Vec<Tests>,
    filter: Option<String>,
}

impl Ready {
    /// All tests, and more steps beside them.
    pub fn run(self, more: Vec<Step>, phases: &mut Phases) -> Result<ExitCode> {
        let host_ring = |phases: &mut Phases| {
            let passed = self.host_ring();
            phases.done("unit tests and host ring");
            passed
        };
        let passed = if let Some(filter) = &self.filter {
            let host = host_ring(phases)?;
            let machines = E2e::tests(filter.clone()).run_in(phases)? == ExitCode::SUCCESS;
            host && machines
        } else {
            // The tests of this machine wait most of the time.
            let lane = Lane::start(std::iter::once(e2e::tests_step()?).chain(more).collect())?;
            let host = host_ring(phases)?;
            let beside = lane.end()?;
            phases.done("what went on beside them");
            // These take all processors.
            Sim::everyday().run()?;
            phases.done("simulated lives");
            Fuzz::everyday().run()?;
            phases.done("fuzz");
            host && beside
        };
        Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Unit tests and what runs on this machine; whether all passed.
    fn host_ring(&self) -> Result<bool> {
        let Self { sh, path, filter, .. } = self;
        // The host ring needs root, except for what only reads the checkout.
        let ring = if self.root { "host" } else { "checkout" };
        let mut failed = Vec::new();
        for Tests { program, dir } in &self.tests {
            let filter = filter.iter();
            let _in_the_package = sh.push_dir(dir);
            let run = cmd!(sh, "{program} {filter...}").env("CARGO_MANIFEST_DIR", dir);
            let done = run.env("MONOPOD_RING", ring).env("PATH", path).run();
            failed.extend(done.err());
        }
        for error in &failed {
            eprintln!("error: {error}");
        }
        Ok(failed.is_empty())
    }
}
