//! Running probes and acting on their results (section 4).

use super::action::{ActionId, Todo};
use super::container::{Container, Run};
use super::event::{ProbeOutcome, Severity};
use super::grace::Cause;
use super::machine::{Machine, Mutant};
use super::probe::{Probe, Verdict};
use super::restart;
use super::spec::ProbeKind;
use super::timer::{Instant, Now};

impl Machine {
    /// Probes that tick now: startup until `started`, the others after it (PR4).
    pub(super) fn active_probes(&self, index: usize) -> Vec<ProbeKind> {
        let Some(container) = self.state.containers.get(index).filter(|c| c.is_running()) else {
            return Vec::new();
        };
        let active = |kind: &ProbeKind| match kind {
            ProbeKind::Startup => !container.started,
            ProbeKind::Liveness | ProbeKind::Readiness => container.started,
        };
        container.probes.keys().copied().filter(active).collect()
    }

    /// Starts every probe that is due, and gives up those whose answer is too late.
    pub(super) fn run_probes(&mut self, now: Now) -> bool {
        (0..self.state.containers.len())
            .any(|index| self.active_probes(index).into_iter().any(|kind| self.run_probe(index, kind, now)))
    }

    fn run_probe(&mut self, index: usize, kind: ProbeKind, now: Now) -> bool {
        let Some((spec, container)) = self.parts(index) else {
            return false;
        };
        let Some(spec) = spec.probe(kind) else {
            return false;
        };
        let Some(probe) = container.probes.get_mut(&kind) else {
            return false;
        };
        if let Some(late) = probe.give_up(now.mono) {
            self.cancel(late);
            return true;
        }
        let due = probe.due(spec, now.mono);
        due && self.begin_probe(index, kind, now)
    }

    fn begin_probe(&mut self, index: usize, kind: ProbeKind, now: Now) -> bool {
        let Some((spec, container)) = self.pair(index) else {
            return false;
        };
        let (Some(spec), Some(instance)) = (spec.probe(kind).cloned(), container.run.live()) else {
            return false;
        };
        let (handler, timeout) = (spec.handler.clone(), spec.timeout);
        let id = self.act(Todo::RunProbe { instance, kind, handler, timeout });
        if let Some(probe) = self.probe_mut(index, kind) {
            probe.begin(&spec, id, now.mono);
        }
        true
    }

    fn probe_mut(&mut self, index: usize, kind: ProbeKind) -> Option<&mut Probe> {
        self.state.containers.get_mut(index)?.probes.get_mut(&kind)
    }

    /// The probe that waits for this action.
    pub(super) fn find_probe(container: &Container, action: ActionId) -> Option<ProbeKind> {
        container.probes.iter().find(|(_, probe)| probe.action() == Some(action)).map(|(kind, _)| *kind)
    }

    /// Rules PR5-PR9.
    pub(super) fn probe_done(&mut self, index: usize, kind: ProbeKind, outcome: ProbeOutcome, now: Now) {
        let success = match outcome {
            ProbeOutcome::Success => true,
            ProbeOutcome::Warning(text) => {
                let message = format!("{kind} probe warning: {text}");
                self.record(Severity::Warning, "ProbeWarning", message, Some(index), now);
                true
            }
            ProbeOutcome::Failure(text) => {
                let message = format!("{kind} probe failed: {text}");
                self.record(Severity::Warning, "Unhealthy", message, Some(index), now);
                false
            }
            ProbeOutcome::Error(text) => return self.probe_erred(index, kind, &text, now),
        };
        let Some((spec, container)) = self.parts(index) else {
            return;
        };
        let (Some(spec), Some(probe)) = (spec.probe(kind), container.probes.get_mut(&kind)) else {
            return;
        };
        match probe.finished(spec, success) {
            Verdict::Unchanged => {}
            Verdict::Passed => self.probe_passed(index, kind, now),
            Verdict::Failed => self.probe_failed(index, kind, now),
        }
    }

    fn probe_erred(&mut self, index: usize, kind: ProbeKind, text: &str, now: Now) {
        if self.probe_mut(index, kind).is_some_and(Probe::erred) {
            self.begin_probe(index, kind, now);
            return;
        }
        let message = format!("{kind} probe errored and resulted in unknown state: {text}");
        self.record(Severity::Warning, "Unhealthy", message, Some(index), now);
    }

    fn probe_passed(&mut self, index: usize, kind: ProbeKind, now: Now) {
        match kind {
            ProbeKind::Startup => self.startup_passed(index, now.mono),
            ProbeKind::Liveness | ProbeKind::Readiness => {}
        }
    }

    fn startup_passed(&mut self, index: usize, now: Instant) {
        let Some((spec, container)) = self.parts(index) else {
            return;
        };
        let Run::Running { started, .. } = container.run else {
            return;
        };
        container.started = true;
        for (kind, probe) in &mut container.probes {
            let Some(spec) = spec.probe(*kind) else {
                continue;
            };
            match kind {
                ProbeKind::Startup => {}
                ProbeKind::Liveness => probe.activate(spec, now),
                ProbeKind::Readiness => {
                    probe.activate(spec, now);
                    probe.trigger(spec, started, now);
                }
            }
        }
    }

    fn probe_failed(&mut self, index: usize, kind: ProbeKind, now: Now) {
        match kind {
            ProbeKind::Readiness => {}
            ProbeKind::Startup | ProbeKind::Liveness => {
                let Some((spec, container)) = self.pair(index) else {
                    return;
                };
                if container.stop.is_some() {
                    return;
                }
                let grace = spec.probe(kind).and_then(|probe| probe.grace).unwrap_or(self.spec.grace);
                let restart = restart::restarts_after_probe(&self.spec, spec);
                self.begin_stop(index, Cause::Probe { kind, restart }, grace, now);
            }
        }
    }

    /// While a container is being stopped, startup and liveness are silent (TR5, PR8); readiness goes on.
    pub(super) fn hold_probes(&mut self, index: usize, cause: Cause) {
        let retire = match cause {
            Cause::PodEnds => true,
            Cause::Probe { .. }
            | Cause::PostStartHook
            | Cause::DefinitionChanged
            | Cause::Resize
            | Cause::SandboxChanged
            | Cause::RestartAll => false,
        };
        for kind in [ProbeKind::Startup, ProbeKind::Liveness] {
            let held = self.probe_mut(index, kind).and_then(|probe| if retire { probe.retire() } else { probe.hold() });
            if let Some(action) = held {
                self.cancel(action);
            }
        }
    }

    /// The pod is being deleted (PR12).
    pub(super) fn retire_probes(&mut self) {
        for index in 0..self.state.containers.len() {
            self.hold_probes(index, Cause::PodEnds);
        }
    }

    /// The instance is gone: what still runs against it is of no use.
    pub(super) fn cancel_probes(&mut self, index: usize) {
        let Some(container) = self.state.containers.get(index) else {
            return;
        };
        let running: Vec<ActionId> = container.probes.values().filter_map(Probe::action).collect();
        for action in running {
            self.cancel(action);
        }
    }

    /// Rule CS10; false for containers that are not up.
    pub(super) fn shows_ready(&self, index: usize) -> bool {
        let Some(container) = self.state.containers.get(index) else {
            return false;
        };
        let early = self.is_mutant(Mutant::ReadyTooEarly) && container.run.instance().is_some();
        early || (container.is_running() && container.is_ready())
    }
}
