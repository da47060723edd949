//! The wall clock goes back a day under a node that runs: what is waited for comes all the same (D44), and a daemon that
//! starts afterwards finds everything.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};
use serde_json::{Value, json};

use crate::life_watch::{OBEDIENT, measured, pod, sh, with};
use crate::serve::{COUNT, Daemon, consecutive, with_busybox};
use crate::{Test, ask, host, tests};

pub fn tests() -> Vec<Test> {
    tests![Vm: a_clock_that_goes_back_a_day_holds_nothing_up]
}

const DAY_SECONDS: i64 = 86_400;
/// Emulated machines are slow; far less than a day all the same.
const PATIENCE: Duration = Duration::from_secs(60);
const GRACE: Duration = Duration::from_secs(3);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The wall clock as it was before, set right again at the end.
struct Yesterday {
    /// What the wall clock is ahead of the monotonic one.
    right: i64,
}

impl Yesterday {
    fn begin() -> Result<Self> {
        let right = clock_gettime(ClockId::Realtime).tv_sec - clock_gettime(ClockId::Monotonic).tv_sec;
        set(right - DAY_SECONDS).context("clock_settime")?;
        Ok(Self { right })
    }
}

impl Drop for Yesterday {
    fn drop(&mut self) {
        // It could be set the other way, so this works, too.
        let _right = set(self.right);
    }
}

fn set(ahead: i64) -> rustix::io::Result<()> {
    let seconds = clock_gettime(ClockId::Monotonic).tv_sec + ahead;
    clock_settime(ClockId::Realtime, Timespec { tv_sec: seconds, tv_nsec: 0 })
}

fn wall() -> i64 {
    clock_gettime(ClockId::Realtime).tv_sec
}

fn wait_until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if began.elapsed() > PATIENCE {
            bail!("never: {what}\n{}", monopod(&["get", "pods", "-o", "yaml"]).unwrap_or_default());
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

fn monopod(arguments: &[&str]) -> Result<String> {
    let output = host::binary("monopod")?.args(arguments).output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    ensure!(output.status.success(), "monopod {arguments:?}: {}", text(&output.stderr));
    Ok(text(&output.stdout))
}

fn start() -> Result<Daemon> {
    let _old = std::fs::remove_file(ask::SOCKET);
    let daemon = Daemon::configured("nodeName: n1\nmaxContainerRestartPeriod: 3s\n")?;
    wait_until("the socket", || Path::new(ask::SOCKET).exists().then_some(()))?;
    wait_until("the account", || ask::get("/api/v1/namespaces/default/serviceaccounts/default"))?;
    Ok(daemon)
}

fn apply(objects: &[Value]) -> Result<String> {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    let file = tempfile::Builder::new().suffix(".json").tempfile()?;
    std::fs::write(file.path(), list.to_string())?;
    monopod(&["apply", "-f", &file.path().display().to_string()])
}

/// The status of a pod's container.
fn container(name: &str) -> Option<Value> {
    Some(ask::pod(name)?["status"]["containerStatuses"][0].clone())
}

fn restarts(name: &str) -> Option<i64> {
    container(name)?["restartCount"].as_i64()
}

fn instance(name: &str) -> Option<String> {
    Some(container(name)?["containerID"].as_str()?.to_owned())
}

fn is_ready(name: &str) -> Option<bool> {
    container(name)?["ready"].as_bool()
}

/// When the pod's token was issued: the second part of a JSON Web Token is what it claims.
fn issued(name: &str) -> Option<i64> {
    let path = "/var/run/secrets/kubernetes.io/serviceaccount/token";
    let script = format!("cut -d. -f2 {path} | tr _- /+ | base64 -d 2>/dev/null || true");
    let claims = monopod(&["exec", name, "--", "sh", "-c", &script]).ok()?;
    let (_, rest) = claims.split_once("\"iat\":")?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn lines(name: &str) -> usize {
    consecutive(&ask::logs(name).unwrap_or_default()).unwrap_or(0)
}

/// Counts; crashes and waits for its next start; answers a probe as a file says; ignores the request to end.
fn pods() -> [Value; 4] {
    let probed = json!({"readinessProbe": {"exec": {"command": ["test", "-e", "/tmp/ready"]}, "periodSeconds": 1}});
    let own = |name: &str, container: Value| {
        pod(name, json!({"terminationGracePeriodSeconds": GRACE.as_secs(), "containers": [container]}))
    };
    [
        // A process every 20 ms would be what this machine is busy with.
        own("counts", sh("c", &COUNT.replace("0.02", "0.2"))),
        own("crashes", sh("c", "exit 3")),
        own("probed", with(sh("c", OBEDIENT), probed)),
        own("stubborn", sh("c", "exec sleep 1000")),
    ]
}

fn a_clock_that_goes_back_a_day_holds_nothing_up() -> Result<()> {
    with_busybox(|| {
        let daemon = start()?;
        apply(&pods())?;
        wait_until("it counts", || (lines("counts") > 3).then_some(()))?;
        wait_until("it has crashed", || {
            (container("crashes")?["state"]["waiting"]["reason"] == "CrashLoopBackOff").then_some(())
        })?;
        wait_until("all run", || is_ready("stubborn").filter(|ready| *ready))?;
        wait_until("it has a token", || issued("counts"))?;
        ensure!(is_ready("probed") == Some(false), "the probe fails as long as there is no file");
        let before = instance("counts").context("counts")?;

        let yesterday = Yesterday::begin()?;
        let began = Instant::now();
        what_is_waited_for_comes().context("a daemon that goes on")?;
        measured("token, probe and back-off after the jump", began.elapsed(), Duration::ZERO..=PATIENCE)?;
        daemon.kill()?;
        let daemon = start().context("a daemon that starts in the past")?;
        what_is_waited_for_comes().context("a daemon that was started in the past")?;
        what_is_shown_is_sane()?;
        ensure!(instance("counts").as_deref() == Some(&before), "a container was disturbed");
        let began = Instant::now();
        monopod(&["delete", "pod", "stubborn"])?;
        measured("the end of a stubborn pod", began.elapsed(), GRACE..=PATIENCE)?;
        monopod(&["delete", "pod", "counts", "crashes", "probed"])?;
        drop(yesterday);
        daemon.kill()
    })
}

fn what_is_waited_for_comes() -> Result<()> {
    let crashed = restarts("crashes").context("crashes")?;
    wait_until("the token is of now", || issued("counts").filter(|issued| *issued <= wall()))?;
    monopod(&["exec", "probed", "--", "touch", "/tmp/ready"])?;
    wait_until("the probe is asked", || is_ready("probed").filter(|ready| *ready))?;
    wait_until("the back-off ends", || restarts("crashes").filter(|count| *count > crashed))?;
    let counted = lines("counts");
    wait_until("it counts on", || (lines("counts") > counted).then_some(()))?;
    Ok(())
}

/// As kubectl shows what lies ahead; what is new has a time of now.
fn what_is_shown_is_sane() -> Result<()> {
    let pods = monopod(&["get", "pods"])?;
    ensure!(pods.lines().count() == 5 && pods.contains("<invalid>"), "made tomorrow:\n{pods}");
    let made = ask::pod("crashes").context("crashes")?["metadata"]["creationTimestamp"].clone();
    let made = made.as_str().context("creationTimestamp")?;
    let events: Value = serde_json::from_str(&monopod(&["get", "events", "-o", "json"])?)?;
    let all = events["items"].as_array().context("items")?;
    // RFC 3339 in UTC sorts as text.
    let of_now = all.iter().filter(|event| event["lastTimestamp"].as_str().is_some_and(|last| last < made)).count();
    ensure!(of_now >= 1 && of_now < all.len(), "{of_now} events of now: {events}");
    ensure!(monopod(&["events"])?.lines().count() > 5, "events are shown");
    let told = monopod(&["describe", "pod", "crashes"])?;
    ensure!(told.contains("Back-off restarting"), "{told}");
    Ok(())
}
