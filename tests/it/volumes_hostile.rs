//! Volumes and images with links to the outside (P02-P13). The witness is always a directory of the host that must stay as
//! it was. Those who exchange links meanwhile are in `volumes_races`.

use std::os::fd::AsFd as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use rustix::fs::{Mode, OFlags};
use rustix::io::FdFlags;
use rustix::mount::UnmountFlags;
use serde_json::{Value, json};

use crate::life_watch::{Line, Shared, Watch, pod, sh, with};
use crate::run::with_images;
use crate::volumes_canary::{Canary, mounts_of_the_host};
use crate::{Test, host, tests};

pub fn tests() -> Vec<Test> {
    tests![Host: p02_no_descriptor_of_the_host_is_inherited_or_entered, p04_p08_images_whose_kernel_directories_are_links_are_refused,
        p10_links_of_a_host_path_are_the_administrator_s_alone, p11_a_deletion_enters_no_mount,
        p11_claims_and_host_paths_outlive_their_pods, p12_nothing_is_written_through_a_planted_link,
        p12_a_termination_message_path_through_links_stays_inside, p13_links_of_an_image_volume_stay_inside]
}

/// P02, D9, D10: descriptors of whoever starts monopod, and the working directory as a way to them. Fails without
/// `close_range` before the exec, or without the look at where the working directory really is.
fn p02_no_descriptor_of_the_host_is_inherited_or_entered() -> Result<()> {
    with_images(&["busybox"], || {
        let canary = Canary::new()?;
        let open = || rustix::fs::open(canary.path(), OFlags::DIRECTORY, Mode::empty());
        let leaked = [open()?, open()?, open()?];
        for descriptor in &leaked {
            rustix::io::fcntl_setfd(descriptor.as_fd(), FdFlags::empty())?;
        }
        let list =
            sh("list", "for fd in /proc/self/fd/*; do readlink $fd; done; cat /proc/self/fd/*/b/who; echo listed");
        let inside = |number: usize| {
            let own = json!({"workingDir": format!("/proc/self/fd/{number}")});
            with(sh(&format!("w{number}"), "echo entered; cat b/who"), own)
        };
        let mut containers = vec![list];
        containers.extend((0..=30).map(inside));
        let file =
            crate::run::written(&pod("fds", json!({"restartPolicy": "Never", "containers": containers})).to_string())?;
        let output =
            host::binary("monopod")?.args(["run", "--log-prefix=none", "--for=3s"]).arg(file.path()).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(text.contains("listed"), "{text}");
        for bad in ["entered", "outside", &canary.text()] {
            ensure!(!text.contains(bad), "{bad}:\n{text}");
        }
        canary.sings()
    })
}

/// An image from a directory, under a name of its own.
fn load(name: &str, root: &Path) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = |name: &str| dir.path().join(name).display().to_string();
    host::run("tar", &["-C", &root.display().to_string(), "--owner=0", "--group=0", "-cf", &path("layer.tar"), "."])?;
    let sum = host::run("sha256sum", &[&path("layer.tar")])?;
    let digest = sum.split(' ').next().context("sum")?;
    let architecture = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let config = json!({"architecture": architecture, "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]}});
    std::fs::write(path("config.json"), config.to_string())?;
    let manifest = json!([{"Config": "config.json", "RepoTags": [format!("{name}:latest")], "Layers": ["layer.tar"]}]);
    std::fs::write(path("manifest.json"), manifest.to_string())?;
    host::run("tar", &["-C", &path(""), "-cf", &path("image.tar"), "manifest.json", "config.json", "layer.tar"])?;
    let output = host::binary("monopod")?.args(["image", "load", &path("image.tar")]).output()?;
    ensure!(output.status.success(), "load {name}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A root with nothing but busybox.
fn small_root() -> Result<tempfile::TempDir> {
    let root = tempfile::tempdir()?;
    std::fs::create_dir(root.path().join("bin"))?;
    let program = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    std::fs::copy(program.context("busybox-static")?, root.path().join("bin/busybox"))?;
    symlink("busybox", root.path().join("bin/sh"))?;
    Ok(root)
}

/// What a run of this pod wrote to both streams.
fn run_of(spec: Value, limit: &str) -> Result<(String, String)> {
    let file = crate::run::written(&pod("one", spec).to_string())?;
    let arguments = ["run", "--log-prefix=none", "--for", limit];
    let output = host::binary("monopod")?.args(arguments).arg(file.path()).output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((text(&output.stdout), text(&output.stderr)))
}

/// P04, P08, D4: an image whose `/proc`, `/sys` or `/dev` is a link. Fails when the kernel's file systems are mounted by path.
fn p04_p08_images_whose_kernel_directories_are_links_are_refused() -> Result<()> {
    with_images(&[], || {
        let canary = Canary::new()?;
        for name in ["proc", "sys", "dev"] {
            for (number, target) in [canary.text().as_str(), "bin", "../../../../../../../tmp"].into_iter().enumerate()
            {
                let root = small_root()?;
                symlink(target, root.path().join(name))?;
                let image = format!("hostile-{name}-{number}");
                load(&image, root.path())?;
                let container = with(sh("c", "echo started"), json!({"image": image}));
                let (out, error) = run_of(json!({"restartPolicy": "Never", "containers": [container]}), "1s")?;
                ensure!(!out.contains("started"), "{name} -> {target} was taken");
                ensure!(error.contains("is or goes through a symbolic link"), "{name} -> {target}: {error}");
            }
        }
        canary.sings()
    })
}

/// P13, VO36: an image volume with links to the outside, whole and through `subPath`. Fails when the image's directory is
/// reached by a path of the host, or when a missing `subPath` is made in it.
fn p13_links_of_an_image_volume_stay_inside() -> Result<()> {
    with_images(&["busybox"], || {
        let canary = Canary::new()?;
        let root = tempfile::tempdir()?;
        std::fs::create_dir_all(root.path().join("data/b"))?;
        std::fs::write(root.path().join("data/b/who"), "inside\n")?;
        symlink(canary.path(), root.path().join("absolute"))?;
        symlink(format!("../../../../../../../../../..{}", canary.text()), root.path().join("up"))?;
        symlink("data", root.path().join("good"))?;
        load("hostile", root.path())?;
        let spec = |path: &str| {
            let mount = json!({"name": "v", "mountPath": "/s", "subPath": path});
            let container = with(sh("c", "echo started; cat /s/who"), json!({"volumeMounts": [mount]}));
            let volume = json!({"name": "v", "image": {"reference": "hostile", "pullPolicy": "Never"}});
            json!({"restartPolicy": "Never", "containers": [container], "volumes": [volume]})
        };
        for path in ["absolute", "up", "absolute/b", "up/b", "none", "data/none"] {
            let (out, error) = run_of(spec(path), "1s")?;
            ensure!(out.is_empty(), "{path}: {out}");
            ensure!(error.contains("failed to prepare subPath"), "{path}: {error}");
        }
        for path in ["data/b", "good/b"] {
            let (out, error) = run_of(spec(path), "10s")?;
            ensure!(out == "started\ninside\n", "{path}: {out}{error}");
        }
        let whole = json!({"restartPolicy": "Never", "volumes": [{"name": "v", "image": {"reference": "hostile", "pullPolicy": "Never"}}],
            "containers": [with(sh("c", "cat /s/absolute/who /s/up/who; ls /s; echo x > /s/data/new"),
                json!({"volumeMounts": [{"name": "v", "mountPath": "/s"}]}))]});
        let (out, _) = run_of(whole, "10s")?;
        ensure!(!out.contains("outside") && !out.contains("none"), "{out}");
        canary.sings()
    })
}

/// VO17, P10: a link in the path of a hostPath is the administrator's and is followed; one below it is a container's.
fn p10_links_of_a_host_path_are_the_administrator_s_alone() -> Result<()> {
    with_images(&["busybox"], || {
        let canary = Canary::new()?;
        let host = tempfile::tempdir()?;
        std::fs::create_dir(host.path().join("real"))?;
        std::fs::write(host.path().join("real/who"), "inside\n")?;
        symlink("real", host.path().join("link"))?;
        symlink(canary.path(), host.path().join("real/planted"))?;
        let spec = |mount: Value| {
            let container = with(
                sh("c", "cat /s/who"),
                json!({"volumeMounts": [with(json!({"name": "v", "mountPath": "/s"}), mount)]}),
            );
            let volume = json!({"name": "v", "hostPath": {"path": host.path().join("link"), "type": "Directory"}});
            json!({"restartPolicy": "Never", "containers": [container], "volumes": [volume]})
        };
        let (out, error) = run_of(spec(json!({})), "10s")?;
        ensure!(out == "inside\n", "{out}{error}");
        for path in ["planted", "planted/b", "planted/new"] {
            let (out, error) = run_of(spec(json!({"subPath": path})), "1s")?;
            ensure!(out.is_empty() && error.contains("failed to prepare subPath"), "{path}: {out}{error}");
        }
        canary.sings()
    })
}

/// P12, D7: what a container planted where a file of ours is mounted. Fails when files of ConfigMaps are written below a
/// path that a container can change.
fn p12_nothing_is_written_through_a_planted_link() -> Result<()> {
    with_images(&["busybox"], || {
        let canary = Canary::new()?;
        let text = canary.text();
        let plant = format!(
            "cd /v; ln -s {text} dir; ln -s {text}/who file; mkdir cfg; ln -s {text} cfg/..data; ln -s {text}/who cfg/who"
        );
        let mounts = json!([{"name": "v", "mountPath": "/v"}, {"name": "c", "mountPath": "/v/dir/new"},
            {"name": "c", "mountPath": "/v/file", "subPath": "who"}, {"name": "c", "mountPath": "/v/cfg"}]);
        let look =
            format!("cat /v/cfg/who {text}/new/who {text}/who; (echo x >> /v/cfg/who) 2>/dev/null || echo refused");
        let spec = json!({
            "restartPolicy": "Never",
            "volumes": [{"name": "v", "emptyDir": {}}, {"name": "c", "configMap": {"name": "c"}}],
            "initContainers": [with(sh("plant", &plant), json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}))],
            "containers": [with(sh("look", &look), json!({"volumeMounts": mounts}))],
        });
        let map =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"who": "ours\n"}});
        let list = json!({"apiVersion": "v1", "kind": "List", "items": [map, pod("one", spec)]});
        let file = crate::run::written(&list.to_string())?;
        let output =
            host::binary("monopod")?.args(["run", "--log-prefix=none", "--for=10s"]).arg(file.path()).output()?;
        let seen = String::from_utf8_lossy(&output.stdout);
        ensure!(seen == "ours\nours\nours\nrefused\n", "{seen}{}", String::from_utf8_lossy(&output.stderr));
        canary.sings()
    })
}

/// P12, VO58, D37: the file is made in the container's root and read back from where no container can put a link.
fn p12_a_termination_message_path_through_links_stays_inside() -> Result<()> {
    with_images(&["busybox"], || {
        let canary = Canary::new()?;
        let path = "/v/link/message";
        let plant = with(
            sh("plant", &format!("ln -s {} /v/link", canary.text())),
            json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}),
        );
        let fields = json!({"terminationMessagePath": path, "volumeMounts": [{"name": "v", "mountPath": "/v"}]});
        let script = format!("echo told > {path}; rm -f {path}; ln -sf {}/who {path}; exit 3", canary.text());
        let spec = json!({"restartPolicy": "Never", "volumes": [{"name": "v", "emptyDir": {}}],
            "initContainers": [plant], "containers": [with(sh("c", &script), fields)]});
        let mut watch = Watch::start(&[pod("one", spec)])?;
        let line = watch.until("the end", |line| line.is_terminated("c"))?;
        let ended = &line.container("c").context("container")?["state"]["terminated"];
        ensure!(ended["message"] == "told\n", "{ended}");
        watch.wait()?;
        canary.sings()
    })
}

/// Where the disk volume `v` of a running pod lies.
fn disk_volume(line: &Line) -> Result<PathBuf> {
    let uid = crate::life_watch::uid(line)?;
    Ok(Path::new("/var/lib/monopod/pods").join(uid).join("volumes/kubernetes.io~empty-dir/v"))
}

/// P11, D6: something of the host is mounted inside a pod's directory. Fails without `RESOLVE_NO_XDEV`: the deletion would
/// go through the mount.
fn p11_a_deletion_enters_no_mount() -> Result<()> {
    with_images(&["busybox"], || {
        let canary = Canary::new()?;
        let container = with(
            sh("c", "mkdir -p /v/in/deep; echo made > /v/made; trap 'exit 0' TERM; sleep 1000 & wait"),
            json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}),
        );
        let spec = json!({"terminationGracePeriodSeconds": 1, "containers": [container], "volumes": [{"name": "v", "emptyDir": {}}]});
        let mut watch = Watch::start(&[pod("one", spec)])?;
        let line = watch.until("it runs", |line| line.is_running("c"))?;
        let inside = disk_volume(&line)?.join("in");
        crate::serve::wait_until("the volume is filled", || inside.join("deep").exists().then_some(()))?;
        rustix::mount::mount_bind(canary.path(), &inside)?;
        rustix::mount::mount_change(&inside, rustix::mount::MountPropagationFlags::PRIVATE)?;
        watch.signal(rustix::process::Signal::TERM)?;
        watch.until("the container ends", |line| line.is_terminated("c"))?;
        // However long it tries: what is mounted stays, and once it is away the rest goes.
        std::thread::sleep(std::time::Duration::from_millis(300));
        canary.sings()?;
        let mount = mounted_below("/var/lib/monopod")?.context("the mount is gone")?;
        rustix::mount::unmount(&mount, UnmountFlags::DETACH)?;
        watch.wait()?;
        canary.sings()?;
        // A run that could not remove it leaves it for the next to sweep.
        let _next = run_of(json!({"restartPolicy": "Never", "containers": [sh("c", "true")]}), "10s")?;
        for dir in ["pods", "trash"] {
            let left = std::fs::read_dir(Path::new("/var/lib/monopod").join(dir)).into_iter().flatten().count();
            ensure!(left == 0, "{left} left in {dir}");
        }
        Ok(())
    })
}

/// The first mount point strictly below a directory.
fn mounted_below(dir: &str) -> Result<Option<PathBuf>> {
    let mounts = mounts_of_the_host()?;
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    Ok(points.filter(|point| point.starts_with(&format!("{dir}/"))).map(PathBuf::from).next())
}

/// P11, VO17, VO35: what a pod had of the host and of a claim stays when the pod and its directory go, links among it too.
fn p11_claims_and_host_paths_outlive_their_pods() -> Result<()> {
    with_images(&["busybox"], || {
        let canary = Canary::new()?;
        let shared = Shared::new()?;
        std::fs::write(shared.path("kept"), "host\n")?;
        let script = format!(
            "for v in /v /claim /shared; do ln -s {0} $v/link; ln -s {0}/who $v/file; mkdir -p $v/d; echo x > $v/d/kept; done; \
             mkdir -p /v/into /v/of; echo done",
            canary.text()
        );
        let mounts = json!([{"name": "v", "mountPath": "/v"}, {"name": "shared", "mountPath": "/shared"}, {"name": "claim", "mountPath": "/claim"},
            {"name": "shared", "mountPath": "/v/into"}, {"name": "claim", "mountPath": "/v/of"}]);
        let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "keep"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}});
        let spec = json!({"restartPolicy": "Never", "containers": [with(sh("c", &script), json!({"volumeMounts": mounts}))],
            "volumes": [{"name": "v", "emptyDir": {}}, shared.volume(), {"name": "claim", "persistentVolumeClaim": {"claimName": "keep"}}]});
        let mut watch = Watch::start(&[claim, pod("one", spec)])?;
        watch.wait()?;
        canary.sings()?;
        ensure!(shared.read("kept")? == "host\n" && shared.read("d/kept")? == "x\n", "the host's files are gone");
        let claims: Vec<PathBuf> =
            std::fs::read_dir("/var/lib/monopod/claims")?.flatten().map(|entry| entry.path()).collect();
        let [claim] = claims.as_slice() else { anyhow::bail!("{claims:?}") };
        ensure!(std::fs::read_to_string(claim.join("d/kept"))? == "x\n", "the claim's data is gone");
        for dir in ["pods", "trash"] {
            let left = std::fs::read_dir(Path::new("/var/lib/monopod").join(dir)).into_iter().flatten().count();
            ensure!(left == 0, "{left} left in {dir}");
        }
        Ok(())
    })
}
