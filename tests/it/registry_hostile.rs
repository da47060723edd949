//! Images made to do harm, by their names from a registry: what they ask for does not happen, to the host, the daemon, other
//! pods or the disk (P14-P19, P25, P26).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::registry::Registry;
use crate::registry_image::{Image, Layer, Pushed, entry, file, gzip, hard, header, link, pax, program};
use crate::registry_pods::{Node, with_registry};
use crate::serve::wait_until;
use crate::{Test, tests};

pub fn tests() -> Vec<Test> {
    tests![Host: layers_that_escape_or_explode_are_refused_and_leave_nothing, a_registry_that_lies_is_found_out,
        users_of_an_image_are_exact_or_refused, what_an_image_calls_itself_never_runs_for_the_host]
}

/// P16: longest that an image may keep the node busy before it is refused.
const REFUSED_WITHIN: Duration = Duration::from_secs(30);
/// P16: what a hostile image may add to the daemon's peak.
const DAEMON_MAY_GROW_KIB: u64 = 64 << 10;
const CANARY: &str = "/run/canary";
const STORE: &str = "/var/lib/monopod/images";

/// A node with a pod that nobody may disturb, and a file of the host that nobody may touch.
struct Site<'a> {
    node: Node,
    registry: &'a Registry,
    bystander: Value,
    kept: BTreeSet<PathBuf>,
    daemon_peak: u64,
}

impl<'a> Site<'a> {
    fn new(registry: &'a Registry) -> Result<Self> {
        std::fs::write(CANARY, "canary")?;
        registry.push("busybox", "busybox", &[])?;
        let node = Node::start()?;
        node.apply(&pod("bystander", "busybox", json!({}), "exec sleep 1000"))?;
        node.ready("bystander")?;
        let bystander = node.pod("bystander")?["status"]["containerStatuses"].clone();
        let daemon_peak = node.daemon_peak()?;
        Ok(Self { node, registry, bystander, kept: kept()?, daemon_peak })
    }

    /// A pod of this image gets none, and says why.
    fn refused(&self, name: &str, want: &str) -> Result<()> {
        let started = Instant::now();
        self.node.apply(&pod("hostile", name, json!({}), "echo it runs"))?;
        let waits = || self.node.pod("hostile").ok().map(|pod| pod["status"]["containerStatuses"][0]["state"].clone());
        let message = wait_for(REFUSED_WITHIN, || {
            let state = waits()?;
            let message = state["waiting"]["message"].as_str().filter(|text| text.contains(want))?;
            Some(message.to_owned())
        });
        let message = message.with_context(|| format!("{name} was not refused with {want:?}, but {:?}", waits()))?;
        println!("measured: {name} refused after {:.1} s: {message:.120}", started.elapsed().as_secs_f64());
        self.node.sh("monopod delete pod hostile --now")?;
        self.undisturbed(name)
    }

    /// Runs, for what is odd and legal.
    fn harmless(&self, name: &str) -> Result<()> {
        self.node.apply(&pod("hostile", name, json!({}), "echo it runs; exec sleep 1000"))?;
        self.node.prints("hostile", "it runs")?;
        self.node.sh("monopod delete pod hostile --now")?;
        self.node.sh(&format!("monopod image rm {}", self.name(name)))?;
        self.undisturbed(name)
    }

    fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.registry.address)
    }

    fn undisturbed(&self, name: &str) -> Result<()> {
        ensure!(std::fs::read_to_string(CANARY)? == "canary", "{name} reached the host");
        let bystander = self.node.pod("bystander")?["status"]["containerStatuses"].clone();
        ensure!(bystander == self.bystander, "{name} disturbed another pod: {bystander}");
        // Space comes back when nobody has the store open, and the daemon looks at it after each pod.
        let is_back = || {
            self.node.sh("monopod image prune").ok()?;
            kept().ok()?.is_subset(&self.kept).then_some(())
        };
        wait_until("the disk is as before", is_back)
            .with_context(|| format!("{name} left {:?}", kept().unwrap_or_default().difference(&self.kept)))?;
        let grown = self.node.daemon_peak()?.saturating_sub(self.daemon_peak);
        ensure!(grown <= DAEMON_MAY_GROW_KIB, "{name}: the daemon grew by {grown} KiB");
        Ok(())
    }
}

/// Everything in the store that takes room.
fn kept() -> Result<BTreeSet<PathBuf>> {
    let parts = ["blobs/sha256", "layers", "tmp", "access"].map(|part| Path::new(STORE).join(part));
    let entries = parts.iter().filter_map(|dir| std::fs::read_dir(dir).ok()).flatten();
    entries.map(|entry| Ok(entry?.path())).collect()
}

fn wait_for<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let until = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        ensure!(Instant::now() < until, "not within {limit:?}");
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

fn pod(name: &str, image: &str, security: Value, script: &str) -> String {
    let container = json!({
        "name": "app", "image": format!("127.0.0.1:5000/{image}"), "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", script], "securityContext": security,
    });
    let spec = json!({ "containers": [container], "terminationGracePeriodSeconds": 0 });
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name }, "spec": spec }).to_string()
}

/// P14, P15, P16.
fn layers_that_escape_or_explode_are_refused_and_leave_nothing() -> Result<()> {
    with_registry(|registry| {
        let site = Site::new(registry)?;
        for (name, entries, want) in escapes() {
            Image::above_busybox(&entries, json!({}))?.push(registry, name)?;
            match want {
                Some(want) => site.refused(name, want)?,
                None => site.harmless(name)?,
            }
        }
        for (name, layer, want) in bombs()? {
            Image { layers: vec![layer], config: json!({}) }.push(registry, name)?;
            site.refused(name, want)?;
        }
        Ok(())
    })
}

/// Name, entries, and what the refusal says; none when it is legal and must stay inside.
type Escape = (&'static str, Vec<Vec<u8>>, Option<&'static str>);

fn escapes() -> Vec<Escape> {
    let through = |name: &str| vec![link("out", "../../../../../run"), file(&format!("out/{name}"), b"changed")];
    vec![
        ("link-parent", through("canary"), None),
        ("absolute-link", vec![link("out", "/run"), file("out/canary", b"changed")], None),
        ("link-then-file", vec![link("x", CANARY), file("x", b"changed")], None),
        ("chmod-through-link", vec![link("x", CANARY), entry(b'5', "x", "", 0o777, b"")], None),
        ("whiteout-through-link", vec![link("out", "/run"), file("out/.wh.canary", b"")], None),
        ("opaque-through-link", vec![link("out", "/run"), file("out/.wh..wh..opq", b"")], None),
        ("absolute-name", vec![file(CANARY, b"changed")], None),
        ("device", vec![entry(b'3', "dev/sda", "", 0o666, b"")], None),
        ("dots", vec![file("../../../../run/canary", b"changed")], None),
        ("hard-link-out", vec![hard("x", CANARY), file("x", b"changed")], Some("layer 2 of 2")),
        ("hard-link-dots", vec![hard("x", "../../../../run/canary")], Some("layer 2 of 2")),
        ("bad-whiteout", vec![file("etc/.wh..", b"")], Some("layer 2 of 2")),
        ("root-replaced", vec![link(".", "/run")], Some("layer 2 of 2")),
        // P15: what one reader takes for content is the next one's header.
        ("desync", vec![pax("size", "99999999999999999999"), file("x", b"")], Some("layer 2 of 2")),
    ]
}

/// P16: small on the wire.
fn bombs() -> Result<Vec<(&'static str, Layer, &'static str)>> {
    const ZEROS: usize = 64 << 20;
    // Members of gzip may follow each other: 64 GiB in 64 MiB without compressing them all.
    let member = gzip(&vec![0; ZEROS])?;
    let head = gzip(&header(b'0', "zeros", "", 0o644, 64 << 30))?;
    let zeros = [head, member.repeat(1024)].concat();
    let legal_size = [gzip(&header(b'0', "zeros", "", 0o644, 10 << 30))?, member.repeat(160)].concat();
    Ok(vec![
        ("zeros", Layer::stored(zeros)?, "the limit for a layer is"),
        ("ratio", Layer::stored(legal_size)?, "layer 1 of 1"),
    ])
}

/// P17: the registry's own files are changed under it.
fn a_registry_that_lies_is_found_out() -> Result<()> {
    with_registry(|registry| {
        let site = Site::new(registry)?;
        let push = |name: &str| Image::above_busybox(&[file(name, name.as_bytes())], json!({}))?.push(registry, name);
        let flip = |bytes: &mut Vec<u8>| bytes.last_mut().map(|byte| *byte ^= 1).unwrap_or_default();
        let space = |bytes: &mut Vec<u8>| bytes.push(b' ');
        change(&push("layer")?.layers[1], flip)?;
        site.refused("layer", "digest")?;
        change(&push("longer")?.layers[1], space)?;
        site.refused("longer", "larger than its manifest says")?;
        change(&push("config")?.config, space)?;
        site.refused("config", "larger than its manifest says")?;
        let Pushed { manifest, .. } = push("manifest")?;
        change(&manifest, space)?;
        site.refused(&format!("manifest@{manifest}"), "a manifest with digest")?;
        let mut lie = Image::above_busybox(&[file("lie", b"")], json!({}))?;
        lie.layers[1].diff_id = crate::registry_image::digest(b"another")?;
        lie.push(registry, "diff-id")?;
        site.refused("diff-id", "diff")?;
        site.refused("x@sha256:../../../../run/canary", "couldn't parse image name")?;
        site.refused(&format!("x@sha256:{}", "A".repeat(64)), "couldn't parse image name")
    })
}

/// Changes a blob where the registry keeps it.
fn change(digest: &str, change: impl Fn(&mut Vec<u8>)) -> Result<()> {
    let hex = digest.strip_prefix("sha256:").context("digest")?;
    let two = hex.get(..2).context("digest")?;
    let path = format!("/run/registry-127.0.0.1-5000/docker/registry/v2/blobs/sha256/{two}/{hex}/data");
    let mut bytes = std::fs::read(&path).with_context(|| path.clone())?;
    change(&mut bytes);
    std::fs::write(&path, bytes).context(path)
}

/// P18, P19: the exact user, or none; nothing hangs, nothing is root that must not be.
fn users_of_an_image_are_exact_or_refused() -> Result<()> {
    let passwd = |line: &str| vec![file("etc/passwd", format!("root:x:0:0::/:/bin/sh\n{line}\n").as_bytes())];
    let odd = |entry: Vec<u8>| vec![entry];
    let non_root = json!({ "runAsNonRoot": true });
    let any = json!({});
    let someone = "someone:x:1000:1000::/:/bin/sh";
    // Below what the ratio of compression forbids.
    let huge = vec![b'x'; 90 << 20];
    let cases = [
        ("exact", "1000", passwd(""), &non_root, Some("uid=1000")),
        ("named-by-digits", "1000", passwd("1000:x:0:0::/:/bin/sh"), &non_root, Some("uid=1000")),
        ("by-name", "someone", passwd(someone), &any, Some("uid=1000")),
        ("home", "someone", passwd("someone:x:1000:1000::/a\x1b[2J\rX=1:/bin/sh"), &any, Some("HOME=/ ")),
        ("two-31", "2147483648", Vec::new(), &any, None),
        ("two-32", "4294967296", Vec::new(), &any, None),
        ("minus-one", "-1", Vec::new(), &any, None),
        ("hexadecimal", "0x0", Vec::new(), &any, None),
        ("plus", "+0", Vec::new(), &any, None),
        ("blank", " 0", Vec::new(), &any, None),
        ("root", "0", Vec::new(), &non_root, None),
        ("root-by-default", "", Vec::new(), &non_root, None),
        ("name-of-root", "toor", passwd("toor:x:0:0::/:/bin/sh"), &non_root, None),
        ("huge", "someone", odd(file("etc/passwd", &huge)), &any, None),
        ("fifo", "someone", odd(entry(b'6', "etc/passwd", "", 0o644, b"")), &any, None),
        ("device", "someone", odd(entry(b'3', "etc/passwd", "", 0o644, b"")), &any, None),
        ("link", "someone", odd(link("etc/passwd", "/run/passwd")), &any, None),
        ("endless-link", "someone", odd(link("etc/passwd", "/dev/zero")), &any, None),
    ];
    with_registry(|registry| {
        std::fs::write("/run/passwd", format!("{someone}\n"))?;
        let site = Site::new(registry)?;
        for (name, user, entries, security, want) in &cases {
            Image::above_busybox(entries, json!({ "User": user }))?.push(registry, name)?;
            let script = "echo \"$(id) HOME=$HOME \"; exec sleep 1000";
            site.node.apply(&pod(name, name, (*security).clone(), script))?;
            match want {
                Some(want) => site.node.prints(name, want)?,
                None => never_runs(&site.node, name)?,
            }
            site.node.sh(&format!("monopod delete pod {name} --now"))?;
        }
        ensure!(site.node.pod("bystander")?["status"]["containerStatuses"] == site.bystander, "another pod suffered");
        Ok(())
    })
}

/// The container is refused, not started.
fn never_runs(node: &Node, name: &str) -> Result<()> {
    let states = || node.pod(name).map(|pod| pod["status"]["containerStatuses"][0].clone()).unwrap_or_default();
    let reason = wait_until("a refusal", || {
        let states = states();
        let waiting = states["state"]["waiting"]["reason"].as_str().unwrap_or_default();
        let ended = states["lastState"]["terminated"]["reason"].as_str().unwrap_or_default();
        ensure_some(!states["state"]["running"].is_null() || ended == "StartError" || is_refusal(waiting))?;
        Some(states)
    })?;
    ensure!(reason["state"]["running"].is_null(), "{name} runs: {}", node.sh(&format!("monopod logs {name}"))?);
    println!("measured: {name}: {}", reason["state"]);
    Ok(())
}

fn ensure_some(is: bool) -> Option<()> {
    is.then_some(())
}

fn is_refusal(reason: &str) -> bool {
    ["CreateContainerConfigError", "CreateContainerError", "RunContainerError", "CrashLoopBackOff"].contains(&reason)
}

/// P25, P26: an image with programs and variables that a careless host would run or obey.
fn what_an_image_calls_itself_never_runs_for_the_host() -> Result<()> {
    const NAMES: [&str; 10] = ["nsenter", "xz", "tar", "unpigz", "gzip", "mount", "ip", "nft", "newuidmap", "top"];
    let script = "#!/bin/busybox sh\necho \"$0 $(readlink /proc/self/ns/mnt)\" >> /ran\n";
    let mut entries: Vec<Vec<u8>> = NAMES.iter().map(|name| program(&format!("usr/bin/{name}"), script)).collect();
    entries.extend(["libnss_files.so.2", "libnss_dns.so.2"].map(|name| program(&format!("lib/{name}"), script)));
    let env = json!(["NOTHING", "LD_PRELOAD=/lib/libnss_files.so.2", "PATH=/usr/bin:/bin"]);
    with_registry(|registry| {
        Image::above_busybox(&entries, json!({ "Env": env }))?.push(registry, "trap")?;
        let site = Site::new(registry)?;
        let mut trap: Value = serde_json::from_str(&pod("trap", "trap", json!({}), "echo hello; exec sleep 1000"))?;
        let exec = json!({ "exec": { "command": ["true"] } });
        trap["spec"]["containers"][0]["readinessProbe"] = json!({ "exec": exec["exec"], "periodSeconds": 1 });
        trap["spec"]["containers"][0]["lifecycle"] = json!({ "postStart": exec });
        site.node.apply(&trap.to_string())?;
        site.node.ready("trap")?;
        let variables = site.node.sh("monopod exec trap -- env")?;
        let leaked = variables.lines().find(|line| !is_known(line));
        ensure!(leaked.is_none(), "{leaked:?} is no variable of the pod:\n{variables}");
        ensure!(site.node.sh("monopod logs trap")?.contains("hello"), "log");
        site.node.sh("monopod top pod trap || true")?;
        site.node.sh("monopod describe pod trap")?;
        obeyed_by_nobody()?;
        ensure!(site.node.sh("monopod exec trap -- ls /")?.lines().all(|name| name != "ran"), "an image's program ran");
        ensure!(!Path::new("/ran").exists(), "an image's program ran on the host");
        site.node.sh("monopod delete pod trap --now")?;
        site.node.sh(&format!("monopod image rm {}", site.name("trap")))?;
        site.undisturbed("trap")
    })
}

/// What a container without variables of its own has.
fn is_known(line: &str) -> bool {
    const KNOWN: [&str; 8] = ["PATH=", "HOSTNAME=", "HOME=", "KUBERNETES_", "LD_PRELOAD=", "SHLVL=", "PWD=", "TERM="];
    KNOWN.iter().any(|start| line.starts_with(start))
}

/// The image's variables stand in its own processes and in no other.
fn obeyed_by_nobody() -> Result<()> {
    for process in std::fs::read_dir("/proc")?.flatten() {
        let path = process.path();
        let environment = std::fs::read(path.join("environ")).unwrap_or_default();
        if !String::from_utf8_lossy(&environment).contains("LD_PRELOAD=/lib/libnss_files.so.2") {
            continue;
        }
        let program = std::fs::read_link(path.join("exe")).unwrap_or_default();
        ensure!(program.ends_with("bin/busybox"), "{} has the image's variables", program.display());
    }
    Ok(())
}
