//! `monopod serve` on a private host: static pods, and that the daemon's death disturbs nobody.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::host::{self, PATIENCE, private_host};
use crate::run::load;
use crate::{Test, ask, tests};

pub fn tests() -> Vec<Test> {
    tests![Host: a_manifest_becomes_a_pod_and_its_removal_ends_it, a_killed_daemon_disturbs_no_container,
        kills_at_any_moment_lose_no_exit_code, an_edit_replaces_the_pod_and_a_broken_file_changes_nothing,
        a_pod_whose_manifest_goes_while_nobody_looks_is_ended, a_pod_that_was_killed_with_its_monitor_comes_back, a_second_daemon_is_refused, a_deleted_mirror_comes_back_and_its_containers_go_on,
        a_manifest_that_was_away_restarts_its_pod, a_manifest_has_any_name_and_refers_to_no_object]
}

pub const CONFIG: &str = "/run/serve.yaml";
pub const MANIFESTS: &str = "/run/manifests";
const MACHINES: &str = "/var/lib/monopod/machines";
const LOGS: &str = "/var/log/pods";
/// Between two looks at something that nobody tells a test about, at least and at most: those who look all the time are
/// what an emulated machine is busy with.
const LOOK_AGAIN: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(200)];

/// A running daemon; it dies with the value.
pub struct Daemon(Child);

impl Daemon {
    fn start() -> Result<Self> {
        Self::configured("nodeName: n1\n")
    }

    /// With further options.
    pub fn configured(options: &str) -> Result<Self> {
        std::fs::create_dir_all(MANIFESTS)?;
        // The host's own /etc is no test's.
        let api = if options.contains("api:") { "" } else { "api: {dir: /run/etc}\n" };
        std::fs::write(CONFIG, format!("staticPodPath: {MANIFESTS}\nallowUnenforcedLimits: true\n{api}{options}"))?;
        let log = std::fs::File::options().create(true).append(true).open("/run/serve.log")?;
        let mut command = host::binary("monopod")?;
        command.args(["-v", "serve", "--config", CONFIG]).stdin(Stdio::null()).stderr(log);
        Ok(Self(command.spawn().context("start monopod serve")?))
    }

    /// By itself: it refused to start, or crashed.
    pub fn has_ended(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(Some(_)))
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    pub fn kill(mut self) -> Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Fails when it has ended, which is what tests usually wait for.
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

pub fn with_busybox(body: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    private_host(move || {
        load(&["busybox"])?;
        let result = body();
        // Whatever failed: no monitor of this test outlives it.
        end_everything();
        remove_cgroups();
        result.with_context(|| std::fs::read_to_string("/run/serve.log").unwrap_or_default())
    })
}

/// Kills what is left in this host's cgroups.
pub fn end_everything() {
    for dir in cgroups() {
        // Gone already, mostly.
        let _gone = std::fs::write(dir.join("cgroup.kill"), "1");
    }
}

/// Ended pods that nobody deleted keep theirs.
fn remove_cgroups() {
    for leaf in cgroups() {
        // Busy as long as a killed process is not gone. What stays is found by the look after the test.
        let _gone = wait_until("an empty cgroup", || std::fs::remove_dir(&leaf).is_ok().then_some(()));
        // The last leaf's turn.
        let _has_more = leaf.parent().map(std::fs::remove_dir);
    }
}

/// Leaves that this host's daemon made. Another host on the same machine may have a static pod of the same name, and with
/// it a pod's cgroup of the same uid.
fn cgroups() -> Vec<PathBuf> {
    const SANDBOXES: &str = "/var/lib/monopod/sandboxes";
    let sandboxes = names(SANDBOXES).into_iter();
    let with_containers = |id: String| names(&format!("{SANDBOXES}/{id}/containers")).into_iter().chain([id]);
    let ids: BTreeSet<String> = sandboxes.flat_map(with_containers).collect();
    let roots = ["/sys/fs/cgroup/unified/monopod/kubepods", "/sys/fs/cgroup/monopod/kubepods"];
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = roots.iter().map(PathBuf::from).collect();
    while let Some(dir) = open.pop() {
        let entries = std::fs::read_dir(&dir).into_iter().flatten().flatten();
        let below: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
        let (ours, others): (Vec<_>, Vec<_>) = below.into_iter().partition(|path| ids.contains(&file_name(path)));
        found.extend(ours);
        open.extend(others);
    }
    found
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

pub fn names(dir: &str) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| file_name(&entry.path())).collect()
}

/// Every process of every pod: monitors, pause, containers' first processes.
fn processes() -> BTreeSet<String> {
    let of = |dir: PathBuf| std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    cgroups().into_iter().flat_map(|dir| of(dir).lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}

pub fn wait_until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let began = Instant::now();
    let [least, most] = LOOK_AGAIN;
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        let waited = began.elapsed();
        if waited > PATIENCE {
            bail!("never: {what}");
        }
        std::thread::sleep((waited / 10).clamp(least, most));
    }
}

pub fn pod(name: &str, policy: &str, script: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: {policy}\n  \
         terminationGracePeriodSeconds: 2\n  containers:\n  - name: app\n    image: busybox\n    \
         imagePullPolicy: Never\n    command: [sh, -c, {script:?}]\n"
    )
}

/// Writes a manifest as the contract wants it.
pub fn put(file: &str, text: &str) -> Result<()> {
    std::fs::create_dir_all(MANIFESTS)?;
    let hidden = Path::new(MANIFESTS).join(format!(".{file}"));
    std::fs::write(&hidden, text)?;
    std::fs::rename(hidden, Path::new(MANIFESTS).join(file))?;
    Ok(())
}

fn take_away(file: &str) -> Result<()> {
    Ok(std::fs::remove_file(Path::new(MANIFESTS).join(file))?)
}

/// All that the newest pod of this name has written.
pub fn log(name: &str) -> String {
    let prefix = format!("default_{name}-n1_");
    let mut all = String::new();
    for dir in names(LOGS).into_iter().filter(|dir| dir.starts_with(&prefix)) {
        let mut files = names(&format!("{LOGS}/{dir}/app"));
        files.sort();
        for file in files {
            all += &std::fs::read_to_string(format!("{LOGS}/{dir}/app/{file}")).unwrap_or_default();
        }
    }
    all
}

/// What the daemon remembers of a pod.
fn remembered(name: &str) -> Option<Value> {
    let all = names(MACHINES).into_iter().filter(|file| file.ends_with(".json"));
    let mut read = all.filter_map(|file| {
        serde_json::from_str::<Value>(&std::fs::read_to_string(format!("{MACHINES}/{file}")).ok()?).ok()
    });
    read.find(|kept| kept["spec"]["name"] == format!("{name}-n1"))
}

/// Exit codes of a pod's ended instances, in their order.
fn exit_codes(name: &str) -> Vec<i64> {
    let kept = remembered(name).unwrap_or_default();
    let dead = kept["snapshot"]["state"]["containers"][0]["dead"].as_array().cloned().unwrap_or_default();
    dead.iter().filter_map(|one| one["record"]["exit_code"].as_i64()).collect()
}

fn gone(name: &str) -> Option<()> {
    let prefix = format!("default_{name}-n1_");
    let left = names(LOGS).iter().any(|dir| dir.starts_with(&prefix)) || remembered(name).is_some();
    (!left).then_some(())
}

pub const COUNT: &str = "trap 'exit 0' TERM; i=0; while :; do echo line $i; i=$((i+1)); sleep 0.02 & wait; done";

fn a_manifest_becomes_a_pod_and_its_removal_ends_it() -> Result<()> {
    with_busybox(|| {
        let daemon = Daemon::start()?;
        put("one.yaml", &pod("one", "Always", COUNT))?;
        writes("one")?;
        take_away("one.yaml")?;
        wait_until("the pod is gone", || gone("one"))?;
        ensure!(processes().is_empty(), "left: {:?}", processes());
        ensure!(names("/var/lib/monopod/sandboxes").is_empty(), "records are left");
        daemon.kill()
    })
}

/// Lines of a log, and that none is missing or twice.
pub fn consecutive(text: &str) -> Result<usize> {
    let numbers = text.lines().filter_map(|line| line.rsplit_once("line ")?.1.parse::<usize>().ok());
    for (expected, number) in numbers.clone().enumerate() {
        ensure!(expected == number, "line {expected} is missing, {number} came");
    }
    Ok(numbers.count())
}

/// D43, F01
fn a_killed_daemon_disturbs_no_container() -> Result<()> {
    with_busybox(|| {
        put("one.yaml", &pod("one", "Always", COUNT))?;
        let daemon = Daemon::start()?;
        writes("one")?;
        let before = main_processes();
        ensure!(before.len() >= 2, "monitor, pause and container are looked for: {before:?}");
        daemon.kill()?;
        let lines = consecutive(&log("one"))?;
        wait_until("it writes on alone", || (consecutive(&log("one")).unwrap_or(0) > lines + 10).then_some(()))?;
        for _ in 0..5 {
            // At its start, at adoption, and when it has come to rest.
            for pause in [0, 5, 15, 40, 100, 300] {
                let daemon = Daemon::start()?;
                std::thread::sleep(Duration::from_millis(pause));
                daemon.kill()?;
            }
        }
        ensure!(main_processes() == before, "{before:?} became {:?}", main_processes());
        consecutive(&log("one"))?;
        let daemon = Daemon::start()?;
        take_away("one.yaml")?;
        wait_until("the pod is gone", || gone("one"))?;
        daemon.kill()
    })
}

fn writes(name: &str) -> Result<()> {
    wait_until("the pod writes", || log(name).contains("line 3").then_some(()))
}

/// A daemon with a static pod that counts, which goes in the end with its file.
fn with_counter(body: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    with_busybox(|| {
        let daemon = Daemon::start()?;
        put("one.yaml", &pod("one", "Always", COUNT))?;
        writes("one")?;
        body()?;
        take_away("one.yaml")?;
        wait_until("the pod is gone", || gone("one"))?;
        daemon.kill()
    })
}

/// The oldest process of every leaf: `sleep` comes and goes.
pub fn main_processes() -> BTreeSet<u32> {
    let of = |dir: PathBuf| std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    let oldest = |dir: PathBuf| {
        let pids = of(dir);
        // Numbers start anew one day: a younger process may have a smaller one.
        pids.lines().filter_map(|pid| pid.parse().ok()).min_by_key(|pid| (started(*pid).unwrap_or(u64::MAX), *pid))
    };
    cgroups().into_iter().filter_map(oldest).collect()
}

/// proc_pid_stat(5): `starttime`, the twentieth field after the name.
pub fn started(pid: u32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = text.rsplit_once(") ").context("stat")?;
    Ok(fields.split(' ').nth(19).context("starttime")?.parse()?)
}

/// F01: each pod ends once with its own code, while nobody or somebody looks.
fn kills_at_any_moment_lose_no_exit_code() -> Result<()> {
    const PODS: i64 = 6;
    with_busybox(|| {
        for number in 0..PODS {
            let script = format!("sleep 0.{number}5; exit {}", 10 + number);
            put(&format!("p{number}.yaml"), &pod(&format!("p{number}"), "Never", &script))?;
        }
        for pause in [60, 130, 20, 210, 5, 90, 40, 170] {
            let daemon = Daemon::start()?;
            std::thread::sleep(Duration::from_millis(pause));
            daemon.kill()?;
        }
        let daemon = Daemon::start()?;
        for number in 0..PODS {
            let codes = wait_until("an exit code", || {
                let codes = exit_codes(&format!("p{number}"));
                (!codes.is_empty()).then_some(codes)
            })?;
            ensure!(codes == [10 + number], "p{number}: {codes:?}");
        }
        daemon.kill()
    })
}

/// CS6, IN8: a monitor that was killed tells nobody of the ends of its containers.
fn a_pod_that_was_killed_with_its_monitor_comes_back() -> Result<()> {
    let wrote = |attempt: u32| {
        let dir = names(LOGS).into_iter().find(|dir| dir.starts_with("default_one-n1_"))?;
        let text = std::fs::read_to_string(format!("{LOGS}/{dir}/app/{attempt}.log")).ok()?;
        text.contains("line 3").then_some(())
    };
    with_busybox(|| {
        put("one.yaml", &pod("one", "Always", COUNT))?;
        let daemon = Daemon::start()?;
        wait_until("the pod writes", || wrote(0))?;
        end_everything();
        wait_until("its second instance writes", || wrote(1))?;
        daemon.kill()?;
        end_everything();
        let daemon = Daemon::start()?;
        wait_until("its third instance writes", || wrote(2))?;
        take_away("one.yaml")?;
        wait_until("the pod is gone", || gone("one"))?;
        daemon.kill()
    })
}

/// ST4
fn an_edit_replaces_the_pod_and_a_broken_file_changes_nothing() -> Result<()> {
    with_counter(|| {
        let before = main_processes();
        put("one.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: one}\nspec: {containers: {}}\n")?;
        wait_until("the fault is told", || {
            let told = std::fs::read_to_string("/run/serve.log").unwrap_or_default();
            told.contains("one.yaml:4").then_some(())
        })?;
        ensure!(main_processes() == before, "a broken file disturbed its pod");
        put("one.yaml", &pod("one", "Always", "trap 'exit 0' TERM; echo second; sleep 1000 & wait"))?;
        wait_until("the second writes", || log("one").contains("second").then_some(()))?;
        wait_until("the first is gone", || (!log("one").contains("line")).then_some(()))?;
        Ok(())
    })
}

fn a_pod_whose_manifest_goes_while_nobody_looks_is_ended() -> Result<()> {
    with_busybox(|| {
        put("one.yaml", &pod("one", "Always", COUNT))?;
        let daemon = Daemon::start()?;
        writes("one")?;
        daemon.kill()?;
        take_away("one.yaml")?;
        let daemon = Daemon::start()?;
        wait_until("the pod is gone", || gone("one"))?;
        wait_until("its processes are gone", || processes().is_empty().then_some(()))?;
        daemon.kill()
    })
}

fn shown(name: &str) -> Option<Value> {
    ask::pod(&format!("{name}-n1"))
}

/// The object of a static pod that runs, once it has another uid than before.
fn mirror(name: &str, before: &Value) -> Result<Value> {
    wait_until("its object is there", || {
        let pod = shown(name)?;
        let runs = pod["status"]["containerStatuses"][0]["state"]["running"].is_object();
        (runs && pod["metadata"]["uid"] != *before).then_some(pod)
    })
}

/// ST3, GE4: whoever deletes the object of a static pod sees another one; nothing happens to its containers.
fn a_deleted_mirror_comes_back_and_its_containers_go_on() -> Result<()> {
    with_counter(|| {
        let (before, mut uid) = (main_processes(), Value::Null);
        for arguments in [&["--grace-period=30", "--wait=false"][..], &["--grace-period=0", "--force", "--wait=false"]]
        {
            let pod = mirror("one", &uid)?;
            let hash = &pod["metadata"]["annotations"]["kubernetes.io/config.hash"];
            ensure!(pod["metadata"]["uid"] != *hash && pod["metadata"]["generation"] == 1, "{pod}");
            ensure!(!pod["status"].to_string().contains("observedGeneration"), "{pod}");
            uid = pod["metadata"]["uid"].clone();
            let output = host::binary("monopod")?.args(["delete", "pod", "one-n1"]).args(arguments).output()?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        mirror("one", &uid)?;
        ensure!(main_processes() == before, "its containers were disturbed");
        let output = host::binary("monopod")?.args(["logs", "one-n1", "--tail=1"]).output()?;
        ensure!(output.stdout.starts_with(b"line "), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    })
}

/// ST4, LF6: the same content in a file that was removed is another life of the same pod.
fn a_manifest_that_was_away_restarts_its_pod() -> Result<()> {
    with_counter(|| {
        let first = mirror("one", &Value::Null)?;
        take_away("one.yaml")?;
        put("one.yaml", &pod("one", "Always", COUNT))?;
        let again = mirror("one", &first["metadata"]["uid"])?;
        ensure!(again["status"]["containerStatuses"][0]["restartCount"] == 1, "{again}");
        let hash = |pod: &Value| pod["metadata"]["annotations"]["kubernetes.io/config.hash"].clone();
        ensure!(hash(&first) == hash(&again), "another pod: {again}");
        Ok(())
    })
}

/// ST1, ST5
fn a_manifest_has_any_name_and_refers_to_no_object() -> Result<()> {
    with_busybox(|| {
        let daemon = Daemon::start()?;
        let text = pod("one", "Always", COUNT);
        put("one.yaml", &text.replace("spec:\n", "spec:\n  serviceAccountName: default\n"))?;
        wait_until("the fault is told", || {
            let told = std::fs::read_to_string("/run/serve.log").unwrap_or_default();
            told.contains("spec.serviceAccountName: static pods may not reference serviceaccounts").then_some(())
        })?;
        take_away("one.yaml")?;
        put("one.manifest", &text)?;
        writes("one")?;
        take_away("one.manifest")?;
        wait_until("the pod is gone", || gone("one"))?;
        daemon.kill()
    })
}

fn a_second_daemon_is_refused() -> Result<()> {
    private_host(|| {
        let daemon = Daemon::start()?;
        wait_until("the first runs", || Path::new(MACHINES).exists().then_some(()))?;
        let mut second: Command = host::binary("monopod")?;
        let output = second.args(["serve", "--config", CONFIG]).output()?;
        let text = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success() && text.contains("another monopod serve"), "{}: {text}", output.status);
        daemon.kill()
    })
}
