//! monopod's own verbs against `monopod serve`: `tests/transcripts/verbs.txt` and `verbs-more.txt` command by command.

use anyhow::Result;

use crate::serve::{Daemon, wait_until, with_busybox};
use crate::{Test, host, tests, transcript};

pub fn tests() -> Vec<Test> {
    tests![Host: monopods_own_verbs_print_what_kubectl_prints, the_verbs_that_reach_into_pods_and_the_schema_do_as_kubectl]
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
    ("settings.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {colour: blue}\n"),
    (
        "web.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web, labels: {app: web}}\nspec:\n  terminationGracePeriodSeconds: 1\n  \
         containers:\n  - name: c\n    image: busybox\n    imagePullPolicy: IfNotPresent\n    \
         ports: [{name: http, containerPort: 8080}]\n    \
         command: [sh, -c, 'mkdir /w; echo from the pod > /w/hello; exec httpd -f -p 8080 -h /w']\n    \
         readinessProbe: {httpGet: {port: http, path: /hello}, periodSeconds: 1}\n",
    ),
];

fn monopods_own_verbs_print_what_kubectl_prints() -> Result<()> {
    against_a_node(include_str!("../transcripts/verbs.txt"))
}

/// Issue E: `monopod` carries the same verbs for machines without kubectl.
fn the_verbs_that_reach_into_pods_and_the_schema_do_as_kubectl() -> Result<()> {
    against_a_node(include_str!("../transcripts/verbs-more.txt"))
}

fn against_a_node(text: &str) -> Result<()> {
    let steps = transcript::parse(text);
    with_busybox(|| {
        let _daemon = Daemon::configured("nodeName: node1\n")?;
        wait_until("the default service account", || {
            let output = host::binary("monopod").ok()?.args(["get", "serviceaccount", "default"]).output();
            output.ok()?.status.success().then_some(())
        })?;
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
