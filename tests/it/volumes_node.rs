//! Volumes and identities under `monopod serve`: clients inside of pods, rotation, many rounds, disks that fail.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::mount::MountFlags;
use serde_json::{Value, json};

use crate::life_watch::{OBEDIENT, pod, sh, with};
use crate::serve::{Daemon, wait_until, with_busybox};
use crate::{Test, ask, host, tests};

pub fn tests() -> Vec<Test> {
    tests![Host: the_official_client_lists_pods_from_inside_a_pod, a_token_is_replaced_whole_and_dies_with_its_pod,
        rounds_with_every_type_of_volume_leave_only_claims, a_refused_container_leaves_nothing_however_often_it_is_tried,
        missing_references_name_themselves_and_heal, volumes_follow_their_objects,
        a_full_disk_does_not_keep_its_pods]
}

/// How many pods the rounds make and delete.
const PODS: &str = "MONOPOD_VOLUME_PODS";
/// Also waits for a token to grow old, which takes eight minutes.
const LONG: &str = "MONOPOD_LONG";
/// Pods that exist at the same time.
const BATCH: usize = 25;
/// For things that a busy machine may take long for.
const MINUTES: Duration = Duration::from_secs(180);

fn serving(body: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    serving_with("", body)
}

fn serving_with(options: &str, body: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    with_busybox(move || {
        let daemon = start_with(options)?;
        let result = body();
        drop(daemon);
        result
    })
}

fn start() -> Result<Daemon> {
    start_with("")
}

fn start_with(options: &str) -> Result<Daemon> {
    let _old = std::fs::remove_file(ask::SOCKET);
    let daemon = Daemon::configured(&format!("nodeName: node1\n{options}"))?;
    wait_until("the socket", || Path::new(ask::SOCKET).exists().then_some(()))?;
    wait_until("the API answers", || monopod(&["get", "ns", "default"]).ok())?;
    wait_until("the account", || monopod(&["get", "sa", "default"]).ok())?;
    Ok(daemon)
}

fn monopod(arguments: &[&str]) -> Result<String> {
    let output = host::binary("monopod")?.args(arguments).output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    ensure!(output.status.success(), "monopod {arguments:?}: {}", text(&output.stderr));
    Ok(text(&output.stdout))
}

fn apply(objects: &[Value]) -> Result<String> {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    let file = tempfile::Builder::new().suffix(".json").tempfile()?;
    std::fs::write(file.path(), list.to_string())?;
    monopod(&["apply", "-f", &file.path().display().to_string()])
}

fn get(kind: &str, name: &str) -> Option<Value> {
    serde_json::from_str(&monopod(&["get", kind, name, "-o", "json"]).ok()?).ok()
}

fn logs(name: &str) -> String {
    monopod(&["logs", name]).unwrap_or_default()
}

fn map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

fn patiently<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let until = Instant::now() + MINUTES;
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if Instant::now() > until {
            bail!("never: {what}");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

const CLIENT: &str = r"
from kubernetes import client, config
config.load_incluster_config()
api = client.CoreV1Api()
print('pods', sorted(pod.metadata.name for pod in api.list_namespaced_pod('default').items), flush=True)
print('kept from', end=' ')
try: api.list_namespaced_secret('default')
except client.ApiException as error: print('secrets', error.status)
try: api.list_namespaced_pod('kube-system')
except client.ApiException as error: print('others', error.status)
";

/// VO32, D24: the address of the service `kubernetes` from the environment, the mounted token and CA, and nothing else.
fn the_official_client_lists_pods_from_inside_a_pod() -> Result<()> {
    let archive = crate::run::image("python")?;
    serving(move || {
        monopod(&["image", "load", &archive.display().to_string()])?;
        let client =
            json!({"name": "c", "image": "python", "imagePullPolicy": "Never", "command": ["python3", "-c", CLIENT]});
        let others = [("plain", json!({})), ("onhost", json!({"hostNetwork": true}))];
        for (name, fields) in others {
            let spec = with(json!({"restartPolicy": "Never", "containers": [client]}), fields);
            apply(&[pod(name, spec)])?;
            let seen = patiently("the client is done", || {
                let phase = get("pod", name)?["status"]["phase"].as_str()?.to_owned();
                ["Succeeded", "Failed"].contains(&phase.as_str()).then(|| logs(name))
            })?;
            ensure!(seen.contains(&format!("'{name}'")), "{name}: {seen}");
            ensure!(seen.contains("kept from secrets 403\nothers 403\n"), "{name}: {seen}");
        }
        Ok(())
    })
}

/// A request with a token, by the status that answers it.
fn status_with(token: &str) -> Result<String> {
    let script = "import ssl, sys, urllib.request, urllib.error\n\
        context = ssl.create_default_context(cafile='/run/etc/pki/ca.crt')\n\
        request = urllib.request.Request('https://127.0.0.1:6443/api/v1/namespaces/default/pods', headers={'Authorization': 'Bearer ' + sys.argv[1]})\n\
        try: print(urllib.request.urlopen(request, context=context).status)\n\
        except urllib.error.HTTPError as error: print(error.code)";
    Ok(host::run("python3", &["-c", script, token])?.trim().to_owned())
}

/// VO20, VO29: an old token and a new one, never a part of either; both die with the pod.
fn a_token_is_replaced_whole_and_dies_with_its_pod() -> Result<()> {
    with_busybox(|| {
        let mut daemon = start()?;
        // Every token that a reader in a loop sees, each once.
        let script = "trap 'exit 0' TERM; while :; do read -r t < /t/token; [ \"$t\" = \"$l\" ] || echo \"$t\"; l=$t; usleep 20000; done";
        let token = json!({"serviceAccountToken": {"path": "token", "expirationSeconds": 600, "audience": "https://kubernetes.default.svc.cluster.local"}});
        let spec = json!({"automountServiceAccountToken": false, "terminationGracePeriodSeconds": 1,
            "containers": [with(sh("c", script), json!({"volumeMounts": [{"name": "t", "mountPath": "/t"}]}))],
            "volumes": [{"name": "t", "projected": {"sources": [token]}}]});
        apply(&[pod("one", spec)])?;
        let seen = || logs("one").lines().map(str::to_owned).collect::<Vec<_>>();
        wait_until("a token", || (!seen().is_empty()).then_some(()))?;
        // A daemon that starts knows none of its tokens, and signs new ones.
        for count in 2..=4 {
            drop(daemon);
            daemon = start()?;
            wait_until("another token", || (seen().len() >= count).then_some(()))?;
        }
        if std::env::var_os(LONG).is_some() {
            let count = seen().len();
            let started = Instant::now();
            while seen().len() == count {
                ensure!(started.elapsed() < Duration::from_secs(500), "80 % of 600 s are over");
                std::thread::sleep(Duration::from_secs(1));
            }
            println!("measured: the token of 600 s was replaced after {} s", started.elapsed().as_secs());
            ensure!(started.elapsed() > Duration::from_secs(460), "that was too soon");
        }
        let tokens = seen();
        for token in &tokens {
            ensure!(token.split('.').count() == 3 && token.len() > 300, "torn: {token:?}");
            ensure!(status_with(token)? == "200", "{token:?} is refused");
        }
        monopod(&["delete", "pod", "one"])?;
        wait_until("it is gone", || get("pod", "one").is_none().then_some(()))?;
        for token in &tokens {
            ensure!(status_with(token)? == "401", "a token outlived its pod");
        }
        drop(daemon);
        Ok(())
    })
}

/// A pod with everything that section 7 knows and this node has.
fn with_everything(name: &str, host: &Path) -> Value {
    let script = "for d in /m/disk /m/memory /m/host /m/claim /m/own; do echo x > $d/$HOSTNAME || exit 1; done; \
        cat /m/map/key /m/secret/key /m/info/name /m/all/token /m/sub /m/image/bin/busybox > /dev/null || exit 2; ln -s /m/host /m/disk/link";
    let mount = |name: &str| json!({"name": name, "mountPath": format!("/m/{name}")});
    let mut mounts: Vec<Value> =
        ["disk", "memory", "host", "claim", "own", "map", "secret", "info", "all", "image"].map(mount).into();
    mounts.push(json!({"name": "map", "mountPath": "/m/sub", "subPath": "key"}));
    mounts.push(json!({"name": "disk", "mountPath": "/m/deep", "subPath": "a/b/c"}));
    let template = json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}});
    let named = json!({"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]});
    let spec = json!({
        "restartPolicy": "Never", "securityContext": {"fsGroup": 2000}, "terminationGracePeriodSeconds": 1,
        "containers": [with(sh("c", script), json!({"volumeMounts": mounts}))],
        "volumes": [
            {"name": "disk", "emptyDir": {"sizeLimit": "1Mi"}},
            {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            {"name": "host", "hostPath": {"path": host}},
            {"name": "claim", "persistentVolumeClaim": {"claimName": "shared"}},
            {"name": "own", "ephemeral": {"volumeClaimTemplate": template}},
            {"name": "map", "configMap": {"name": "map"}},
            {"name": "secret", "secret": {"secretName": "secret"}},
            {"name": "info", "downwardAPI": named},
            {"name": "all", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}, {"configMap": {"name": "map"}}, {"downwardAPI": named}]}},
            {"name": "image", "image": {"reference": "busybox", "pullPolicy": "Never"}},
        ],
    });
    pod(name, spec)
}

fn names(dir: impl AsRef<Path>) -> BTreeSet<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Mounts and descriptors of the daemon.
fn held_by_daemon() -> Result<(usize, usize)> {
    let pid = names("/proc").into_iter().find(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let same = || {
            let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
            of(pid) == of("thread-self")
        };
        line.windows(6).any(|word| word == b"serve\0") && same()
    });
    let pid = pid.context("no daemon")?;
    let mounts = std::fs::read_to_string(format!("/proc/{pid}/mountinfo"))?.lines().count();
    Ok((mounts, names(format!("/proc/{pid}/fd")).len()))
}

/// What pods of this host have left; the names of its claims' directories are given back.
fn only_claims_are_left() -> Result<BTreeSet<String>> {
    for dir in ["pods", "trash", "sandboxes", "scratch"] {
        wait_until("nothing is left", || names(Path::new("/var/lib/monopod").join(dir)).is_empty().then_some(()))
            .with_context(|| format!("left in {dir}: {:?}", names(Path::new("/var/lib/monopod").join(dir))))?;
    }
    for dir in ["/run/monopod/sandboxes", "/var/log/pods", "/var/log/containers"] {
        ensure!(names(dir).is_empty(), "left in {dir}: {:?}", names(dir));
    }
    let machines: Vec<String> =
        names("/var/lib/monopod/machines").into_iter().filter(|name| name.ends_with(".json")).collect();
    ensure!(machines.is_empty(), "left: {machines:?}");
    Ok(names("/var/lib/monopod/claims"))
}

/// VO4, D43: nothing is mounted and nothing is on the disk but claims.
fn rounds_with_every_type_of_volume_leave_only_claims() -> Result<()> {
    let wanted: usize = std::env::var(PODS).ok().and_then(|text| text.parse().ok()).unwrap_or(2 * BATCH);
    serving(move || {
        let host = tempfile::tempdir()?;
        let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "shared"},
            "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Mi"}}}});
        let secret =
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "secret"}, "stringData": {"key": "s"}});
        apply(&[claim, secret, map("map", json!({"key": "m"}))])?;
        let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo")?;
        let (started, mut held) = (Instant::now(), None);
        let mut made = 0;
        while made < wanted {
            let batch: Vec<String> = (made..wanted.min(made + BATCH)).map(|number| format!("p{number}")).collect();
            let pods: Vec<Value> = batch.iter().map(|name| with_everything(name, host.path())).collect();
            apply(&pods)?;
            let mut last = String::new();
            patiently("all have succeeded", || {
                last = monopod(&["get", "pods", "--no-headers"]).ok()?;
                let done = last.lines().filter(|line| line.contains("Completed")).count();
                (done == batch.len() || last.contains("Error")).then_some(())
            })
            .with_context(|| monopod(&["events"]).unwrap_or_default())?;
            ensure!(!last.contains("Error"), "{last}\n{}", monopod(&["events"]).unwrap_or_default());
            let mut delete = vec!["delete", "pod"];
            delete.extend(batch.iter().map(String::as_str));
            monopod(&delete)?;
            patiently("all are gone", || (names("/var/lib/monopod/pods").is_empty()).then_some(()))?;
            made += batch.len();
            held.get_or_insert(held_by_daemon()?);
        }
        println!("measured: {made} pods with 10 volumes in {:.1} s", started.elapsed().as_secs_f64());
        let claims = only_claims_are_left()?;
        ensure!(claims.len() == 1, "claims are left: {claims:?}");
        let kept: BTreeSet<String> = (0..wanted).map(|number| format!("p{number}")).collect();
        let claim = Path::new("/var/lib/monopod/claims").join(claims.first().context("claim")?);
        for (what, dir) in [("the host", host.path().to_owned()), ("the claim", claim)] {
            ensure!(names(&dir) == kept, "{what} has lost data: {:?}", names(&dir));
        }
        ensure!(std::fs::read_to_string("/proc/thread-self/mountinfo")? == mounts, "something is mounted");
        let (before, after) = (held.context("no round")?, held_by_daemon()?);
        println!("measured: mounts and descriptors of the daemon {before:?}, then {after:?}");
        ensure!(after.0 == before.0, "the daemon holds mounts: {before:?}, {after:?}");
        ensure!(after.1 <= before.1 + 8, "the daemon holds descriptors: {before:?}, {after:?}");
        Ok(())
    })
}

/// D43: an instance that can't be created is tried again under another id; the old one's root goes.
fn a_refused_container_leaves_nothing_however_often_it_is_tried() -> Result<()> {
    serving(|| {
        let mount = json!({"volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": "link/x"}]});
        let plant =
            with(sh("plant", "ln -s /etc /v/link"), json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}));
        let spec = json!({"terminationGracePeriodSeconds": 0, "initContainers": [plant], "containers": [with(sh("c", "true"), mount)],
            "volumes": [{"name": "v", "emptyDir": {}}]});
        apply(&[pod("one", spec)])?;
        let reason = |_: ()| {
            get("pod", "one")?["status"]["containerStatuses"][0]["state"]["waiting"]["reason"]
                .as_str()
                .map(str::to_owned)
        };
        wait_until("it is refused", || (reason(())? == "CreateContainerConfigError").then_some(()))?;
        // The init container's root may still be there.
        wait_until("no root is left", || (names("/var/lib/monopod/scratch").len() <= 1).then_some(()))?;
        monopod(&["delete", "pod", "one"])?;
        wait_until("it is gone", || get("pod", "one").is_none().then_some(()))?;
        only_claims_are_left().map(drop)
    })
}

/// EN6, EN10: the reason names what is missing, and the container starts by itself once it is there.
fn missing_references_name_themselves_and_heal() -> Result<()> {
    serving(|| {
        let cases = [
            (
                "map",
                json!({"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m1", "key": "k"}}}]}),
                "configmap \"m1\" not found",
                map("m1", json!({"k": "v"})),
            ),
            (
                "key",
                json!({"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m2", "key": "k"}}}]}),
                "couldn't find key k in ConfigMap default/m2",
                map("m2", json!({"k": "v"})),
            ),
            (
                "from",
                json!({"envFrom": [{"prefix": "P_", "configMapRef": {"name": "m3"}}]}),
                "configmap \"m3\" not found",
                map("m3", json!({"A": "v"})),
            ),
            (
                "secret",
                json!({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s1", "key": "k"}}}]}),
                "secret \"s1\" not found",
                json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s1"}, "stringData": {"k": "v"}}),
            ),
        ];
        apply(&[map("m2", json!({"other": "x"}))])?;
        for (name, fields, ..) in &cases {
            let container = with(sh("c", "echo got $A$P_A"), fields.clone());
            apply(&[pod(name, json!({"restartPolicy": "Never", "containers": [container]}))])?;
        }
        let waiting =
            |name: &str| Some(get("pod", name)?["status"]["containerStatuses"][0]["state"]["waiting"].clone());
        for (name, _, message, _) in &cases {
            wait_until(message, || {
                let waiting = waiting(name)?;
                (waiting["reason"] == "CreateContainerConfigError" && waiting["message"] == *message).then_some(())
            })
            .with_context(|| format!("{name}: {:?}", waiting(name)))?;
        }
        for (name, _, _, object) in cases {
            apply(&[object])?;
            wait_until("it runs", || (logs(name) == "got v\n").then_some(())).with_context(|| name.to_owned())?;
        }
        Ok(())
    })
}

/// VO21, VO24, VO26, VO27, VO31: what changes with its object, and what does not.
fn volumes_follow_their_objects() -> Result<()> {
    serving(|| {
        let mount = |name: &str| json!({"name": name, "mountPath": format!("/{name}")});
        let script = "trap 'exit 0' TERM; while :; do \
            n=\"$(cat /map/k) $(cat /sub) $(cat /fixed/k) $(cat /late/k 2>/dev/null) $(cat /info/l | tr '\\n' ,) $(cat /info/a)\"; \
            [ \"$n\" = \"$l\" ] || echo \"$n\"; l=$n; usleep 5000; done";
        let mut mounts: Vec<Value> = ["map", "fixed", "late", "info"].map(mount).into();
        mounts.push(json!({"name": "map", "mountPath": "/sub", "subPath": "k"}));
        let fields = json!({"items": [{"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}}, {"path": "a", "fieldRef": {"fieldPath": "metadata.annotations['note']"}}]});
        let spec = json!({"terminationGracePeriodSeconds": 1, "containers": [with(sh("c", script), json!({"volumeMounts": mounts}))],
            "volumes": [{"name": "map", "configMap": {"name": "map"}}, {"name": "fixed", "configMap": {"name": "fixed"}},
                {"name": "late", "configMap": {"name": "late", "optional": true}}, {"name": "info", "downwardAPI": fields}]});
        let one = |label: &str, note: &str| {
            let mut one = pod("one", spec.clone());
            one["metadata"]["labels"] = json!({"b": label, "a": "x"});
            one["metadata"]["annotations"] = json!({"note": note});
            one
        };
        let fixed = with(map("fixed", json!({"k": "fixed"})), json!({"immutable": true}));
        apply(&[map("map", json!({"k": "first"})), fixed, one("1", "n1")])?;
        let shows = |line: &str| {
            let line = line.to_owned();
            wait_until(&line, || (logs("one").lines().last()? == line).then_some(())).with_context(|| logs("one"))
        };
        shows("first first fixed  a=\"x\",b=\"1\" n1")?;
        apply(&[map("map", json!({"k": "second"}))])?;
        shows("second first fixed  a=\"x\",b=\"1\" n1")?;
        apply(&[map("late", json!({"k": "late"}))])?;
        shows("second first fixed late a=\"x\",b=\"1\" n1")?;
        apply(&[one("2", "n2")])?;
        wait_until("both", || {
            (logs("one").lines().last()? == "second first fixed late a=\"x\",b=\"2\" n2").then_some(())
        })?;
        let refused = apply(&[with(map("fixed", json!({"k": "changed"})), json!({"immutable": true}))]);
        ensure!(refused.is_err_and(|error| error.to_string().contains("immutable")), "an immutable object changed");
        monopod(&["delete", "cm", "late"])?;
        // What is gone leaves its files, as it is not optional to a reader that has them.
        monopod(&["delete", "pod", "one"]).map(drop)
    })
}

/// F05: what a pod has filled is free again after it.
fn a_full_disk_does_not_keep_its_pods() -> Result<()> {
    // Nobody is evicted for it: it is a user who makes room.
    serving_with("evictionHard: {nodefs.available: 0%, imagefs.available: 0%}\n", || {
        rustix::mount::mount_remount("/var/lib/monopod", MountFlags::empty(), c"size=48m,mode=755")
            .context("remount")?;
        let script = format!("dd if=/dev/zero of=/v/fill bs=64k 2>/dev/null; echo full; {OBEDIENT}");
        let container = with(sh("c", &script), json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}));
        let spec = json!({"terminationGracePeriodSeconds": 1, "containers": [container], "volumes": [{"name": "v", "emptyDir": {}}]});
        apply(&[pod("hog", spec)])?;
        wait_until("the disk is full", || logs("hog").contains("full").then_some(()))?;
        let free = || rustix::fs::statvfs("/var/lib/monopod").map(|fs| fs.f_bavail * fs.f_frsize).unwrap_or(0);
        ensure!(free() < 1 << 20, "{} are free", free());
        // Whether an object can still be written or not, a forced deletion needs no room.
        if monopod(&["delete", "pod", "hog", "--wait=false"]).is_err() {
            println!("measured: the graceful deletion was refused, the disk is full");
            monopod(&["delete", "pod", "hog", "--force", "--grace-period=0"])?;
        }
        patiently("it is gone", || get("pod", "hog").is_none().then_some(()))?;
        patiently("its space is free", || (free() > 16 << 20).then_some(()))?;
        apply(&[pod("next", json!({"restartPolicy": "Never", "containers": [sh("c", "echo runs")]}))])?;
        wait_until("another pod runs", || (logs("next") == "runs\n").then_some(()))?;
        monopod(&["delete", "pod", "next"])?;
        only_claims_are_left().map(drop)
    })
}
