//! A node that has too little disk or memory: who goes, what the node says meanwhile, and that it takes pods again (EV5 to
//! EV8, PH15).

use anyhow::{Context as _, Result, ensure};
use cgroupd::Quantity;
use rustix::mount::MountFlags;
use serde_json::{Value, json};

use crate::host::private_host;
use crate::life_watch::{OBEDIENT, pod, sh, with};
use crate::registry_pods::Node;
use crate::run::load;
use crate::serve::{MANIFESTS, end_everything, wait_until, with_busybox};
use crate::{Test, ask, tests};

pub fn tests() -> Vec<Test> {
    let host = tests![Host: a_full_disk_evicts_who_took_most_and_is_over_in_a_while];
    [host, tests![Vm: scarce_memory_evicts_who_is_furthest_beyond_its_request]].concat()
}

const MIB: u64 = 1 << 20;
/// Unpacking leaves 256 MiB free: it has to be more than that.
const DISK: &std::ffi::CStr = c"size=400m,mode=700";

const NODE: &str = "/api/v1/nodes/n1";

/// The node's condition of this type.
fn condition(kind: &str) -> Option<Value> {
    let node = ask::get(NODE)?;
    node["status"]["conditions"].as_array()?.iter().find(|own| own["type"] == kind).cloned()
}

/// Waits until it holds, or no longer does.
fn holds(node: &Node, kind: &str, truth: &str) -> Result<Value> {
    wait_until(kind, || condition(kind).filter(|own| own["status"] == truth))
        .with_context(|| node.sh("monopod get events -A; monopod describe pods").unwrap_or_default())
}

fn taints() -> Result<Value> {
    Ok(ask::get(NODE).context("no node")?["spec"]["taints"].clone())
}

/// Event of the whole node with this reason.
fn event(node: &Node, reason: &str) -> Result<Value> {
    let found = wait_until(reason, || {
        let all = ask::get("/api/v1/events")?;
        all["items"].as_array()?.iter().find(|event| event["reason"] == reason).cloned()
    });
    found.with_context(|| node.sh("monopod get events -A").unwrap_or_default())
}

fn phase(node: &Node, pod: &str) -> Option<Value> {
    Some(node.pod(pod).ok()?["status"]["phase"].clone())
}

/// Writes so many MiB to a file, says so, and goes on.
fn writer(file: &str, mib: u64) -> Value {
    sh("c", &format!("dd if=/dev/zero of={file} bs=1M count={mib} 2>/dev/null; echo written; {OBEDIENT}"))
}

/// Goes past the scheduler: the node itself refuses it.
fn bound(name: &str, container: Value) -> Value {
    pod(name, json!({"nodeName": "n1", "containers": [container]}))
}

fn is_refused(node: &Node, name: &str, condition: &str) -> Result<()> {
    let message = format!("Pod was rejected: The node had condition: [{condition}]. ");
    let status = wait_until("a refusal", || {
        let status = node.pod(name).ok()?["status"].clone();
        (status["phase"] == "Failed").then_some(status)
    })
    .with_context(|| node.sh("monopod describe pods").unwrap_or_default())?;
    ensure!(status["reason"] == "Evicted" && status["message"] == message, "{status}");
    Ok(())
}

/// The victim's status: what was used and what was available, in its message.
fn is_evicted(node: &Node, name: &str, resource: &str, threshold: &str) -> Result<(Quantity, Quantity)> {
    let told = || node.sh("monopod get events -A; monopod describe pods").unwrap_or_default();
    let pod = wait_until("an eviction", || node.pod(name).ok().filter(|pod| pod["status"]["phase"] == "Failed"))
        .with_context(told)?;
    let status = &pod["status"];
    let message = status["message"].as_str().context("message")?;
    let begin = format!("The node was low on resource: {resource}. Threshold quantity: {threshold}, available: ");
    let end = format!(", request is 0, has larger consumption of {resource}. ");
    let numbers = message.strip_prefix(&begin).and_then(|rest| rest.strip_suffix(&end));
    let (available, used) =
        numbers.and_then(|both| both.split_once(". Container c was using ")).context(message.to_owned())?;
    ensure!(status["reason"] == "Evicted", "{status}");
    let conditions = status["conditions"].as_array().context("conditions")?;
    let disrupted = conditions.iter().find(|own| own["type"] == "DisruptionTarget").context("DisruptionTarget")?;
    let told = (&disrupted["status"], &disrupted["reason"], &disrupted["message"]);
    ensure!(told == (&json!("True"), &json!("TerminationByKubelet"), &json!(message)), "{disrupted}");
    let event = event(node, "Evicted")?;
    ensure!(event["type"] == "Warning" && event["message"] == message, "{event}");
    println!("measured: {message}");
    Ok((available.parse()?, used.parse()?))
}

fn a_full_disk_evicts_who_took_most_and_is_over_in_a_while() -> Result<()> {
    private_host(|| {
        rustix::mount::mount("tmpfs", "/var/lib/monopod", "tmpfs", MountFlags::empty(), DISK).context("mount tmpfs")?;
        load(&["busybox"])?;
        let result = on_small_disk();
        end_everything();
        result.with_context(|| std::fs::read_to_string("/run/serve.log").unwrap_or_default())
    })
}

fn on_small_disk() -> Result<()> {
    let node = Node::configured(
        "evictionHard: {nodefs.available: 100Mi, imagefs.available: 0%}\nevictionPressureTransitionPeriod: 8s\n",
    )?;
    let own = pod("own", json!({"containers": [writer("/file", 110)]}));
    std::fs::write("/run/own.yaml", own.to_string())?;
    std::fs::rename("/run/own.yaml", format!("{MANIFESTS}/own.yaml"))?;
    // Within what it asks for, though it has more than the one that goes.
    let asks = json!({"resources": {"requests": {"ephemeral-storage": "100Mi"}}});
    let volume = json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]});
    let asking = with(with(writer("/v/file", 80), asks), volume);
    node.apply(
        &pod("asking", json!({"containers": [asking], "volumes": [{"name": "v", "emptyDir": {}}]})).to_string(),
    )?;
    node.apply(&pod("small", json!({"containers": [writer("/file", 20)]})).to_string())?;
    for name in ["own-n1", "asking", "small"] {
        node.prints(name, "written")?;
    }
    ensure!(condition("DiskPressure").is_some_and(|own| own["status"] == "False"), "there is room");

    // EV6, EV7: a writable layer, which is not given back before the pod has ended.
    node.apply(&pod("hog", json!({"containers": [writer("/file", 120)]})).to_string())?;
    let (available, used) = is_evicted(&node, "hog", "ephemeral-storage", "100Mi")?;
    ensure!(available.units() < 100 * MIB && used.units() > 60 * MIB, "{available} {used}");
    let reason = holds(&node, "DiskPressure", "True")?["reason"].clone();
    ensure!(reason == "KubeletHasDiskPressure", "{reason}");
    ensure!(taints()? == json!([{"key": "node.kubernetes.io/disk-pressure", "effect": "NoSchedule"}]));
    node.apply(&bound("late", sh("c", OBEDIENT)).to_string())?;
    is_refused(&node, "late", "DiskPressure")?;
    for (reason, severity, message) in [
        ("EvictionThresholdMet", "Warning", "Attempting to reclaim ephemeral-storage"),
        ("NodeHasDiskPressure", "Normal", "Node n1 status is now: NodeHasDiskPressure"),
    ] {
        let event = event(&node, reason)?;
        ensure!(event["type"] == severity && event["message"] == message, "{event}");
        ensure!(event["involvedObject"]["kind"] == "Node", "{event}");
    }

    let reason = holds(&node, "DiskPressure", "False")?["reason"].clone();
    ensure!(reason == "KubeletHasNoDiskPressure" && taints()?.is_null(), "{reason} {}", taints()?);
    event(&node, "NodeHasNoDiskPressure")?;
    for name in ["own-n1", "asking", "small"] {
        ensure!(phase(&node, name).is_some_and(|phase| phase == "Running"), "{name}: {:?}", phase(&node, name));
    }
    node.apply(&bound("later", sh("c", OBEDIENT)).to_string())?;
    node.ready("later")?;
    std::fs::remove_file(format!("{MANIFESTS}/own.yaml"))?;
    node.sh("monopod delete pods --all").map(drop)
}

/// Bytes that nobody uses, in the sense of EV8.
fn free_memory() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let bytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).context(name.to_owned())?;
        anyhow::Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    };
    Ok(bytes("MemFree:")? + bytes("Inactive(file):")?)
}

/// What it eats lies in a volume of memory, which its cgroup pays for.
fn eater(name: &str, mib: u64, request: &str) -> Value {
    let resources = json!({"resources": {"requests": {"memory": request}}});
    let volume = json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]});
    let container = with(with(writer("/v/file", mib), resources), volume);
    pod(name, json!({"containers": [container], "volumes": [{"name": "v", "emptyDir": {"medium": "Memory"}}]}))
}

fn scarce_memory_evicts_who_is_furthest_beyond_its_request() -> Result<()> {
    const HOG: u64 = 160;
    with_busybox(|| {
        // A hundred MiB more than the hog leaves, which is what everything else here may take.
        let keep = (free_memory()?.saturating_sub(HOG * MIB) + 100 * MIB) >> 20;
        println!("measured: {} MiB free, {keep} MiB to be kept", free_memory()? / MIB);
        let node = Node::configured(&format!(
            "evictionHard: {{memory.available: {keep}Mi}}\nevictionPressureTransitionPeriod: 6s\n"
        ))?;
        node.apply(&eater("within", 8, "64Mi").to_string())?;
        node.prints("within", "written")?;
        ensure!(condition("MemoryPressure").is_some_and(|own| own["status"] == "False"), "there is enough");
        node.apply(&eater("hog", HOG, "0").to_string())?;
        let threshold = Quantity::from_bytes(keep * MIB).to_string();
        let (available, used) = is_evicted(&node, "hog", "memory", &threshold)?;
        ensure!(available.units() < keep * MIB && used.units() > 50 * MIB, "{available} {used}");
        let condition = holds(&node, "MemoryPressure", "True")?;
        ensure!(condition["reason"] == "KubeletHasInsufficientMemory", "{condition}");
        ensure!(taints()? == json!([{"key": "node.kubernetes.io/memory-pressure", "effect": "NoSchedule"}]));

        // PH15: only who asks for nothing is refused.
        let asks = json!({"resources": {"requests": {"memory": "1Mi"}}});
        let both = [bound("late", sh("c", OBEDIENT)), bound("asks", with(sh("c", OBEDIENT), asks))];
        node.apply(&json!({"apiVersion": "v1", "kind": "List", "items": both}).to_string())?;
        is_refused(&node, "late", "MemoryPressure")?;
        node.ready("asks")?;
        let event = event(&node, "EvictionThresholdMet")?;
        ensure!(event["message"] == "Attempting to reclaim memory", "{event}");
        let condition = holds(&node, "MemoryPressure", "False")?;
        ensure!(condition["reason"] == "KubeletHasSufficientMemory", "{condition}");
        ensure!(phase(&node, "within").is_some_and(|phase| phase == "Running"), "{:?}", phase(&node, "within"));
        node.sh("monopod delete pods --all").map(drop)
    })
}
