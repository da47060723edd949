//! What a node makes of registries that fail: founding document 000, section 7, and pulls that are killed.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::registry::{HTPASSWD, Registry, monopod, with_own_configuration};
use crate::registry_image::{Image, Layer, file};
use crate::registry_pods::{Node, with_registry};
use crate::serve::{end_everything, wait_until};
use crate::{Test, tests};

pub fn tests() -> Vec<Test> {
    tests![Host: a_pod_says_why_it_has_no_image_and_runs_when_the_cause_goes, a_pull_that_is_killed_at_any_moment_leaves_nothing]
}

fn pod(name: &str, image: &str, more: Value) -> String {
    let container = json!({ "name": "app", "image": image, "command": ["sh", "-c", "echo it runs; exec sleep 1000"] });
    let mut spec = json!({ "containers": [container], "terminationGracePeriodSeconds": 0 });
    if let (Some(spec), Value::Object(more)) = (spec.as_object_mut(), more) {
        spec.extend(more);
    }
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name }, "spec": spec }).to_string()
}

fn secret(name: &str, password: &str) -> String {
    let auths = json!({ "auths": { "127.0.0.1:5002": { "username": "user", "password": password } } });
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name }, "type": "kubernetes.io/dockerconfigjson",
        "stringData": { ".dockerconfigjson": auths.to_string() },
    })
    .to_string()
}

/// Pods with nothing to run, and what they say of it.
const FAILING: [(&str, &str, &str); 5] = [
    ("name", "127.0.0.1:5000/busibox", "has no repository busibox: check the name"),
    ("tag", "127.0.0.1:5000/busybox:none", "has no none in repository busybox: check the tag"),
    ("host", "127.0.0.1:5999/busybox", "connection refused"),
    ("password", "127.0.0.1:5002/busybox", "refuses the user name or password"),
    ("blocked", "bad.test/busybox", "registry bad.test is blocked in /etc/containers/registries.conf"),
];

/// IP5, IP6, IP8, VA14; status, event and message.
fn a_pod_says_why_it_has_no_image_and_runs_when_the_cause_goes() -> Result<()> {
    const CONF: &str = "/etc/containers/registries.conf";
    with_own_configuration(|| {
        let plain = Registry::plain()?;
        plain.push("busybox", "busybox", &[])?;
        std::fs::write("/run/htpasswd", HTPASSWD)?;
        let basic = "http: {addr: \"ADDRESS\"}\nauth: {htpasswd: {realm: r, path: /run/htpasswd}}\n";
        let private = Registry::start("127.0.0.1:5002", basic)?;
        private.push("busybox", "busybox", &["--dest-creds", "user:secret"])?;
        std::fs::write(CONF, "[[registry]]\nlocation = \"bad.test\"\nblocked = true\n")?;
        let node = Node::start()?;
        node.apply(&secret("pull", "wrong"))?;
        for (name, image, _) in FAILING {
            let more = if name == "password" { json!({ "imagePullSecrets": [{ "name": "pull" }] }) } else { json!({}) };
            node.apply(&pod(name, image, more))?;
        }
        for (name, image, want) in FAILING {
            says(&node, name, image, want)?;
        }
        // Every cause goes; nobody touches the pods.
        plain.push("busybox", "busibox", &[])?;
        plain.push("busybox", "busybox:none", &[])?;
        let late = Registry::start("127.0.0.1:5999", "http: {addr: \"ADDRESS\"}\n")?;
        late.push("busybox", "busybox", &[])?;
        node.apply(&secret("pull", "secret"))?;
        std::fs::write(CONF, "[[registry]]\nprefix = \"bad.test\"\nlocation = \"127.0.0.1:5000\"\ninsecure = true\n")?;
        for (name, ..) in FAILING {
            node.ready(name)?;
        }
        accounts(&node)?;
        drop(plain);
        without_a_registry(&node)?;
        let gone = node.sh("monopod delete pods --all").map(drop);
        end_everything();
        gone
    })
}

fn says(node: &Node, name: &str, image: &str, want: &str) -> Result<()> {
    let state = || node.pod(name).ok().map(|pod| pod["status"]["containerStatuses"][0]["state"]["waiting"].clone());
    let is = |reason: &str| state().filter(|state| state["reason"] == reason);
    let waiting = wait_until("ImagePullBackOff", || is("ImagePullBackOff"));
    let waiting = waiting.with_context(|| format!("{name}: {:?}", state()))?;
    let message = waiting["message"].as_str().unwrap_or_default();
    ensure!(message.starts_with(&format!("Back-off pulling image \"{image}\"")), "{name}: {message}");
    ensure!(message.contains(want), "{name} does not say {want:?}: {message}");
    let events = node.sh(&format!("monopod describe pod {name}"))?;
    let failed = format!("Failed to pull image \"{image}\": ");
    for text in [&failed, want, "Error: ErrImagePull", "Error: ImagePullBackOff", "Back-off pulling image"] {
        let unavailable = text == "Error: ErrImagePull" && events.contains("Error: RegistryUnavailable");
        ensure!(events.contains(text) || unavailable, "{text:?} is missing:\n{events}");
    }
    ensure!(node.pod(name)?["status"]["phase"] == "Pending", "{name} is not Pending");
    Ok(())
}

/// VA14: what a service account may pull, its pods may.
fn accounts(node: &Node) -> Result<()> {
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "puller" },
        "imagePullSecrets": [{ "name": "pull" }],
    });
    node.apply(&account.to_string())?;
    let image = "127.0.0.1:5002/busybox";
    node.apply(&pod("account", image, json!({ "serviceAccountName": "puller" })))?;
    node.ready("account")?;
    // IP4: what another pod's secret brought here is not there for this pod.
    node.apply(&pod("stranger", image, json!({})))?;
    says(node, "stranger", image, "wants a login")
}

/// IP2, IP3: `Always` asks, also for what is here; `IfNotPresent` does not.
fn without_a_registry(node: &Node) -> Result<()> {
    let image = "127.0.0.1:5000/busybox:none";
    let present = pod("present", image, json!({}));
    node.apply(&present)?;
    node.ready("present")?;
    let always = present
        .replace("\"present\"", "\"always\"")
        .replace("\"command\"", "\"imagePullPolicy\":\"Always\",\"command\"");
    node.apply(&always)?;
    says(node, "always", image, "connection refused")
}

/// Bytes a second that a slow registry gives, on each connection.
const SLOW_BYTES_PER_SECOND: usize = 4 << 20;
const SLOW: &str = "127.0.0.1:5010";
const ROUNDS: u32 = 50;

/// A registry's front that takes its time, so that there are moments to kill at.
fn slow_front(registry: &'static str) -> Result<()> {
    let listener = TcpListener::bind(SLOW)?;
    std::thread::spawn(move || {
        for from in listener.incoming().flatten() {
            // Who is killed hangs up.
            std::thread::spawn(move || forward(from, registry).unwrap_or_default());
        }
    });
    Ok(())
}

fn forward(mut from: TcpStream, registry: &str) -> std::io::Result<()> {
    const PIECE: usize = 32 << 10;
    let mut to = TcpStream::connect(registry)?;
    let (mut asks, mut asked) = (from.try_clone()?, to.try_clone()?);
    std::thread::spawn(move || {
        std::io::copy(&mut asks, &mut asked)
            .and_then(|_| asked.shutdown(std::net::Shutdown::Write))
            .unwrap_or_default();
    });
    let mut buffer = vec![0; PIECE];
    loop {
        let read = to.read(&mut buffer)?;
        if read == 0 {
            return from.shutdown(std::net::Shutdown::Both);
        }
        from.write_all(buffer.get(..read).unwrap_or_default())?;
        std::thread::park_timeout(Duration::from_secs_f64(read as f64 / SLOW_BYTES_PER_SECOND as f64));
    }
}

/// The same every time, and told when something fails.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit.max(1)
    }
}

/// Bytes that do not compress.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut chance = Chance(seed);
    (0..length).map(|_| u8::try_from(chance.below(256)).unwrap_or_default()).collect()
}

fn start_pull(name: &str) -> Result<Child> {
    let mut command = monopod()?;
    Ok(command.args(["image", "pull", name]).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
}

/// The puller, or one of its children.
fn kill_one(child: &mut Child, chance: &mut Chance) -> Result<()> {
    let pid = child.id();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children: Vec<i32> = children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
    let chosen = chance.below(children.len() as u64 + 1);
    match usize::try_from(chosen)?.checked_sub(1).and_then(|number| children.get(number)) {
        // It may have ended by itself.
        Some(pid) => Pid::from_raw(*pid).map_or(Ok(()), |pid| kill_process(pid, Signal::KILL)).unwrap_or_default(),
        None => child.kill()?,
    }
    child.wait()?;
    Ok(())
}

fn left() -> Vec<String> {
    let parts = ["blobs/sha256", "layers", "tmp", "access"].map(|part| format!("/var/lib/monopod/images/{part}"));
    let entries = parts.iter().filter_map(|dir| std::fs::read_dir(dir).ok()).flatten().flatten();
    entries.map(|entry| entry.path().display().to_string()).collect()
}

/// F01 for images: the next pull completes, and nothing is left over.
fn a_pull_that_is_killed_at_any_moment_leaves_nothing() -> Result<()> {
    with_registry(|registry| {
        let layers = (1..5).map(|n| Layer::of(&[file(&format!("layer{n}"), &noise(500_000, n))]));
        let image = Image { layers: layers.collect::<Result<_>>()?, config: json!({ "Cmd": ["sh"] }) };
        image.push(registry, "app")?;
        slow_front(registry.address)?;
        let name = format!("{SLOW}/app");
        let whole = complete(&name)?;
        let seed = u64::from(std::process::id()) + 1;
        let mut chance = Chance(seed);
        for round in 0..ROUNDS {
            let moment = Duration::from_micros(chance.below(u64::try_from(whole.as_micros())?));
            let mut child = start_pull(&name)?;
            std::thread::park_timeout(moment);
            kill_one(&mut child, &mut chance)?;
            complete(&name).with_context(|| format!("seed {seed}, round {round}, killed after {moment:?}"))?;
        }
        println!("measured: {ROUNDS} kills within {whole:?}");
        daemons_die(&name, whole, &mut chance)
    })
}

/// Pulls, and takes the image away again; how long the pull took.
fn complete(name: &str) -> Result<Duration> {
    let started = Instant::now();
    let output = monopod()?.args(["image", "pull", name]).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let took = started.elapsed();
    // A killed pull's last child may have outlived the start of this one: what opens the store next cleans up after it.
    let output = monopod()?.args(["image", "rm", name]).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    ensure!(left().is_empty(), "left over: {:?}", left());
    Ok(took)
}

/// The pull goes on alone, or starts again; the pod has its image in the end.
fn daemons_die(name: &str, whole: Duration, chance: &mut Chance) -> Result<()> {
    let text = pod("survivor", name, json!({ "restartPolicy": "Never" }));
    Node::start()?.apply(&text)?;
    for _ in 0..5 {
        let node = Node::start()?;
        std::thread::park_timeout(Duration::from_micros(chance.below(u64::try_from(whole.as_micros())?)));
        drop(node);
    }
    let node = Node::start()?;
    // The image holds no program: that it is asked for means that it is there.
    let created = || {
        let state = node.pod("survivor").ok()?["status"]["containerStatuses"][0]["state"].clone();
        let reason = [&state["waiting"]["reason"], &state["terminated"]["reason"]];
        reason.iter().any(|reason| ["StartError", "RunContainerError"].iter().any(|one| *reason == one)).then_some(())
    };
    wait_until("the image is there", created)?;
    ensure!(!left().iter().any(|path| path.contains("/tmp/")), "left over: {:?}", left());
    ensure!(Path::new("/run/monopod").exists(), "the daemon's directory");
    node.sh("monopod delete pod survivor").map(drop)
}
