//! `monopod check`: what the host has of what pods need, and what it means when it is missing.

use std::fmt;
use std::process::ExitCode;

use rustix::io::Errno;
use rustix::mount::FsOpenFlags;

use cgroupd::host::{Host, Mode};

/// Shows whether this host can run pods
///
/// Lists what the kernel and the cgroup tree have, with a verdict each. The exit code is 0 when nothing is missing that the
/// service needs.
#[derive(Debug, clap::Args)]
pub struct CheckCommand {}

/// The oldest kernel that is supported.
const KERNEL_FLOOR: (u32, u32) = (6, 1);

/// What a finding means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Fine,
    /// Works with less.
    Limited,
    /// The service does not start, or no pod does.
    Missing,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Fine => "ok",
            Self::Limited => "limited",
            Self::Missing => "MISSING",
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    what: &'static str,
    verdict: Verdict,
    text: String,
}

impl Finding {
    fn new(what: &'static str, verdict: Verdict, text: impl Into<String>) -> Self {
        Self { what, verdict, text: text.into() }
    }

    fn needed(what: &'static str, there: bool, text: &str) -> Self {
        Self::new(what, if there { Verdict::Fine } else { Verdict::Missing }, text)
    }
}

/// Runs `monopod check`.
pub fn run(_command: &CheckCommand) -> ExitCode {
    let findings = findings();
    for finding in &findings {
        println!("{:8} {:22} {}", finding.verdict, finding.what, finding.text);
    }
    let missing = findings.iter().filter(|finding| finding.verdict == Verdict::Missing).count();
    match missing {
        0 => ExitCode::SUCCESS,
        _ => {
            eprintln!("error: {missing} things are missing that the service needs");
            ExitCode::FAILURE
        }
    }
}

fn findings() -> Vec<Finding> {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    let mut all = vec![kernel(&release), root()];
    all.extend(cgroups());
    all.extend(file_systems());
    all.extend(namespaces());
    all.push(seccomp());
    all.push(landlock());
    all.push(nftables());
    all.push(forwarding());
    all
}

fn kernel(release: &str) -> Finding {
    let mut numbers = release.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let (major, minor) = KERNEL_FLOOR;
    let text = format!("{release}, needed is {major}.{minor}");
    Finding::needed("kernel", version >= KERNEL_FLOOR, &text)
}

fn root() -> Finding {
    let capabilities = caps::read(None, caps::CapSet::Effective).unwrap_or_default();
    let needed = [caps::Capability::CAP_SYS_ADMIN, caps::Capability::CAP_NET_ADMIN, caps::Capability::CAP_SYS_RESOURCE];
    let missing: Vec<String> =
        needed.iter().filter(|own| !capabilities.contains(own)).map(ToString::to_string).collect();
    match (rustix::process::geteuid().is_root(), missing.as_slice()) {
        (false, _) => Finding::new("root", Verdict::Missing, "this user is not root"),
        (true, []) => Finding::new("root", Verdict::Fine, "with every capability that is needed"),
        (true, [only]) if only == "CAP_SYS_RESOURCE" => Finding::new(
            "root",
            Verdict::Limited,
            "without CAP_SYS_RESOURCE: limits and OOM scores can only be lowered",
        ),
        (true, missing) => Finding::new("root", Verdict::Missing, format!("without {}", missing.join(", "))),
    }
}

fn cgroups() -> Vec<Finding> {
    let Ok(host) = Host::detect() else {
        return vec![Finding::new("cgroup", Verdict::Missing, "/proc/self/mountinfo can't be read")];
    };
    let mode = match host.mode {
        Mode::Unified => Finding::new("cgroup", Verdict::Fine, "unified: every limit holds"),
        Mode::Hybrid => Finding::new(
            "cgroup",
            Verdict::Limited,
            "hybrid: version 1 has controllers; serve needs --allow-unenforced-limits, or \
             systemd.unified_cgroup_hierarchy=1 on the kernel's command line",
        ),
        Mode::Legacy => Finding::new("cgroup", Verdict::Missing, "no cgroup2 file system is mounted"),
    };
    let Some(mount) = host.mount_point else { return vec![mode] };
    let text = std::fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
    let usable = cgroupd::files::Controller::parse_list(&text);
    let missing: Vec<_> =
        cgroupd::host::missing_controllers(&usable).iter().map(|controller| controller.name()).collect();
    let controllers = match missing.as_slice() {
        [] => Finding::new("cgroup controllers", Verdict::Fine, text.trim()),
        missing => Finding::new("cgroup controllers", Verdict::Limited, format!("without {}", missing.join(", "))),
    };
    vec![mode, controllers]
}

/// Opened, not mounted: the kernel loads the module when there is one.
fn file_systems() -> Vec<Finding> {
    let all = [
        ("overlay", "container roots"),
        ("tmpfs", "memory volumes"),
        ("proc", "containers' /proc"),
        ("sysfs", "containers' /sys"),
        ("devpts", "terminals"),
        ("mqueue", "message queues"),
        ("cgroup2", "containers' /sys/fs/cgroup"),
    ];
    let look = |(name, text): (&'static str, &str)| match rustix::mount::fsopen(name, FsOpenFlags::FSOPEN_CLOEXEC) {
        Ok(_) => Finding::new(name, Verdict::Fine, text),
        Err(errno) => Finding::new(name, Verdict::Missing, format!("{text}: fsopen({name}): {errno}")),
    };
    all.into_iter().map(look).collect()
}

fn namespaces() -> Vec<Finding> {
    let all = ["cgroup", "ipc", "mnt", "net", "pid", "uts"];
    let missing: Vec<&str> =
        all.into_iter().filter(|name| !std::path::Path::new("/proc/self/ns").join(name).exists()).collect();
    let text = if missing.is_empty() { all.join(" ") } else { format!("without {}", missing.join(" ")) };
    vec![Finding::needed("namespaces", missing.is_empty(), &text)]
}

fn seccomp() -> Finding {
    let actions = std::fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    Finding::needed("seccomp", actions.contains("errno"), actions.trim())
}

/// `landlock_create_ruleset(NULL, 0, LANDLOCK_CREATE_RULESET_VERSION)` through the library: none is no error of ours.
fn landlock() -> Finding {
    let modules = std::fs::read_to_string("/sys/kernel/security/lsm");
    match modules {
        Ok(text) if text.split(',').any(|name| name.trim() == "landlock") => {
            Finding::new("landlock", Verdict::Fine, "images are unpacked by a process that reaches nothing else")
        }
        Ok(_) => Finding::new("landlock", Verdict::Limited, "off: images are unpacked without it"),
        Err(_) => Finding::new("landlock", Verdict::Limited, "/sys/kernel/security is not mounted: can't be told"),
    }
}

fn nftables() -> Finding {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    let protocol = Some(rustix::net::netlink::NETFILTER);
    let opened = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol);
    match opened {
        Ok(_) => Finding::new("nftables", Verdict::Fine, "pods reach other networks, host ports work"),
        Err(Errno::PROTONOSUPPORT) => Finding::new("nftables", Verdict::Missing, "the kernel has no netfilter netlink"),
        Err(errno) => Finding::new("nftables", Verdict::Missing, format!("socket(NETLINK_NETFILTER): {errno}")),
    }
}

fn forwarding() -> Finding {
    let on = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").is_ok_and(|text| text.trim() == "1");
    let text = if on { "on" } else { "off: the service turns it on while it has pods" };
    Finding::new("IPv4 forwarding", Verdict::Fine, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_kernel_is_named() {
        for (release, verdict) in [
            ("6.1.0-56-cloud-amd64", Verdict::Fine),
            ("5.15.3", Verdict::Missing),
            ("7.0", Verdict::Fine),
            ("x", Verdict::Missing),
        ] {
            assert_eq!(kernel(release).verdict, verdict, "{release}");
        }
    }

    #[test]
    fn every_finding_is_one_line() {
        let all = findings();
        assert!(all.len() > 10);
        assert!(all.iter().all(|finding| !finding.text.contains('\n')), "{all:?}");
    }
}
