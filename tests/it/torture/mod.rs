//! The daemon killed over and over while pods end on schedule and a client is promised things (F01, F02).
//!
//! `cargo xtask torture --kills N --seed S` runs more of it. A seed fixes pods, objects and where the kills are; what the
//! machine does meanwhile differs from run to run.

pub mod client;
mod pods;
mod random;
mod stopper;

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::ask::ask;
use crate::serve::{self, CONFIG, Daemon, MANIFESTS, with_busybox};
use crate::{Test, host, tests};

use client::{Client, Order};
use pods::{Plan, Seen};
use random::Random;
use stopper::{End, Kill};

pub fn tests() -> Vec<Test> {
    tests![Host: a_daemon_that_is_killed_all_the_time_loses_nothing]
}

/// How many kills; what CI does otherwise.
const KILLS: &str = "MONOPOD_TORTURE_KILLS";
const KILLS_IN_CI: u64 = 500;
/// The first seed.
const SEED: &str = "MONOPOD_TORTURE_SEED";
/// Crashing containers come back soon: nobody learns from waiting.
const OPTIONS: &str = "nodeName: n1\nmaxContainerRestartPeriod: 1s\n";
/// Between two looks at everything.
const KILLS_PER_ROUND: u64 = 25;
/// Longest that pods take to settle when nobody kills: a crash's back-off is among it.
const SETTLE: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Pods that nothing may disturb.
const COUNTERS: [&str; 3] = ["count-a", "count-b", "count-c"];

fn number(variable: &str, otherwise: u64) -> Result<u64> {
    match std::env::var(variable) {
        Ok(text) => text.parse().with_context(|| format!("{variable}={text}")),
        Err(_) => Ok(otherwise),
    }
}

fn a_daemon_that_is_killed_all_the_time_loses_nothing() -> Result<()> {
    let (kills, seed) = (number(KILLS, KILLS_IN_CI)?, number(SEED, 1)?);
    with_busybox(|| Torture::new(seed)?.run(kills))
        .with_context(|| format!("again with: cargo xtask torture --kills {kills} --seed {seed}"))
}

struct Torture {
    random: Random,
    client: Client,
    counters: BTreeMap<u32, u64>,
    totals: Totals,
}

#[derive(Debug, Default)]
struct Totals {
    at_calls: u64,
    in_time: u64,
    pods: usize,
    seen: Seen,
}

impl Torture {
    fn new(seed: u64) -> Result<Self> {
        let mut random = Random::new(seed);
        let client = Client::new(random.split());
        std::fs::create_dir_all(MANIFESTS)?;
        for name in COUNTERS {
            serve::put(&format!("{name}.yaml"), &serve::pod(name, "Always", serve::COUNT))?;
        }
        let daemon = Daemon::configured(OPTIONS)?;
        for name in COUNTERS {
            serve::wait_until("a counter", || serve::log(name).contains("line 3").then_some(()))?;
        }
        let counters =
            serve::main_processes().into_iter().map(|pid| Ok((pid, serve::started(pid)?))).collect::<Result<_>>()?;
        daemon.kill()?;
        Ok(Self { random, client, counters, totals: Totals::default() })
    }

    fn run(mut self, kills: u64) -> Result<()> {
        let began = Instant::now();
        let mut before: Vec<Plan> = Vec::new();
        let mut done = 0;
        let mut round = 0;
        while done < kills {
            let now = KILLS_PER_ROUND.min(kills - done);
            let plans = Plan::round(round, &mut self.random);
            self.round(&before, &plans, now).with_context(|| format!("round {round}, {done} kills before it"))?;
            before = plans;
            done += now;
            round += 1;
            eprintln!("{done} kills, {:.0} s", began.elapsed().as_secs_f64());
        }
        self.end(&before)?;
        let Totals { at_calls, in_time, pods, seen } = &self.totals;
        eprintln!(
            "{done} kills ({at_calls} at a call, {in_time} in time) in {:.0} s: {pods} pods, {} exit codes, {} log lines, {} counted lines, \
             {} answers, {} requests without one; 0 lost, {} processes undisturbed",
            began.elapsed().as_secs_f64(),
            seen.codes,
            seen.lines,
            self.counted()?,
            self.client.acknowledged,
            self.client.unanswered,
            self.counters.len(),
        );
        Ok(())
    }

    /// The pods of the round before go, those of this one come, and the daemon dies all the time.
    fn round(&mut self, before: &[Plan], plans: &[Plan], kills: u64) -> Result<()> {
        let deletions = before.iter().map(|plan| Order::Delete(plan.name.clone()));
        let orders: Vec<Order> = plans.iter().map(|plan| Order::Create(plan.manifest())).chain(deletions).collect();
        let stop = AtomicBool::new(false);
        let (client, random, totals) = (&mut self.client, &mut self.random, &mut self.totals);
        let daemon = std::thread::scope(|scope| {
            let work = scope.spawn(|| client.work(orders, &stop));
            let killed = kill_often(random, kills, totals);
            let daemon = killed.and_then(|()| Daemon::configured(OPTIONS));
            stop.store(true, Ordering::Relaxed);
            let worked =
                if daemon.is_ok() { work.join().unwrap_or_else(|_| bail!("the client panicked")) } else { Ok(()) };
            daemon.and_then(|daemon| worked.map(|()| daemon))
        })?;
        for plan in plans {
            let pod = settled(plan)?;
            let seen = plan.check(&pod)?;
            self.totals.pods += 1;
            self.totals.seen.codes += seen.codes;
            self.totals.seen.lines += seen.lines;
        }
        for plan in before {
            wait(&format!("{} is gone", plan.name), || (get(&plan.name).0 == 404).then_some(()))?;
        }
        self.client.check_all()?;
        self.check_counters()?;
        daemon.kill()
    }

    /// Same process, same start, no line missing.
    fn check_counters(&self) -> Result<()> {
        for (pid, start) in &self.counters {
            ensure!(serve::started(*pid).ok() == Some(*start), "process {pid} was disturbed");
        }
        self.counted().map(|_| ())
    }

    fn counted(&self) -> Result<usize> {
        COUNTERS.iter().map(|name| serve::consecutive(&serve::log(name)).context(*name)).sum()
    }

    /// Nothing is left when everything was deleted.
    fn end(&mut self, before: &[Plan]) -> Result<()> {
        let daemon = Daemon::configured(OPTIONS)?;
        let orders = before.iter().map(|plan| Order::Delete(plan.name.clone())).collect();
        self.client.work(orders, &AtomicBool::new(true))?;
        let counted = self.counted()?;
        ensure!(counted > 0, "nothing was counted");
        for plan in before {
            wait(&format!("{} is gone", plan.name), || (get(&plan.name).0 == 404).then_some(()))?;
        }
        let left = ["/var/lib/monopod/sandboxes", "/var/lib/monopod/pods", "/var/lib/monopod/scratch"];
        let others = ["/var/lib/monopod/machines", "/run/monopod/sandboxes", "/var/log/pods", "/var/log/containers"];
        for dir in left.into_iter().chain(others) {
            // The object of a pod that has ended goes first.
            wait(&format!("{dir}: {:?}", serve::names(dir)), || {
                (serve::names(dir).len() <= COUNTERS.len()).then_some(())
            })?;
        }
        let processes = serve::main_processes();
        ensure!(processes.iter().eq(self.counters.keys()), "processes are left: {processes:?}, {:?}", self.counters);
        daemon.kill()
    }
}

fn kill_often(random: &mut Random, kills: u64, totals: &mut Totals) -> Result<()> {
    for _ in 0..kills {
        let plan = Kill::plan(random);
        match stopper::live(command()?, plan).with_context(|| plan.to_string())? {
            End::AtCall => totals.at_calls += 1,
            End::InTime => totals.in_time += 1,
            End::ByItself => bail!("the daemon ended by itself; it was to be killed {plan}"),
        }
    }
    Ok(())
}

fn command() -> Result<Command> {
    let log = std::fs::File::options().create(true).append(true).open("/run/serve.log")?;
    let mut command = host::binary("monopod")?;
    command.args(["-v", "serve", "--config", CONFIG]).stdin(Stdio::null()).stderr(log);
    Ok(command)
}

fn get(name: &str) -> (u16, Value) {
    ask("GET", &format!("/api/v1/namespaces/default/pods/{name}"), None).unwrap_or_default()
}

fn settled(plan: &Plan) -> Result<Value> {
    let mut last = Value::Null;
    let settled = wait(&format!("{} settles", plan.name), || {
        last = get(&plan.name).1;
        plan.is_settled(&last).then(|| last.clone())
    });
    settled.with_context(|| last.to_string())
}

fn wait<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let until = Instant::now() + SETTLE;
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        ensure!(Instant::now() < until, "never: {what}");
        std::thread::sleep(LOOK_AGAIN);
    }
}
