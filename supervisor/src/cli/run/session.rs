//! One `monopod run` from its first pod to its last.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::mpsc;

use super::stop::{Requested, Stop};
use super::timeline::Timeline;
use super::verdict::{self, Verdict};
use super::view::View;
use super::{RunCommand, RunError, config, settings};
use crate::cli::admit::Admitted;
use crate::convert::machine;
use crate::engine::Engine;
use crate::engine::dirs::Dirs;
use crate::node::{Node, Notice};
use crate::pod::event::{KubeEvent, Severity};
use crate::pod::spec::PodSpec;
use crate::pod::status::{ContainerStatus, Phase, State, Status, Truth};

pub(super) struct Session {
    node: Node,
    notices: mpsc::UnboundedReceiver<Notice>,
    pods: BTreeMap<String, Shown>,
    view: View,
    timeline: Timeline,
    stage: Stage,
    /// Of the pods that are gone.
    codes: Vec<u8>,
}

/// Whether somebody has asked for the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Running,
    Ending,
}

/// What was shown of a pod.
struct Shown {
    label: String,
    /// By container, what it was last said to wait for.
    waiting: BTreeMap<String, String>,
    verdict: Verdict,
    life: Life,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Lives,
    /// It has reached a final phase and is being cleared away.
    Over,
}

impl Session {
    pub(super) async fn open(command: &RunCommand, admitted: Admitted, started: Instant) -> Result<Self, RunError> {
        let mut timeline = Timeline::new(started, command.timings);
        timeline.mark("manifests read");
        for warning in &admitted.warnings {
            eprintln!("warning: {warning}");
        }
        for kind in &admitted.ignored {
            eprintln!("warning: {kind} objects have no effect in `monopod run`");
        }
        let dirs = Dirs { data: command.data_dir.clone(), run: command.run_dir.clone(), log: command.log_dir.clone() };
        let mut pods = admitted.pods;
        // Claims and tokens are bound to pods by uid.
        pods.iter_mut().for_each(|pod| pod.metadata.uid = Some(uuid::Uuid::new_v4().to_string()));
        // While the network is looked at there is time for everything else.
        let (opened, prepared) = tokio::join!(Engine::open(config(command, &dirs)?), async {
            crate::node::warm_up();
            settings(command, &dirs, admitted.objects, &pods)
        });
        let ((engine, events), settings) = (opened?, prepared?);
        timeline.mark("engine open");
        let view = View::new(command.output, command.log_prefix, dirs.log, &settings.node)?;
        let node_name = settings.node.name.clone();
        let (node, notices) = Node::new(engine, events, settings);
        let (shown, codes) = (BTreeMap::new(), Vec::new());
        let mut session = Self { node, notices, pods: shown, view, timeline, stage: Stage::Running, codes };
        let several = pods.len() > 1;
        for mut pod in pods {
            bind(&mut pod, &node_name);
            session.add(pod, several)?;
        }
        Ok(session)
    }

    fn add(&mut self, pod: Pod, several: bool) -> Result<(), RunError> {
        let spec = machine::spec(&pod);
        self.view.add(&pod, &spec, several)?;
        self.pods.insert(spec.uid.clone(), Shown::new(&spec));
        self.node.add(pod, spec);
        Ok(())
    }

    pub(super) async fn run(&mut self, limit: Option<Duration>) -> Result<ExitCode, RunError> {
        let mut stop = Stop::new(limit)?;
        while !self.node.is_empty() {
            tokio::select! {
                () = self.node.step() => {}
                () = self.view.changed() => {}
                requested = stop.requested() => self.end(requested),
            }
            while let Ok(notice) = self.notices.try_recv() {
                self.show(notice);
            }
            if self.view.print() {
                self.timeline.mark_once("first line of output");
            }
        }
        self.node.engine().close().await?;
        self.timeline.print();
        Ok(verdict::exit_code(&self.codes))
    }

    fn end(&mut self, requested: Requested) {
        if self.stage == Stage::Running && std::io::stderr().is_terminal() {
            eprintln!("ending the pods gracefully; Ctrl-C again ends them at once");
        }
        self.stage = Stage::Ending;
        match requested {
            Requested::Gracefully => self.node.delete_all(),
            Requested::Now => self.node.end_all_at_once(),
        }
    }

    fn show(&mut self, notice: Notice) {
        match notice {
            Notice::Status { uid, status } => {
                self.view.status(&uid, &status);
                self.show_status(&uid, &status);
            }
            Notice::Event { uid, event } => {
                self.view.event(&uid, &event);
                self.say(&uid, &event);
            }
            Notice::Warning { uid, text } => eprintln!("warning: pod {}: {text}", self.label(&uid)),
            Notice::Removed { uid } => {
                self.view.removed(&uid);
                if let Some(shown) = self.pods.remove(&uid) {
                    self.timeline.mark_once(&format!("{} gone", shown.label));
                    if shown.verdict == Verdict::NothingRan {
                        eprintln!("pod {}: none of its containers has run", shown.label);
                    }
                    self.codes.push(shown.verdict.exit_code());
                }
            }
        }
    }

    /// On standard error stands what somebody at a terminal should know.
    fn say(&self, uid: &str, event: &KubeEvent) {
        // A back-off says again what its cause said.
        let news = event.severity == Severity::Warning && event.reason != "BackOff" && self.stage == Stage::Running;
        if news {
            eprintln!("pod {}: {}: {}", self.label(uid), event.reason, event.message);
        } else {
            tracing::debug!(pod = self.label(uid), reason = event.reason, "{}", event.message);
        }
    }

    fn label(&self, uid: &str) -> &str {
        self.pods.get(uid).map_or("", |shown| &shown.label)
    }

    fn show_status(&mut self, uid: &str, status: &Status) {
        let Some(shown) = self.pods.get_mut(uid) else { return };
        time_steps(&mut self.timeline, &shown.label, status);
        match (self.stage, shown.life) {
            (Stage::Running, Life::Lives) => {
                shown.verdict.alive(status);
                for container in status.init.iter().chain(&status.apps).chain(&status.ephemeral) {
                    shown.say_waiting(container);
                }
            }
            (Stage::Ending, _) | (Stage::Running, Life::Over) => shown.verdict.ending(status),
        }
        if status.phase.is_final() && shown.life == Life::Lives {
            shown.life = Life::Over;
            self.timeline.mark_once(&format!("containers of {} ended", shown.label));
            if status.phase == Phase::Failed && self.stage == Stage::Running {
                shown.say_failed(status);
            }
            self.node.delete(uid);
        }
    }
}

impl Shown {
    fn new(spec: &PodSpec) -> Self {
        let (waiting, verdict) = (BTreeMap::new(), Verdict::default());
        Self { label: spec.name.clone(), waiting, verdict, life: Life::Lives }
    }

    fn say_waiting(&mut self, container: &ContainerStatus) {
        let State::Waiting(waiting) = &container.state else { return };
        let text = format!("{}: {}", waiting.reason, waiting.message);
        if !waiting.message.is_empty() && self.waiting.get(&container.name) != Some(&text) {
            eprintln!("pod {}, container {}: {text}", self.label, container.name);
            self.waiting.insert(container.name.clone(), text);
        }
    }

    fn say_failed(&self, status: &Status) {
        let why = [status.reason.as_deref(), status.message.as_deref()].into_iter().flatten();
        let why: String = why.map(|word| format!(": {word}")).collect();
        eprintln!("pod {} failed{why}", self.label);
    }
}

/// What an API server and a scheduler would have added.
fn bind(pod: &mut Pod, node: &str) {
    let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or(Timestamp::UNIX_EPOCH);
    pod.metadata.creation_timestamp = Some(Time(now));
    if let Some(spec) = &mut pod.spec {
        spec.node_name.get_or_insert_with(|| node.to_owned());
    }
}

fn time_steps(timeline: &mut Timeline, label: &str, status: &Status) {
    let ready = |c: &&crate::pod::status::Condition| c.kind == "PodReadyToStartContainers" && c.status == Truth::True;
    if status.conditions.iter().any(|c| ready(&c)) {
        timeline.mark_once(&format!("sandbox of {label} ready"));
    }
    for container in status.init.iter().chain(&status.apps) {
        if let State::Running { .. } = container.state {
            timeline.mark_once(&format!("container {} of {label} running", container.name));
        }
    }
}
