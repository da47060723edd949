//! Pods under observation: `monopod run --output json`, each line with the moment at which it came.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};

use crate::host;

/// Longest that a test waits for one thing; the longest that one has to wait for is a back-off of 20 s.
const PATIENCE: Duration = Duration::from_secs(40);

/// A container of busybox that runs a script.
pub fn sh(name: &str, script: &str) -> Value {
    json!({"name": name, "image": "busybox", "imagePullPolicy": "Never", "command": ["sh", "-c", script]})
}

/// Ends with 0 at once when it is told to.
pub const OBEDIENT: &str = "trap 'exit 0' TERM; sleep 1000 & wait";
/// Ends by SIGKILL alone: it is PID 1 and has no handler.
pub const STUBBORN: &str = "exec sleep 1000";

/// An object with some of its fields replaced.
pub fn with(mut object: Value, fields: Value) -> Value {
    if let (Some(object), Value::Object(fields)) = (object.as_object_mut(), fields) {
        object.extend(fields);
    }
    object
}

pub fn pod(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})
}

/// One line: a `WatchEvent`.
#[derive(Debug, Clone)]
pub struct Line {
    pub at: Instant,
    pub kind: String,
    pub object: Value,
}

impl Line {
    fn parse(at: Instant, text: &str) -> Result<Self> {
        let mut event: Value = serde_json::from_str(text).with_context(|| format!("parse {text}"))?;
        let kind = event["type"].as_str().context("type")?.to_owned();
        Ok(Self { at, kind, object: event["object"].take() })
    }

    pub fn is_event(&self, reason: &str) -> bool {
        self.object["kind"] == "Event" && self.object["reason"] == reason
    }

    pub fn says(&self, reason: &str, message: &str) -> bool {
        self.is_event(reason) && self.object["message"] == message
    }

    /// The status of a container, when this is a pod.
    pub fn container(&self, name: &str) -> Option<&Value> {
        let lists = ["initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"];
        let all = lists.iter().flat_map(|list| self.object["status"][list].as_array().into_iter().flatten());
        all.into_iter().find(|status| status["name"] == name)
    }

    pub fn is_running(&self, name: &str) -> bool {
        self.container(name).is_some_and(|status| !status["state"]["running"].is_null())
    }

    pub fn is_terminated(&self, name: &str) -> bool {
        self.container(name).is_some_and(|status| !status["state"]["terminated"].is_null())
    }

    /// What the container waits for.
    pub fn waits_for(&self, name: &str) -> Option<&str> {
        self.container(name)?["state"]["waiting"]["reason"].as_str()
    }

    pub fn restarts(&self, name: &str) -> Option<u64> {
        self.container(name)?["restartCount"].as_u64()
    }

    pub fn phase(&self) -> Option<&str> {
        self.object["status"]["phase"].as_str()
    }

    /// `status reason message` of a condition.
    pub fn condition(&self, kind: &str) -> Option<String> {
        let all = self.object["status"]["conditions"].as_array()?;
        let one = all.iter().find(|condition| condition["type"] == kind)?;
        let words = ["status", "reason", "message"].iter().filter_map(|word| one[word].as_str());
        Some(words.collect::<Vec<_>>().join(" "))
    }
}

/// A run and what it has said so far.
#[derive(Debug)]
pub struct Watch {
    child: Child,
    lines: Receiver<Result<Line>>,
    pub seen: Vec<Line>,
    looked_at: usize,
    /// Of the last signal that was sent.
    pub asked: Option<Instant>,
    _manifest: tempfile::NamedTempFile,
}

impl Watch {
    /// Starts these objects' pods.
    pub fn start(objects: &[Value]) -> Result<Self> {
        Self::start_with(&[], objects)
    }

    pub fn start_with(arguments: &[&str], objects: &[Value]) -> Result<Self> {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        Self::start_text(arguments, &list.to_string(), ".json")
    }

    pub fn start_text(arguments: &[&str], text: &str, suffix: &str) -> Result<Self> {
        let manifest = tempfile::Builder::new().suffix(suffix).tempfile()?;
        std::fs::write(manifest.path(), text)?;
        let mut command = host::binary("monopod")?;
        command.args(["run", "--output", "json"]).args(arguments).arg(manifest.path());
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("start monopod")?;
        let pipe = BufReader::new(child.stdout.take().context("pipe")?);
        let (send, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for text in pipe.lines().map_while(Result::ok) {
                if send.send(Line::parse(Instant::now(), &text)).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, lines, seen: Vec::new(), looked_at: 0, asked: None, _manifest: manifest })
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// The next line, of those that no earlier call has looked at, that is so.
    pub fn until(&mut self, what: &str, is_so: impl Fn(&Line) -> bool) -> Result<Line> {
        loop {
            while let Some(line) = self.seen.get(self.looked_at) {
                self.looked_at += 1;
                if is_so(line) {
                    return Ok(line.clone());
                }
            }
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => self.seen.push(line?),
                Err(RecvTimeoutError::Timeout) => bail!("{what} did not come; what came:\n{}", self.story()),
                Err(RecvTimeoutError::Disconnected) => bail!("it ended without {what}; what came:\n{}", self.story()),
            }
        }
    }

    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.asked = Some(Instant::now());
        rustix::process::kill_process(self.pid(), signal).context("kill")
    }

    /// Deletes all pods, and waits until they are gone.
    pub fn delete(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait()
    }

    /// Waits for the run's own end.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => self.seen.push(line?),
                Err(RecvTimeoutError::Disconnected) => return self.child.wait().context("wait"),
                Err(RecvTimeoutError::Timeout) => bail!("it does not end; what came:\n{}", self.story()),
            }
        }
    }

    /// When something was said first.
    pub fn when(&self, what: &str, is_so: impl Fn(&Line) -> bool) -> Result<Instant> {
        let found = self.seen.iter().find(|line| is_so(line));
        found.map(|line| line.at).with_context(|| format!("{what} was never said:\n{}", self.story()))
    }

    pub fn count(&self, is_so: impl Fn(&Line) -> bool) -> usize {
        self.seen.iter().filter(|line| is_so(line)).count()
    }

    /// The last word on a pod.
    pub fn last(&self, name: &str) -> Result<&Line> {
        let of_pod = |line: &&Line| line.object["kind"] == "Pod" && line.object["metadata"]["name"] == name;
        self.seen.iter().rev().find(of_pod).with_context(|| format!("nothing was said of {name}"))
    }

    /// For people who look for why a test failed.
    fn story(&self) -> String {
        let Some(first) = self.seen.first().map(|line| line.at) else { return "nothing".to_owned() };
        let tell = |line: &Line| {
            let at = line.at.duration_since(first).as_secs_f64();
            if line.object["kind"] == "Event" {
                return format!("{at:7.3} {}: {}\n", line.object["reason"], line.object["message"]);
            }
            let lists = ["initContainerStatuses", "containerStatuses"];
            let states = lists.iter().flat_map(|list| line.object["status"][list].as_array().into_iter().flatten());
            let states: Vec<String> = states.map(|one| format!("{}: {}", one["name"], one["state"])).collect();
            format!("{at:7.3} {} {:?} {}\n", line.kind, line.phase(), states.join(", "))
        };
        self.seen.iter().map(tell).collect()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Fails when it has ended, which is what tests usually wait for.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

pub fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// Says what was measured, and that it lies within bounds.
pub fn measured(what: &str, span: Duration, bounds: std::ops::RangeInclusive<Duration>) -> Result<()> {
    println!("measured: {what}: {:.3} s (within {:?})", span.as_secs_f64(), bounds);
    ensure!(bounds.contains(&span), "{what} took {span:?}, not {bounds:?}");
    Ok(())
}

/// A directory that pods mount and tests read.
pub struct Shared {
    dir: tempfile::TempDir,
}

impl Shared {
    pub fn new() -> Result<Self> {
        Ok(Self { dir: tempfile::tempdir()? })
    }

    /// For `volumes` of a pod.
    pub fn volume(&self) -> Value {
        json!({"name": "shared", "hostPath": {"path": self.dir.path()}})
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn read(&self, name: &str) -> Result<String> {
        std::fs::read_to_string(self.path(name)).with_context(|| format!("read {name}"))
    }

    pub fn written_at(&self, name: &str) -> Result<std::time::SystemTime> {
        std::fs::metadata(self.path(name))?.modified().with_context(|| format!("time of {name}"))
    }
}

/// Mounts [`Shared`] on `/shared`.
pub fn mounting(container: Value) -> Value {
    with(container, json!({"volumeMounts": [{"name": "shared", "mountPath": "/shared"}]}))
}

/// A process, found by its name and a word of its cgroup.
pub fn process_of(name: &str, cgroup: &str) -> Result<Pid> {
    let found = processes_of(cgroup)?.into_iter().find(|(_, known)| known == name);
    found.map(|(pid, _)| pid).with_context(|| format!("no process {name} in a cgroup of {cgroup}"))
}

/// All processes whose cgroup has `word` in its path, with their names.
pub fn processes_of(word: &str) -> Result<Vec<(Pid, String)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw) else {
            continue;
        };
        let read = |name: &str| std::fs::read_to_string(entry.path().join(name)).unwrap_or_default();
        if read("cgroup").lines().any(|line| line.contains(word)) {
            found.push((pid, read("comm").trim().to_owned()));
        }
    }
    Ok(found)
}

/// The uid of a pod that has been announced.
pub fn uid(line: &Line) -> Result<&str> {
    line.object["metadata"]["uid"].as_str().context("uid")
}

/// Cgroups that a pod still has.
pub fn cgroups_of(uid: &str) -> Vec<PathBuf> {
    let mut open = vec![PathBuf::from("/sys/fs/cgroup")];
    let mut found = Vec::new();
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let path = entry.path();
                if Path::new(&entry.file_name()).to_string_lossy().contains(uid) {
                    found.push(path.clone());
                }
                open.push(path);
            }
        }
    }
    found
}
