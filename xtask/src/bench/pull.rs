//! `cargo xtask bench pull`: an image of eight layers from a registry on loopback, beside the tools that others use.
//!
//! All candidates take turns, so that a busy machine troubles them alike: compare within one run, not between runs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use xshell::{Shell, cmd};

use crate::apt::Apt;
use crate::build::{self, Profile};

const LAYERS: usize = 8;
/// Uncompressed bytes of a layer: about 25 MiB of programs and libraries when compressed.
const LAYER_BYTES: u64 = 72 << 20;
const ADDRESS: &str = "127.0.0.1:5000";
/// How often memory is looked at.
const SAMPLE: Duration = Duration::from_millis(10);
/// In its own network and mount namespaces, with the directory of the binaries.
const INSIDE: &str = "MONOPOD_BENCH_INSIDE";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How often each candidate pulls
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Which build of ours; `release` is what is shipped
    #[arg(long, default_value = "release")]
    profile: String,
    /// Only make the image, so that the next call measures and nothing else
    #[arg(long)]
    prepare: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(args.rounds > 0, "--rounds must be at least 1");
    if let Some(bin) = std::env::var_os(INSIDE) {
        return measure(args, Path::new(&bin));
    }
    ensure!(rustix::process::geteuid().is_root(), "must be root: images are unpacked with their owners");
    let shell = build::shell()?;
    let profile = if args.profile == "ci" { Profile::Ci } else { Profile::Release };
    let bin = build::binaries(&shell, profile)?;
    let registry = build::root().join("target/docker-registry");
    Apt::open(&shell)?.extract("docker-registry", &registry)?;
    let own = std::env::current_exe()?;
    let (rounds, profile) = (args.rounds.to_string(), &args.profile);
    let prepare = args.prepare.then_some("--prepare");
    let inside =
        cmd!(shell, "unshare --net --mount {own} bench pull --rounds {rounds} --profile {profile} {prepare...}");
    inside.env(INSIDE, bin).quiet().run()?;
    Ok(())
}

/// A candidate: a name and what it runs for an image into an empty directory.
type Candidate = (&'static str, fn(&Path, &Path) -> String);

const CANDIDATES: [Candidate; 3] = [
    ("monopod", |bin, into| {
        format!("{}/monopod image --root {}/images pull {ADDRESS}/bench", bin.display(), into.display())
    }),
    ("skopeo + umoci", |_, into| {
        let into = into.display();
        format!(
            "skopeo --insecure-policy copy --quiet --src-tls-verify=false docker://{ADDRESS}/bench oci:{into}/oci:x && \
             umoci unpack --image {into}/oci:x {into}/bundle"
        )
    }),
    ("podman", |_, into| {
        let into = into.display();
        format!(
            "podman --root {into}/root --runroot {into}/run --storage-driver overlay pull --quiet --tls-verify=false {ADDRESS}/bench"
        )
    }),
];

fn measure(args: &Args, bin: &Path) -> Result<()> {
    let shell = build::shell()?;
    cmd!(shell, "ip link set lo up").quiet().run()?;
    let work = build::root().join("target/bench-pull");
    let registry = prepare(&shell, &work)?;
    if args.prepare {
        return Ok(());
    }
    println!(
        "{LAYERS} layers, {} MiB compressed, {} build, {} rounds",
        registry.bytes >> 20,
        args.profile,
        args.rounds
    );
    let mut figures: BTreeMap<&str, Vec<Figure>> = BTreeMap::new();
    let into = work.join("into");
    for _ in 0..args.rounds {
        for (name, command) in CANDIDATES {
            shell.remove_path(&into)?;
            shell.create_dir(&into)?;
            figures.entry(name).or_default().push(pull(&command(bin, &into))?);
            shell.remove_path(&into)?;
            // What the last one wrote is not the next one's burden.
            rustix::fs::sync();
        }
    }
    print(figures);
    Ok(())
}

fn print(figures: BTreeMap<&str, Vec<Figure>>) {
    println!("{:16} {:>10} {:>10} {:>14} {:>14}", "", "median s", "least s", "peak RSS MiB", "peak PSS MiB");
    let mib = |bytes: u64| bytes as f64 / 1_048_576.0;
    for (name, figures) in figures {
        let seconds: Vec<f64> = figures.iter().map(|figure| figure.seconds).collect();
        let least = seconds.iter().copied().fold(f64::INFINITY, f64::min);
        let peak =
            |of: fn(&Memory) -> u64| mib(figures.iter().map(|figure| of(&figure.peak)).max().unwrap_or_default());
        println!(
            "{name:16} {:10.2} {least:10.2} {:14.1} {:14.1}",
            super::median(&seconds).unwrap_or_default(),
            peak(|memory| memory.resident),
            peak(|memory| memory.proportional),
        );
    }
}

/// Bytes of a process and all its descendants together.
#[derive(Debug, Clone, Copy, Default)]
struct Memory {
    /// Pages that they share count for each.
    resident: u64,
    /// Each page counts once, also for those who have it of the same file.
    proportional: u64,
}

/// One pull.
struct Figure {
    seconds: f64,
    peak: Memory,
}

/// The registry with its image, made once: it takes longer than everything that is measured.
fn prepare(shell: &Shell, work: &Path) -> Result<Registry> {
    let stamp = work.join("bytes");
    let recipe = format!("{LAYERS} layers of {LAYER_BYTES}");
    let made = fs::read_to_string(&stamp).ok().and_then(|text| {
        let (bytes, old) = text.split_once(' ')?;
        (old == recipe).then(|| bytes.parse::<u64>().ok())?
    });
    if let Some(bytes) = made {
        let mut registry = start_registry(work)?;
        registry.bytes = bytes;
        return Ok(registry);
    }
    shell.remove_path(work)?;
    shell.create_dir(work)?;
    let mut registry = start_registry(work)?;
    registry.bytes = push_image(shell, work)?;
    fs::write(stamp, format!("{} {recipe}", registry.bytes))?;
    Ok(registry)
}

/// Time and memory of a command.
fn pull(command: &str) -> Result<Figure> {
    let started = Instant::now();
    let mut child = Command::new("sh").args(["-c", command]).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let mut peak = Memory::default();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        let now = memory(child.id())?;
        peak.resident = peak.resident.max(now.resident);
        peak.proportional = peak.proportional.max(now.proportional);
        std::thread::park_timeout(SAMPLE);
    };
    ensure!(status.success(), "{command}: {status}");
    Ok(Figure { seconds: started.elapsed().as_secs_f64(), peak })
}

fn memory(root: u32) -> Result<Memory> {
    let mut parents = BTreeMap::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // Processes end at any time.
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)?.parse::<u32>().ok());
        parents.extend(parent.map(|parent| (pid, parent)));
    }
    let is_ours = |pid: u32| {
        let line = std::iter::successors(Some(pid), |pid| parents.get(pid).copied());
        line.take(16).any(|pid| pid == root)
    };
    let mut sum = Memory::default();
    for pid in parents.keys().copied().filter(|pid| is_ours(*pid)) {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let bytes = |name: &str| {
            let line = rollup.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
            kib.unwrap_or_default() << 10
        };
        sum.resident += bytes("Rss:");
        sum.proportional += bytes("Pss:");
    }
    Ok(sum)
}

struct Registry {
    child: Child,
    /// Of the image, compressed.
    bytes: u64,
}

impl Drop for Registry {
    fn drop(&mut self) {
        // Fails when it has ended already.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn start_registry(work: &Path) -> Result<Registry> {
    let config = work.join("registry.yml");
    let storage = work.join("registry");
    let text = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{ADDRESS}\"}}\n",
        storage.display()
    );
    fs::write(&config, text)?;
    let program = build::root().join("target/docker-registry/usr/bin/docker-registry");
    let child = Command::new(&program).arg("serve").arg(config).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let child = child.with_context(|| format!("start {}", program.display()))?;
    let registry = Registry { child, bytes: 0 };
    let started = Instant::now();
    while std::net::TcpStream::connect(ADDRESS).is_err() {
        ensure!(started.elapsed() < Duration::from_secs(10), "the registry does not answer");
        std::thread::park_timeout(SAMPLE);
    }
    Ok(registry)
}

/// Programs and libraries of this machine as eight layers; the compressed bytes.
fn push_image(shell: &Shell, work: &Path) -> Result<u64> {
    let layout = work.join("layout");
    let blobs = layout.join("blobs/sha256");
    shell.create_dir(&blobs)?;
    let add = |path: &Path, media_type: &str| -> Result<serde_json::Value> {
        let digest = sha256(shell, path)?;
        let size = fs::metadata(path)?.len();
        fs::rename(path, blobs.join(&digest))?;
        Ok(json!({ "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": size }))
    };
    let (mut layers, mut diff_ids) = (Vec::new(), Vec::new());
    for (number, files) in slices()?.iter().enumerate() {
        let list = work.join("list");
        fs::write(&list, files.iter().map(|path| format!("{}\n", path.display())).collect::<String>())?;
        let plain = work.join(format!("{number}.tar"));
        let transform = format!("--transform=s,^,layer{number}/,");
        cmd!(shell, "tar --create --file={plain} {transform} --files-from={list}").quiet().ignore_stderr().run()?;
        diff_ids.push(format!("sha256:{}", sha256(shell, &plain)?));
        cmd!(shell, "gzip -6 {plain}").quiet().run()?;
        layers.push(add(&plain.with_extension("tar.gz"), "application/vnd.oci.image.layer.v1.tar+gzip")?);
    }
    let arch = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let document = work.join("document");
    let config = json!({ "architecture": arch, "os": "linux", "rootfs": { "type": "layers", "diff_ids": diff_ids } });
    fs::write(&document, config.to_string())?;
    let config = add(&document, "application/vnd.oci.image.config.v1+json")?;
    let bytes = layers.iter().filter_map(|layer| layer["size"].as_u64()).sum();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": layers,
    });
    fs::write(&document, manifest.to_string())?;
    let mut manifest = add(&document, "application/vnd.oci.image.manifest.v1+json")?;
    manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": "x" });
    fs::write(layout.join("index.json"), json!({ "schemaVersion": 2, "manifests": [manifest] }).to_string())?;
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let (from, to) = (format!("oci:{}:x", layout.display()), format!("docker://{ADDRESS}/bench"));
    cmd!(shell, "skopeo --insecure-policy copy --quiet --dest-tls-verify=false {from} {to}").quiet().run()?;
    shell.remove_path(layout)?;
    Ok(bytes)
}

/// Files of `/usr`, in order, as many as make a layer.
fn slices() -> Result<Vec<Vec<PathBuf>>> {
    let mut all = vec![Vec::new()];
    let mut bytes = 0;
    let mut left = vec![PathBuf::from("/usr/bin"), "/usr/lib".into(), "/usr/share".into()];
    left.reverse();
    while let Some(path) = left.pop() {
        let meta = fs::symlink_metadata(&path)?;
        if meta.is_dir() {
            let mut inner: Vec<PathBuf> = fs::read_dir(&path)?.flatten().map(|entry| entry.path()).collect();
            inner.sort();
            left.extend(inner.into_iter().rev());
        } else if meta.is_file() && meta.len() < LAYER_BYTES / 2 {
            bytes += meta.len();
            all.last_mut().context("a layer")?.push(path);
            if bytes >= LAYER_BYTES {
                if all.len() == LAYERS {
                    return Ok(all);
                }
                bytes = 0;
                all.push(Vec::new());
            }
        }
    }
    ensure!(all.len() == LAYERS, "/usr is too small for {LAYERS} layers");
    Ok(all)
}

fn sha256(shell: &Shell, path: &Path) -> Result<String> {
    let sum = cmd!(shell, "sha256sum {path}").quiet().read()?;
    Ok(sum.split(' ').next().unwrap_or_default().to_owned())
}
