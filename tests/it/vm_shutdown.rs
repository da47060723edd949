//! A shutdown of the machine lets pods finish what they do, ordinary ones before critical ones (TR13). Both halves belong to
//! `vm_package`, whose machine reboots.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::vm_package::{MANIFESTS, Terminal};

/// Where the pods tell what became of them.
const DIR: &str = "/root/shutdown";
/// The slow one ends two seconds after it was asked; the other one has nothing to do.
const PODS: [(&str, &str, &str); 2] = [
    ("slow", "sleep 2; echo slow is done >> /out/order", ""),
    ("last", "true", "  priorityClassName: system-node-critical\n"),
];

fn manifest(name: &str, last: &str, more: &str) -> String {
    let script = format!(
        "trap 'echo {name} is asked >> /out/order; {last}; exit 0' TERM; echo up >> /out/up; while :; do sleep 1 & wait $!; done"
    );
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 10\n{more}  \
         containers:\n  - name: app\n    image: busybox\n    imagePullPolicy: Never\n    command: [sh, -c, {script:?}]\n    \
         volumeMounts: [{{name: out, mountPath: /out}}]\n  volumes: [{{name: out, hostPath: {{path: {DIR}}}}}]\n"
    )
}

/// Before the reboot.
pub fn prepare(terminal: &Terminal) -> Result<()> {
    std::fs::create_dir_all(DIR)?;
    for (name, last, more) in PODS {
        let hidden = format!("{MANIFESTS}/.{name}.yaml");
        std::fs::write(&hidden, manifest(name, last, more))?;
        std::fs::rename(hidden, format!("{MANIFESTS}/{name}.yaml"))?;
    }
    terminal.quietly_until(&format!("cat {DIR}/up"), "up\nup\n")?;
    ensure!(!Path::new(DIR).join("order").exists(), "somebody was asked to end");
    Ok(())
}

/// After it.
pub fn check(terminal: &Terminal) -> Result<()> {
    let order = std::fs::read_to_string(format!("{DIR}/order")).context("nobody was asked to end")?;
    ensure!(order == "slow is asked\nslow is done\nlast is asked\n", "before the reboot:\n{order}");
    terminal.quietly_until(&format!("cat {DIR}/up"), "up\nup\nup\nup\n").context("both come back")?;
    for (name, _, _) in PODS {
        std::fs::remove_file(format!("{MANIFESTS}/{name}.yaml"))?;
    }
    terminal.quietly_until("ls /var/log/pods | grep -cE 'slow|last' || true", "0\n")?;
    std::fs::remove_dir_all(DIR).context("remove what the pods told")
}
