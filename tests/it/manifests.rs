//! Founding manifests 08 and 09: what a restricted pod may do, and what a node without devices says.

use std::path::Path;

use anyhow::{Result, ensure};
use rustix::process::Signal;

use crate::run::{manifest, start, with_images};
use crate::serve::{Daemon, wait_until, with_busybox};
use crate::{Test, ask, host, tests};

pub fn tests() -> Vec<Test> {
    tests![Host: a_hardened_pod_has_no_capability_and_a_read_only_root, a_namespace_refuses_what_it_restricts,
        what_the_node_does_not_have_keeps_a_pod_pending]
}

/// Founding manifest 08 by `monopod run`: what the container's own process says of itself.
fn a_hardened_pod_has_no_capability_and_a_read_only_root() -> Result<()> {
    with_images(&["busybox"], || {
        let mut run = start(&["--log-prefix=none"], &manifest("08-restricted-namespace.yaml"))?;
        run.wait_for("read-only\n")?;
        for line in ["CapEff:\t0000000000000000\n", "NoNewPrivs:\t1\n", "Seccomp:\t2\n"] {
            ensure!(run.seen.contains(line), "{line:?} is missing in:\n{}", run.seen);
        }
        run.signal(Signal::INT)?;
        run.signal(Signal::TERM)?;
        run.wait()?;
        Ok(())
    })
}

/// Both streams of a verb, whatever its exit code.
fn said(arguments: &[&str]) -> Result<String> {
    let output = host::binary("monopod")?.args(arguments).output()?;
    Ok([output.stdout, output.stderr].iter().map(|bytes| String::from_utf8_lossy(bytes)).collect())
}

fn with_daemon(body: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    with_busybox(|| {
        let _daemon = Daemon::configured("nodeName: node1\n")?;
        wait_until("the socket", || Path::new(ask::SOCKET).exists().then_some(()))?;
        body()
    })
}

/// Waits until a verb says something.
fn until_said(arguments: &[&str], wanted: &str) -> Result<String> {
    let mut last = String::new();
    let found = wait_until(wanted, || {
        last = said(arguments).unwrap_or_default();
        last.contains(wanted).then(|| last.clone())
    });
    found.map_err(|error| error.context(last))
}

/// Founding manifest 08 by the API: the same pod without its defences is refused, with each reason.
fn a_namespace_refuses_what_it_restricts() -> Result<()> {
    with_daemon(|| {
        let path = manifest("08-restricted-namespace.yaml");
        let text = std::fs::read_to_string(&path)?;
        let applied = said(&["apply", "-f", &path.to_string_lossy()])?;
        ensure!(applied.contains("namespace/production created\npod/hardened created\n"), "{applied}");
        until_said(&["get", "pod", "hardened", "-n", "production", "--no-headers"], "Running")?;
        let careless = tempfile::Builder::new().suffix(".yaml").tempfile()?;
        let lines = text.lines().map(|line| line.replace("name: hardened", "name: careless"));
        let kept = lines
            .filter(|line| !["runAsNonRoot", "seccompProfile", "capabilities"].iter().any(|word| line.contains(word)));
        std::fs::write(careless.path(), kept.collect::<Vec<_>>().join("\n"))?;
        let refused = said(&["apply", "-f", &careless.path().to_string_lossy()])?;
        for reason in [
            "violates PodSecurity \"restricted:",
            "unrestricted capabilities",
            "runAsNonRoot != true",
            "seccompProfile",
        ] {
            ensure!(refused.contains(reason), "{reason:?} is missing in:\n{refused}");
        }
        let gone = said(&["delete", "pod", "hardened", "-n", "production", "--grace-period=1"])?;
        ensure!(gone.contains("deleted"), "{gone}");
        until_said(&["get", "pods", "-n", "production"], "No resources found")?;
        Ok(())
    })
}

/// Founding manifest 09: Pending, with the resources that are missing.
fn what_the_node_does_not_have_keeps_a_pod_pending() -> Result<()> {
    with_daemon(|| {
        said(&["apply", "-f", &manifest("09-extended-resources.yaml").to_string_lossy()])?;
        let described = until_said(&["describe", "pod", "gpu-and-hugepages"], "FailedScheduling")?;
        ensure!(described.contains("1 Insufficient hugepages-2Mi, 1 Insufficient nvidia.com/gpu"), "{described}");
        let shown = said(&["get", "pod", "gpu-and-hugepages", "--no-headers"])?;
        ensure!(shown.split_whitespace().nth(2) == Some("Pending"), "{shown}");
        said(&["delete", "pod", "gpu-and-hugepages"])?;
        until_said(&["get", "pods"], "No resources found")?;
        Ok(())
    })
}
