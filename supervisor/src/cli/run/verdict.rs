//! What a run's exit code says.

use std::process::ExitCode;

use crate::pod::spec::Role;
use crate::pod::status::{ContainerStatus, Phase, State, Status};

/// A pod so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Verdict {
    /// None of its containers has run yet.
    #[default]
    NothingRan,
    /// Its containers run, or have ended as they should.
    Ran,
    /// The code of the first container that failed by itself, or 1 when the pod failed as a whole.
    Failed(i32),
}

/// Some pod never had a running container.
const EXIT_NOTHING_RAN: u8 = 1;

impl Verdict {
    /// Takes in what the pod shows while nobody has asked it to end.
    pub(super) fn alive(&mut self, status: &Status) {
        self.note_starts(status);
        let failed = containers(status).filter(|container| container.role != Role::Sidecar).find_map(failure);
        let failed = failed.or_else(|| (status.phase == Phase::Failed).then_some(1));
        match (*self, failed) {
            (Self::NothingRan | Self::Ran, Some(code)) => *self = Self::Failed(code),
            (Self::NothingRan | Self::Ran, None) | (Self::Failed(_), _) => {}
        }
    }

    /// What containers that are told to end say is no failure.
    pub(super) fn ending(&mut self, status: &Status) {
        self.note_starts(status);
    }

    fn note_starts(&mut self, status: &Status) {
        if *self == Self::NothingRan && containers(status).any(has_run) {
            *self = Self::Ran;
        }
    }

    /// Of a pod that is gone.
    pub(super) fn exit_code(self) -> u8 {
        match self {
            Self::NothingRan => EXIT_NOTHING_RAN,
            Self::Ran => 0,
            Self::Failed(code) => u8::try_from(code).unwrap_or(1),
        }
    }
}

/// The first failure counts.
pub(super) fn exit_code(codes: &[u8]) -> ExitCode {
    codes.iter().copied().find(|code| *code != 0).map_or(ExitCode::SUCCESS, ExitCode::from)
}

fn containers(status: &Status) -> impl Iterator<Item = &ContainerStatus> {
    status.init.iter().chain(&status.apps).chain(&status.ephemeral)
}

fn failure(container: &ContainerStatus) -> Option<i32> {
    match &container.state {
        State::Terminated(ended) if ended.exit_code != 0 => Some(ended.exit_code),
        State::Waiting(_) | State::Running { .. } | State::Terminated(_) => None,
    }
}

fn has_run(container: &ContainerStatus) -> bool {
    let ended = match &container.state {
        State::Running { .. } => return true,
        State::Waiting(_) => None,
        State::Terminated(ended) => Some(ended),
    };
    ended.or(container.last.as_ref()).is_some_and(|ended| ended.reason != "StartError")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::machine::Machine;
    use crate::pod::spec::{ContainerSpec, PodSpec};
    use crate::pod::status::{Terminated, Waiting};
    use crate::pod::timer::{Instant, Now, WallTime};

    fn status(state: State, last: Option<Terminated>) -> Status {
        let mut spec = PodSpec::new("ns", "p", "u");
        spec.containers.push(ContainerSpec::new("c", Role::App, "busybox"));
        let mut status = Machine::new(spec, Now { mono: Instant(1), wall: WallTime(1) }).status();
        for container in &mut status.apps {
            container.state = state.clone();
            container.last.clone_from(&last);
        }
        status
    }

    fn ended(exit_code: i32, reason: &str) -> Terminated {
        let message = String::new();
        Terminated { exit_code, reason: reason.to_owned(), message, started: None, finished: None, id: String::new() }
    }

    fn waiting() -> State {
        State::Waiting(Waiting::default())
    }

    #[test]
    fn a_pod_whose_containers_never_ran_fails_the_run() {
        for (state, last, code) in [
            (waiting(), None, 1),
            (waiting(), Some(ended(128, "StartError")), 1),
            (waiting(), Some(ended(3, "Error")), 0),
            (State::Running { started: WallTime(1) }, None, 0),
            (State::Terminated(ended(7, "Error")), None, 7),
            (State::Terminated(ended(0, "Completed")), None, 0),
        ] {
            let mut verdict = Verdict::default();
            verdict.alive(&status(state.clone(), last));
            assert_eq!(verdict.exit_code(), code, "{state:?}");
        }
    }

    #[test]
    fn the_first_failure_stays_and_ends_on_request_are_none() {
        let mut verdict = Verdict::default();
        verdict.alive(&status(State::Terminated(ended(7, "Error")), None));
        verdict.alive(&status(State::Terminated(ended(8, "Error")), None));
        assert_eq!(verdict.exit_code(), 7);
        let mut asked = Verdict::default();
        asked.ending(&status(State::Terminated(ended(143, "Error")), None));
        assert_eq!(asked.exit_code(), 0);
    }
}
