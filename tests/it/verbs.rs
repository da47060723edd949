//! monopod's own verbs against `monopod serve`: `tests/transcripts/verbs.txt` command by command.

use std::path::Path;

use anyhow::Result;

use crate::serve::{Daemon, wait_until, with_busybox};
use crate::{Test, host, tests, transcript};

pub fn tests() -> Vec<Test> {
    tests![Host: monopods_own_verbs_print_what_kubectl_prints]
}

/// What the transcript's commands read.
const FILES: &[(&str, &str)] = &[
    (
        "talk.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: talk, labels: {app: talk}}\nspec:\n  terminationGracePeriodSeconds: 1\n  \
         containers:\n  - name: talk\n    image: busybox\n    imagePullPolicy: IfNotPresent\n    env: [{name: A, value: b}]\n    \
         command: [sh, -c, 'echo line 1; echo line 2; exec sleep 1000']\n---\napiVersion: v1\nkind: ConfigMap\n\
         metadata: {name: settings}\ndata: {colour: blue}\n",
    ),
    (
        "bad.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: bad}\nspec:\n  restartPolicy: Sometimes\n  containers:\n  \
         - {name: c, image: busybox}\n",
    ),
];

fn monopods_own_verbs_print_what_kubectl_prints() -> Result<()> {
    let steps = transcript::parse(include_str!("../transcripts/verbs.txt"));
    with_busybox(|| {
        let _daemon = Daemon::configured("nodeName: node1\n")?;
        wait_until("the socket", || Path::new("/run/monopod/monopod.sock").exists().then_some(()))?;
        let dir = tempfile::tempdir()?;
        for (name, text) in FILES {
            std::fs::write(dir.path().join(name), text)?;
        }
        let path = std::env::var("PATH").unwrap_or_default();
        let path = format!("{}:{path}", host::bin_dir()?.display());
        transcript::run(&steps, dir.path(), |command| {
            command.env("PATH", &path);
        })
    })
}
