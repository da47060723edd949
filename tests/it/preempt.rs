//! Room for pods that matter more: for critical ones at the node's door, and for pending ones of higher priority (CO6,
//! section 10.8). The node takes two pods.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::life_watch::{OBEDIENT, pod, sh, with};
use crate::registry_pods::Node;
use crate::serve::{MANIFESTS, wait_until, with_busybox};
use crate::{Test, ask, tests};

pub fn tests() -> Vec<Test> {
    tests![Host: a_critical_pod_gets_the_place_of_the_least_important, a_pod_of_higher_priority_gets_a_place_that_nobody_else_takes]
}

const GO: &str = "/tmp/go";

fn described(node: &Node) -> String {
    node.sh("monopod get events -A; monopod describe pods").unwrap_or_default()
}

/// Waits until a pod's status is like this.
fn until(node: &Node, name: &str, what: &str, is: impl Fn(&Value) -> bool) -> Result<Value> {
    wait_until(what, || node.pod(name).ok().filter(|pod| is(pod))).with_context(|| described(node))
}

fn is_disrupted(pod: &Value, reason: &str, message: &str) -> Result<()> {
    let conditions = pod["status"]["conditions"].as_array().context("conditions")?;
    let found = conditions.iter().find(|own| own["type"] == "DisruptionTarget").with_context(|| pod.to_string())?;
    ensure!(found["status"] == "True" && found["reason"] == reason && found["message"] == message, "{found}");
    Ok(())
}

/// Event of a pod with this reason.
fn event(node: &Node, pod: &str, reason: &str) -> Result<Value> {
    let found = wait_until(reason, || {
        let all = ask::get("/api/v1/namespaces/default/events")?;
        let is = |event: &&Value| event["reason"] == reason && event["involvedObject"]["name"] == pod;
        all["items"].as_array()?.iter().find(is).cloned()
    });
    found.with_context(|| described(node))
}

fn a_critical_pod_gets_the_place_of_the_least_important() -> Result<()> {
    const MESSAGE: &str = "Preempted in order to admit critical pod";
    with_busybox(|| {
        let node = Node::configured("maxPods: 2\n")?;
        let limits = json!({"resources": {"limits": {"cpu": "10m", "memory": "64Mi"}}});
        node.apply(&pod("effort", json!({"containers": [sh("c", OBEDIENT)]})).to_string())?;
        node.apply(&pod("guaranteed", json!({"containers": [with(sh("c", OBEDIENT), limits)]})).to_string())?;
        for name in ["effort", "guaranteed"] {
            node.ready(name)?;
        }
        let own = pod("own", json!({"containers": [sh("c", OBEDIENT)]}));
        std::fs::write("/run/own.yaml", own.to_string())?;
        std::fs::rename("/run/own.yaml", format!("{MANIFESTS}/own.yaml"))?;
        node.ready("own-n1")?;
        let victim = until(&node, "effort", "the victim's end", |pod| {
            pod["status"]["phase"] == "Failed"
                && pod["status"]["containerStatuses"][0]["state"]["terminated"].is_object()
        })?;
        let status = &victim["status"];
        ensure!(status["reason"] == "Preempting" && status["message"] == MESSAGE, "{status}");
        is_disrupted(&victim, "TerminationByKubelet", "Pod was preempted by Kubelet to accommodate a critical pod.")?;
        let told = event(&node, "effort", "Preempting")?;
        ensure!(told["type"] == "Warning" && told["message"] == MESSAGE, "{told}");
        let ended =
            status["containerStatuses"][0]["state"]["terminated"]["finishedAt"].as_str().context("finishedAt")?;
        let own = node.pod("own-n1")?;
        let started = own["status"]["startTime"].as_str().context("startTime")?;
        ensure!(ended <= started, "the place was taken at {started}, before it was free at {ended}");
        ensure!(node.pod("guaranteed")?["status"]["phase"] == "Running", "it is not in the way");

        // Nobody can make so much room, and nobody has to go for it.
        let much = json!({"resources": {"requests": {"cpu": "1000"}}});
        let spec = json!({"nodeName": "n1", "priorityClassName": "system-node-critical", "containers": [with(sh("c", OBEDIENT), much)]});
        node.apply(&pod("much", spec).to_string())?;
        let refused = until(&node, "much", "a refusal", |pod| pod["status"]["phase"] == "Failed")?;
        let text = refused["status"]["message"].as_str().context("message")?;
        let begin = "Pod was rejected: Unexpected error while attempting to recover from admission failure: preemption: \
            error finding a set of pods to preempt: no set of running pods found to reclaim resources: [(res: cpu, q: ";
        ensure!(refused["status"]["reason"] == "UnexpectedAdmissionError" && text.starts_with(begin), "{text}");
        ensure!(node.pod("guaranteed")?["status"]["phase"] == "Running", "nobody goes in vain");
        std::fs::remove_file(format!("{MANIFESTS}/own.yaml"))?;
        node.sh("monopod delete pods --all").map(drop)
    })
}

fn class(name: &str, value: i32, policy: &str) -> String {
    let meta = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}});
    with(meta, json!({"value": value, "preemptionPolicy": policy})).to_string()
}

/// Why it stays Pending.
fn reason(pod: &Value) -> Option<&str> {
    let conditions = pod["status"]["conditions"].as_array()?;
    conditions.iter().find(|own| own["type"] == "PodScheduled")?["message"].as_str()
}

fn a_pod_of_higher_priority_gets_a_place_that_nobody_else_takes() -> Result<()> {
    const FULL: &str = "0/1 nodes are available: 1 Too many pods.";
    with_busybox(|| {
        std::fs::create_dir(GO)?;
        let node = Node::configured("maxPods: 2\n")?;
        node.apply(&class("high", 1000, "PreemptLowerPriority"))?;
        node.apply(&class("patient", 500, "Never"))?;
        let of = |class: &str| json!({"priorityClassName": class, "containers": [sh("c", OBEDIENT)]});
        // Ends when the test says so.
        let waits = format!("trap 'while [ ! -e {GO}/now ]; do sleep 0.1; done; exit 0' TERM; sleep 1000 & wait; wait");
        let mount = json!({"volumeMounts": [{"name": "go", "mountPath": GO}]});
        let volumes = json!([{"name": "go", "hostPath": {"path": GO}}]);
        let low = json!({"terminationGracePeriodSeconds": 60, "containers": [with(sh("c", &waits), mount)], "volumes": volumes});
        for name in ["old", "young"] {
            node.apply(&pod(name, low.clone()).to_string())?;
            node.ready(name)?;
        }
        node.apply(&pod("patient", of("patient")).to_string())?;
        let never = format!("{FULL} preemption: not eligible due to preemptionPolicy=Never.");
        until(&node, "patient", "it waits", |pod| reason(pod) == Some(&never))?;
        ensure!(node.pod("young")?["metadata"]["deletionTimestamp"].is_null(), "it was patient");

        node.apply(&pod("high", of("high")).to_string())?;
        let victim = until(&node, "young", "a deletion", |pod| pod["metadata"]["deletionTimestamp"].is_string())?;
        let message = "default-scheduler: preempting to accommodate a higher priority pod";
        is_disrupted(&victim, "PreemptionByScheduler", message)?;
        let high = until(&node, "high", "a nomination", |pod| pod["status"]["nominatedNodeName"] == "n1")?;
        let told = event(&node, "young", "Preempted")?;
        let by = format!("Preempted by pod {} on node n1", high["metadata"]["uid"].as_str().context("uid")?);
        ensure!(told["type"] == "Normal" && told["message"] == by.as_str(), "{told}");
        let waiting = format!("{FULL} preemption: not eligible due to a terminating pod on the nominated node.");
        until(&node, "high", "it waits", |pod| reason(pod) == Some(&waiting))?;

        // The place becomes free, and who came first does not get it.
        std::fs::write(Path::new(GO).join("now"), "")?;
        node.ready("high")?;
        let high = node.pod("high")?;
        ensure!(high["status"]["nominatedNodeName"].is_null(), "{high}");
        ensure!(node.pod("young").is_err(), "it is gone");
        ensure!(node.pod("old")?["metadata"]["deletionTimestamp"].is_null(), "one was enough");
        ensure!(node.pod("patient")?["spec"]["nodeName"].is_null(), "there is no place");
        node.sh("monopod delete pods --all").map(drop)
    })
}
