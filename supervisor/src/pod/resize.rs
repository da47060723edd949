//! In-place resize (section 5.10): what the node allocated reaches the cgroups of what runs, step by step.
//!
//! The spec holds what is allocated; a container remembers what its cgroup has. While the two differ, the pod's limits
//! rise, then containers that can be changed are changed and the others restarted, then the pod's limits fall.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::action::{ActionId, Instance, Todo};
use super::container::{Container, Run};
use super::event::Severity;
use super::grace::Cause;
use super::machine::{Goal, Machine, Sandbox};
use super::spec::{ContainerSpec, PodSpec, Resources, Role};
use super::start::TIMED_OUT;
use super::timer::{ENGINE_TIMEOUT, Earliest, Instant, Now, RESIZE_RETRY};

/// What the node says to a resize (RZ4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Allocated,
    Refused(Refusal),
}

/// Why a resize is not allocated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub reason: Reason,
    /// How the event names it: `Infeasible`, `OutOfcpu`.
    pub word: &'static str,
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// It does not fit now.
    Deferred,
    /// It never fits.
    Infeasible,
}

impl Reason {
    /// As the condition has it (CO7).
    pub fn name(self) -> &'static str {
        match self {
            Self::Deferred => "Deferred",
            Self::Infeasible => "Infeasible",
        }
    }
}

/// What is known of a pod's resize; nothing when what runs is what was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Resize {
    pub(super) pending: Option<Pending>,
    pub(super) progress: Option<Progress>,
}

/// CO7
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pending {
    pub(super) reason: Reason,
    pub(super) message: String,
    pub(super) generation: i64,
}

/// CO8
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Progress {
    pub(super) generation: i64,
    whole: Whole,
    asked: Option<Asked>,
    /// Why the newest step failed.
    pub(super) failed: Option<String>,
    /// No step before this instant.
    again: Option<Instant>,
}

/// How far the pod's own cgroup is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Whole {
    Stale,
    /// It has what containers will be given, and what they have.
    Raised,
    Written,
}

/// A step that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Asked {
    action: ActionId,
    give_up: Instant,
    containers: Vec<(Instance, Resources)>,
    lower: bool,
}

impl Progress {
    /// An action of an earlier life of the daemon is asked for again: it may not have happened.
    pub(super) fn forget_action(&mut self) {
        self.asked = None;
        self.again = None;
    }

    pub(super) fn deadline(&self, earliest: &mut Earliest) {
        match (&self.asked, self.again) {
            (Some(asked), _) => earliest.at(asked.give_up),
            (None, Some(again)) => earliest.at(again),
            (None, None) => {}
        }
    }
}

impl Machine {
    /// The resources of the spec that a user wrote, and what the node says to them (RZ4).
    pub fn resize(&mut self, wanted: &PodSpec, verdict: &Verdict, now: Now) {
        self.spec.generation = self.spec.generation.max(wanted.generation);
        match verdict {
            Verdict::Allocated => {
                self.state.resize.pending = None;
                self.allocate(wanted, now);
            }
            Verdict::Refused(refusal) => self.refuse(wanted, refusal, now),
        }
        self.settle(now);
    }

    fn refuse(&mut self, wanted: &PodSpec, refusal: &Refusal, now: Now) {
        let (reason, generation) = (refusal.reason, wanted.generation);
        let known = self.state.resize.pending.as_ref();
        let is_news = known.is_none_or(|known| (known.reason, known.generation) != (reason, generation));
        let pending = Pending { reason, message: refusal.message.clone(), generation };
        self.state.resize.pending = Some(pending);
        if is_news {
            let event = match reason {
                Reason::Deferred => "ResizeDeferred",
                Reason::Infeasible => "ResizeInfeasible",
            };
            let told = told(wanted, generation, Some(&refusal.message));
            self.record(Severity::Warning, event, format!("Pod resize {}: {told}", refusal.word), None, now);
        }
    }

    fn allocate(&mut self, wanted: &PodSpec, now: Now) {
        let mut changed = false;
        for (spec, container) in self.spec.containers.iter_mut().zip(&mut self.state.containers) {
            let new = wanted.containers.iter().find(|new| new.name == spec.name);
            let Some(new) = new.filter(|new| new.resources != spec.resources) else { continue };
            let old = std::mem::replace(&mut spec.resources, new.resources.clone());
            spec.resources_key.clone_from(&new.resources_key);
            container.actual.get_or_insert(old);
            changed = true;
        }
        if changed && self.state.goal != Goal::End {
            let generation = wanted.generation;
            let told = told(&self.spec, generation, None);
            self.record(Severity::Normal, "ResizeStarted", format!("Pod resize started: {told}"), None, now);
            let progress = Progress { generation, whole: Whole::Stale, asked: None, failed: None, again: None };
            self.state.resize.progress = Some(progress);
        }
    }

    /// One step towards what is allocated (IN1, RZ5, RZ7).
    pub(super) fn advance_resize(&mut self, now: Now) -> bool {
        match self.state.goal {
            Goal::Run => {}
            Goal::RestartAll | Goal::NewSandbox => return false,
            Goal::End => {
                let known = std::mem::take(&mut self.state.resize);
                return known != Resize::default();
            }
        }
        let Some(progress) = &self.state.resize.progress else { return false };
        if let Some(asked) = &progress.asked {
            let late = asked.give_up <= now.mono;
            if late {
                self.resize_failed(TIMED_OUT.to_owned(), now);
            }
            return late;
        }
        if let Some(again) = progress.again {
            let due = again <= now.mono;
            if let Some(progress) = self.state.resize.progress.as_mut().filter(|_| due) {
                progress.again = None;
            }
            return due;
        }
        let whole = progress.whole;
        let all = || 0..self.state.containers.len();
        let restart = all().find(|&index| self.restarts_for_resize(index));
        let waits = restart.is_some() || all().any(|index| self.waits_for_resize(index));
        match self.state.sandbox {
            Sandbox::Ready(_) => {
                let updates: Vec<(Instance, Resources)> = all().filter_map(|index| self.update_of(index)).collect();
                let is_written = match whole {
                    Whole::Stale => false,
                    Whole::Raised => waits,
                    Whole::Written => true,
                };
                if !updates.is_empty() || !is_written {
                    self.ask_resize(updates, !waits, now);
                    return true;
                }
            }
            // It is made of what is allocated.
            Sandbox::Absent | Sandbox::Waiting { .. } => {}
            Sandbox::Creating { .. } | Sandbox::Lost | Sandbox::Stopping { .. } | Sandbox::StopWaiting { .. } => {
                return false;
            }
        }
        if let Some(index) = restart {
            if let Some(container) = self.state.containers.get_mut(index) {
                container.resizing = true;
            }
            self.begin_stop(index, Cause::Resize, self.spec.grace, now);
            return true;
        }
        if !waits {
            self.resize_completed(now);
        }
        !waits
    }

    fn ask_resize(&mut self, containers: Vec<(Instance, Resources)>, lower: bool, now: Now) {
        let action = self.act(Todo::Resize { containers: containers.clone(), lower });
        for (instance, _) in &containers {
            if let Some(container) = self.state.containers.get_mut(usize::from(instance.container.0)) {
                container.unsure = true;
            }
        }
        if let Some(progress) = &mut self.state.resize.progress {
            let give_up = now.mono.after(ENGINE_TIMEOUT);
            progress.asked = Some(Asked { action, give_up, containers, lower });
        }
    }

    /// The answer to a step.
    pub(super) fn resized(&mut self, action: ActionId, result: Result<(), String>, now: Now) {
        let Some(progress) = &mut self.state.resize.progress else { return };
        let Some(asked) = progress.asked.take_if(|asked| asked.action == action) else { return };
        match result {
            Ok(()) => {
                progress.failed = None;
                progress.whole = if asked.lower { Whole::Written } else { Whole::Raised };
                for (instance, resources) in asked.containers {
                    let index = self.current(instance);
                    if let Some(container) = index.and_then(|index| self.state.containers.get_mut(index)) {
                        container.actual = Some(resources);
                        container.unsure = false;
                    }
                }
            }
            Err(error) => self.resize_failed(error, now),
        }
    }

    /// RZ4, RZ6: tried again.
    fn resize_failed(&mut self, error: String, now: Now) {
        let Some(progress) = &mut self.state.resize.progress else { return };
        progress.asked = None;
        progress.again = Some(now.mono.after(RESIZE_RETRY));
        if progress.failed.as_ref() == Some(&error) {
            return;
        }
        let told = told(&self.spec, progress.generation, Some(&error));
        progress.failed = Some(error);
        self.record(Severity::Warning, "ResizeError", format!("Pod resize error: {told}"), None, now);
    }

    fn resize_completed(&mut self, now: Now) {
        let Some(progress) = self.state.resize.progress.take() else { return };
        let told = told(&self.spec, progress.generation, None);
        self.record(Severity::Normal, "ResizeCompleted", format!("Pod resize completed: {told}"), None, now);
    }

    /// What a container that runs on is to be given.
    fn update_of(&self, index: usize) -> Option<(Instance, Resources)> {
        let (spec, container) = self.pair(index)?;
        let instance = container.run.live().filter(|_| container.stop.is_none())?;
        (differs(spec, container) && !needs_restart(spec, container)).then(|| (instance, spec.resources.clone()))
    }

    /// RZ7
    fn restarts_for_resize(&self, index: usize) -> bool {
        self.pair(index).is_some_and(|(spec, container)| {
            container.is_running() && container.stop.is_none() && needs_restart(spec, container)
        })
    }

    /// Something else has to happen to this container first.
    fn waits_for_resize(&self, index: usize) -> bool {
        self.pair(index).is_some_and(|(spec, container)| match container.run {
            Run::Absent | Run::Pulling { .. } => container.resizing && self.wants(index),
            Run::Running { .. } => container.stop.is_some() && differs(spec, container),
            Run::Creating { .. }
            | Run::Made { .. }
            | Run::Starting { .. }
            | Run::PostStart { .. }
            | Run::Removing { .. } => container.resizing || differs(spec, container),
        })
    }
}

/// The cgroup may have something else than what is allocated.
fn differs(spec: &ContainerSpec, container: &Container) -> bool {
    container.unsure || container.actual.as_ref().is_some_and(|actual| *actual != spec.resources)
}

/// RZ3: one of the resources that change does so only with a restart.
fn needs_restart(spec: &ContainerSpec, container: &Container) -> bool {
    let changes = |name: &String| container.actual.as_ref().is_some_and(|actual| !actual.same(&spec.resources, name));
    spec.restart_on_resize.iter().any(changes)
}

/// What an event tells of the resources: JSON as other nodes write it.
fn told(spec: &PodSpec, generation: i64, error: Option<&str>) -> String {
    #[derive(Serialize)]
    struct Amounts<'a> {
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        limits: &'a BTreeMap<String, String>,
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        requests: &'a BTreeMap<String, String>,
    }
    #[derive(Serialize)]
    struct Entry<'a> {
        name: &'a str,
        resources: Amounts<'a>,
    }
    #[derive(Serialize)]
    struct Told<'a> {
        #[serde(rename = "initContainers", skip_serializing_if = "Vec::is_empty")]
        init: Vec<Entry<'a>>,
        containers: Vec<Entry<'a>>,
        generation: i64,
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<&'a str>,
    }
    let of = |role: Role| -> Vec<Entry<'_>> {
        let own = spec.containers.iter().filter(|own| own.role == role);
        own.map(|ContainerSpec { name, resources: Resources { requests, limits }, .. }| Entry {
            name,
            resources: Amounts { limits, requests },
        })
        .collect()
    };
    let told = Told { init: of(Role::Sidecar), containers: of(Role::App), generation, error };
    serde_json::to_string(&told).unwrap_or_default()
}
