//! All tests against real processes, in one binary.
//!
//! Two rings: the host ring runs anywhere as root, in namespaces of its own that play the host; the ring `vm` runs inside
//! the virtual machine, where cgroup v2 and systemd are. `MONOPOD_RING=vm` chooses the second.

#![allow(unreachable_pub, reason = "nothing is outside of a program")]
#![allow(clippy::disallowed_methods, reason = "tests start programs")]

mod cri;
mod host;
mod leaks;
mod pause;
mod pause_image;
mod pause_tools;
mod run;
mod tidy;
mod vm;

use std::path::Path;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

/// Where a test can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ring {
    Host,
    Vm,
}

/// A test by its statement.
#[derive(Debug, Clone, Copy)]
pub struct Test {
    pub name: &'static str,
    pub ring: Ring,
    pub run: fn() -> anyhow::Result<()>,
}

/// One [`Test`] per function, named after its module and itself.
#[macro_export]
macro_rules! tests {
    ($ring:ident: $($name:ident),+ $(,)?) => {
        vec![$($crate::Test { name: concat!(module_path!(), "::", stringify!($name)), ring: $crate::Ring::$ring, run: $name }),+]
    };
}

fn main() -> ExitCode {
    if rustix::process::getpid().is_init() && Path::new("/modules").exists() {
        vm::init();
    }
    let ring = match std::env::var("MONOPOD_RING").as_deref() {
        Ok("vm") => Ring::Vm,
        _ => Ring::Host,
    };
    let mut arguments = Arguments::from_args();
    // The tests watch the same machine for what was left behind.
    arguments.test_threads = Some(1);
    let pause = [("pause", pause::tests()), ("pause_image", pause_image::tests())];
    let pause = pause.into_iter().flat_map(|(area, tests)| tests.into_iter().map(move |(name, run)| (area, name, run)));
    let pause = pause.filter(|_| ring == Ring::Host).map(|(area, name, run)| {
        Trial::test(format!("{area}::{name}"), move || run().map_err(|error| format!("{error:?}").into()))
    });
    let tests = [tidy::tests(), run::tests()].into_iter().flatten();
    let trials = tests
        .filter(|test| test.ring == ring)
        .map(|test| {
            let name = test.name.strip_prefix("it::").unwrap_or(test.name);
            Trial::test(name, move || (test.run)().map_err(|error| format!("{error:?}").into()))
        })
        .chain(pause)
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}
