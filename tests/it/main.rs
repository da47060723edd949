//! All tests against real processes, in one binary.
//!
//! Rings: the host ring runs anywhere as root, in namespaces of its own that play the host; the rings `vm` and `systemd`
//! run inside virtual machines, where cgroup v2 is, in the second with systemd. `MONOPOD_RING=vm,systemd` chooses.

#![allow(unreachable_pub, reason = "nothing is outside of a program")]
#![allow(clippy::disallowed_methods, reason = "tests start programs")]

mod ask;
mod clients;
mod cri;
mod faults;
mod full_disk;
mod host;
mod kubectl;
mod leaks;
mod life;
mod life_hostile;
mod life_manifests;
mod life_vm;
mod life_watch;
mod manifests;
mod pause;
mod pause_image;
mod pause_tools;
mod preempt;
mod pressure;
mod registry;
mod registry_hostile;
mod registry_image;
mod registry_node;
mod registry_offline;
mod registry_pods;
mod resize;
mod run;
mod serve;
mod tidy;
mod torture;
mod transcript;
mod user_namespaces;
mod verbs;
mod vm;
mod vm_cgroups;
mod vm_clock;
mod vm_nft;
mod vm_package;
mod vm_planted;
mod vm_quota;
mod vm_root;
mod vm_runner;
mod vm_shutdown;
mod vm_systemd;
mod volumes;
mod volumes_canary;
mod volumes_hostile;
mod volumes_node;
mod volumes_races;
mod volumes_rules;
mod volumes_size;

use std::path::Path;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

/// Where a test can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ring {
    Host,
    /// On no emulated machine: what takes seconds on real processors takes minutes there.
    HostAlone,
    Vm,
    Systemd,
}

/// A test by its statement.
#[derive(Debug, Clone, Copy)]
pub struct Test {
    pub name: &'static str,
    pub ring: Ring,
    pub run: fn() -> anyhow::Result<()>,
}

impl Test {
    /// Module and function.
    pub fn name(&self) -> &'static str {
        self.name.strip_prefix("it::").unwrap_or(self.name)
    }

    /// The host ring has parts: one reads the checkout, another needs root and runs in the small machine, too, and what is
    /// left needs programs that no machine of ours has.
    fn is_in(&self, rings: &[&str]) -> bool {
        let part = match self.name().split("::").next() {
            Some("tidy") => "checkout",
            Some("run" | "volumes" | "manifests" | "life_manifests" | "serve" | "resize") => "privileged",
            _ => "host",
        };
        match self.ring {
            Ring::Host => rings.contains(&"host") || rings.contains(&part),
            Ring::HostAlone => rings.contains(&"host"),
            Ring::Vm => rings.contains(&"vm"),
            Ring::Systemd => rings.contains(&"systemd"),
        }
    }
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
    if std::env::var_os(vm_root::RUNNER).is_some() {
        vm_root::run_tests();
    }
    if let Ok(paths) = std::env::var(volumes_races::EXCHANGE) {
        // It ends by being killed, or when the names are gone.
        return if volumes_races::exchange(&paths).is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let rings = std::env::var("MONOPOD_RING").unwrap_or_else(|_| "host".to_owned());
    let rings: Vec<&str> = rings.split(',').collect();
    let tests = all().into_iter().filter(|test| test.is_in(&rings));
    if let Some(name) = std::env::var_os(ONE) {
        return one(tests.filter(|test| *test.name() == *name).collect());
    }
    let mut arguments = Arguments::from_args();
    // The tests watch the same machine for what was left behind.
    arguments.test_threads = Some(1);
    let trials =
        tests.map(|test| Trial::test(test.name(), move || (test.run)().map_err(|error| format!("{error:?}").into())));
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

/// Names the only test that this process runs, without any frame around its output.
pub const ONE: &str = "MONOPOD_ONE";

fn all() -> Vec<Test> {
    let pause = [("pause", pause::tests()), ("pause_image", pause_image::tests())];
    let pause = pause.into_iter().flat_map(|(area, tests)| {
        let named = move |name| &*Box::leak(format!("it::{area}::{name}").into_boxed_str());
        tests.into_iter().map(move |(name, run)| Test { name: named(name), ring: Ring::Host, run })
    });
    [
        tidy::tests(),
        run::tests(),
        volumes::tests(),
        volumes_hostile::tests(),
        volumes_races::tests(),
        volumes_node::tests(),
        volumes_rules::tests(),
        volumes_size::tests(),
        life::tests(),
        life_hostile::tests(),
        life_manifests::tests(),
        life_vm::tests(),
        manifests::tests(),
        serve::tests(),
        resize::tests(),
        user_namespaces::tests(),
        torture::tests(),
        clients::tests(),
        faults::tests(),
        full_disk::tests(),
        preempt::tests(),
        pressure::tests(),
        kubectl::tests(),
        verbs::tests(),
        registry::tests(),
        registry_pods::tests(),
        registry_hostile::tests(),
        registry_node::tests(),
        registry_offline::tests(),
        vm_cgroups::tests(),
        vm_clock::tests(),
        vm_planted::tests(),
        // Its first test began before the machine's last boot: nothing may come between.
        vm_package::tests(),
        vm_quota::tests(),
        vm_systemd::tests(),
        pause.collect(),
    ]
    .concat()
}

fn one(tests: Vec<Test>) -> ExitCode {
    match tests.first().map(|test| (test.run)()) {
        Some(Ok(())) => ExitCode::SUCCESS,
        Some(Err(error)) => {
            eprintln!("{error:?}");
            ExitCode::FAILURE
        }
        None => {
            eprintln!("there is no such test");
            ExitCode::FAILURE
        }
    }
}
