//! Pods with users of their own (`hostUsers: false`, D22, KEP-127): what containers see, what the host sees of them, and
//! what they can't reach.
//!
//! Kubernetes' own tests of it are test/e2e/node/security_context.go and test/e2e_node/user_namespaces_test.go.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::life_watch::{OBEDIENT, sh, with};
use crate::run::{start, with_images, written};
use crate::serve::{Daemon, names, wait_until, with_busybox};
use crate::{Test, host, tests};

pub fn tests() -> Vec<Test> {
    tests![Host: everything_looks_as_it_does_without, every_pod_has_ids_of_its_own_until_it_is_gone,
        what_runs_inside_can_do_nothing_outside, commands_and_probes_run_among_the_pods_users,
        what_can_not_be_mapped_is_named, a_node_may_give_every_pod_its_own]
}

/// The ids of the first pod.
const FIRST: u32 = 0x7800_0000;
const PODS: &str = "/var/lib/monopod/pods";
const SOCKET: &str = "/run/monopod/monopod.sock";

/// Runs pods until they end by themselves; what their containers wrote.
fn output(objects: &[Value]) -> Result<String> {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
    let file = written(&list)?;
    let mut run = start(&["--log-prefix=none", "--node-name=node1", "--for=20s"], file.path())?;
    let status = run.wait()?;
    ensure!(status.success(), "{status}:\n{}", run.seen);
    Ok(run.seen.clone())
}

fn pod(name: &str, spec: Value) -> Value {
    let own = json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "hostUsers": false});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "a"}}, "spec": with(own, spec)})
}

fn monopod(arguments: &[&str]) -> Result<String> {
    let output = host::binary("monopod")?.args(arguments).output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    ensure!(output.status.success(), "monopod {arguments:?}: {}", text(&output.stderr));
    Ok(text(&output.stdout))
}

fn get(kind: &str, name: &str) -> Option<Value> {
    serde_json::from_str(&monopod(&["get", kind, name, "-o", "json"]).ok()?).ok()
}

fn daemon(options: &str) -> Result<Daemon> {
    let _old = std::fs::remove_file(SOCKET);
    let daemon = Daemon::configured(&format!("nodeName: node1\n{options}"))?;
    wait_until("the API answers", || monopod(&["get", "sa", "default"]).ok())?;
    Ok(daemon)
}

fn create(object: &Value) -> Result<()> {
    let file = written(&object.to_string())?;
    monopod(&["create", "-f", &file.path().display().to_string()]).map(drop)
}

fn running(name: &str) -> Result<()> {
    wait_until(&format!("{name} runs"), || (get("pod", name)?["status"]["phase"] == "Running").then_some(()))
}

/// The first id outside of the user namespace that a command in a pod runs in.
fn first_id(pod: &str) -> Result<u32> {
    let map = monopod(&["exec", pod, "--", "cat", "/proc/self/uid_map", "/proc/self/gid_map"])?;
    let fields: Vec<u32> = map.split_whitespace().map(str::parse).collect::<Result<_, _>>().context(map.clone())?;
    match fields.as_slice() {
        [0, uid, 65_536, 0, gid, 65_536] if uid == gid => Ok(*uid),
        _ => anyhow::bail!("not a pod's own ids: {map}"),
    }
}

/// Everything that a pod mounts, and what its files look like.
fn looks(host: &Path) -> (Value, Value, &'static str) {
    let token = json!({"serviceAccountToken": {"path": "token", "expirationSeconds": 600}});
    let fields = json!({"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]});
    let volumes = json!([
        {"name": "config", "configMap": {"name": "m", "defaultMode": 0o640}},
        {"name": "secret", "secret": {"secretName": "s", "defaultMode": 0o400}},
        {"name": "info", "downwardAPI": fields},
        {"name": "all", "projected": {"sources": [token, {"configMap": {"name": "m"}}, {"secret": {"name": "s"}}]}},
        {"name": "disk", "emptyDir": {}},
        {"name": "memory", "emptyDir": {"medium": "Memory"}},
        {"name": "host", "hostPath": {"path": host}},
        {"name": "claim", "persistentVolumeClaim": {"claimName": "c"}},
        {"name": "image", "image": {"reference": "busybox", "pullPolicy": "Never"}},
    ]);
    let mounts = json!([
        {"name": "config", "mountPath": "/v/config"}, {"name": "secret", "mountPath": "/v/secret"},
        {"name": "info", "mountPath": "/v/info"}, {"name": "all", "mountPath": "/v/all"},
        {"name": "disk", "mountPath": "/v/disk"}, {"name": "memory", "mountPath": "/v/memory"},
        {"name": "host", "mountPath": "/v/host"}, {"name": "claim", "mountPath": "/v/claim"},
        {"name": "image", "mountPath": "/v/image"}, {"name": "config", "mountPath": "/v/key", "subPath": "key"},
        {"name": "disk", "mountPath": "/v/below", "subPath": "a/b"},
        {"name": "memory", "mountPath": "/v/within", "subPath": "a/b"},
        {"name": "host", "mountPath": "/v/file", "subPath": "theirs"},
    ]);
    let script = "exec 2>&1; id; touch /v/disk/mine /v/memory/mine /v/claim/mine /v/below/mine /v/within/mine /tmp/mine /dev/shm/mine
for v in disk memory claim; do mkdir -p /v/$v/dir; ln -sf x /v/$v/link; done; echo done > /dev/termination-log
stat -c '%a %u %g %F %n' / /bin/* /etc /etc/hosts /etc/hostname /etc/resolv.conf /dev /dev/null /dev/zero /dev/tty /dev/shm \
  /dev/shm/mine /dev/pts /dev/pts/ptmx /dev/mqueue /dev/termination-log /dev/fd /tmp /tmp/mine /made /made/here | sort
cd /v; find . -exec stat -c '%a %u %g %F %n' {} + | sed 's/\\.\\.[0-9_]*\\.[0-9]*/..time/' | sort
cat /v/config/key /v/key /v/secret/key /v/all/key /v/info/labels /v/host/theirs /etc/hostname 2>&1; wc -c < /v/all/token
for place in /made /v/host /v/image /v/config /v/secret /proc/sys/kernel/hostname /sys/x /sys/fs/cgroup/x; do
  echo x 2>/dev/null > $place/new && echo $place is writable; rm -f $place/new 2>/dev/null; done
chown 7:8 /v/disk/mine /tmp/mine && stat -c '%u %g' /v/disk/mine /tmp/mine; test -w /v/host/theirs && echo writable; true";
    (volumes, mounts, script)
}

/// The owner of what a pod leaves on the host is the pod's own number, as without: another pod finds it as it was.
fn everything_looks_as_it_does_without() -> Result<()> {
    with_images(&["busybox"], || {
        let host = tempfile::tempdir()?;
        std::fs::write(host.path().join("theirs"), "of 1000\n")?;
        std::os::unix::fs::chown(host.path().join("theirs"), Some(1000), Some(2000))?;
        std::fs::write(host.path().join("beyond"), "")?;
        let (volumes, mounts, script) = looks(host.path());
        let objects = [
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"key": "plain\n"}}),
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"key": "secret\n"}}),
            json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c"}, "spec":
                {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}}),
        ];
        let container = with(sh("c", script), json!({"volumeMounts": mounts, "workingDir": "/made/here"}));
        for security in [
            json!({}),
            json!({"runAsUser": 1000, "runAsGroup": 3000, "supplementalGroups": [5]}),
            json!({"runAsUser": 1000, "fsGroup": 2000}),
        ] {
            let seen = |host_users: bool| {
                let spec = json!({"containers": [container], "volumes": volumes, "securityContext": security,
                    "hostUsers": host_users});
                let seen = output(&[objects.as_slice(), &[pod("p", spec)]].concat())?;
                Ok::<_, anyhow::Error>(seen.lines().map(str::to_owned).collect::<Vec<_>>())
            };
            let (without, own) = (seen(true)?, seen(false)?);
            ensure!(without.len() > 80, "{security}: too little was looked at: {without:#?}");
            let pairs = without.iter().zip(&own).filter(|(without, own)| without != own);
            let different: Vec<_> = pairs.collect();
            ensure!(different.is_empty() && without.len() == own.len(), "{security}: {different:#?}\n{own:#?}");
        }
        Ok(())
    })
}

fn every_pod_has_ids_of_its_own_until_it_is_gone() -> Result<()> {
    with_busybox(|| {
        let running_daemon = daemon("")?;
        let node = get("node", "node1").context("the node")?;
        let features = json!({"recursiveReadOnlyMounts": true, "userNamespaces": true});
        for (at, name) in [(0, ""), (1, "runc")] {
            let handler = &node["status"]["runtimeHandlers"][at];
            ensure!(*handler == json!({"name": name, "features": features}), "{handler}");
        }
        let shared = Path::new("/run/shared");
        std::fs::create_dir(shared)?;
        std::os::unix::fs::chown(shared, Some(1000), None)?;
        let script = format!("echo x > /disk/file; echo x > /host/$HOSTNAME; {OBEDIENT}");
        let container = with(
            sh("c", &script),
            json!({"volumeMounts": [
            {"name": "host", "mountPath": "/host"}, {"name": "disk", "mountPath": "/disk"}]}),
        );
        let spec = |more| {
            with(
                json!({"containers": [container], "securityContext": {"runAsUser": 1000, "runAsGroup": 3000}, "volumes": [
                {"name": "host", "hostPath": {"path": shared}}, {"name": "disk", "emptyDir": {}}]}),
                more,
            )
        };
        create(&pod("plain", spec(json!({"hostUsers": true}))))?;
        for name in ["one", "two"] {
            create(&pod(name, spec(json!({}))))?;
        }
        for name in ["plain", "one", "two"] {
            running(name)?;
        }
        let mut firsts = [first_id("one")?, first_id("two")?];
        firsts.sort_unstable();
        ensure!(firsts == [FIRST, FIRST + 65_536], "{firsts:?}");
        ensure!(monopod(&["exec", "plain", "--", "cat", "/proc/self/uid_map"])?.contains("4294967295"));
        // Outside the process is nobody, and its files are those of user 1000.
        let first = first_id("one")?;
        let theirs = pids_of(first + 1000)?;
        ensure!(!theirs.is_empty() && pids_of(first + 65_535)?.len() == 1, "processes of {first}: {theirs:?}");
        for name in ["plain", "one", "two"] {
            let file = shared.join(name);
            let file = wait_until("its file", || file.metadata().ok())?;
            ensure!((file.uid(), file.gid()) == (1000, 3000), "{name}: {} {}", file.uid(), file.gid());
        }
        for uid in names(PODS) {
            let file = Path::new(PODS).join(uid).join("volumes/kubernetes.io~empty-dir/disk/file").metadata()?;
            ensure!((file.uid(), file.gid()) == (1000, 3000), "{} {}", file.uid(), file.gid());
        }
        // Nobody notices another daemon.
        running_daemon.kill()?;
        let again = daemon("")?;
        ensure!(first_id("one")? == first, "one lost its ids");
        create(&pod("three", spec(json!({}))))?;
        running("three")?;
        ensure!(first_id("three")? == FIRST + 2 * 65_536, "{}", first_id("three")?);
        monopod(&["delete", "pod", "one", "--wait=true"])?;
        create(&pod("four", spec(json!({}))))?;
        running("four")?;
        ensure!(first_id("four")? == first, "what one had is not free: {}", first_id("four")?);
        monopod(&["delete", "pod", "plain", "two", "three", "four", "--wait=true"])?;
        wait_until("nothing of them is left", || names(PODS).is_empty().then_some(()))?;
        ensure!(names("/var/lib/monopod/sandboxes").is_empty() && names("/var/lib/monopod/scratch").is_empty());
        ensure!(pids_of(first + 1000)?.is_empty());
        drop(again);
        Ok(())
    })
}

/// Processes of a user, as the host counts.
fn pids_of(uid: u32) -> Result<Vec<u32>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let status = std::fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("Uid:"));
        if line.is_some_and(|line| line.split_whitespace().next() == Some(&uid.to_string())) {
            all.extend(entry.file_name().to_str().and_then(|pid| pid.parse::<u32>().ok()));
        }
    }
    Ok(all)
}

/// P02, P06, P23: all capabilities, and nothing of the host can be had with them.
fn what_runs_inside_can_do_nothing_outside() -> Result<()> {
    with_images(&["busybox"], || {
        let host = tempfile::tempdir()?;
        let secret = host.path().join("secret");
        std::fs::write(&secret, "of the host\n")?;
        std::os::unix::fs::chown(&secret, Some(70_000), Some(70_000))?;
        std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        let script = "grep -E 'Cap(Prm|Eff|Bnd)' /proc/self/status | sort -u | cut -f2 | uniq | wc -l
ls /proc/self/fd | tr '\\n' ' '; echo
stat -c '%u %g' /host/secret
for try in 'cat /host/secret' 'chown 0 /host/secret' 'chmod 777 /host/secret' 'mknod /tmp/m b 8 0' 'mknod /tmp/k c 1 1' \
  'umount /etc/hosts' 'umount /dev/shm' 'umount /proc' 'mount -o remount,rw /sys/fs/cgroup' 'chown 65536 /tmp' \
  'dmesg -c' 'insmod /bin/busybox' 'mkdir /sys/fs/cgroup/mine'; do
  (eval \"$try\") >/dev/null 2>&1 && echo \"$try: done\"; done
echo x 2>/dev/null > /proc/sys/kernel/core_pattern && echo core_pattern
echo x 2>/dev/null > /proc/sys/vm/drop_caches && echo drop_caches
echo b 2>/dev/null > /proc/sysrq-trigger && echo sysrq
head -c 1 /proc/kcore >/dev/null 2>&1 && echo kcore
find /dev -type b | while read d; do head -c 1 $d >/dev/null 2>&1 && echo $d; done
hostname mine && hostname; mkdir /tmp/t; mount -t tmpfs none /tmp/t && touch /tmp/t/x && echo mounted
cat /proc/self/setgroups; chown 65535 /tmp/t/x && stat -c %u /tmp/t/x; true";
        let container = with(
            sh("c", script),
            json!({"securityContext": {"privileged": true},
            "volumeMounts": [{"name": "host", "mountPath": "/host"}]}),
        );
        let spec = json!({"containers": [container], "volumes": [{"name": "host", "hostPath": {"path": host.path()}}]});
        let seen = output(&[pod("p", spec)])?;
        ensure!(seen == "1\n0 1 2 3 \n65534 65534\nmine\nmounted\nallow\n65535\n", "{seen}");
        ensure!(std::fs::read_to_string(&secret)? == "of the host\n");
        Ok(())
    })
}

/// Probes, hooks and clients run where the container runs, whose processes they may share.
fn commands_and_probes_run_among_the_pods_users() -> Result<()> {
    with_busybox(|| {
        let running_daemon = daemon("")?;
        let probe = json!({"exec": {"command": ["sh", "-c", "cut -c1-40 /proc/self/uid_map > /tmp/probe; test $(id -u) = 0"]},
            "periodSeconds": 1});
        let hook = json!({"postStart": {"exec": {"command": ["sh", "-c", "cat /proc/self/uid_map > /tmp/hook"]}}});
        let container = with(
            sh("c", &format!("echo started; {OBEDIENT}")),
            json!({"readinessProbe": probe, "lifecycle": hook, "tty": true,
            "securityContext": {"procMount": "Unmasked", "capabilities": {"add": ["SYS_ADMIN", "SYS_PTRACE"]}, "seccompProfile": {"type": "Unconfined"}}}),
        );
        let sysctls = json!([{"name": "kernel.shm_rmid_forced", "value": "1"}, {"name": "net.ipv4.tcp_syncookies", "value": "0"}]);
        let spec = json!({"shareProcessNamespace": true, "securityContext": {"sysctls": sysctls},
            "containers": [container, sh("d", OBEDIENT)]});
        create(&pod("p", spec))?;
        wait_until("the probe says ready", || {
            let pod = get("pod", "p")?;
            let ready = pod["status"]["containerStatuses"].as_array()?.iter().all(|own| own["ready"] == true);
            ready.then_some(())
        })?;
        let first = first_id("p")?;
        let inside = |script: &str| monopod(&["exec", "p", "-c", "c", "--", "sh", "-c", script]);
        ensure!(inside("grep -c '' /tmp/hook /tmp/probe")?.contains("/tmp/hook:1"));
        ensure!(
            inside("cat /tmp/hook")?.contains(&first.to_string())
                && inside("cat /tmp/probe")?.contains(&first.to_string())
        );
        ensure!(inside("cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/tcp_syncookies")? == "1\n0\n");
        ensure!(inside("cat /proc/sys/net/ipv4/ip_unprivileged_port_start")? == "0\n");
        // Others' processes can be seen and reached: pause, and the other container's root directory.
        ensure!(inside("for p in /proc/[0-9]*; do readlink $p/root; done | sort -u")?.lines().all(|line| line == "/"));
        ensure!(inside("stat -c '%u %g' /proc/1; ls -ld /dev/pts/0 | cut -d' ' -f1")?.starts_with("65535 65535\ncrw"));
        // All of /proc can be seen, so another can be mounted (procMount).
        let nested = inside(
            "unshare -Upfr --mount-proc sh -c 'echo $$; ls -d /proc/[0-9]*; touch /tmp/nested'; stat -c %u /tmp/nested",
        )?;
        ensure!(nested.starts_with("1\n/proc/1\n") && nested.ends_with("\n0\n"), "{nested}");
        // Files come and go as they are in the container.
        std::fs::write("/run/file", "copied\n")?;
        monopod(&["cp", "/run/file", "p:/tmp/file", "-c", "c"])?;
        ensure!(inside("cat /tmp/file; stat -c %u /tmp/file")? == "copied\n0\n");
        monopod(&["cp", "p:/tmp/file", "/run/back", "-c", "c"])?;
        ensure!(std::fs::read_to_string("/run/back")? == "copied\n");
        let debugger = [
            "debug",
            "p",
            "--image=busybox",
            "--image-pull-policy=Never",
            "--target=c",
            "-c",
            "e",
            "--",
            "cat",
            "/proc/self/uid_map",
        ];
        monopod(&debugger)?;
        wait_until("the debugger's word", || {
            monopod(&["logs", "p", "-c", "e"]).ok()?.contains(&first.to_string()).then_some(())
        })?;
        ensure!(monopod(&["logs", "p", "-c", "c"])?.contains("started"));
        monopod(&["delete", "pod", "p", "--wait=true"])?;
        drop(running_daemon);
        Ok(())
    })
}

/// A file system that can't be mounted with an id map, and ids that no pod has.
fn what_can_not_be_mapped_is_named() -> Result<()> {
    with_busybox(|| {
        let running_daemon = daemon("")?;
        let container = with(sh("c", OBEDIENT), json!({"volumeMounts": [{"name": "kernel", "mountPath": "/k"}]}));
        create(&pod(
            "kernel",
            json!({"containers": [container], "volumes": [{"name": "kernel", "hostPath": {"path": "/proc/fs"}}]}),
        ))?;
        create(&pod(
            "high",
            json!({"containers": [sh("c", OBEDIENT)], "automountServiceAccountToken": false,
                "securityContext": {"runAsUser": 70_000}}),
        ))?;
        for (name, expected) in [
            (
                "kernel",
                "volume \"kernel\": /proc/fs can't be mounted with an id map, which a pod with hostUsers: false needs: its file system is proc",
            ),
            (
                "high",
                "set credentials user 70000: id 70000 does not exist in a pod with hostUsers: false, whose ids end at 65535",
            ),
        ] {
            let told = || {
                let events: Value = serde_json::from_str(&monopod(&["get", "events", "-o", "json"]).ok()?).ok()?;
                let of_it = |event: &&Value| event["involvedObject"]["name"] == name;
                let mut texts =
                    events["items"].as_array()?.iter().filter(of_it).filter_map(|own| own["message"].as_str());
                texts.any(|text| text.contains(expected)).then_some(())
            };
            wait_until(expected, told)?;
        }
        monopod(&["delete", "pod", "kernel", "high", "--wait=true"])?;
        drop(running_daemon);
        Ok(())
    })
}

/// D22: one line, and pods that don't say have users of their own; the pod's own word and host namespaces win.
fn a_node_may_give_every_pod_its_own() -> Result<()> {
    with_busybox(|| {
        let first = daemon("hostUsers: false\n")?;
        let unsaid = |name: &str, more: Value| {
            let mut object = pod(name, with(json!({"containers": [sh("c", OBEDIENT)]}), more));
            if let Some(spec) = object["spec"].as_object_mut().filter(|spec| spec["hostUsers"] == false) {
                spec.remove("hostUsers");
            }
            object
        };
        create(&unsaid("own", json!({})))?;
        create(&unsaid("said", json!({"hostUsers": true})))?;
        create(&unsaid("net", json!({"hostNetwork": true})))?;
        for name in ["own", "said", "net"] {
            running(name)?;
        }
        let own = first_id("own")?;
        ensure!(own == FIRST && first_id("said").is_err() && first_id("net").is_err());
        // What a pod began with it keeps.
        first.kill()?;
        let second = daemon("")?;
        ensure!(first_id("own")? == own);
        create(&unsaid("later", json!({})))?;
        running("later")?;
        ensure!(first_id("later").is_err());
        monopod(&["delete", "pod", "own", "said", "net", "later", "--wait=true"])?;
        drop(second);
        Ok(())
    })
}
