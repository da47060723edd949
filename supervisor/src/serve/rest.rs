//! Memory goes back when the node comes to rest: once after something happened, never while nothing does.

use std::time::Duration;

use tokio::time::Instant;

use crate::sys::memory;

/// From the first thing that happened: what belongs together has mostly happened by then.
const AFTER: Duration = Duration::from_secs(5);
/// A node on which something happens all the time does it no more often than this.
const AT_MOST_EVERY: Duration = Duration::from_secs(60);

/// When memory is given back next.
#[derive(Debug, Default)]
pub struct Rest {
    at: Option<Instant>,
    last: Option<Instant>,
}

impl Rest {
    /// Something happened.
    pub fn stir(&mut self, now: Instant) {
        let earliest = self.last.map_or(now, |last| last + AT_MOST_EVERY);
        self.at.get_or_insert((now + AFTER).max(earliest));
    }

    /// When [`Self::give_back`] is due.
    pub fn due(&self) -> Option<Instant> {
        self.at
    }

    /// Gives back what is not needed.
    pub fn give_back(&mut self, now: Instant) {
        memory::give_back();
        self.at = None;
        self.last = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rest_comes_once_and_not_too_often() {
        let (mut rest, now) = (Rest::default(), Instant::now());
        assert_eq!(rest.due(), None);
        rest.stir(now);
        rest.stir(now + Duration::from_secs(1));
        assert_eq!(rest.due(), Some(now + AFTER));
        rest.give_back(now + AFTER);
        assert_eq!(rest.due(), None);
        rest.stir(now + AFTER * 2);
        assert_eq!(rest.due(), Some(now + AFTER + AT_MOST_EVERY));
    }
}
