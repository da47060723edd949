//! `monopod run` with real images, namespaces and processes, on a private host.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use crate::host::{self, Running, private_host};
use crate::{Test, tests};

pub fn tests() -> Vec<Test> {
    let mut tests = tests![Host: a_reader_follows_what_a_writer_writes, a_host_path_outlives_the_pod,
        the_downward_api_fills_the_environment, pause_is_pid_1_of_a_shared_namespace_and_reaps,
        a_sidecar_reaches_nginx_over_localhost, init_containers_and_sidecars_run_in_order,
        the_exit_code_is_the_failing_container_s, a_bad_manifest_is_refused_whole, a_missing_program_says_so,
        a_second_signal_ends_at_once, rounds_leave_nothing_behind, a_killed_run_is_swept_by_the_next];
    tests.extend(tests![HostAlone: runs_at_the_same_time_keep_their_pods]);
    tests
}

/// Archives in a virtual machine.
const IN_MACHINE: &str = "/images";

/// An image archive that `cargo xtask images` built.
pub fn image(name: &str) -> Result<PathBuf> {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let in_machine = Path::new(IN_MACHINE).join(format!("{name}.tar"));
    if in_machine.exists() {
        return Ok(in_machine);
    }
    let dir = BUILT.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"));
        root.join("target/images")
    });
    let path = dir.join(format!("{name}.tar"));
    ensure!(
        path.exists(),
        "{} is missing: run `cargo xtask images {name}`, as `cargo xtask test` does",
        path.display()
    );
    Ok(path)
}

pub fn manifest(name: &str) -> PathBuf {
    let in_machine = Path::new("/manifests").join(name);
    if in_machine.exists() {
        return in_machine;
    }
    Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests").join(name)
}

/// Where the small machine keeps its only store.
const ONLY_STORE: &str = "/var/lib/images";
const STORE: &str = "/var/lib/monopod/images";

/// Puts images into this host's store. In the small machine all tests have one, as the pods of a node do: to unpack and to
/// verify the same image again, and to translate its programs, takes longer there than many a test.
pub fn load(names: &[&str]) -> Result<()> {
    let images = names.iter().map(|name| image(name)).collect::<Result<Vec<_>>>()?;
    let only = Path::new(IN_MACHINE).exists();
    if only {
        for dir in [ONLY_STORE, STORE] {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        rustix::mount::mount_bind(ONLY_STORE, STORE).context("bind the store")?;
    }
    for (name, image) in names.iter().zip(images) {
        let loaded = Path::new(ONLY_STORE).with_extension(name);
        if loaded.exists() {
            continue;
        }
        let output = host::binary("monopod")?.args(["image", "load"]).arg(image).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        if only {
            std::fs::write(loaded, "")?;
        }
    }
    Ok(())
}

/// A private host with these images in its store.
pub fn with_images(names: &[&str], body: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    private_host(move || {
        load(names)?;
        body()?;
        nothing_is_left()
    })
}

pub fn start(arguments: &[&str], manifest: &Path) -> Result<Running> {
    let mut command = host::binary("monopod")?;
    command.arg("run").args(arguments).arg(manifest);
    Running::start(command)
}

/// A manifest of the test's own.
pub fn written(text: &str) -> Result<tempfile::NamedTempFile> {
    let file = tempfile::Builder::new().suffix(".yaml").tempfile()?;
    std::fs::write(file.path(), text)?;
    Ok(file)
}

/// A pod of one busybox container that never restarts.
fn one_container(command: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: one}}\nspec:\n  restartPolicy: Never\n  \
         containers:\n  - name: app\n    image: busybox\n    imagePullPolicy: IfNotPresent\n    command: [sh, -c, {command:?}]\n"
    )
}

/// Sandboxes, container roots, logs, links but for what a host has, cgroups.
fn nothing_is_left() -> Result<()> {
    let logs = ["/var/log/pods", "/var/log/containers"];
    for dir in
        ["/var/lib/monopod/sandboxes", "/var/lib/monopod/scratch", "/run/monopod/sandboxes"].into_iter().chain(logs)
    {
        let left: Vec<_> = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        ensure!(left.is_empty(), "left behind: {left:?}");
    }
    let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo")?;
    ensure!(!mounts.contains("overlay"), "an overlay is mounted:\n{mounts}");
    Ok(())
}

/// Founding manifest 01: VO4, VO10.
fn a_reader_follows_what_a_writer_writes() -> Result<()> {
    with_images(&["busybox"], || {
        let mut run = start(&[], &manifest("01-shared-volume.yaml"))?;
        run.wait_for("reader-container | ")?;
        run.wait_for("Log entry 1")?;
        // Its shell is PID 1 and ignores TERM: the second signal is what ends it.
        run.signal(Signal::INT)?;
        run.signal(Signal::TERM)?;
        ensure!(run.wait()?.success(), "{}", run.seen);
        Ok(())
    })
}

/// Founding manifest 02: VO15.
fn a_host_path_outlives_the_pod() -> Result<()> {
    with_images(&["busybox"], || {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("counter");
        let text = std::fs::read_to_string(manifest("02-hostpath-counter.yaml"))?;
        let file = written(&text.replace("/var/log/counter", &path.display().to_string()))?;
        let mut run = start(&[], file.path())?;
        run.wait_for("count-log | 1: ")?;
        run.signal(Signal::TERM)?;
        run.signal(Signal::INT)?;
        run.wait()?;
        let kept = std::fs::read_to_string(path.join("1.log")).context("the log on the host")?;
        ensure!(kept.starts_with("0: "), "{kept}");
        Ok(())
    })
}

/// Founding manifest 07: FR1, FR2, RF1, HN1.
fn the_downward_api_fills_the_environment() -> Result<()> {
    with_images(&["busybox"], || {
        let mut run = start(&["--log-prefix=none", "--node-name=node1"], &manifest("07-downward-api.yaml"))?;
        ensure!(run.wait()?.success(), "{}", run.seen);
        for line in [
            "POD_NAME=downward-demo\n",
            "POD_NAMESPACE=default\n",
            "NODE_NAME=node1\n",
            "CPU_REQUEST=1\n",
            "HOSTNAME=downward-demo\n",
            "\ndownward-demo\n",
        ] {
            ensure!(run.seen.contains(line), "{line:?} is missing in:\n{}", run.seen);
        }
        ensure!(run.seen.contains("POD_IP=10.187.0."), "{}", run.seen);
        Ok(())
    })
}

/// Founding manifest 11: section 8.4.
fn pause_is_pid_1_of_a_shared_namespace_and_reaps() -> Result<()> {
    with_images(&["busybox"], || {
        let mut run = start(&[], &manifest("11-shared-pid.yaml"))?;
        run.wait_for("watcher      | pause")?;
        run.wait_for("zombies: 0")?;
        run.signal(Signal::INT)?;
        run.signal(Signal::TERM)?;
        run.wait()?;
        Ok(())
    })
}

/// Founding manifest 03: NS1, one network for the pod.
fn a_sidecar_reaches_nginx_over_localhost() -> Result<()> {
    with_images(&["busybox", "nginx"], || {
        let mut run = start(&[], &manifest("03-network-demo.yaml"))?;
        run.wait_for("<title>Welcome to nginx!</title>")?;
        run.signal(Signal::INT)?;
        run.signal(Signal::TERM)?;
        run.wait()?;
        Ok(())
    })
}

/// IN2, IN5, TR3: each writes its name when it starts, the sidecar also when it ends.
fn init_containers_and_sidecars_run_in_order() -> Result<()> {
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: order}\nspec:\n  restartPolicy: Never\n  \
        volumes: [{name: v, emptyDir: {}}]\n  initContainers:\n  \
        - {name: first, image: busybox, imagePullPolicy: Never, command: [sh, -c, 'echo 1 >> /v/o'], volumeMounts: [{name: v, mountPath: /v}]}\n  \
        - {name: side, image: busybox, imagePullPolicy: Never, restartPolicy: Always, command: [sh, -c, 'trap \"echo 4; exit 0\" TERM; echo 2 >> /v/o; while :; do sleep 0.1; done'], volumeMounts: [{name: v, mountPath: /v}]}\n  \
        containers:\n  \
        - {name: app, image: busybox, imagePullPolicy: Never, command: [sh, -c, 'until grep -q 2 /v/o; do sleep 0.1; done; echo 3 >> /v/o; cat /v/o'], volumeMounts: [{name: v, mountPath: /v}]}\n";
    with_images(&["busybox"], || {
        let file = written(text)?;
        let mut run = start(&["--log-prefix=none"], file.path())?;
        ensure!(run.wait()?.success(), "{}", run.seen);
        ensure!(run.seen == "1\n2\n3\n4\n", "{:?}", run.seen);
        Ok(())
    })
}

fn the_exit_code_is_the_failing_container_s() -> Result<()> {
    with_images(&["busybox"], || {
        for (command, code) in [("exit 0", 0), ("exit 7", 7)] {
            let file = written(&one_container(command))?;
            let status = start(&[], file.path())?.wait()?;
            ensure!(status.code() == Some(code), "{command}: {status}");
        }
        Ok(())
    })
}

/// Nothing starts, and the place of each fault is exact.
fn a_bad_manifest_is_refused_whole() -> Result<()> {
    private_host(|| {
        for (text, expected) in [
            ("a: [", ":1:"),
            (
                "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - name: c\n    imagePulPolicy: x\n",
                ":7:5: spec.containers[0].imagePulPolicy: ",
            ),
            (
                "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - {name: c, image: x, stdin: maybe}\n",
                ":6:",
            ),
            (
                "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: []}\n",
                "spec.containers: Required value",
            ),
            ("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\n", "Deployment"),
        ] {
            let file = written(text)?;
            let output = host::binary("monopod")?.arg("run").arg(file.path()).output()?;
            let stderr = String::from_utf8_lossy(&output.stderr);
            ensure!(
                output.status.code() == Some(2) && stderr.contains(expected),
                "{text}: {}: {stderr}",
                output.status
            );
            ensure!(!Path::new("/var/lib/monopod/sandboxes").exists(), "something was started");
        }
        Ok(())
    })
}

/// Section 1.4: RunContainerError, exit code 128.
fn a_missing_program_says_so() -> Result<()> {
    with_images(&["busybox"], || {
        let file = written(&one_container("x").replace("[sh, -c, \"x\"]", "[no-such-program]"))?;
        let output = host::binary("monopod")?.arg("run").arg(file.path()).output()?;
        ensure!(output.status.code() == Some(128), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
        Ok(())
    })
}

fn a_second_signal_ends_at_once() -> Result<()> {
    with_images(&["busybox"], || {
        let file = written(&one_container("trap '' TERM; echo ready; while :; do sleep 1; done"))?;
        let mut run = start(&["--log-prefix=none"], file.path())?;
        run.wait_for("ready")?;
        run.signal(Signal::TERM)?;
        run.signal(Signal::INT)?;
        run.wait()?;
        Ok(())
    })
}

fn rounds_leave_nothing_behind() -> Result<()> {
    const ROUNDS: usize = 10;
    with_images(&["busybox"], || {
        let file = written(&one_container("echo hello"))?;
        for _ in 0..ROUNDS {
            let mut run = start(&["--log-prefix=none"], file.path())?;
            ensure!(run.wait()?.success() && run.seen == "hello\n", "{:?}", run.seen);
        }
        Ok(())
    })
}

/// D43: who begins sweeps away what dead owners left, and nothing that another one is making at that moment.
fn runs_at_the_same_time_keep_their_pods() -> Result<()> {
    const ROUNDS: usize = 10;
    const RUNS: usize = 8;
    with_images(&["busybox"], || {
        let file = written(&one_container("echo hello"))?;
        let complaints = tempfile::NamedTempFile::new()?;
        let start = || {
            let mut command = host::binary("monopod")?;
            command.args(["run", "--log-prefix=none"]).arg(file.path()).stderr(complaints.reopen()?);
            Running::start(command)
        };
        for _ in 0..ROUNDS {
            for run in &mut (0..RUNS).map(|_| start()).collect::<Result<Vec<_>>>()? {
                ensure!(run.wait()?.success() && run.seen == "hello\n", "{:?}", run.seen);
            }
        }
        let complaints = std::fs::read_to_string(complaints.path())?;
        ensure!(complaints.is_empty(), "{complaints}");
        Ok(())
    })
}

/// D43: the monitor ends its pod, the next run removes what is left.
fn a_killed_run_is_swept_by_the_next() -> Result<()> {
    with_images(&["busybox"], || {
        let file = written(&one_container("echo ready; exec sleep 1000"))?;
        let mut run = start(&["--log-prefix=none"], file.path())?;
        run.wait_for("ready")?;
        run.signal(Signal::KILL)?;
        run.wait()?;
        let quick = written(&one_container("echo swept"))?;
        let mut next = start(&["--log-prefix=none"], quick.path())?;
        ensure!(next.wait()?.success(), "{}", next.seen);
        let rules = crate::vm_nft::objects()?;
        ensure!(rules.is_empty(), "rules are left: {rules:?}");
        Ok(())
    })
}
