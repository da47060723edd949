//! Project quota (VO13): where the file system has it, a volume is full at its limit and nobody has to count.

use anyhow::{Result, ensure};

use crate::vm_package::{MANIFESTS, Terminal, installed};
use crate::{Test, tests};

pub fn tests() -> Vec<Test> {
    tests![Systemd: a_volume_with_a_project_quota_is_full_at_its_limit]
}

const IMAGE: &str = "/root/quota.img";
const PODS: &str = "/var/lib/monopod/pods";
/// Writes four times as much as there may be, and says how that ended.
const POD: &str = "apiVersion: v1
kind: Pod
metadata: {name: quota}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: app
    image: busybox
    imagePullPolicy: Never
    command: [sh, -c, 'dd if=/dev/zero of=/v/file bs=64k count=64 2>&1; du -k /v/file; echo end; exec sleep 1000']
    volumeMounts: [{name: v, mountPath: /v}]
  volumes:
  - {name: v, emptyDir: {sizeLimit: 1Mi}}
";

fn a_volume_with_a_project_quota_is_full_at_its_limit() -> Result<()> {
    installed(|terminal| {
        terminal.run("monopod image load /images/busybox.tar; systemctl stop monopod")?;
        terminal.run(&format!(
            "truncate -s 64M {IMAGE} && mkfs.ext4 -q -O quota,project -E quotatype=prjquota {IMAGE} && mkdir -p {PODS} && \
             mount -o loop,prjquota {IMAGE} {PODS}"
        ))?;
        let done = on_quota(terminal);
        terminal.run("systemctl stop monopod")?;
        terminal.run(&format!("umount {PODS}; rm {IMAGE}; systemctl start monopod"))?;
        done
    })
}

fn on_quota(terminal: &mut Terminal) -> Result<()> {
    terminal.run("systemctl start monopod")?;
    std::fs::write("/root/quota.yaml", POD)?;
    std::fs::rename("/root/quota.yaml", format!("{MANIFESTS}/quota.yaml"))?;
    let log = "cat /var/log/pods/default_quota-testnode_*/app/0.log";
    terminal.quietly_until(log, "F end\n")?;
    let seen = terminal.run(log)?;
    ensure!(seen.contains("uota exceeded"), "no quota stopped it:\n{seen}");
    let size =
        seen.lines().find_map(|line| line.strip_suffix("/v/file")?.split_whitespace().last()?.parse::<u64>().ok());
    ensure!(size.is_some_and(|kib| (900..=1024).contains(&kib)), "{size:?} KiB of 1024:\n{seen}");
    std::fs::remove_file(format!("{MANIFESTS}/quota.yaml"))?;
    terminal.quietly_until("ls /var/log/pods | grep -c quota || true", "0\n")?;
    terminal.quietly_until(&format!("ls {PODS} | grep -vc lost+found || true"), "0\n")
}
