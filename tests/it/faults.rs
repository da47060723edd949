//! The daemon on a disk that is full or read-only: it starts or says why not, and goes on when there is room (F05).

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::serve::{self, CONFIG, Daemon, wait_until, with_busybox};
use crate::torture::client::ask;
use crate::{Test, host, tests};

pub fn tests() -> Vec<Test> {
    tests![Host: a_full_disk_is_told_and_forgotten_when_there_is_room, a_read_only_state_directory_is_refused_by_name]
}

const DATA: &str = "/var/lib/monopod";
const PODS: &str = "/api/v1/namespaces/default/pods";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn start() -> Result<Daemon> {
    let mut daemon = Daemon::configured("nodeName: n1\n")?;
    let answers = wait_until("the API answers", || {
        let answers = ask("GET", PODS, None).is_ok();
        (answers || daemon.has_ended()).then_some(answers)
    })?;
    ensure!(answers, "it ended");
    Ok(daemon)
}

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "x".repeat(10_000)}})
}

fn pod(name: &str) -> Value {
    let container =
        json!({"name": "app", "image": "busybox", "imagePullPolicy": "Never", "command": ["sh", "-c", serve::COUNT]});
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [container]}
    })
}

fn create(path: &str, object: &Value) -> Result<()> {
    let (status, body) = ask("POST", path, Some(object))?;
    ensure!(matches!(status, 201 | 409), "POST {path}: {status} {body}");
    Ok(())
}

/// Takes all that is free.
fn fill() -> Result<PathBuf> {
    use std::io::Write as _;
    let path = Path::new(DATA).join("ballast");
    let mut file = std::fs::File::create(&path)?;
    while file.write_all(&[1; 4096]).is_ok() {}
    Ok(path)
}

fn used() -> Result<u64> {
    let stat = rustix::fs::statvfs(DATA)?;
    Ok((stat.f_blocks - stat.f_bfree) * stat.f_frsize)
}

fn a_full_disk_is_told_and_forgotten_when_there_is_room() -> Result<()> {
    with_busybox(|| {
        let daemon = start()?;
        create(PODS, &pod("by"))?;
        wait_until("the pod writes", || lines("by").ok().filter(|lines| *lines > 3))?;
        let before = serve::main_processes();
        host::run("mount", &["-o", &format!("remount,size={}", used()? + 200_000), DATA])?;
        let ballast = fill()?;
        let refused = |what: &str| {
            let (status, body) = ask("POST", MAPS, Some(&map("big")))?;
            let message = body["message"].as_str().unwrap_or_default().to_owned();
            ensure!(status >= 500 && message.contains("No space left"), "{what}: {status} {body}");
            anyhow::Ok(())
        };
        refused("on a full disk")?;
        ensure!(ask("GET", PODS, None)?.0 == 200, "what can be read is read");
        daemon.kill()?;
        let daemon = start().context("a start on a full disk")?;
        refused("after a start on a full disk")?;
        std::fs::remove_file(ballast)?;
        wait_until("there is room again", || {
            ask("POST", MAPS, Some(&map("big"))).ok().filter(|(status, _)| *status == 201)
        })?;
        ensure!(serve::main_processes() == before, "a container was disturbed");
        ensure!(ask("DELETE", &format!("{PODS}/by"), None)?.0 == 200, "it can be deleted");
        wait_until("the pod is gone", || (ask("GET", &format!("{PODS}/by"), None).ok()?.0 == 404).then_some(()))?;
        daemon.kill()
    })
}

fn a_read_only_state_directory_is_refused_by_name() -> Result<()> {
    with_busybox(|| {
        start()?.kill()?;
        host::run("mount", &["-o", "remount,ro", DATA])?;
        let output = host::binary("monopod")?.args(["serve", "--config", CONFIG]).output()?;
        let text = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success() && text.contains(DATA) && text.contains("Read-only file system"), "{text}");
        host::run("mount", &["-o", "remount,rw", DATA])?;
        start()?.kill()
    })
}

/// Lines that a pod of the API has counted.
fn lines(name: &str) -> Result<usize> {
    let prefix = format!("default_{name}_");
    let dir = serve::names("/var/log/pods").into_iter().find(|dir| dir.starts_with(&prefix)).context("no log")?;
    serve::consecutive(&std::fs::read_to_string(format!("/var/log/pods/{dir}/app/0.log"))?)
}
