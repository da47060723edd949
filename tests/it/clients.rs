//! Programs that speak to the API as they would to a cluster's: the calls of Kubernetes' conformance tests, and the
//! official clients for Python and JavaScript. `cargo xtask test` puts the clients into `target/clients`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::serve::{Daemon, wait_until, with_busybox};
use crate::{Test, ask, tests};

pub fn tests() -> Vec<Test> {
    tests![Host: what_conformance_tests_ask_is_answered, the_python_client_works_as_with_a_cluster,
        the_javascript_client_works_as_with_a_cluster]
}

/// Where the daemon puts certificates and kubeconfig.
const ACCESS: &str = "/run/access";

fn what_conformance_tests_ask_is_answered() -> Result<()> {
    against(|| {
        let mut command = Command::new("python3");
        command.arg(script("conformance.py")).arg(ask::SOCKET);
        command
    })
}

fn the_python_client_works_as_with_a_cluster() -> Result<()> {
    against(|| {
        let mut command = Command::new(installed("python/bin/python3"));
        command.arg(script("client.py")).arg(kubeconfig());
        command
    })
}

fn the_javascript_client_works_as_with_a_cluster() -> Result<()> {
    against(|| {
        // Where Debian's is missing, the set-up has put one beside Python.
        let own = installed("python/bin/node");
        let mut command = Command::new(if own.exists() { own } else { "node".into() });
        command.arg(script("client.mjs")).arg(kubeconfig()).env("NODE_PATH", installed("node/node_modules"));
        command
    })
}

/// Runs a client against a fresh daemon; it prints only what is wrong.
fn against(client: impl FnOnce() -> Command + Send) -> Result<()> {
    with_busybox(|| {
        let _daemon = Daemon::configured(&format!("nodeName: node1\napi: {{dir: {ACCESS}}}\n"))?;
        wait_until("the default service account", || {
            let output = crate::host::binary("monopod").ok()?.args(["get", "serviceaccount", "default"]).output();
            output.ok()?.status.success().then_some(())
        })?;
        let mut command = client();
        let output = command.output().with_context(|| format!("start {command:?} (set up by `cargo xtask test`)"))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        ensure!(output.status.success(), "{}\n{}{}", output.status, text(&output.stdout), text(&output.stderr));
        Ok(())
    })
}

fn kubeconfig() -> PathBuf {
    Path::new(ACCESS).join("kubeconfig")
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(name)
}

/// What the set-up has installed.
fn installed(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/clients").join(path)
}
