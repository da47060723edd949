//! Volumes as containers see them: `monopod run` with real mounts, on a private host.

use anyhow::{Context as _, Result, ensure};

use crate::life_watch::{Line, Watch};
use crate::run::{manifest, start, with_images, written};
use crate::{Test, tests};

pub fn tests() -> Vec<Test> {
    tests![Host: manifest_04_gets_every_file_and_variable, manifest_06_mounts_every_type_of_volume,
        manifest_07_knows_its_address, every_type_has_its_mode_owner_and_writability, links_never_lead_out_of_a_volume,
        a_deleted_pod_follows_no_link, unsafe_paths_are_refused, mounts_obey_their_options,
        variables_come_from_a_file_of_an_init_container]
}

/// Runs pods until they end by themselves; what their containers wrote.
fn output(text: &str) -> Result<String> {
    let file = written(text)?;
    let mut run = start(&["--log-prefix=none", "--node-name=node1", "--for=20s"], file.path())?;
    let status = run.wait()?;
    ensure!(status.success(), "{status}:\n{}", run.seen);
    Ok(run.seen.clone())
}

fn holds(output: &str, lines: &[&str]) -> Result<()> {
    for line in lines {
        ensure!(output.lines().any(|found| found == *line), "{line:?} is missing in:\n{output}");
    }
    Ok(())
}

/// Founding manifest 04: EN1, EN6, VO10, VO11, VO20, VO22, VO25, VO50, US1, VO58.
fn manifest_04_gets_every_file_and_variable() -> Result<()> {
    let script = "tr '\\0' '\\n' < /proc/1/environ
id
stat -c '%a %u %g %n' /etc/config /etc/config/..data/LOG_LEVEL /data /data/init /tmp /dev/termination-log
readlink /etc/config/LOG_LEVEL
cat /etc/config/app.properties
cat /data/init
echo x 2>/dev/null > /etc/config/x || echo config is read-only
echo x 2>/dev/null > /x || echo root is read-only
df -k /tmp | tail -1 | awk '{print \"tmp\", $1, $2}'
grep -E ' (/etc/config|/data|/tmp) ' /proc/mounts | cut -d' ' -f2,4 | cut -d, -f1-3
test -e /var/run/secrets/kubernetes.io || echo no token
kill -TERM 1; sleep 5";
    with_images(&["busybox"], || {
        let text = std::fs::read_to_string(manifest("04-full-pod.yaml"))?;
        let old = "mkdir -p /data/www && cp /data/init /data/www/healthz && cp /data/init /data/www/ready && exec httpd -f -p 8080 -h /data/www";
        ensure!(text.contains(old), "the manifest changed");
        let command = format!("trap 'exit 0' TERM; {}", script.replace('\n', "; "));
        let text = text.replace(old, &command.replace('\\', "\\\\").replace('"', "\\\""));
        // Its probes and hooks need the server that it has no more.
        let text = without(&text, &["startupProbe", "livenessProbe", "readinessProbe", "lifecycle"]);
        let text = text.replace("restartPolicy: Always", "restartPolicy: Never");
        let seen = output(&text)?;
        holds(
            &seen,
            &[
                "API_TOKEN=t0k3n",
                "DB_HOST=db-service",
                "DB_PASSWORD=s3cr3t",
                "LOG_LEVEL=debug",
                "NODE_NAME=node1",
                "POD_NAME=my-pod",
                "HOSTNAME=my-pod",
                "app.properties=greeting=hello",
                "uid=1000 gid=3000 groups=2000,3000",
                "2777 0 2000 /etc/config",
                "644 0 2000 /etc/config/..data/LOG_LEVEL",
                "2777 0 2000 /data",
                "644 1000 2000 /data/init",
                "3777 0 2000 /tmp",
                "666 0 0 /dev/termination-log",
                "..data/LOG_LEVEL",
                "greeting=hello",
                "initialised",
                "config is read-only",
                "root is read-only",
                "tmp tmpfs 16384",
                "/etc/config ro,nosuid,nodev",
                "/tmp rw,nosuid,nodev",
                "no token",
            ],
        )
    })
}

/// The text without these fields of a container and all that is below them.
fn without(text: &str, fields: &[&str]) -> String {
    let mut kept = String::new();
    let mut skipping = None;
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        if skipping.is_some_and(|at| indent > at) {
            continue;
        }
        let is_field = fields.iter().any(|field| line.trim_start().starts_with(&format!("{field}:")));
        skipping = is_field.then_some(indent);
        if !is_field {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

/// Founding manifest 06: VO11, VO15, VO22, VO25, VO28, VO29, VO31, VO35.
fn manifest_06_mounts_every_type_of_volume() -> Result<()> {
    with_images(&["busybox"], || {
        let host = tempfile::tempdir()?;
        let text = std::fs::read_to_string(manifest("06-volumes.yaml"))?;
        let path = host.path().join("data");
        let text = text.replace("path: /data,", &format!("path: {},", path.display()));
        let more = "                  ls /host
          touch /host/from-pod
          for m in /config /certs /combined /podinfo; do touch $m/x 2>/dev/null || echo $m is read-only; done
          grep -E ' (/certs|/tmpfs|/config|/combined|/podinfo) ' /proc/mounts | cut -d' ' -f1,2 | sort
          stat -c '%a %u %g %n' /combined/..data/token /combined/..data/tls.key /podinfo/..data/labels /pvc
          wc -w /podinfo/labels
          cut -d. -f2 /combined/token | wc -c
          ls -a /config | sort | sed 's/[0-9]/9/g'"
            .trim_start();
        let text = text.replacen("ls /host", more, 1);
        let first = output(&text)?;
        holds(
            &first,
            &[
                "644 /config/..data/app.properties",
                "400 /certs/..data/tls.key",
                "greeting=hello",
                "app=\"volumes-demo\"250kept",
                "/config is read-only",
                "/certs is read-only",
                "/combined is read-only",
                "/podinfo is read-only",
                "tmpfs /tmpfs",
                "tmpfs /certs",
                "tmpfs /config",
                "644 0 0 /combined/..data/token",
                "644 0 0 /combined/..data/tls.key",
                "644 0 0 /podinfo/..data/labels",
                "777 0 0 /pvc",
                "app.properties",
                "..data",
            ],
        )?;
        ensure!(first.lines().any(|line| line.starts_with("..9999_99_99_99_99_99.9")), "no data directory in {first}");
        ensure!(first.contains("eyJ"), "no token in {first}");
        ensure!(path.join("from-pod").exists(), "the host path is not the host's");
        // What a claim holds outlives the pod.
        let second = output(&text)?;
        ensure!(second.matches("kept\n").count() == 2, "the claim forgot: {second}");
        Ok(())
    })
}

/// Founding manifest 07: FR1, RF1.
fn manifest_07_knows_its_address() -> Result<()> {
    with_images(&["busybox"], || {
        let text = std::fs::read_to_string(manifest("07-downward-api.yaml"))?;
        let text = text.replace("env | sort; hostname", "env | sort; hostname -i");
        let seen = output(&text)?;
        let ip = seen.lines().find_map(|line| line.strip_prefix("POD_IP=")).context("no address")?;
        ensure!(seen.lines().last() == Some(ip), "{seen}");
        holds(&seen, &["CPU_REQUEST=1", "NODE_NAME=node1", "POD_NAME=downward-demo", "POD_NAMESPACE=default"])
    })
}

/// What a mount is expected to be, by the rules.
struct Expected {
    mode: u32,
    group: u32,
    is_writable: bool,
}

/// VO10, VO17, VO20, VO22, VO25, VO35, VO41, VO45, VO50
fn expected(kind: &str, read_only: bool, sub: bool, group: Option<u32>, user: u32) -> Expected {
    let is_content = matches!(kind, "config" | "secret" | "info" | "all");
    let (base, gid) = match (kind, group) {
        ("host", _) => (0o755, 0),
        ("mem", Some(group)) => (0o3777, group),
        ("mem", None) => (0o1777, 0),
        ("secret", Some(group)) if sub => (0o440, group),
        ("secret", None) if sub => (0o400, 0),
        (_, Some(group)) if is_content && sub => (0o644, group),
        (_, None) if is_content && sub => (0o644, 0),
        (_, Some(group)) => (0o2777, group),
        (_, None) => (0o777, 0),
    };
    let may_write = kind != "host" || user == 0;
    Expected { mode: base, group: gid, is_writable: may_write && !read_only && !is_content }
}

/// Volume type x readOnly x subPath x fsGroup x runAsUser.
fn every_type_has_its_mode_owner_and_writability() -> Result<()> {
    const KINDS: [&str; 8] = ["disk", "mem", "host", "config", "secret", "info", "all", "claim"];
    let script = "for m in /m/*; do if [ -d $m ]; then touch $m/x 2>/dev/null && w=true || w=false; \
        else sh -c \": >> $m\" 2>/dev/null && w=true || w=false; fi; echo $m $(stat -Lc '%a %u %g' $m) $w; done";
    with_images(&["busybox"], || {
        for (group, user) in [(None, 0), (None, 1000), (Some(2000), 0), (Some(2000), 1000)] {
            let host = tempfile::tempdir()?;
            std::fs::set_permissions(host.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
            let mut mounts = String::new();
            let mut cases = Vec::new();
            for kind in KINDS {
                for (read_only, sub) in [(false, false), (false, true), (true, false), (true, true)] {
                    let target = format!(
                        "/m/{kind}-{}-{}",
                        if read_only { "ro" } else { "rw" },
                        if sub { "sub" } else { "root" }
                    );
                    let path = if sub { ", subPath: key" } else { "" };
                    mounts += &format!("      - {{name: {kind}, mountPath: {target}, readOnly: {read_only}{path}}}\n");
                    cases.push((target, expected(kind, read_only, sub, group, user)));
                }
            }
            let group_field = group.map(|group| format!(", fsGroup: {group}")).unwrap_or_default();
            let text = format!(
                "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c}}\ndata: {{key: x}}\n---\n\
                 apiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\nstringData: {{key: x}}\n---\n\
                 apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: p{user}}}\n\
                 spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Mi}}}}}}\n---\n\
                 apiVersion: v1\nkind: Pod\nmetadata: {{name: table}}\nspec:\n  restartPolicy: Never\n  \
                 securityContext: {{runAsUser: {user}{group_field}}}\n  containers:\n    - name: app\n      image: busybox\n      \
                 imagePullPolicy: Never\n      command: [sh, -c, {script:?}]\n      volumeMounts:\n{mounts}  volumes:\n    \
                 - {{name: disk, emptyDir: {{}}}}\n    - {{name: mem, emptyDir: {{medium: Memory}}}}\n    \
                 - {{name: host, hostPath: {{path: {}}}}}\n    - {{name: config, configMap: {{name: c}}}}\n    \
                 - {{name: secret, secret: {{secretName: s, defaultMode: 0400}}}}\n    \
                 - {{name: info, downwardAPI: {{items: [{{path: key, fieldRef: {{fieldPath: metadata.name}}}}]}}}}\n    \
                 - {{name: all, projected: {{sources: [{{configMap: {{name: c}}}}]}}}}\n    \
                 - {{name: claim, persistentVolumeClaim: {{claimName: p{user}}}}}\n",
                host.path().display()
            );
            // Each pair starts with claims of its own.
            let _none = std::fs::remove_dir_all("/var/lib/monopod/claims");
            let seen = output(&text)?;
            for (target, expected) in &cases {
                let line = format!("{target} {:o} 0 {} {}", expected.mode, expected.group, expected.is_writable);
                ensure!(
                    seen.lines().any(|found| found == line),
                    "fsGroup {group:?}, user {user}: no {line:?} in\n{seen}"
                );
            }
            ensure!(seen.lines().count() == cases.len(), "{seen}");
        }
        Ok(())
    })
}

/// A pod whose init container runs `prepare` in volume `v`, and whose containers mount each a path of it and run something.
fn prepared<'a>(volume: &str, prepare: &str, apps: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: two}}\nspec:\n  restartPolicy: Never\n  volumes: [{{name: v, {volume}}}]\n  \
         initContainers:\n  - {{name: first, image: busybox, imagePullPolicy: Never, command: [sh, -c, {prepare:?}], \
         volumeMounts: [{{name: v, mountPath: /v}}]}}\n  containers:\n"
    );
    for (number, (path, look)) in apps.into_iter().enumerate() {
        text += &format!(
            "  - {{name: app{number}, image: busybox, imagePullPolicy: Never, command: [sh, -c, {look:?}], \
             volumeMounts: [{{name: v, mountPath: /s, subPath: {path}}}]}}\n"
        );
    }
    text
}

/// VO42, D6, P10: in memory and on disk; no container starts.
fn links_never_lead_out_of_a_volume() -> Result<()> {
    const PATHS: [&str; 5] = ["absolute", "up", "up/ssh", "magic/etc", "absolute/new"];
    let prepare = "cd /v; ln -s /etc absolute; ln -s ../../../../../../etc up; ln -s /proc/1/root magic; mkdir real; \
                   echo inside > real/file; ln -s real inside";
    let names: Vec<String> = (0..PATHS.len()).map(|number| format!("app{number}")).collect();
    with_images(&["busybox"], || {
        for volume in ["emptyDir: {}", "emptyDir: {medium: Memory}"] {
            let text = prepared(volume, prepare, PATHS.map(|path| (path, "exit 42")));
            let mut watch = Watch::start_text(&[], &text, ".yaml")?;
            let is_refused = |line: &Line, name: &str| {
                line.container(name).is_some_and(|status| status.to_string().contains("failed to prepare subPath"))
            };
            watch.until("the refusals", |line| names.iter().all(|name| is_refused(line, name))).context(volume)?;
            watch.delete()?;
            let ran = |line: &Line, name: &str| {
                let code = line.container(name).map(|status| status["state"]["terminated"]["exitCode"] == 42);
                line.is_running(name) || code == Some(true)
            };
            let started = watch.count(|line| names.iter().any(|name| ran(line, name)));
            ensure!(started == 0, "{volume}: a container started");
            let seen = output(&prepared(volume, prepare, [("inside", "cat /s/file")]))?;
            ensure!(seen == "inside\n", "{volume}: {seen}");
        }
        ensure!(!std::path::Path::new("/etc/new").exists(), "something was made outside");
        Ok(())
    })
}

/// P11, VO17: what a pod leaves behind is removed, what its links and mounts lead to is not.
fn a_deleted_pod_follows_no_link() -> Result<()> {
    with_images(&["busybox"], || {
        let host = tempfile::tempdir()?;
        let canary = host.path().join("canary");
        std::fs::write(&canary, "same")?;
        let path = host.path().display();
        let script = format!(
            "cd /v; ln -s {path} link; ln -s {path}/canary file; ln -s / root; mkdir -p a/b/c; ln -s ../../.. a/b/c/up; \
             mkfifo fifo; touch 'a/with space' a/b/-rf; chmod 000 a/b; i=0; while [ $i -lt 300 ]; do mkdir d; cd d; i=$((i+1)); done"
        );
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n  restartPolicy: Never\n  containers:\n  - name: app\n    \
             image: busybox\n    imagePullPolicy: Never\n    command: [sh, -c, {script:?}]\n    \
             volumeMounts: [{{name: v, mountPath: /v}}, {{name: h, mountPath: /v/host}}]\n  volumes:\n  \
             - {{name: v, emptyDir: {{}}}}\n  - {{name: h, hostPath: {{path: {path}}}}}\n"
        );
        output(&text)?;
        ensure!(std::fs::read_to_string(&canary)? == "same", "the canary changed");
        for dir in ["/var/lib/monopod/pods", "/var/lib/monopod/trash"] {
            let left = std::fs::read_dir(dir)?.count();
            ensure!(left == 0, "{left} left in {dir}");
        }
        Ok(())
    })
}

/// VO16, VO23, VO40: before anything starts.
fn unsafe_paths_are_refused() -> Result<()> {
    let pod = |volume: &str, mount: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n  volumes: [{{name: v, {volume}}}]\n  containers:\n  \
             - {{name: c, image: x, volumeMounts: [{{name: v, mountPath: /v{mount}}}]}}\n"
        )
    };
    with_images(&[], || {
        for (volume, mount) in [
            ("configMap: {name: c, items: [{key: k, path: ../x}]}", ""),
            ("configMap: {name: c, items: [{key: k, path: /x}]}", ""),
            ("configMap: {name: c, items: [{key: k, path: ..data}]}", ""),
            ("downwardAPI: {items: [{path: a/../../x, fieldRef: {fieldPath: metadata.name}}]}", ""),
            ("projected: {sources: [{serviceAccountToken: {path: ../token}}]}", ""),
            ("hostPath: {path: /tmp/../etc}", ""),
            ("emptyDir: {}", ", subPath: ../x"),
            ("emptyDir: {}", ", subPath: /x"),
            ("emptyDir: {}", ", subPathExpr: a/../../x"),
        ] {
            let file = written(&pod(volume, mount))?;
            let got = crate::host::binary("monopod")?.arg("run").arg(file.path()).output()?;
            ensure!(got.status.code() == Some(2), "{volume}{mount}: {}", got.status);
        }
        Ok(())
    })
}

/// VO5, VO36, VO45, EN9: order, types of volumes, recursion, expressions.
fn mounts_obey_their_options() -> Result<()> {
    let script = "echo x > /a/b/nested || exit 1; ls /a; ls /image/bin/busybox; /image/bin/busybox true 2>/dev/null || echo noexec; \
        touch /image/x 2>/dev/null || echo image is read-only; cat /expr/name; touch /deep/host/x 2>/dev/null || echo deep is read-only; \
        touch /flat/x 2>/dev/null || echo flat is read-only";
    with_images(&["busybox"], || {
        let host = tempfile::tempdir()?;
        std::fs::create_dir_all(host.path().join("pods/me"))?;
        std::fs::write(host.path().join("pods/me/name"), "by expression\n")?;
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: me}}\nspec:\n  restartPolicy: Never\n  containers:\n  - name: app\n    \
             image: busybox\n    imagePullPolicy: Never\n    command: [sh, -c, {script:?}]\n    \
             env: [{{name: ME, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}]\n    volumeMounts:\n    \
             - {{name: inner, mountPath: /a/b}}\n    - {{name: outer, mountPath: /a}}\n    - {{name: image, mountPath: /image}}\n    \
             - {{name: host, mountPath: /expr, subPathExpr: pods/$(ME)}}\n    \
             - {{name: host, mountPath: /deep/host, readOnly: true, recursiveReadOnly: Enabled}}\n    \
             - {{name: host, mountPath: /flat, readOnly: true}}\n  volumes:\n  - {{name: inner, emptyDir: {{}}}}\n  \
             - {{name: outer, emptyDir: {{medium: Memory}}}}\n  - {{name: image, image: {{reference: busybox, pullPolicy: Never}}}}\n  \
             - {{name: host, hostPath: {{path: {}, type: Directory}}}}\n",
            host.path().display()
        );
        let seen = output(&text)?;
        let expected =
            ["b", "/image/bin/busybox", "noexec", "image is read-only", "by expression", "deep is read-only"];
        holds(&seen, &expected)?;
        holds(&seen, &["flat is read-only"])
    })
}

/// Section 6, `fileKeyRef`.
fn variables_come_from_a_file_of_an_init_container() -> Result<()> {
    for volume in ["emptyDir: {}", "emptyDir: {medium: Memory}"] {
        with_images(&["busybox"], || {
            let text = prepared(volume, "printf \"KEY='from the file'\\n\" > /v/env", [("sub", "echo $A")]);
            let env = "env: [{name: A, valueFrom: {fileKeyRef: {volumeName: v, path: env, key: KEY}}}], volumeMounts: [{name: v, mountPath: /s";
            let seen = output(&text.replace("volumeMounts: [{name: v, mountPath: /s", env))?;
            ensure!(seen == "from the file\n", "{volume}: {seen:?}");
            Ok(())
        })?;
    }
    Ok(())
}
