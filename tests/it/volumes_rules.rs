//! Rules of sections 6 and 7 as containers and users see them, where no test beside the code can.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use serde_json::{Value, json};

use crate::life_watch::{Line, Shared, Watch, pod, sh, with};
use crate::run::with_images;
use crate::{Test, tests};

pub fn tests() -> Vec<Test> {
    tests![Host: mounts_travel_as_their_propagation_says, types_that_need_a_plugin_are_refused_by_name,
        a_restart_picks_up_what_the_running_container_does_not, hostile_and_odd_keys_become_variables,
        a_sub_path_may_be_a_file_and_keeps_its_inode, groups_follow_the_policy_and_the_volume, read_only_mounts_say_how_deep,
        a_claim_for_one_pod_makes_the_second_wait]
}

/// Its own file systems go with it.
struct Mounted(std::path::PathBuf);

impl Mounted {
    fn tmpfs(path: &Path) -> Result<Self> {
        std::fs::create_dir_all(path)?;
        rustix::mount::mount("tmpfs", path, "tmpfs", MountFlags::empty(), c"mode=0777").context("mount")?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Fails when it has gone with what it lay in.
        let _gone = rustix::mount::unmount(&self.0, UnmountFlags::DETACH);
    }
}

fn message<'a>(line: &'a Line, container: &str) -> &'a str {
    line.container(container).and_then(|status| status["state"]["terminated"]["message"].as_str()).unwrap_or_default()
}

/// VO46
fn mounts_travel_as_their_propagation_says() -> Result<()> {
    with_images(&["busybox"], || {
        let shared = Shared::new()?;
        let arena = shared.path("arena");
        let _arena = Mounted::tmpfs(&arena)?;
        rustix::mount::mount_change(&arena, MountPropagationFlags::SHARED)?;
        for dir in ["late", "mine"] {
            std::fs::create_dir(arena.join(dir))?;
        }
        let sees = |name: &str, propagation: &str, first: &str, fields: Value| {
            let script = format!(
                "{first}; echo x > /shared/{name}-up; i=0; while [ $i -lt 400 ]; do [ -e /p/late/mark ] && echo x > /shared/{name}; \
                [ -e /shared/end ] && exit 0; usleep 20000; i=$((i+1)); done"
            );
            let mounts = json!([{"name": "p", "mountPath": "/p", "mountPropagation": propagation}, {"name": "shared", "mountPath": "/shared"}]);
            with(with(sh(name, &script), json!({"volumeMounts": mounts})), fields)
        };
        let spec = json!({"restartPolicy": "Never", "volumes": [{"name": "p", "hostPath": {"path": arena}}, shared.volume()], "containers": [
            sees("none", "None", "true", json!({})),
            sees("slave", "HostToContainer", "true", json!({})),
            sees("both", "Bidirectional", "mount -t tmpfs tmpfs /p/mine && echo x > /p/mine/mark", json!({"securityContext": {"privileged": true}})),
        ]});
        let mut watch = Watch::start(&[pod("p", spec)])?;
        let there = |path: std::path::PathBuf| {
            crate::serve::wait_until(&path.display().to_string(), || path.exists().then_some(()))
        };
        for name in ["none", "slave", "both"] {
            there(shared.path(&format!("{name}-up")))?;
        }
        // What a privileged container mounts is the host's, and the others' as far as they listen.
        there(arena.join("mine/mark"))?;
        let _late = Mounted::tmpfs(&arena.join("late"))?;
        std::fs::write(arena.join("late/mark"), "x")?;
        there(shared.path("slave"))?;
        there(shared.path("both"))?;
        std::thread::sleep(Duration::from_millis(200));
        ensure!(!shared.path("none").exists(), "a private mount got what the host mounted later");
        std::fs::write(shared.path("end"), "")?;
        watch.wait()?;
        drop(Mounted(arena.join("mine")));
        Ok(())
    })
}

/// VO30, VO38, VO39: the event says which; the pod waits.
fn types_that_need_a_plugin_are_refused_by_name() -> Result<()> {
    with_images(&["busybox"], || {
        for (volume, expected) in [
            (json!({"csi": {"driver": "x.io"}}), "volume type csi is not supported"),
            (json!({"nfs": {"server": "s", "path": "/"}}), "volume type nfs is not supported"),
            (
                json!({"iscsi": {"targetPortal": "10.0.0.1", "iqn": "iqn.2001-04.com.example:a", "lun": 0}}),
                "volume type iscsi is not supported",
            ),
            (
                json!({"projected": {"sources": [{"clusterTrustBundle": {"name": "b", "path": "p"}}]}}),
                "projected source clusterTrustBundle is not supported",
            ),
        ] {
            let volume = with(volume, json!({"name": "v"}));
            let container = with(sh("c", "true"), json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}));
            let mut watch = Watch::start(&[pod("p", json!({"containers": [container], "volumes": [volume]}))])?;
            let line = watch.until(expected, |line| line.is_event("FailedMount"))?;
            let said = line.object["message"].as_str().unwrap_or_default();
            ensure!(
                said.starts_with("MountVolume.SetUp failed for volume \"v\" : ") && said.contains(expected),
                "{said}"
            );
            watch.delete()?;
        }
        let spec = json!({"containers": [sh("c", "true")], "volumes": [{"name": "v", "gitRepo": {"repository": "https://x.test/y"}}]});
        let file = crate::run::written(&pod("p", spec).to_string())?;
        let output = crate::host::binary("monopod")?.arg("run").arg(file.path()).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(2) && said.contains("gitRepo volumes are disabled"), "{said}");
        Ok(())
    })
}

/// EN11: files change under a running container, variables with its next instance.
fn a_restart_picks_up_what_the_running_container_does_not() -> Result<()> {
    crate::serve::with_busybox(|| {
        let _daemon = crate::serve::Daemon::configured("nodeName: node1\n")?;
        let socket = Path::new("/run/monopod/monopod.sock");
        crate::serve::wait_until("the socket", || socket.exists().then_some(()))?;
        let call = |arguments: &[&str]| {
            crate::host::run(&crate::host::bin_dir()?.join("monopod").display().to_string(), arguments)
        };
        crate::serve::wait_until("the account", || call(&["get", "sa", "default"]).ok())?;
        let apply = |objects: &[Value]| {
            let file = crate::run::written(&json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string())?;
            call(&["apply", "-f", &file.path().display().to_string()])
        };
        let map = |value: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"k": value}});
        let script = "until [ \"$(cat /m/k)\" = new ]; do usleep 5000; done; echo \"$A $(cat /m/k)\"";
        let fields = json!({"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}}],
            "volumeMounts": [{"name": "m", "mountPath": "/m"}]});
        let spec = json!({"terminationGracePeriodSeconds": 0, "containers": [with(sh("c", script), fields)], "volumes": [{"name": "m", "configMap": {"name": "m"}}]});
        apply(&[map("old"), pod("p", spec)])?;
        crate::serve::wait_until("it runs", || call(&["get", "pod", "p"]).ok()?.contains("Running").then_some(()))?;
        apply(&[map("new")])?;
        let instance = |number: u32, text: &str| {
            let pods = std::fs::read_dir("/var/log/pods").into_iter().flatten().flatten();
            let mut logs = pods.map(|pod| pod.path().join(format!("c/{number}.log")));
            logs.any(|log| std::fs::read_to_string(log).is_ok_and(|log| log.ends_with(text))).then_some(())
        };
        crate::serve::wait_until("the first instance", || instance(0, " old new\n"))?;
        crate::serve::wait_until("the second", || instance(1, " new new\n"))?;
        call(&["delete", "pod", "p"]).map(drop)
    })
}

/// EN3, EN5, EN7, EN8
fn hostile_and_odd_keys_become_variables() -> Result<()> {
    with_images(&["busybox"], || {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"a.b-c": "dots", "1x": "digit", "plain": "$(A) $$ `id`\ntwo"}});
        let fields = json!({"envFrom": [{"configMapRef": {"name": "m"}}, {"prefix": "P_", "configMapRef": {"name": "m"}}],
            "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)$(P_plain)$$(A)$(NONE)$("}]});
        let script = "tr '\\0' '|' < /proc/1/environ | tr '\\n' '_' > /dev/termination-log";
        let mut watch = Watch::start(&[
            map,
            pod("p", json!({"restartPolicy": "Never", "containers": [with(sh("c", script), fields)]})),
        ])?;
        let line = watch.until("the end", |line| line.is_terminated("c"))?;
        let seen: Vec<&str> = message(&line, "c").split('|').collect();
        for expected in
            ["a.b-c=dots", "1x=digit", "P_a.b-c=dots", "P_plain=$(A) $$ `id`_two", "B=1$(A) $$ `id`_two$(A)$(NONE)$("]
        {
            ensure!(seen.contains(&expected), "{expected:?} is missing in {seen:?}");
        }
        watch.wait().map(drop)
    })
}

/// VO43, VO44
fn a_sub_path_may_be_a_file_and_keeps_its_inode() -> Result<()> {
    with_images(&["busybox"], || {
        let shared = Shared::new()?;
        std::fs::write(shared.path("file"), "first")?;
        let script = "test -f /one || exit 9; touch /all/up; until [ -e /all/go ]; do usleep 10000; done; cat /one > /dev/termination-log; exit 1";
        let mounts = json!([{"name": "shared", "mountPath": "/one", "subPath": "file"}, {"name": "shared", "mountPath": "/all"}]);
        let spec = json!({"terminationGracePeriodSeconds": 0, "containers": [with(sh("c", script), json!({"volumeMounts": mounts}))], "volumes": [shared.volume()]});
        let mut watch = Watch::start(&[pod("p", spec)])?;
        crate::serve::wait_until("it is up", || shared.path("up").exists().then_some(()))?;
        std::fs::write(shared.path("new"), "second")?;
        std::fs::rename(shared.path("new"), shared.path("file"))?;
        std::fs::write(shared.path("go"), "")?;
        let ended = |line: &Line, text: &str| {
            let last = |state: &str| {
                line.container("c").and_then(|own| own[state]["terminated"]["message"].as_str().map(|own| own == text))
            };
            last("state") == Some(true) || last("lastState") == Some(true)
        };
        watch.until("the old inode", |line| ended(line, "first"))?;
        watch.until("the new one after a restart", |line| ended(line, "second"))?;
        watch.delete().map(drop)
    })
}

/// VO50, VO51, US3: `fsGroup` and `supplementalGroups` always, the image's groups unless the policy is Strict.
fn groups_follow_the_policy_and_the_volume() -> Result<()> {
    with_images(&["busybox"], || {
        for (policy, user, expected) in
            [("Merge", 0, "0 5 2000"), ("Strict", 0, "0 5 2000"), ("Strict", 1000, "0 5 2000")]
        {
            let security = json!({"runAsUser": user, "fsGroup": 2000, "supplementalGroups": [5], "supplementalGroupsPolicy": policy});
            let script = "id -G | tr ' ' '\\n' | sort -n | tr '\\n' ' ' | sed 's/ $//' > /dev/termination-log; echo x > /v/x && stat -c ' %g' /v/x >> /dev/termination-log";
            let container = with(sh("c", script), json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}));
            let spec = json!({"restartPolicy": "Never", "securityContext": security, "containers": [container], "volumes": [{"name": "v", "emptyDir": {}}]});
            let mut watch = Watch::start(&[pod("p", spec)])?;
            let line = watch.until("the end", |line| line.is_terminated("c"))?;
            let seen = message(&line, "c").split_whitespace().collect::<Vec<_>>().join(" ");
            ensure!(seen == format!("{expected} 2000"), "{policy}, {user}: {seen}");
            watch.wait()?;
        }
        Ok(())
    })
}

/// VO45: what lies below is read-only, too, only when asked for; the status says which.
fn read_only_mounts_say_how_deep() -> Result<()> {
    with_images(&["busybox"], || {
        let shared = Shared::new()?;
        let _below = Mounted::tmpfs(&shared.path("below"))?;
        let mount = |path: &str, recursive: &str| json!({"name": "shared", "mountPath": path, "readOnly": true, "recursiveReadOnly": recursive});
        let script = "for d in /no /if /yes; do for p in $d/x $d/below/x; do (echo x > $p) 2>/dev/null && echo -n w || echo -n r; done; done > /dev/termination-log; sleep 2";
        let mounts = json!([mount("/no", "Disabled"), mount("/if", "IfPossible"), mount("/yes", "Enabled")]);
        let spec = json!({"restartPolicy": "Never", "volumes": [shared.volume()], "containers": [with(sh("c", script), json!({"volumeMounts": mounts}))]});
        let mut watch = Watch::start(&[pod("p", spec)])?;
        let line = watch.until("it runs", |line| line.is_running("c"))?;
        let status = &line.container("c").context("container")?["volumeMounts"];
        let shown: Vec<_> =
            status.as_array().into_iter().flatten().map(|own| own["recursiveReadOnly"].as_str()).collect();
        ensure!(shown == [Some("Disabled"), Some("Enabled"), Some("Enabled")], "{status}");
        let line = watch.until("the end", |line| line.is_terminated("c"))?;
        ensure!(message(&line, "c") == "rwrrrr", "{}", message(&line, "c"));
        watch.wait().map(drop)
    })
}

/// VO35: `ReadWriteOncePod`; whoever waits gets it when the first is gone.
fn a_claim_for_one_pod_makes_the_second_wait() -> Result<()> {
    with_images(&["busybox"], || {
        let shared = Shared::new()?;
        let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "one"},
            "spec": {"accessModes": ["ReadWriteOncePod"], "resources": {"requests": {"storage": "1Mi"}}}});
        let using = |name: &str| {
            let script = "echo x > /claim/x; until [ -e /shared/go ]; do usleep 10000; done";
            let mounts = json!([{"name": "claim", "mountPath": "/claim"}, {"name": "shared", "mountPath": "/shared"}]);
            let volumes = json!([{"name": "claim", "persistentVolumeClaim": {"claimName": "one"}}, shared.volume()]);
            pod(
                name,
                json!({"restartPolicy": "Never", "containers": [with(sh("c", script), json!({"volumeMounts": mounts}))], "volumes": volumes}),
            )
        };
        let mut watch = Watch::start(&[claim, using("first"), using("second")])?;
        let line = watch.until("the second waits", |line| line.is_event("FailedMount"))?;
        let said = line.object["message"].as_str().unwrap_or_default();
        ensure!(said.contains("is already in use by another pod"), "{said}");
        std::fs::write(shared.path("go"), "")?;
        watch.wait()?;
        for name in ["first", "second"] {
            ensure!(watch.last(name)?.phase() == Some("Succeeded"), "{name}: {:?}", watch.last(name)?.phase());
        }
        Ok(())
    })
}
