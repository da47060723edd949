//! Volumes over an object store: changes reach running containers, what was missing heals, nothing is left.
//!
//! Needs root, cgroup v2 with `cgroup.kill`, `cargo xtask images busybox`, and the programs built.

#![allow(clippy::disallowed_methods, reason = "tests start programs and make namespaces")]
#![allow(clippy::expect_used, reason = "tests fail so")]

#[cfg(test)]
#[path = "volumes/harness.rs"]
mod harness;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use harness::{World, alone, descriptors, root_of};
use serde_json::{Value, json};

fn config_map(data: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings", "namespace": "default"}, "data": data})
}

/// A pod that sleeps with `word` as its argument, with these lines in its container and these volumes.
fn sleeper(name: &str, word: &str, container: &str, volumes: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: default, labels: {{a: first}}}}\nspec:\n  \
         terminationGracePeriodSeconds: 0\n  containers:\n  - name: app\n    image: busybox\n    \
         imagePullPolicy: Never\n    command: [sleep, {word:?}]\n{container}  volumes:\n{volumes}"
    )
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).expect("a file of the volume")
}

/// Reads a file over and over until it is told to stop; how often. A part of a version is a panic.
fn read_always(file: PathBuf, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<u64> {
    std::thread::spawn(move || {
        let mut reads = 0;
        while !stop.load(Ordering::Relaxed) {
            let text = read(&file);
            let whole = text.len() == 5_000 && text.as_bytes().chunks(5).all(|part| part == &text.as_bytes()[..5]);
            assert!(whole, "torn: {} bytes", text.len());
            reads += 1;
        }
        reads
    })
}

/// VO20, VO26, VO27: every file of the pod, at most 100 ms at the 99th percentile; a reader never sees half a version.
#[test]
fn an_edit_reaches_the_container_at_once_and_whole() {
    const EDITS: usize = 1_000;
    const P99: Duration = Duration::from_millis(100);
    alone("an_edit_reaches_the_container_at_once_and_whole", async |mut world: World| {
        let version = |n: usize| format!("{n:05}").repeat(1_000);
        world.create("configmaps", "settings", config_map(&json!({"key": version(0), "gone": "x"}))).await;
        let mounts = "    volumeMounts:\n    - {name: plain, mountPath: /plain}\n    - {name: all, mountPath: /all}\n    \
                      - {name: plain, mountPath: /copy, subPath: key}\n";
        let volumes = "  - {name: plain, configMap: {name: settings}}\n  \
                       - {name: all, projected: {sources: [{configMap: {name: settings}}, {serviceAccountToken: {path: token}}]}}\n";
        let uid = world.run(&sleeper("p", "1000001", mounts, volumes)).await;
        world.until_running(&uid).await;
        let root = root_of("1000001");
        let token = read(&root.join("all/token"));
        let files = [root.join("plain/key"), root.join("all/key")];
        let stop = Arc::new(AtomicBool::new(false));
        let reader = read_always(files[0].clone(), stop.clone());
        let mut took = Vec::new();
        for n in 1..=EDITS {
            let value = config_map(&json!({"key": version(n)}));
            let edited = Instant::now();
            world.update("configmaps", "settings", value).await;
            assert!(files.iter().all(|file| read(file) == version(n)), "edit {n}");
            took.push(edited.elapsed());
        }
        stop.store(true, Ordering::Relaxed);
        let reads = reader.join().unwrap();
        took.sort();
        let p99 = took[EDITS * 99 / 100];
        eprintln!("edit to file: median {:?}, p99 {p99:?}, {reads} reads", took[EDITS / 2]);
        assert!(p99 <= P99 && reads > 0, "{p99:?}");
        assert_eq!(read(&root.join("copy")), version(0), "a subPath is a copy");
        assert!(!root.join("plain/gone").exists(), "a key that was removed");
        assert_eq!(read(&root.join("all/token")), token, "the token is not renewed for another source");
        // What was replaced goes after a while.
        let deadline = Instant::now() + harness::PATIENCE;
        while root.join("plain").read_dir().unwrap().count() > 3 {
            assert!(Instant::now() < deadline, "old versions stay");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        world.close().await;
    });
}

/// EN6, VO24: both kinds of waiting end when the object comes, not at the end of a delay.
#[test]
fn what_was_missing_heals_by_itself() {
    alone("what_was_missing_heals_by_itself", async |mut world: World| {
        let env = "    env: [{name: A, valueFrom: {configMapKeyRef: {name: settings, key: key}}}]\n";
        let none = "  - {name: v, emptyDir: {}}\n";
        let by_env = world.run(&sleeper("env", "1000002", env, none)).await;
        let volume = "  - {name: v, secret: {secretName: hidden}}\n";
        let by_volume = world.run(&sleeper("volume", "1000003", "", volume)).await;
        let waits_for = |text: &'static str, uid: String| {
            move |world: &World| world.waits(&uid) == Some(("CreateContainerConfigError".into(), text.into()))
        };
        world.until("no map", waits_for("configmap \"settings\" not found", by_env.clone())).await;
        let message = "FailedMount: MountVolume.SetUp failed for volume \"v\" : secret \"hidden\" not found";
        world.until("no secret", |world| world.events.iter().any(|event| event == message)).await;
        world.create("configmaps", "settings", config_map(&json!({}))).await;
        let text = "couldn't find key key in ConfigMap default/settings";
        world.until("no key", waits_for(text, by_env.clone())).await;
        let began = Instant::now();
        world.update("configmaps", "settings", config_map(&json!({"key": "value"}))).await;
        world.create("secrets", "hidden", json!({"metadata": {"name": "hidden"}, "data": {"k": "djE="}})).await;
        world.until_running(&by_env).await;
        world.until_running(&by_volume).await;
        // The delays would be 10 s and more.
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        world.close().await;
    });
}

/// VO24, VO26: an optional object may come later; an immutable one is never read again; a deleted one leaves its files.
#[test]
fn objects_come_stay_and_go() {
    alone("objects_come_stay_and_go", async |mut world: World| {
        let fixed = |value: &str| json!({"metadata": {"name": "fixed"}, "immutable": true, "data": {"k": value}});
        world.create("configmaps", "fixed", fixed("first")).await;
        let mounts = "    volumeMounts:\n    - {name: late, mountPath: /late}\n    - {name: fixed, mountPath: /fixed}\n    \
                      - {name: info, mountPath: /info}\n";
        let volumes = "  - {name: late, configMap: {name: settings, optional: true}}\n  - {name: fixed, configMap: {name: fixed}}\n  \
                       - {name: info, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}\n";
        let uid = world.run(&sleeper("p", "1000004", mounts, volumes)).await;
        world.until_running(&uid).await;
        let root = root_of("1000004");
        assert!(!root.join("late/key").exists());
        world.create("configmaps", "settings", config_map(&json!({"key": "here"}))).await;
        assert_eq!(read(&root.join("late/key")), "here");
        world.delete("configmaps", "settings").await;
        assert!(!root.join("late/key").exists(), "optional and gone");
        world.delete("configmaps", "fixed").await;
        world.create("configmaps", "fixed", fixed("second")).await;
        assert_eq!(read(&root.join("fixed/k")), "first");
        assert_eq!(read(&root.join("info/labels")), "a=\"first\"");
        let mut pod = world.store.get(&supervisor::store::Key::new("pods", "default", "p")).unwrap().value();
        pod["metadata"]["labels"] = json!({"a": "second", "b": "x"});
        world.node.pod_changed(serde_json::from_value(pod).unwrap());
        assert_eq!(read(&root.join("info/labels")), "a=\"second\"\nb=\"x\"");
        world.close().await;
    });
}

/// What is in memory outlives the containers and the sandbox: pause is killed, a new monitor takes over.
#[test]
fn memory_volumes_survive_the_loss_of_pause() {
    alone("memory_volumes_survive_the_loss_of_pause", async |mut world: World| {
        world.create("configmaps", "settings", config_map(&json!({"key": "kept"}))).await;
        let mounts = "    volumeMounts:\n    - {name: mem, mountPath: /mem}\n    - {name: conf, mountPath: /conf}\n    - {name: disk, mountPath: /disk}\n";
        let volumes = "  - {name: mem, emptyDir: {medium: Memory, sizeLimit: 1Mi}}\n  - {name: conf, configMap: {name: settings}}\n  - {name: disk, emptyDir: {}}\n";
        let uid = world.run(&sleeper("p", "1000005", mounts, volumes)).await;
        for round in 0..2 {
            world.until_running(&uid).await;
            let root = root_of("1000005");
            if round == 0 {
                std::fs::write(root.join("mem/file"), "in memory").unwrap();
            }
            assert_eq!(read(&root.join("mem/file")), "in memory");
            assert_eq!(read(&root.join("conf/key")), "kept");
            world.update("configmaps", "settings", config_map(&json!({"key": format!("round {round}")}))).await;
            assert_eq!(read(&root.join("conf/key")), format!("round {round}"));
            world.update("configmaps", "settings", config_map(&json!({"key": "kept"}))).await;
            let sandbox = harness::pause_of(&root);
            rustix::process::kill_process(sandbox, rustix::process::Signal::KILL).unwrap();
            world
                .until("the sandbox changed", |world| !world.statuses[&uid].apps.iter().all(harness::is_running))
                .await;
        }
        world.close().await;
    });
}

/// All types at once, again and again: nothing stays mounted, open or on the disk but what claims hold.
#[test]
fn rounds_leave_nothing_but_claims() {
    const ROUNDS: usize = 20;
    alone("rounds_leave_nothing_but_claims", async |mut world: World| {
        world.create("configmaps", "settings", config_map(&json!({"key": "x"}))).await;
        world.create("secrets", "hidden", json!({"metadata": {"name": "hidden"}, "data": {"k": "djE="}})).await;
        let claim = json!({"metadata": {"name": "data", "namespace": "default", "uid": "uid-data"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}});
        world.create("persistentvolumeclaims", "data", claim).await;
        let names = ["disk", "mem", "host", "conf", "hidden", "all", "info", "data", "own", "image"];
        let mounts: String = std::iter::once("    volumeMounts:\n".to_owned())
            .chain(names.iter().map(|name| format!("    - {{name: {name}, mountPath: /v/{name}}}\n")))
            .collect();
        let volumes = "  - {name: disk, emptyDir: {}}\n  - {name: mem, emptyDir: {medium: Memory}}\n  \
            - {name: host, hostPath: {path: /tmp/host, type: DirectoryOrCreate}}\n  - {name: conf, configMap: {name: settings}}\n  \
            - {name: hidden, secret: {secretName: hidden}}\n  \
            - {name: all, projected: {sources: [{secret: {name: hidden}}, {serviceAccountToken: {path: token}}]}}\n  \
            - {name: info, downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}}\n  \
            - {name: data, persistentVolumeClaim: {claimName: data}}\n  \
            - {name: own, ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}}}}\n  \
            - {name: image, image: {reference: busybox, pullPolicy: Never}}\n";
        let mut before = None;
        for round in 0..ROUNDS {
            let uid = world.run(&sleeper("p", "1000006", &mounts, volumes)).await;
            world.until_running(&uid).await;
            let root = root_of("1000006").join("v");
            for name in ["disk", "mem", "host", "data", "own"] {
                std::fs::write(root.join(name).join(format!("{round}")), "x").unwrap();
            }
            assert!(root.join("image/bin/busybox").exists());
            world.node.delete(&uid);
            world.until("the pod is gone", |world| world.node.is_empty()).await;
            world.delete("pods", "p").await;
            world.bind_claims().await;
            // Connections of the first round stay open.
            let now = descriptors();
            assert!(now <= *before.get_or_insert(now + 4), "round {round}: {now} descriptors");
        }
        let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        assert_eq!(mounts.lines().filter(|line| line.contains("/var/lib/monopod/")).count(), 0, "{mounts}");
        let claims: Vec<_> = Path::new("/var/lib/monopod/claims").read_dir().unwrap().flatten().collect();
        assert_eq!(claims.len(), 1, "{claims:?}");
        assert_eq!(claims[0].path().read_dir().unwrap().count(), ROUNDS);
        assert_eq!(Path::new("/tmp/host").read_dir().unwrap().count(), ROUNDS);
        assert_eq!(Path::new("/var/lib/monopod/pods").read_dir().unwrap().count(), 0);
        world.close().await;
    });
}

/// EV2: only the pod with the volume that has grown too large.
#[test]
fn a_volume_beyond_its_limit_evicts_its_pod() {
    alone("a_volume_beyond_its_limit_evicts_its_pod", async |mut world: World| {
        let mounts = "    volumeMounts:\n    - {name: v, mountPath: /v}\n";
        let volumes = "  - {name: v, emptyDir: {sizeLimit: 1Mi}}\n";
        let large = world.run(&sleeper("large", "1000007", mounts, volumes)).await;
        let small = world.run(&sleeper("small", "1000008", mounts, volumes)).await;
        world.until_running(&large).await;
        world.until_running(&small).await;
        std::fs::write(root_of("1000007").join("v/file"), vec![1; 2 << 20]).unwrap();
        std::fs::write(root_of("1000008").join("v/file"), vec![1; 64 << 10]).unwrap();
        world.node.check_storage().await;
        world.until("evicted", |world| world.statuses[&large].reason.as_deref() == Some("Evicted")).await;
        let message = world.statuses[&large].message.clone().unwrap();
        assert_eq!(message, "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". ");
        assert!(world.statuses[&small].apps.iter().all(harness::is_running));
        world.close().await;
    });
}

/// EV1: many files are counted beside the loop, which goes on with its work meanwhile.
#[test]
fn counting_many_files_does_not_hold_the_node_up() {
    const FILES: usize = 100_000;
    alone("counting_many_files_does_not_hold_the_node_up", async |mut world: World| {
        let mounts = "    volumeMounts:\n    - {name: v, mountPath: /v}\n";
        let volumes = "  - {name: v, emptyDir: {sizeLimit: 1Gi}}\n";
        let many = world.run(&sleeper("many", "1000009", mounts, volumes)).await;
        world.until_running(&many).await;
        let volume = root_of("1000009").join("v");
        for file in 0..FILES {
            std::fs::File::create(volume.join(file.to_string())).unwrap();
        }
        let turns = std::rc::Rc::new(std::cell::Cell::new(0_u64));
        let counter = turns.clone();
        let ticker = tokio::task::spawn_local(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(1)).await;
                counter.set(counter.get() + 1);
            }
        });
        let started = Instant::now();
        world.node.check_storage().await;
        let (took, turns) = (started.elapsed(), turns.get());
        ticker.abort();
        println!("measured: {FILES} files counted in {took:?}, {turns} turns of the loop meanwhile");
        assert!(turns >= 3, "the loop stood still for {took:?}");
        assert!(world.statuses[&many].reason.is_none());
        world.close().await;
    });
}
