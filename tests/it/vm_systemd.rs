//! What systemd gives a service such as Monopod's.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::host::run;
use crate::{Test, tests};

pub fn tests() -> Vec<Test> {
    tests![Systemd: the_machine_has_come_up, a_delegated_unit_rules_its_subtree]
}

fn the_machine_has_come_up() -> Result<()> {
    let output = Command::new("systemctl").args(["is-system-running", "--wait"]).output().context("start systemctl")?;
    let state = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let failed = run("systemctl", &["list-units", "--failed", "--no-legend"])?;
    ensure!(state == "running", "the system is {state}:\n{failed}");
    let init = std::fs::read_to_string("/proc/1/comm").context("read /proc/1/comm")?;
    ensure!(init.trim() == "systemd", "process 1 is {init}");
    Ok(())
}

/// systemd.resource-control(5): a unit with `Delegate=yes` has every controller and makes cgroups of its own.
fn a_delegated_unit_rules_its_subtree() -> Result<()> {
    let script = "set -ex; cd /sys/fs/cgroup$(sed s/0::// /proc/self/cgroup); mkdir leaf; echo 0 > leaf/cgroup.procs; \
        echo '+cpu +memory +pids' > cgroup.subtree_control; mkdir child; \
        echo 1048576 > child/memory.max; cat child/memory.max; rmdir child";
    let unit = ["--unit=delegated.service", "--property=Delegate=yes", "--wait", "--pipe", "--quiet", "--collect"];
    let output = run("systemd-run", &[&unit[..], &["sh", "-c", script]].concat())?;
    ensure!(output.trim() == "1048576", "the child's memory.max is {output:?}");
    let left = Path::new("/sys/fs/cgroup/system.slice/delegated.service");
    ensure!(!left.exists(), "{} is left", left.display());
    Ok(())
}
