//! The machine with systemd: from our init to Debian's root, and back to the tests as a service of it.

use anyhow::{Result, bail};

use crate::vm::Orders;

/// Set for the service that runs the tests.
pub const RUNNER: &str = "MONOPOD_RUNNER";

/// Hands the machine over to systemd.
pub fn boot(_orders: &Orders) -> Result<()> {
    bail!("not yet")
}

/// The service: runs the tests, reports, and switches the machine off.
pub fn run_tests() -> ! {
    crate::vm::power_off()
}
