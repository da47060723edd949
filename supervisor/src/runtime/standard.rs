//! What every container gets unless its manifest says otherwise: mounts, masked and read-only paths (section 8.4, PV4).

use super::launch::{Mount, MountOptions, MountSource};

const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The masked paths (`procMount: Default`) on a machine with CPUs numbered below `cpus`.
pub fn masked_paths(cpus: u32) -> Vec<String> {
    let throttles = (0..cpus).map(|cpu| format!("/sys/devices/system/cpu/cpu{cpu}/thermal_throttle"));
    MASKED.iter().map(|&path| path.to_owned()).chain(throttles).collect()
}

/// The paths below `/proc` that can be read alone.
pub fn read_only_paths() -> Vec<String> {
    READ_ONLY.iter().map(|&path| path.to_owned()).collect()
}

/// The kernel's file systems in the order in which they are made. `/dev` itself needs no mount; `/dev/shm` and volumes
/// come after these.
pub fn mounts(privileged: bool) -> Vec<Mount> {
    let closed = MountOptions { nosuid: true, nodev: true, noexec: true, ..MountOptions::default() };
    let system = MountOptions { read_only: !privileged, ..closed.clone() };
    let terminals = MountOptions { nosuid: true, noexec: true, ..MountOptions::default() };
    let list = [
        ("/proc", MountSource::Proc, closed.clone()),
        ("/dev/pts", MountSource::Devpts, terminals),
        ("/dev/mqueue", MountSource::Mqueue, closed),
        ("/sys", MountSource::Sysfs, system.clone()),
        ("/sys/fs/cgroup", MountSource::Cgroup, system),
    ];
    list.into_iter().map(|(target, source, options)| Mount { target: target.to_owned(), source, options }).collect()
}
