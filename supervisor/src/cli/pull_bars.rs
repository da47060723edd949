//! How pulls look while they run: a bar for each layer on a terminal, plain lines elsewhere.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::sync::{Mutex, PoisonError};

use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressStyle};

use crate::image::pull::Progress;
use crate::image::store::Watcher;

/// The bars of all pulls of a command.
#[derive(Debug)]
pub struct PullBars {
    /// None where nobody could see them.
    all: Option<MultiProgress>,
    layers: Mutex<BTreeMap<(String, usize), ProgressBar>>,
}

impl Default for PullBars {
    fn default() -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { all: terminal.then(MultiProgress::new), layers: Mutex::default() }
    }
}

/// Shows the pulls of pods.
pub fn watcher() -> Watcher {
    let bars = PullBars::default();
    Box::new(move |name, progress| bars.show(name, progress))
}

impl PullBars {
    pub fn show(&self, name: &str, progress: Progress) {
        match (progress, &self.all) {
            (Progress::Started, None) => super::tell(format_args!("pulling {name}")),
            (Progress::Layers { count, missing, bytes }, None) => {
                super::tell(format_args!("{name}: {missing} of {count} layers to pull, {}", HumanBytes(bytes)));
            }
            (Progress::LayerDone { number }, None) => super::tell(format_args!("{name}: layer {number} done")),
            (Progress::Layer { .. }, None) | (Progress::Started | Progress::Layers { .. }, Some(_)) => {}
            (Progress::Layer { number, bytes, total }, Some(all)) => {
                let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
                let bar = layers.entry((name.to_owned(), number)).or_insert_with(|| all.add(bar(name, number, total)));
                bar.set_position(bytes);
            }
            (Progress::LayerDone { number }, Some(all)) => {
                let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(bar) = layers.remove(&(name.to_owned(), number)) {
                    bar.finish_and_clear();
                    all.remove(&bar);
                }
            }
        }
    }

    /// Takes away what is still shown.
    pub fn clear(&self) {
        if let Some(all) = &self.all {
            // A terminal that is gone shows nothing.
            all.clear().unwrap_or_default();
        }
    }
}

fn bar(name: &str, number: usize, total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    let bar = ProgressBar::new(total).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message(format!("{name}, layer {number}"));
    bar
}
