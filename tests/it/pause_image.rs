//! The pause image in the hands of others: skopeo, umoci, podman and containerd, as Debian ships them.
//!
//! Each engine runs in network and mount namespaces of its own, with all of its state in a temporary directory. Where
//! the host keeps controllers on cgroup v1 beside a cgroup v2 without any, crun refuses the mixture: the latter is
//! unmounted, in that mount namespace alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::pause::Test;
use crate::pause_tools::command;

/// The tests of this file, for the runner.
pub(crate) fn tests() -> Vec<(&'static str, Test)> {
    vec![
        ("two_archives_have_one_digest", two_archives_have_one_digest),
        ("skopeo_reads_it", skopeo_reads_it),
        ("umoci_unpacks_it", umoci_unpacks_it),
        ("a_podman_pod_stands_on_it", podman_pod),
    ]
}

/// Far above what a pod of podman takes (2 s), so that a busy machine fails no test.
const PATIENCE: Duration = Duration::from_secs(120);

/// Tool and the Debian package that has it.
const PACKAGES: &[(&str, &str)] = &[
    ("busybox", "busybox-static"),
    ("conmon", "conmon"),
    ("crun", "crun"),
    ("podman", "podman"),
    ("skopeo", "skopeo"),
    ("umoci", "umoci"),
];

fn two_archives_have_one_digest() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (first, second) = (
        Archive::make(dir.path(), "first")?,
        Archive::make(dir.path(), "second")?,
    );
    ensure!(
        first.digest == second.digest,
        "{} and {}",
        first.digest,
        second.digest
    );
    ensure!(
        fs::read(&first.path)? == fs::read(&second.path)?,
        "the archives differ"
    );
    Ok(())
}

fn skopeo_reads_it() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let archive = Archive::make(dir.path(), "pause.tar")?;
    let source = format!("oci-archive:{}", archive.path.display());
    let seen: Value = serde_json::from_slice(&tool("skopeo", &["inspect", &source])?.stdout)?;
    ensure!(seen["Digest"] == archive.digest.as_str(), "{seen}");
    ensure!(seen["Layers"].as_array().map(Vec::len) == Some(1), "{seen}");
    ensure!(
        seen["Labels"]["org.opencontainers.image.title"] == "pause",
        "{seen}"
    );
    let config: Value =
        serde_json::from_slice(&tool("skopeo", &["inspect", "--config", &source])?.stdout)?;
    ensure!(
        config["config"]["Entrypoint"] == serde_json::json!(["/pause"]),
        "{config}"
    );
    ensure!(config["config"]["User"] == "65535:65535", "{config}");
    Ok(())
}

fn umoci_unpacks_it() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let archive = Archive::make(dir.path(), "pause.tar")?;
    let (layout, bundle) = (dir.path().join("layout"), dir.path().join("bundle"));
    fs::create_dir(&layout)?;
    tool("tar", &["-xf", text(&archive.path)?, "-C", text(&layout)?])?;
    tool(
        "umoci",
        &[
            "unpack",
            "--image",
            &format!("{}:{}", layout.display(), archive.name),
            text(&bundle)?,
        ],
    )?;
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
    let output = on_a_host_of_its_own(
        PODMAN_POD,
        &[text(dir.path())?, text(&archive.path)?, &archive.name],
    )?;
    let printed = String::from_utf8(output.stdout)?;
    for expected in [
        "client: hello over localhost",
        "pause: NSpid 1",
        "pause: seccomp 2",
        "pause: zombies 0",
        "pause: exit 0",
    ] {
        ensure!(
            printed.lines().any(|line| line == expected),
            "no {expected:?} in:\n{printed}"
        );
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
trap 'podman pod rm --force --all > /dev/null; umount "$dir/root/overlay" 2> /dev/null || true' EXIT
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
        let digest = printed
            .lines()
            .last()
            .filter(|line| line.starts_with("sha256:"))
            .context("no digest")?;
        let name = printed
            .lines()
            .find_map(|line| line.split_once(" bytes, "))
            .context("no name")?
            .1;
        Ok(Self {
            path,
            digest: digest.to_owned(),
            name: name.to_owned(),
        })
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| path.display().to_string())
}

/// A missing tool is a failure that says what to install.
fn require(name: &str) -> Result<()> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    if std::env::split_paths(&paths)
        .chain(system)
        .any(|dir| dir.join(name).exists())
    {
        return Ok(());
    }
    let package = PACKAGES
        .iter()
        .find(|(tool, _)| *tool == name)
        .map_or(name, |(_, package)| package);
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
    ensure!(
        output.status.success(),
        "{command:?}: {}\n{stderr}",
        output.status
    );
    Ok(output)
}

/// Runs a shell script where neither links nor mounts are the host's; all of it ends with the script.
fn on_a_host_of_its_own(script: &str, args: &[&str]) -> Result<Output> {
    let prepare = "if [ -d /sys/fs/cgroup/unified ]; then umount /sys/fs/cgroup/unified; fi\n";
    let script = format!("{prepare}{script}");
    let limit = PATIENCE.as_secs().to_string();
    let mut all = vec![
        "--signal=KILL",
        limit.as_str(),
        "unshare",
        "--net",
        "--mount",
        "sh",
        "-c",
        &script,
        "sh",
    ];
    all.extend(args);
    tool("timeout", &all)
}
