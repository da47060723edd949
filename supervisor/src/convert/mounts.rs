//! What is mounted where in a container (sections 7 and 8.4).

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, PodSpec, VolumeMount};

use super::ConfigError;
use super::env::Environment;
use super::expand::{expand, references};
use super::security::Security;
use super::slots::{Needed, Slots};
use crate::monitor::protocol::SHM_VOLUME;
use crate::runtime::launch::{Mount, MountOptions, MountSource, Propagation};
use crate::runtime::standard;

/// Where a pod's volume lies while the pod lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VolumeHome {
    /// A directory or file of the host's file system; the brain makes a detached copy of it per container.
    Host,
    /// A mount that the monitor keeps (tmpfs).
    Kept,
}

/// A volume that has been set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VolumePlace {
    pub home: VolumeHome,
    /// Content that belongs to the node agent: mounted read-only whatever the mount says (rule VO25).
    pub read_only: bool,
    /// Nothing in it is executed (rule VO36).
    pub no_exec: bool,
}

impl VolumePlace {
    pub fn on_host() -> Self {
        Self { home: VolumeHome::Host, read_only: false, no_exec: false }
    }

    pub fn kept() -> Self {
        Self { home: VolumeHome::Kept, ..Self::on_host() }
    }
}

pub type Volumes = BTreeMap<String, VolumePlace>;

/// The volume, kept by the monitor, that holds the pod's own files: one size-limited tmpfs (D37).
pub const FILES_VOLUME: &str = "pod-files";

/// Files that every container of a pod sees (sections 8.1 to 8.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodFile {
    Hosts,
    Hostname,
    ResolvConf,
}

impl PodFile {
    pub const ALL: [Self; 3] = [Self::Hosts, Self::Hostname, Self::ResolvConf];

    /// Where a container sees it.
    pub fn target(self) -> &'static str {
        match self {
            Self::Hosts => "/etc/hosts",
            Self::Hostname => "/etc/hostname",
            Self::ResolvConf => "/etc/resolv.conf",
        }
    }

    /// Its name in [`FILES_VOLUME`].
    pub fn file_name(self) -> &'static str {
        match self {
            Self::Hosts => "hosts",
            Self::Hostname => "hostname",
            Self::ResolvConf => "resolv.conf",
        }
    }
}

/// Name in [`FILES_VOLUME`] of the termination message of one instance of a container (rule VO58).
pub fn termination_log(container_id: &str) -> String {
    format!("termination-{container_id}")
}

/// Rule VO58.
const DEFAULT_TERMINATION_LOG: &str = "/dev/termination-log";

/// All mounts of a container, a parent before what lies below it. The manifest's win over ours at the same target.
pub fn mounts(
    spec: &PodSpec,
    container: &Container,
    environment: &Environment,
    volumes: &Volumes,
    container_id: &str,
    slots: &mut Slots,
) -> Result<Vec<Mount>, ConfigError> {
    let security = Security::of(spec, container);
    let mut given = Vec::new();
    for mount in container.volume_mounts.iter().flatten() {
        given.push(volume_mount(mount, environment, volumes, security, slots)?);
    }
    let taken: BTreeSet<String> = given.iter().map(|mount| mount.target.clone()).collect();
    let mut all = system_mounts(spec, security, &taken, slots);
    let log = container.termination_message_path.as_deref().unwrap_or(DEFAULT_TERMINATION_LOG);
    if !log.is_empty() && !taken.contains(log) {
        all.push(pod_file(&normal(log), termination_log(container_id), false));
    }
    all.extend(given);
    all.sort_by_key(|mount| depth(&mount.target));
    Ok(all)
}

fn volume_mount(
    mount: &VolumeMount,
    environment: &Environment,
    volumes: &Volumes,
    security: Security<'_>,
    slots: &mut Slots,
) -> Result<Mount, ConfigError> {
    let place = volumes
        .get(&mount.name)
        .ok_or_else(|| ConfigError(format!("volume {:?} of volumeMount is not set up", mount.name)))?;
    let sub_path = sub_path(mount, environment)?;
    let read_only = place.read_only || mount.read_only.unwrap_or(false);
    let recursive_read_only =
        read_only && matches!(mount.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible"));
    let propagation = match mount.mount_propagation.as_deref() {
        Some("HostToContainer") => Propagation::Slave,
        Some("Bidirectional") => Propagation::Shared,
        _ => Propagation::Private,
    };
    let source = match place.home {
        VolumeHome::Kept => MountSource::Kept { name: mount.name.clone(), sub_path },
        VolumeHome::Host => {
            MountSource::Detached(slots.add(Needed::Volume { name: mount.name.clone(), sub_path, recursive: true }))
        }
    };
    let options = MountOptions {
        read_only,
        recursive_read_only,
        nosuid: security.no_new_privs(),
        nodev: !security.privileged(),
        noexec: place.no_exec,
        propagation,
    };
    Ok(Mount { target: normal(&mount.mount_path), source, options })
}

/// `subPath`, or `subPathExpr` with every variable present (rule EN9).
fn sub_path(mount: &VolumeMount, environment: &Environment) -> Result<Option<String>, ConfigError> {
    if let Some(expression) = mount.sub_path_expr.as_deref().filter(|text| !text.is_empty()) {
        let value = |name: &str| environment.get(name).filter(|value| !value.is_empty()).cloned();
        let missing: Vec<_> = references(expression).into_iter().filter(|name| value(name).is_none()).collect();
        if !missing.is_empty() {
            return Err(ConfigError(format!("missing value for {}", missing.join(", "))));
        }
        let path = expand(expression, value);
        check_sub_path(&path)?;
        return Ok(Some(path));
    }
    Ok(mount.sub_path.clone().filter(|path| !path.is_empty()))
}

/// Rule VO40, for what an expression became.
fn check_sub_path(path: &str) -> Result<(), ConfigError> {
    if path.starts_with('/') {
        return Err(ConfigError(format!("subPath {path:?}: must be a relative path")));
    }
    if path.split('/').any(|part| part == "..") {
        return Err(ConfigError(format!("subPath {path:?}: must not contain '..'")));
    }
    Ok(())
}

fn system_mounts(spec: &PodSpec, security: Security<'_>, taken: &BTreeSet<String>, slots: &mut Slots) -> Vec<Mount> {
    let mut mounts = standard::mounts(security.privileged());
    mounts.retain(|mount| !taken.contains(&mount.target));
    let options = MountOptions { nosuid: true, nodev: true, noexec: true, ..MountOptions::default() };
    let shm = if spec.host_ipc.unwrap_or(false) {
        MountSource::Detached(slots.add(Needed::HostShm))
    } else {
        MountSource::Kept { name: SHM_VOLUME.to_owned(), sub_path: None }
    };
    if !taken.contains("/dev/shm") {
        mounts.push(Mount { target: "/dev/shm".to_owned(), source: shm, options });
    }
    for file in PodFile::ALL.into_iter().filter(|file| !taken.contains(file.target())) {
        let read_only = file != PodFile::Hosts && security.read_only_root();
        mounts.push(pod_file(file.target(), file.file_name().to_owned(), read_only));
    }
    mounts
}

fn pod_file(target: &str, file_name: String, read_only: bool) -> Mount {
    let source = MountSource::Kept { name: FILES_VOLUME.to_owned(), sub_path: Some(file_name) };
    let options = MountOptions { read_only, nosuid: true, nodev: true, noexec: true, ..MountOptions::default() };
    Mount { target: target.to_owned(), source, options }
}

/// Absolute, without doubled or trailing slashes (rule VO3: a relative path is meant from the root).
fn normal(path: &str) -> String {
    let parts: Vec<_> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    format!("/{}", parts.join("/"))
}

fn depth(target: &str) -> usize {
    target.split('/').filter(|part| !part.is_empty()).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(spec: &str, container: &str, volumes: &[(&str, VolumePlace)]) -> Result<Vec<Mount>, ConfigError> {
        let spec: PodSpec = serde_json::from_str(spec).unwrap();
        let container: Container = serde_json::from_str(container).unwrap();
        let volumes = volumes.iter().map(|(name, place)| ((*name).to_owned(), *place)).collect();
        let environment = Environment::from([("A".to_owned(), "a".to_owned())]);
        mounts(&spec, &container, &environment, &volumes, "id", &mut Slots::default())
    }

    const HOST: VolumePlace = VolumePlace { home: VolumeHome::Host, read_only: false, no_exec: false };

    /// VO5
    #[test]
    fn parents_come_before_children() {
        let got = plan(
            r#"{"containers":[]}"#,
            r#"{"name":"c","volumeMounts":[{"name":"v","mountPath":"/a/b/c"},{"name":"v","mountPath":"a//b/"}]}"#,
            &[("v", HOST)],
        )
        .unwrap();
        let targets: Vec<_> = got.iter().map(|mount| mount.target.as_str()).collect();
        let place = |target| targets.iter().position(|t| *t == target).unwrap();
        assert!(place("/a/b") < place("/a/b/c"));
        assert!(place("/dev/pts") < place("/a/b/c"));
        assert!(place("/sys") < place("/sys/fs/cgroup"));
    }

    /// Section 8.2: not mounted when the container mounts something there.
    #[test]
    fn a_mount_of_the_manifest_replaces_ours() {
        let got = plan(
            r#"{"containers":[]}"#,
            r#"{"name":"c","volumeMounts":[{"name":"v","mountPath":"/etc/hosts"},{"name":"v","mountPath":"/dev/shm"}]}"#,
            &[("v", HOST)],
        )
        .unwrap();
        for target in ["/etc/hosts", "/dev/shm"] {
            assert_eq!(got.iter().filter(|mount| mount.target == target).count(), 1, "{target}");
        }
    }

    /// EN9, VO40
    #[test]
    fn a_sub_path_expression_needs_all_its_variables() {
        for (expression, expected) in [
            ("$(A)/x", Ok("a/x")),
            ("$(B)/$(C)", Err("missing value for B, C")),
            ("../$(A)", Err("subPath \"../a\": must not contain '..'")),
        ] {
            let mount = VolumeMount { sub_path_expr: Some(expression.into()), ..VolumeMount::default() };
            let environment = Environment::from([("A".to_owned(), "a".to_owned())]);
            let got = sub_path(&mount, &environment);
            match expected {
                Ok(path) => assert_eq!(got.unwrap().as_deref(), Some(path)),
                Err(text) => assert_eq!(got.unwrap_err().to_string(), text),
            }
        }
    }

    /// VO25, D8
    #[test]
    fn options_follow_volume_and_security() {
        let kept = VolumePlace { read_only: true, ..VolumePlace::kept() };
        let got = plan(
            r#"{"containers":[]}"#,
            r#"{"name":"c","securityContext":{"allowPrivilegeEscalation":false},"volumeMounts":[{"name":"v","mountPath":"/v"}]}"#,
            &[("v", kept)],
        )
        .unwrap();
        let mount = got.iter().find(|mount| mount.target == "/v").unwrap();
        assert!(mount.options.read_only && mount.options.nosuid && mount.options.nodev);
        assert_eq!(mount.source, MountSource::Kept { name: "v".into(), sub_path: None });
    }
}
