//! Which images go when the disk fills up: those that were used least recently, never one that is in use (EV5).

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use super::digest::Digest;
use super::store::{Image, Store, StoreError};

/// The kubelet's `imageGCHighThresholdPercent`, `imageGCLowThresholdPercent`, `imageMinimumGCAge`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Used share of the file system from which on images go.
    pub high_percent: u64,
    /// Used share that is aimed at.
    pub low_percent: u64,
    /// So long an image stays after its last use.
    pub minimum_age: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self { high_percent: 85, low_percent: 80, minimum_age: Duration::from_secs(120) }
    }
}

/// A file system, by what `statvfs` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSystem {
    pub capacity_bytes: u64,
    pub available_bytes: u64,
    pub inodes: u64,
    pub inodes_free: u64,
}

impl FileSystem {
    /// Of the file system that holds `path`.
    pub fn of(path: &std::path::Path) -> std::io::Result<Self> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(Self {
            capacity_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
            available_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
            inodes: stat.f_files,
            inodes_free: stat.f_ffree,
        })
    }

    /// Bytes to free: none below the high mark, else down to the low one.
    pub fn excess(&self, policy: &Policy) -> u64 {
        let capacity = u128::from(self.capacity_bytes);
        let used = capacity.saturating_sub(u128::from(self.available_bytes));
        if capacity == 0 || used * 100 < capacity * u128::from(policy.high_percent) {
            return 0;
        }
        let keep = capacity * u128::from(policy.low_percent.min(100)) / 100;
        u64::try_from(used.saturating_sub(keep)).unwrap_or(u64::MAX)
    }
}

/// An image as the decision sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub manifest: Digest,
    pub bytes: u64,
    pub last_used: SystemTime,
    pub in_use: bool,
    pub pinned: bool,
}

/// Whom to remove, in this order, until so many bytes are free.
pub fn order<'a>(candidates: &'a [Candidate], policy: &Policy, now: SystemTime) -> Vec<&'a Candidate> {
    let old = |candidate: &&Candidate| apart(candidate.last_used, now) >= policy.minimum_age;
    let removable = candidates.iter().filter(|candidate| !candidate.in_use && !candidate.pinned);
    let mut chosen: Vec<&Candidate> = removable.filter(old).collect();
    chosen.sort_by_key(|candidate| (candidate.last_used, &candidate.manifest));
    chosen
}

/// A use that lies ahead was before the clock went back: how far is all that is known of its age, and it is not kept until
/// the clock is there again.
pub(super) fn apart(then: SystemTime, now: SystemTime) -> Duration {
    now.duration_since(then).unwrap_or_else(|ahead| ahead.duration())
}

/// What a collection did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Names or ids of what was removed.
    pub removed: Vec<String>,
    pub wanted_bytes: u64,
    pub freed_bytes: u64,
}

impl Report {
    /// The kubelet's `FreeDiskSpaceFailed`, when it did not suffice.
    pub fn failure(&self) -> Option<String> {
        (self.freed_bytes < self.wanted_bytes).then(|| {
            let (wanted, freed) = (self.wanted_bytes, self.freed_bytes);
            format!("Failed to garbage collect required amount of images. Attempted to free {wanted} bytes, but only found {freed} bytes eligible to free.")
        })
    }
}

impl Store {
    /// Removes images until the file system has room again.
    pub fn garbage_collect(&self, policy: &Policy) -> Result<Report, StoreError> {
        let free = || FileSystem::of(self.root()).map_err(|cause| self.io_error("statvfs", cause));
        let before = free()?;
        let wanted_bytes = before.excess(policy);
        let mut report = Report { removed: Vec::new(), wanted_bytes, freed_bytes: 0 };
        if wanted_bytes == 0 {
            return Ok(report);
        }
        let images: Vec<Image> = self.images()?.into_iter().flatten().collect();
        let in_use = self.in_use()?;
        let candidates: Vec<Candidate> = images.iter().map(|image| self.candidate(image, &in_use)).collect();
        for candidate in order(&candidates, policy, SystemTime::now()) {
            if report.freed_bytes >= wanted_bytes {
                break;
            }
            if self.remove_unless_used(candidate)? {
                let image = images.iter().find(|image| image.manifest == candidate.manifest);
                report.removed.extend(image.map(Image::shown));
                report.freed_bytes = free()?.available_bytes.saturating_sub(before.available_bytes);
            }
        }
        Ok(report)
    }

    /// Removes every image that nobody uses and that is old enough: before a pod is evicted (EV5). Their names or ids.
    pub fn remove_unused(&self, policy: &Policy) -> Result<Vec<String>, StoreError> {
        let images: Vec<Image> = self.images()?.into_iter().flatten().collect();
        let in_use = self.in_use()?;
        let mut removed = Vec::new();
        for image in &images {
            let candidate = self.candidate(image, &in_use);
            let goes = !order(std::slice::from_ref(&candidate), policy, SystemTime::now()).is_empty();
            if goes && self.remove_unless_used(&candidate)? {
                removed.push(image.shown());
            }
        }
        Ok(removed)
    }

    /// False when a container was made of it meanwhile.
    fn remove_unless_used(&self, candidate: &Candidate) -> Result<bool, StoreError> {
        match self.remove_image(&candidate.manifest) {
            Ok(_) => Ok(true),
            Err(StoreError::InUse { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn candidate(&self, image: &Image, in_use: &BTreeSet<Digest>) -> Candidate {
        Candidate {
            manifest: image.manifest.clone(),
            bytes: image.size,
            last_used: self.last_used(&image.manifest),
            in_use: in_use.contains(&image.manifest),
            pinned: image.pinned,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file_system(used_percent: u64) -> FileSystem {
        FileSystem { capacity_bytes: 1000, available_bytes: 1000 - used_percent * 10, inodes: 100, inodes_free: 50 }
    }

    #[test]
    fn between_the_marks_nothing_goes() {
        for (used, excess) in [(0, 0), (80, 0), (84, 0), (85, 50), (100, 200)] {
            assert_eq!(file_system(used).excess(&Policy::default()), excess, "{used} %");
        }
        let none = FileSystem { capacity_bytes: 0, available_bytes: 0, inodes: 0, inodes_free: 0 };
        assert_eq!(none.excess(&Policy::default()), 0);
    }

    #[test]
    fn the_least_recently_used_goes_first_and_never_what_is_in_use_pinned_or_young() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(10_000);
        let image = |name: &[u8], age: u64| Candidate {
            manifest: Digest::of(name),
            bytes: 1,
            last_used: now - Duration::from_secs(age),
            in_use: false,
            pinned: false,
        };
        let all = [
            image(b"young", 119),
            image(b"b", 500),
            image(b"a", 5000),
            Candidate { in_use: true, ..image(b"used", 9000) },
            Candidate { pinned: true, ..image(b"pinned", 9000) },
            image(b"c", 120),
            Candidate { last_used: now + Duration::from_secs(86_400), ..image(b"clock went back", 0) },
            Candidate { last_used: now + Duration::from_secs(5), ..image(b"clock was set", 0) },
        ];
        let order = order(&all, &Policy::default(), now);
        let names: Vec<&Digest> = order.iter().map(|candidate| &candidate.manifest).collect();
        assert_eq!(names, ["a", "b", "c", "clock went back"].map(|name| Digest::of(name.as_bytes())).each_ref());
    }
}
