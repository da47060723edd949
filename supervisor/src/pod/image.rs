//! The image of a container that is to start: presence, pull, back-off (sections 1.4, 3.2).

use super::action::{Instance, Todo};
use super::container::{Container, Run};
use super::event::{ImageFailure, ImageReady, Severity};
use super::machine::Machine;
use super::restart::{self, ImageBackOff, Turn};
use super::spec::Index;
use super::timer::{ENGINE_TIMEOUT, IMAGE_ERROR_SHOWN, Now, PULL_TIMEOUT, START_RETRY};

impl Machine {
    pub(super) fn ensure_image(&mut self, index: usize, now: Now) -> bool {
        let Some((spec, _)) = self.pair(index) else {
            return false;
        };
        let (image, policy) = (spec.image.clone(), spec.pull_policy);
        let held = self.state.images.get(&image).map(ImageBackOff::until).filter(|until| now.mono < *until);
        if let Some(until) = held {
            if let Some(container) = self.state.containers.get_mut(index) {
                container.begun = true;
                container.retry_at = Some(until);
            }
            self.image_backs_off(index, now);
            return true;
        }
        let container = Index(u16::try_from(index).unwrap_or(u16::MAX));
        let action = self.act(Todo::EnsureImage { container, image, policy });
        if let Some(container) = self.state.containers.get_mut(index) {
            container.begun = true;
            container.retry_at = None;
            container.run = Run::Pulling { action, give_up: now.mono.after(PULL_TIMEOUT) };
        }
        true
    }

    /// Rule IP5: what is shown between two attempts.
    fn image_backs_off(&mut self, index: usize, now: Now) {
        let Some((spec, _)) = self.pair(index) else {
            return;
        };
        let text = format!("Back-off pulling image {:?}", spec.image);
        let error = self.state.images.get(&spec.image).map(|back_off| back_off.error.clone());
        if let Some(container) = self.state.containers.get_mut(index) {
            let cause = error.map(|error| format!(": ErrImagePull: {error}")).unwrap_or_default();
            container.wait("ImagePullBackOff", format!("{text}{cause}"));
            container.image_error_until = None;
        }
        self.record(Severity::Normal, "BackOff", text, Some(index), now);
        self.record(Severity::Warning, "Failed", "Error: ImagePullBackOff".to_owned(), Some(index), now);
    }

    /// `ErrImagePull` was shown long enough.
    pub(super) fn flip_image_errors(&mut self, now: Now) -> bool {
        let due = |c: &Container| c.image_error_until.is_some_and(|at| at <= now.mono);
        let Some(index) = self.state.containers.iter().position(due) else {
            return false;
        };
        self.image_backs_off(index, now);
        true
    }

    /// Rule IP6 `Pulling`.
    pub(super) fn pull_started(&mut self, index: usize, now: Now) {
        let Some((spec, _)) = self.pair(index) else {
            return;
        };
        self.record(Severity::Normal, "Pulling", format!("Pulling image {:?}", spec.image), Some(index), now);
    }

    /// The image is there: the container is made of it.
    pub(super) fn image_ready(&mut self, index: usize, ready: ImageReady, now: Now) {
        let Some((spec, container)) = self.pair(index) else {
            return;
        };
        let (image, made_with) = (spec.image.clone(), spec.resources.clone());
        let entry = match self.crash_turn(spec, container, now) {
            Turn::Now(entry) => entry,
            Turn::Wait(..) => None,
        };
        let message = match &ready.pulled {
            None => format!("Container image {image:?} already present on machine and can be accessed by the pod"),
            Some(report) => format!(
                "Successfully pulled image {image:?} in {} ({} including waiting). Image size: {} bytes.",
                restart::go_duration_ms(report.took),
                restart::go_duration_ms(report.took_with_waiting),
                report.bytes
            ),
        };
        self.record(Severity::Normal, "Pulled", message, Some(index), now);
        self.state.images.remove(&image);
        let serial = self.next_number();
        let Some(container) = self.state.containers.get_mut(index) else {
            return;
        };
        container.back_off = entry.or(container.back_off.take());
        container.immediate = false;
        container.image_id.clone_from(&ready.image_id);
        container.image_stop_signal = ready.stop_signal;
        container.made_of = image;
        container.actual = Some(made_with);
        container.unsure = false;
        let instance = Instance {
            container: Index(u16::try_from(index).unwrap_or(u16::MAX)),
            serial,
            attempt: container.next_attempt,
        };
        let action = self.act(Todo::CreateContainer { instance, image_id: ready.image_id });
        self.set_run(index, Run::Creating { action, instance, give_up: now.mono.after(ENGINE_TIMEOUT) });
    }

    /// Rules of 1.4 and IP5, IP6 for each way in which there can be no image.
    pub(super) fn image_failed(&mut self, index: usize, failure: ImageFailure, now: Now) {
        let Some((spec, _)) = self.pair(index) else {
            return;
        };
        let image = spec.image.clone();
        let quoted = format!("{image:?}");
        let (reason, message, event, backs_off) = match failure {
            ImageFailure::Pull(error) => ("ErrImagePull", error, "Failed", true),
            ImageFailure::RegistryUnavailable(detail) => (
                "RegistryUnavailable",
                format!("image pull failed for {image} because the registry is unavailable{detail}"),
                "Failed",
                true,
            ),
            ImageFailure::SignatureValidationFailed(detail) => (
                "SignatureValidationFailed",
                format!("image pull failed for {image} because the signature validation failed{detail}"),
                "Failed",
                true,
            ),
            ImageFailure::NeverPull => (
                "ErrImageNeverPull",
                format!("Container image {quoted} is not present with pull policy of Never"),
                "ErrImageNeverPull",
                false,
            ),
            ImageFailure::InvalidName => (
                "InvalidImageName",
                format!(
                    "Failed to apply default image tag {quoted}: couldn't parse image name {quoted}: invalid reference format"
                ),
                "InspectFailed",
                false,
            ),
            ImageFailure::Inspect(error) => {
                ("ImageInspectError", format!("Failed to inspect image {quoted}: {error}"), "InspectFailed", false)
            }
        };
        let told = if backs_off { format!("Failed to pull image {quoted}: {message}") } else { message.clone() };
        self.record(Severity::Warning, event, told, Some(index), now);
        self.record(Severity::Warning, "Failed", format!("Error: {reason}"), Some(index), now);
        let retry_at = if backs_off {
            let next = ImageBackOff::next(self.state.images.get(&image), now.mono, message.clone());
            let until = next.until();
            self.state.images.insert(image, next);
            until
        } else {
            now.mono.after(START_RETRY)
        };
        let Some(container) = self.state.containers.get_mut(index) else {
            return;
        };
        container.run = Run::Absent;
        container.retry_at = Some(retry_at);
        container.wait(reason, message);
        container.image_error_until = backs_off.then(|| now.mono.after(IMAGE_ERROR_SHOWN));
    }

    /// The image in the spec changed: a start under way is begun anew, and no old back-off holds it.
    pub(super) fn image_changed(&mut self, index: usize) {
        let Some(container) = self.state.containers.get_mut(index) else {
            return;
        };
        let pulling = match container.run {
            Run::Pulling { action, .. } => Some(action),
            Run::Absent
            | Run::Creating { .. }
            | Run::Made { .. }
            | Run::Starting { .. }
            | Run::PostStart { .. }
            | Run::Running { .. }
            | Run::Removing { .. } => None,
        };
        container.retry_at = None;
        container.image_error_until = None;
        if let Some(action) = pulling {
            container.run = Run::Absent;
            self.cancel(action);
        }
    }
}
