//! The pause image in the hands of others: skopeo, umoci, podman and containerd, as Debian ships them.
//!
//! Each engine runs in network and mount namespaces of its own, with all of its state in a temporary directory. Where
//! the host keeps controllers on cgroup v1 beside a cgroup v2 without any, crun refuses the mixture: the latter is
//! unmounted, in that mount namespace alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::cri::{self, Message};
use crate::pause::Test;
use crate::pause_tools::{children_of, comm, command, pid_of, until, until_some};

/// The tests of this file, for the runner.
pub(crate) fn tests() -> Vec<(&'static str, Test)> {
    vec![
        ("two_archives_have_one_digest", two_archives_have_one_digest),
        ("skopeo_reads_it", skopeo_reads_it),
        ("umoci_unpacks_it", umoci_unpacks_it),
        ("a_podman_pod_stands_on_it", podman_pod),
        ("a_containerd_pod_stands_on_it", containerd_pod),
    ]
}

/// Far above what a pod of podman takes (2 s), so that a busy machine fails no test.
const PATIENCE: Duration = Duration::from_secs(120);

/// Tool and the Debian package that has it.
const PACKAGES: &[(&str, &str)] = &[
    ("busybox", "busybox-static"),
    ("conmon", "conmon"),
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("crun", "crun"),
    ("podman", "podman"),
    ("runc", "runc"),
    ("skopeo", "skopeo"),
    ("umoci", "umoci"),
];

fn two_archives_have_one_digest() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (first, second) = (Archive::make(dir.path(), "first")?, Archive::make(dir.path(), "second")?);
    ensure!(first.digest == second.digest, "{} and {}", first.digest, second.digest);
    ensure!(fs::read(&first.path)? == fs::read(&second.path)?, "the archives differ");
    Ok(())
}

fn skopeo_reads_it() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let archive = Archive::make(dir.path(), "pause.tar")?;
    let source = format!("oci-archive:{}", archive.path.display());
    let seen: Value = serde_json::from_slice(&tool("skopeo", &["inspect", &source])?.stdout)?;
    ensure!(seen["Digest"] == archive.digest.as_str(), "{seen}");
    ensure!(seen["Layers"].as_array().map(Vec::len) == Some(1), "{seen}");
    ensure!(seen["Labels"]["org.opencontainers.image.title"] == "pause", "{seen}");
    let config: Value = serde_json::from_slice(&tool("skopeo", &["inspect", "--config", &source])?.stdout)?;
    ensure!(config["config"]["Entrypoint"] == serde_json::json!(["/pause"]), "{config}");
    ensure!(config["config"]["User"] == "65535:65535", "{config}");
    Ok(())
}

fn umoci_unpacks_it() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let archive = Archive::make(dir.path(), "pause.tar")?;
    let (layout, bundle) = (dir.path().join("layout"), dir.path().join("bundle"));
    fs::create_dir(&layout)?;
    tool("tar", &["-xf", text(&archive.path)?, "-C", text(&layout)?])?;
    tool("umoci", &["unpack", "--image", &format!("{}:{}", layout.display(), archive.name), text(&bundle)?])?;
    let files: Vec<_> = fs::read_dir(bundle.join("rootfs"))?.collect::<Result<_, _>>()?;
    ensure!(files.len() == 1, "{files:?}");
    let printed = tool(text(&bundle.join("rootfs/pause"))?, &["-v"])?.stdout;
    ensure!(printed.starts_with(b"pause "), "{printed:?}");
    Ok(())
}

/// Two containers of a pod talk over localhost, share the PID namespace of pause, and leave it no zombie.
/// podman puts a seccomp filter around pause, so strict mode is refused: it goes on and obeys all the same.
fn podman_pod() -> Result<()> {
    for name in ["podman", "crun", "conmon", "busybox"] {
        require(name)?;
    }
    let dir = tempfile::tempdir()?;
    let archive = Archive::make(dir.path(), "pause.tar")?;
    let output = on_a_host_of_its_own(PODMAN_POD, &[text(dir.path())?, text(&archive.path)?, &archive.name])?;
    let printed = String::from_utf8(output.stdout)?;
    for expected in
        ["client: hello over localhost", "pause: NSpid 1", "pause: seccomp 2", "pause: zombies 0", "pause: exit 0"]
    {
        ensure!(printed.lines().any(|line| line == expected), "no {expected:?} in:\n{printed}");
    }
    Ok(())
}

/// $1: a directory, $2: the archive, $3: the image's name.
const PODMAN_POD: &str = r#"
set -eu
app=$1/app
mkdir -p "$app/bin" "$app/proc" "$app/sys" "$app/dev" "$app/etc" "$app/tmp" "$app/run"
cp "$(command -v busybox)" "$app/bin/busybox"
for name in sh nc sleep; do ln -s busybox "$app/bin/$name"; done
# A supervisor that may not raise limits can't apply podman's own.
printf '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=1000:1000"]\n[engine]\nevents_logger = "none"\n' > "$1/containers.conf"
export CONTAINERS_CONF=$1/containers.conf
dir=$1 archive=$2 image=$3
podman() {
    command podman --root "$dir/root" --runroot "$dir/run" --tmpdir "$dir/tmp" \
        --cgroup-manager cgroupfs --runtime crun "$@"
}
trap 'podman pod rm --force --all > /dev/null
    find /sys/fs/cgroup/*/libpod_parent -depth -type d -exec rmdir {} + 2> /dev/null || true
    umount "$dir/root/overlay" 2> /dev/null || true' EXIT
podman load --quiet --input "$archive" >&2
podman pod create --name pod --infra-image "$image" --share net,ipc,uts,pid --network none >&2
podman run --detach --pod pod --name server --rootfs "$app" sh -c '
    echo hello over localhost | nc -l -p 8080
    i=0; while [ $i -lt 100 ]; do (sh -c : & ); i=$((i+1)); done
    echo done > /tmp/orphans
    exec sleep 1000' >&2
podman run --pod pod --name client --rootfs "$app" sh -c '
    until answer=$(nc 127.0.0.1 8080 < /dev/null); do :; done
    until [ -e /tmp/orphans ]; do :; done
    echo "client: $answer"'
infra=$(podman pod inspect pod --format '{{.InfraContainerID}}')
pid=$(podman inspect --format '{{.State.Pid}}' "$infra")
set -- $(grep NSpid "/proc/$pid/status"); echo "pause: NSpid $3"
set -- $(grep 'Seccomp:' "/proc/$pid/status"); echo "pause: seccomp $2"
echo "pause: zombies $(cat $(for child in $(cat "/proc/$pid/task/$pid/children"); do echo "/proc/$child/stat"; done) /dev/null | grep -c ') Z ' || true)"
podman pod stop pod >&2
echo "pause: exit $(podman inspect --format '{{.State.ExitCode}}' "$infra")"
"#;

/// A pod by CRI: the kubelet's calls, with our image as `sandbox_image`. A container in the pod's PID namespace leaves
/// orphans, which pause reaps; StopPodSandbox ends pause.
fn containerd_pod() -> Result<()> {
    for name in ["containerd", "ctr", "runc", "umoci", "busybox", "tar"] {
        require(name)?;
    }
    let dir = tempfile::tempdir()?;
    let archive = Archive::make(dir.path(), "pause.tar")?;
    tool("sh", &["-euc", APP_IMAGE, "sh", text(dir.path())?])?;
    let containerd = Containerd::start(dir.path(), &archive)?;
    let sandbox = containerd.call("RunPodSandbox", &|| Message::default().message(1, sandbox_config()))?;
    let container = containerd.call("CreateContainer", &|| {
        Message::default().text(1, &sandbox).message(2, container_config()).message(3, sandbox_config())
    })?;
    let pid = containerd.inside(&format!("$ctr task ls | awk '$1 == \"{sandbox}\" {{ print $2 }}'"))?;
    let about = |script: &str| containerd.inside(&format!("pid={pid}; {script}"));
    ensure!(about("cat /proc/$pid/comm")? == "pause", "process {pid} is not pause");
    ensure!(about("awk '/^NSpid/ { print $3 }' /proc/$pid/status")? == "1", "pause is not PID 1");
    ensure!(about("awk '/^Uid/ { print $2 }' /proc/$pid/status")? == "65535", "another user");
    cri::call(&containerd.socket, "StartContainer", &Message::default().text(1, &container))?.context(FAILED)?;
    // The container is PID 2 and becomes `sleep` when its hundred orphans have been left.
    until("orphans are left", || {
        Ok(about("ps -o comm= --ppid $(ps -o ppid= -p $pid) | sort | tr '\\n' ' '")? == "pause sleep")
    })?;
    until("orphans are reaped", || Ok(about("cat /proc/$pid/task/$pid/children")?.is_empty()))?;
    cri::call(&containerd.socket, "StopPodSandbox", &Message::default().text(1, &sandbox))?.context(FAILED)?;
    ensure!(about("cat /proc/$pid/comm || true")?.is_empty(), "pause is still there");
    Ok(())
}

const FAILED: &str = "the call failed";

/// Where runc makes the pod's cgroups, so that they can be removed.
const CGROUP_PARENT: &str = "/pause-image-test";

/// A pod of its own in everything but the network, which would need CNI.
fn sandbox_config() -> Message {
    const NODE: u8 = 2;
    let metadata = Message::default().text(1, "pod").text(2, "uid").text(3, "default");
    let context = Message::default().message(1, Message::default().choice(1, NODE));
    Message::default().message(1, metadata).message(8, Message::default().message(2, context))
}

fn container_config() -> Message {
    const NODE: u8 = 2;
    let script = "i=0; while [ $i -lt 100 ]; do (sh -c : &); i=$((i+1)); done; exec sleep 1000";
    let config = Message::default()
        .message(1, Message::default().text(1, "app"))
        .message(2, Message::default().text(1, "docker.io/library/app:1"));
    let config = ["/bin/busybox", "sh", "-c", script].iter().fold(config, |config, word| config.text(3, word));
    let context = Message::default().message(3, Message::default().choice(1, NODE));
    config.message(15, Message::default().message(2, context))
}

/// $1: a directory, in which app.tar is made: an image with busybox alone.
const APP_IMAGE: &str = r#"
umoci init --layout "$1/app"
umoci new --image "$1/app:1"
mkdir "$1/bin"
cp "$(command -v busybox)" "$1/bin/busybox"
for name in sh sleep; do ln -s busybox "$1/bin/$name"; done
umoci insert --image "$1/app:1" "$1/bin" /bin
umoci config --image "$1/app:1" --config.env PATH=/bin
tar -cf "$1/app.tar" -C "$1/app" .
"#;

/// A containerd with nothing of the host's, ended with all of its processes when dropped.
struct Containerd {
    starter: Child,
    pid: Pid,
    socket: PathBuf,
    /// The host has a `k8s.io` cgroup of its own. containerd makes one, empty, whatever the pod's parent is.
    had_cgroup: bool,
}

impl Containerd {
    fn start(dir: &Path, archive: &Archive) -> Result<Self> {
        let (shown, name) = (dir.display(), &archive.name);
        let cri = r#"plugins."io.containerd.grpc.v1.cri""#;
        let config = format!(
            "version = 2\nroot = \"{shown}/root\"\nstate = \"{shown}/state\"\n\
             [grpc]\naddress = \"{shown}/socket\"\n\
             [{cri}]\nsandbox_image = \"{name}\"\nrestrict_oom_score_adj = true\n"
        );
        fs::write(dir.join("config.toml"), config)?;
        let script = format!("{PREPARE}exec containerd --config {shown}/config.toml 2> {shown}/containerd.log");
        let mut command = command("unshare");
        let starter = command
            .args(HOST_OF_ITS_OWN)
            .args(["sh", "-c", &script])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let mut containerd = Self {
            pid: pid_of(&starter)?,
            starter,
            socket: dir.join("socket"),
            had_cgroup: tool("sh", &["-c", "ls -d /sys/fs/cgroup/*/k8s.io"]).is_ok(),
        };
        let parent = containerd.pid;
        containerd.pid = until_some("containerd runs", || {
            Ok(children_of(parent)?.into_iter().find(|pid| comm(*pid).is_ok_and(|name| name == "containerd")))
        })?;
        containerd.inside(&format!(
            "$ctr image import {} && $ctr image import --base-name docker.io/library/app {shown}/app.tar",
            text(&archive.path)?
        ))?;
        Ok(containerd)
    }

    /// Makes the call until it succeeds, since CRI comes up after the socket; the id that it returns.
    fn call(&self, method: &str, request: &dyn Fn() -> Message) -> Result<String> {
        let log = self.socket.with_file_name("containerd.log");
        until_some(method, || {
            let answer = cri::call(&self.socket, method, &request())?;
            if answer.is_none() && !fs::read_to_string(&log)?.contains("containerd successfully booted") {
                return Ok(None);
            }
            answer.with_context(|| fs::read_to_string(&log).unwrap_or_default()).map(Some)
        })
        .and_then(|answer| cri::first_text(&answer))
    }

    /// What a shell prints beside containerd; `$ctr` is its client, which waits for it.
    fn inside(&self, script: &str) -> Result<String> {
        let ctr = format!("ctr --address {} --connect-timeout 30s --namespace k8s.io", self.socket.display());
        let script = format!("ctr='{ctr}'; {script}");
        let output = tool("nsenter", &["-t", &self.pid.to_string(), "-n", "-m", "-p", "sh", "-c", &script])?;
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // PID 1 of the namespace takes all others along, and unshare has waited for it when it ends. Nothing can be
        // done about a failure here.
        kill_process(self.pid, Signal::KILL).ok();
        self.starter.wait().ok();
        let ours = format!("find /sys/fs/cgroup/*{CGROUP_PARENT} -depth -type d -exec rmdir {{}} +");
        tool("sh", &["-c", &ours]).ok();
        if !self.had_cgroup {
            tool("sh", &["-c", "rmdir /sys/fs/cgroup/*/k8s.io"]).ok();
        }
    }
}

/// What `cargo xtask image` makes.
struct Archive {
    path: PathBuf,
    digest: String,
    name: String,
}

impl Archive {
    fn make(dir: &Path, file: &str) -> Result<Self> {
        let path = dir.join(file);
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        let output = tool(&cargo, &["xtask", "image", "--output", text(&path)?])?;
        let printed = String::from_utf8(output.stdout)?;
        let digest = printed.lines().last().filter(|line| line.starts_with("sha256:")).context("no digest")?;
        let name = printed.lines().find_map(|line| line.split_once(" bytes, ")).context("no name")?.1;
        Ok(Self { path, digest: digest.to_owned(), name: name.to_owned() })
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| path.display().to_string())
}

/// A missing tool is a failure that says what to install.
fn require(name: &str) -> Result<()> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    if std::env::split_paths(&paths).chain(system).any(|dir| dir.join(name).exists()) {
        return Ok(());
    }
    let package = PACKAGES.iter().find(|(tool, _)| *tool == name).map_or(name, |(_, package)| package);
    bail!("{name} is missing: apt-get install {package}")
}

/// Runs a program to its end, which must be success.
fn tool(name: &str, args: &[&str]) -> Result<Output> {
    if !name.contains('/') {
        require(name)?;
    }
    let mut command = command(name);
    command.args(args).stdin(Stdio::null());
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}\n{stderr}", output.status);
    Ok(output)
}

/// Arguments of `unshare`: neither links, mounts nor processes are the host's, and all of it ends with unshare.
const HOST_OF_ITS_OWN: [&str; 6] = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];

const PREPARE: &str = "if [ -d /sys/fs/cgroup/unified ]; then umount /sys/fs/cgroup/unified; fi\n";

/// Runs a shell script on such a host.
fn on_a_host_of_its_own(script: &str, args: &[&str]) -> Result<Output> {
    let (script, limit) = (format!("{PREPARE}{script}"), PATIENCE.as_secs().to_string());
    let mut all = vec!["--signal=KILL", limit.as_str(), "unshare"];
    all.extend(HOST_OF_ITS_OWN);
    all.extend(["sh", "-c", &script, "sh"]);
    all.extend(args);
    tool("timeout", &all)
}
