//! Servers as people run them: nginx, redis and postgres from a registry, asked by their real clients.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::host;
use crate::registry::{Registry, put_index, with_own_configuration};
use crate::serve::{Daemon, end_everything, wait_until};
use crate::{Test, ask, tests};

pub fn tests() -> Vec<Test> {
    tests![Host: servers_from_a_registry_serve_their_clients]
}

/// A daemon on a private host, and `monopod`'s own verbs against it.
pub struct Node {
    daemon: Daemon,
}

impl Node {
    pub fn start() -> Result<Self> {
        Self::configured("")
    }

    pub fn configured(more: &str) -> Result<Self> {
        let node = Self { daemon: Daemon::configured(&format!("nodeName: n1\n{more}"))? };
        wait_until("the socket", || Path::new(ask::SOCKET).exists().then_some(()))?;
        Ok(node)
    }

    /// A line of sh that has to succeed; what it printed.
    #[expect(clippy::unused_self, reason = "without a daemon nobody answers")]
    pub fn sh(&self, line: &str) -> Result<String> {
        let path = format!("{}:{}", host::bin_dir()?.display(), std::env::var("PATH").unwrap_or_default());
        host::run("env", &[&format!("PATH={path}"), "sh", "-c", line])
    }

    /// Most memory that the daemon has had, in KiB.
    pub fn daemon_peak(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.daemon.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }

    /// Creates or changes objects.
    pub fn apply(&self, text: &str) -> Result<()> {
        let file = tempfile::Builder::new().suffix(".yaml").tempfile()?;
        std::fs::write(file.path(), text)?;
        self.sh(&format!("monopod apply -f {}", file.path().display())).map(drop)
    }

    #[expect(clippy::unused_self, reason = "without a daemon nobody answers")]
    pub fn pod(&self, name: &str) -> Result<serde_json::Value> {
        ask::pod(name).with_context(|| format!("no pod {name}"))
    }

    /// Waits until what a pod's only container has printed holds this.
    pub fn prints(&self, pod: &str, text: &str) -> Result<()> {
        let logs = || ask::logs(pod).unwrap_or_default();
        wait_until(text, || logs().contains(text).then_some(()))
            .with_context(|| format!("{}\n{}", logs(), self.sh("monopod describe pods").unwrap_or_default()))
    }

    /// Waits until an event about a pod, or what its containers wait for, holds this.
    pub fn prints_event(&self, pod: &str, text: &str) -> Result<()> {
        let told = || self.sh(&format!("monopod describe pod {pod}")).unwrap_or_default();
        wait_until(text, || told().contains(text).then_some(())).with_context(told)
    }

    /// Waits for readiness; the pod's address.
    pub fn ready(&self, pod: &str) -> Result<String> {
        self.sh(&format!("monopod wait --for=condition=Ready pod/{pod} --timeout=60s"))
            .with_context(|| self.sh("monopod describe pods; monopod logs --tail=20 {pod}").unwrap_or_default())?;
        let address = self.pod(pod)?["status"]["podIP"].as_str().map(str::to_owned);
        address.context("podIP")
    }
}

/// A private host with a registry, whose pods end with `body`.
pub fn with_registry(body: impl FnOnce(&Registry) -> Result<()> + Send) -> Result<()> {
    with_own_configuration(|| {
        let registry = Registry::plain()?;
        let result = body(&registry);
        end_everything();
        result.with_context(|| std::fs::read_to_string("/run/serve.log").unwrap_or_default())
    })
}

const SERVERS: &str = "
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: nginx}
spec:
  containers:
  - name: nginx
    image: 127.0.0.1:5000/nginx
    readinessProbe: {httpGet: {port: 80}, periodSeconds: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: redis}
spec:
  containers:
  - name: redis
    image: 127.0.0.1:5000/team/redis:oci
    readinessProbe: {exec: {command: [redis-cli, ping]}, periodSeconds: 1}
---
";

const POSTGRES: &str = "
apiVersion: v1
kind: Pod
metadata: {name: postgres}
spec:
  containers:
  - name: postgres
    image: 127.0.0.1:5000/postgres:15
    readinessProbe: {exec: {command: [pg_isready, -h, 127.0.0.1]}, periodSeconds: 1}
    volumeMounts: [{name: data, mountPath: /var/lib/postgresql/data, subPath: pgdata}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
";

/// Docker schema 2, OCI, and a name for several platforms; VO35: what a claim holds outlives its pod.
fn servers_from_a_registry_serve_their_clients() -> Result<()> {
    with_registry(|registry| {
        registry.push("nginx", "nginx", &["--format", "v2s2"])?;
        registry.push("redis", "team/redis:oci", &["--format", "oci"])?;
        registry.push("postgres", "postgres:oci", &["--format", "oci"])?;
        registry.push("busybox", "postgres:foreign", &["--format", "oci"])?;
        put_index(registry, "postgres", "15", "foreign", "oci")?;
        let node = Node::start()?;
        node.apply(&format!("{SERVERS}{POSTGRES}"))?;
        let page = node.sh(&format!("busybox wget -q -O - http://{}/", node.ready("nginx")?))?;
        ensure!(page.contains("Welcome to nginx!"), "{page}");
        let redis = format!("monopod exec redis -- redis-cli -h {}", node.ready("redis")?);
        ensure!(node.sh(&format!("{redis} set colour blue"))?.contains("OK"), "set");
        ensure!(node.sh(&format!("{redis} get colour"))?.contains("blue"), "get");
        let sql = |statement: &str| {
            let address = node.ready("postgres")?;
            node.sh(&format!("monopod exec postgres -- psql -h {address} -U postgres -A -t -c \"{statement}\""))
        };
        sql("create table kept (word text)")?;
        sql("insert into kept values ('still here')")?;
        ensure!(sql("show data_directory")?.trim() == "/var/lib/postgresql/data", "another directory");
        node.sh("monopod delete pod postgres")?;
        node.apply(POSTGRES)?;
        ensure!(sql("select word from kept")?.trim() == "still here", "the data is gone");
        let events = node.sh("monopod get events")?;
        for name in ["nginx", "team/redis:oci", "postgres:15"] {
            let pulled = format!("Successfully pulled image \"127.0.0.1:5000/{name}\" in ");
            ensure!(events.contains(&pulled), "{pulled:?} is missing:\n{events}");
        }
        node.sh("monopod delete pods --all").map(drop)
    })
}
