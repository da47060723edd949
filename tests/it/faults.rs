//! The daemon on a disk that is full, read-only or damaged: it starts or says why not, names what is wrong, and loses at
//! most the object that it names (F05, F15).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::ask::ask;
use crate::serve::{self, CONFIG, Daemon, wait_until, with_busybox};
use crate::{Test, host, tests};

pub fn tests() -> Vec<Test> {
    tests![Host: a_full_disk_is_told_and_forgotten_when_there_is_room, a_read_only_state_directory_is_refused_by_name,
        a_damaged_state_file_costs_at_most_its_object]
}

const DATA: &str = "/var/lib/monopod";
/// Certificates and the kubeconfig: `api.dir`.
const ACCESS: &str = "/run/etc";
const PODS: &str = "/api/v1/namespaces/default/pods";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn start() -> Result<Daemon> {
    // What happens to pods on a full disk is `pressure`'s; here none is evicted.
    let mut daemon = Daemon::configured(
        "nodeName: n1\nevictionHard: {nodefs.available: 0%, imagefs.available: 0%, nodefs.inodesFree: 0%, \
         imagefs.inodesFree: 0%}\n",
    )?;
    let answers = wait_until("the API answers", || {
        let answers = ask("GET", PODS, None).is_ok();
        (answers || daemon.has_ended()).then_some(answers)
    })?;
    ensure!(answers, "it ended");
    Ok(daemon)
}

fn told() -> String {
    std::fs::read_to_string("/run/serve.log").unwrap_or_default()
}

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "x".repeat(10_000)}})
}

fn pod(name: &str) -> Value {
    let container =
        json!({"name": "app", "image": "busybox", "imagePullPolicy": "Never", "command": ["sh", "-c", serve::COUNT]});
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [container]}
    })
}

fn create(path: &str, object: &Value) -> Result<()> {
    let (status, body) = ask("POST", path, Some(object))?;
    ensure!(matches!(status, 201 | 409), "POST {path}: {status} {body}");
    Ok(())
}

/// Takes all that is free.
fn fill() -> Result<PathBuf> {
    use std::io::Write as _;
    let path = Path::new(DATA).join("ballast");
    let mut file = std::fs::File::create(&path)?;
    while file.write_all(&[1; 4096]).is_ok() {}
    Ok(path)
}

fn used() -> Result<u64> {
    let stat = rustix::fs::statvfs(DATA)?;
    Ok((stat.f_blocks - stat.f_bfree) * stat.f_frsize)
}

fn a_full_disk_is_told_and_forgotten_when_there_is_room() -> Result<()> {
    with_busybox(|| {
        let daemon = start()?;
        create(PODS, &pod("by"))?;
        wait_until("the pod writes", || lines("by").ok().filter(|lines| *lines > 3))?;
        let before = serve::main_processes();
        host::run("mount", &["-o", &format!("remount,size={}", used()? + 200_000), DATA])?;
        let ballast = fill()?;
        let refused = |what: &str| {
            let (status, body) = ask("POST", MAPS, Some(&map("big")))?;
            let message = body["message"].as_str().unwrap_or_default().to_owned();
            ensure!(status >= 500 && message.contains("No space left"), "{what}: {status} {body}");
            anyhow::Ok(())
        };
        refused("on a full disk")?;
        ensure!(ask("GET", PODS, None)?.0 == 200, "what can be read is read");
        daemon.kill()?;
        let daemon = start().context("a start on a full disk")?;
        refused("after a start on a full disk")?;
        std::fs::remove_file(ballast)?;
        wait_until("there is room again", || {
            ask("POST", MAPS, Some(&map("big"))).ok().filter(|(status, _)| *status == 201)
        })?;
        ensure!(serve::main_processes() == before, "a container was disturbed");
        ensure!(ask("DELETE", &format!("{PODS}/by"), None)?.0 == 200, "it can be deleted");
        wait_until("the pod is gone", || (ask("GET", &format!("{PODS}/by"), None).ok()?.0 == 404).then_some(()))?;
        daemon.kill()
    })
}

fn a_read_only_state_directory_is_refused_by_name() -> Result<()> {
    with_busybox(|| {
        start()?.kill()?;
        host::run("mount", &["-o", "remount,ro", DATA])?;
        let output = host::binary("monopod")?.args(["serve", "--config", CONFIG]).output()?;
        let text = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success() && text.contains(DATA) && text.contains("Read-only file system"), "{text}");
        host::run("mount", &["-o", "remount,rw", DATA])?;
        start()?.kill()
    })
}

/// Lines that a pod of the API has counted.
fn lines(name: &str) -> Result<usize> {
    let prefix = format!("default_{name}_");
    let dir = serve::names("/var/log/pods").into_iter().find(|dir| dir.starts_with(&prefix)).context("no log")?;
    serve::consecutive(&std::fs::read_to_string(format!("/var/log/pods/{dir}/app/0.log"))?)
}

/// From a good content to a bad one.
type Damage = fn(&[u8]) -> Vec<u8>;
/// Damages by name.
const DAMAGES: [(&str, Damage); 4] = [
    ("empty", |_| Vec::new()),
    ("truncated", |good| good.get(..good.len() / 2).unwrap_or_default().to_vec()),
    ("garbage", |good| good.iter().map(|byte| byte.wrapping_mul(31).wrapping_add(7)).collect()),
    ("flipped", |good| {
        let mut bad = good.to_vec();
        if let Some(byte) = bad.get_mut(good.len() / 3) {
            *byte ^= 0x04;
        }
        bad
    }),
];

/// Files of the state directory by kind: what is the victim's, and what belongs to nobody.
fn kinds() -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    let mut open = vec![PathBuf::from(DATA), PathBuf::from(ACCESS)];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let kind = entry.file_type().ok();
            if kind.is_some_and(|kind| kind.is_dir()) && !is_content(&path) {
                open.push(path);
            } else if kind.is_some_and(|kind| kind.is_file()) && is_victims(&path) {
                found.insert(kind_of(&path), path);
            }
        }
    }
    found
}

/// What images hold is checked by its digests.
fn is_content(path: &Path) -> bool {
    ["images/blobs", "images/layers", "scratch", "trash"].iter().any(|dir| path.ends_with(dir))
        || path.starts_with(format!("{DATA}/pods"))
}

/// Of a pod: only the victim's; what stands for many is everybody's.
fn is_victims(path: &Path) -> bool {
    let text = path.to_string_lossy();
    let others = text.contains("/default/by") || uids("by").iter().any(|id| text.contains(id));
    !others && !text.ends_with("lock") && path.metadata().is_ok_and(|meta| meta.len() > 0)
}

/// What names a pod in paths: its uid and its sandbox.
fn uids(name: &str) -> Vec<String> {
    let pod = ask("GET", &format!("{PODS}/{name}"), None).map(|answer| answer.1).unwrap_or_default();
    let uid = pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    let all = serve::names(&format!("{DATA}/sandboxes")).into_iter();
    let of = |id: &String| {
        let record = std::fs::read_to_string(format!("{DATA}/sandboxes/{id}/sandbox.json")).unwrap_or_default();
        record.contains(&uid)
    };
    all.filter(of).chain([uid.clone()]).filter(|id| !id.is_empty()).collect()
}

/// A path without what is random in it.
fn kind_of(path: &Path) -> String {
    let random = |part: &str| part.len() >= 32 && part.bytes().filter(u8::is_ascii_hexdigit).count() >= 32;
    let part = |part: &std::ffi::OsStr| {
        let text = part.to_string_lossy().into_owned();
        if random(&text) { text.rsplit_once('.').map_or("ID".to_owned(), |(_, end)| format!("ID.{end}")) } else { text }
    };
    path.iter().map(part).collect::<Vec<_>>().join("/")
}

fn a_damaged_state_file_costs_at_most_its_object() -> Result<()> {
    with_busybox(|| {
        let mut wrong = String::new();
        let mut daemon = prepare(start()?)?;
        let kinds = kinds().into_keys().collect::<BTreeSet<_>>();
        ensure!(kinds.len() >= 8, "{kinds:?}");
        for kind in &kinds {
            for (name, damage) in DAMAGES {
                let Some(path) = self::kinds().remove(kind) else { continue };
                let result = trial(daemon, &path, damage);
                if let Err(error) = result {
                    eprintln!("{kind}, {name}: {error:#}");
                    let _infallible = writeln!(wrong, "{kind}, {name}: {error:#}");
                }
                daemon = start().and_then(prepare).with_context(|| format!("after {kind}, {name}"))?;
            }
        }
        ensure!(wrong.is_empty(), "{wrong}");
        daemon.kill()
    })
}

/// Victims and bystanders are there and run.
fn prepare(daemon: Daemon) -> Result<Daemon> {
    for name in ["by", "victim"] {
        create(MAPS, &map(name))?;
        create(PODS, &pod(name))?;
    }
    wait_until("by writes", || lines("by").ok().filter(|lines| *lines > 1))?;
    // It may have been started again, and its first log be gone.
    wait_until("victim runs", || {
        let (_, pod) = ask("GET", &format!("{PODS}/victim"), None).ok()?;
        pod["status"]["containerStatuses"][0]["state"].get("running").map(|_| ())
    })?;
    Ok(daemon)
}

/// One start with one damaged file.
fn trial(daemon: Daemon, path: &Path, damage: Damage) -> Result<()> {
    let bystanders = bystanders();
    daemon.kill()?;
    let good = std::fs::read(path)?;
    std::fs::write(path, damage(&good))?;
    let said = told().len();
    let started = start();
    let text = told();
    let text = text.get(said..).unwrap_or_default();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let daemon = started.with_context(|| format!("it does not start: {text}"))?;
    ensure!(
        self::bystanders() == bystanders,
        "bystanders were {bystanders:?} and are {:?}: {text}",
        self::bystanders()
    );
    let (status, by) = ask("GET", &format!("{MAPS}/by"), None)?;
    ensure!(status == 200 && by["data"] == map("by")["data"], "the bystander's ConfigMap is lost: {status}");
    ensure!(ask("GET", &format!("{PODS}/by"), None)?.0 == 200, "the bystander's Pod is lost");
    let unchanged = std::fs::read(path).is_ok_and(|now| now == good);
    ensure!(unchanged || text.contains(&*name), "{name} is not named: {text}");
    // pause, and the container or its next instance.
    let lives = self::processes("victim").len();
    ensure!(lives <= 2, "{lives} processes of the victim live: {text}");
    daemon.kill()
}

/// Processes of the pod that nothing may happen to.
fn bystanders() -> BTreeSet<u32> {
    processes("by")
}

/// First processes of a pod's containers.
fn processes(name: &str) -> BTreeSet<u32> {
    let ids = uids(name);
    let of = |pid: &u32| {
        let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        ids.iter().any(|id| cgroup.contains(id))
    };
    serve::main_processes().into_iter().filter(of).collect()
}
