//! The kernel tells when processes wait for memory (Documentation/accounting/psi.rst): before somebody has taken all of it,
//! and never on a machine that is idle.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::sys::fd::registered_for;

const FILE: &str = "/proc/pressure/memory";
/// Some process has waited for 100 ms within two seconds, both in microseconds; told at most once in that time. Shorter windows
/// need CAP_SYS_RESOURCE.
const TRIGGER: &[u8] = b"some 100000 2000000\0";

/// Nothing ever happens where the kernel does not measure it.
#[derive(Debug)]
pub struct Stalls(Option<AsyncFd<OwnedFd>>);

impl Stalls {
    pub fn watch() -> Self {
        let opened = open().inspect_err(|error| tracing::info!("{FILE}: {error}; memory is looked at less often"));
        Self(opened.ok())
    }

    /// Waits for the next one.
    pub async fn next(&self) {
        let Some(file) = &self.0 else { return std::future::pending().await };
        match file.ready(Interest::PRIORITY).await {
            Ok(mut ready) => ready.clear_ready(),
            Err(_) => std::future::pending().await,
        }
    }
}

fn open() -> io::Result<AsyncFd<OwnedFd>> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(FILE, flags, Mode::empty())?;
    rustix::io::write(&file, TRIGGER)?;
    registered_for(file, Interest::PRIORITY)
}
