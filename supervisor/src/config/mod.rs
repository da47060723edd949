//! `/etc/monopod/config.yaml`: strict, and every option has a default. Names are those of the kubelet's configuration
//! where it has the option.

pub mod eviction;
pub mod sysctls;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cgroupd::Quantity as Amount;
use serde::{Deserialize, Deserializer};

use crate::image::{Verification, gc};

/// Where the configuration is read from unless somebody says otherwise.
pub const PATH: &str = "/etc/monopod/config.yaml";

/// How long pressure is shown after it was seen last (EV5), so that a node on the edge does not flap.
pub const PRESSURE_TRANSITION_PERIOD: Duration = Duration::from_secs(300);

/// Why a configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("read {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}: {cause}", path.display())]
    Refused { path: PathBuf, cause: String },
}

/// The options of `monopod serve`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Config {
    /// The node's name: `spec.nodeName`, `kubernetes.io/hostname`. By default the host's, in lower case.
    pub node_name: Option<String>,
    /// Labels of the node, besides those that it always has.
    pub node_labels: BTreeMap<String, String>,
    /// Taints of the node: `key=value:effect`.
    pub register_with_taints: Vec<Taint>,
    /// Directory of static manifests; empty takes none.
    pub static_pod_path: PathBuf,
    /// Images, objects, container roots and records.
    pub data_dir: PathBuf,
    /// Sockets and address leases.
    pub run_dir: PathBuf,
    /// Container logs.
    pub log_dir: PathBuf,
    /// Range of the pods' IPv4 addresses; by default one that no route of the host overlaps. Taken at the next start.
    #[serde(rename = "podCIDR")]
    pub pod_cidr: Option<ipnet::Ipv4Net>,
    /// Range of the pods' IPv6 addresses; needs `podCIDR`.
    #[serde(rename = "podCIDR6")]
    pub pod_cidr6: Option<ipnet::Ipv6Net>,
    /// Pods on the node at the same time.
    pub max_pods: u32,
    /// Unsafe sysctls that pods may set all the same: names, or prefixes with `*` behind them (SY2).
    #[serde(rename = "allowedUnsafeSysctls")]
    pub allowed_unsafe_sysctls: Vec<sysctls::Allowed>,
    /// What pods can't request, as quantities by resource: `cpu`, `memory`, `ephemeral-storage`.
    pub system_reserved: BTreeMap<String, String>,
    /// A container's log file is rotated at this size.
    pub container_log_max_size: String,
    /// Files per container, the current one among them.
    pub container_log_max_files: u32,
    /// Runs pods with limits that this host can't enforce, and says so, instead of refusing to start.
    pub allow_unenforced_limits: bool,
    /// Whether pods that don't say have the host's users; else those without host namespaces get their own, where the kernel
    /// can do that. A pod keeps what it began with.
    pub host_users: bool,
    /// The directory in the cgroup tree below which pods lie. By default the unit's own, else `monopod`.
    pub cgroup_parent: Option<PathBuf>,
    /// What all pods get at a shutdown of the machine, as a duration; `0s` leaves them to the machine.
    #[serde(deserialize_with = "duration")]
    pub shutdown_grace_period: Duration,
    /// The part of it that critical pods get, after the others.
    #[serde(deserialize_with = "duration")]
    pub shutdown_grace_period_critical_pods: Duration,
    /// The longest that a crashing container waits for its next start.
    #[serde(deserialize_with = "duration")]
    pub max_container_restart_period: Duration,
    /// Used percent of the images' file system from which on unused images go.
    #[serde(rename = "imageGCHighThresholdPercent")]
    pub image_gc_high_threshold_percent: u64,
    /// Used percent down to which they go.
    #[serde(rename = "imageGCLowThresholdPercent")]
    pub image_gc_low_threshold_percent: u64,
    /// So long an image stays after its last use.
    #[serde(rename = "imageMinimumGCAge", deserialize_with = "duration")]
    pub image_minimum_gc_age: Duration,
    /// With less than this the node has MemoryPressure, DiskPressure or PIDPressure, and pods go.
    pub eviction_hard: eviction::EvictionHard,
    /// The node has it for so long after it was seen last.
    #[serde(deserialize_with = "duration")]
    pub eviction_pressure_transition_period: Duration,
    /// Which images that are here already a pod gets only with credentials that open them.
    pub image_pull_credentials_verification_policy: Verification,
    /// For `NeverVerifyAllowlistedImages`: repositories that every pod gets, `REGISTRY/PATH` or `REGISTRY/PATH/*`.
    pub preloaded_images_verification_allowlist: Vec<String>,
    /// The node's resolver configuration that pods inherit from.
    pub resolv_conf: PathBuf,
    /// The API server.
    pub api: Api,
}

/// Where the API is served.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Api {
    /// Address and port; none serves only the local socket.
    pub listen: Option<std::net::SocketAddr>,
    /// The local socket; by default `monopod.sock` in `runDir`.
    pub socket: Option<PathBuf>,
    /// Certificates and kubeconfig.
    pub dir: PathBuf,
}

/// A taint as `kubectl taint` takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taint {
    pub key: String,
    pub value: String,
    pub effect: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node_name: None,
            node_labels: BTreeMap::new(),
            register_with_taints: Vec::new(),
            static_pod_path: "/etc/monopod/manifests".into(),
            data_dir: "/var/lib/monopod".into(),
            run_dir: "/run/monopod".into(),
            log_dir: "/var/log/pods".into(),
            pod_cidr: None,
            pod_cidr6: None,
            max_pods: 110,
            allowed_unsafe_sysctls: Vec::new(),
            system_reserved: BTreeMap::new(),
            container_log_max_size: "10Mi".to_owned(),
            container_log_max_files: 5,
            allow_unenforced_limits: false,
            host_users: true,
            cgroup_parent: None,
            shutdown_grace_period: Duration::from_secs(60),
            shutdown_grace_period_critical_pods: Duration::from_secs(10),
            max_container_restart_period: crate::pod::timer::CRASH_BACK_OFF_MAX,
            image_gc_high_threshold_percent: gc::Policy::default().high_percent,
            image_gc_low_threshold_percent: gc::Policy::default().low_percent,
            image_minimum_gc_age: gc::Policy::default().minimum_age,
            eviction_hard: eviction::EvictionHard::default(),
            eviction_pressure_transition_period: PRESSURE_TRANSITION_PERIOD,
            image_pull_credentials_verification_policy: Verification::default(),
            preloaded_images_verification_allowlist: Vec::new(),
            resolv_conf: "/etc/resolv.conf".into(),
            api: Api::default(),
        }
    }
}

impl Default for Api {
    fn default() -> Self {
        Self {
            listen: Some(std::net::SocketAddr::from(([127, 0, 0, 1], 6443))),
            socket: None,
            dir: "/etc/monopod".into(),
        }
    }
}

impl Config {
    /// Reads a file. One that does not exist is the defaults, unless somebody asked for it by name.
    ///
    /// # Errors
    /// It can't be read, or says what is not understood.
    pub fn read(path: Option<&Path>) -> Result<Self, ConfigError> {
        let file = path.unwrap_or(Path::new(PATH));
        match std::fs::read_to_string(file) {
            Ok(text) => Self::parse(&text).map_err(|cause| ConfigError::Refused { path: file.to_owned(), cause }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && path.is_none() => Ok(Self::default()),
            Err(source) => Err(ConfigError::Read { path: file.to_owned(), source }),
        }
    }

    /// # Errors
    /// What is not understood, in words with its place.
    pub fn parse(text: &str) -> Result<Self, String> {
        let nothing = text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'));
        let config: Self =
            if nothing { Self::default() } else { serde_saphyr::from_str(text).map_err(|error| error.to_string())? };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        let absolute = [
            ("staticPodPath", &self.static_pod_path),
            ("dataDir", &self.data_dir),
            ("runDir", &self.run_dir),
            ("logDir", &self.log_dir),
        ];
        for (name, path) in absolute {
            let empty_is_allowed = name == "staticPodPath" && path.as_os_str().is_empty();
            if !path.is_absolute() && !empty_is_allowed {
                return Err(format!("{name}: {} is not absolute", path.display()));
            }
        }
        for (resource, amount) in &self.system_reserved {
            amount.parse::<Amount>().map_err(|cause| format!("systemReserved.{resource}: {cause}"))?;
        }
        if self.log_bytes().is_none_or(|bytes| bytes == 0) {
            return Err(format!("containerLogMaxSize: {:?} is not a size", self.container_log_max_size));
        }
        if self.container_log_max_files < 2 {
            return Err("containerLogMaxFiles: must be at least 2".to_owned());
        }
        let (high, low) = (self.image_gc_high_threshold_percent, self.image_gc_low_threshold_percent);
        if high > 100 || low >= high {
            return Err(format!(
                "imageGCHighThresholdPercent, imageGCLowThresholdPercent: must be at most 100, and {low} less than {high}"
            ));
        }
        let only_listed = self.image_pull_credentials_verification_policy == Verification::NeverVerifyAllowlistedImages;
        if !only_listed && !self.preloaded_images_verification_allowlist.is_empty() {
            let needed = "imagePullCredentialsVerificationPolicy: NeverVerifyAllowlistedImages";
            return Err(format!("preloadedImagesVerificationAllowlist: needs {needed}"));
        }
        if self.pod_cidr6.is_some() && self.pod_cidr.is_none() {
            return Err("podCIDR6: needs podCIDR".to_owned());
        }
        if self.shutdown_grace_period_critical_pods > self.shutdown_grace_period {
            return Err("shutdownGracePeriodCriticalPods: must not be longer than shutdownGracePeriod".to_owned());
        }
        Ok(())
    }

    /// When images go.
    pub fn image_gc(&self) -> gc::Policy {
        gc::Policy {
            high_percent: self.image_gc_high_threshold_percent,
            low_percent: self.image_gc_low_threshold_percent,
            minimum_age: self.image_minimum_gc_age,
        }
    }

    /// `containerLogMaxSize` in bytes.
    pub fn log_bytes(&self) -> Option<u64> {
        self.container_log_max_size.parse::<cgroupd::Quantity>().ok().map(|size| size.units())
    }

    /// Where the API's local socket is.
    pub fn socket(&self) -> PathBuf {
        self.api.socket.clone().unwrap_or_else(|| self.run_dir.join("monopod.sock"))
    }

    /// The options that differ and are only taken at a start.
    pub fn needs_restart(&self, new: &Self) -> Vec<&'static str> {
        let fixed = [
            ("nodeName", self.node_name != new.node_name),
            ("staticPodPath", self.static_pod_path != new.static_pod_path),
            ("dataDir", self.data_dir != new.data_dir),
            ("runDir", self.run_dir != new.run_dir),
            ("logDir", self.log_dir != new.log_dir),
            ("podCIDR", (self.pod_cidr, self.pod_cidr6) != (new.pod_cidr, new.pod_cidr6)),
            ("cgroupParent", self.cgroup_parent != new.cgroup_parent),
            ("resolvConf", self.resolv_conf != new.resolv_conf),
            ("containerLogMaxSize", self.container_log_max_size != new.container_log_max_size),
            ("containerLogMaxFiles", self.container_log_max_files != new.container_log_max_files),
            ("allowUnenforcedLimits", self.allow_unenforced_limits != new.allow_unenforced_limits),
            ("hostUsers", self.host_users != new.host_users),
            ("api", self.api != new.api),
            (
                "imagePullCredentialsVerificationPolicy",
                self.image_pull_credentials_verification_policy != new.image_pull_credentials_verification_policy,
            ),
            (
                "preloadedImagesVerificationAllowlist",
                self.preloaded_images_verification_allowlist != new.preloaded_images_verification_allowlist,
            ),
        ];
        fixed.into_iter().filter_map(|(name, differs)| differs.then_some(name)).collect()
    }
}

/// Go's durations, as far as people write them: `10s`, `1m30s`.
fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let span: jiff::SignedDuration = text.parse().map_err(serde::de::Error::custom)?;
    Duration::try_from(span).map_err(|_| serde::de::Error::custom(format!("{text} is negative")))
}

impl<'de> Deserialize<'de> for Taint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        taint(&text).ok_or_else(|| serde::de::Error::custom(format!("{text:?} is not key=value:effect")))
    }
}

fn taint(text: &str) -> Option<Taint> {
    let (what, effect) = text.rsplit_once(':')?;
    let (key, value) = what.split_once('=').unwrap_or((what, ""));
    let known = ["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect);
    (known && !key.is_empty()).then(|| Taint {
        key: key.to_owned(),
        value: value.to_owned(),
        effect: effect.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_the_defaults() {
        assert_eq!(Config::parse("").unwrap(), Config::default());
        assert_eq!(Config::parse("# nothing\n").unwrap(), Config::default());
    }

    /// The default configuration shows every option with its default.
    #[test]
    fn every_option_is_documented() {
        let text = include_str!("../../../packaging/config.yaml");
        let options: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix('#')).collect();
        let options: Vec<&str> =
            options.into_iter().filter(|line| !line.starts_with(' ') || line.starts_with("  ")).collect();
        let all = options.join("\n");
        let config = Config::parse(&all).unwrap();
        let example = Config {
            node_name: Some("node1".into()),
            pod_cidr: "10.187.0.0/16".parse().ok(),
            pod_cidr6: "fd4f:4158:1023::/64".parse().ok(),
            cgroup_parent: Some("/sys/fs/cgroup/monopod".into()),
            api: Api { socket: Some("/run/monopod/monopod.sock".into()), ..Api::default() },
            ..Config::default()
        };
        assert_eq!(config, example);
        // A made-up option makes the parser name those that there are.
        let known = Config::parse("x: 1").unwrap_err();
        let names = known.split('`').filter(|name| name.chars().all(|c| c.is_ascii_alphanumeric()) && *name != "x");
        let names: Vec<&str> = names.filter(|name| !name.is_empty()).collect();
        assert!(names.is_empty() || names.iter().all(|name| all.contains(&format!("{name}:"))), "{known}");
    }

    #[test]
    fn options_are_read() {
        let text = "nodeName: n1\nmaxPods: 5\nsystemReserved: {cpu: 500m}\nshutdownGracePeriod: 1m30s\n\
                    registerWithTaints: ['a=b:NoSchedule', 'c:NoExecute']\npodCIDR: 10.1.0.0/16\n";
        let config = Config::parse(text).unwrap();
        assert_eq!(config.node_name.as_deref(), Some("n1"));
        assert_eq!(config.shutdown_grace_period, Duration::from_secs(90));
        let taints = config.register_with_taints;
        assert_eq!((taints[0].value.as_str(), taints[1].value.as_str()), ("b", ""));
        assert_eq!(config.pod_cidr.unwrap().to_string(), "10.1.0.0/16");
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (text, expected) in [
            ("maxPod: 5\n", "maxPod"),
            ("maxPods: many\n", "maxPods"),
            ("api: {listn: x}\n", "listn"),
            ("dataDir: var\n", "dataDir: var is not absolute"),
            ("systemReserved: {cpu: lots}\n", "systemReserved.cpu"),
            ("registerWithTaints: [a]\n", "key=value:effect"),
            ("containerLogMaxFiles: 1\n", "containerLogMaxFiles"),
            ("containerLogMaxSize: '0'\n", "containerLogMaxSize"),
            ("allowedUnsafeSysctls: ['kernel.msg*', kernel.pid_max]\n", "kernel.pid_max"),
            ("podCIDR6: 'fd00::/64'\n", "podCIDR6"),
            ("shutdownGracePeriod: 5s\n", "shutdownGracePeriodCriticalPods"),
            ("imageGCHighThresholdPercent: 80\n", "80 less than 80"),
            ("evictionHard: {memory.free: 100Mi}\n", "memory.free"),
            ("evictionHard: {nodefs.available: much}\n", "neither a percentage"),
            ("shutdownGracePeriod: soon\n", "shutdownGracePeriod"),
            ("imagePullCredentialsVerificationPolicy: Sometimes\n", "Sometimes"),
            ("preloadedImagesVerificationAllowlist: [docker.io/*]\n", "NeverVerifyAllowlistedImages"),
        ] {
            let refused = Config::parse(text).unwrap_err();
            assert!(refused.contains(expected), "{text}: {refused}");
        }
    }

    #[test]
    fn a_reload_tells_what_it_can_not_take() {
        let old = Config::default();
        let new = Config { max_pods: 3, log_dir: "/logs".into(), ..Config::default() };
        assert_eq!(old.needs_restart(&new), ["logDir"]);
    }
}
