//! `cargo xtask bench node`: what `monopod serve` costs and how quickly it answers: memory and CPU at rest, a burst of
//! pods, and the time from SIGKILL to the next answer.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use xshell::cmd;

use super::{host, median};
use crate::build::{self, Profile};

const SOCKET: &str = "/run/monopod/monopod.sock";
const CONFIG: &str = "/run/serve.yaml";
const PODS: &str = "/api/v1/namespaces/default/pods";
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// After the last thing that happened the daemon gives memory back; then it is at rest.
const REST: Duration = Duration::from_secs(7);
/// The burst whose time is taken.
const BURST: usize = 20;
/// Pods during the measurement of CPU.
const QUIET_PODS: usize = 50;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Idle pods for memory and answers
    #[arg(long, default_value_t = 100)]
    pods: usize,
    /// How often the daemon is killed
    #[arg(long, default_value_t = 100)]
    kills: usize,
    /// Seconds of quiet for CPU and wake-ups
    #[arg(long, default_value_t = 60)]
    quiet: u64,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "bench node needs root");
    if !host::is_inside() {
        build::binaries(&build::shell()?, Profile::Release)?;
        return host::enter();
    }
    let mut bench = Bench::set_up()?;
    let done = bench.measure(args);
    bench.end_everything();
    done
}

struct Bench {
    bin: PathBuf,
    daemon: Child,
}

impl Bench {
    fn set_up() -> Result<Self> {
        let sh = build::shell()?;
        let bin = build::output_dir(&sh, Profile::Release)?;
        host::set_up(&sh, &bin)?;
        for arguments in [
            "link add uplink type bridge",
            "address add 192.0.2.2/24 dev uplink",
            "link set uplink up",
            "route add default via 192.0.2.1",
        ] {
            let arguments = arguments.split(' ');
            cmd!(sh, "ip {arguments...}").quiet().run()?;
        }
        fs::create_dir_all("/run/manifests")?;
        fs::write(
            CONFIG,
            "nodeName: n1\nstaticPodPath: /run/manifests\nallowUnenforcedLimits: true\nmaxPods: 1000\napi: {dir: /run/etc}\n",
        )?;
        let began = Instant::now();
        let bench = Self { daemon: serve(&bin)?, bin };
        bench.answers()?;
        println!("first start to first answer: {:.0} ms", milliseconds(began));
        Ok(bench)
    }

    fn measure(&mut self, args: &Args) -> Result<()> {
        std::thread::sleep(REST);
        let idle = self.memory("idle")?;
        self.burst()?;
        let began = Instant::now();
        (BURST..args.pods).try_for_each(create)?;
        ready(args.pods)?;
        let more = args.pods.saturating_sub(BURST);
        if more > 0 {
            println!("{more} more pods: {:.0} ms, {:.1} pods per second", milliseconds(began), per_second(more, began));
        }
        std::thread::sleep(REST);
        // Memory goes back at most once a minute.
        std::thread::sleep(Duration::from_secs(60));
        let full = self.memory(&format!("{} idle pods", args.pods))?;
        println!(
            "per pod: {:.1} KiB (PSS of everything but the containers' own processes)",
            (full - idle) / fraction(args.pods)
        );
        self.kills(args.kills)?;
        delete(QUIET_PODS.min(args.pods)..args.pods)?;
        self.quiet(args)?;
        delete(0..QUIET_PODS.min(args.pods))?;
        std::thread::sleep(REST + Duration::from_secs(60));
        self.memory("all pods gone").map(drop)
    }

    fn answers(&self) -> Result<()> {
        wait("an answer", || ask("GET", PODS, None).is_ok_and(|(status, _)| status == 200))
    }

    /// Prints memory by program; the sum of proportional sizes in KiB, without what pods run.
    fn memory(&self, when: &str) -> Result<f64> {
        println!("\nmemory, {when} (KiB)\n  program     number      RSS      PSS  private");
        let mut sum = 0.0;
        for (name, pids) in processes(self.daemon.id())? {
            let mut total = [0; 3];
            for pid in &pids {
                let own = rollup(*pid);
                total.iter_mut().zip(own).for_each(|(total, own)| *total += own);
            }
            let [rss, pss, private] = total;
            println!("  {name:10} {:7} {rss:8} {pss:8} {private:8}", pids.len());
            sum += f64::from(u32::try_from(pss)?);
        }
        Ok(sum)
    }

    fn burst(&self) -> Result<()> {
        let pods: Vec<String> = (0..BURST).map(|number| pod(number).to_string()).collect();
        fs::write("/run/pods.yaml", pods.join("\n"))?;
        let began = Instant::now();
        let kubectl = Command::new("kubectl")
            .args(["apply", "-f", "/run/pods.yaml"])
            .env("KUBECONFIG", "/run/etc/kubeconfig")
            .env("HOME", "/run")
            .stdout(Stdio::null())
            .status();
        let how = match kubectl {
            Ok(status) if status.success() => format!("kubectl apply took {:.0} ms of it", milliseconds(began)),
            _ => {
                (0..BURST).try_for_each(create)?;
                "no kubectl: created over the socket".to_owned()
            }
        };
        ready(BURST)?;
        println!(
            "{BURST} pods until all are ready: {:.0} ms ({how}); {:.1} pods per second",
            milliseconds(began),
            per_second(BURST, began)
        );
        Ok(())
    }

    fn kills(&mut self, kills: usize) -> Result<()> {
        let mut samples = Vec::new();
        for _ in 0..kills {
            let began = Instant::now();
            self.daemon.kill()?;
            self.daemon.wait()?;
            self.daemon = serve(&self.bin)?;
            self.answers()?;
            samples.push(milliseconds(began));
        }
        samples.sort_by(f64::total_cmp);
        let p99 = samples.get((samples.len() * 99).div_ceil(100).saturating_sub(1)).copied().unwrap_or_default();
        let worst = samples.last().copied().unwrap_or_default();
        println!(
            "\nSIGKILL to the next answer, {kills} times: median {:.0} ms, p99 {p99:.0} ms, worst {worst:.0} ms",
            median(&samples).unwrap_or_default()
        );
        Ok(())
    }

    fn quiet(&self, args: &Args) -> Result<()> {
        std::thread::sleep(REST + Duration::from_secs(60));
        let before = self.activity()?;
        std::thread::sleep(Duration::from_secs(args.quiet));
        println!("\n{} s with {} idle pods", args.quiet, QUIET_PODS.min(args.pods));
        for (name, (ticks, wakeups)) in self.activity()? {
            let (old_ticks, old_wakeups) = before.get(&name).copied().unwrap_or_default();
            let (ticks, wakeups) = (ticks.saturating_sub(old_ticks), wakeups.saturating_sub(old_wakeups));
            println!("  {name:10} {ticks} ticks of 10 ms, {wakeups} wake-ups");
        }
        Ok(())
    }

    /// CPU time and voluntary context switches by program.
    fn activity(&self) -> Result<BTreeMap<String, (u64, u64)>> {
        let mut all = BTreeMap::new();
        for (name, pids) in processes(self.daemon.id())? {
            let total: &mut (u64, u64) = all.entry(name).or_default();
            for pid in pids {
                let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                let fields = stat.rsplit_once(") ").map(|(_, fields)| fields.split(' ')).into_iter().flatten();
                total.0 += fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum::<u64>();
                let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
                total.1 += threads
                    .filter_map(|thread| field(&thread.path().join("status"), "voluntary_ctxt_switches:"))
                    .sum::<u64>();
            }
        }
        Ok(all)
    }

    /// Whatever happened: nothing of the bench outlives it.
    fn end_everything(&mut self) {
        let _deleted = delete(0..1000);
        let _ended = self.daemon.kill();
        let _reaped = self.daemon.wait();
    }
}

fn serve(bin: &std::path::Path) -> Result<Child> {
    let log = fs::File::options().create(true).append(true).open("/run/serve.log")?;
    let mut command = Command::new(bin.join("monopod"));
    command.args(["serve", "--config", CONFIG]).stdin(Stdio::null()).stderr(log);
    command.spawn().context("start monopod serve")
}

fn pod(number: usize) -> Value {
    let container =
        json!({"name": "c", "image": "busybox", "imagePullPolicy": "Never", "command": ["sleep", "1000000"]});
    let spec = json!({"terminationGracePeriodSeconds": 0, "containers": [container]});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("p{number}")}, "spec": spec})
}

fn create(number: usize) -> Result<()> {
    let (status, answer) = ask("POST", PODS, Some(&pod(number)))?;
    ensure!(status == 201, "{status} {answer}");
    Ok(())
}

/// Asked for at once, waited for together.
fn delete(numbers: std::ops::Range<usize>) -> Result<()> {
    let left = |all: &[Value]| {
        all.iter().filter(|pod| numbers.clone().any(|number| pod["metadata"]["name"] == format!("p{number}"))).count()
    };
    for pod in list()? {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        if left(std::slice::from_ref(&pod)) > 0 {
            ask("DELETE", &format!("{PODS}/{name}"), None)?;
        }
    }
    wait("deleted pods are gone", || list().is_ok_and(|all| left(&all) == 0))
}

fn list() -> Result<Vec<Value>> {
    let (_, answer) = ask("GET", PODS, None)?;
    Ok(answer["items"].as_array().cloned().unwrap_or_default())
}

fn ready(number: usize) -> Result<()> {
    let is_ready = |pod: &Value| {
        let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
        conditions.into_iter().any(|own| own["type"] == "Ready" && own["status"] == "True")
    };
    wait("pods are ready", || list().is_ok_and(|all| all.iter().filter(|pod| is_ready(pod)).count() >= number))
}

fn wait(what: &str, mut is_so: impl FnMut() -> bool) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    while !is_so() {
        if Instant::now() > until {
            bail!("never: {what}");
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    Ok(())
}

/// Status and body; HTTP/1.0, so that the body is what comes until the end.
fn ask(method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value)> {
    let mut stream = UnixStream::connect(SOCKET)?;
    let body = body.map(Value::to_string).unwrap_or_default();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nHost: node\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.get(9..12).and_then(|code| code.parse().ok()).context("no status")?;
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
    Ok((status, serde_json::from_str(body).unwrap_or_default()))
}

/// The daemon, and what it started, by program; not what runs in containers.
fn processes(daemon: u32) -> Result<BTreeMap<String, Vec<u32>>> {
    // A monitor has a mount namespace of its own, and stays in the network namespace of its daemon.
    let mine = fs::read_link("/proc/self/ns/net")?;
    let mut all = BTreeMap::from([("monopod".to_owned(), vec![daemon])]);
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default().trim().to_owned();
        // Others may run pods beside us.
        let ours = match name.as_str() {
            "monitor" | "template" => fs::read_link(entry.path().join("ns/net")).is_ok_and(|own| own == mine),
            "pause" => parent(pid)
                .is_some_and(|parent| fs::read_link(format!("/proc/{parent}/ns/net")).is_ok_and(|own| own == mine)),
            _ => false,
        };
        if ours {
            all.entry(name).or_default().push(pid);
        }
    }
    Ok(all)
}

fn parent(pid: u32) -> Option<u64> {
    field(&PathBuf::from(format!("/proc/{pid}/status")), "PPid:")
}

/// proc_pid_smaps(5): RSS, PSS and what nobody shares, in KiB.
fn rollup(pid: u32) -> [u64; 3] {
    let path = PathBuf::from(format!("/proc/{pid}/smaps_rollup"));
    let of = |name: &str| field(&path, name).unwrap_or_default();
    [of("Rss:"), of("Pss:"), of("Private_Clean:") + of("Private_Dirty:")]
}

fn field(path: &std::path::Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

fn per_second(pods: usize, since: Instant) -> f64 {
    fraction(pods) / since.elapsed().as_secs_f64()
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn fraction(number: usize) -> f64 {
    number as f64
}
