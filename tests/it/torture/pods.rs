//! Pods that end on schedule, and what must be known of them afterwards.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::random::Random;

const LOGS: &str = "/var/log/pods";

/// A container whose instances end with these codes, one after the other.
#[derive(Debug, Clone)]
struct Planned {
    name: &'static str,
    /// None runs until it is told to end.
    codes: Vec<Option<i64>>,
    lines: u64,
    init: bool,
    /// A sidecar: it says when it has written all its lines.
    always: bool,
    /// Begins only then.
    waits: bool,
}

/// A pod and its fate.
#[derive(Debug, Clone)]
pub struct Plan {
    pub name: String,
    policy: &'static str,
    containers: Vec<Planned>,
    phase: &'static str,
}

/// Between two lines.
const PACE: &str = "0.01";

impl Planned {
    fn new(name: &'static str, codes: &[Option<i64>], random: &mut Random) -> Self {
        Self { name, codes: codes.to_vec(), lines: random.below(40), init: false, always: false, waits: false }
    }

    fn init(self) -> Self {
        Self { init: true, ..self }
    }

    /// Counts its instances in a volume, writes its lines, and ends as planned.
    fn script(&self) -> String {
        let ends: String = self
            .codes
            .iter()
            .enumerate()
            .map(|(number, code)| match code {
                Some(code) => format!("{number}) exit {code};; "),
                None => format!("{number}) while :; do sleep 1000 & wait; done;; "),
            })
            .collect();
        let Self { name, lines, .. } = self;
        let waits = if self.waits { "while [ ! -e /d/written ]; do sleep 0.01 & wait; done; " } else { "" };
        let written = if self.always { ": > /d/written; " } else { "" };
        format!(
            "trap 'echo bye; exit 0' TERM; {waits}n=$(cat /d/{name} 2>/dev/null || echo 0); echo $((n+1)) > /d/{name}; echo run $n; i=0; \
             while [ $i -lt {lines} ]; do echo line $i; i=$((i+1)); sleep {PACE} & wait; done; echo end; {written}\
             case $n in {ends}*) echo unplanned; exit 99;; esac"
        )
    }

    fn manifest(&self) -> Value {
        let mut container = json!({
            "name": self.name, "image": "busybox", "imagePullPolicy": "Never",
            "command": ["sh", "-c", self.script()],
            "volumeMounts": [{"name": "d", "mountPath": "/d"}]
        });
        if self.always {
            container["restartPolicy"] = json!("Always");
        }
        container
    }

    /// What its instance of this number wrote.
    fn log(&self, number: usize, told: bool) -> Vec<String> {
        let lines = (0..self.lines).map(|line| format!("line {line}"));
        let bye = told.then(|| "bye".to_owned());
        [format!("run {number}")].into_iter().chain(lines).chain(["end".to_owned()]).chain(bye).collect()
    }
}

impl Plan {
    /// One of each kind for a round.
    pub fn round(round: u64, random: &mut Random) -> Vec<Self> {
        let code = |random: &mut Random| Some(1 + i64::from(random.below(90).to_le_bytes()[0]));
        let mut plans = Vec::new();
        let mut add = |kind: &str, policy, phase, containers| {
            plans.push(Self { name: format!("r{round}-{kind}"), policy, containers, phase });
        };
        let one = code(random);
        add("never", "Never", "Failed", vec![Planned::new("app", &[one], random)]);
        add(
            "done",
            "Never",
            "Succeeded",
            vec![Planned::new("app", &[Some(0)], random), Planned::new("other", &[Some(0)], random)],
        );
        let again = [code(random), Some(0)];
        add("again", "OnFailure", "Succeeded", vec![Planned::new("app", &again, random)]);
        let stays = [code(random), None];
        add("stays", "Always", "Running", vec![Planned::new("app", &stays, random)]);
        let (failing, last) = ([code(random), Some(0)], [code(random), Some(0)]);
        add(
            "init",
            "OnFailure",
            "Succeeded",
            vec![
                Planned::new("first", &[Some(0)], random).init(),
                Planned::new("second", &failing, random).init(),
                Planned::new("app", &last, random),
            ],
        );
        add(
            "sidecar",
            "Never",
            "Succeeded",
            vec![
                Planned { always: true, ..Planned::new("side", &[None], random).init() },
                Planned { waits: true, ..Planned::new("app", &[Some(0)], random) },
            ],
        );
        plans
    }

    pub fn manifest(&self) -> Value {
        let of = |init: bool| -> Vec<Value> {
            self.containers.iter().filter(|own| own.init == init).map(Planned::manifest).collect()
        };
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": self.name},
            "spec": {
                "restartPolicy": self.policy, "terminationGracePeriodSeconds": 5,
                "volumes": [{"name": "d", "emptyDir": {}}],
                "initContainers": of(true), "containers": of(false)
            }
        })
    }

    /// Whether it has come to where it ends, or rests.
    pub fn is_settled(&self, pod: &Value) -> bool {
        let settled = |own: &Planned| {
            let state = &status_of(pod, own)["state"];
            let rests = own.codes.last().is_some_and(Option::is_none) && !own.always;
            if rests {
                !state["running"].is_null() && self.has_written(pod, own)
            } else {
                !state["terminated"].is_null()
            }
        };
        pod["status"]["phase"] == self.phase && self.containers.iter().all(settled)
    }

    fn has_written(&self, pod: &Value, own: &Planned) -> bool {
        let number = own.codes.len() - 1;
        read_log(&self.log_dir(pod, own), number).is_ok_and(|log| log == own.log(number, false))
    }

    fn log_dir(&self, pod: &Value, own: &Planned) -> PathBuf {
        let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
        Path::new(LOGS).join(format!("default_{}_{uid}", self.name)).join(own.name)
    }

    /// Everything that must be known; how many exit codes and lines that was.
    pub fn check(&self, pod: &Value) -> Result<Seen> {
        let mut seen = Seen::default();
        for own in &self.containers {
            self.check_container(pod, own, &mut seen)
                .with_context(|| format!("{}, container {}: {}", self.name, own.name, status_of(pod, own)))?;
        }
        Ok(seen)
    }

    fn check_container(&self, pod: &Value, own: &Planned, seen: &mut Seen) -> Result<()> {
        let status = status_of(pod, own);
        let runs = own.codes.len();
        ensure!(status["restartCount"] == runs - 1, "it ran {runs} times");
        // The last ended instance, or the one before the last.
        let told = own.always;
        let last = own.codes.last().copied().flatten().or(told.then_some(0));
        if let Some(code) = last {
            ensure!(status["state"]["terminated"]["exitCode"] == code, "it ended with {code}");
            seen.codes += 1;
        }
        if let Some(Some(code)) = runs.checked_sub(2).and_then(|index| own.codes.get(index)) {
            ensure!(status["lastState"]["terminated"]["exitCode"] == *code, "it had ended with {code}");
            seen.codes += 1;
        }
        let dir = self.log_dir(pod, own);
        for number in 0..runs {
            let expected = own.log(number, told);
            let log = read_log(&dir, number)?;
            ensure!(log == expected, "{number}.log is {log:?} and not {expected:?}");
            seen.lines += log.len();
        }
        let more = dir.join(format!("{runs}.log"));
        ensure!(!more.exists(), "{} is there", more.display());
        Ok(())
    }
}

/// Totals of a check.
#[derive(Debug, Default, Clone, Copy)]
pub struct Seen {
    pub codes: usize,
    pub lines: usize,
}

fn status_of<'a>(pod: &'a Value, own: &Planned) -> &'a Value {
    let list = if own.init { "initContainerStatuses" } else { "containerStatuses" };
    let all = pod["status"][list].as_array();
    all.and_then(|all| all.iter().find(|one| one["name"] == own.name)).unwrap_or(&Value::Null)
}

/// Contents of a log's lines; each must be whole.
fn read_log(dir: &Path, number: usize) -> Result<Vec<String>> {
    let path = dir.join(format!("{number}.log"));
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let content = |line: &str| {
        let content = line.split_once(" stdout F ").map(|(_, content)| content.to_owned());
        content.with_context(|| format!("{}: {line:?} is no whole line", path.display()))
    };
    text.lines().map(content).collect()
}
