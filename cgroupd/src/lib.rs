//! Kubernetes requests and limits on cgroup v2.
