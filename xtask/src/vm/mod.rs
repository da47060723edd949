//! The virtual machine in which the second ring of the tests runs: Debian's kernel, our own init, nothing installed.

pub mod cpio;
pub mod initramfs;
pub mod kernel;
pub mod planted;
pub mod probe;
pub mod qemu;
pub mod root;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::build;

/// Everything of the machine that is kept between runs.
pub fn dir() -> PathBuf {
    build::root().join("target/vm")
}

/// How long each phase took.
#[derive(Debug)]
pub struct Phases {
    started: Instant,
    last: Instant,
    all: Vec<(String, Duration)>,
}

impl Phases {
    pub fn new() -> Self {
        let now = Instant::now();
        Self { started: now, last: now, all: Vec::new() }
    }

    pub fn done(&mut self, name: impl Into<String>) {
        self.all.push((name.into(), self.last.elapsed()));
        self.last = Instant::now();
    }

    /// Splits what the last phase took: its first part was this long.
    pub fn first_part(&mut self, name: impl Into<String>, first: Duration) {
        if let Some((last, time)) = self.all.pop() {
            self.all.push((name.into(), first));
            self.all.push((last, time.saturating_sub(first)));
        }
    }

    pub fn print(&self) {
        println!("phases:");
        for (name, time) in &self.all {
            println!("  {:>7.1} s  {name}", time.as_secs_f64());
        }
        println!("  {:>7.1} s  in all", self.started.elapsed().as_secs_f64());
    }
}

/// What the guest's init becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Our own init runs the tests, up in about two seconds under emulation.
    Bare,
    /// Debian's root with systemd, of which the tests are a service.
    Systemd,
}

impl Profile {
    /// The ring of tests that needs it, which is also its name on the guest's command line.
    pub fn ring(self) -> &'static str {
        match self {
            Self::Bare => "vm",
            Self::Systemd => "systemd",
        }
    }
}
