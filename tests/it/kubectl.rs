//! Every kubectl that is installed, against `monopod serve`: `tests/transcripts/kubectl.txt` command by command.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::serve::{Daemon, wait_until, with_busybox};
use crate::transcript::Step;
use crate::{Test, host, tests, transcript};

pub fn tests() -> Vec<Test> {
    tests![Host: every_kubectl_prints_what_a_cluster_would, transcripts_are_matched_line_by_line]
}

/// Set to run every client.
const ALL: &str = "MONOPOD_EVERY_KUBECTL";

/// Where the daemon puts certificates and kubeconfig.
const ACCESS: &str = "/run/access";

/// What the transcript's commands read.
const FILES: &[(&str, &str)] = &[
    ("cm.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata:\n  colour: blue\n"),
    ("ssa.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: ssa}\ndata: {k: one}\n"),
    (
        "chatty.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: chatty}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  \
         - name: talk\n    image: busybox\n    command: [sh, -c, 'for i in 1 2 3; do echo line $i; done; sleep 1000']\n  \
         - name: serve\n    image: busybox\n    command: [sh, -c, 'mkdir /w; echo from the pod > /w/hello; echo ready; exec httpd -f -p 8080 -h /w']\n    \
         readinessProbe: {httpGet: {port: 8080, path: /hello}, periodSeconds: 1}\n",
    ),
    (
        "web.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web, labels: {app: web}}\nspec:\n  terminationGracePeriodSeconds: 1\n  \
         containers:\n  - name: c\n    image: busybox\n    ports: [{containerPort: 8080}]\n    \
         command: [sh, -c, 'mkdir /w; echo hi > /w/index.html; exec httpd -f -p 8080 -h /w']\n    \
         readinessProbe: {httpGet: {port: 8080}, periodSeconds: 1}\n",
    ),
    (
        "bad-field.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: bad}\nspec:\n  containers:\n  - name: c\n    image: busybox\n    \
         imagePullPolice: Always\n",
    ),
    (
        "bad-type.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: bad}\nspec:\n  containers:\n  - name: c\n    image: busybox\n    \
         ports: [{containerPort: eighty}]\n",
    ),
    (
        "bad-value.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: bad}\nspec:\n  restartPolicy: Sometimes\n  containers:\n  \
         - {name: c, image: busybox}\n",
    ),
];

fn transcripts_are_matched_line_by_line() -> Result<()> {
    transcript::check()
}

fn every_kubectl_prints_what_a_cluster_would() -> Result<()> {
    let clients = clients();
    ensure!(
        !clients.is_empty(),
        "no kubectl is installed (Debian: kubernetes-client, which `cargo xtask test` installs)"
    );
    let steps = transcript::parse(include_str!("../transcripts/kubectl.txt"));
    // The oldest and the newest speak differently (SPDY, protobuf); those between them are for the patient.
    let numbered = |path: &&PathBuf| path.extension().is_some();
    let ends = [clients.iter().find(numbered).or(clients.first()), clients.iter().rfind(numbered)];
    let ends: BTreeSet<&PathBuf> = ends.into_iter().flatten().collect();
    let chosen: Vec<&PathBuf> =
        if std::env::var_os(ALL).is_some() { clients.iter().collect() } else { ends.into_iter().collect() };
    for client in chosen {
        let minor = minor_of(client)?;
        let known: Vec<&Step> = steps.iter().filter(|step| step.since <= minor).collect();
        let left_out = steps.len() - known.len();
        let why = if left_out == 0 { String::new() } else { format!("; {left_out} need a newer one") };
        println!("{}: kubectl 1.{minor}: {} commands{why}", client.display(), known.len());
        with(client, &known).with_context(|| client.display().to_string())?;
    }
    Ok(())
}

/// What a client says of itself: `20` of 1.20.
fn minor_of(client: &Path) -> Result<u32> {
    let text = host::run(&client.to_string_lossy(), &["version", "--client", "--output=json"])?;
    let version: serde_json::Value = serde_json::from_str(&text).with_context(|| format!("parse {text}"))?;
    let minor = version["clientVersion"]["minor"].as_str().context("clientVersion.minor")?;
    minor.trim_end_matches('+').parse().with_context(|| format!("parse minor version {minor:?}"))
}

fn with(client: &Path, steps: &[&Step]) -> Result<()> {
    with_busybox(|| {
        let _daemon = Daemon::configured(&format!("nodeName: node1\napi: {{dir: {ACCESS}}}\n"))?;
        let kubeconfig = Path::new(ACCESS).join("kubeconfig");
        wait_until("a kubeconfig", || kubeconfig.exists().then_some(()))?;
        let dir = tempfile::tempdir()?;
        std::os::unix::fs::symlink(client, dir.path().join("kubectl"))?;
        for (name, text) in FILES {
            std::fs::write(dir.path().join(name), text)?;
        }
        let path = std::env::var("PATH").unwrap_or_default();
        let path = format!("{}:{path}", dir.path().display());
        transcript::run(steps.iter().copied(), dir.path(), |command| {
            command.env("PATH", &path).env("KUBECONFIG", &kubeconfig).env("HOME", dir.path());
        })
    })
}

/// `kubectl` and `kubectl.1.NN` in the search path, and beside where the first one really lies.
fn clients() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let real: Vec<PathBuf> = dirs
        .iter()
        .filter_map(|dir| dir.join("kubectl").canonicalize().ok()?.parent().map(Path::to_path_buf))
        .collect();
    dirs.extend(real);
    let entries = dirs.iter().filter_map(|dir| std::fs::read_dir(dir).ok()).flatten().flatten();
    let named = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name == "kubectl" || name.strip_prefix("kubectl.1.").is_some_and(|minor| minor.parse::<u32>().is_ok())
    };
    let found: BTreeSet<PathBuf> =
        entries.map(|entry| entry.path()).filter(named).filter_map(|path| path.canonicalize().ok()).collect();
    found.into_iter().collect()
}
