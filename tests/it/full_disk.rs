//! The images' file system fills up (issue 8, EV5): images go by their last use, and the node says when that is not enough.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use rustix::mount::MountFlags;
use serde_json::{Value, json};

use crate::host::{self, private_host};
use crate::life_watch::{OBEDIENT, pod, sh};
use crate::registry_pods::Node;
use crate::run::load;
use crate::serve::{end_everything, wait_until};
use crate::{Test, tests};

pub fn tests() -> Vec<Test> {
    tests![Host: images_go_by_their_last_use_and_pressure_is_told]
}

const IMAGES: &str = "/var/lib/monopod/images";
const BALLAST: &str = "/var/lib/monopod/images/ballast";
/// Unpacking leaves 256 MiB free: it has to be more than that.
const SIZE: &std::ffi::CStr = c"size=400m,mode=700";
const MIB: u64 = 1 << 20;
/// From 25 % on, which is 100 MiB, images go, down to 15 %; pressure is above 35 %.
const OPTIONS: &str = "imageGCHighThresholdPercent: 25\nimageGCLowThresholdPercent: 15\nimageMinimumGCAge: 0s\n\
    evictionHard: {imagefs.available: 65%, nodefs.available: 1Mi}\nevictionPressureTransitionPeriod: 1s\n";

fn used() -> Result<u64> {
    let stat = rustix::fs::statvfs(IMAGES)?;
    Ok((stat.f_blocks - stat.f_bavail) * stat.f_frsize)
}

/// Somebody else fills the file system up to this.
fn fill(to: u64) -> Result<()> {
    let _absent = std::fs::remove_file(BALLAST);
    let file = std::fs::File::create(BALLAST)?;
    let missing = to.checked_sub(used()?).context("there is more already")?;
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, missing).context("fallocate")
}

fn images() -> Result<BTreeSet<String>> {
    let output = host::binary("monopod")?.args(["image", "ls", "-o", "json"]).output()?;
    let list: Value = serde_json::from_slice(&output.stdout)?;
    let names = list.as_array().into_iter().flatten().flat_map(|image| image["names"].as_array().into_iter().flatten());
    let short = |name: &Value| name.as_str()?.rsplit('/').next()?.split(':').next().map(str::to_owned);
    Ok(names.filter_map(short).collect())
}

fn condition(node: &Node) -> Option<String> {
    let line = node.sh("monopod get node n1 -o jsonpath='{.status.conditions[?(@.type==\"DiskPressure\")].status}'");
    line.ok().map(|text| text.trim().to_owned())
}

/// Pod of an image that ends at once, if the image has such a program at all: it is used now, and not in use afterwards.
fn use_once(node: &Node, image: &str) -> Result<()> {
    let container = json!({"name": "c", "image": image, "imagePullPolicy": "Never", "command": ["true"]});
    node.apply(&pod("once", json!({"restartPolicy": "Never", "containers": [container]})).to_string())?;
    let over = || {
        let phase = node.pod("once").ok()?["status"]["phase"].clone();
        (phase == "Succeeded" || phase == "Failed").then_some(())
    };
    wait_until("it is over", over).with_context(|| node.sh("monopod describe pods").unwrap_or_default())?;
    node.sh("monopod delete pod once").map(drop)
}

fn images_go_by_their_last_use_and_pressure_is_told() -> Result<()> {
    private_host(|| {
        std::fs::create_dir_all(IMAGES)?;
        rustix::mount::mount("tmpfs", IMAGES, "tmpfs", MountFlags::empty(), SIZE).context("mount tmpfs")?;
        let result = body();
        end_everything();
        result.with_context(|| std::fs::read_to_string("/run/serve.log").unwrap_or_default())
    })
}

fn body() -> Result<()> {
    // In the order of their last use, but for nginx, which a pod uses afterwards; busybox is in use.
    for name in ["busybox", "redis", "nginx"] {
        load(&[name])?;
    }
    let all = used()?;
    println!("measured: busybox, redis and nginx take {} MiB", all / MIB);
    ensure!(all < 90 * MIB, "the images are larger than this test thinks: {} MiB", all / MIB);
    let node = Node::configured(OPTIONS)?;
    // Critical: it is not evicted, and its image stays.
    let keeper = json!({"priorityClassName": "system-node-critical", "containers": [sh("c", OBEDIENT)]});
    node.apply(&pod("keeper", keeper.clone()).to_string())?;
    node.ready("keeper")?;
    use_once(&node, "nginx")?;
    ensure!(images()?.len() == 3 && condition(&node).as_deref() == Some("False"), "{:?}", images()?);

    // Above the high mark by so much that redis alone suffices.
    fill(101 * MIB)?;
    ensure!(Path::new(BALLAST).exists(), "the ballast is there");
    node.sh("monopod delete pod keeper")?;
    node.apply(&pod("keeper", keeper).to_string())?;
    node.ready("keeper")?;
    wait_until("redis is gone", || (!images().ok()?.contains("redis")).then_some(()))?;
    let left = images()?;
    println!("measured: {left:?} are left, {} MiB in use", used()? / MIB);
    ensure!(left.contains("busybox"), "an image in use went: {left:?}");
    ensure!(condition(&node).as_deref() == Some("False"), "that was enough");

    // More than all images together.
    fill(200 * MIB)?;
    use_once(&node, "busybox")?;
    wait_until("pressure", || condition(&node).filter(|status| status == "True"))?;
    ensure!(images()? == BTreeSet::from(["busybox".to_owned()]), "what is in use stays: {:?}", images()?);
    let events = node.sh("monopod get events -A")?;
    for reason in ["FreeDiskSpaceFailed", "NodeHasDiskPressure"] {
        ensure!(events.contains(reason), "no {reason}:\n{events}");
    }
    node.apply(&pod("late", json!({"containers": [sh("c", OBEDIENT)]})).to_string())?;
    let held = "had untolerated taint {node.kubernetes.io/disk-pressure: }";
    wait_until("it is held back", || node.sh("monopod describe pod late").ok()?.contains(held).then_some(()))
        .with_context(|| node.sh("monopod describe pod late").unwrap_or_default())?;

    // Somebody makes room, and says nothing.
    std::fs::remove_file(BALLAST)?;
    wait_until("no pressure", || condition(&node).filter(|status| status == "False"))?;
    node.ready("late")?;
    let events = node.sh("monopod get events -A")?;
    ensure!(events.contains("NodeHasNoDiskPressure"), "{events}");
    node.sh("monopod delete pods --all").map(drop)
}
