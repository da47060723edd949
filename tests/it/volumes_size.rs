//! `sizeLimit` of volumes on disk and limits of `ephemeral-storage` (EV1 to EV4, EV7): the daemon's own counters evict who
//! goes beyond.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::life_watch::{OBEDIENT, pod, sh, with};
use crate::registry_pods::Node;
use crate::serve::{wait_until, with_busybox};
use crate::{Test, tests};

pub fn tests() -> Vec<Test> {
    tests![Host: a_pod_that_writes_beyond_a_size_limit_is_evicted, containers_that_write_beyond_their_limits_are_evicted]
}

fn writer(name: &str, size: &str) -> Value {
    let script = format!("dd if=/dev/zero of=/v/file bs=64k count={size} 2>/dev/null; {OBEDIENT}");
    let container = with(sh("c", &script), json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}));
    let volumes = json!([{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}]);
    pod(name, json!({"terminationGracePeriodSeconds": 30, "containers": [container], "volumes": volumes}))
}

fn a_pod_that_writes_beyond_a_size_limit_is_evicted() -> Result<()> {
    const MESSAGE: &str = "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". ";
    with_busybox(|| {
        let node = Node::start()?;
        for (name, size) in [("beyond", "32"), ("within", "8")] {
            node.apply(&writer(name, size).to_string())?;
            node.ready(name)?;
        }
        let status = wait_until("it is evicted", || {
            let status = node.pod("beyond").ok()?["status"].clone();
            (status["phase"] == "Failed").then_some(status)
        })?;
        ensure!(status["reason"] == "Evicted" && status["message"] == MESSAGE, "{status}");
        let code = wait_until("its container ends", || {
            node.pod("beyond").ok()?["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"].as_i64()
        })?;
        ensure!(code == 0, "it was asked to end, not killed: {code}");
        let events: Value = serde_json::from_str(&node.sh("monopod get events -o json")?)?;
        let all = events["items"].as_array().context("items")?;
        let evicted = all.iter().find(|event| event["reason"] == "Evicted").context("no event")?;
        ensure!(evicted["type"] == "Warning" && evicted["message"] == MESSAGE, "{evicted}");
        ensure!(node.pod("within")?["status"]["phase"] == "Running", "its neighbour goes on");
        node.sh("monopod delete pods --all").map(drop)
    })
}

/// Writes into its own layer, or into its log.
fn limited(name: &str, script: &str, limits: [&str; 2]) -> Value {
    let limit = |limit: &str| json!({"resources": {"limits": {"ephemeral-storage": limit}}});
    let writing = with(sh("c", &format!("{script}; {OBEDIENT}")), limit(limits[0]));
    let other = with(sh("d", OBEDIENT), limit(limits[1]));
    pod(name, json!({"terminationGracePeriodSeconds": 30, "containers": [writing, other]}))
}

/// EV3, EV4
fn containers_that_write_beyond_their_limits_are_evicted() -> Result<()> {
    const LAYER: &str = "dd if=/dev/zero of=/file bs=64k count=32 2>/dev/null";
    const LOG: &str = "dd if=/dev/zero bs=64k count=32 2>/dev/null | tr '\\0' x | fold -w 1000";
    const POD: &str = "Pod ephemeral local storage usage exceeds the total limit of containers 1536Ki. ";
    const CONTAINER: &str = "Container c exceeded its local ephemeral storage limit \"1Mi\". ";
    with_busybox(|| {
        let node = Node::start()?;
        let pods = [
            ("layer", LAYER, ["1Mi", "64Mi"], Some(CONTAINER)),
            ("log", LOG, ["1Mi", "64Mi"], Some(CONTAINER)),
            ("all", LAYER, ["1Mi", "512Ki"], Some(POD)),
            ("within", LAYER, ["4Mi", "1Mi"], None),
        ];
        for (name, script, limits, _) in pods {
            node.apply(&limited(name, script, limits).to_string())?;
        }
        for (name, _, _, message) in pods.into_iter().filter(|pod| pod.3.is_some()) {
            let status = wait_until("it is evicted", || {
                let status = node.pod(name).ok()?["status"].clone();
                (status["phase"] == "Failed").then_some(status)
            })?;
            ensure!(status["reason"] == "Evicted" && status["message"].as_str() == message, "{status}");
        }
        ensure!(node.pod("within")?["status"]["phase"] == "Running", "its neighbour goes on");
        node.sh("monopod delete pods --all").map(drop)
    })
}
