//! Races about volumes (P05-P10): containers exchange directories and links while others start beside them.
//!
//! Attackers are this program itself, mounted into a container: `renameat2` in a loop is faster than any shell.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use rustix::fs::{CWD, RenameFlags};
use serde_json::{Value, json};

use crate::life_watch::{pod, sh, with};
use crate::run::with_images;
use crate::volumes_canary::{Canary, mounts_of_the_host};
use crate::{Test, host, tests};

pub fn tests() -> Vec<Test> {
    tests![Host: p05_a_mount_that_is_led_into_proc_is_refused, p06_a_mask_is_never_made_of_a_container_s_null,
        p07_a_terminal_never_leads_through_a_container_s_link, p09_an_exchanged_mount_destination_stays_inside,
        p10_an_exchanged_sub_path_stays_inside]
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
