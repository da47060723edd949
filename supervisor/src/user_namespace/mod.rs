//! User namespaces for pods (`hostUsers: false`, KEP-127, D22): which ids of the host stand for those of a pod, and whether
//! this machine can have them.
//!
//! A pod gets [`IDS`] ids, for users and groups alike. What lies on disks and may be given other owners on the way is mounted
//! with an id map (mount_setattr(2)) and holds the pod's own ids; what we make in memory for a pod alone holds those of the
//! host.

pub mod claims;
pub mod support;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// Ids of a pod: those of a 16-bit machine, which is what images are made for (KEP-127).
pub const IDS: u32 = 65_536;
/// The first id of the host that any pod gets. Below lie the host's own users, those that adduser(8) and subuid(5) give away,
/// the containers of systemd-nspawn (up to 0x6FFF_FFFF), and what sssd(8) makes of a directory's users (up to 2,000,200,000).
pub const FIRST_ID: u32 = 0x7800_0000;
/// Ranges for pods. Behind them lie systemd's foreign ids (from 0x7FFE_0000) and numbers that some programs take for negative.
pub const RANGES: u32 = (0x7FFE_0000 - FIRST_ID) / IDS;

/// The ids of the host that stand for 0 to 65,535 in one pod. There are no others than these: whatever was written down
/// somewhere, no id of the host's own is ever given to a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct IdRange {
    number: u16,
}

/// Not the first id of a range.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not the first id of a range for pods")]
pub struct NotARange(u32);

/// Not an id of a pod that has its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("id {0} does not exist in a pod with hostUsers: false, whose ids end at {last}", last = IDS - 1)]
pub struct NotInPod(pub u32);

impl IdRange {
    /// The lowest range that nobody has.
    pub fn free(taken: &BTreeSet<Self>) -> Option<Self> {
        Self::all().find(|range| !taken.contains(range))
    }

    fn all() -> impl Iterator<Item = Self> {
        (0..RANGES).filter_map(|number| Some(Self { number: number.try_into().ok()? }))
    }

    /// The host's id for the pod's root.
    pub fn first(self) -> u32 {
        FIRST_ID + u32::from(self.number) * IDS
    }

    /// The host's id for one of the pod's.
    ///
    /// # Errors
    /// The pod has no such id: the number behind the range's end is another pod's.
    pub fn host(self, id: u32) -> Result<u32, NotInPod> {
        if id < IDS { Ok(self.first() + id) } else { Err(NotInPod(id)) }
    }

    /// As uid_map and gid_map of user_namespaces(7) take it.
    pub fn map(self) -> String {
        format!("0 {} {IDS}\n", self.first())
    }
}

impl TryFrom<u32> for IdRange {
    type Error = NotARange;

    fn try_from(first: u32) -> Result<Self, NotARange> {
        Self::all().find(|range| range.first() == first).ok_or(NotARange(first))
    }
}

impl From<IdRange> for u32 {
    fn from(range: IdRange) -> Self {
        range.first()
    }
}

/// The host's id for an id of a pod, which may have the host's users.
///
/// # Errors
/// The pod has ids of its own, and this is none of them.
pub fn host_id(ids: Option<IdRange>, id: u32) -> Result<u32, NotInPod> {
    ids.map_or(Ok(id), |ids| ids.host(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// D22: above everything that the host may use, below what some programs take for negative, and none overlaps another.
    #[test]
    fn ranges_lie_where_nobody_else_is() {
        let all: Vec<IdRange> = IdRange::all().collect();
        assert_eq!((all.len(), RANGES), (2046, 2046));
        assert!(all.windows(2).all(|pair| pair[0].first() + IDS == pair[1].first()));
        let (first, last) = (all[0].first(), all[all.len() - 1].first() + IDS - 1);
        // systemd's UIDS-GIDS.md, sssd-ldap(5): ldap_idmap_range_max.
        for theirs in [0, 65_535, 100_000, 0x6FFF_FFFF, 2_000_200_000] {
            assert!(first > theirs, "{theirs}");
        }
        assert!(last < 0x7FFE_0000 && i32::try_from(last).is_ok());
    }

    #[test]
    fn the_lowest_free_range_is_given_until_there_is_none() {
        let mut taken = BTreeSet::new();
        for number in 0..RANGES {
            let range = IdRange::free(&taken).unwrap();
            assert_eq!(range.first(), FIRST_ID + number * IDS);
            assert!(taken.insert(range));
        }
        assert_eq!(IdRange::free(&taken), None);
        let middle = IdRange::try_from(FIRST_ID + 7 * IDS).unwrap();
        taken.remove(&middle);
        assert_eq!(IdRange::free(&taken), Some(middle));
    }

    #[test]
    fn an_id_beyond_the_range_is_nobodys() {
        let range = IdRange::free(&BTreeSet::new()).unwrap();
        assert_eq!([range.host(0), range.host(65_535)], [Ok(FIRST_ID), Ok(FIRST_ID + 65_535)]);
        assert_eq!(range.host(65_536), Err(NotInPod(65_536)));
        assert_eq!([host_id(None, 70_000), host_id(Some(range), 7)], [Ok(70_000), Ok(FIRST_ID + 7)]);
        assert_eq!(range.map(), "0 2013265920 65536\n");
    }

    /// What a damaged file says is no range.
    #[test]
    fn nothing_else_is_read_as_a_range() {
        for text in ["0", "65536", "2013265921", "2147352576", "4294967295", "-1", "\"2013265920\"", "null"] {
            assert!(serde_json::from_str::<IdRange>(text).is_err(), "{text}");
        }
        let range: IdRange = serde_json::from_str("2013331456").unwrap();
        assert_eq!(serde_json::to_string(&range).unwrap(), "2013331456");
    }
}
