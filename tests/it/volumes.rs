//! Volumes as containers see them: `monopod run` with real mounts, on a private host.

use anyhow::{Context as _, Result, ensure};

use crate::run::{manifest, start, with_images, written};
use crate::{Test, tests};

pub fn tests() -> Vec<Test> {
    tests![Host: manifest_04_gets_every_file_and_variable, manifest_06_mounts_every_type_of_volume,
        manifest_07_knows_its_address]
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
                "2777 0 2000 /tmp",
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
