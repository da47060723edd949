//! What a plan needs to know besides the manifest.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service};

use crate::identity::Token;

/// The node as its pods see it.
#[derive(Debug, Clone)]
pub struct NodeFacts {
    pub name: String,
    /// Primary first (`status.hostIPs`).
    pub ips: Vec<IpAddr>,
    pub allocatable_cpu_milli: i64,
    pub allocatable_memory_bytes: i64,
    pub allocatable_ephemeral_bytes: i64,
    /// Processors, for the paths below `/sys` that are per processor.
    pub cpus: u32,
    /// `RLIMIT_NOFILE` that containers get, soft and hard.
    pub nofile: (u64, u64),
    /// Whether the kernel enforces AppArmor profiles.
    pub apparmor: bool,
    /// Every capability that the kernel knows, as a bit set.
    pub capabilities: u64,
}

/// A pod after its sandbox has been made.
#[derive(Debug, Clone)]
pub struct PodFacts {
    /// Primary first; the node's with `hostNetwork` (rule FR1).
    pub ips: Vec<IpAddr>,
    pub hostname: String,
}

/// The objects that a pod may refer to, as they are now.
pub trait Objects {
    fn config_map(&self, namespace: &str, name: &str) -> Option<Rc<ConfigMap>>;
    fn secret(&self, namespace: &str, name: &str) -> Option<Rc<Secret>>;
    /// Services of the namespace and `default/kubernetes`.
    fn services(&self, namespace: &str) -> Vec<Rc<Service>>;
    fn claim(&self, _namespace: &str, _name: &str) -> Option<Rc<PersistentVolumeClaim>> {
        None
    }
    fn persistent_volume(&self, _name: &str) -> Option<Rc<PersistentVolume>> {
        None
    }
    /// The handler that a runtime class names; none when there is no such class.
    fn runtime_handler(&self, _class: &str) -> Option<String> {
        None
    }
    /// A new token of the pod's service account (rule VO29), or why there is none.
    fn token(&self, _request: &PodToken<'_>) -> Result<Token, String> {
        Err("this node issues no tokens".to_owned())
    }
}

/// A token for a pod.
#[derive(Debug, Clone, Copy)]
pub struct PodToken<'a> {
    pub pod: &'a Pod,
    /// None is the API server.
    pub audience: Option<&'a str>,
    pub life: Duration,
}

/// Files in volumes that give variables (`fileKeyRef`).
pub trait EnvFiles {
    /// The content, none when there is no such file, or why it can't be read.
    fn read(&self, volume: &str, path: &str) -> Result<Option<Vec<u8>>, String>;
}

/// No files at all.
#[derive(Debug, Clone, Copy)]
pub struct NoFiles;

impl EnvFiles for NoFiles {
    fn read(&self, _volume: &str, _path: &str) -> Result<Option<Vec<u8>>, String> {
        Ok(None)
    }
}

/// No objects at all.
#[derive(Debug, Clone, Copy)]
pub struct NoObjects;

impl Objects for NoObjects {
    fn config_map(&self, _namespace: &str, _name: &str) -> Option<Rc<ConfigMap>> {
        None
    }

    fn secret(&self, _namespace: &str, _name: &str) -> Option<Rc<Secret>> {
        None
    }

    fn services(&self, _namespace: &str) -> Vec<Rc<Service>> {
        Vec::new()
    }
}
