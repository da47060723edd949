//! `monopod run`: pods of manifests in the foreground.

mod logs;
mod session;
mod stop;
mod timeline;
mod verdict;
mod view;

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use netsetup::RangeChoice;

use super::admit;
use crate::engine::dirs::Dirs;
use crate::engine::{Config, record};
use crate::identity::{DEFAULT_ISSUER, Issuer};
use crate::image::{Limits, Store};
use crate::manifest;
use crate::monitor::protocol::WhenBrainDies;
use crate::node::{LogPolicy, Settings, host_addresses, node_facts};

pub use logs::LogPrefix;
pub use view::Output;

/// Runs the Pods of manifests in the foreground
///
/// Shows their containers' output. Ctrl-C ends them gracefully, a second one at once. The exit code is 0 when all
/// succeeded, else the first failing container's; 1 when no container of a pod has ever run.
#[derive(Debug, clap::Args)]
pub struct RunCommand {
    /// Manifests: files, directories, or - for standard input
    #[arg(value_name = "FILE|DIR|-", required = true)]
    manifests: Vec<PathBuf>,
    /// Ends the pods gracefully after this long, for example 10s or 2m
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    limit: Option<Duration>,
    /// What is written to standard output
    #[arg(short, long, value_enum, default_value_t = Output::Logs)]
    output: Output,
    /// What stands in front of each line of the containers' output
    #[arg(long, value_enum, default_value_t = LogPrefix::Auto)]
    log_prefix: LogPrefix,
    /// Shows how long each step of the start took
    #[arg(long)]
    timings: bool,
    /// spec.nodeName of the pods [default: the host's name]
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// Where images, container roots and records are kept
    #[arg(long, value_name = "DIR", default_value = "/var/lib/monopod")]
    data_dir: PathBuf,
    /// Where sockets and address leases are kept
    #[arg(long, value_name = "DIR", default_value = "/run/monopod")]
    run_dir: PathBuf,
    /// Where container logs are written
    #[arg(long, value_name = "DIR", default_value = "/var/log/pods")]
    log_dir: PathBuf,
    /// Range of the pods' IPv4 addresses [default: one that no route of the host overlaps]
    #[arg(long, value_name = "CIDR")]
    pod_cidr: Option<ipnet::Ipv4Net>,
    /// Range of the pods' IPv6 addresses
    #[arg(long, value_name = "CIDR", requires = "pod_cidr")]
    pod_cidr6: Option<ipnet::Ipv6Net>,
}

/// Manifests that are refused (sysexits(3) has no better word for it).
const EXIT_REFUSED: u8 = 2;
/// Directory of cgroups that a `run` outside of a service uses.
const CGROUP: &str = "monopod";
/// A monitor whose brain was killed gives its containers this long.
const ORPHAN_GRACE: Duration = Duration::from_secs(2);

/// Go's durations, as far as people write them: `10s`, `1m30s`, `500ms`.
fn duration(text: &str) -> Result<Duration, String> {
    let span: jiff::SignedDuration = text.parse().map_err(|error: jiff::Error| error.to_string())?;
    Duration::try_from(span).map_err(|_| "must not be negative".to_owned())
}

/// Why nothing ran.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("{operation}: {source}")]
    Io { operation: String, source: std::io::Error },
    #[error(transparent)]
    Engine(#[from] crate::engine::error::EngineError),
    #[error(transparent)]
    Store(#[from] crate::image::store::StoreError),
    #[error("this host has no cgroup2 file system: mount one (mount -t cgroup2 none /sys/fs/cgroup)")]
    NoCgroup,
    #[error(transparent)]
    Host(#[from] cgroupd::host::HostError),
    #[error(transparent)]
    Tree(#[from] cgroupd::tree::TreeError),
    #[error(transparent)]
    Identity(#[from] crate::identity::IdentityError),
    #[error("--pod-cidr: {0}")]
    Range(String),
    #[error("must be root: `cargo xtask run` runs the demo in a virtual machine for other users")]
    NotRoot,
}

fn io(operation: impl Into<String>) -> impl FnOnce(std::io::Error) -> RunError {
    let operation = operation.into();
    move |source| RunError::Io { operation, source }
}

/// Runs `monopod run ...`.
pub fn run(command: &RunCommand) -> Result<ExitCode, RunError> {
    let started = Instant::now();
    let admitted = match manifest::read(&command.manifests).and_then(admit::admit) {
        Ok(admitted) => admitted,
        Err(refused) => {
            eprint!(
                "{}",
                if std::io::stderr().is_terminal() { refused.with_snippets() } else { format!("{refused}\n") }
            );
            return Ok(ExitCode::from(EXIT_REFUSED));
        }
    };
    if !rustix::process::geteuid().is_root() {
        return Err(RunError::NotRoot);
    }
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(8).build();
    let runtime = runtime.map_err(io("start the runtime"))?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let mut session = session::Session::open(command, admitted, started).await?;
        session.run(command.limit).await
    })
}

fn config(command: &RunCommand, dirs: &Dirs) -> Result<Config, RunError> {
    let host = cgroupd::host::Host::detect()?;
    let mount_point = host.mount_point.ok_or(RunError::NoCgroup)?;
    offer_controllers(&mount_point)?;
    let cgroup_parent = mount_point.join(CGROUP);
    std::fs::create_dir_all(&cgroup_parent).map_err(io(format!("make {}", cgroup_parent.display())))?;
    let ranges = match (command.pod_cidr, command.pod_cidr6) {
        (Some(v4), v6) => {
            let ranges = netsetup::ipam::Ranges::new(v4, v6);
            RangeChoice::Given(ranges.map_err(|error| RunError::Range(error.to_string()))?)
        }
        (None, _) => RangeChoice::Auto,
    };
    Ok(Config {
        dirs: dirs.clone(),
        owner: record::this_process(),
        cgroup_parent,
        network: netsetup::Config { ranges, ..netsetup::Config::new(dirs.leases()) },
    })
}

/// Systemd has switched on what its services need; on a machine without, nobody has. What can't be had is told with the
/// limits that it would have enforced.
fn offer_controllers(mount_point: &Path) -> Result<(), RunError> {
    let top = cgroupd::Tree::open(mount_point)?;
    let enable = cgroupd::plan::Step::Enable { dir: None, controllers: top.usable().clone() };
    top.execute(&[enable])?;
    Ok(())
}

fn settings(command: &RunCommand, dirs: &Dirs, mut objects: admit::Given, pods: &[Pod]) -> Result<Settings, RunError> {
    let page_sizes = cgroupd::host::page_sizes()?;
    let node = node_facts(command.node_name.clone(), host_addresses());
    for claim in objects.bind(pods.to_vec(), &node.name, dirs.data.join("claims")) {
        eprintln!("claim {}: {}: {}", claim.name, claim.reason, claim.message);
    }
    objects.issue(Issuer::open(&dirs.data.join("identity"), DEFAULT_ISSUER)?);
    Ok(Settings {
        images: Store::open(dirs.images(), Limits::default())?.watched(super::pull_bars::watcher()),
        node,
        objects: Box::new(objects),
        resolv: netsetup::resolv::parse(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default()),
        hosts: std::fs::read_to_string("/etc/hosts").unwrap_or_default(),
        when_brain_dies: WhenBrainDies::EndAfter {
            grace_ms: u64::try_from(ORPHAN_GRACE.as_millis()).unwrap_or(u64::MAX),
        },
        log: LogPolicy::default(),
        seccomp_dir: dirs.data.join("seccomp"),
        resources: cgroupd::Policy { page_sizes, ..cgroupd::Policy::default() },
        snapshots: None,
        host_users: true,
        comes_back: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_duration_as_people_write_it() {
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        for text in ["", "ten", "-1s"] {
            assert!(duration(text).is_err(), "{text:?}");
        }
    }
}
