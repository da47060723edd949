//! `--timings`

use std::time::{Duration, Instant};

/// What happened when, from the start of the program.
pub(super) struct Timeline {
    started: Instant,
    shown: bool,
    marks: Vec<(String, Duration)>,
}

impl Timeline {
    pub(super) fn new(started: Instant, shown: bool) -> Self {
        Self { started, shown, marks: Vec::new() }
    }

    pub(super) fn mark(&mut self, what: &str) {
        self.marks.push((what.to_owned(), self.started.elapsed()));
    }

    pub(super) fn mark_once(&mut self, what: &str) {
        if self.shown && !self.marks.iter().any(|(known, _)| known == what) {
            self.mark(what);
        }
    }

    pub(super) fn print(&self) {
        if !self.shown {
            return;
        }
        let mut before = Duration::ZERO;
        for (what, at) in &self.marks {
            let millis = |span: Duration| span.as_secs_f64() * 1000.0;
            eprintln!("{:9.2} ms  +{:8.2} ms  {what}", millis(*at), millis(at.saturating_sub(before)));
            before = *at;
        }
    }
}
