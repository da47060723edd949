//! Texts of lifecycle hooks that failed (LC8).

use super::event::HookFailure;
use super::spec::{ContainerSpec, HookHandler, PodSpec};

/// What is said when a sleep is interrupted by the container's end (LC4).
pub(super) const SLEEP_INTERRUPTED: &str = "container terminated before sleep hook finished";

/// The waiting message of `PostStartHookError`.
pub(super) fn failure_message(
    pod: &PodSpec,
    container: &ContainerSpec,
    handler: &HookHandler,
    failure: &HookFailure,
) -> String {
    let place =
        format!("for Container {:?} in Pod {:?} failed - error: {}", container.name, pod.description(), failure.error);
    match handler {
        HookHandler::Exec { command } => {
            format!("Exec lifecycle hook ([{}]) {place}, message: {:?}", command.join(" "), failure.output)
        }
        HookHandler::HttpGet(get) => format!("HTTP lifecycle hook ({}) {place}", get.path),
        HookHandler::Sleep { seconds } => format!("Sleep lifecycle hook ({seconds}) {place}"),
        HookHandler::TcpSocket => "Cannot run handler: invalid handler".to_owned(),
    }
}
