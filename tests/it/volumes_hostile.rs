//! Volumes against who means harm (P02-P13): containers exchange directories and links while others start beside them,
//! images and volumes hold links to the outside. The witness is always a directory of the host that must stay as it was.
//!
//! Attackers are this program itself, mounted into a container: `renameat2` in a loop is faster than any shell.

use std::os::fd::AsFd as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use rustix::fs::{CWD, Mode, OFlags, RenameFlags};
use rustix::io::FdFlags;
use rustix::mount::UnmountFlags;
use serde_json::{Value, json};

use crate::life_watch::{Line, Shared, Watch, pod, sh, with};
use crate::run::with_images;
use crate::{Test, host, tests};

pub fn tests() -> Vec<Test> {
    tests![Host: p02_no_descriptor_of_the_host_is_inherited_or_entered, p04_p08_images_whose_kernel_directories_are_links_are_refused,
        p05_a_mount_that_is_led_into_proc_is_refused, p06_a_mask_is_never_made_of_a_container_s_null,
        p07_a_terminal_never_leads_through_a_container_s_link, p09_an_exchanged_mount_destination_stays_inside,
        p10_an_exchanged_sub_path_stays_inside, p10_links_of_a_host_path_are_the_administrator_s_alone,
        p11_a_deletion_enters_no_mount, p11_claims_and_host_paths_outlive_their_pods,
        p12_nothing_is_written_through_a_planted_link, p12_a_termination_message_path_through_links_stays_inside,
        p13_links_of_an_image_volume_stay_inside]
}

/// Makes this program an attacker: two paths, separated by a colon.
pub const EXCHANGE: &str = "MONOPOD_EXCHANGE";
/// Raises the number of rounds; the default keeps a run of all tests short.
const ROUNDS: &str = "MONOPOD_RACE_ROUNDS";
/// Containers of one round.
const STARTS: usize = 30;
/// Rounds that one side may win alone before the test says that it tested nothing.
const ROUNDS_MAX: usize = 6;

/// Exchanges the two names until it is killed.
pub fn exchange(paths: &str) -> Result<()> {
    let (one, other) = paths.split_once(':').context("two paths")?;
    loop {
        rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).context("renameat2")?;
    }
}

/// A directory of the host that no container mounts.
struct Canary(tempfile::TempDir);

impl Canary {
    fn new() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        std::fs::create_dir(dir.path().join("b"))?;
        std::fs::write(dir.path().join("b/who"), "outside\n")?;
        std::fs::write(dir.path().join("who"), "outside\n")?;
        Ok(Self(dir))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn sings(&self) -> Result<()> {
        let mut found: Vec<String> = Vec::new();
        for dir in [self.path().to_owned(), self.path().join("b")] {
            let entries = std::fs::read_dir(&dir)?.flatten();
            found.extend(entries.map(|entry| entry.path().display().to_string().replace(&self.text(), "")));
        }
        found.sort();
        ensure!(found == ["/b", "/b/who", "/who"], "the canary changed: {found:?}");
        for name in ["who", "b/who"] {
            let text = std::fs::read_to_string(self.path().join(name))?;
            ensure!(text == "outside\n", "{name} was written: {text:?}");
        }
        Ok(())
    }

    fn text(&self) -> String {
        self.path().display().to_string()
    }
}

/// Which volumes, what stands in them before, what is exchanged, and what others do meanwhile.
struct Race<'a> {
    volumes: Value,
    /// A script with all volumes mounted below `/all`.
    prepare: &'a str,
    /// Below `/all`.
    exchange: (&'a str, &'a str),
    mounts: &'a dyn Fn(usize) -> Value,
    fields: Value,
    /// Prints one line.
    look: &'a str,
}

/// Every container's one line, and how many were refused.
struct Tally {
    lines: Vec<String>,
    refused: usize,
}

impl Race<'_> {
    fn pod(&self) -> Result<Value> {
        let names = self.volumes.as_array().context("volumes")?.iter().map(|volume| volume["name"].clone());
        let names: Vec<Value> = names.collect();
        let all: Vec<Value> = names
            .iter()
            .map(|name| json!({"name": name, "mountPath": format!("/all/{}", name.as_str().unwrap_or_default())}))
            .collect();
        let program = std::env::current_exe()?;
        let mut for_attacker = all.clone();
        for (name, path) in [("lib", "/lib"), ("lib64", "/lib64"), ("program", "/attacker")] {
            for_attacker.push(json!({"name": name, "mountPath": path, "readOnly": true}));
        }
        let mut volumes = self.volumes.as_array().cloned().unwrap_or_default();
        for (name, path) in [("lib", Path::new("/lib")), ("lib64", Path::new("/lib64")), ("program", &program)] {
            volumes.push(json!({"name": name, "hostPath": {"path": path}}));
        }
        let prepare = with(sh("prepare", self.prepare), json!({"volumeMounts": all}));
        let attacker = json!({
            "name": "attacker", "image": "busybox", "imagePullPolicy": "Never", "restartPolicy": "Always",
            "command": ["/attacker"], "volumeMounts": for_attacker,
            "env": [{"name": EXCHANGE, "value": format!("/all/{}:/all/{}", self.exchange.0, self.exchange.1)}],
        });
        let app = |number: usize| {
            let mounted = json!({"volumeMounts": (self.mounts)(number)});
            with(with(sh(&format!("c{number}"), self.look), mounted), self.fields.clone())
        };
        let spec = json!({
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "volumes": volumes,
            "initContainers": [prepare, attacker], "containers": (0..STARTS).map(app).collect::<Vec<_>>(),
        });
        Ok(pod("race", spec))
    }

    fn round(&self) -> Result<Tally> {
        let manifest = tempfile::Builder::new().suffix(".json").tempfile()?;
        std::fs::write(manifest.path(), self.pod()?.to_string())?;
        let output = host::binary("monopod")?
            .args(["run", "--log-prefix=none", "--for=4s"])
            .arg(manifest.path())
            .output()
            .context("run")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let lines: Vec<String> = text.lines().map(|line| line.trim_end().to_owned()).collect();
        let refused = STARTS.checked_sub(lines.len());
        let refused = refused.with_context(|| format!("more than a line each: {lines:?}"))?;
        Ok(Tally { lines, refused })
    }

    /// As many rounds as are asked for, and more while `is_enough` does not hold; `check` sees each.
    fn run(&self, is_enough: impl Fn(&Tally) -> bool, check: impl Fn(&Tally) -> Result<()>) -> Result<Tally> {
        let wanted = std::env::var(ROUNDS).ok().and_then(|text| text.parse().ok()).unwrap_or(1);
        let mut all = Tally { lines: Vec::new(), refused: 0 };
        for round in 0..ROUNDS_MAX.max(wanted) {
            if round >= wanted && is_enough(&all) {
                break;
            }
            let mut one = self.round()?;
            check(&one).with_context(|| format!("round {round}"))?;
            all.lines.append(&mut one.lines);
            all.refused += one.refused;
        }
        ensure!(is_enough(&all), "one side won every time: {} started, {} refused", all.lines.len(), all.refused);
        println!("measured: {} starts, {} of them refused", all.lines.len() + all.refused, all.refused);
        Ok(all)
    }
}

/// P10, D6, VO42: another container of the pod exchanges a directory on the way of a `subPath` with a link to the outside.
/// Fails when the path is resolved first and mounted by name then, or without `RESOLVE_BENEATH`.
fn p10_an_exchanged_sub_path_stays_inside() -> Result<()> {
    with_images(&["busybox"], || {
        let host = tempfile::tempdir()?;
        for (kind, volume) in [
            ("disk", json!({"name": "v", "emptyDir": {}})),
            ("memory", json!({"name": "v", "emptyDir": {"medium": "Memory"}})),
            ("host", json!({"name": "v", "hostPath": {"path": host.path()}})),
        ] {
            let canary = Canary::new()?;
            let prepare =
                format!("cd /all/v; rm -rf *; mkdir -p a/b; echo inside > a/b/who; ln -s {} link", canary.text());
            let race = Race {
                volumes: json!([volume]),
                prepare: &prepare,
                exchange: ("v/a", "v/link"),
                mounts: &|number| {
                    json!([{"name": "v", "mountPath": "/s", "subPath": "a/b"},
                        {"name": "v", "mountPath": "/n", "subPathExpr": format!("a/new/{number}")}])
                },
                fields: json!({}),
                look: "cat /s/who",
            };
            let both = |tally: &Tally| !tally.lines.is_empty() && tally.refused > 0;
            let check = |tally: &Tally| {
                ensure!(tally.lines.iter().all(|line| line == "inside"), "{:?}", tally.lines);
                canary.sings()
            };
            race.run(both, check).context(kind)?;
        }
        Ok(())
    })
}

/// P09, D2: the directory below which a volume is to be mounted becomes a link to the outside meanwhile. Fails when the
/// destination is made or mounted by a path of the host.
fn p09_an_exchanged_mount_destination_stays_inside() -> Result<()> {
    with_images(&["busybox"], || {
        let canary = Canary::new()?;
        let before = mounts_of_the_host()?;
        let prepare = format!("cd /all/v; mkdir a; ln -s {} link; echo inside > /all/m/who", canary.text());
        let look = format!("cat /v/a/in/who 2>/dev/null || cat {}/in/who 2>/dev/null || echo covered", canary.text());
        let race = Race {
            volumes: json!([{"name": "v", "emptyDir": {}}, {"name": "m", "emptyDir": {}}]),
            prepare: &prepare,
            exchange: ("v/a", "v/link"),
            mounts: &|_| json!([{"name": "v", "mountPath": "/v"}, {"name": "m", "mountPath": "/v/a/in"}]),
            fields: json!({}),
            look: &look,
        };
        // Whether the link or the directory was met: the one shows as refused or elsewhere in the container.
        let both = |tally: &Tally| tally.lines.iter().any(|line| line == "inside");
        race.run(both, |tally| {
            ensure!(tally.lines.iter().all(|line| ["inside", "covered"].contains(&line.as_str())), "{:?}", tally.lines);
            ensure!(mounts_of_the_host()? == before, "something is mounted on the host");
            canary.sings()
        })?;
        Ok(())
    })
}

fn mounts_of_the_host() -> Result<String> {
    std::fs::read_to_string("/proc/thread-self/mountinfo").context("mountinfo")
}

/// P05, D4: the place of a mount is led into `/proc`. Fails when only the text of the path is compared with `/proc`.
fn p05_a_mount_that_is_led_into_proc_is_refused() -> Result<()> {
    with_images(&["busybox"], || {
        for target in ["/proc", "/proc/self/root/proc", "../proc"] {
            let prepare = format!("cd /all/v; mkdir -p a/sys; ln -s {target} link");
            let race = Race {
                volumes: json!([{"name": "v", "emptyDir": {}}, {"name": "m", "emptyDir": {}}]),
                prepare: &prepare,
                exchange: ("v/a", "v/link"),
                mounts: &|_| json!([{"name": "v", "mountPath": "/v"}, {"name": "m", "mountPath": "/v/a/sys"}]),
                fields: json!({}),
                look: "if grep -q ' /proc/sys proc ro' /proc/mounts && test -e /proc/sys/kernel/ostype; then echo whole; else echo changed; fi",
            };
            let both = |tally: &Tally| !tally.lines.is_empty() && tally.refused > 0;
            let check = |tally: &Tally| {
                ensure!(tally.lines.iter().all(|line| line == "whole"), "{:?}", tally.lines);
                Ok(())
            };
            race.run(both, check).context(target)?;
        }
        Ok(())
    })
}

/// A volume at `/dev`, in which another container exchanges a name.
fn over_dev(names: (&str, &str), prepare: &str, fields: Value, look: &str, allowed: &[&str]) -> Result<()> {
    let pattern = std::fs::read("/proc/sys/kernel/core_pattern")?;
    let race = Race {
        volumes: json!([{"name": "v", "emptyDir": {}}]),
        prepare,
        exchange: names,
        mounts: &|_| json!([{"name": "v", "mountPath": "/dev"}]),
        fields,
        look,
    };
    race.run(
        |tally| !tally.lines.is_empty(),
        |tally| {
            ensure!(tally.lines.iter().all(|line| allowed.contains(&line.as_str())), "{:?}", tally.lines);
            ensure!(std::fs::read("/proc/sys/kernel/core_pattern")? == pattern, "core_pattern was written");
            Ok(())
        },
    )?;
    Ok(())
}

/// P06, D5: `/dev` is a volume, and its `null` becomes a link to a file that no container may write. Fails when masks are
/// made of the container's own `/dev/null`.
fn p06_a_mask_is_never_made_of_a_container_s_null() -> Result<()> {
    with_images(&["busybox"], || {
        let look = "sh -c 'echo x > /proc/sys/kernel/core_pattern' 2>/all; stat -c %t:%T /proc/timer_list";
        let prepare = "cd /all/v; touch null; ln -s /proc/sys/kernel/core_pattern link";
        over_dev(("v/null", "v/link"), prepare, json!({}), look, &["1:3"])
    })
}

/// P07, D14: the same with the directory of terminals. Fails when the terminal is opened or mounted by its path.
fn p07_a_terminal_never_leads_through_a_container_s_link() -> Result<()> {
    with_images(&["busybox"], || {
        let canary = Canary::new()?;
        let prepare = format!("cd /all/v; mkdir pts; touch console; ln -s {} link", canary.text());
        let look = "stat -c %t /proc/self/fd/0 -L";
        over_dev(("v/pts", "v/link"), &prepare, json!({"tty": true}), look, &["88"])?;
        over_dev(("v/console", "v/link"), &prepare, json!({"tty": true}), look, &["88"])?;
        canary.sings()
    })
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
