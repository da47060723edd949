//! Times of directories, which are set last: every entry below a directory changes them.

/// Seconds and nanoseconds since the epoch.
pub(super) type Time = (i64, u32);

/// Paths and times in order. An archive may have a million directories, so that they lie close together (P16).
#[derive(Debug, Default)]
pub(super) struct DirectoryTimes {
    paths: Vec<u8>,
    /// Where each path ends, and what its directory gets.
    ends: Vec<(usize, Time)>,
}

impl DirectoryTimes {
    pub(super) fn push(&mut self, path: &[u8], time: Time) {
        self.paths.extend_from_slice(path);
        self.ends.push((self.paths.len(), time));
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], Time)> {
        let mut start = 0;
        self.ends.iter().map(move |&(end, time)| {
            let path = self.paths.get(start..end).unwrap_or_default();
            start = end;
            (path, time)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_come_back_in_order_with_their_times() {
        let mut times = DirectoryTimes::default();
        let all: [(&[u8], Time); 3] = [(b".", (1, 0)), (b"", (2, 5)), (b"a/b", (-3, 7))];
        for (path, time) in all {
            times.push(path, time);
        }
        assert_eq!(times.iter().collect::<Vec<_>>(), all);
    }
}
