//! What a plan needs to know besides the manifest.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};

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

/// The objects that a pod may refer to.
pub trait Objects {
    fn config_map(&self, namespace: &str, name: &str) -> Option<&ConfigMap>;
    fn secret(&self, namespace: &str, name: &str) -> Option<&Secret>;
    /// Services of the namespace and `default/kubernetes`.
    fn services(&self, namespace: &str) -> Vec<&Service>;
}

/// No objects at all.
#[derive(Debug, Clone, Copy)]
pub struct NoObjects;

impl Objects for NoObjects {
    fn config_map(&self, _namespace: &str, _name: &str) -> Option<&ConfigMap> {
        None
    }

    fn secret(&self, _namespace: &str, _name: &str) -> Option<&Secret> {
        None
    }

    fn services(&self, _namespace: &str) -> Vec<&Service> {
        Vec::new()
    }
}
