//! Finding the image that a container asks for.

use crate::image::{Image, Reference, Store};
use crate::pod::event::{ImageFailure, ImageReady};
use crate::pod::spec::{PullPolicy, Signal};

/// Looks in the store alone: nothing is pulled from registries yet.
pub(super) fn find(store: &Store, name: &str, policy: PullPolicy) -> Result<Image, ImageFailure> {
    let reference: Reference = name.parse().map_err(|_| ImageFailure::InvalidName)?;
    let found = store.resolve(&reference).map_err(|error| ImageFailure::Inspect(error.to_string()))?;
    found.ok_or_else(|| match policy {
        PullPolicy::Never => ImageFailure::NeverPull,
        PullPolicy::Always | PullPolicy::IfNotPresent => ImageFailure::Pull(format!(
            "{} is not in the image store and pulling is not supported yet: get it with `monopod image load`",
            reference.familiar()
        )),
    })
}

pub(super) fn ready(image: &Image) -> ImageReady {
    let stop_signal = image.config.stop_signal.as_deref().and_then(signal);
    ImageReady { pulled: None, image_id: image.image_id(), stop_signal }
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
