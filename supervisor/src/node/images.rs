//! Finding the image that a container asks for, and pulling it.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Secret as ApiSecret;
use tokio::sync::Semaphore;

use super::context::Context;
use crate::engine::id::{ContainerId, SandboxId};
use crate::image::pull::Request;
use crate::image::pull::worker::{self, Kind, Refused};
use crate::image::registry::Secret;
use crate::image::registry::config::PullSecret;
use crate::image::store::StoreError;
use crate::image::{Image, Reference, Store};
use crate::pod::event::{ImageFailure, ImageReady, PullReport};
use crate::pod::spec::{PullPolicy, Signal};

/// Pulls that run at the same time; the others wait in the order in which they were asked for.
const PULLS_AT_ONCE: usize = 4;
static PULLS: Semaphore = Semaphore::const_new(PULLS_AT_ONCE);

/// Finds the image, or pulls it, as the policy says (section 3.2).
pub(super) async fn ensure(
    context: &Context,
    name: &str,
    policy: PullPolicy,
    pull_started: &dyn Fn(),
) -> Result<ImageReady, ImageFailure> {
    let store = &context.settings.images;
    let reference: Reference = name.parse().map_err(|_| ImageFailure::InvalidName)?;
    let secrets = secrets(context);
    // What another pod's secret brought here is not there for this pod (IP4).
    let present = find(store, name)?.filter(|image| store.allows(image, &reference, &secrets));
    match (present, policy) {
        (Some(image), PullPolicy::IfNotPresent | PullPolicy::Never) => return Ok(ready(&image, None)),
        // Who loaded an image by hand put it in the registry's place, mostly where there is none.
        (Some(image), PullPolicy::Always) if store.is_loaded(&image) => return Ok(ready(&image, None)),
        (None, PullPolicy::Never) => return Err(ImageFailure::NeverPull),
        (Some(_) | None, PullPolicy::Always) | (None, PullPolicy::IfNotPresent) => {}
    }
    pull_started();
    let asked = Instant::now();
    let _turn = PULLS.acquire().await;
    let request = Request { name: name.to_owned(), secrets };
    let mut tell = |progress| store.tell(name, progress);
    let pulled = worker::run(store.root(), &request, &mut tell).await.map_err(failure)?;
    let image = stored(store, name)?;
    let report = PullReport {
        took: Duration::from_millis(pulled.took_ms),
        took_with_waiting: asked.elapsed(),
        bytes: pulled.size,
    };
    for text in &pulled.skipped {
        context.warn(format!("image {name}: left out {text}"));
    }
    Ok(ready(&image, Some(report)))
}

fn failure(refused: Refused) -> ImageFailure {
    match refused.kind {
        Kind::Unavailable => ImageFailure::RegistryUnavailable(format!(": {}", refused.message)),
        Kind::Signature => ImageFailure::SignatureValidationFailed(format!(": {}", refused.message)),
        Kind::Other => ImageFailure::Pull(refused.message),
    }
}

/// An image that must be there.
pub(super) fn stored(store: &Store, name: &str) -> Result<Image, ImageFailure> {
    find(store, name)?.ok_or_else(|| ImageFailure::Inspect("it is gone from the image store".to_owned()))
}

/// Keeps a container's image as long as the container has a record, whoever dies.
pub(super) fn hold(
    context: &Context,
    image: &Image,
    sandbox: &SandboxId,
    container: &ContainerId,
) -> Result<(), StoreError> {
    let record = context.engine.dirs().container(sandbox, container);
    context.settings.images.hold(container.as_str(), image, &record)
}

/// Ends a hold. One that cannot be ended ends with the container's record.
pub(super) fn release(context: &Context, container: &ContainerId) {
    if let Err(error) = context.settings.images.release(container.as_str()) {
        tracing::debug!("release the image of {container}: {error}");
    }
}

/// Looks in the store alone.
fn find(store: &Store, name: &str) -> Result<Option<Image>, ImageFailure> {
    let reference: Reference = name.parse().map_err(|_| ImageFailure::InvalidName)?;
    store.resolve(&reference).map_err(|error| ImageFailure::Inspect(error.to_string()))
}

/// The pod's `imagePullSecrets`, as far as they are there (IP8).
fn secrets(context: &Context) -> Vec<PullSecret> {
    let Some(spec) = context.api_spec() else { return Vec::new() };
    let namespace = &context.reference.namespace;
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for reference in spec.image_pull_secrets.iter().flatten() {
        let secret = context.settings.objects.secret(namespace, &reference.name);
        match secret.and_then(|secret| pull_secret(&secret)) {
            Some(secret) => found.push(secret),
            None => missing.push(reference.name.as_str()),
        }
    }
    if !missing.is_empty() {
        let names = missing.join(", ");
        let text = format!(
            "Unable to retrieve some image pull secrets ({names}); attempting to pull the image may not succeed."
        );
        context.warning_event("FailedToRetrieveImagePullSecret", text);
    }
    found
}

/// Of both types that a kubelet knows; another type holds no logins.
fn pull_secret(secret: &ApiSecret) -> Option<PullSecret> {
    let (key, legacy) = match secret.type_.as_deref()? {
        "kubernetes.io/dockerconfigjson" => (".dockerconfigjson", false),
        "kubernetes.io/dockercfg" => (".dockercfg", true),
        _ => return None,
    };
    let plain = secret.string_data.as_ref().and_then(|data| data.get(key)).cloned();
    let encoded = || String::from_utf8(secret.data.as_ref()?.get(key)?.0.clone()).ok();
    Some(PullSecret {
        namespace: secret.metadata.namespace.clone().unwrap_or_default(),
        name: secret.metadata.name.clone().unwrap_or_default(),
        uid: secret.metadata.uid.clone().unwrap_or_default(),
        legacy,
        content: plain.or_else(encoded).map(Secret::new)?,
    })
}

fn ready(image: &Image, pulled: Option<PullReport>) -> ImageReady {
    let stop_signal = image.config.stop_signal.as_deref().and_then(signal);
    ImageReady { pulled, image_id: image.image_id(), stop_signal }
}

/// `SIGTERM`, `TERM` or a number, as image authors write it.
fn signal(text: &str) -> Option<Signal> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number).then_some(Signal(number));
    }
    let name = if text.starts_with("SIG") { text.to_owned() } else { format!("SIG{text}") };
    name.parse::<nix::sys::signal::Signal>().ok().map(|signal| Signal(signal as i32))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// LC11
    #[test]
    fn a_stop_signal_is_a_name_or_a_number() {
        for (text, expected) in [("SIGQUIT", Some(3)), ("TERM", Some(15)), ("9", Some(9)), ("99", None), ("SIGX", None)]
        {
            assert_eq!(signal(text), expected.map(Signal), "{text}");
        }
    }
}
