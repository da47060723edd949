//! The package on a machine with systemd: from its installation to the last trace of it (rules TR13, D43).
//!
//! The first test is the source of `docs/transcript-systemd.md`: it says on the console what it does and what it sees.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use crate::vm::Orders;
use crate::{Test, tests, vm_shutdown};

pub fn tests() -> Vec<Test> {
    tests![Systemd: a_package_lives_from_installation_to_purge, pods_come_back_after_a_power_cut,
        what_the_unit_sets_is_not_seen_in_containers]
}

const CONSOLE: &str = "/dev/ttyS0";
pub const MANIFESTS: &str = "/etc/monopod/manifests";
/// Where pods lie when the service manager knows no `DelegateSubgroup=` (before 254).
const TREE: &str = "/sys/fs/cgroup/monopod/kubepods";
/// Emulated and loaded machines are slow.
const PATIENCE: Duration = Duration::from_secs(60);
/// A look is a shell or two, which take a fifth of a second there.
const LOOK_AGAIN: Duration = Duration::from_millis(300);

/// A terminal that remembers: each command with what it printed.
#[derive(Default)]
pub struct Terminal {
    seen: String,
}

impl Terminal {
    /// Says why the next commands come.
    fn say(&mut self, text: &str) {
        let _infallible = write!(self.seen, "\n## {text}\n\n");
    }

    /// Runs a line of sh that has to succeed; both its streams.
    pub fn run(&mut self, line: &str) -> Result<String> {
        let output = Command::new("sh").args(["-c", &format!("exec 2>&1; {line}")]).output().context("start sh")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let _infallible = write!(self.seen, "    # {line}\n{}", indented(&text));
        ensure!(output.status.success(), "{line}: {}\n{text}\nbefore:\n{}", output.status, self.seen);
        Ok(text)
    }

    /// Runs a line until it prints what is wanted; only the last time is remembered.
    fn until(&mut self, line: &str, wanted: &str) -> Result<String> {
        self.quietly_until(line, wanted)?;
        self.run(line)
    }

    /// The same, and nothing of it is remembered.
    pub fn quietly_until(&self, line: &str, wanted: &str) -> Result<()> {
        let started = Instant::now();
        while !quietly(line).contains(wanted) {
            if started.elapsed() > PATIENCE {
                bail!(
                    "{line} never printed {wanted:?} but\n{}\nbefore:\n{}\n{}",
                    quietly(line),
                    self.seen,
                    quietly("journalctl --no-pager -u monopod -n 40")
                );
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    /// For whoever writes the document.
    fn publish(&self, name: &str) -> Result<()> {
        let text: String = self.seen.lines().fold(String::new(), |text, line| text + &format!("{name}| {line}\r\n"));
        std::fs::OpenOptions::new()
            .write(true)
            .open(CONSOLE)
            .and_then(|mut console| std::io::Write::write_all(&mut console, text.as_bytes()))
            .context("write to the console")
    }
}

fn indented(text: &str) -> String {
    text.lines().fold(String::new(), |all, line| all + &format!("    {line}\n"))
}

/// Output of a line of sh, whatever becomes of it.
fn quietly(line: &str) -> String {
    let output = Command::new("sh").args(["-c", &format!("exec 2>&1; {line}")]).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

/// The package, and the same with a version that is higher than any.
fn packages() -> Result<[PathBuf; 2]> {
    let entries = std::fs::read_dir("/packages").context("read /packages")?.flatten();
    let (newer, own): (Vec<_>, Vec<_>) =
        entries.map(|entry| entry.path()).partition(|path| path.to_string_lossy().contains("_99."));
    let found = own.into_iter().chain(newer).collect::<Vec<_>>();
    found.try_into().map_err(|found| anyhow!("/packages: {found:?}"))
}

/// Everything that is called like us or made by us.
fn traces() -> BTreeSet<String> {
    let looks = [
        "find / -xdev -name '*monopod*' -not -path '/proc/*' -not -path '/sys/*' -not -path '/usr/lib/monopod-tests*' \
         -not -path '/etc/monopod-vm.json' -not -path '/run/systemd/*' -not -path '/run/log/*' -not -path '/var/log/journal/*' \
         -not -path '/etc/systemd/system/*monopod-tests*'",
        "find /run /var /sys/fs/cgroup -name '*monopod*' -not -path '*monopod-tests*' -not -path '/run/systemd/*'",
        "find /sys/fs/cgroup -name 'kubepods*'",
        "ls /var/log/pods /var/log/containers 2>/dev/null",
        "ls /sys/class/net",
        "nft list tables",
        "ps -e -o comm= | grep -Ex 'monopod|monitor|pause'",
        "systemctl list-units --all --no-legend --plain 'monopod*' | grep -v monopod-tests",
        "grep monopod /proc/self/mountinfo | grep -v monopod-tests",
        "ip netns list",
        "dpkg -l monopod 2>/dev/null | grep ^[ir]",
    ];
    looks.iter().flat_map(|look| quietly(look).lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// Runs `body` on a machine with the package, whose service runs. The package stays for the next test, and nothing of what
/// it did: what a purge leaves is looked for by the first test.
pub fn installed(body: impl FnOnce(&mut Terminal) -> Result<()>) -> Result<()> {
    let mut terminal = Terminal::default();
    if Path::new("/usr/bin/monopod").exists() {
        terminal.run("systemctl start monopod monopod-shutdown")?;
    } else {
        install(&mut terminal)?;
    }
    let done = body(&mut terminal);
    let ended = terminal.run(&format!(
        "rm -f {MANIFESTS}/*.yaml; monopod drain; systemctl stop monopod monopod-shutdown; monopod reset --yes"
    ));
    done.and(ended.map(drop))
}

fn install(terminal: &mut Terminal) -> Result<()> {
    terminal.say("Installation");
    let [package, _] = packages()?;
    terminal.run(&format!("dpkg -i {}", package.display()))?;
    terminal.run("systemctl is-active monopod")?;
    Ok(())
}

/// Removes the package; nothing may be there then that was not before.
fn purge(terminal: &mut Terminal, before: &BTreeSet<String>) -> Result<()> {
    terminal.say("Removal and purge");
    terminal.run("dpkg --remove monopod")?;
    terminal.run("ls /etc/monopod /usr/bin/monopod || true")?;
    terminal.run("dpkg --purge monopod")?;
    let left: Vec<String> = traces().into_iter().filter(|trace| !before.contains(trace)).collect();
    ensure!(left.is_empty(), "left behind:\n  {}\nafter\n{}", left.join("\n  "), terminal.seen);
    terminal.say("Nothing is left");
    terminal.run("ls -d /etc/monopod /var/lib/monopod /run/monopod /var/log/pods /sys/fs/cgroup/monopod || true")?;
    terminal.run("ip -brief link; nft list tables; ps -e -o comm= | grep -Ex 'monopod|monitor|pause' || true")?;
    Ok(())
}

/// A pod that tells on TERM that it has been asked.
fn manifest(name: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 5\n  containers:\n  \
         - name: app\n    image: busybox\n    imagePullPolicy: Never\n    \
         command: [sh, -c, \"trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 1 & wait $!; done\", {name}]\n{more}"
    )
}

/// Process of a pod's container, as the host counts.
fn pid_of(name: &str) -> Result<String> {
    let line = format!("pgrep -f '^sh -c trap .*done {name}$'");
    let started = Instant::now();
    loop {
        let found = quietly(&line);
        let pids: Vec<&str> = found.lines().collect();
        // `sleep` is a child for a moment before it is itself.
        if let Some(oldest) = pids.first() {
            return Ok((*oldest).to_owned());
        }
        ensure!(
            started.elapsed() < PATIENCE,
            "no {name}:\n{}",
            quietly("journalctl --no-pager -u monopod -n 60; ps -ef")
        );
        std::thread::sleep(LOOK_AGAIN);
    }
}

fn daemon() -> String {
    quietly("systemctl show --property=MainPID --value monopod").trim().to_owned()
}

fn first_pod(terminal: &mut Terminal) -> Result<String> {
    terminal.say("The first pod");
    terminal.run("monopod image load /images/busybox.tar")?;
    let more = "    resources: {requests: {cpu: 100m, memory: 32Mi}, limits: {memory: 64Mi}}\n";
    std::fs::write("/root/first.yaml", manifest("first", more))?;
    terminal.run("cat /root/first.yaml")?;
    terminal.run(&format!("mv /root/first.yaml {MANIFESTS}/"))?;
    let pid = pid_of("first")?;
    terminal.until("cat /var/log/pods/default_first-testnode_*/app/0.log", "up")?;
    Ok(pid)
}

/// What the first boot tells the second one.
const BEFORE: &str = "/root/before";
const SEEN: &str = "/root/seen";
const FAILED: &str = "/root/failed";

/// The first half of [`a_package_lives_from_installation_to_purge`]: it ends with a reboot, so it runs before all tests.
pub fn before_boot(orders: &Orders) -> Result<()> {
    let name = "vm_package::a_package_lives_from_installation_to_purge";
    let wanted = orders.arguments.is_empty() || orders.arguments.iter().any(|filter| name.contains(filter));
    if !wanted || Path::new(SEEN).exists() {
        return Ok(());
    }
    let mut terminal = Terminal::default();
    let done = first_half(&mut terminal);
    std::fs::write(SEEN, &terminal.seen)?;
    if let Err(error) = done {
        return Ok(std::fs::write(FAILED, format!("{error:?}"))?);
    }
    quietly("systemctl reboot");
    loop {
        std::thread::park();
    }
}

fn first_half(terminal: &mut Terminal) -> Result<()> {
    let before = traces();
    install(terminal)?;
    std::fs::write(BEFORE, before.into_iter().collect::<Vec<_>>().join("\n"))?;
    terminal.run("systemctl is-enabled monopod monopod-shutdown")?;
    let pid = first_pod(terminal)?;
    limits_are_the_kernels(terminal)?;
    terminal.run("systemctl status --no-pager --lines=0 monopod")?;
    the_units_are_understood()?;
    restarts_touch_nothing(terminal, &pid)?;
    a_loop_that_stands_still_is_replaced(terminal, &pid)?;
    an_upgrade_touches_nothing(terminal, &pid)?;
    a_stopped_service_leaves_its_pods(terminal, &pid)?;
    vm_shutdown::prepare(terminal)?;
    terminal.say("The machine reboots: the pod is asked to end, and comes back");
    terminal.seen += "    # systemctl reboot\n";
    Ok(())
}

fn a_package_lives_from_installation_to_purge() -> Result<()> {
    if let Ok(failed) = std::fs::read_to_string(FAILED) {
        bail!("before the reboot: {failed}");
    }
    let before = std::fs::read_to_string(BEFORE).context("read what the first boot saw")?;
    let before = before.lines().map(str::to_owned).collect();
    let mut terminal = Terminal { seen: std::fs::read_to_string(SEEN)? };
    let done = pods_are_back(&mut terminal).and_then(|()| a_drained_node_has_ended_them(&mut terminal));
    let purged = purge(&mut terminal, &before);
    for file in [BEFORE, FAILED] {
        let _absent = std::fs::remove_file(file);
    }
    done.and(purged)?;
    terminal.publish("transcript")
}

/// Rule ST1: the directory is the truth, also after a boot.
fn pods_are_back(terminal: &mut Terminal) -> Result<()> {
    let pid = pid_of("first")?;
    terminal.run("uptime -p; systemctl is-active monopod")?;
    terminal.run(&format!("ps -o pid=,comm= -p {pid}"))?;
    let log = terminal.until("cat /var/log/pods/default_first-testnode_*/app/*.log", "up\n")?;
    ensure!(log.contains("bye"), "the shutdown did not ask it to end:\n{log}");
    vm_shutdown::check(terminal)
}

/// Rule D3: the tree that users know from kubelets, and the kernel's files in it.
fn limits_are_the_kernels(terminal: &mut Terminal) -> Result<()> {
    terminal
        .run(&format!("cd {TREE} && find . -type d | sed -E 's/[0-9a-f]{{64}}/ID/; s/pod[0-9a-f-]{{32,}}/podUID/'"))?;
    let files = terminal.run(&format!("cd {TREE}/burstable/pod*/ && grep . memory.max cpu.weight */memory.max"))?;
    let limited = files.lines().filter(|line| line.ends_with("memory.max:67108864")).count();
    ensure!(limited >= 2, "pod and container are limited to 64 MiB:\n{files}");
    Ok(())
}

/// D43
fn restarts_touch_nothing(terminal: &mut Terminal, pid: &str) -> Result<()> {
    terminal.say("The daemon restarts, is killed, and reloads; the container's process stays");
    terminal.run(&format!("cat /proc/{pid}/cmdline | tr '\\0' ' '; echo; systemctl restart monopod"))?;
    ensure!(pid_of("first")? == pid, "the restart replaced the container");
    let old = daemon();
    terminal.run("systemctl kill --kill-who=main --signal=KILL monopod")?;
    terminal.until("systemctl show --property=NRestarts,SubState monopod", "NRestarts=1\nSubState=running\n").or_else(
        |_| terminal.until("systemctl show --property=SubState,NRestarts monopod", "SubState=running\nNRestarts=1\n"),
    )?;
    ensure!(daemon() != old && pid_of("first")? == pid, "a killed daemon: {old}, {}", daemon());
    terminal.run("systemctl reload monopod && systemctl is-active monopod")?;
    terminal.run(&format!("ps -o pid=,comm= -p {pid}"))?;
    Ok(())
}

/// systemd 252 passes over the one option that is newer.
fn the_units_are_understood() -> Result<()> {
    let said = quietly("systemd-analyze verify --man=no monopod.service monopod-shutdown.service");
    let wrong: Vec<&str> =
        said.lines().filter(|line| line.contains("monopod") && !line.contains("DelegateSubgroup")).collect();
    ensure!(wrong.is_empty(), "systemd-analyze verify: {wrong:#?}");
    Ok(())
}

/// The loop that works answers the watchdog, and nobody else.
fn a_loop_that_stands_still_is_replaced(terminal: &mut Terminal, pid: &str) -> Result<()> {
    terminal.say("The watchdog replaces a daemon that stands still");
    terminal.run("mkdir -p /run/systemd/system/monopod.service.d")?;
    terminal.run("printf '[Service]\\nWatchdogSec=4\\n' > /run/systemd/system/monopod.service.d/watchdog.conf")?;
    terminal.run("systemctl daemon-reload && systemctl restart monopod")?;
    let old = daemon();
    // Longer than the watchdog waits.
    terminal.run("sleep 6; systemctl show --property=NRestarts monopod")?;
    ensure!(daemon() == old, "a daemon that works was replaced");
    terminal.run("systemctl kill --kill-who=main --signal=STOP monopod")?;
    terminal.until("journalctl --no-pager -o cat -u monopod | grep -i watchdog", "atchdog timeout")?;
    let started = Instant::now();
    while daemon() == old || quietly("systemctl is-active monopod") != "active\n" {
        ensure!(started.elapsed() < PATIENCE, "the daemon still stands");
        std::thread::sleep(LOOK_AGAIN);
    }
    ensure!(pid_of("first")? == pid, "the watchdog replaced the container");
    terminal.run("rm -r /run/systemd/system/monopod.service.d; systemctl daemon-reload; systemctl restart monopod")?;
    Ok(())
}

/// The same package with a higher version.
fn an_upgrade_touches_nothing(terminal: &mut Terminal, pid: &str) -> Result<()> {
    terminal.say("An upgrade with a live pod");
    let [_, newer] = packages()?;
    let old = daemon();
    terminal.run(&format!("dpkg -i {}", newer.display()))?;
    terminal.run("dpkg-query --show monopod; systemctl is-active monopod")?;
    ensure!(daemon() != old, "the old daemon goes on");
    terminal.run(&format!("ps -o pid=,comm= -p {pid}"))?;
    ensure!(pid_of("first")? == pid, "the upgrade replaced the container");
    Ok(())
}

fn a_stopped_service_leaves_its_pods(terminal: &mut Terminal, pid: &str) -> Result<()> {
    terminal.say("A stopped service leaves its pods; a started one takes them over");
    terminal.run("systemctl stop monopod; systemctl is-active monopod || true")?;
    terminal.run(&format!("ps -o pid=,comm= -p {pid}"))?;
    terminal.run("systemctl start monopod && systemctl is-active monopod")?;
    ensure!(pid_of("first")? == pid, "the start replaced the container");
    // It is in charge again: another manifest becomes a pod, and its removal ends it.
    let file = Path::new(MANIFESTS).join("second.yaml");
    std::fs::write("/root/second.yaml", manifest("second", ""))?;
    std::fs::rename("/root/second.yaml", &file)?;
    pid_of("second")?;
    std::fs::remove_file(&file)?;
    terminal.until("ls /var/log/pods | grep -c second || true", "0\n")?;
    ensure!(pid_of("first")? == pid, "another pod's life touched the first");
    Ok(())
}

/// TR13
fn a_drained_node_has_ended_them(terminal: &mut Terminal) -> Result<()> {
    terminal.say("Drain: pods end gracefully; the next start brings static pods back");
    terminal.run("monopod drain")?;
    let log = terminal.run("tail -q -n 1 /var/log/pods/default_first-testnode_*/app/*.log")?;
    ensure!(log.trim_end().ends_with("bye"), "it was not asked to end:\n{log}");
    ensure!(quietly("pgrep -f '^sh -c trap .*done first$'").is_empty(), "it goes on");
    terminal.run("systemctl restart monopod")?;
    let pid = pid_of("first")?;
    terminal.run(&format!("ps -o pid=,comm= -p {pid}"))?;
    terminal.say("A shutdown of the machine stops this unit first");
    terminal.run("systemctl stop monopod-shutdown")?;
    ensure!(quietly("pgrep -f '^sh -c trap .*done first$'").is_empty(), "it goes on");
    terminal.run("systemctl restart monopod")?;
    // The manager starts what the daemon wants beside it.
    terminal.until("systemctl show --property=ActiveState monopod-shutdown", "ActiveState=active\n")?;
    pid_of("first")?;
    Ok(())
}

/// Everything that a boot doesn't bring back goes at once: processes, `/run`, links, rules, cgroups. What is on disk stays.
fn pods_come_back_after_a_power_cut() -> Result<()> {
    installed(|terminal| {
        let pid = first_pod(terminal)?;
        quietly(
            "systemctl kill --kill-who=main --signal=STOP monopod; systemctl kill --kill-who=main --signal=KILL monopod; \
            systemctl stop monopod",
        );
        quietly(&format!("echo 1 > {TREE}/cgroup.kill"));
        let gone = Instant::now();
        while !quietly("ps -e -o comm= | grep -Ex 'monitor|pause'").is_empty() {
            ensure!(gone.elapsed() < PATIENCE, "{}", quietly("ps -ef"));
            std::thread::sleep(LOOK_AGAIN);
        }
        quietly(
            "ip link delete mono0; nft delete table inet monopod; nft delete table bridge monopod; rm -rf /run/monopod",
        );
        quietly("find /sys/fs/cgroup/monopod -depth -type d -exec rmdir {} +");
        terminal.say("The machine comes up again");
        terminal.run("systemctl start monopod && systemctl is-active monopod")?;
        let again = pid_of("first")?;
        ensure!(again != pid, "{pid} should have died");
        terminal.run(&format!("ps -o pid=,comm= -p {again}"))?;
        let pods = quietly("ls /var/log/pods");
        ensure!(pods.lines().count() == 1, "one pod, one directory:\n{pods}");
        Ok(())
    })
}

/// Prints what a process inherits.
const FACTS: &str = "cat /proc/self/limits; grep -E '^(NoNewPrivs|Seccomp|Cap|Umask|Cpus_allowed_list|Groups|Sig(Blk|Ign|Cgt))' /proc/self/status; \
    umask; cat /proc/self/oom_score_adj /proc/self/coredump_filter /proc/self/timerslack_ns; env | sort; \
    cut -d' ' -f5- /proc/self/mountinfo | grep -v overlay | sed 's/subvol.*//'; echo end";

fn facts_pod(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: Never\n  hostname: same\n  \
         automountServiceAccountToken: false\n  enableServiceLinks: false\n  containers:\n  - name: app\n    image: busybox\n    \
         imagePullPolicy: Never\n    command: [sh, -c, {FACTS:?}]\n"
    )
}

/// The same pod, started by the unit and by a daemon of a shell, sees the same; open files are the one limit that daemons
/// pass on, as containerd does.
fn what_the_unit_sets_is_not_seen_in_containers() -> Result<()> {
    installed(|terminal| {
        terminal.run("monopod image load /images/busybox.tar")?;
        let by_unit = facts(terminal)?;
        ensure!(by_unit.contains("NoNewPrivs:\t0"), "{by_unit}");
        quietly("systemctl stop monopod");
        let mut shell = Command::new("sh")
            .args(["-c", "ulimit -n 1048576; exec monopod serve"])
            .spawn()
            .context("start monopod serve")?;
        let by_shell = facts(terminal);
        shell.kill()?;
        shell.wait()?;
        quietly("systemctl start monopod");
        let by_shell = by_shell?;
        let (unit, shell): (BTreeSet<&str>, BTreeSet<&str>) = (by_unit.lines().collect(), by_shell.lines().collect());
        let differ: Vec<_> = unit.symmetric_difference(&shell).collect();
        ensure!(differ.is_empty(), "by unit or shell: {differ:#?}");
        ensure!(unit.len() > 30, "{by_unit}");
        Ok(())
    })
}

/// What a container of the daemon that runs now says of itself.
fn facts(terminal: &mut Terminal) -> Result<String> {
    let file = Path::new(MANIFESTS).join("facts.yaml");
    std::fs::write("/root/facts.yaml", facts_pod("facts"))?;
    std::fs::rename("/root/facts.yaml", &file)?;
    terminal.until("cat /var/log/pods/default_facts-testnode_*/app/0.log", "F end\n")?;
    let text = quietly("cut -d' ' -f4- /var/log/pods/default_facts-testnode_*/app/0.log");
    std::fs::remove_file(&file)?;
    terminal.until("ls /var/log/pods | grep -c facts || true", "0\n")?;
    Ok(text)
}
